"""One measured run in a process of its own: `python -m benchmarks.worker ours|plain SPEC`."""

import importlib
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from espalier.contract.json_text import to_json
from espalier.contract.progress import Progress
from espalier.contract.pruned import Padded, Uniform
from espalier.contract.stage import Outcome, Stage, StageContext
from espalier.models.products import choose_products, products


def main() -> None:
    """Run what the JSON on the command line describes."""
    kind, spec = sys.argv[1], json.loads(sys.argv[2])
    pairs = {
        "depth": (_depth, _plain_depth),
        "gradients": (_gradients, _plain_gradients),
        "greedy": (_greedy, _plain_greedy),
        "masks": (_masks, _unmasked),
        "slicing": (_slicing, _plain_slicing),
        "flap": (_units, _plain_units),
        "wanda-sp": (_units, _plain_units),
    }
    ours, plain = pairs.get(spec["method"], (_prune, _plain_prune))
    if kind == "ours":
        ours(spec)
        return
    # The same kernels as ours, so that what is compared is the algorithm.
    with products(choose_products(torch.bfloat16, "cpu")):
        plain(spec)


def _prune(spec: dict[str, Any]) -> None:
    from espalier.contract.discovery import stage_named

    stage, output = stage_named(spec["method"]), Path(spec["output"])
    values = {"SPARSITY": str(spec["sparsity"])}
    if "calibration" in stage.inputs:
        values |= {"SAMPLES": str(spec["samples"]), "SEQLEN": str(spec["length"])}
    inputs = {"model": Path(spec["model"]), "calibration": Path(spec["tokens"])}
    _run(stage, StageContext(inputs, output, output / ".run", "cpu", Progress()), values)


def _run(stage: Stage, context: StageContext, words: dict[str, str]) -> Outcome:
    """A stage as its image's command runs it."""
    module, _, function = stage.entry.partition(":")
    outcome: Outcome = getattr(importlib.import_module(module), function)(
        context, stage.parameters.from_assignments(words)
    )
    return outcome


