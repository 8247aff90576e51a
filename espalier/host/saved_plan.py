"""A plan as a file, so that a job can carry out a part of what was planned elsewhere."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from espalier.contract.discovery import stage_named
from espalier.contract.store import Store
from espalier.errors import InputError
from espalier.host.plan import Plan, Request, Step


class SavedRequest(BaseModel):
    """A request, its stage by name; its target follows from these."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    parameters: dict[str, Any]
    inputs: dict[str, Path]
    name: str
    shape: dict[str, Any]


class SavedPlan(BaseModel):
    """A plan; paths on the store are relative to it, all others absolute."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests: list[SavedRequest]
    steps: list[Step]
    result: Path
    after: dict[Path, tuple[Path, ...]]
    asked: float | None = None


def to_text(plan: Plan, store: Store) -> str:
    """The plan as JSON, from which `read_plan` has it again by whatever path the store is found."""
    root = store.root.absolute()

    def moved(path: Path) -> Path:
        path = path.absolute()
        return path.relative_to(root) if path.is_relative_to(root) else path

    requests = [
        SavedRequest(
            stage=request.stage.name,
            parameters=request.parameters.model_dump(mode="json"),
            inputs={role: moved(path) for role, path in request.inputs.items()},
            name=request.name,
            shape=dict(request.shape),
        )
        for request in plan.requests.values()
    ]
    saved = SavedPlan(
        requests=requests,
        steps=[_with_paths(step, moved) for step in plan.steps],
        result=moved(plan.result),
        after={moved(target): tuple(map(moved, others)) for target, others in plan.after.items()},
        asked=plan.asked,
    )
    return saved.model_dump_json(indent=1) + "\n"


def read_plan(file: Path, store: Store) -> Plan:
    """The plan that a file holds.

    Raises:
        InputError: it holds none, or one that this code does not know.
    """

    def found(path: Path) -> Path:
        return store.root / path

    try:
        saved = SavedPlan.model_validate_json(file.read_bytes())
        requests = [_request(each, found) for each in saved.requests]
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it does not hold one"
        raise InputError(f"PLAN={file} cannot be read as a plan: {reason}.") from None
    return Plan(
        requests={store.path(each.stage.section, each.name): each for each in requests},
        steps=tuple(_with_paths(step, found) for step in saved.steps),
        result=found(saved.result),
        after={found(target): tuple(map(found, others)) for target, others in saved.after.items()},
        asked=saved.asked,
    )


def _request(saved: SavedRequest, found: Callable[[Path], Path]) -> Request:
    stage = stage_named(saved.stage)
    parameters = stage.parameters.model_validate(saved.parameters)
    inputs = {role: found(path) for role, path in saved.inputs.items()}
    return Request(stage, parameters, inputs, saved.name, saved.shape)


def _with_paths(step: Step, change: Callable[[Path], Path]) -> Step:
    tables = tuple(tuple(map(change, table)) for table in step.tables)
    return replace(step, outputs=tuple(map(change, step.outputs)), tables=tables)
