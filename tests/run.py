"""`make test`, `bench` and `soak`: run pytest, benchmarks or a soak with each image's own pins.

An image's packages and the developers' tools for its Python lie in two virtual environments of
their own; a third, empty one sees both, the image's first: what is tested is what the image holds.

Tests run with the packages of `eval`, those marked `every_image` with the others' too where those
hold models in other releases than an image before them, and those marked with an image's name with
that image's alone (conftest.py registers a marker for each folder under images/). An image whose
Python this machine lacks is passed over, and said to be; so is one of whose tests CI remembers that
they passed in this very state (green.py). Without words all run, side by side (sessions.py).

    python -m tests.run [pytest's words | --bench … | --soak … | --environments]
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock

from espalier.contract.image import SHARED, digest, locked_lines
from espalier.contract.paths import ROOT
from espalier.errors import EspalierError
from espalier.host.images.definition import IMAGES, Image, known_images, load_image
from espalier.host.images.lock import HOST_PYTHON, find_uv, run_uv
from espalier.host.images.venv import COMPLETE, ensure_venv, find_python
from espalier.host.runtimes.local import ENVIRONMENTS
from tests import green
from tests.sessions import NOTHING_COLLECTED, PARALLEL, Session, exit_code, run_all

MAIN = "eval"
"""The image whose packages most tests run with; the marked ones run in the others too."""
BENCHED = {
    **dict.fromkeys(("maxtext", "training"), ("fsdp", "cpu")),
    **dict.fromkeys(("evaluation", "requests"), ("eval", "cpu")),
    "jax-rows": ("maxtext", "cpu"),
    "plan-tpu": ("maxtext", "tpu"),
    **dict.fromkeys(("shearing", "units"), ("minitron", "cpu")),
    "masks": ("sheared-llama", "cpu"),
}
"""The image, and its variant, whose packages a benchmark runs with; the others are of methods."""
METHODS = ("wanda", "cpu")
OTHERS = tuple(name for name in known_images() if name not in (SHARED, MAIN))
WITHOUT_MODELS = tuple(
    name for name in OTHERS if not {"torch", "transformers"} <= load_image(name).packages("cpu")
)
"""The images without transformers or torch: only tests marked for them can be imported there."""
DECISIVE = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow", "lm-eval")
"""Whose releases decide what a test of every image comes to."""
UNREAD = (":!.ci", ":!benchmarks", ":!*.md", ":!images")
"""What no image's tests read, but for those that run with the packages of `eval`."""


def tools_venv(image: Image) -> Path:
    """The developers' tools (pytest, hypothesis, …) for the image's Python."""
    lock = IMAGES / "dev" / "requirements.lock"
    name = digest("\n".join(locked_lines(lock)).encode() for lock in [lock])[:12]
    suffix = "" if image.python == HOST_PYTHON else f"-python{image.python}"
    folder = ENVIRONMENTS.resolve() / f"dev-{name}{suffix}"  # one path for clones that share it
    if (folder / COMPLETE).is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / COMPLETE).is_file():  # another process may have made it meanwhile
            failure = "the developers' tools cannot be installed"
            _empty_venv(image, folder, failure)
            python = str(folder / "bin" / "python")
            sync = [find_uv(), "pip", "sync", "-q", "--require-hashes", "--no-build"]
            run_uv([*sync, "--python", python, str(lock)], failure)
            (folder / COMPLETE).touch()
    return folder


def overlay(name: str, accel: str = "cpu") -> Path:
    """The python that sees an image's packages and, after them, the tools."""
    image = load_image(name)
    own = ensure_venv(name, accel, ENVIRONMENTS).parent.parent
    folder = ENVIRONMENTS / f"test-{own.name}"
    site = f"lib/python{image.python}/site-packages"
    listing, seen = folder / site / "overlay.pth", f"{own / site}\n{tools_venv(image) / site}\n"
    if not listing.is_file() or listing.read_text() != seen:  # another run may be using it
        _empty_venv(image, folder, "the tests' environment cannot be made")
        listing.write_text(seen)
    return folder / "bin" / "python"


def _empty_venv(image: Image, folder: Path, failure: str) -> None:
    command = [find_uv(), "venv", "-q", "--clear", "--no-project", "--python", image.python]
    run_uv([*command, str(folder)], failure, image.bottom.folder)


def main(words: list[str]) -> int:
    """Exit code of the benchmarks, or of pytest in every image."""
    if words[:1] == ["--bench"]:
        image, accel = BENCHED.get("".join(words[1:2]), METHODS)
        command = [overlay(image, accel), "-m", "benchmarks", *words[1:]]
        return subprocess.run(command, check=False).returncode
    if words[:1] == ["--soak"]:
        command = [overlay(MAIN), "-m", "tests.soak", *words[1:]]
        return subprocess.run(command, check=False).returncode
    if words == ["--environments"]:
        _make_environments()
        return 0
    return exit_code(_given(words)) if words else run_all(_everything())


