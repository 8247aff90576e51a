"""Whatever puts a model, a text or tokens on the store."""
