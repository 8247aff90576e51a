"""Sapling: a small Llama grown from the text that ships inside CPython, without any network."""
