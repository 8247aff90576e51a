"""Structured pruning: whole layers, channels, neurons and heads go, and the config says so."""
