"""What a command line may set: the run's settings, and everything else, which is a parameter."""

import math
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from espalier.contract.measure import parse_size
from espalier.contract.parameters import HIDDEN, sentence
from espalier.contract.paths import ROOT
from espalier.errors import InputError, without_secrets
from espalier.host.job_time import job_time


def _size(value: Any) -> Any:
    return parse_size(value) if isinstance(value, str) and value else value or None


def _one_line(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must be one line")
    if without_secrets(value) != value:
        raise PydanticCustomError(
            HIDDEN, "must hold no login, which jobs and manifests would show; log in before"
        )
    return value


def _only_names(value: str | None) -> str | None:
    """Of sbatch's flags, whose values every user of the cluster can read."""
    if value and re.search(r"--export[= ]\S*=", value):
        raise PydanticCustomError(
            HIDDEN, "must name variables without their values, as in --export=NAME"
        )
    return value


def _directory(value: Any) -> Any:
    if "://" in str(value):
        raise ValueError("must be a directory of this machine; BUCKET= takes gs://… for TPU VMs")
    _one_line(str(value))
    return value


MOST = 2**16
"""Cores, machines and attempts: more than any cluster has."""
Line = Annotated[str, AfterValidator(_one_line)]


class Settings(BaseModel):
    """How to run, none of which decides a result. Also taken from the environment."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=str.upper,
        populate_by_name=True,
        allow_inf_nan=False,
    )

    store: Annotated[Path, BeforeValidator(_directory)] = Path("store")
    runtime: str = "auto"
    accel: Literal["cpu", "cuda", "tpu"] = "cpu"
    dry_run: bool = False
    force: bool = False
    wait: bool = True
    memory: Annotated[int | None, BeforeValidator(_size)] = None
    cpus: Annotated[float | None, Field(gt=0, le=MOST, allow_inf_nan=False)] = None
    threads: Annotated[int | None, Field(ge=1, le=MOST)] = None
    gpus: Annotated[int, Field(ge=1, le=MOST)] = 1
    nodes: Annotated[int, Field(ge=1, le=MOST)] = 1
    # RUNTIME=slurm: where a step finds its packages, and what its job asks for.
    container: Literal["none", "apptainer", "pyxis", "inside"] = "none"
    container_image: Line | None = None
    partition: Line | None = None
    account: Line | None = None
    time: Annotated[Line | None, AfterValidator(lambda text: text and job_time(text))] = None
    sbatch_flags: Annotated[Line | None, AfterValidator(_only_names)] = None
    # RUNTIME=tpu-vm: which TPU where, what runs on it, and how long and often it is tried.
    tpu: Line | None = None
    zone: Line | None = None
    project: Line | None = None
    bucket: Line | None = None
    tpu_image: Line | None = None
    spot: bool = False
    tpu_deadline: Annotated[float, Field(gt=0, le=60 * 24 * 366, allow_inf_nan=False)] = 60
    tpu_attempts: Annotated[int, Field(ge=1, le=MOST)] = 20
    tpu_service_account: Line | None = None
    tpu_network: Line | None = None
    tpu_external_ip: bool = True
    tpu_privileged: bool = True
    tpu_name: Line | None = None
    keep_tpu: bool = False

    @model_validator(mode="before")
    @classmethod
    def _tpu_vms_are_tpus(cls, values: Any) -> Any:
        """What runs on a TPU VM is always made for TPUs."""
        if isinstance(values, dict) and "tpu-vm" in (values.get("RUNTIME"), values.get("runtime")):
            return {k: v for k, v in values.items() if k.lower() != "accel"} | {"ACCEL": "tpu"}
        return values

    def threads_of(self, cores: int | None) -> int | None:
        """THREADS, or the cores that a stage may use of those a machine has; None: unknown here."""
        if self.threads or cores is None:
            return self.threads
        return min(cores, math.ceil(self.cpus)) if self.cpus else cores

    def assignments(self) -> dict[str, str]:
        """What gives these settings again to a command whose environment has others.

        What only a submission needs is left out, and so is DRY_RUN.
        """
        values = self.model_dump(mode="json", exclude={*SUBMISSION, "dry_run"}, exclude_none=True)
        flags = {True: "1", False: "0"}
        return {
            name.upper(): flags[value] if isinstance(value, bool) else str(value)
            for name, value in values.items()
            if name.upper() in PERSISTENT or value != type(self).model_fields[name].default
        }


SUBMISSION = ("partition", "account", "time", "sbatch_flags")

NAMES = frozenset(name.upper() for name in Settings.model_fields)
PERSISTENT = NAMES - {"DRY_RUN", "FORCE", "WAIT", "TIME", "TPU_NAME", "KEEP_TPU"}
"""Settings taken from the environment and `.env` too; the others are for one command."""


def split_assignments(words: list[str]) -> dict[str, str]:
    """`["MODEL=x", …]` as a mapping.

    Raises:
        InputError: a word is no assignment.
    """
    pairs = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.isidentifier() or key != key.upper():
            raise InputError(
                f"{word!r} is not understood; give NAME=value with an upper-case name."
            )
        pairs[key] = value
    return pairs


def read_settings(assignments: dict[str, str]) -> tuple[Settings, dict[str, str]]:
    """Take the settings out of the assignments; the rest are the stage's.

    Raises:
        InputError: a setting's value does not hold.
    """
    values = {k: v for k, v in os.environ.items() if k in PERSISTENT and v}
    values |= {k: v for k, v in assignments.items() if k in NAMES and v}
    rest = {k: v for k, v in assignments.items() if k not in NAMES and v != ""}
    if address := next((name for name, value in rest.items() if "://" in value), None):
        raise InputError(
            f"{address} takes no address; fetch it first, and give its path or its name on the "
            "store."
        )
    try:
        return Settings.model_validate(values), rest
    except ValidationError as error:
        raise InputError(sentence(error, Settings)) from None


def load_dotenv(path: Path = ROOT / ".env") -> None:
    """Take what the caller's environment does not set from `.env`, as docker compose reads it.

    Raises:
        InputError: a line is none of `NAME=value`.
    """
    if not path.is_file():
        return
    from dotenv import dotenv_values  # images, in which compose runs commands, do without
    from dotenv.parser import parse_stream

    with path.open(encoding="utf-8-sig") as file:
        for line in parse_stream(file):
            if line.error:
                raise InputError(
                    f"line {line.original.line} of {path} is not understood; write NAME=value, "
                    "with quotes around what has quotes in it."
                )
    for name, value in dotenv_values(path, encoding="utf-8-sig").items():
        if value is not None:
            os.environ.setdefault(name, value)
