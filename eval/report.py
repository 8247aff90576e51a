"""The table before and after pruning, and the one of published values beside ours.

Runs on the host: nothing of the model stack is imported.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table

from espalier.contract.json_text import NotJson, from_json, read_json
from espalier.contract.manifest import MANIFEST
from espalier.errors import InputError
from eval.headline import about, shown_keys
from eval.published import Printed, printed_values, published_as

RESULTS = "results.json"
NO_SPEED = "Zeros alone make nothing faster or smaller: the checkpoint is stored dense."


@dataclass(frozen=True)
class Row:
    """One measurement, before and after. `better` is whether higher is better."""

    name: str
    metric: str
    before: float | None
    after: float | None
    better: bool


@dataclass(frozen=True)
class Evaluation:
    """An evaluation's directory, read: its results, and its checkpoint's manifest where known."""

    directory: Path
    results: Mapping[str, Any]
    model: Mapping[str, Any]

    @classmethod
    def read(cls, directory: Path) -> "Evaluation":
        """Read `results.json`, and the manifest of the checkpoint that was evaluated.

        Raises:
            InputError: there are no whole results.
        """
        path = directory / RESULTS
        try:
            results = from_json(path.read_bytes())
            results["results"].items()
        except (OSError, NotJson, LookupError, TypeError, AttributeError):
            raise InputError(f"{path} holds no results; run make eval again.") from None
        return cls(directory, results, _checkpoint(directory))

    @property
    def name(self) -> str:
        return self.directory.parent.name

    def metrics(self) -> dict[tuple[str, str], float]:
        """Task and metric to value, for the metrics that a table shows."""
        return {
            (task, key): float(values[key])
            for task, values in self.results["results"].items()
            for key in shown_keys(self.results, task)
        }

    def about(self, task: str) -> Mapping[str, Any]:
        """What is recorded of how a task was measured, and of a perplexity's text."""
        return about(self.results, task)

    def as_printed(self, printed: Printed) -> float | None:
        """The value that was measured as a printed one was: all of it, windows as long."""
        value = self.results["results"].get(printed.task, {}).get(f"{printed.metric},none")
        if value is None or printed.why:
            return None
        if printed.metric == "ppl":
            text = self.about(printed.task)
            whole = text.get("windows") == text.get("windows_available")
            return float(value) if whole and text.get("seqlen") == printed.seqlen else None
        counts = self.results.get("n-samples", {}).get(printed.task, {})
        whole = counts.get("effective") == counts.get("original")
        shots = self.results.get("n-shot", {}).get(printed.task, 0)
        return 100 * float(value) if whole and shots == printed.shots else None


def _checkpoint(directory: Path) -> Mapping[str, Any]:
    """The manifest of `evals/<checkpoint>/<suite>`'s checkpoint on the same store."""
    name, store = directory.parent.name, directory.parent.parent.parent
    for section in ("checkpoints", "models"):
        path = store / section / name / MANIFEST
        if path.is_file():
            manifest = read_json(path, "evaluate it anew")
            return manifest if isinstance(manifest, dict) else {}
    return {}


def rows(before: Evaluation, after: Evaluation) -> list[Row]:
    """Each measurement that either of the two has, in the order of the first."""
    old, new = before.metrics(), after.metrics()
    return [
        Row(task, key.split(",")[0], old.get((task, key)), new.get((task, key)), "ppl" not in key)
        for task, key in dict.fromkeys([*old, *new])
    ]


def caption(before: Evaluation, after: Evaluation) -> str:
    """What one has to know to compare the numbers with others'."""
    lines = []
    for task in after.results["results"]:
        then, now = before.about(task), after.about(task)
        if "seqlen" in now:
            lines.append(
                f"{task}: {now.get('windows')} of {now.get('windows_available')} windows of "
                f"{now['seqlen']} tokens, split {now.get('split', '-')}"
            )
            if then and then.get("sha256") != now.get("sha256"):
                lines.append(f"{task}: before and after saw different tokens")
    zeros = _parameters(after.model)
    if zeros and zeros[1] < zeros[0]:
        lines.append(NO_SPEED)
    harness = after.results.get("lm_eval_version")
    return "\n".join([*lines, *([f"lm-eval {harness}"] if harness else [])])


