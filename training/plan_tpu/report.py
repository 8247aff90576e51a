"""A plan as a table for the terminal. Imported on the host: needs no JAX."""

import json
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table

PLAN = "plan.json"


def report(plan: Path) -> Group:
    """The tables of a published plan."""
    told = json.loads((plan / PLAN).read_text())
    return Group(_memory(told), _time(told), f"The run {told['verdict']}")


def _memory(told: dict[str, Any]) -> Table:
    title = f"GiB on each of {told['chips']} chips of {told['tpu']}, as XLA compiled them"
    table, tried = Table(title=title, title_justify="left"), told["tried"]
    table.add_column("")
    for trial in tried:
        setting = f"MICRO_BATCH={trial['micro_batch']} RECOMPUTE={int(trial['recompute'])}"
        table.add_column(setting, justify="right")
    table.add_row("weights, optimizer, masks", *(_gib(trial["state"]) for trial in tried))
    table.add_row("all else", *(_else(trial) for trial in tried))
    table.add_section()
    table.add_row("in all", *(_gib(trial["total"]) for trial in tried))
    table.add_row(
        f"of {told['chip_bytes'] >> 30}",
        *(f"{trial['total'] / told['chip_bytes']:.0%}" for trial in tried),
    )
    table.add_row("fits", *("yes" if trial["fits"] else "no" for trial in tried))
    table.add_row("XLA's TFLOPs, loops once", *(_tera(trial["flops"]) for trial in tried))
    table.add_row("seconds to compile", *(f"{trial['seconds']:.0f}" for trial in tried))
    return table


def _time(told: dict[str, Any]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    speed, work = told["tokens_per_second"], told["flops_per_token"]
    table.add_row(
        "speed",
        f"{speed:,.0f} tokens/s, {speed / told['chips']:,.0f} a chip, "
        f"{told['step_seconds']:,.2f} s a step, at MFU={told['mfu']:g} ({told['precision']}, "
        f"{work:.3g} FLOPs a token)",
    )
    if told["hours"] is None:
        table.add_row("time", "give TOKENS, or DATA that is on the store")
        return table
    table.add_row(
        "time",
        f"{told['hours']:,.2f} h, {told['chip_hours']:,.1f} chip-hours, for {told['tokens']:,} "
        f"tokens in {told['steps']:,} steps",
    )
    table.add_row(
        "price", f"${told['dollars']:,.0f} on demand, list prices of {told['priced']}, no storage"
    )
    return table


def _else(trial: dict[str, Any]) -> str:
    rest = trial["total"] - trial["state"]
    return _gib(rest) if rest else "not said"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f}"


def _tera(flops: float | None) -> str:
    return "" if flops is None else f"{flops / 1e12:.2f}"
