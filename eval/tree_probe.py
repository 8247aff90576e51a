"""Whether a model computes rows of a prefix tree as it computes each request alone: it is tried."""

from dataclasses import replace
from typing import Any

import torch

from eval.requests.plan import make_plan
from eval.requests.request import Request, continued
from eval.row_scorer import RowScorer

PREFIX, BRANCH = 6, 3
ROOM = 16
TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-3}
"""Of the largest logit; other types round what they compute."""
TOLERANCE_16 = 0.05
HEAD_TOLERANCE = 1e-5


def refusal(model: Any) -> str | None:
    """Why rows of a tree cannot be put to a model; None: they can.

    A model may take no mask of its own, or its positions from elsewhere (ALiBi), carry a state
    from token to token (Mamba), or change the logits after its output layer.
    """
    try:
        difference = _difference(model)
    except Exception as error:  # noqa: BLE001 - each family fails in its own way
        reason = " ".join(str(error).split())[:120]
        return f"{type(model).__name__} does not take rows of a tree ({reason})"
    # A model that gives NaN is found out by its answers, whichever way they are computed.
    if not difference > TOLERANCES.get(model.dtype, TOLERANCE_16):
        return None
    return (
        f"{type(model).__name__} gives other logits under a tree's mask (by {difference:.1g} of "
        "the largest)"
    )


def attended_positions(config: Any) -> int | None:
    """How many positions back the layers of least reach see; None: all that there are."""
    kinds = getattr(config, "layer_types", None)
    if kinds and all(kind == "full_attention" for kind in kinds):
        return None
    reaches = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return min((int(reach) for reach in reaches if reach), default=None)


def _difference(model: Any) -> float:
    """The largest between the logits of two branches in one row and of each alone, of them all."""
    count = min(int(model.config.get_text_config().vocab_size), 1 << 16)
    ids = [(place * 7919 + 1) % count for place in range(PREFIX + 2 * BRANCH)]
    requests = [continued(ids[:PREFIX], ids[PREFIX + at :: 2], ROOM) for at in range(2)]
    (row,) = make_plan(requests, [ROOM], _any_cost).rows()
    scorer = RowScorer(model, 1)
    found = []
    for request in (requests[index] for index in dict.fromkeys(row.requests.tolist())):
        found.append(_alone(model, scorer, request)[-len(request.targets) :])
    theirs, ours = torch.cat(found), scorer.logits([row])
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-9))


def _alone(model: Any, scorer: RowScorer, request: Request) -> torch.Tensor:
    """The model's logits float32 [T, V] of a request by itself.

    Raises:
        ValueError: they are not what the output layer gives, which the rows go through.
    """
    (row,) = make_plan([replace(request, targets=request.inputs)], [ROOM], _any_cost).rows()
    ours = scorer.logits([row])
    inputs = torch.from_numpy(request.inputs).long()[None].to(model.device)
    with torch.inference_mode():
        theirs: torch.Tensor = model(inputs, use_cache=False).logits[0].float()
    # The same products of the same numbers: in any type they are equal, or something comes after.
    if float((ours - theirs).abs().max()) > HEAD_TOLERANCE * float(theirs.abs().max()):
        raise ValueError("its logits are not what its output layer gives")
    return theirs


def _any_cost(length: int, chain: bool) -> float:
    return float(length)
