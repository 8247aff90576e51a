"""A stage's threads are stated, and nothing else of the caller's environment reaches its sums."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.contract.cores import slurm_cores, usable_cores
from espalier.contract.environment import processor_name, vector_extension
from espalier.contract.threads import (
    NUMERIC,
    OURS,
    THREADS,
    settle,
    share_threads,
    thread_variables,
    without_numeric,
)
from espalier.host.images import Engine
from espalier.host.runtimes.base import Launch, quiet_environment
from espalier.host.runtimes.container import ContainerRuntime
from espalier.host.runtimes.local import InsideRuntime, LocalRuntime
from espalier.host.runtimes.slurm.backends import Apptainer, Bare, ImageFiles, Pyxis
from espalier.host.runtimes.slurm.step import SlurmRuntime
from espalier.host.settings import Settings

CALLERS = {
    "OMP_NUM_THREADS": "7",
    "OMP_PROC_BIND": "true",
    "KMP_AFFINITY": "compact",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "HASWELL",
    "ATEN_CPU_CAPABILITY": "default",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    "APPTAINERENV_OMP_NUM_THREADS": "7",
}


def test_a_stage_has_the_threads_it_was_told_and_nothing_of_the_callers() -> None:
    variables = {**CALLERS, THREADS: "3", "PATH": "/bin", "JAX_PLATFORMS": "cpu"}
    assert settle(variables) == 3
    told = thread_variables(3)
    assert told["OMP_NUM_THREADS"] == told["MKL_NUM_THREADS"] == "3"
    assert {name: variables[name] for name in told} == told
    left = set(variables) - set(told)
    assert left == {THREADS, "PATH", "JAX_PLATFORMS", "APPTAINERENV_OMP_NUM_THREADS"}


def test_it_settles_the_same_whatever_it_comes_from() -> None:
    bare, full = {THREADS: "2"}, {**CALLERS, THREADS: "2"}
    settle(bare)
    settle(full)
    del full["APPTAINERENV_OMP_NUM_THREADS"]
    assert full == bare


def test_who_is_told_nothing_takes_its_cores() -> None:
    assert settle({}) == usable_cores()


@given(st.integers(1, 64), st.integers(1, 64))
def test_processes_share_them(threads: int, processes: int) -> None:
    variables = {THREADS: str(threads)}
    share_threads(processes, variables)
    each = int(variables["OMP_NUM_THREADS"])
    assert each == 1 or each * processes <= threads < (each + 1) * processes
    assert variables[THREADS] == str(threads)


def test_what_is_ours_is_not_taken_away() -> None:
    assert without_numeric(dict.fromkeys(OURS, "x")) == dict.fromkeys(OURS, "x")
    assert not without_numeric(dict.fromkeys(NUMERIC, "x"))


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    for name, value in CALLERS.items():
        monkeypatch.setenv(name, value)
    return Launch("wanda", "cpu", "run", {}, tmp_path / "out", threads=3)


def test_every_runtime_hands_it_in_and_none_hands_in_the_callers(launch: Launch) -> None:
    assert quiet_environment(launch)[THREADS] == "3"
    files = ImageFiles("/x", Path("/nowhere"))
    words = ContainerRuntime(Engine("docker", "/nowhere/docker")).argv(launch)
    assert f"--env={THREADS}=3" in words
    seen = [
        {word.removeprefix("--env=").partition("=")[0] for word in words if "--env=" in word},
        set(InsideRuntime().environment(launch)),
        set(LocalRuntime().environment(launch)),
        set(Bare(LocalRuntime()).environment(launch)),
        {
            name.removeprefix("APPTAINERENV_")
            for name in Apptainer(files).environment(launch)
            if name.startswith("APPTAINERENV_")
        },
        *(
            set(flag.partition("=")[2].split(","))
            for flag in Pyxis(files).flags(launch)
            if flag.startswith(("--export=", "--container-env="))
        ),
    ]
    assert len(seen) == 7
    for names in seen:
        assert THREADS in names
        assert names & CALLERS.keys() <= {"APPTAINERENV_OMP_NUM_THREADS"}  # apptainer's alone
    unknown = replace(launch, threads=None)
    assert THREADS not in quiet_environment(unknown)


def test_by_default_all_cores_that_it_may_use() -> None:
    assert Settings().threads_of(8) == 8
    assert Settings(cpus=2.5).threads_of(8) == 3
    assert Settings(cpus=16).threads_of(8) == 8
    assert Settings(threads=4, cpus=1).threads_of(8) == 4
    assert Settings().threads_of(None) is None
    assert Settings(threads=4).threads_of(None) == 4


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "150000 100000"}, 2),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"}, 1),
        ("0::/\n", {"cpu.max": "100000 100000"}, 1),
        (
            "4:cpu,cpuacct:/docker/x\n0::/\n",
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "200000",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            2,
        ),
        (
            "4:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            None,
        ),
        ("5:cpuset:/x\n", {"cpu.max": "100000 100000"}, None),
        ("", {}, None),
    ],
)
def test_a_control_group_limits_them(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    membership: str,
    files: dict[str, str],
    cores: int | None,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    (tmp_path / "cgroup").write_text(membership)
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    assert usable_cores(tmp_path / "cgroup", tmp_path / "groups") == (cores or 6)


@pytest.mark.parametrize(
    ("variables", "cores"),
    [
        ({}, None),
        ({"SLURM_JOB_CPUS_PER_NODE": "16(x2),8"}, 16),
        ({"SLURM_JOB_CPUS_PER_NODE": "8,16"}, 8),
        ({"SLURM_JOB_CPUS_PER_NODE": "16", "SLURM_CPUS_PER_TASK": "4"}, 4),
    ],
)
def test_slurm_says_what_a_job_has(
    variables: dict[str, str], cores: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert slurm_cores(variables) == cores
    for name in ("SLURM_JOB_CPUS_PER_NODE", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert SlurmRuntime(Bare(InsideRuntime())).cores == (cores or usable_cores())


@pytest.mark.parametrize(
    ("text", "name", "vector"),
    [
        (
            "processor\t: 0\nmodel name\t: A\nflags\t\t: avx2 avx512f avx512bw avx512dq avx512vl\n"
            "\nprocessor\t: 1\nmodel name\t: B\n",
            "A",
            "AVX512",
        ),
        ("model name\t: A\nflags\t: sse avx2 avx512f\n", "A", "AVX2"),
        ("CPU implementer\t: 0x41\nFeatures\t: fp asimd\n", "CPU implementer 0x41", "NEON"),
    ],
)
def test_the_processor_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, name: str, vector: str
) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    (tmp_path / "cpuinfo").write_text(text)
    assert processor_name(tmp_path / "cpuinfo") == name
    assert vector_extension(tmp_path / "cpuinfo") == vector
