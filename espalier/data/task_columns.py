"""What rows of a task have to hold, so that a row that does not fit is named before any model runs.

Of the tasks of the papers the columns are known; of any other, every column has to hold the same
kind of value in all rows, since they are read as one table.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from espalier.contract.json_text import to_json
from espalier.data.formats import LINES
from espalier.data.text_files import rows_of
from espalier.errors import InputError

Row = Mapping[str, Any]
Check = Callable[[Any], str]
"""What a value has to be, where it is not; nothing where it is."""


def read_rows(path: Path) -> list[tuple[int, Row]]:
    """The rows of a file, each with the number of its line (of its row, in other forms), from 1.

    Raises:
        InputError: a line is no JSON object, there are none, or the file is not whole.
    """
    if path.suffix != LINES:
        return list(enumerate(rows_of(path), 1))
    rows: list[tuple[int, Row]] = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise InputError(
                    f"{path}:{number} is not JSON lines; each line has to be a row of the task."
                )
            rows.append((number, row))
    if not rows:
        raise InputError(f"{path} holds no rows; put the task's rows there, or take the file away.")
    return rows


def check_rows(name: str, path: Path) -> None:
    """Compare the rows of a task with what it reads.

    Raises:
        InputError: one does not fit, by file, line and column.
    """
    rows = read_rows(path)
    columns = MINIMAL_PAIRS if rows[0][1].keys() >= MINIMAL_PAIRS.keys() else KNOWN.get(name, {})
    kinds: dict[str, str] = {}
    for number, row in rows:
        for column, check in columns.items():
            if column not in row:
                raise InputError(
                    f"{path}:{number} has no {column}, which a row of {name} needs; give the rows "
                    "as the hub has them."
                )
            if wanted := check(row[column]):
                shown = to_json(row[column], ensure_ascii=False)[:60]
                raise InputError(f"{path}:{number} has {column} {shown}; it has to be {wanted}.")
        if columns.keys() >= {"choices", "answerKey"}:
            labels = row["choices"]["label"]
            if row["answerKey"] not in labels:
                raise InputError(
                    f"{path}:{number} has answerKey {row['answerKey']}; it has to be one of its "
                    f"choices' labels, {', '.join(labels)}."
                )
        for column, value in row.items():
            kind = _kind(value)
            if kind and kinds.setdefault(column, kind) != kind:
                raise InputError(
                    f"{path}:{number} has {kind} in {column} where rows before have "
                    f"{kinds[column]}; make them alike."
                )


def _kind(value: Any) -> str:
    """What one column holds in every row; nothing of null, which goes with all."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    names = ((str, "a text"), (list, "a list"), (dict, "an object"))
    return next((name for kind, name in names if isinstance(value, kind)), "")


def _text(value: Any) -> str:
    return "" if isinstance(value, str) and value.strip() else "a text that is not empty"


def _maybe_text(value: Any) -> str:
    return "" if isinstance(value, str) else "a text"


def _texts(count: int) -> Check:
    def check(value: Any) -> str:
        fits = isinstance(value, list) and len(value) == count and not any(map(_text, value))
        return "" if fits else f"a list of {count} texts that are not empty"

    return check


def _number_below(count: int) -> Check:
    """A label; some of the hub's are digits in a text."""

    def check(value: Any) -> str:
        known = {*range(count), *map(str, range(count))}
        fits = not isinstance(value, bool | float | list | dict) and value in known
        return "" if fits else f"a number from 0 to {count - 1}"

    return check


def _one_of(*words: str) -> Check:
    return lambda value: "" if value in words else f"one of {', '.join(words)}, a text"


def _with_gap(value: Any) -> str:
    return "" if isinstance(value, str) and "_" in value else "a text with _ where the option goes"


def _choices(value: Any) -> str:
    texts, labels = (
        (value.get(k) for k in ("text", "label")) if isinstance(value, dict) else ((), ())
    )
    fits = (
        isinstance(texts, list)
        and isinstance(labels, list)
        and 0 < len(texts) == len(labels)
        and not any(map(_text, [*texts, *labels]))
    )
    return "" if fits else "an object of as many texts (text) as labels (label)"


MINIMAL_PAIRS: Mapping[str, Check] = {"sentence_good": _text, "sentence_bad": _text}
_ARC: Mapping[str, Check] = {"question": _text, "choices": _choices, "answerKey": _text}
KNOWN: Mapping[str, Mapping[str, Check]] = {
    "boolq": {"passage": _text, "question": _text, "label": _number_below(2)},
    "rte": {"sentence1": _text, "sentence2": _text, "label": _number_below(2)},
    "hellaswag": {
        "activity_label": _maybe_text,
        "ctx_a": _maybe_text,
        "ctx_b": _maybe_text,
        "endings": _texts(4),
        "label": _number_below(4),
    },
    "winogrande": {
        "sentence": _with_gap,
        "option1": _text,
        "option2": _text,
        "answer": _one_of("1", "2"),
    },
    "arc_easy": _ARC,
    "arc_challenge": _ARC,
    "openbookqa": {"question_stem": _text, "choices": _choices, "answerKey": _text},
    "piqa": {"goal": _text, "sol1": _text, "sol2": _text, "label": _number_below(2)},
    "sciq": {
        "question": _text,
        "support": _maybe_text,
        "correct_answer": _text,
        **dict.fromkeys(("distractor1", "distractor2", "distractor3"), _text),
    },
}


def line_of(rows: Sequence[tuple[int, Row]], index: int, count: int) -> str:
    """`:<line>` of a task's document, of `count`; nothing where the task has dropped some."""
    return f":{rows[index][0]}" if len(rows) == count else ""
