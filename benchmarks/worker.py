"""One measured run in a process of its own: `python -m benchmarks.worker ours|plain SPEC`."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file


def main() -> None:
    """Run what the JSON on the command line describes."""
    kind, spec = sys.argv[1], json.loads(sys.argv[2])
    model, output, tokens = (Path(spec[key]) for key in ("model", "output", "tokens"))
    if kind == "plain":
        from benchmarks.plain import prune
        from espalier.architectures.products import choose_products, products

        # The same kernels as ours, so that what is compared is the algorithm.
        with products(choose_products(torch.bfloat16, "cpu")):
            prune(model, output, spec["method"], load_file(tokens)["input_ids"], spec["sparsity"])
        return
    import importlib

    from espalier.discovery import stage_named
    from espalier.progress import Progress
    from espalier.stage import StageContext

    stage = stage_named(spec["method"])
    values = {"SPARSITY": str(spec["sparsity"])}
    if "calibration" in stage.inputs:
        values |= {"SAMPLES": str(spec["samples"]), "SEQLEN": str(spec["length"])}
    module, _, function = stage.entry.partition(":")
    inputs = {"model": model, "calibration": tokens}
    context = StageContext(inputs, output, output / ".run", "cpu", Progress())
    run = getattr(importlib.import_module(module), function)
    run(context, stage.parameters.from_assignments(values))


if __name__ == "__main__":
    main()
