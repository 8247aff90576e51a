"""LLM-Pruner: coupled heads, neurons and channels go, by the gradient of the loss."""
