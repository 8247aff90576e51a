"""`make bench`: pruning, or what the first word names: depth, gradients, training, ..."""

import importlib
import sys

NAMED = (
    *("depth", "evaluation", "gradients", "greedy", "jax-rows", "masks", "maxtext", "plan-tpu"),
    *("requests", "shearing", "slicing", "training", "units"),
)

words = sys.argv[1:]
named = words[:1] and words[0] in NAMED
module = words.pop(0).replace("-", "_") if named else "pruning"
importlib.import_module(f"benchmarks.{module}").main(words)
