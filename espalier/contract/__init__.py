"""What an artifact, a stage and a run are."""
