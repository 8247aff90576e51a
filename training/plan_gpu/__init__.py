"""What a training run on GPUs needs, told without a GPU, before any is rented."""
