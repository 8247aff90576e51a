"""What is written down in the bucket: of a TPU, of a run, and by each worker."""

from datetime import UTC, datetime
from typing import Literal, TypeVar

from pydantic import BaseModel, ValidationError

Phase = Literal["following", "done", "failed", "stopped"]
Kind = TypeVar("Kind", bound=BaseModel)


class TpuRecord(BaseModel):
    """tpus/<name>/tpu.json: a TPU that was asked for.

    Attributes:
        parent: the project and zone that it is in.
        owner: random, and the same in its label: who else has none deletes nothing.
        folder: its run's, empty while nothing was given to it.
        kept: it is its user's to delete.
        gone: it was deleted; another may have the name.
    """

    name: str
    type: str
    spot: bool
    workers: int
    dollars_per_hour: float
    created: datetime
    parent: str = ""
    owner: str = ""
    folder: str = ""
    kept: bool = False
    gone: bool = False

    @property
    def left(self) -> bool:
        """Whether it may be there without anybody's wish."""
        return not (self.gone or self.kept)


class RunRecord(BaseModel):
    """runs/<run id>/launch.json: how far a run has come.

    Attributes:
        attempt: counts the TPUs that the run was given, over all starts of the launcher.
        seen: when its launcher last wrote it.
        owner: random, in the names and labels of its TPUs.
        bucket: its URL; in the label of its TPUs.
        workers: how many of them must report.
    """

    phase: Phase
    attempt: int
    tpu: str
    workers: int
    seen: datetime
    code: int | None = None
    owner: str = ""
    bucket: str = ""


class Heartbeat(BaseModel):
    """workers/<n>.json; the time is the host's own."""

    state: str
    time: datetime
    attempt: int


class Exit(BaseModel):
    """exits/<attempt>/<n>.json.

    Attributes:
        listed: the sha256 of the list of files that the first worker has made.
    """

    code: int
    why: str = ""
    listed: str = ""


def parsed(kind: type[Kind], text: str | None) -> Kind | None:
    """The record, or None where there is none, or where it is only half there yet."""
    try:
        return kind.model_validate_json(text) if text else None
    except ValidationError:
        return None


def now() -> datetime:
    return datetime.now(UTC)
