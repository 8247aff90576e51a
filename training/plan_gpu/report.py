"""A plan as a table for the terminal. Imported on the host: needs no torch."""

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
    table = Table(title=f"GiB on each of {plan['gpus']} {plan['gpu']}", title_justify="left")
    table.add_column("")
    for peak in plan["peaks"]:
        table.add_column(
            f"MICRO_BATCH={peak['micro_batch']} RECOMPUTE={int(peak['recompute'])}",
            justify="right",
        )
    parts = dict.fromkeys(part for peak in plan["peaks"] for part in peak["parts"])
    for part in parts:
        table.add_row(part, *(_gib(peak["parts"].get(part, 0)) for peak in plan["peaks"]))
    table.add_section()
    table.add_row("peak", *(_gib(peak["peak_bytes"]) for peak in plan["peaks"]))
    table.add_row(
        f"of {plan['gpu_bytes'] >> 30}",
        *(f"{peak['peak_bytes'] / plan['gpu_bytes']:.0%}" for peak in plan["peaks"]),
    )
    table.add_row(
        "fits up to MICRO_BATCH",
        *(str(peak["largest_micro_batch"] or "none") for peak in plan["peaks"]),
    )
    return table


def _time(plan: dict[str, Any]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    speed = plan["tokens_per_second"]
    table.add_row(
        "speed",
        f"{speed:,.0f} tokens/s, {speed / plan['gpus']:,.0f} a GPU, at MFU={plan['mfu']:g} "
        f"({plan['precision']}, {plan['flops_per_token']:.3g} FLOPs a token)",
    )
    if plan["hours"] is None:
        table.add_row("time", "give TOKENS, or DATA that is on the store")
    else:
        table.add_row(
            "time",
            f"{plan['hours']:,.2f} h, {plan['gpu_hours']:,.1f} GPU hours, for "
            f"{plan['tokens']:,} tokens in {plan['steps']:,} steps",
        )
    return table


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f}"
