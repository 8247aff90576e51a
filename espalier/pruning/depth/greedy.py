"""Layers removed one by one, each time the one without which the model predicts best.

Cost, in runs of one layer over all tokens, of R rounds over L layers with C_r candidates each:

- the plain loop runs every candidate's model: sum over r of C_r (L - r - 1), for r from 0;
- within a round, candidates share what lies before them (depth_search): about half of that;
- across rounds, a walk begins at the deepest front that the layers removed since have left true
  (fronts): with all fronts held, the streams without a candidate before the layer that has just
  gone are run behind it alone, and those without a later one from there.

`Removal` counts what was run and what the plain loop would have. The losses are those of the plain
loop, to rounding: a state is computed once, and by the same products.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.contract.saved import note
from espalier.contract.stage import StageContext
from espalier.errors import InputError
from espalier.models.decoder import Decoder
from espalier.pruning.depth.cuts import KEPT_BYTES, Cut, walk_runs
from espalier.pruning.depth.fronts import Fronts
from espalier.pruning.depth.measure import Walks
from espalier.pruning.depth.samples import Answers, Sample

STATE = "rounds.json"
Loss = Callable[[Answers], float | None]


@dataclass(frozen=True)
class Round:
    """One removal.

    Attributes:
        removed: the layer that goes.
        losses: without each layer that might have; None: it is not finite.
    """

    removed: int
    losses: Mapping[int, float | None]


@dataclass
class Removal:
    """Layers gone one by one.

    Attributes:
        unpruned: the loss of the whole model.
        rounds: the removals, in order.
        layer_runs: how often a layer was run over all tokens, kills aside.
        plain_runs: how often the plain loop would have.
    """

    unpruned: float = 0.0
    rounds: list[Round] = field(default_factory=list)
    layer_runs: int = 0
    plain_runs: int = 0

    @property
    def order(self) -> list[int]:
        return [past.removed for past in self.rounds]


def remove_one_by_one(
    context: StageContext,
    decoder: Decoder,
    samples: Sequence[Sample],
    *,
    candidates: Sequence[int],
    count: int,
    loss: Loss,
    batch: int | None = None,
    kept_bytes: int = KEPT_BYTES,
) -> Removal:
    """Remove `count` of the candidates, one by one; a killed run resumes where it was.

    Args:
        context: its scratch folder keeps the rounds done, and the parts of the one in progress.
        decoder: the model.
        samples: what is predicted.
        candidates: layers that may go, ascending.
        count: how many go, at most as many as there are.
        loss: of a model's answers, the lower the better; None where it has none.
        batch: samples a pass; None chooses by length. Decides speed, not the result.
        kept_bytes: hidden states that may be kept between rounds. Decides speed, not the result.

    Raises:
        InputError: there is nothing to predict, or without any one layer no finite loss.
    """
    walks = Walks(context, decoder, samples, len(candidates), batch)
    fronts: Fronts[list[Tensor]] = Fronts(kept_bytes // walks.state_bytes)
    saved, removal = _load(context.scratch), Removal()
    for turn in range(count):
        gone = removal.order
        numbers = [n for n in range(decoder.num_layers) if n not in gone]
        left = [n for n in candidates if n not in gone]
        # What no layer is left out of is what the last round chose: it is known from there.
        wanted: list[Cut | None] = [*(() if gone else (None,)), *(Cut(n, 1) for n in left)]
        fronts.aim(numbers, _likely(left, removal.rounds))
        removal.layer_runs += walk_runs(numbers, wanted, fronts.start)
        removal.plain_runs += len(left) * (len(numbers) - 1)
        if turn < len(saved.rounds):
            removal.unpruned = saved.unpruned
            removal.rounds.append(saved.rounds[turn])
        else:
            answers = walks.without(wanted, gone, fronts, f"round {turn + 1} of {count}")
            if not gone:
                removal.unpruned = _finite(loss(answers[None]))
            losses = {n: loss(answers[Cut(n, 1)]) for n in left}
            removal.rounds.append(Round(_least(losses, gone), losses))
            _save(context.scratch, removal, count)
        fronts.removed(removal.order[-1])
    return removal


def _likely(candidates: Sequence[int], past: Sequence[Round]) -> dict[int, float]:
    """How likely each is to go next, up to a factor: by its rank in the last round, if any."""
    if not past:
        return dict.fromkeys(candidates, 1.0)
    ranked = sorted(candidates, key=lambda layer: _rank(past[-1].losses[layer], layer))
    return {layer: (1 + rank) ** -2 for rank, layer in enumerate(ranked)}


def _least(losses: Mapping[int, float | None], gone: Sequence[int]) -> int:
    """The layer without which the loss is the least; of equals the first."""
    layer = min(losses, key=lambda layer: _rank(losses[layer], layer))
    if losses[layer] is None:
        less = f"without layers {_listed(gone)} " if gone else ""
        raise InputError(
            f"the model {less}has no finite loss without any other of {_listed(losses)}; "
            "remove fewer layers, or use bfloat16 or float32."
        )
    return layer


def _listed(layers: Iterable[int]) -> str:
    return ", ".join(map(str, layers))


def _rank(loss: float | None, layer: int) -> tuple[bool, float, int]:
    return loss is None, loss or 0.0, layer


def _finite(loss: float | None) -> float:
    if loss is None:
        raise InputError(
            "the whole model has no finite loss on these tokens; use bfloat16 or float32, or other "
            "tokens."
        )
    return loss


def _save(scratch: Path, removal: Removal, count: int) -> None:
    """Say that a round is done."""
    rounds = [[past.removed, list(past.losses.items())] for past in removal.rounds]
    write_text(scratch / STATE, to_json({"unpruned": removal.unpruned, "rounds": rounds}))
    done = len(removal.rounds)
    note(scratch, f"round {done + 1} of {count}" if done < count else "the last round's end")


def _load(scratch: Path) -> Removal:
    """The rounds that a killed run has done."""
    try:
        state: Any = json.loads((scratch / STATE).read_text())
        rounds = [Round(removed, dict(losses)) for removed, losses in state["rounds"]]
        return Removal(float(state["unpruned"]), rounds)
    except (OSError, ValueError, LookupError, TypeError):
        return Removal()
