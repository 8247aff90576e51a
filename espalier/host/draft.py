"""A plan that is being drawn up: requests are added, and what they will make can be asked about."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from espalier.contract.lineage import descends_from
from espalier.contract.manifest import MANIFEST, read_manifest
from espalier.contract.parameters import Parameters, assigned_as
from espalier.contract.stage import Stage
from espalier.contract.store import Store
from espalier.contract.usable import require_usable
from espalier.errors import InputError
from espalier.host.plan import Plan, Request, Step, published_below
from espalier.models.shapes import config_file, read_config

CONFIG = "config.json"


class NotMadeYet(Exception):
    """The rest of a plan depends on what `path` holds, and that is not known before it is made."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path


@dataclass
class Draft:
    """Requests on a store; what `make` gives is there once the plan has been carried out.

    Attributes:
        settled: what is as it is going to be, though the draft would make it: it has been made, or
            will not be, since the plan is only shown.
        shapes: of models that are not there yet, what is known of their config.json.
        notes: what the user is to see of how the plan came about.
        asked: as the plan's.
    """

    store: Store
    settled: Collection[Path] = ()
    requests: dict[Path, Request] = field(default_factory=dict)
    shapes: dict[Path, Mapping[str, Any]] = field(default_factory=dict)
    notes: list[Any] = field(default_factory=list)
    asked: float | None = None
    _steps: list[Step] = field(default_factory=list)
    _after: dict[Path, tuple[Path, ...]] = field(default_factory=dict)

    def make(
        self,
        stage: Stage,
        parameters: Parameters | Mapping[str, str],
        inputs: Mapping[str, Path],
        name: str,
        shape: Mapping[str, Any] | None = None,
    ) -> Path:
        """Where the stage will publish its result; asked for twice, it is made once.

        Parameters may be validated already, or be assignments. `shape` is what is known of the
        result's config.json, where the stage does not leave its model's as it is.

        Raises:
            InputError: a parameter or an input does not hold, or something else is made there.
        """
        if not isinstance(parameters, Parameters):
            parameters = stage.parameters.from_assignments(dict(parameters))
        require_usable(stage, inputs)
        file = _config_file(inputs)
        before = (shape or {}) if file is None else self._shape(file)
        if before and stage.estimate:  # what it refuses of the shape is refused before any work
            stage.estimate(parameters, before)
        target = self.store.path(stage.section, name)
        request = Request(stage, parameters, inputs, name, before)
        if self.requests.setdefault(target, request) != request:
            raise InputError(
                f"{target} is asked for twice, {_difference(self.requests[target], request)}; give "
                "one of them another NAME."
            )
        changes = {} if stage.unroll else before
        self.shapes.setdefault(target, changes if shape is None else shape)
        return target

    def wait(self, target: Path, other: Path) -> None:
        """Make `target` only once `other` is there, though it is no input."""
        if self.maker(other):
            self._after[target] = (*self._after.get(target, ()), other)

    def step(
        self,
        title: str,
        outputs: Iterable[Path],
        tables: Iterable[tuple[Path, ...]] = (),
        hint: str = "",
        report: str = "",
    ) -> None:
        """Ask for `outputs`, after what was asked for before; a title that is taken is numbered."""
        titles = {step.title for step in self._steps}
        numbered = (f"{title}-{number}" for number in range(2, len(titles) + 2))
        free = next(name for name in (title, *numbered) if name not in titles)
        self._steps.append(Step(free, tuple(outputs), tuple(tables), hint, report))

    def plan(self, result: Path, title: str = "") -> Plan:
        """The plan for `result`, in one step of that title where none was asked for."""
        steps = self._steps or [Step(title, (result,))]
        return Plan(dict(self.requests), tuple(steps), result, dict(self._after), self.asked)

    def maker(self, path: Path) -> Request | None:
        """The request that publishes `path`, or the directory that it is in."""
        place = published_below(path, self.requests)
        return None if place is None else self.requests[place]

    def find(self, name: str, sections: tuple[str, ...]) -> Path | None:
        """What is called so in `sections`, on the store or in the draft."""
        if found := self.store.find(name, sections):
            return found
        named = [self.store.root / section / name for section in sections]
        return next((path for path in named if path in self.requests), None)

    def require(self, path: Path) -> bool:
        """Whether `path` is there to be looked at.

        Raises:
            NotMadeYet: it will be.
        """
        if self.maker(path) and path not in self.settled:
            raise NotMadeYet(path)
        return path.exists()

    def config(self, model: Path) -> Mapping[str, Any]:
        """A model's config.json, or what is known of it; nothing where it will not be there.

        Raises:
            NotMadeYet: nothing is known of it before it is made.
        """
        known = self.shapes.get(model, {})
        if known and model not in self.settled:
            return known
        return read_config(model) if self.require(model) and (model / CONFIG).is_file() else known

    def stage_of(self, path: Path) -> str | None:
        """The name of the stage that makes or has made `path`."""
        if request := self.maker(path):
            return request.stage.name
        return read_manifest(path).stage if (path / MANIFEST).is_file() else None

    def descends(self, path: Path, stage: str) -> bool:
        """Whether `stage` makes or has made it, or what it comes from."""
        if request := self.maker(path):
            mothers = request.inputs.values()
            return request.stage.name == stage or any(self.descends(m, stage) for m in mothers)
        return descends_from(path, stage)

    def _shape(self, file: Path) -> Mapping[str, Any]:
        """What is known of a config.json."""
        as_it_will_be = file.parent in self.settled or not self.maker(file)
        if as_it_will_be and file.is_file():
            return config_file(file)
        return self.shapes.get(file.parent, {})


def _config_file(inputs: Mapping[str, Path]) -> Path | None:
    """The config.json that a request starts from."""
    return inputs["model"] / CONFIG if "model" in inputs else inputs.get("architecture")


def _difference(one: Request, other: Request) -> str:
    """In what two requests for the same name differ."""
    if one.stage.name != other.stage.name:
        return f"of {one.stage.name} and of {other.stage.name}"
    mine, others = ({**r.parameters.model_dump(), **r.inputs} for r in (one, other))
    names = [name for name in {**mine, **others} if mine.get(name) != others.get(name)]
    return ", ".join(f"{assigned_as(n)} {mine.get(n)} and {others.get(n)}" for n in names)


def draw_up(
    build: Callable[[Draft], Path],
    store: Store,
    settle: Callable[[Plan, Path], None],
    title: str = "",
    asked: float | None = None,
) -> tuple[Plan, list[Any]]:
    """The plan that `build` states, and its notes.

    Where it cannot be stated before something is made, `settle` makes that by the plan so far, and
    the plan is drawn up again: this time with all that is known then. `asked` is the plan's.
    """
    settled: set[Path] = set()
    while True:
        draft = Draft(store, settled, asked=asked)
        try:
            return draft.plan(build(draft), title), draft.notes
        except NotMadeYet as missing:
            # Nothing of it is a result yet: what is only read is not made anew for being read.
            known = replace(draft.plan(missing.path, title), steps=())
            settle(known, missing.path)
            settled.add(missing.path)
