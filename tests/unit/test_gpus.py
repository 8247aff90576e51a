"""Which GPUs a stage is shown, with a stand-in for nvidia-smi."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from espalier.contract.discovery import stage_named
from espalier.contract.store import Store
from espalier.errors import EnvironmentFailure
from espalier.host import gpus
from espalier.host.execution import Executor
from espalier.host.gpus import Gpu, gpus_of_machine, named, taken
from espalier.host.images import Engine
from espalier.host.plan import Request
from espalier.host.runtimes.base import Launch, ShowsGpus
from espalier.host.runtimes.container import ContainerRuntime
from espalier.host.runtimes.local import InsideRuntime, LocalRuntime
from espalier.host.runtimes.slurm.backends import Bare
from espalier.host.runtimes.slurm.step import SlurmRuntime
from espalier.host.settings import Settings
from tests.tiny import tiny_llama, token_rows

UUIDS = [f"GPU-{letter * 8}-0000-0000-0000-000000000000" for letter in "abcd"]
MIG = [f"MIG-{letter * 8}-0000-0000-0000-000000000000" for letter in "ef"]
Machine = Callable[..., None]


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Makes a machine of GPUs: what is in use of each one's 80,000 MiB, and who is computing."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpus.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    (tmp_path / "bin").mkdir()

    def make(*used: object, busy: tuple[int, ...] = (), divided: int | None = None) -> None:
        listed = ""
        for number in range(len(used)):
            listed += f"GPU {number}: NVIDIA H100 80GB HBM3 (UUID: {UUIDS[number]})\n"
            if number == divided:
                for part, uuid in enumerate(MIG):
                    listed += f"  MIG 3g.40gb     Device  {part}: (UUID: {uuid})\n"
        texts = {
            "list": listed,
            "memory": "".join(f"{UUIDS[n]}, {mib}, 80000\n" for n, mib in enumerate(used)),
            "apps": "".join(f"{UUIDS[number]}\n" for number in busy),
        }
        for name, text in texts.items():
            (tmp_path / name).write_text(text)
        script = tmp_path / "bin" / "nvidia-smi"
        script.write_text(
            f'#!/bin/sh\ncase "$1" in -L) cat {tmp_path}/list;; '
            f"--query-gpu=*) cat {tmp_path}/memory;; *) cat {tmp_path}/apps;; esac\n"
        )
        script.chmod(0o755)

    return make


def indices(count: int, visible: str | None = None) -> list[str]:
    variables = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    with taken(count, variables) as found:
        assert found is not None
        return [gpu.index for gpu in found]


@pytest.mark.parametrize(
    ("count", "used", "busy", "expected"),
    [
        (1, (4, 4, 4, 4), (), ["0"]),
        (1, (70_000, 4, 4, 4), (0,), ["1"]),
        (1, (70_000, 70_000, 4, 4), (), ["2"]),  # a container's processes are not seen
        (1, (4, 4, 4, 4), (0, 1, 2), ["3"]),
        (2, (70_000, 4, 70_000, 4), (0, 2), ["1", "3"]),
        (4, (70_000, 4, 4, 4), (0,), ["0", "1", "2", "3"]),
        (1, ("[N/A]", "[N/A]"), (0,), ["1"]),
    ],
)
def test_free_gpus_are_taken(
    machine: Machine,
    count: int,
    used: tuple[object, ...],
    busy: tuple[int, ...],
    expected: list[str],
) -> None:
    machine(*used, busy=busy)
    assert indices(count) == expected


def test_where_none_is_free_the_freest_is_taken_and_it_is_said(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(70_000, 30_000, 60_000, busy=(0, 1, 2))
    assert indices(1) == ["1"]
    assert "too few GPUs are free; taking 1, which others use" in capsys.readouterr().err
    machine(70_000, busy=(0,))
    assert indices(1) == ["0"]  # there is no choice
    assert capsys.readouterr().err == ""


def test_two_commands_at_once_take_two(machine: Machine) -> None:
    machine(4, 4, 4)
    with taken(1, {}) as one, taken(1, {}) as other:
        assert one
        assert other
        assert one[0].index != other[0].index
        with taken(2, {}) as both:
            assert both
            assert len(both) == 2  # of which one is shared: there are only three
    assert indices(1) == ["0"]


@pytest.mark.parametrize(
    ("visible", "count", "expected"),
    [
        ("2", 1, ["2"]),
        ("3,1", 2, ["3", "1"]),
        (" 1, 3", 1, ["3"]),  # the first of them is busy
        (UUIDS[2], 1, ["2"]),
        (UUIDS[2][:12], 1, ["2"]),
        ("2,-1,0", 1, ["2"]),
        ("2,NoDevFiles", 1, ["2"]),
        (MIG[0], 1, [MIG[0]]),
        ("MIG-GPU-abc/7/0", 1, ["MIG-GPU-abc/7/0"]),
    ],
)
def test_named_gpus_are_taken(
    machine: Machine, visible: str, count: int, expected: list[str]
) -> None:
    machine(4, 4, 4, 4, busy=(1,))
    assert indices(count, visible) == expected


def test_names_are_passed_on_where_nvidia_smi_is_absent() -> None:
    assert indices(1, "7") == ["7"]
    assert indices(2, f"1,{MIG[1]}") == ["1", MIG[1]]
    assert indices(1, "5,6") == ["5"]
    with taken(4, {}) as found:
        assert found is None  # all: nothing is known of them


def test_a_silent_nvidia_smi_is_as_none(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(4)
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\necho failed; exit 9\n")
    assert gpus_of_machine() == []
    monkeypatch.setattr(gpus, "ANSWER_SECONDS", 0.2)
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 600\n")
    assert gpus_of_machine() == []


def test_parts_of_a_divided_gpu_stand_for_it(machine: Machine) -> None:
    machine(4, 4, divided=1)
    assert [gpu.index for gpu in gpus_of_machine()] == ["0", "1:0", "1:1"]
    assert indices(1, MIG[1]) == ["1:1"]
    with taken(1, {"CUDA_VISIBLE_DEVICES": MIG[1]}) as found:
        assert found
        assert found[0].uuid == MIG[1]


@pytest.mark.parametrize(
    ("visible", "count", "says"),
    [
        (None, 3, "GPUS=3 were asked for, and this machine has 2; give GPUS=2."),
        ("1", 2, "and CUDA_VISIBLE_DEVICES=1 names 1; give GPUS=1, or name more"),
        ("", 1, "CUDA_VISIBLE_DEVICES= hides every GPU; unset it"),
        ("-1", 1, "CUDA_VISIBLE_DEVICES=-1 hides every GPU"),
    ],
)
def test_too_few_are_refused(machine: Machine, visible: str | None, count: int, says: str) -> None:
    machine(4, 4)
    with pytest.raises(EnvironmentFailure) as refusal:
        indices(count, visible)
    assert says in str(refusal.value)


def test_unset_is_not_empty(machine: Machine) -> None:
    machine(4)
    assert named(gpus_of_machine(), {}) is None
    assert named(gpus_of_machine(), {"CUDA_VISIBLE_DEVICES": ""}) == []


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    return Launch(
        "fsdp", "cuda", "run", {}, tmp_path, gpus=(Gpu("1", UUIDS[1]), Gpu("3", UUIDS[3]))
    )


def test_each_runtime_shows_a_stage_its_own_alone(launch: Launch) -> None:
    def argv(name: str, launch: Launch = launch, *flags: str) -> list[str]:
        return ContainerRuntime(Engine(name, name, run_flags=flags)).argv(launch)

    assert f'--gpus="device={UUIDS[1]},{UUIDS[3]}"' in argv("docker")
    one = replace(launch, gpus=launch.gpus[:1] if launch.gpus else None)
    assert f"--gpus=device={UUIDS[1]}" in argv("docker", one)
    devices = [word for word in argv("podman") if word.startswith("--device")]
    assert devices == ["--device=nvidia.com/gpu=1", "--device=nvidia.com/gpu=3"]
    own = argv("docker", launch, "--gpus", "device=0")
    assert [word for word in own if "gpus" in word] == ["--gpus"]
    for runtime in (LocalRuntime(), InsideRuntime()):
        variables = runtime.environment(launch)
        assert variables["CUDA_VISIBLE_DEVICES"] == f"{UUIDS[1]},{UUIDS[3]}"
        assert variables["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
        assert isinstance(runtime, ShowsGpus)


def test_slurm_keeps_what_slurm_gave(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    runtime = SlurmRuntime(Bare(LocalRuntime()))
    assert not isinstance(runtime, ShowsGpus)
    shown = runtime.place.environment(replace(launch, gpus=None))
    assert shown["CUDA_VISIBLE_DEVICES"] == "5"


@pytest.mark.parametrize(("stage", "count"), [("wanda", 1), ("train-gpu", 2)])
def test_only_training_takes_several(
    machine: Machine, tmp_path: Path, stage: str, count: int
) -> None:
    machine(70_000, 4, 4, 4, busy=(0,))
    settings = Settings.model_validate({"STORE": tmp_path, "ACCEL": "cuda", "GPUS": 2})
    executor = Executor(Store(tmp_path), LocalRuntime(), settings)
    model, rows = tiny_llama(tmp_path / "model"), token_rows(tmp_path / "ids.safetensors")
    role = "calibration" if stage == "wanda" else "data"
    found = stage_named(stage)
    asked = found.parameters.from_assignments({} if stage == "wanda" else {"TOKENS": "1M"})
    run = executor.resolve(Request(found, asked, {"model": model, role: rows}, "result"))
    assert run.launch.gpus is None
    with executor.on_gpus(run) as placed:
        assert placed.launch.gpus
        assert [gpu.index for gpu in placed.launch.gpus] == ["1", "2", "3"][:count]
