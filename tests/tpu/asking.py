"""What a user would ask of a TPU VM, with words and from Python."""

from dataclasses import replace
from pathlib import Path

from espalier.contract.discovery import stage_named
from espalier.contract.stage import Stage
from espalier.contract.store import Store
from espalier.host.execution import Executor
from espalier.host.plan import Request
from espalier.host.runtimes.tpu_vm.runtime import TpuVmRuntime
from espalier.host.settings import Settings
from tests.tpu.conftest import IMAGE, QUICK

PLACE = ("PROJECT=project", "ZONE=us-west4-a")


def settings(tmp_path: Path, **others: object) -> Settings:
    given = {
        "runtime": "tpu-vm",
        "store": tmp_path / "store",
        "tpu": "v5litepod-8",
        "zone": "us-west4-a",
        "project": "project",
        "bucket": str(tmp_path / "bucket"),
        "tpu_image": IMAGE,
    }
    return Settings.model_validate({**given, **others})


def executor(asked: Settings) -> Executor:
    patient = QUICK.__class__(**{**QUICK.__dict__, "silence": 20, "poll_most": 0.2, "grace": 15})
    return Executor(Store(asked.store), TpuVmRuntime(asked, patient), asked)


def on_tpus(name: str) -> Stage:
    """A stage that is cheap, as if it computed on TPUs."""
    return replace(stage_named(name), tpu=True, on_device=True)


def make_text(asked: Settings, name: str = "pydoc") -> Path:
    stage = on_tpus("corpus")
    return executor(asked).execute(Request(stage, stage.parameters(), {}, name))


def words(tmp_path: Path, *words: str) -> list[str]:
    return [words[0], *PLACE, f"BUCKET={tmp_path / 'bucket'}", *words[1:]]
