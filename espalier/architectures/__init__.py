"""The decoder families that can be streamed a layer at a time."""
