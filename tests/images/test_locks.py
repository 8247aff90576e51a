"""The locks: every package by version and hash, one torch for all, and no word of any machine."""

import re
import shutil
from pathlib import Path

import pytest

from espalier.contract.image import SHARED, locked_lines
from espalier.errors import EnvironmentFailure, InputError
from espalier.host.images import compile_lock
from espalier.host.images.definition import IMAGES, known_images, load_image
from espalier.host.images.lock import cpu_torch_options, locked_names, locks_of

LOCKS = sorted(IMAGES.glob("*/*.lock"))
CUDA_ONLY = re.compile(r"(nvidia-|cuda-|triton)")


def pins(lock: Path) -> dict[str, str]:
    lines = (line.split(" ")[0] for line in locked_lines(lock) if "==" in line)
    return dict(line.split("==") for line in lines)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_package_has_a_version_and_a_hash(lock: Path) -> None:
    lines = locked_lines(lock)
    assert "==" in lines[0]
    for line, following in zip(lines, [*lines[1:], "end==0"], strict=True):
        if line.startswith("--hash="):
            assert re.fullmatch(r"--hash=sha256:[0-9a-f]{64}( \\)?", line)
        else:
            assert re.fullmatch(r"[a-z0-9.-]+==\S+( ; .+?)? \\", line)
            assert following.startswith("--hash=")


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_no_lock_names_an_index_or_a_path(lock: Path) -> None:
    text = lock.read_text()
    assert not re.search(r"https?://|--(extra-)?index|--find-links|(?<![\w.])/\w", text)


def test_all_images_with_torch_share_one() -> None:
    cpu, cuda = (pins(IMAGES / "torch" / f"requirements-{accel}.lock") for accel in ("cpu", "cuda"))
    assert cpu.pop("torch") == "2.13.0+cpu"
    assert cuda.pop("torch") == "2.13.0"
    assert cpu == {name: pin for name, pin in cuda.items() if not CUDA_ONLY.match(name)}
    for name in known_images():
        if load_image(name).parent != load_image(SHARED):
            continue
        own = pins(IMAGES / name / "requirements.lock")
        assert not set(own) & {"torch", *cpu, *cuda}
        assert "torch==2.13.0" in (IMAGES / name / "requirements.in").read_text()


def test_maxtext_is_locked_without_torch_and_without_its_developers_tools() -> None:
    locked = pins(IMAGES / "maxtext" / "requirements-cpu.lock")
    assert (locked["maxtext"], locked["jax"], locked["jaxlib"]) == ("0.2.5", "0.11.1", "0.11.1")
    unwanted = {"torch", "pytest", "pylint", "pytype", "pyink", "black", "isort", "pre-commit"}
    assert not unwanted & set(locked)
    assert not [name for name in locked if CUDA_ONLY.match(name) or "google-cloud" in name]


def test_a_tpu_adds_to_what_a_cpu_has() -> None:
    cpu, tpu = (pins(IMAGES / "maxtext" / f"requirements-{accel}.lock") for accel in ("cpu", "tpu"))
    assert cpu.items() <= tpu.items()
    assert tpu["libtpu"] == "0.0.46"
    assert {"gcsfs", "google-cloud-storage"} <= set(tpu) - set(cpu)


def test_a_lock_is_compiled_for_its_images_python() -> None:
    for name, python in (("wanda", "3.11"), ("maxtext", "3.13"), ("dev", "3.11")):
        for lock in locks_of(name):
            command = lock.command(lock.target)
            assert command[command.index("--python-version") + 1] == python
    names = [(lock.source.name, lock.target.name) for lock in locks_of("maxtext")]
    assert names == [
        ("requirements.in", "requirements-cpu.lock"),
        ("requirements-tpu.in", "requirements-tpu.lock"),
    ]


def test_the_harnesses_and_transformers() -> None:
    names = ("wanda", "eval", "minitron")
    wanda, modern, minitron = (pins(IMAGES / name / "requirements.lock") for name in names)
    assert wanda["lm-eval"] == "0.3.0"
    assert modern["lm-eval"] == "0.4.13"
    assert pins(IMAGES / "maxtext" / "requirements-cpu.lock")["lm-eval"] == "0.4.13"
    assert wanda["transformers"].startswith("5.")
    assert modern["transformers"].startswith("5.")
    assert (minitron["lm-eval"], minitron["transformers"]) == ("0.4.9", "4.46.2")


def test_the_developers_tools_agree_with_the_host_tool() -> None:
    dev = pins(IMAGES / "dev" / "requirements.lock")
    assert pins(IMAGES / "host" / "requirements.lock").items() <= dev.items()


def test_a_lock_is_compiled_by_hash_and_leaves_torch_to_the_shared_image() -> None:
    (lock,) = locks_of("wanda")
    command = lock.command(lock.target)
    assert "--generate-hashes" in command
    assert "../torch/requirements-cuda.lock" in command
    for name in ("torch", "triton", "nvidia-cublas"):
        assert name in locked_names(IMAGES / "torch" / "requirements-cuda.lock")
        assert command[command.index(name) - 1] == "--no-emit-package"


def test_what_an_image_overrides_is_locked_so() -> None:
    """Composer wants an older torch than the shared one, and is compiled against that."""
    image = load_image("sheared-llama")
    (lock,) = locks_of("sheared-llama")
    command = lock.command(lock.target)
    assert command[command.index("--override") + 1] == "overrides.txt"
    assert image.overridden == ["torch"]
    assert image.arguments["OVERRIDDEN"] == "torch"
    locked = pins(lock.target)
    assert (locked["mosaicml"], locked["torchvision"]) == ("0.32.1", "0.22.0")
    assert not [name for name in locked if CUDA_ONLY.match(name)]


def test_unknown_locks_are_told_the_known_ones() -> None:
    with pytest.raises(InputError, match="no lock nothing; known locks: dev, eval, export, f"):
        compile_lock("nothing")


def test_the_cpu_build_of_torch_comes_from_a_folder_or_from_torchs_index(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "torch-2.13.0.whl").touch()
    monkeypatch.setenv("WHEELS", str(tmp_path))
    assert cpu_torch_options() == ["--find-links", str(tmp_path)]
    monkeypatch.setenv("WHEELS", str(tmp_path / "absent"))
    with pytest.raises(InputError, match="holds no torch"):
        cpu_torch_options()
    monkeypatch.setenv("WHEELS", "")
    monkeypatch.setenv("PIP_FIND_LINKS", f"{tmp_path / 'absent'} {tmp_path}")
    assert cpu_torch_options() == ["--find-links", str(tmp_path)]
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert cpu_torch_options() == ["--torch-backend", "cpu"]


def test_a_stale_lock_is_seen_and_left_alone(tmp_path: Path) -> None:
    """Needs the package index, as installing anything does."""
    shutil.copytree(IMAGES / "host", tmp_path / "host")
    lock = tmp_path / "host" / "requirements.lock"
    try:
        assert compile_lock("host", check=True, images=tmp_path)
    except EnvironmentFailure as failure:
        pytest.skip(f"no package index: {failure}")
    requirements = tmp_path / "host" / "requirements.in"
    requirements.write_text(requirements.read_text().replace("psutil\n", ""))
    before = lock.read_text()
    assert not compile_lock("host", check=True, images=tmp_path)
    assert lock.read_text() == before
    assert not compile_lock("host", images=tmp_path)
    assert compile_lock("host", check=True, images=tmp_path)
    assert "psutil" not in lock.read_text()
