"""Data sheets of TPUs and GPUs."""
