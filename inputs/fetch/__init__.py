"""Fetching models and texts from the Hugging Face hub."""
