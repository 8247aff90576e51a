"""How a paper's table is filled, and what it prints: `reproduce.toml` in a method's folder.

    paper    what the table is of
    models   those of the table, the first by default, each with words of its own
    words    of every pruning; `score`: of one measurement that all prunings go by;
             `train`: of a training after each; `local`: what stands in for words that are too
             costly, or need a hub, for a model that needs none
    rows     by name: the words of a pruning, of which an empty one is left out whoever gives it;
             its `method` where the folder has several, and its `models` where it is not of all
    columns  how a value is measured: `words` of an evaluation, or a `fact` of the manifest; what
             is printed of it (`values`, by model and row), by what `source`, and how far a
             faithful repetition may be from it (`band`); or `why` it cannot be compared

A word may say a size as a share, `LAYERS = "23/32"`: 23 of 32 layers, and as many of another
number in proportion. SEQLEN is never more than a model has positions.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from espalier.contract.paths import ROOT
from espalier.errors import InputError

FILE = "reproduce.toml"
DENSE = "dense"
"""The row of the model as it was before it was pruned."""
Words = dict[str, str]
Value = float | tuple[float, ...]
"""A number; one for each of a column's tasks; or the layers that went."""
AXES = {
    "LAYERS": "num_hidden_layers",
    "HIDDEN": "hidden_size",
    "FFN": "intermediate_size",
    "HEADS": "num_attention_heads",
}
"""Words that may be shares, and what config.json calls the whole."""
POSITIONS, HEADS, KV_HEADS = "max_position_embeddings", AXES["HEADS"], "num_key_value_heads"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Row(_Part):
    """A pruning of the table.

    Attributes:
        method: the stage that prunes.
        models: those of which the table has it; none: of all.
        words: what it is asked for by.
    """

    method: str
    models: tuple[str, ...] = ()
    words: Words


class Column(_Part):
    """What is measured of each row, and what is printed of it.

    Attributes:
        source: where the values are printed.
        words: of the evaluation; none: it is a fact of the manifest, or not measured.
        fact: what the manifest says: parameters left, or the layers that went.
        tasks: what the values of a row are of, `boolq acc`, where they are no perplexity; `mean` is
            that of the tasks of the evaluation, each by the metric that counts.
        harness: the release of lm-eval that they were read off.
        band: by row, or of all; of perplexities a fraction of the value, else in its own unit.
        values: by model and row; of several tasks as many.
        why: they cannot be compared.
    """

    source: str
    words: Words = {}
    fact: Literal["parameters", "removed layers"] | None = None
    tasks: tuple[str, ...] = ()
    harness: str | None = None
    band: float | dict[str, float] = 0.0
    values: dict[str, dict[str, Value]] = {}
    why: str = ""

    @model_validator(mode="after")
    def _says_how(self) -> Self:
        if self.why:
            if self.words or not (self.tasks or self.fact):
                raise ValueError("a column with a why is not measured: it has tasks or a fact")
        elif bool(self.words) == bool(self.fact):
            raise ValueError("a column is measured by words, or is a fact")
        return self

    @property
    def measured(self) -> tuple[str, ...]:
        """Task and metric of each of a row's values: `perplexity/wikitext2 ppl`."""
        if self.fact:
            return (self.fact,)
        return self.tasks or (f"perplexity/{self.words['DATA']} ppl",)

    def band_of(self, row: str) -> float:
        """How far from what is printed of a row."""
        return self.band if isinstance(self.band, float) else self.band.get(row, 0.0)

    def is_of(self, model: str) -> bool:
        """Whether it is of a model: one that it has values of, where it has any at all."""
        return not self.values or model in self.values


def _rows(rows: Any) -> Any:
    """Lower-case names say what a row is, upper-case ones are words of its pruning."""
    if not isinstance(rows, Mapping) or not all(isinstance(row, Mapping) for row in rows.values()):
        return rows
    return {
        name: {key: value for key, value in row.items() if not key.isupper()}
        | {"words": {key: value for key, value in row.items() if key.isupper()}}
        for name, row in rows.items()
    }


