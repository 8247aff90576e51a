"""A plan: requests for stages as a graph, and the steps in which it is carried out.

It is a value. Nothing is read, made or written by it: it can be run, printed, submitted, or saved.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from espalier.contract.parameters import Parameters
from espalier.contract.stage import Stage
from espalier.errors import InputError


@dataclass(frozen=True)
class Request:
    """A stage to run.

    Attributes:
        inputs: role to path; one that is not there yet is what another request makes.
        name: of its result.
        shape: of its model's config.json, what is known of it before the model is there.
    """

    stage: Stage
    parameters: Parameters
    inputs: Mapping[str, Path]
    name: str
    shape: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Step:
    """What is asked for at once: on a cluster, one job.

    Attributes:
        outputs: what is asked for; whatever these need and is not there is made too.
        tables: results that are told of in one table, by the report of the last one's stage.
        hint: what to try instead, where the step may be left out for lack of a network.
        report: `package.module:function`, which tells of the tables instead.
    """

    title: str
    outputs: tuple[Path, ...]
    tables: tuple[tuple[Path, ...], ...] = ()
    hint: str = ""
    report: str = ""


@dataclass(frozen=True)
class Plan:
    """What is to be made, and what each needs.

    Attributes:
        requests: by the directory that each publishes.
        steps: in order; an earlier one makes what it shares with later ones, which wait for it.
        after: what else is to be there before a request runs; where that is a plan of its training,
            it has to say that the training fits.
        result: what it is all for.
        asked: with FORCE=1, when it was asked for (seconds since 1970): results of before are made
            anew, by whatever process or job carries it out, and by each of them once.

    Raises:
        InputError: requests wait for each other.
    """

    requests: Mapping[Path, Request]
    steps: tuple[Step, ...]
    result: Path
    after: Mapping[Path, tuple[Path, ...]] = field(default_factory=dict)
    asked: float | None = None

    def __post_init__(self) -> None:
        try:
            TopologicalSorter({target: self.needs(target) for target in self.requests}).prepare()
        except CycleError as error:
            circle = " needs ".join(str(target) for target in reversed(error.args[1]))
            raise InputError(f"{circle}; give one of them another NAME.") from None

    def needs(self, target: Path) -> list[Path]:
        """What other requests publish that this one waits for."""
        paths = (*self.after.get(target, ()), *self.requests[target].inputs.values())
        return [place for path in paths if (place := published_below(path, self.requests))]

    def order(self, outputs: Iterable[Path]) -> list[Path]:
        """All that has to be made for these, each after what it needs."""
        found: dict[Path, None] = {}
        waiting = [(path, False) for path in reversed(list(outputs)) if path in self.requests]
        while waiting:
            target, ready = waiting.pop()
            if ready:
                found[target] = None
            elif target not in found:
                waiting.append((target, True))
                waiting += [(need, False) for need in reversed(self.needs(target))]
        return list(found)

    def renew_before(self, target: Path) -> float | None:
        """The moment before which a result of that name is not good enough; None: any is.

        Models and texts that a command only reads are not made anew with what it makes of them.
        """
        read = self.requests[target].stage.section in READ
        asked_for = any(target in step.outputs for step in self.steps)
        return self.asked if asked_for or not read else None

    def only(self, title: str) -> "Plan":
        """One step of it, with all that it needs.

        Raises:
            InputError: it has no such step.
        """
        for step in self.steps:
            if step.title == title:
                requests = {path: self.requests[path] for path in self.order(step.outputs)}
                return replace(self, requests=requests, steps=(step,), result=step.outputs[-1])
        titles = ", ".join(step.title for step in self.steps)
        raise InputError(f"STEP={title} is not in the plan; there are {titles}.")


READ = ("models", "data")
"""Sections of what commands read, unless it is what they are to make."""


def published_below(path: Path, requests: Mapping[Path, Request]) -> Path | None:
    """Which of the requests publishes `path`, or the directory that it is in."""
    return next((place for place in _upwards(path) if place in requests), None)


def _upwards(path: Path) -> Iterator[Path]:
    yield path
    yield from path.parents
