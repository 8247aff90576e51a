"""What a training run on TPUs needs, told by compiling its step for them, before any is rented."""
