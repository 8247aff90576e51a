"""`make report`: what it takes, where it writes, and what it refuses."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from espalier.contract.discovery import stages
from espalier.contract.manifest import read_manifest
from espalier.contract.paths import ROOT
from espalier.contract.store import Store
from espalier.errors import InputError
from espalier.host.cli.report import ReportWords
from espalier.host.commands.made_by import TARGETS, command_line
from espalier.host.settings import split_assignments
from espalier.host.words import Command
from tests.manifests import mark
from tests.unit.reported import a_store


def report(store: Path, *words: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("STORE", "DRY_RUN")}
    return subprocess.run(
        [sys.executable, "-m", "espalier", "report", f"STORE={store}", *words],
        cwd=ROOT, env=kept, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_a_report_is_on_the_store_and_is_replaced_whole(tmp_path: Path) -> None:
    a_store(tmp_path)
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    done = report(tmp_path)
    assert done.returncode == 0, done.stderr
    target = tmp_path / "reports" / "all"
    assert done.stdout == f"{target}\n"
    (target / "old").touch()
    assert report(tmp_path).returncode == 0
    assert not (target / "old").exists()
    assert [path.name for path in target.parent.iterdir()] == ["all"]
    assert list(Store(tmp_path).leftovers()) == []
    others = [p for p in tmp_path.rglob("*") if p.is_file() and target not in p.parents]
    assert sorted(p for p in others if ".locks" not in p.parts) == before


def test_some_checkpoints_under_a_name(tmp_path: Path) -> None:
    a_store(tmp_path)
    done = report(tmp_path, "CKPTS=half, half", "NAME=mine")
    assert done.returncode == 0, done.stderr
    assert sorted((tmp_path / "reports" / "mine" / "cards").iterdir())[0].name == "checkpoints"
    assert not (tmp_path / "reports" / "mine" / "cards" / "models").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["CKPTS=other"], "CKPTS=other is not on the store; make list shows what is."),
        (["CKPT=half"], "CKPT is not a parameter here (known: CKPTS, NAME)."),
        (["NAME=../x"], "NAME=../x cannot name an artifact"),
    ],
)
def test_wrong_words_are_one_sentence(tmp_path: Path, words: list[str], said: str) -> None:
    a_store(tmp_path)
    done = report(tmp_path, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "reports").exists()


def test_an_empty_store_has_nothing_to_report(tmp_path: Path) -> None:
    done = report(tmp_path / "none")
    assert done.returncode == 2
    assert "holds no model; make one with make prune-<method>" in done.stderr
    assert not (tmp_path / "none").exists()


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    a_store(tmp_path)
    done = report(tmp_path, "DRY_RUN=1")
    assert done.stdout == f"report: {tmp_path}/reports/all, of 2 checkpoints (would run)\n"
    assert not (tmp_path / "reports").exists()


def test_a_report_is_called_after_what_it_is_about() -> None:
    names = [ReportWords(ckpts=given).title for given in ("", "a", "models/a", "a,b,c")]
    assert names == ["all", "a", "a", "a-and-2-more"]
    assert ReportWords(ckpts="a", name="x").title == "x"


@pytest.mark.parametrize("name", sorted(stages()))
def test_a_command_line_says_the_very_parameters_that_it_was_read_from(
    tmp_path: Path, name: str
) -> None:
    stage = stages()[name]
    try:
        parameters = stage.parameters()
    except (ValidationError, InputError):
        pytest.skip("some of its parameters have no default")
    folder = tmp_path / "made"
    folder.mkdir()
    mark(folder, stage=name, verb=stage.verb, parameters=parameters.model_dump(mode="json"))
    line = command_line(read_manifest(folder))
    if line is None:
        assert name == "corpus"
        return
    make, target, *given = shlex.split(line)
    assert make == "make"
    words = split_assignments(given)
    own = {word: value for word, value in words.items() if word in stage.parameters.words()}
    assert stage.parameters.from_assignments(own).identity() == parameters.identity()
    assert target in (Command.of(stage).name, *TARGETS.values())
    assert words.keys() <= Command.of(stage).words | {"LEGACY"}
