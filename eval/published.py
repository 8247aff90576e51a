"""The published values in published.toml, found by model, method and pattern."""

import tomllib
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
