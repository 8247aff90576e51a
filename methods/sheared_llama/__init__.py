"""Sheared-LLaMA: masks learned to a target shape while the data's domains are rebalanced."""
