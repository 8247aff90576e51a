"""Wanda: pruning by weights and activations."""
