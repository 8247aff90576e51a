"""Every command that the READMEs show is run: the main job whole, what needs a hub as DRY_RUN."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from espalier.contract.paths import PACKAGES, ROOT
from espalier.host.listings import overview

READMES = [
    ROOT / "README.md",
    *sorted([file for place in PACKAGES for file in ROOT.glob(f"{place}/*/README.md")]),
    ROOT / "eval/README.md",
]
ELSEWHERE = {
    "make test": "this very run",
    "make prune-wanda": "test_the_two_commands",
    "make images": "tests/images",
    "make report": "tests/unit/test_report_command",  # it needs something to report on
    "make report CKPTS=sapling,sapling-wanda-0.5 NAME=wanda": "tests/unit/test_report_command",
    "MODEL=sapling docker compose --profile wanda up": "test_containers",
    **dict.fromkeys(
        (
            "TRAIN=gpu NAME=pruned MODEL=sapling docker compose --profile wanda --profile train up",
            "TRAIN=tpu NAME=pruned MODEL=sapling docker compose --profile wanda "
            "--profile train-tpu up",
        ),
        "test_training_containers",
    ),
}


def commands() -> list[str]:
    """Lines of the READMEs' shell blocks, comments aside."""
    found = []
    for readme in READMES:
        for block in re.findall(r"```bash\n(.*?)```", readme.read_text(), re.DOTALL):
            found += [line.partition("#")[0].strip() for line in block.splitlines()]
    return [command for command in dict.fromkeys(found) if command]


def make(words: list[str], store: Path, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a make target from the project's folder, on a store of its own."""
    return subprocess.run(
        [*words, f"STORE={store}"],
        cwd=ROOT,
        # As from a user's shell, though this run may itself be make's.
        env={k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MAKE", "MFLAGS"))},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )


@pytest.mark.parametrize("command", [c for c in commands() if c not in ELSEWHERE])
def test_a_command_of_a_readme(tmp_path: Path, command: str) -> None:
    done = make([*shlex.split(command), "DRY_RUN=1", "RUNTIME=local"], tmp_path / "store", 120)
    assert done.returncode == 0, done.stderr
    assert "(would run)" in done.stdout
    assert not (tmp_path / "store").exists()


def test_every_exception_is_still_in_a_readme() -> None:
    assert set(ELSEWHERE) <= set(commands())


def test_every_target_of_the_readme_is_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z-]+)[` ]", (ROOT / "README.md").read_text()):
        family = target.partition("-")[0]
        assert re.search(rf"^#:   {target}\b|^#:   {family}-<", makefile, re.MULTILINE), target


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_two_commands(tmp_path: Path) -> None:
    """`make prune-wanda` grows sapling, prunes it and prints the table; the second is this run."""
    done = make(["make", "prune-wanda", "RUNTIME=local"], tmp_path, 900)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{tmp_path}/checkpoints/sapling-wanda-0.5"
    assert re.search(r"perplexity/pydoc +│ ppl +│ +[\d.]+ +│ +[\d.]+ +│ x1\.\d+", done.stderr)
    again = make(["make", "prune-wanda", "RUNTIME=local"], tmp_path, 100)
    assert again.returncode == 0
    assert again.stderr.count("is done already") == 3


def test_make_alone_prints_help() -> None:
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    for line in ("prune-<method>", overview(), "DRY_RUN=1"):
        assert line in done.stdout
