"""Sheared-LLaMA: masks learned to a target shape, with data loaded by domain."""
