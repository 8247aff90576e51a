"""Exact conversions between Hugging Face directories and MaxText's checkpoints."""
