"""From the padded form to the true widths, and what that saves."""

import math
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from espalier.contract.files import write_bytes, write_text
from espalier.contract.json_text import to_json
from espalier.contract.manifest import pruning_of
from espalier.contract.pruned import Foreign, Padded
from espalier.contract.stage import Outcome, StageContext
from espalier.errors import InputError
from espalier.models.adapter import EMBEDDING, HEAD, Architecture
from espalier.models.checkpoint.companions import CONFIG, copy_companions
from espalier.models.checkpoint.reader import CheckpointReader
from espalier.models.checkpoint.writer import Selected
from espalier.models.compact import STOCK_CONFIG, load_compact
from espalier.models.content import config_as_stored
from espalier.models.loading import load_stock
from espalier.models.narrow import COMPACT, Narrowed, narrow_config, narrowed
from espalier.pruning.structured.restructure import Selection, units_of, write_units
from training.compaction.spec import CompactParameters

MAX_DIFFERENCE = 1e-5
"""Of a logit in float32, relative to the largest: sums are of fewer terms, and round otherwise."""
TIMES = 5
"""Forward passes of which the median is recorded."""


def run(context: StageContext, parameters: CompactParameters) -> Outcome:
    """Write the layers' true widths; compare logits, and time both forms.

    Raises:
        InputError: the model is not padded, the form cannot hold it, or its logits differ.
    """
    source, output = context.inputs["model"], context.output
    account = pruning_of(source)
    if not isinstance(account, Padded):
        raise InputError(
            f"{source.name} is not padded: every layer has the width that config.json states, and "
            "zeros of a mask take their place in any form; compact what a method left padded."
        )
    layers = narrowed(account, parameters.form)
    write(source, output, layers, context)
    write_bytes(output / STOCK_CONFIG, (source / CONFIG).read_bytes())
    config = narrow_config(config_as_stored(source), layers, parameters.form)
    write_text(output / CONFIG, to_json(config, indent=2) + "\n")
    difference, milliseconds = compared(source, output, parameters.seqlen, context.device)
    sizes = {"padded": size_of(source), "compact": size_of(output)}
    for form, size in sizes.items():
        context.progress.say(
            f"{form}: {size['parameters']:,} parameters, {size['macs']:,} MACs a token, "
            f"{milliseconds[form]:.1f} ms for {parameters.seqlen} tokens on {context.device}"
        )
    return Outcome(
        pruning=Foreign(
            form=COMPACT,
            description=f"layers of different widths ({parameters.form})",
            image="eval",
            achieved=account.achieved,
            facts={"padded": account.model_dump(mode="json")},
        ),
        checks={"logits_max_difference": difference},
        notes={"sizes": sizes, "milliseconds": milliseconds, "timed_tokens": parameters.seqlen},
    )


def write(source: Path, output: Path, layers: tuple[Narrowed, ...], context: StageContext) -> None:
    """Write the weights that are left; a tensor of which nothing is left is not written."""
    reader, architecture = CheckpointReader(source), Architecture.of(source)
    kept = Selection(
        layers=range(len(layers)),
        intermediate={number: layer.neurons for number, layer in enumerate(layers)},
        heads={number: layer.heads for number, layer in enumerate(layers)},
        kv_heads={number: layer.kv_heads for number, layer in enumerate(layers)},
    )
    units = [_with_something(unit) for unit in units_of(architecture, reader, kept)]
    write_units(output, units, architecture.expected_shapes(), context.progress)
    copy_companions(source, output)


def compared(
    padded: Path, compact: Path, tokens: int, device: str
) -> tuple[float, dict[str, float]]:
    """How far logits differ, relative to the largest, and milliseconds of each form's forward pass.

    Raises:
        InputError: they differ by more than rounding.
    """
    stock = load_stock(padded, torch.float32).to(device)
    ids = _some_ids(tokens, stock.config.vocab_size).to(device)  # [1, T]
    with torch.inference_mode():
        expected, before = _timed(stock, ids)
        del stock
        found, after = _timed(load_compact(compact, torch.float32).to(device), ids)
    difference = float((found - expected).abs().max() / expected.abs().max())
    if not difference <= MAX_DIFFERENCE:
        raise InputError(
            f"the compact model's logits differ from {padded.name}'s by {difference:.3g} of the "
            f"largest, where {MAX_DIFFERENCE:g} is allowed; nothing is published."
        )
    return difference, {"padded": before, "compact": after}


def size_of(directory: Path) -> dict[str, int]:
    """Parameters stored, and multiplications with them for a token."""
    entries = CheckpointReader(directory).entries
    sizes = {name: math.prod(entry.shape) for name, entry in entries.items()}
    matrices = {name: size for name, size in sizes.items() if len(entries[name].shape) > 1}
    head = matrices.get(HEAD, matrices[EMBEDDING])
    layers = sum(size for name, size in matrices.items() if name not in (HEAD, EMBEDDING))
    return {"parameters": sum(sizes.values()), "macs": layers + head}


def _with_something(unit: dict[str, Selected]) -> dict[str, Selected]:
    return {name: part for name, part in unit.items() if math.prod(part.shape)}


def _some_ids(tokens: int, vocabulary: int) -> torch.Tensor:
    """Ids int64 [1, T], the same every time."""
    return torch.randint(vocabulary, (1, tokens), generator=torch.Generator().manual_seed(0))


def _timed(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Logits [1, T, V] on the host, and the median of some passes after the first."""
    logits = model(ids, use_cache=False).logits.cpu()
    took = []
    for _ in range(TIMES):
        began = time.perf_counter()
        model(ids, use_cache=False).logits.cpu()
        took.append(1000 * (time.perf_counter() - began))
    return logits, round(median(took), 3)
