"""Whatever installs Python packages here: by hash only, and building none with unknown tools.

A package without a wheel runs code as it is installed, of tools that it names itself; those are
pinned by their own lock, or nothing is built at all.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from espalier.contract.image import locked_lines, locked_names
from espalier.contract.paths import ROOT
from espalier.host.images.definition import IMAGES, known_images, load_image
from espalier.host.images.lock import known_locks, locks_of

INSTALLER = r"\bpip3?['\"]? (?:-\S+ )*(?:install|sync|download|wheel|compile)\b"
BUILDS_NOTHING = ("--only-binary=:all:", "--only-binary :all:", "--no-build")
CONSTRAINED = "--build-constraints"
NOT_OURS = {"tests/images/test_installs.py"}


def tracked() -> list[str]:
    """The project's files, but for what only tells of it."""
    found = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\n")  # fmt: skip
    return [name for name in found if name and not name.endswith((".md", ".lock", ".in"))]


def installs() -> Iterator[tuple[str, str]]:
    """Where each command of an installer stands, and its words."""
    for name in tracked():
        path = ROOT / name
        if name in NOT_OURS or not path.is_file():
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        if path.suffix == ".py":
            yield from ((f"{name}:{where}", words) for where, words in in_python(text))
        else:
            yield from ((name, words) for words in in_shell(text))


def in_shell(text: str) -> Iterator[str]:
    """Of a Dockerfile, a Makefile or a script: up to where its command ends."""
    lines = [line for line in text.split("\n") if not line.lstrip().startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    for found in re.finditer(rf"{INSTALLER}[^&|;\n]*", whole):
        yield found[0]


def in_python(text: str) -> Iterator[tuple[str, str]]:
    """The texts of each function that calls an installer, in their order, and what it looks up."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            below = sorted(
                (each for each in ast.walk(node) if isinstance(each, ast.Constant | ast.Attribute)),
                key=lambda each: (each.lineno, each.col_offset),
            )
            texts = [str(each.value) for each in below if isinstance(each, ast.Constant)]
            names = [f".{each.attr}" for each in below if isinstance(each, ast.Attribute)]
            if re.search(INSTALLER, " ".join(texts)):
                yield str(node.lineno), " ".join([*texts, *names])


FOUND = sorted(installs())


def test_the_installers_are_found() -> None:
    """Those that there are at least; a search that finds none would pass all that follows."""
    places = {where.partition(":")[0] for where, _ in FOUND}
    assert places >= {
        *("Makefile", ".ci/run", "images/Dockerfile", "images/torch/Dockerfile"),
        *("images/maxtext/Dockerfile", "tests/run.py", "inputs/fetch/package.py"),
        *("espalier/host/images/venv.py", "espalier/host/images/lock.py"),
    }


@pytest.mark.parametrize("where", sorted({where.partition(":")[0] for where, _ in FOUND}))
def test_it_installs_by_hash_and_builds_with_what_is_pinned(where: str) -> None:
    for place, words in FOUND:
        if place.partition(":")[0] != where:
            continue
        # A lock is written by its hashes, and read by them.
        assert "--require-hashes" in words or "--generate-hashes" in words, words
        builds_nothing = any(flag in words for flag in BUILDS_NOTHING)
        assert builds_nothing or CONSTRAINED in words or ".building" in words, words


def test_every_lock_is_compiled_so() -> None:
    for name in known_locks():
        for lock in locks_of(name):
            words = lock.command(Path("out"))
            if "--no-build" not in words:
                constraints = words[words.index(CONSTRAINED) + 1]
                assert (
                    lock.source.parent / constraints
                ).resolve() == IMAGES / "torch/installer.lock"
            else:
                assert lock.target.name == "installer.lock"


LOCKS = [IMAGES / "torch/installer.lock", ROOT / ".ci/compose-build.lock"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_what_builds_is_locked_by_hash(lock: Path) -> None:
    lines = locked_lines(lock)
    pins = [number for number, line in enumerate(lines) if "==" in line]
    assert pins
    assert all(lines[number + 1].startswith("--hash=sha256:") for number in pins)


def test_those_are_all_the_locks_that_builds_are_told() -> None:
    known = {lock.name for lock in LOCKS}
    named = {found for _, words in FOUND for found in re.findall(rf"{CONSTRAINED}[= ](\S+)", words)}
    assert {Path(name).name for name in named if name.endswith(".lock")} == known
    assert {load_image(name).installer_lock for name in known_images()} == {LOCKS[0]}
    assert {"setuptools", "wheel", "uv"} <= set(locked_names(LOCKS[0]))
