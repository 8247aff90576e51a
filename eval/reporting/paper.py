"""Values that papers print beside ours: within the band, outside it, or not run."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from eval.headline import about
from eval.published import Printed, printed_values
from eval.report import published_as
from eval.reporting.collected import Checkpoint
from eval.reporting.measured import Measured, measurements
from eval.reporting.tables import EMPTY, Cell, Table, text

Mark = Literal["within", "outside", "not run"]
SIGNS: dict[Mark, str] = {
    "within": "\N{CHECK MARK} within",
    "outside": "\N{BALLOT X} outside",
    "not run": "\N{WHITE CIRCLE} not run",
}
NONE_PRINTED = "No paper's values are listed for the models of this report."


@dataclass(frozen=True)
class Beside:
    """A printed value, and ours where it was measured the same way.

    Attributes:
        ours: None: no such measurement is there.
        whose: checkpoint, evaluation and harness of ours.
    """

    printed: Printed
    ours: float | None
    whose: str = ""

    @property
    def mark(self) -> Mark:
        if self.ours is None:
            return "not run"
        # What is on the band's edge is in it, whatever a difference of floats says.
        is_near = abs(self.ours - self.printed.value) <= self.printed.band * (1 + 1e-9)
        return "within" if is_near else "outside"


def beside_papers(checkpoints: Sequence[Checkpoint]) -> list[Beside]:
    """Every printed value of the models that these checkpoints come from."""
    known = {model.name for checkpoint in checkpoints for model in checkpoint.models}
    listed: dict[tuple[str, str, str], list[Checkpoint]] = defaultdict(list)
    for checkpoint in checkpoints:
        if asked := published_as(checkpoint.manifest.model_dump(mode="json")):
            listed[asked].append(checkpoint)
    return [
        _beside(printed, listed[printed.model, printed.method, printed.setting])
        for printed in printed_values()
        if printed.model in known
    ]


def tables(found: Sequence[Beside]) -> list[Table]:
    """One for each source."""
    made = []
    for source in dict.fromkeys(each.printed.source for each in found):
        lines = [each for each in found if each.printed.source == source]
        headings = (
            *("model", "method", "setting", "measured", "printed", "ours", "difference"),
            *("band", "mark", "ours is of"),
        )
        made.append(Table.of(source, headings, [_row(each) for each in lines]))
    return made


def _row(each: Beside) -> list[Cell]:
    printed, ours = each.printed, each.ours
    unit = " %" if printed.metric == "acc" else ""
    away = None if ours is None else ours - printed.value
    return [
        text(printed.model),
        text(printed.method),
        text(printed.setting),
        text(f"{printed.task} {printed.metric}"),
        Cell(f"{printed.value:.2f}{unit}", printed.value),
        EMPTY if ours is None else Cell(f"{ours:.2f}{unit}", ours),
        EMPTY if away is None else Cell(f"{away:+.2f}", away),
        Cell(f"\N{PLUS-MINUS SIGN}{printed.band:.2f}", printed.band),
        text(SIGNS[each.mark]),
        text(each.whose) if each.whose else EMPTY,
    ]


def _beside(printed: Printed, checkpoints: Sequence[Checkpoint]) -> Beside:
    """With ours of the harness that the paper used, where there are several."""
    found = [
        (checkpoint, one)
        for checkpoint in checkpoints
        for evaluation in checkpoint.evaluations
        for one in measurements(evaluation)
        if _is_same(one, printed, about(evaluation.results, one.task).get("seqlen"))
    ]
    if not found:
        return Beside(printed, None)
    checkpoint, one = min(found, key=lambda pair: _harness(pair[1]) != printed.harness)
    by = [f"lm-eval {release}"] if (release := _harness(one)) else []
    whose = ", ".join([checkpoint.shown, one.suite, *by])
    return Beside(printed, one.value * (100 if printed.metric == "acc" else 1), whose)


def _harness(one: Measured) -> str | None:
    return dict(one.protocol).get("lm-eval")


def _is_same(one: Measured, printed: Printed, seqlen: int | None) -> bool:
    """Whether it is the printed value's own measurement: all of it, and windows as long."""
    if (one.task, one.metric) != (printed.task, printed.metric) or not one.whole:
        return False
    if printed.metric == "ppl":
        return seqlen == printed.seqlen
    return dict(one.protocol)["shots"] == "0"
