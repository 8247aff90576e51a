"""The virtual environments that stand for images where there is no engine."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from espalier.errors import EnvironmentFailure, InputError
from espalier.host.images import venv
from espalier.host.images.definition import IMAGES, Image, load_image
from espalier.host.images.lock import run_uv


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What uv would have been asked, without doing it."""
    asked: list[list[str]] = []

    def record(command: list[str], failure: str, folder: Path | None = None) -> None:
        asked.append(command)
        if command[1] == "venv":
            Path(command[-1]).mkdir()

    monkeypatch.setattr(venv, "run_uv", record)
    return asked


def test_it_is_built_from_the_images_own_locks(commands: list[list[str]], tmp_path: Path) -> None:
    python = venv.ensure_venv("wanda", "cpu", tmp_path)
    image = load_image("wanda")
    assert python == tmp_path / f"wanda-cpu-{image.lock_hash('cpu')[:12]}" / "bin" / "python"
    sync = commands[1]
    assert "--require-hashes" in sync
    assert sync[-2:] == [str(lock) for lock in image.lock_files("cpu")]


def test_it_has_the_images_own_python(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHEELS", str(tmp_path / "absent"))  # where torch lies is no matter here
    venv.ensure_venv("maxtext", "tpu", tmp_path)
    made, sync = commands[:2]
    assert made[made.index("--python") + 1] == "3.13"
    assert sync[-1] == str(load_image("maxtext").folder / "requirements-tpu.lock")
    assert not {"--torch-backend", "--find-links"} & set(sync)


def test_a_python_is_found_or_not(tmp_path: Path) -> None:
    assert venv.find_python(load_image("wanda"))
    absent = Image("absent", tmp_path / "absent")
    absent.folder.mkdir()
    (absent.folder / "Dockerfile").write_text("ARG BASE_IMAGE=python:3.99\n")
    (absent.folder / ".python-version").write_text("3.99\n")
    assert venv.find_python(absent) is None


def test_a_complete_one_is_known_by_a_look(commands: list[list[str]], tmp_path: Path) -> None:
    first = venv.ensure_venv("wanda", "cpu", tmp_path)
    asked = len(commands)
    started = time.perf_counter()
    assert venv.ensure_venv("wanda", "cpu", tmp_path) == first
    assert time.perf_counter() - started < 0.1
    assert len(commands) == asked


def test_an_interrupted_one_is_built_again(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = venv.ensure_venv("wanda", "cpu", tmp_path).parent.parent
    (folder / venv.COMPLETE).unlink()
    (folder / "half").touch()
    commands.clear()
    venv.ensure_venv("wanda", "cpu", tmp_path)
    assert commands
    assert not (folder / "half").exists()


def test_a_failure_leaves_it_incomplete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: list[str], failure: str, folder: Path | None = None) -> None:
        raise EnvironmentFailure(failure)

    monkeypatch.setattr(venv, "run_uv", fail)
    with pytest.raises(
        EnvironmentFailure, match=r"wanda needs Python 3\.11 on this machine, or a "
    ):
        venv.ensure_venv("wanda", "cpu", tmp_path)
    assert not list(tmp_path.glob(f"*/{venv.COMPLETE}"))


def test_uvs_own_words_become_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EnvironmentFailure, match=r"^It failed; uv says: no such thing$"):
        run_uv(["sh", "-c", "echo no such thing >&2; echo hint >&2; exit 2"], "It failed")
    assert "hint" in capfd.readouterr().err


def test_unknown_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="known images"):
        venv.ensure_venv("nothing", "cpu", tmp_path)


@pytest.mark.slow
def test_the_environment_holds_what_the_lock_says(tmp_path: Path) -> None:
    """A real one: the tests themselves run in it, or build it here."""
    from espalier.host.runtimes.local import ENVIRONMENTS

    python = venv.ensure_venv("wanda", "cpu", ENVIRONMENTS)
    words = "import lm_eval.base, lm_eval.tasks, lm_eval.evaluator, transformers, torch; "
    words += "print(torch.__version__)"
    done = subprocess.run([python, "-c", words], check=True, capture_output=True, text=True)
    assert done.stdout.split()[-1] == "2.13.0+cpu"


@pytest.mark.parametrize(
    ("overridden", "code"), [(["torch"], 0), ([], 1), (["numpy"], 1), (["torch", "numpy"], 0)]
)
def test_what_an_image_overrides_is_no_misfit(
    tmp_path: Path, overridden: list[str], code: int
) -> None:
    """Only that is let pass, and a check that does not say what is wrong is no pass either."""
    uv = tmp_path / "uv"
    says = "The package `mosaicml` requires `torch<2.7.1,>=2.6`, but `2.13.0` is installed"
    uv.write_text(f"#!/bin/sh\necho '{says}' >&2\nexit 1\n")
    uv.chmod(0o755)
    check = [sys.executable, str(IMAGES / "torch" / "check.py"), str(uv), *overridden]
    done = subprocess.run(check, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == ("" if code == 0 else f"{says}\n\n")
    uv.write_text("#!/bin/sh\necho 'no such environment' >&2\nexit 2\n")
    done = subprocess.run(check, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no such environment" in done.stderr
