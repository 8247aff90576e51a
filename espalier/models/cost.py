"""The line that a stage adds to a model's ledger."""

from collections.abc import Sequence

from espalier.contract.ledger import Entry
from espalier.contract.lineage import Reading
from espalier.contract.stage import Outcome
from espalier.models.flops import forward_flops, head_flops, layer_flops, pretraining_flops
from espalier.models.shapes import Shapes


def entries(
    stage: str, name: str, shapes: Shapes | None, outcome: Outcome, scores: Sequence[Reading] = ()
) -> list[Entry]:
    """The line of a stage that made a model; none where it made no other one.

    Args:
        stage: its name.
        name: of what it made.
        shapes: of its model, before it was pruned; None: of a form whose layers are not known.
        outcome: what it says of itself.
        scores: what the scores that a pruning went by were measured on.
    """
    if outcome.training is not None:
        counted = {key: outcome.training[key] for key in ("tokens", "flops")}
        return [Entry(kind="training", stage=stage, name=name, **counted)]
    if stage in ("fetch", "fetch-package", "adopt"):
        known = outcome.notes.get("pretraining_tokens")
        tokens = int(known) if known else None
        flops = pretraining_flops(shapes) * tokens if tokens and shapes else None
        return [Entry(kind="pretraining", stage=stage, name=name, tokens=tokens, flops=flops)]
    if outcome.pruning is not None:
        read = [Reading.of(outcome.data, outcome.notes), *scores]
        tokens = sum(reading.tokens for reading in read)
        flops = sum(_cost(shapes, reading) for reading in read) if shapes else None
        return [Entry(kind="pruning", stage=stage, name=name, tokens=tokens, flops=flops)]
    return []


def _cost(shapes: Shapes, reading: Reading) -> float:
    """One pass of the model for each text; a search's are those that it made."""
    if not reading.layer_runs:
        return forward_flops(shapes, reading.seqlen) * reading.tokens
    layers = layer_flops(shapes, reading.seqlen) * reading.layer_runs * reading.tokens
    return layers + head_flops(shapes) * reading.head_runs * reading.scored
