"""A plan as a table for the terminal. Imported on the host: needs no JAX."""

import json
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table

PLAN = "plan.json"


def report(folder: Path) -> Group:
    """The tables of a published plan."""
    plan = json.loads((folder / PLAN).read_text())
    return Group(_memory(plan), _time(plan), f"The run {plan['verdict']}")


def _memory(plan: dict[str, Any]) -> Table:
    title = f"GiB on each of {plan['chips']} chips of {plan['tpu']}, as XLA compiled them"
    table, tried = Table(title=title, title_justify="left"), plan["tried"]
    table.add_column("")
    for trial in tried:
        setting = f"MICRO_BATCH={trial['micro_batch']} RECOMPUTE={int(trial['recompute'])}"
        table.add_column(setting, justify="right")
    table.add_row("weights, optimizer, masks", *(_gib(trial["state"]) for trial in tried))
    table.add_row("all else", *(_else(trial) for trial in tried))
    table.add_section()
    table.add_row("in all", *(_gib(trial["total"]) for trial in tried))
    table.add_row(
        f"of {plan['chip_bytes'] >> 30}",
        *(f"{trial['total'] / plan['chip_bytes']:.0%}" for trial in tried),
    )
    table.add_row("fits", *("yes" if trial["fits"] else "no" for trial in tried))
    table.add_row("XLA's TFLOPs, loops once", *(_tera(trial["flops"]) for trial in tried))
    table.add_row("seconds to compile", *(f"{trial['seconds']:.0f}" for trial in tried))
    return table


def _time(plan: dict[str, Any]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    speed, work = plan["tokens_per_second"], plan["flops_per_token"]
    table.add_row(
        "speed",
        f"{speed:,.0f} tokens/s, {speed / plan['chips']:,.0f} a chip, "
        f"{plan['step_seconds']:,.2f} s a step, at MFU={plan['mfu']:g} ({plan['precision']}, "
        f"{work:.3g} FLOPs a token)",
    )
    if plan["hours"] is None:
        table.add_row("time", "give TOKENS, or DATA that is on the store")
        return table
    table.add_row(
        "time",
        f"{plan['hours']:,.2f} h, {plan['chip_hours']:,.1f} chip-hours, for {plan['tokens']:,} "
        f"tokens in {plan['steps']:,} steps",
    )
    table.add_row(
        "price",
        f"${plan['dollars']:,.0f} on demand, list prices of {plan['priced']}, no storage",
    )
    return table


def _else(trial: dict[str, Any]) -> str:
    rest = trial["total"] - trial["state"]
    return _gib(rest) if rest else "not said"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f}"


def _tera(flops: float | None) -> str:
    return "" if flops is None else f"{flops / 1e12:.2f}"
