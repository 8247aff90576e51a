"""A plan as a table for the terminal. Imported on the host: needs no torch."""

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
    table = Table(title=f"GiB on each of {told['gpus']} {told['gpu']}", title_justify="left")
    table.add_column("")
    for peak in told["peaks"]:
        table.add_column(
            f"MICRO_BATCH={peak['micro_batch']} RECOMPUTE={int(peak['recompute'])}",
            justify="right",
        )
    parts = dict.fromkeys(part for peak in told["peaks"] for part in peak["parts"])
    for part in parts:
        table.add_row(part, *(_gib(peak["parts"].get(part, 0)) for peak in told["peaks"]))
    table.add_section()
    table.add_row("peak", *(_gib(peak["peak_bytes"]) for peak in told["peaks"]))
    table.add_row(
        f"of {told['gpu_bytes'] >> 30}",
        *(f"{peak['peak_bytes'] / told['gpu_bytes']:.0%}" for peak in told["peaks"]),
    )
    table.add_row(
        "fits up to MICRO_BATCH",
        *(str(peak["largest_micro_batch"] or "none") for peak in told["peaks"]),
    )
    return table


def _time(told: dict[str, Any]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    speed = told["tokens_per_second"]
    table.add_row(
        "speed",
        f"{speed:,.0f} tokens/s, {speed / told['gpus']:,.0f} a GPU, at MFU={told['mfu']:g} "
        f"({told['precision']}, {told['flops_per_token']:.3g} FLOPs a token)",
    )
    if told["hours"] is None:
        table.add_row("time", "give TOKENS, or DATA that is on the store")
    else:
        table.add_row(
            "time",
            f"{told['hours']:,.2f} h, {told['gpu_hours']:,.1f} GPU hours, for "
            f"{told['tokens']:,} tokens in {told['steps']:,} steps",
        )
    return table


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f}"
