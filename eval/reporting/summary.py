"""The tables of a report, and its one line a checkpoint for CSV."""

from collections.abc import Sequence

from espalier.contract.measure import show_size, show_time
from eval.reporting.collected import Checkpoint
from eval.reporting.drawing import plain
from eval.reporting.facts import Facts
from eval.reporting.measured import Column, Measured, differences, dtypes, overview
from eval.reporting.tables import EMPTY, Cell, Table, count, csv_text, percent, text

PLUS_MINUS = "\N{PLUS-MINUS SIGN}"


def checkpoints_table(checkpoints: Sequence[Checkpoint], found: Sequence[Column]) -> Table:
    """What each checkpoint is, what it has cost, and its headline scores."""
    shown = overview(found)
    facts = [Facts.of(checkpoint) for checkpoint in checkpoints]
    timed = any(fact.latency is not None for fact in facts)
    headings = [
        *("checkpoint", "parameters", "non-zero", "sparsity", "removed"),
        *("tokens", "FLOPs"),
        *(["latency"] if timed else []),
        *(column.label for column in shown),
        "made",
    ]
    rows = [
        [
            text(checkpoint.shown),
            count(fact.total),
            count(fact.nonzero),
            percent(fact.sparsity),
            percent(fact.removed),
            short(fact.tokens),
            short(fact.flops),
            *([_latency(fact)] if timed else []),
            *(score(column.values.get(place)) for column in shown),
            text(fact.made),
        ]
        for place, (checkpoint, fact) in enumerate(zip(checkpoints, facts, strict=True))
    ]
    notes = [
        "Sparsity: what is zero of the parameters that are stored. Removed: what is gone or zero "
        "of the first model of the lineage. Tokens and FLOPs: of the whole lineage; "
        "a dash where a part of it is not known.",
        *differences(found),
        *dtypes(shown),
        *(
            f"{checkpoint.shown}: {', '.join(checkpoint.outdated)} measured what had this name "
            "before; run make eval again with FORCE=1."
            for checkpoint in checkpoints
            if checkpoint.outdated
        ),
    ]
    return Table.of("Checkpoints", headings, rows, notes)


def scores_table(checkpoints: Sequence[Checkpoint], found: Sequence[Column]) -> Table:
    """Every measurement, a line for each way of measuring it."""
    headings = ["measured", *(checkpoint.shown for checkpoint in checkpoints)]
    rows = [
        [text(column.label), *(score(column.values.get(n)) for n in range(len(checkpoints)))]
        for column in found
    ]
    notes = [f"{PLUS_MINUS} is the standard error."] if rows else ["Nothing was evaluated."]
    return Table.of("Scores", headings, rows, notes)


def protocols_table(found: Sequence[Column]) -> Table:
    """How each measurement was made."""
    rows = [
        [text(column.label), text("; ".join(f"{name} {_brief(v)}" for name, v in column.protocol))]
        for column in found
    ]
    return Table.of("How it was measured", ["measured", "of what"], rows)


def evaluations_table(checkpoints: Sequence[Checkpoint]) -> Table:
    """Where each evaluation ran, how long it took and what memory."""
    headings = ("checkpoint", "evaluation", "harness", "device", "dtype", "time", "peak memory")
    rows = []
    for checkpoint in checkpoints:
        for one in checkpoint.evaluations:
            config, made = one.results.get("config"), one.manifest
            dtype = config.get("model_dtype", "") if isinstance(config, dict) else ""
            seconds, peak = made.timing.get("seconds"), made.peak_memory_bytes
            harness = one.results.get("lm_eval_version")
            rows.append(
                [
                    text(checkpoint.shown),
                    text(one.suite),
                    text(f"lm-eval {harness}") if harness else EMPTY,
                    text(str(made.environment.get("device", ""))),
                    text(str(dtype).removeprefix("torch.")),
                    EMPTY if seconds is None else Cell(show_time(seconds), seconds),
                    EMPTY if peak is None else Cell(show_size(peak), peak),
                ]
            )
    notes = ["Peak memory is that of the process which evaluated. Times are of different machines "
             "where devices differ."]  # fmt: skip
    return Table.of("Evaluations", headings, rows, notes)


def report_csv(checkpoints: Sequence[Checkpoint], found: Sequence[Column]) -> str:
    """One line a checkpoint: facts and every score with its standard error, in plain numbers."""
    headings = [
        *("section", "checkpoint", "made", "method", "parameters", "nonzero", "sparsity"),
        *("removed", "tokens", "flops", "latency_ms", "latency_tokens"),
    ]
    for column in found:
        headings += [column.label, f"{column.label} stderr"]
    lines: list[list[float | str | None]] = []
    for place, checkpoint in enumerate(checkpoints):
        fact = Facts.of(checkpoint)
        line: list[float | str | None] = [
            *(checkpoint.section, checkpoint.name, fact.made, fact.method, fact.total),
            *(fact.nonzero, fact.sparsity, fact.removed, fact.tokens, fact.flops),
            *(fact.latency, fact.timed_tokens),
        ]
        for column in found:
            one = column.values.get(place)
            line += [one.value, one.stderr] if one else [None, None]
        lines.append(line)
    return csv_text(headings, lines)


def score(one: Measured | None) -> Cell:
    """A number with its standard error; accuracies in percent."""
    if one is None:
        return EMPTY
    scale = 100 if one.is_fraction else 1
    digits = ".1f" if one.is_fraction else (".3f" if abs(one.value) < 1000 else ".4g")
    error = "" if one.stderr is None else f" {PLUS_MINUS} {scale * one.stderr:{digits}}"
    unit = " %" if one.is_fraction else ""
    return Cell(f"{scale * one.value:{digits}}{error}{unit}", one.value)


def short(value: float | None) -> Cell:
    """A large number as a person reads it: `2T`."""
    return EMPTY if value is None else Cell(plain(value), value)


def _latency(fact: Facts) -> Cell:
    if fact.latency is None:
        return EMPTY
    tokens = f" / {fact.timed_tokens:,} tokens" if fact.timed_tokens else ""
    return Cell(f"{fact.latency:.1f} ms{tokens}", fact.latency)


def _brief(value: str) -> str:
    """A hash by its beginning."""
    return value[:12] if len(value) == 64 and value.isalnum() else value
