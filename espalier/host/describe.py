"""What `make help-<stage>` prints: every word of a command, with its default and its bounds."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from espalier.contract.parameters import Parameters
from espalier.contract.stage import Stage
from espalier.host.words import Command

BOUNDS = {
    "minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}",
    "exclusiveMaximum": "< {}", "minLength": "not empty",
}  # fmt: skip
KINDS = {"integer": "whole number", "number": "number", "boolean": "0 or 1"}


def describe(command: Command) -> RenderableType:
    """The command's stage, its inputs and each word that it takes."""
    stage = command.stage
    rows = [f"make {command.name} [NAME=value ...]", stage.summary, ""]
    rows += [f"image   {stage.image}", f"gives   {stage.section}/<NAME>"]
    rows += [f"input   {role}{_need(stage, role)}" for role in stage.inputs]
    parts: list[RenderableType] = [Text("\n".join(rows))]
    if command.sources:
        sources = _table("inputs and result", "", "")
        for word, text in command.sources.items():
            sources.add_row(word, "", "", text)
        parts.append(sources)
    shown: set[str] = set()
    for each in command.stages:
        title = "parameters" if each is stage else f"parameters of {each.name}"
        table = _table(title, "default", "may be")
        for word, row in parameter_rows(each.parameters).items():
            if word not in shown:
                table.add_row(word, *row)
        shown |= each.parameters.words()
        if table.row_count:
            parts.append(table)
    return Group(*(Group("", part) for part in parts))


def _need(stage: Stage, role: str) -> str:
    if role in stage.derived:
        return f"  (made by {stage.derived[role].stage})"
    return "" if stage.inputs[role] else "  (not always)"


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in (*titles, ""):
        # Names and defaults are for copying: only what a word means is folded.
        table.add_column(title, no_wrap=title != "", overflow="fold")
    return table


def parameter_rows(parameters: type[Parameters]) -> dict[str, tuple[str, str, str]]:
    """Default, bounds and description of each parameter that may be given, by its word."""
    schema = parameters.model_json_schema()
    definitions, known = schema.get("$defs", {}), parameters.words()
    return {
        word: (_default(entry), _bounds(entry, definitions), entry.get("description", ""))
        for word, entry in schema["properties"].items()
        if word in known
    }


def _default(entry: Mapping[str, Any]) -> str:
    if "default" not in entry:
        return "(needed)"
    default = entry["default"]
    if isinstance(default, bool):
        return str(int(default))
    return "" if default is None else str(default)


def _bounds(entry: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "$ref" in entry:
        return _bounds(definitions[entry["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in entry:  # the other is nothing
        (given,) = [each for each in entry["anyOf"] if each.get("type") != "null"]
        return _bounds(given, definitions)
    if "enum" in entry:
        return ", ".join(entry["enum"])
    if "const" in entry:
        return str(entry["const"])
    limits = [text.format(entry[key]) for key, text in BOUNDS.items() if key in entry]
    return ", ".join(limits) or KINDS.get(entry.get("type", ""), "")
