"""`make test` and `make bench`: run pytest, or the benchmarks, with each image's own pins.

An image's packages and the developers' tools lie in two virtual environments of their own; a third,
empty one sees both, the image's first, so that what is tested is what the image holds.
"""

import subprocess
import sys
from pathlib import Path

from espalier.errors import EspalierError
from espalier.images.definition import IMAGES, SHARED, digest, known_images, locked_lines
from espalier.images.lock import PYTHON_VERSION, find_uv, run_uv
from espalier.runtimes.local import ENVIRONMENTS
from espalier.venv import COMPLETE, ensure_venv

MAIN = "eval"
"""The image whose packages most tests run with; the marked ones run in the others too."""
METHODS = "wanda"
"""The image of the methods that are there so far: the benchmarks' packages."""
OTHERS = tuple(name for name in known_images() if name not in (SHARED, MAIN))


def tools_venv() -> Path:
    """Site-packages of the developers' tools (pytest, hypothesis, …)."""
    lock = IMAGES / "dev" / "requirements.lock"
    name = digest("\n".join(locked_lines(lock)).encode() for lock in [lock])[:12]
    folder = ENVIRONMENTS / f"dev-{name}"
    if not (folder / COMPLETE).is_file():
        uv = find_uv()
        failure = "the developers' tools cannot be installed"
        run_uv([uv, "venv", "-q", "--clear", "--python", PYTHON_VERSION, str(folder)], failure)
        python = str(folder / "bin" / "python")
        sync = [uv, "pip", "sync", "-q", "--require-hashes", "--compile-bytecode"]
        sync += ["--python", python, str(lock)]
        run_uv(sync, failure)
        (folder / COMPLETE).touch()
    return folder


def overlay(image: str) -> Path:
    """The python that sees an image's packages and, after them, the tools."""
    own = ensure_venv(image, "cpu", ENVIRONMENTS).parent.parent
    folder = ENVIRONMENTS / f"test-{own.name}"
    tools = tools_venv()
    run_uv(
        [find_uv(), "venv", "-q", "--clear", "--python", PYTHON_VERSION, str(folder)],
        "the tests' environment cannot be made",
    )
    site = f"lib/python{PYTHON_VERSION}/site-packages"
    (folder / site / "overlay.pth").write_text(f"{own / site}\n{tools / site}\n")
    return folder / "bin" / "python"


def main(words: list[str]) -> int:
    """Exit code of the benchmarks, or of pytest in every image."""
    if words[:1] == ["--bench"]:
        return subprocess.run(
            [overlay(METHODS), "-m", "benchmarks", *words[1:]], check=False
        ).returncode
    codes = []
    if not words:
        for image in OTHERS:
            print(f"== with the packages of image {image}", flush=True)
            marked = ["tests/unit", "-m", "every_image", "-n", "2"]
            codes.append(_pytest(image, marked))
        print(f"== with the packages of image {MAIN}", flush=True)
    codes.append(_pytest(MAIN, words or ["-n", "2", "--dist", "loadgroup"]))
    return max(codes)


def _pytest(image: str, words: list[str]) -> int:
    return subprocess.run([overlay(image), "-m", "pytest", *words], check=False).returncode


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except EspalierError as error:
        print(f"espalier: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