def _make_environments() -> None:
    """All that the tests need; their times say that they are in use."""
    for name in (MAIN, *OTHERS):
        if find_python(load_image(name)):
            for folder in (overlay(name).parent.parent, tools_venv(load_image(name))):
                folder.touch()
            ensure_venv(name, "cpu", ENVIRONMENTS).parent.parent.touch()


def _everything() -> Iterable[Session]:
    """The longest first, which the others then run beside."""
    own = images_with_tests()
    containers = os.environ.get("ESPALIER_CONTAINER_TESTS") == "1"
    covered = {_decisive(load_image(MAIN))}
    yield _session(MAIN, MAIN, [], no_other([*own, "slurm", *["containers"] * containers]))
    if containers:
        yield _session("containers", MAIN, marked("containers", []), "containers")
    for image in OTHERS:
        if not find_python(load_image(image)):
            print(_passed_over(image), flush=True)
        elif image in WITHOUT_MODELS or _decisive(load_image(image)) in covered:
            yield _session(image, image, marked(image, []), mark_of(image))
        else:
            covered.add(_decisive(load_image(image)))
            files = sorted({*marked(image, []), *marked("every_image", [])})
            yield _session(image, image, files, f"every_image or {mark_of(image)}")
    # There is one cluster: its tests follow each other.
    yield _session("slurm", MAIN, [*marked("slurm", []), "-n", "0"], "slurm")


def _decisive(image: Image) -> frozenset[str]:
    """The releases of DECISIVE that an image holds: `torch==2.13.0`."""
    pins = (line.split()[0] for lock in image.lock_files("cpu") for line in locked_lines(lock))
    return frozenset(pin for pin in pins if pin.partition("==")[0] in DECISIVE)


def _session(name: str, image: str, words: list[str], marks: str) -> Session:
    """Those that run with other packages than most are remembered; most always run."""
    state = _state(image) if image != MAIN else None
    command = tuple(narrowed([*PARALLEL, *words], marks))
    return Session(name, lambda: overlay(image), command, state)


def _state(name: str) -> str | None:
    """All that an image's tests may depend on: code, tests, its own pins and the shared folder."""
    if not os.environ.get(green.VARIABLE):
        return None
    folders, image = [SHARED, "dev", "host"], load_image(name)
    while image.parent:
        folders.append(image.name)
        image = image.parent
    folders.append(image.name)
    pins = [":(glob)images/*", *(f"images/{folder}" for folder in folders)]
    files = green.tracked(*UNREAD) + green.tracked(*pins)
    shared = Path(os.environ.get("ESPALIER_SHARED", ROOT.parent / "shared"))
    files_there = (path for path in shared.rglob("*") if path.is_file())
    held = sorted((str(path.relative_to(shared)), path.stat().st_size) for path in files_there)
    return green.state(files, repr(held), os.environ.get("SLOW", ""))


def _given(words: list[str]) -> Iterable[int]:
    own = images_with_tests()
    yield _pytest(MAIN, words, no_other(own))
    for image in own:
        if found := marked(image, words):
            options = [word for word in words if not _path(word).exists()]
            yield _pytest(image, [*found, *options], mark_of(image))


def images_with_tests() -> tuple[str, ...]:
    """The images whose mark some test has, since it needs their packages."""
    return tuple(image for image in OTHERS if marked(image, []))


def no_other(own: Iterable[str]) -> str:
    """The marker expression of the tests that need no other image's packages."""
    return " and ".join(f"not {mark_of(image)}" for image in own)


def mark_of(image: str) -> str:
    """The marker of the tests that need an image's packages: its name, as Python writes it."""
    return image.replace("-", "_")


def marked(image: str, words: Iterable[str]) -> list[str]:
    """The tests that the words name, or all, less the files without the image's mark."""
    found, mark = [], f"mark.{mark_of(image)}"
    for word in [word for word in words if _path(word).exists()] or [str(ROOT / "tests")]:
        path = _path(word)
        files = {str(file): file for file in path.rglob("test_*.py")} or {word: path}
        found += [name for name in sorted(files) if mark in files[name].read_text()]
    return found


def _path(word: str) -> Path:
    """What a word names, if it names tests."""
    return ROOT / word.partition("::")[0]


def narrowed(words: Iterable[str], marks: str) -> list[str]:
    """Pytest's words with `marks` as their marker expression, or added to their own."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-m", default="")
    given, others = parser.parse_known_args(list(words))
    both = " and ".join(f"({expression})" for expression in (given.m, marks) if expression)
    return [*others, "-m", both]


def _pytest(image: str, words: Iterable[str], marks: str) -> int:
    if not find_python(load_image(image)):
        print(_passed_over(image), flush=True)
        return NOTHING_COLLECTED
    print(f"== with the packages of image {image}", flush=True)
    command = [overlay(image), "-m", "pytest", *narrowed(words, marks)]
    return subprocess.run(command, check=False).returncode


def _passed_over(image: str) -> str:
    python = load_image(image).python
    return f"== image {image} is passed over: no Python {python} is on this machine"


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except EspalierError as error:
        print(f"espalier: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
