"""Training on GPUs by torch FSDP2: from scratch, continued or distilled, to a token budget."""
