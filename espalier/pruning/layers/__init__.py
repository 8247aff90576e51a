"""The walk through a model a layer at a time, what is observed on it, and how it is resumed."""
