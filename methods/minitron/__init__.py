"""Minitron: depth by the score without a block of layers, width by the size of activations."""
