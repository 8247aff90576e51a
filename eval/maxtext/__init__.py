"""`BACKEND=jax`: rows of a plan through MaxText's model, in its image and without torch."""
