"""The published values in published.toml, found by model, method and pattern."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

PUBLISHED = Path(__file__).with_name("published.toml")


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(PUBLISHED.read_text(encoding="utf-8"))


def published_perplexity(
    model: str, method: str, setting: str, data: str, seqlen: int
) -> float | None:
    """A printed perplexity, where one was measured the same way.

    Args:
        model: an alias, for example `llama2-7b`.
        method: `dense`, `wanda`, `sparsegpt` or `magnitude`.
        setting: `unstructured-0.5`, `2:4` or `4:8`; of no matter for `dense`.
        data: the data set's name.
        seqlen: tokens a window.
    """
    for table in _table()["perplexity"]:
        if (table["data"], table["seqlen"]) != (data, seqlen):
            continue
        found = table["dense"] if method == "dense" else table.get(model, {}).get(setting, {})
        value = found.get(model if method == "dense" else method)
        return None if value is None else float(value)
    return None


def published_accuracy(model: str, method: str, setting: str) -> dict[str, float]:
    """Printed accuracies in percent, by lm-eval's task names; empty where there are none."""
    table = _table()["zero-shot"]
    values = table.get(method, {}).get(setting) if model == table["model"] else None
    return dict(zip(table["tasks"], values, strict=True)) if values else {}


@dataclass(frozen=True)
class Printed:
    """One printed value, and how far a faithful repetition may be from it.

    Attributes:
        method: `dense`, or the pruning method.
        setting: `unstructured-0.5`, `2:4`, …; empty for `dense`.
        task: of lm-eval, or `perplexity/<data>`.
        value: a perplexity, or an accuracy in percent.
        seqlen: tokens a window of a perplexity.
        harness: the release of lm-eval that the printed accuracies were read off.
        band: in the value's own unit.
    """

    source: str
    model: str
    method: str
    setting: str
    task: str
    metric: str
    value: float
    band: float
    seqlen: int | None = None
    harness: str | None = None


def printed_values() -> Iterator[Printed]:
    """All of published.toml, in its order."""
    bands = _table()["bands"]
    for table in _table()["perplexity"]:
        task, source, seqlen = f"perplexity/{table['data']}", table["source"], table["seqlen"]
        for model, value in table["dense"].items():
            band = value * bands["dense"]
            yield Printed(source, model, "dense", "", task, "ppl", value, band, seqlen)
            for setting, methods in table.get(model, {}).items():
                kind = "unstructured" if setting.startswith("unstructured") else "structured"
                for method, found in methods.items():
                    band = found * bands[kind]
                    yield Printed(source, model, method, setting, task, "ppl", found, band, seqlen)
    table = _table()["zero-shot"]
    for method, settings in table.items():
        if not isinstance(settings, dict):
            continue
        for setting, values in settings.items():
            for task, value in zip(table["tasks"], values, strict=True):
                yield Printed(
                    *(table["source"], table["model"], method, setting, task, "acc"),
                    *(value, bands["accuracy"]),
                    harness=table["harness"],
                )
