"""Recovery of what pruning has cost: low-rank adapters, merged, every zero kept."""