class Reproduction(_Part):
    """A method's `reproduce.toml`."""

    name: str
    paper: str
    models: Annotated[dict[str, Words], Field(min_length=1)]
    words: Words = {}
    score: Words = {}
    train: Words = {}
    local: Words = {}
    rows: Annotated[dict[str, Row], BeforeValidator(_rows), Field(min_length=1)]
    columns: tuple[Column, ...]
    remarks: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if DENSE in self.rows:
            raise ValueError(f"{DENSE} is the row of the model before it is pruned")
        for name, row in self.rows.items():
            if unknown := set(row.models) - self.models.keys():
                raise ValueError(f"row {name} is of {', '.join(sorted(unknown))}, no model of it")
        for column in self.columns:
            for model, values in column.values.items():
                if model not in self.models:
                    raise ValueError(f"{column.source} has values of {model}, no model of it")
                for of, value in values.items():
                    self._check(column, model, of, value)
        return self

    def _check(self, column: Column, model: str, row: str, value: Value) -> None:
        if row != DENSE and row not in self.rows_of(model):
            raise ValueError(f"{column.source} has a value of {model} {row}, which is no row of it")
        count = len(value) if isinstance(value, tuple) else 1
        if not column.fact and count != len(column.measured):
            raise ValueError(f"{column.source} has not as many values of {model} {row} as tasks")

    @property
    def default(self) -> str:
        """The model that the paper's table is of first."""
        return next(iter(self.models))

    def rows_of(self, model: str) -> dict[str, Row]:
        """The rows that the table has of a model; of one that is not in it, those of the first."""
        of = model if model in self.models else self.default
        return {name: row for name, row in self.rows.items() if of in (row.models or (of,))}

    def columns_of(self, model: str) -> list[Column]:
        """The columns that the table has of a model; of one that is not in it, of the first."""
        of = model if model in self.models else self.default
        return [column for column in self.columns if column.is_of(of)]


@dataclass(frozen=True)
class Filled:
    """A row of the table: its models and their evaluations, on the store or in a plan.

    Attributes:
        pruned: whose manifest says what went; of the dense row the model itself.
        model: what is measured, which may have been trained after it was pruned.
    """

    row: str
    pruned: Path
    model: Path
    evaluations: tuple[Path, ...]


def reproducible() -> dict[str, Path]:
    """Every method folder's `reproduce.toml`, by the folder's name as commands have it."""
    return {
        path.parent.name.replace("_", "-"): path for path in sorted(ROOT.glob(f"methods/*/{FILE}"))
    }


@cache
def reproduction_of(name: str) -> Reproduction:
    """What `make reproduce-<name>` does.

    Raises:
        InputError: the folder has no such file, or the file does not hold.
    """
    found = reproducible()
    if name not in found:
        raise InputError(f"{name} has no {FILE}; those that have one are {', '.join(found)}.")
    return read_reproduction(name, found[name])


def read_reproduction(name: str, path: Path) -> Reproduction:
    """A `reproduce.toml`, of the method `name` where a row states none.

    Raises:
        InputError: it does not hold.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        for row in content.get("rows", {}).values():
            row.setdefault("method", name)
        return Reproduction.model_validate({"name": name, **content})
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not TOML: {error}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{path}: {place or 'it'}: {message}.") from None


def fitted(words: Mapping[str, str], config: Mapping[str, Any]) -> Words:
    """Words as a model of this config.json takes them: shares as sizes, SEQLEN in its positions.

    Raises:
        InputError: a share is of a size that is not known.
    """
    found = dict(words)
    for word in AXES.keys() & found.keys():
        part, slash, whole = found[word].partition("/")
        if slash:
            found[word] = str(_share(word, int(part), int(whole), config))
    length = found.get("SEQLEN", "")
    if length.isdecimal() and POSITIONS in config:
        found["SEQLEN"] = str(min(int(length), int(config[POSITIONS])))
    return found


def _share(word: str, part: int, whole: int, config: Mapping[str, Any]) -> int:
    """At least one, and less than all where less is to stay; channels as the heads take them."""
    if AXES[word] not in config:
        raise InputError(
            f"{word}={part}/{whole} needs the model's config.json; fetch it first (make fetch)."
        )
    size = int(config[AXES[word]])
    if whole in (part, size):
        return size * part // whole
    step = _step(word, config)
    return min(max(round(size * part / whole / step), 1) * step, size - step)


def _step(word: str, config: Mapping[str, Any]) -> int:
    """What goes together: the heads that read one key-value head; a channel of every head."""
    heads = int(config.get(HEADS, 1))
    if word == "HEADS":
        return heads // int(config.get(KV_HEADS, heads))
    return heads if word == "HIDDEN" else 1
