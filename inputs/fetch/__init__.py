"""Fetching models and texts from the Hugging Face hub: the only stages with a network."""
