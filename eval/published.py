"""The values that papers print, as the methods' `reproduce.toml` hold them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from espalier.contract.discovery import stages
from espalier.contract.reproduction import (
    DENSE,
    Column,
    Reproduction,
    Value,
    fitted,
    reproducible,
    reproduction_of,
)
from espalier.models.aliases import model_aliases

PARAMETERS, LAYERS = FACTS = "parameters", "removed layers"
"""What a manifest says by itself."""
MEAN = "mean"
"""What a column calls the mean of an evaluation's tasks."""
CALIBRATION = frozenset({"samples", "seqlen", "seed", "batch", "micro_batch"})
"""Parameters by which a repetition may differ and still stand beside the paper."""


@dataclass(frozen=True)
class Printed:
    """One printed value, and how far a faithful repetition may be from it.

    Attributes:
        method: `dense`, or the pruning stage.
        setting: the row of its reproduce.toml; empty for `dense`.
        task: of lm-eval with its examples, `perplexity/<data>`, `mean`, or a fact of the manifest.
        metric: empty of a fact and a mean.
        value: a perplexity, an accuracy in percent, a number of parameters, or the layers gone.
        band: in the value's own unit.
        seqlen: tokens a window of a perplexity.
        harness: the release of lm-eval that the printed accuracies were read off.
        trained: the stage that trained the pruned model before it was measured.
        why: it cannot be compared.
    """

    source: str
    model: str
    method: str
    setting: str
    task: str
    metric: str
    value: Value
    band: float
    seqlen: int | None = None
    harness: str | None = None
    trained: str = ""
    why: str = ""

    @property
    def of(self) -> tuple[str, str, str, str]:
        """The model that it is of: parent, method, setting, and what trained it."""
        return self.model, self.method, self.setting, self.trained

    @property
    def shots(self) -> int:
        """Examples before each question."""
        return int(self.task.partition(":")[2] or 0)


@cache
def printed_values() -> tuple[Printed, ...]:
    """All of them; what several files print from one source, such as the dense model's, once."""
    found = (value for name in reproducible() for value in printed_in(reproduction_of(name)))
    return tuple(dict.fromkeys(found))


def printed_in(reproduction: Reproduction) -> Iterator[Printed]:
    """Those of one file, in its order."""
    for column in reproduction.columns:
        for model, rows in column.values.items():
            for row, value in rows.items():
                yield from _printed(reproduction, column, model, row, value)


def _printed(
    reproduction: Reproduction, column: Column, model: str, row: str, value: Value
) -> Iterator[Printed]:
    dense = row == DENSE
    method = DENSE if dense else reproduction.rows[row].method
    trains = reproduction.train.get("TRAIN", "") if column.words and not dense else ""
    values = value if isinstance(value, tuple) and not column.fact else (value,)
    for name, one in zip(column.measured, values, strict=True):
        task, _, metric = (name, "", "") if column.fact else name.rpartition(" ")
        band = column.band_of(row)
        if metric == "ppl" and isinstance(one, float):
            band *= one
        yield Printed(
            source=column.source,
            model=model,
            method=method,
            setting="" if dense else row,
            task=task or metric,
            metric=metric if task else "",
            value=one,
            band=band,
            seqlen=int(column.words["SEQLEN"]) if "SEQLEN" in column.words else None,
            harness=column.harness,
            trained=trains,
            why=column.why,
        )


def published_as(made: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Parent's alias, method and row, by which the values of a model are listed.

    The calibration is of no matter: a repetition on less of it is beside the paper's, too.

    Args:
        made: the model's manifest.
    """
    if made.get("verb") == "fetch":
        return str(made["name"]), DENSE, ""
    inputs, method = made.get("inputs") or {}, str(made.get("stage"))
    if "model" not in inputs or method not in stages():
        return None  # adopted: of which parent, nothing says
    parent = str(inputs["model"]["name"]).rpartition("/")[2]
    recorded = stages()[method].parameters.identity_of(made.get("parameters") or {})
    for row, wanted in _rows_of(parent, method).items():
        if _decisive(recorded) == wanted:
            return parent, method, row
    return None


@cache
def _rows_of(model: str, method: str) -> dict[str, dict[str, Any]]:
    """What decides the prunings of a model by a method that papers print values of."""
    found = {}
    for name in reproducible():
        reproduction = reproduction_of(name)
        if model in reproduction.models and (source := model_aliases().get(model)):
            for row, stated in reproduction.rows_of(model).items():
                if stated.method == method:
                    found[row] = _decides(reproduction, model, row, source.shape)
    return found


def _decides(
    reproduction: Reproduction, model: str, row: str, shape: Mapping[str, Any]
) -> dict[str, Any]:
    stage, stated = stages()[reproduction.rows[row].method], reproduction.rows[row].words
    words = fitted({**reproduction.words, **reproduction.models[model], **stated}, shape)
    known = stage.parameters.words()
    parameters = stage.parameters.from_assignments({k: v for k, v in words.items() if k in known})
    if stage.unroll:
        parameters = stage.unroll(parameters, shape).steps[-1]
    return _decisive(parameters.identity())


def _decisive(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in identity.items() if name not in CALIBRATION}
