"""Rows of tasks for a model of the tests' own words, and the folder that they are given in."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Rows = Sequence[Mapping[str, Any]]
CHOICES = {"text": ["quick", "lazy dog", "the fox"], "label": ["A", "B", "C"]}
TASKS: dict[str, Rows] = {
    "word_order": [
        {"sentence_good": f"the {noun} jumps", "sentence_bad": f"jumps the {noun} the"}
        for noun in ("fox", "dog", "over", "lazy", "quick", "brown")
    ],
    "arc_easy": [
        {"id": str(number), "question": question, "choices": CHOICES, "answerKey": "B"}
        for number, question in enumerate(("the fox?", "what jumps?", "which dog?"))
    ],
}
"""Minimal pairs, and questions with answers."""


def write_tasks(folder: Path, tasks: Mapping[str, Rows]) -> None:
    """Make the folder, with a file of JSON lines for each task."""
    folder.mkdir()
    for name, rows in tasks.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
