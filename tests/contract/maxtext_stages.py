"""Stages of image `maxtext`, run from its own virtual environment beside the tests' packages."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from espalier.contract.processes import COMPILED, HEAD, NODE, NODES
from espalier.contract.threads import THREADS, thread_variables
from espalier.errors import EnvironmentFailure
from espalier.host.images import load_image
from espalier.host.images.venv import ensure_venv
from espalier.host.runtimes.base import Launch
from espalier.host.runtimes.local import ENVIRONMENTS, LocalRuntime
from tests.contract.command import espalier
from tests.contract.machines import MEETING, PATIENCE, Machines
from tests.kept import kept
from tests.unit.tiny_checkpoints import load_all
from tests.warm.interpreters import planted, warm_up, warmed


def maxtext() -> None:
    """Skip where the image's packages cannot be had: a Python 3.13 is needed."""
    try:
        python = ensure_venv("maxtext", "cpu", ENVIRONMENTS)
    except EnvironmentFailure as error:
        pytest.skip(str(error))
    warm_up(str(python), **{THREADS: "1", COMPILED: str(programs())}, **thread_variables(1))


def programs() -> Path:
    """What XLA has compiled, for all tests of a run: it tells programs apart itself."""
    return kept("xla", load_image("maxtext").lock_hash("cpu"))


def made(store: Path, *words: str) -> Path:
    """What a command publishes, by default from the image's own environment."""
    runtime = () if any(word.startswith("RUNTIME=") for word in words) else ("RUNTIME=local",)
    done = espalier(store, *words, *runtime)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return Path(done.stdout.splitlines()[-1])


def weights(directory: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint."""
    found: dict[str, torch.Tensor] = load_all(directory)
    return found


def returns_bit_by_bit(store: Path, model: Path, *words: str) -> dict[str, Any]:
    """The conversion's checks, once the weights have come back from MaxText bit by bit."""
    there = made(store, "to-maxtext", f"CKPT={model}", f"NAME={model.name}-there", *words)
    back = made(store, "to-hf", f"CKPT={there.name}", f"NAME={model.name}-back")
    before, after = weights(model), weights(back)
    assert before.keys() == after.keys()
    for name, weight in before.items():
        assert weight.dtype == after[name].dtype
        assert torch.equal(weight, after[name]), name
    checks = [json.loads((path / "manifest.json").read_text())["checks"] for path in (there, back)]
    for found in checks:
        assert found["logits_max_difference"] < 1e-3
        assert found["logits_max_kl"] < 1e-5
    return dict(checks[0])


@dataclass(frozen=True)
class Altered(LocalRuntime):
    """Runs the stage of image maxtext after a line of Python, to plant an error."""

    before: str = ""

    def argv(self, launch: Launch) -> list[str]:
        return warmed(super().argv(launch))

    def environment(self, launch: Launch) -> dict[str, str]:
        of_maxtext = launch.image == "maxtext"
        plant = planted(launch.output.parent, self.before) if of_maxtext else {}
        return super().environment(launch) | plant


@dataclass(frozen=True)
class TpuMachines(Machines):
    """Such as are there for stages on TPUs alone."""

    @property
    def nearby(self) -> LocalRuntime:
        return LocalRuntime()


@dataclass(frozen=True)
class OwnDisks(TpuMachines):
    """Machines that share no disk but that of the states, as the hosts of a TPU VM do."""

    stop_after: str = ""

    def run(self, launch: Launch) -> int:
        with FileLock(MEETING):
            return self._run(launch)

    def _run(self, launch: Launch) -> int:
        states = launch.output.parent / "states"
        others = [launch.output.parent / f"host-{n}" for n in range(1, self.count)]
        for other in others:
            shutil.rmtree(other, ignore_errors=True)
            shutil.copytree(launch.output, other, ignore=shutil.ignore_patterns("scratch"))
        hosts = [launch, *(replace(launch, output=other) for other in others)]
        processes = [self._start(host, number, states) for number, host in enumerate(hosts)]
        while self.stop_after and not (states / self.stop_after).is_dir():
            assert all(process.poll() is None for process in processes)
            time.sleep(0.1)
        for process in processes if self.stop_after else []:
            process.send_signal(signal.SIGTERM)
        return max(process.wait(PATIENCE) for process in processes)

    def _start(self, host: Launch, number: int, states: Path) -> "subprocess.Popen[Any]":
        own = {NODES: str(self.count), NODE: str(number), HEAD: "localhost"}
        variables = self.environment(host) | own | {"ESPALIER_STATE": str(states)}
        return subprocess.Popen(warmed(self.argv(host)), env=variables, stdout=sys.stderr)
