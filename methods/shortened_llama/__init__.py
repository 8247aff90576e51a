"""Shortened-LLaMA: each block has a score of its own, and the least go at once."""
