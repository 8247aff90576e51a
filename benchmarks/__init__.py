"""What the stages cost, measured beside plain implementations of the same."""
