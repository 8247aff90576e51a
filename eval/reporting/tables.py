"""A table as a value, written as CSV and as Markdown; the page shows the same ones."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet would take for the beginning of a formula."""
NOTHING = "\N{EN DASH}"


@dataclass(frozen=True)
class Cell:
    """What is shown, and what it is sorted by and written as in CSV."""

    text: str
    value: float | str | None = None

    @property
    def is_number(self) -> bool:
        return isinstance(self.value, int | float)


EMPTY = Cell(NOTHING)


@dataclass(frozen=True)
class Table:
    """Headings, and rows of as many cells; `notes` are sentences below it."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    numbers: tuple[bool, ...] = ()

    @classmethod
    def of(
        cls,
        title: str,
        headings: Sequence[str],
        rows: Sequence[Sequence[Cell]],
        notes: Sequence[str] = (),
    ) -> "Table":
        """The same, with what holds numbers found out."""
        numeric = tuple(any(row[place].is_number for row in rows) for place in range(len(headings)))
        return cls(title, tuple(headings), tuple(map(tuple, rows)), tuple(notes), numeric)


def text(value: str) -> Cell:
    """Words."""
    return Cell(value, value)


def count(value: int | None) -> Cell:
    """A whole number, all of its digits."""
    return EMPTY if value is None else Cell(f"{value:,}", value)


def percent(value: float | None, digits: int = 1) -> Cell:
    """A fraction as a percentage."""
    return EMPTY if value is None else Cell(f"{100 * value:.{digits}f} %", value)


def markdown(table: Table) -> str:
    """As a section of a Markdown file."""
    notes = "".join(f"\n{_md(note)}\n" for note in table.notes)
    if not table.rows:
        return f"## {_md(table.title)}\n{notes}"
    rules = ["---:" if numeric else "---" for numeric in table.numbers]
    lines = [[*map(_md, table.headings)], rules]
    lines += [[_md(cell.text) for cell in row] for row in table.rows]
    body = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"## {_md(table.title)}\n\n{body}{notes}"


def csv_text(headings: Sequence[str], rows: Sequence[Sequence[float | str | None]]) -> str:
    """As CSV by RFC 4180, of which no cell is a formula."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([_csv(heading) for heading in headings])
    writer.writerows([_csv(value) for value in row] for row in rows)
    return out.getvalue()


def _md(words: str) -> str:
    """Text that Markdown shows as it is: no table, link, image, code or HTML begins in it."""
    line = " ".join(words.split())
    for letter in "\\`*_[]<>|":
        line = line.replace(letter, f"\\{letter}")
    return line


def _csv(value: float | str | None) -> float | str:
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
