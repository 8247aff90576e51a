"""Pruning a checkpoint a decoder layer at a time."""
