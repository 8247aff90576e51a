"""No NaN and no infinity in any JSON that is written."""

import ast
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.contract.json_text import to_json
from espalier.contract.paths import ROOT
from espalier.contract.progress import Progress
from espalier.errors import InputError
from espalier.models.shapes import read_config

ONE_WRITER = "espalier/contract/json_text.py"
ALONE_IN_AN_IMAGE = "images/torch/check.py"
CODE = ("espalier", "methods", "eval", "training", "inputs", "images", "benchmarks", "studies")
FROM_ELSEWHERE = (
    *("espalier/contract", "espalier/models", "espalier/data", "inputs"),
    *("training/conversion", "training/compaction"),
)
"""Where files are read that anybody may have written."""
READ_OTHERWISE = {
    "espalier/contract/fingerprint.py",  # our own notes
    "espalier/contract/lock.py",
    "espalier/contract/summaries.py",
    "espalier/data/task_columns.py",  # rows, each of which is told by its line
    "espalier/data/text_files.py",
    "espalier/data/spelled_out.py",  # what the library of tokenizers says
}
SCALARS = st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False)
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3)
)


def test_all_json_is_written_by_one_function() -> None:
    found = []
    for path in (path for top in CODE for path in (ROOT / top).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            written = isinstance(node, ast.Attribute) and node.attr in {"dump", "dumps"}
            if written and isinstance(node.value, ast.Name) and "json" in node.value.id:
                found.append(path.relative_to(ROOT).as_posix())
            if isinstance(node, ast.ImportFrom) and node.module == "json":
                found.append(f"{path}: from json import")
    assert sorted(found) == sorted([ONE_WRITER, ALONE_IN_AN_IMAGE])
    assert "allow_nan=False" in (ROOT / ALONE_IN_AN_IMAGE).read_text()


def test_what_comes_from_elsewhere_is_read_by_one_function() -> None:
    found = set()
    for path in (path for top in FROM_ELSEWHERE for path in (ROOT / top).rglob("*.py")):
        if re.search(r"\bjson\.loads?\(", path.read_text(encoding="utf-8")):
            found.add(path.relative_to(ROOT).as_posix())
    assert found == {ONE_WRITER, *READ_OTHERWISE}


@given(VALUES, st.sampled_from([math.nan, math.inf, -math.inf]))
def test_numbers_that_json_does_not_have_are_refused(value: Any, wrong: float) -> None:
    try:
        text = to_json(value)
    except InputError:
        assert any(word in json.dumps(value) for word in ("Infinity", "NaN"))
    else:
        assert text == json.dumps(value)
    for spoilt in (wrong, [value, wrong], {"a": {"b": (1, wrong)}}):
        with pytest.raises(InputError, match="became NaN or infinite, so nothing is written"):
            to_json(spoilt)


def test_the_place_is_named() -> None:
    scores = {"layers": 2, "hidden": [[1.0, 2.0], [3.0, math.inf]]}
    with pytest.raises(InputError, match=r"^hidden\.1\.1 became NaN or infinite"):
        to_json(scores, indent=1)
    with pytest.raises(InputError, match=r"^task\.acc became NaN"):
        to_json({"task": {"acc": object()}}, default=lambda value: math.nan)
    with pytest.raises(InputError, match=r"^a result became NaN"):
        to_json(math.nan)


def test_layouts_are_those_of_the_library() -> None:
    value = {"b": 1e-5, "a": ["ä", 1.0, None, True]}
    layouts: list[dict[str, Any]] = [
        {"indent": 2, "sort_keys": True},
        {"separators": (",", ":"), "ensure_ascii": False},
    ]
    for layout in layouts:
        assert to_json(value, **layout) == json.dumps(value, **layout)


def test_metrics_are_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Progress(path).steps("train", 2) as steps:
        steps.advance(loss=1.0)
        with pytest.raises(InputError, match=r"^loss became NaN"):
            steps.advance(loss=math.nan)
    assert [json.loads(line)["loss"] for line in path.read_text().splitlines()] == [1.0]


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a_config_that_is_no_json_is_refused_before_it_is_copied(
    tmp_path: Path, constant: str
) -> None:
    (tmp_path / "config.json").write_text(f'{{"model_type": "llama", "rope_theta": {constant}}}')
    with pytest.raises(InputError, match=f"holds {constant}, which JSON does not have"):
        read_config(tmp_path)
