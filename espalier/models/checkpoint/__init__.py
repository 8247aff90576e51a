"""Hugging Face checkpoints on disk: safetensors read and written a tensor at a time."""
