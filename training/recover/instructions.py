"""Rows of an instruction, perhaps an input, and the response, in Alpaca's form.

Taori et al., 2023, https://github.com/tatsu-lab/stanford_alpaca, whose two prompts these are.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from espalier.data.text_files import rows_of
from espalier.errors import InputError

COLUMNS = ("instruction", "output")
"""What every row has; `input` may be absent or empty."""
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n### Instruction:\n"
    "{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n"
)


class Exchange(NamedTuple):
    """A prompt, and the response to it."""

    prompt: str
    response: str


def exchanges_of(file: Path) -> Iterator[Exchange]:
    """Those of a file of JSON, lines of JSON or Parquet, in order.

    Raises:
        InputError: the file is not whole, or a row has no instruction or no output.
    """
    for number, row in enumerate(rows_of(file), 1):
        instruction, response = (_text(row, name, file, number) for name in COLUMNS)
        more = row.get("input") or ""
        if not instruction.strip() or not isinstance(more, str):
            what = "an empty instruction" if isinstance(more, str) else "an input that is no text"
            raise InputError(f"{file}, row {number} has {what}; correct or remove it.")
        template = WITH_INPUT if more else WITHOUT_INPUT
        yield Exchange(template.format(instruction=instruction, input=more), response)


def has_exchanges(row: Mapping[str, Any]) -> bool:
    """Whether a row is one of instructions, whatever else it lacks."""
    return COLUMNS[0] in row


def _text(row: Mapping[str, Any], name: str, file: Path, number: int) -> str:
    found = row.get(name)
    if isinstance(found, str):
        return found
    what = f"{name} that is no text" if found is not None else f"no {name}"
    there = ", ".join(list(row)[:8]) or "nothing"
    raise InputError(f"{file}, row {number} has {what} (it has {there}); correct or remove it.")