def comparison(before: Path, after: Path) -> Table:
    """The table of two evaluations' directories; the same one twice gives one column of values.

    Raises:
        InputError: a directory holds no results.
    """
    old, new = Evaluation.read(before), Evaluation.read(after)
    single = before == after
    table = Table(title=new.name, caption=caption(old, new), caption_justify="left")
    for column in ("measured", "metric", *([] if single else [old.name]), new.name):
        table.add_column(column, justify="left" if column in ("measured", "metric") else "right")
    if not single:
        table.add_column("change", justify="right")
    for row in rows(old, new):
        cells = [_cell(row.after, row.metric)]
        if not single:
            cells = [_cell(row.before, row.metric), *cells, _change(row)]
        table.add_row(row.name, row.metric, *cells)
    for label, index in (("parameters", 0), ("non-zero parameters", 1)):
        counts = [_parameters(evaluation.model) for evaluation in (old, new)]
        if counts[1]:
            shown = [f"{count[index]:,}" if count else "-" for count in counts]
            table.add_row(label, "", *(shown[1:] if single else [*shown, ""]))
    return table


def against_published(evaluation: Path, model: str, method: str, setting: str) -> Table | None:
    """Published values beside ours, where some were measured the same way.

    Args:
        evaluation: an evaluation's directory.
        model: the parent's alias, for example `llama2-7b`.
        method: `dense`, or the pruning stage.
        setting: the row of its reproduce.toml; empty for `dense`.

    Raises:
        InputError: the directory holds no results.
    """
    ours, of = Evaluation.read(evaluation), (model, method, setting, "")
    found = [
        (printed, value)
        for printed in printed_values()
        if printed.of == of and (value := ours.as_printed(printed)) is not None
    ]
    if not found:
        return None
    table = Table(title=f"{model} {method} {setting}".rstrip() + ": published and ours")
    for column in ("measured", "metric", "published", "ours", "difference"):
        table.add_column(column, justify="left" if column in ("measured", "metric") else "right")
    for printed, value in found:
        assert isinstance(printed.value, float)  # noqa: S101 - facts are in no results
        unit = "" if printed.metric == "ppl" else " %"
        cells = (f"{printed.value:.2f}", f"{value:.2f}", f"{value - printed.value:+.2f}")
        table.add_row(printed.task, f"{printed.metric}{unit}", *cells)
    return table


def report(before: Path, after: Path) -> Group:
    """What `make eval` and `make prune-…` print: the comparison, and published values if known."""
    tables: list[Table | None] = [comparison(before, after)]
    for directory in dict.fromkeys((before, after)):
        if asked := published_as(Evaluation.read(directory).model):
            tables.append(against_published(directory, *asked))
    return Group(*filter(None, tables))


def markdown(table: Table) -> str:
    """The same table for a README."""
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    rules = ["---:" if column.justify == "right" else "---" for column in table.columns]
    lines = [[str(column.header) for column in table.columns], rules, *zip(*columns, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _parameters(manifest: Mapping[str, Any]) -> tuple[int, int] | None:
    """Parameters in total, padding aside, and not zero, as the manifest counts them."""
    model = manifest.get("model") or {}
    if "parameters" not in model:
        return None
    total = int(model["parameters"]) - int(model.get("padding", 0))
    return total, int(model.get("nonzero", model["parameters"]))


def _cell(value: float | None, metric: str) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if metric == "ppl" and value >= 1000 else f"{value:.4f}"


def _change(row: Row) -> str:
    if row.before is None or row.after is None:
        return "-"
    if row.metric == "ppl":
        return f"x{row.after / row.before:.3f}"
    return f"{100 * (row.after - row.before):+.1f} points"
