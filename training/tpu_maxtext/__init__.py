"""Training on TPUs by MaxText, and the conversions from and to its checkpoints."""
