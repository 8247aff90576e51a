"""The report as one HTML page that needs nothing else: no file, no network.

Built as a tree of elements, whose serializer escapes every name and number in it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from eval.reporting.paper import SIGNS
from eval.reporting.tables import NOTHING, Cell, Table

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""A browser holds the page to it: nothing is loaded from anywhere."""
CLASS_OF = {
    SIGNS["within"]: "within",
    SIGNS["outside"]: "outside",
    SIGNS["not run"]: "missing",
}
LONG = 40
"""Letters from which a cell's text is broken into lines."""


@dataclass(frozen=True)
class Figures:
    """Pictures under one heading, each with a caption."""

    title: str
    pictures: tuple[tuple[str, ET.Element], ...]


@dataclass(frozen=True)
class Folded:
    """A part that is shown when it is opened."""

    table: Table


def page(title: str, lead: str, parts: Sequence[Table | Figures | Folded]) -> str:
    """The whole file."""
    html = ET.Element("html", {"lang": "en"})
    head = ET.SubElement(html, "head")
    ET.SubElement(head, "meta", {"charset": "utf-8"})
    ET.SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": POLICY})
    width = {"name": "viewport", "content": "width=device-width, initial-scale=1"}
    ET.SubElement(head, "meta", width)
    _add(head, "title", title)
    _add(head, "style", _beside("page.css"))
    body = ET.SubElement(html, "body")
    main = ET.SubElement(body, "main")
    _add(main, "h1", title)
    _add(main, "p", lead)
    for part in parts:
        _part(main, part)
    _add(body, "script", _beside("page.js"))
    written = ET.tostring(html, encoding="unicode", method="html")
    return f"<!DOCTYPE html>\n{written}\n"


def _part(main: ET.Element, part: Table | Figures | Folded) -> None:
    match part:
        case Table():
            section = ET.SubElement(main, "section")
            _add(section, "h2", part.title)
            _table(section, part)
        case Folded():
            section = ET.SubElement(main, "details")
            _add(section, "summary", part.table.title)
            _table(section, part.table)
        case Figures() if part.pictures:
            section = ET.SubElement(main, "section")
            _add(section, "h2", part.title)
            grid = ET.SubElement(section, "div", {"class": "figures"})
            for caption, picture in part.pictures:
                figure = ET.SubElement(grid, "figure")
                _add(figure, "figcaption", caption)
                figure.append(picture)


def _table(section: ET.Element, table: Table) -> None:
    """In a box of its own, which scrolls where the table is wider than the page."""
    if table.rows:
        about = {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": table.title}
        shown = ET.SubElement(ET.SubElement(section, "div", about), "table")
        heads = ET.SubElement(ET.SubElement(shown, "thead"), "tr")
        for heading, numeric in zip(table.headings, table.numbers, strict=True):
            head = ET.SubElement(heads, "th", {"scope": "col", "aria-sort": "none"})
            if numeric:
                head.set("class", "number")
            _add(head, "button", heading).set("type", "button")
        body = ET.SubElement(shown, "tbody")
        for row in table.rows:
            _row(body, row, table.numbers)
    _notes(section, table.notes)


def _row(body: ET.Element, cells: Iterable[Cell], numbers: Sequence[bool]) -> None:
    line = ET.SubElement(body, "tr")
    for place, (cell, numeric) in enumerate(zip(cells, numbers, strict=True)):
        first = {"scope": "row"} if place == 0 else {}
        element = _add(line, "td" if place else "th", cell.text)
        element.attrib.update(first)
        element.set("data-value", "" if cell.value is None else str(cell.value))
        if kind := _class(cell, numeric):
            element.set("class", kind)


def _class(cell: Cell, numeric: bool) -> str:
    if cell.text in CLASS_OF:
        return CLASS_OF[cell.text]
    kinds = ["number"] if numeric else []
    kinds += ["missing"] if cell.text == NOTHING else []
    kinds += ["words"] if len(cell.text) > LONG and not numeric else []
    return " ".join(kinds)


def _notes(section: ET.Element, notes: Sequence[str]) -> None:
    for note in notes:
        _add(section, "p", note)


def _add(parent: ET.Element, tag: str, words: str) -> ET.Element:
    element = ET.SubElement(parent, tag)
    element.text = words
    return element


def _beside(name: str) -> str:
    """One of the files beside this module, which hold no text of anyone else's."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
