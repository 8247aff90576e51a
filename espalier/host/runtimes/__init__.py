"""How a stage is started. Stages don't know which of these it was."""
