"""What a command line may set: the run's settings, and everything else, which is a parameter."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from espalier.errors import InputError
from espalier.fingerprint import ROOT
from espalier.parameters import sentence
from espalier.resources import parse_size


def _size(value: Any) -> Any:
    return parse_size(value) if isinstance(value, str) and value else value or None


class Settings(BaseModel):
    """How to run, none of which decides a result. Also taken from the environment."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=str.upper, populate_by_name=True
    )

    store: Path = Path("store")
    runtime: str = "auto"
    accel: Literal["cpu", "cuda"] = "cpu"
    dry_run: bool = False
    force: bool = False
    wait: bool = True
    memory: Annotated[int | None, BeforeValidator(_size)] = None
    cpus: Annotated[float | None, Field(gt=0)] = None
    threads: Annotated[int | None, Field(ge=1)] = None
    gpus: Annotated[int, Field(ge=1)] = 1
    nodes: Annotated[int, Field(ge=1)] = 1


NAMES = frozenset(name.upper() for name in Settings.model_fields)
PERSISTENT = frozenset({"STORE", "RUNTIME", "ACCEL", "MEMORY", "CPUS", "THREADS", "GPUS", "NODES"})
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
    try:
        return Settings.model_validate(values), rest
    except ValidationError as error:
        raise InputError(sentence(error, Settings)) from None


def load_dotenv(path: Path = ROOT / ".env") -> None:
    """Take what the caller's environment does not set from `.env`, as docker compose does."""
    if not path.is_file():
        return
    lines = (line.strip() for line in path.read_text().splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    for key, _, value in pairs:
        os.environ.setdefault(key.strip(), value.strip().strip("'\""))
