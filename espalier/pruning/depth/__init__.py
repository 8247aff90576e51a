"""Removing whole layers: cuts, their search and what they are judged by."""
