"""Scores of layers, channels, neurons and heads, published before anything is removed."""
