"""What Make hands to the command line of the words that it was given."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from espalier.contract.paths import ROOT

SAYS_WHAT_IT_GETS = """#!/usr/bin/env python3
import json, os, sys
print(json.dumps([sys.argv[3:], dict(os.environ)]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Makefile beside a Python that says what it was given."""
    folder = tmp_path_factory.mktemp("make")
    shutil.copy(ROOT / "Makefile", folder)
    lock = folder / "images" / "host" / "requirements.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(SAYS_WHAT_IT_GETS)
    python.chmod(0o755)
    (folder / ".venv" / ".ready").touch()
    return folder


def made(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *words], cwd=folder, env=kept, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "value",
    [
        "$(shell touch executed)",
        "${shell touch executed}",
        "$(eval X=1)",
        "$HOME/models/x",
        "$$HOME",
        "two  spaces and one  ",
        'it\'s "quoted" `touch executed` \\ back',
        "#1; touch executed & | < > * ? [a] ~ !",
        "a=b,c:d%e",
        "Modelle/größer",
        "-x",
        "(",
    ],
)
def test_a_value_arrives_as_it_was_given(folder: Path, value: str) -> None:
    done = made(folder, "prune-wanda", f"MODEL={value}", "PATTERN=2:4")
    assert done.returncode == 0, done.stderr
    words, environment = json.loads(done.stdout)
    assert words[0] == "prune-wanda"
    assert sorted(words[1:]) == sorted([f"MODEL={value}", "PATTERN=2:4"])
    assert "MODEL" not in environment
    assert not (folder / "executed").exists()


def test_python_is_for_setting_up(folder: Path) -> None:
    words, _ = json.loads(made(folder, "list", "PYTHON=python3.12", "STORE=a  b").stdout)
    assert words == ["list", "STORE=a  b"]


def test_a_value_of_two_lines_is_refused(folder: Path) -> None:
    done = made(folder, "prune-wanda", "MODEL=x\ntouch executed")
    assert done.returncode == 2
    assert "espalier: MODEL must be one line" in done.stderr
    assert not (folder / "executed").exists()


def test_the_developers_targets_take_theirs_from_the_environment(folder: Path) -> None:
    _, environment = json.loads(made(folder, "test", "SLOW=1").stdout)
    assert environment["SLOW"] == "1"
