"""Hugging Face model directories: shapes, weights, tokenizers, gates."""
