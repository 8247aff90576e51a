"""SparseGPT: pruning by layer-wise second-order reconstruction."""
