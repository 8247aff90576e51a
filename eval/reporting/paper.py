"""Values that papers print beside ours: within the band, outside it, not run, not compared."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from espalier.contract.manifest import Manifest
from espalier.contract.pruned import Uniform
from espalier.contract.reproduction import Value
from eval.headline import about
from eval.published import FACTS, LAYERS, MEAN, PARAMETERS, Printed, printed_values, published_as
from eval.reporting.collected import Checkpoint, Evaluated
from eval.reporting.measured import Measured, all_measured
from eval.reporting.tables import EMPTY, Cell, Table, text

Mark = Literal["within", "outside", "not run", "not compared"]
SIGNS: dict[Mark, str] = {
    "within": "\N{CHECK MARK} within",
    "outside": "\N{BALLOT X} outside",
    "not run": "\N{WHITE CIRCLE} not run",
    "not compared": "\N{EN DASH} not compared",
}
NONE_PRINTED = "No paper's values are listed for the models of this report."
HEADINGS = ("measured", "printed", "ours", "difference", "band", "mark")
Of = tuple[str, str, str, str]


class Seen(Protocol):
    """A model with what is known of it, such as a checkpoint of a report."""

    @property
    def shown(self) -> str: ...

    @property
    def manifest(self) -> Manifest | None: ...

    @property
    def evaluations(self) -> tuple[Evaluated, ...]: ...


@dataclass(frozen=True)
class Beside:
    """A printed value, and ours where it was measured the same way.

    Attributes:
        ours: None: no such measurement is there.
        whose: checkpoint, evaluation and harness of ours.
        why: it cannot be compared, though the printed value could be.
    """

    printed: Printed
    ours: Value | None
    whose: str = ""
    why: str = ""

    @property
    def mark(self) -> Mark:
        if self.printed.why or self.why:
            return "not compared"
        if self.ours is None:
            return "not run"
        if isinstance(self.ours, tuple) or isinstance(self.printed.value, tuple):
            return "within" if _layers(self.ours) == _layers(self.printed.value) else "outside"
        # What is on the band's edge is in it, whatever a difference of floats says.
        is_near = abs(self.ours - self.printed.value) <= self.printed.band * (1 + 1e-9)
        return "within" if is_near else "outside"

    @property
    def sign(self) -> str:
        """The mark as a table shows it, with the reason why nothing is compared."""
        sign, why = SIGNS[self.mark], self.printed.why or self.why
        return f"{sign}: {why}" if why else sign


def beside_papers(checkpoints: Sequence[Checkpoint]) -> list[Beside]:
    """Every printed value of the models that these checkpoints come from."""
    known = {model.name for checkpoint in checkpoints for model in checkpoint.models}
    listed: dict[Of, list[Checkpoint]] = defaultdict(list)
    for checkpoint in checkpoints:
        if of := _listed_as(checkpoint):
            listed[of].append(checkpoint)
    return [
        beside(printed, listed[printed.of])
        for printed in printed_values()
        if printed.model in known
    ]


def _listed_as(checkpoint: Checkpoint) -> Of | None:
    """What printed values are of such a model: pruned, and perhaps trained once after it."""
    made, trained = checkpoint.manifest, ""
    if made.verb == "train" and len(checkpoint.models) > 1:
        made, trained = checkpoint.models[-2], made.stage
    asked = published_as(made.model_dump(mode="json"))
    return None if asked is None else (*asked, trained)


def tables(found: Sequence[Beside]) -> list[Table]:
    """One for each source."""
    made = []
    for source in dict.fromkeys(each.printed.source for each in found):
        lines = [each for each in found if each.printed.source == source]
        headings = ("model", "method", "setting", *HEADINGS, "ours is of")
        made.append(Table.of(source, headings, [_row(each) for each in lines]))
    return made


def _row(each: Beside) -> list[Cell]:
    return [
        text(each.printed.model),
        text(each.printed.method),
        text(each.printed.setting),
        *cells(each),
        text(each.whose) if each.whose else EMPTY,
    ]


def cells(each: Beside) -> list[Cell]:
    """What stands under HEADINGS."""
    printed, ours = each.printed, each.ours
    away = EMPTY
    if isinstance(ours, float) and isinstance(printed.value, float):
        difference = ours - printed.value
        away = Cell(_shown(printed, difference, "+"), difference)
    return [
        text(f"{printed.task} {printed.metric}".rstrip()),
        _cell(printed, printed.value),
        EMPTY if ours is None else _cell(printed, ours),
        away,
        Cell(f"\N{PLUS-MINUS SIGN}{_shown(printed, printed.band)}", printed.band)
        if printed.band
        else EMPTY,
        text(each.sign),
    ]


def _cell(printed: Printed, value: Value) -> Cell:
    if isinstance(value, tuple):
        return text(" ".join(f"{layer:.0f}" for layer in value))
    unit = "" if printed.metric == "ppl" or printed.task == PARAMETERS else " %"
    return Cell(f"{_shown(printed, value)}{unit}", value)


def _shown(printed: Printed, value: float, sign: str = "") -> str:
    return format(value, f"{sign},.0f" if printed.task == PARAMETERS else f"{sign}.2f")


def beside(printed: Printed, checkpoints: Sequence[Seen]) -> Beside:
    """With ours of the first of these models that has it, by the paper's harness where it can."""
    if printed.why:
        return Beside(printed, None)
    if printed.task in FACTS:
        facts = ((each, fact(each.manifest, printed.task)) for each in checkpoints)
        found = next(((each, value) for each, value in facts if value is not None), None)
        return Beside(printed, None) if found is None else Beside(printed, found[1], found[0].shown)
    same = [
        (checkpoint, one)
        for checkpoint in checkpoints
        for evaluation in checkpoint.evaluations
        for one in all_measured(evaluation)
        if _is_same(one, printed, about(evaluation.results, one.task).get("seqlen"))
    ]
    if not same:
        return Beside(printed, None)
    checkpoint, one = min(same, key=lambda pair: _harness(pair[1]) != printed.harness)
    by = [f"lm-eval {release}"] if (release := _harness(one)) else []
    whose = ", ".join([checkpoint.shown, one.suite, *by])
    return Beside(printed, one.value * (1 if printed.metric == "ppl" else 100), whose)


def fact(manifest: Manifest | None, name: str) -> Value | None:
    """What a manifest says of a model by itself: parameters without padding, layers that went."""
    if manifest is None:
        return None
    if name == LAYERS:
        pruned = manifest.pruning
        return tuple(map(float, pruned.dropped_layers)) if isinstance(pruned, Uniform) else None
    counts = manifest.model or {}
    if "parameters" not in counts:
        return None
    return float(counts["parameters"] - counts.get("padding", 0))


def _layers(value: Value) -> set[float]:
    """Whatever the order in which they went."""
    return set(value) if isinstance(value, tuple) else set()


def _harness(one: Measured) -> str | None:
    return dict(one.protocol).get("lm-eval")


def _is_same(one: Measured, printed: Printed, seqlen: int | None) -> bool:
    """Whether it is the printed value's own measurement: all of it, and windows as long."""
    if printed.task == MEAN:
        return one.task.startswith("mean of ") and one.whole
    if (one.task, one.metric) != (printed.task, printed.metric) or not one.whole:
        return False
    if printed.metric == "ppl":
        return seqlen == printed.seqlen
    return dict(one.protocol)["shots"] == str(printed.shots)
