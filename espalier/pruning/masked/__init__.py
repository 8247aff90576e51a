"""Pruning that zeroes weights in place, a layer at a time."""
