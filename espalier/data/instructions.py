"""Rows of an instruction, perhaps an input, and the output that is wanted, in Alpaca's form.

Taori et al., 2023, https://github.com/tatsu-lab/stanford_alpaca, whose two prompts these are.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from espalier.data.formats import TEXT, format_of
from espalier.data.text_files import rows_of
from espalier.errors import InputError

WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n### Instruction:\n"
    "{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n"
)


class Instruction(NamedTuple):
    """One row; `input` is empty where there is none."""

    instruction: str
    input: str
    output: str

    @property
    def prompt(self) -> str:
        """What stands before the output."""
        template = WITH_INPUT if self.input else WITHOUT_INPUT
        return template.format(instruction=self.instruction, input=self.input)

    @classmethod
    def of(cls, row: Mapping[str, Any], where: str) -> Self:
        """Of a file's row; `where` is for the error.

        Raises:
            InputError: it has no instruction, or no output.
        """
        found: dict[str, Any] = {name: row.get(name) for name in cls._fields}
        found["input"] = found["input"] or ""
        for name, value in found.items():
            if not isinstance(value, str):
                what = f"no {name}" if value is None else f"{name} that is no text"
                there = ", ".join(list(row)[:8]) or "nothing"
                raise InputError(f"{where} has {what} (it has {there}); correct or remove it.")
        if not found["instruction"].strip():
            raise InputError(f"{where} has an empty instruction; correct or remove it.")
        return cls(**found)


def instructions_of(file: Path) -> Iterator[Instruction]:
    """Those of a file of JSON, lines of JSON or Parquet, in order.

    Raises:
        InputError: the file is not whole, or a row has no instruction or no output.
    """
    for number, row in enumerate(rows_of(file), 1):
        yield Instruction.of(row, f"{file}, row {number}")


def columns_of(file: Path) -> tuple[str, ...]:
    """The names in the first row of a file of JSON or Parquet; none where it is none or has none.

    Raises:
        InputError: the file is not whole.
    """
    if (format_of(file.name) or TEXT).startswith(TEXT):
        return ()
    return tuple(next(rows_of(file), {}))


def has_instructions(columns: tuple[str, ...]) -> bool:
    """Whether rows with these names are instructions, whatever else they lack."""
    return "instruction" in columns
