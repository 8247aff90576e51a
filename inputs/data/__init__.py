"""Token data: texts tokenised, split and packed for training."""
