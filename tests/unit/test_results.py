"""The README's results of a real LLM: every command is one, and the table is the store's."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results as subject
from espalier.contract.discovery import stage_named
from espalier.host.commands.pruning import PruningCommand
from espalier.models.aliases import model_aliases


def test_every_command_is_understood() -> None:
    assert model_aliases()[subject.MODEL].package
    made = [*subject.masked(), *subject.structured()]
    for run in made:
        method, *words = run.command
        given = dict(word.split("=", 1) for word in words)
        given.pop("SUITE")
        command = PruningCommand.parse(method.removeprefix("prune-"), given)
        assert command.sources.name == run.name
    names = [run.name for run in made]
    assert len(set(names)) == len(names) == 6 + 3 * 13
    recovered = list(subject.recovered())
    assert {run.parent for run in recovered} == {subject.MODEL, *subject.BEST}
    stage_named("recover").parameters.from_assignments(
        dict(word.split("=", 1) for word in subject.RECOVERY if not word.startswith("DATA="))
    )
    for what in subject.MEASURED:
        first, _, *words = subject.evaluation("structured", names[0], what, "test.txt", "rows")
        given = dict(word.split("=", 1) for word in words)
        own = {key: v for key, v in given.items() if key not in ("DATA", "TASK_DATA", "NAME")}
        assert first == "eval"
        stage_named("eval").parameters.from_assignments(own)


def test_the_table_is_what_the_store_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = next(run for run in subject.structured() if run.method == "shortgpt")
    scores = {"timing": {"seconds": 30}, "peak_memory_bytes": 3 << 30, "inputs": {}}
    made: dict[str, Any] = {
        "model": {"nonzero": 113_300_000},
        "timing": {"seconds": 90},
        "peak_memory_bytes": 1 << 30,
        "inputs": {"model": {"name": "models/m"}, "scores": {"name": "scores/s"}},
    }
    _write(tmp_path / "scores" / "s" / "manifest.json", scores)
    _write(tmp_path / "checkpoints" / run.name / "manifest.json", made)
    found = {"perplexity/test": {"ppl,none": 20.126, "alias": "x"}}
    _write(tmp_path / "evals" / run.name / "wikitext2-1024" / "results.json", {"results": found})
    tasks = {"a": {"acc,none": 0.5}, "b": {"acc,none": 1.0}}
    _write(tmp_path / "evals" / run.name / "blimp" / "results.json", {"results": tasks})
    readme = tmp_path / "README.md"
    begin, end = (mark.format("structured") for mark in subject.MARKS)
    others = [line.format("masked") for line in (subject.MARKS[0], "another", subject.MARKS[1])]
    readme.write_text("\n".join(["before", *others, begin, "old", end, "after", ""]))
    monkeypatch.setattr(subject, "README", readme)
    assert subject.main([f"STORE={tmp_path}", "ONLY=structured", "TABLE=1"]) == 0
    lines = readme.read_text().splitlines()
    assert f"| shortgpt | {run.setting} | 113.3 | 20.13 |  | 0.750 | 2.0 | 3.00 |" in lines
    assert lines[:5] == ["before", *others, begin]
    assert lines[-2:] == [end, "after"]
    assert "old" not in lines
    assert len(lines) == 7 + 2 + 1 + len(list(subject.structured()))


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
