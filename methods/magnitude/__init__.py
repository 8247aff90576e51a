"""Magnitude pruning: the smallest weights of each matrix."""
