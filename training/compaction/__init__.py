"""A padded model in its true widths, and back."""