@contextmanager
def _scratch(spec: dict[str, Any]) -> Iterator[StageContext]:
    """A stage's context whose files are nobody's afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        output, inputs = Path(folder), {"model": Path(spec["model"])}
        scratch = output / "scratch"
        scratch.mkdir()
        yield StageContext(inputs, output, scratch, "cpu", Progress())


def _plain_prune(spec: dict[str, Any]) -> None:
    from benchmarks.plain import prune

    ids = load_file(spec["tokens"])["input_ids"]
    prune(Path(spec["model"]), Path(spec["output"]), spec["method"], ids, spec["sparsity"])


def _depth(spec: dict[str, Any]) -> None:
    """Perplexities by first removed layer, the unpruned one first, to stdout."""
    from espalier.models.decoder import Decoder
    from espalier.pruning.depth.cuts import cuts_of
    from espalier.pruning.depth.measure import measure
    from espalier.pruning.depth.samples import Sample

    model, ids = Path(spec["model"]), load_file(spec["tokens"])["input_ids"]
    decoder = Decoder(model, "cpu")
    cuts = cuts_of(decoder.num_layers, [decoder.num_layers - spec["left"]])
    scored = ids.shape[1] - 1
    with _scratch(spec) as context:
        whole, without = measure(context, decoder, [Sample(row, scored) for row in ids], cuts)
    answers = [whole, *(without[cut] for cut in cuts)]
    sys.stdout.write(to_json([answer.perplexity(scored) for answer in answers]))


def _plain_depth(spec: dict[str, Any]) -> None:
    from benchmarks.plain_depth import perplexities

    ids = load_file(spec["tokens"])["input_ids"]
    sys.stdout.write(to_json(perplexities(Path(spec["model"]), ids, spec["left"])))


def _gradients(spec: dict[str, Any]) -> None:
    """The importance of all neurons of each layer, to stdout."""
    from espalier.models.axes import LAYER_AXES
    from espalier.models.decoder import Decoder
    from espalier.pruning.layers.backward import backward
    from methods.llm_pruner.coupled import Member
    from methods.llm_pruner.importance import Salience, key

    members = [
        Member(name, dimension, axis)
        for name, axes in LAYER_AXES.items()
        for dimension, axis in enumerate(axes)
        if name.endswith("proj.weight")
    ]
    ids = load_file(spec["tokens"])["input_ids"]
    with _scratch(spec) as context:
        decoder = Decoder(Path(spec["model"]), "cpu", dtype=torch.float32)
        found = backward(context, decoder, ids, Salience(members, len(ids)))
    name = key("intermediate", "param_first")
    sys.stdout.write(to_json([float(layer[name].sum()) for layer in found.layers]))


def _plain_gradients(spec: dict[str, Any]) -> None:
    from benchmarks.plain_gradients import importances

    ids = load_file(spec["tokens"])["input_ids"]
    sys.stdout.write(to_json(importances(Path(spec["model"]), ids)))


def _greedy(spec: dict[str, Any]) -> None:
    """The order in which layers go, the loss of each round, and layers run, to stdout."""
    from functools import partial

    from espalier.models.decoder import Decoder
    from espalier.pruning.depth.greedy import remove_one_by_one
    from espalier.pruning.depth.samples import Sample
    from methods.sleb.algorithm import mean_loss

    ids = load_file(spec["tokens"])["input_ids"]
    tokens = ids.shape[1]
    with _scratch(spec) as context:
        decoder = Decoder(Path(spec["model"]), "cpu")
        removal = remove_one_by_one(
            context,
            decoder,
            [Sample(row, tokens - 1) for row in ids],
            candidates=range(1, decoder.num_layers - 1),
            count=spec["gone"],
            loss=partial(mean_loss, tokens=tokens),
        )
    losses = [past.losses[past.removed] for past in removal.rounds]
    found = {"order": removal.order, "losses": losses, "runs": removal.layer_runs}
    sys.stdout.write(to_json(found))


def _plain_greedy(spec: dict[str, Any]) -> None:
    from benchmarks.plain_depth import removed_one_by_one

    ids = load_file(spec["tokens"])["input_ids"]
    sys.stdout.write(to_json(removed_one_by_one(Path(spec["model"]), ids, spec["gone"])))


def _masks(spec: dict[str, Any]) -> None:
    """Seconds of each step, to stdout."""
    import methods.sheared_llama.torchvision_operators  # noqa: F401 - before composer is imported
    from benchmarks.masked_steps import masked_steps

    found = masked_steps(Path(spec["model"]), Path(spec["tokens"]), spec["steps"])
    sys.stdout.write(to_json(found))


def _unmasked(spec: dict[str, Any]) -> None:
    import methods.sheared_llama.torchvision_operators  # noqa: F401 - before composer is imported
    from benchmarks.masked_steps import plain_steps

    found = plain_steps(Path(spec["model"]), Path(spec["tokens"]), spec["steps"])
    sys.stdout.write(to_json(found))


def _units(spec: dict[str, Any]) -> None:
    """The stages as they are run, pictures too; kept heads and neurons of each layer to stdout."""
    from espalier.contract.discovery import stage_named

    output = Path(spec["output"])
    inputs = {"model": Path(spec["model"]), "calibration": Path(spec["tokens"])}
    names = ["score-flap", "flap"] if spec["method"] == "flap" else [spec["method"]]
    for name in names:
        stage, place = stage_named(name), output / name
        place.mkdir()
        words = {} if name == "score-flap" else {"SPARSITY": str(spec["sparsity"])}
        context = StageContext(inputs, place, output / f"{name}-scratch", "cpu", Progress())
        done = _run(stage, context, words)
        inputs = {"model": inputs["model"], "scores": place}
    assert isinstance(done.pruning, Padded | Uniform)
    kept = done.pruning.kept
    assert kept and kept.kv_heads and kept.intermediate
    sys.stdout.write(to_json(list(zip(kept.kv_heads, kept.intermediate, strict=True))))


def _plain_units(spec: dict[str, Any]) -> None:
    from benchmarks.plain_units import prune

    ids = load_file(spec["tokens"])["input_ids"]
    model, output = Path(spec["model"]), Path(spec["output"])
    sys.stdout.write(to_json(prune(model, output, spec["method"], ids, spec["sparsity"])))


def _slicing(spec: dict[str, Any]) -> None:
    """Each site's eigenvalues in order, to stdout."""
    from espalier.models.decoder import Decoder
    from methods.slicegpt.blockwise import slice_blockwise
    from methods.slicegpt.cut import Cut
    from methods.slicegpt.spec import SliceGPTParameters

    model, ids = Path(spec["model"]), load_file(spec["tokens"])["input_ids"]
    with _scratch(spec) as context:
        decoder = Decoder(model, "cpu")
        cut = Cut.of(SliceGPTParameters(sparsity=spec["sparsity"]), decoder, ids)
        records = slice_blockwise(context, decoder, cut, ids, None)
    sites = [site for record in records for site in record["sites"].values()]
    sys.stdout.write(to_json([site["eigenvalues"] for site in sites]))


def _plain_slicing(spec: dict[str, Any]) -> None:
    from benchmarks.plain_slicing import spectra
    from espalier.models.shapes import Shapes, read_config
    from methods.slicegpt.algorithm import kept_channels

    model, ids = Path(spec["model"]), load_file(spec["tokens"])["input_ids"]
    kept = kept_channels(Shapes.of(read_config(model)).hidden, spec["sparsity"], 8)
    with tempfile.TemporaryDirectory() as folder:
        found = spectra(model, Path(folder) / "sliced.safetensors", ids, kept)
    sys.stdout.write(to_json(found))


if __name__ == "__main__":
    main()
