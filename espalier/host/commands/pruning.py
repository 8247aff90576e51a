"""`make prune-<method>` and `make score-<method>`: the words of a command, and their requests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from espalier.contract.discovery import method_named, stage_named
from espalier.contract.manifest import MANIFEST, read_manifest
from espalier.contract.parameters import Parameters
from espalier.contract.stage import Stage, Unrolled
from espalier.contract.store import name_after
from espalier.contract.usable import require_usable
from espalier.errors import InputError
from espalier.host.commands.evaluation import TASK_DATA
from espalier.host.commands.sources import (
    default_name,
    default_text,
    first_given,
    model_named,
    text_named,
    token_data_named,
)
from espalier.host.draft import Draft
from espalier.host.resolution import record_of

DOMAIN_DATA = "DOMAIN_DATA"
"""Of a method that trains: DATA of a pipeline is what is evaluated on."""


@dataclass(frozen=True)
class Sources:
    """What a command says of its inputs, settings and parameters aside.

    Attributes:
        model: MODEL or CKPT.
        calibration: a text, or nothing.
        tasks: the folder of tasks' rows, or nothing.
        domains: token data of several domains, or nothing.
        scores: what SCORES names, with commas between.
        name: of the result, or nothing.
        given_as: the variable that names the model.
    """

    model: str
    revision: str
    calibration: str
    tasks: str
    domains: str
    scores: tuple[str, ...]
    name: str
    given_as: str = "MODEL"

    @classmethod
    def taken_from(cls, rest: dict[str, str]) -> "Sources":
        """Take them out of the assignments."""
        model, given_as = first_given(rest, ("MODEL", "CKPT"), "sapling")
        for variable in ("MODEL", "CKPT"):
            rest.pop(variable, None)
        return cls(
            model=model,
            given_as=given_as,
            revision=rest.pop("REVISION", ""),
            calibration=rest.pop("CALIBRATION", ""),
            tasks=rest.pop(TASK_DATA, ""),
            domains=rest.pop(DOMAIN_DATA, ""),
            scores=tuple(filter(None, rest.pop("SCORES", "").split(","))),
            name=rest.pop("NAME", ""),
        )


@dataclass(frozen=True)
class PruningCommand:
    """A method, its parameters and those of the stages that score for it."""

    stage: Stage
    parameters: Parameters
    scoring: Mapping[str, Mapping[str, str]]
    sources: Sources

    @classmethod
    def parse(cls, method: str, given: Mapping[str, str]) -> "PruningCommand":
        """Read the assignments, but for settings, of `make prune-<method>`.

        Raises:
            InputError: something is unknown, does not hold or has no use.
        """
        stage, rest = method_named(method), dict(given)
        rest.pop("METHOD", None)
        sources = Sources.taken_from(rest)
        if unknown := rest.keys() - known_names(stage):
            known = ", ".join(sorted(known_names(stage)))
            raise InputError(
                f"{', '.join(sorted(unknown))} is not a parameter here (known: {known})."
            )
        own = _names(stage)
        scoring = {
            role: {k: v for k, v in rest.items() if k in _names(stage_named(d.stage)) - own}
            for role, d in stage.derived.items()
        }
        parameters = stage.parameters.from_assignments({k: rest[k] for k in rest.keys() & own})
        command = cls(stage, parameters, scoring, sources)
        command._check_uses()
        return command

    def add(self, draft: Draft) -> tuple[Path, Path]:
        """The parent and the pruned checkpoint."""
        if self.sources.name:
            draft.store.path(self.stage.section, self.sources.name)
        named, given_as = self.sources.model, self.sources.given_as
        parent = model_named(draft, named, self.sources.revision, given_as=given_as)
        require_usable(self.stage, {"model": parent})
        name = self.sources.name or default_name(parent, self.stage, self.parameters)
        unrolled = self._unrolled(draft, parent)
        if unrolled.table is not None:
            draft.notes.append(unrolled.table)
        current, count = parent, len(unrolled.steps)
        for number, parameters in enumerate(unrolled.steps, 1):
            inputs = {"model": current, **self._texts(draft, self.stage, parameters, parent)}
            for role in self.stage.derived:
                if role not in parameters.unused():
                    inputs[role] = self._scores(draft, role, parameters, current, parent)
            step_name = name if number == count else f"{name}-step{number}of{count}"
            shape = unrolled.configs[number - 1] if unrolled.configs else None
            current = draft.make(self.stage, parameters, inputs, step_name, shape)
        return parent, current

    def _unrolled(self, draft: Draft, parent: Path) -> Unrolled:
        """The prunings that the command stands for."""
        if self.stage.unroll is None:
            return Unrolled((self.parameters,))
        return self.stage.unroll(self.parameters, draft.config(parent))

    def _scores(
        self, draft: Draft, role: str, parameters: Parameters, model: Path, parent: Path
    ) -> Path:
        """Scores that were given, or those that the scoring stage measures of `model`."""
        derived = self.stage.derived[role]
        if self.sources.scores:
            return given_scores(draft, self.sources.scores, derived.stage, model)
        scorer = stage_named(derived.stage)
        asked = {**self.scoring[role], **derived.asked(parameters)}
        validated = scorer.parameters.from_assignments(asked)
        found = self._texts(draft, scorer, validated, parent)
        name = scores_name(model, scorer, validated, found)
        return draft.make(scorer, validated, {"model": model, **found}, name)

    def _texts(
        self, draft: Draft, stage: Stage, parameters: Parameters, parent: Path
    ) -> dict[str, Path]:
        return texts(draft, self.sources, stage, parameters, parent)

    def _check_uses(self) -> None:
        """Refuse what would be silently ignored."""
        if self.sources.calibration and "calibration" not in roles_of(self.stage):
            raise InputError(f"{self.stage.name} uses no calibration; leave CALIBRATION out.")
        if self.sources.domains and "domains" not in self.stage.inputs:
            raise InputError(f"{self.stage.name} uses no domains; leave {DOMAIN_DATA} out.")
        if self.sources.scores and not self.stage.derived:
            raise InputError(f"{self.stage.name} uses no scores; leave SCORES out.")
        if not self.sources.scores:
            return
        useless = sorted({key for words in self.scoring.values() for key in words})
        if self.sources.calibration:
            useless.append("CALIBRATION")
        if getattr(self.parameters, "steps", 1) > 1:
            useless.append("STEPS")
        if useless:
            raise InputError(
                f"SCORES is given, so nothing is measured: leave out {', '.join(useless)}, or "
                "SCORES."
            )


def known_names(stage: Stage) -> set[str]:
    """The parameters of a method and of the stages that score for it, as they are assigned."""
    return _names(stage).union(*(_names(stage_named(d.stage)) for d in stage.derived.values()))


def roles_of(stage: Stage) -> frozenset[str]:
    """The roles of the inputs of a method and of the stages that score for it."""
    return frozenset(stage.inputs).union(
        *(stage_named(d.stage).inputs for d in stage.derived.values())
    )


def _names(stage: Stage) -> set[str]:
    return set(stage.parameters.words())


def score(draft: Draft, stage: Stage, given: Mapping[str, str]) -> Path:
    """`make score-<method>`: the scores of MODEL."""
    rest = dict(given)
    sources = Sources.taken_from(rest)
    if sources.scores:
        raise InputError(f"{stage.name} measures scores; leave SCORES out.")
    parameters = stage.parameters.from_assignments(rest)
    model = model_named(draft, sources.model, sources.revision, given_as=sources.given_as)
    found = texts(draft, sources, stage, parameters, model)
    name = scores_name(model, stage, parameters, found)
    if sources.name:
        name = f"{name_after(model)}/{sources.name}"
    return draft.make(stage, parameters, {"model": model, **found}, name)


def texts(
    draft: Draft, sources: Sources, stage: Stage, parameters: Parameters, model: Path
) -> dict[str, Path]:
    """The stage's inputs beside the model: its calibration, and rows of tasks where given."""
    found = {}
    wanted = stage.inputs.keys() - parameters.unused()
    if "calibration" in wanted:
        text = sources.calibration or default_text(draft, model, prune=True)
        found["calibration"] = text_named(draft, text)
    if "tasks" in wanted and sources.tasks:
        found["tasks"] = text_named(draft, sources.tasks)
    if "domains" in wanted:
        found["domains"] = _domains_named(draft, sources.domains)
    return found


def _domains_named(draft: Draft, name: str) -> Path:
    """The data that DOMAIN_DATA means: a path, or a name on the store.

    Raises:
        InputError: none is named, or there is none such.
    """
    if found := token_data_named(draft, name) if name else None:
        return found
    made = f"{DOMAIN_DATA}={name} is not on the store" if name else f"give {DOMAIN_DATA}=<name>"
    raise InputError(
        f"{made}; make data DATA=<name> DOMAINS=1 SOURCE=<folder> TOKENIZER=<the model> makes it "
        "of a folder that has one for each domain."
    )


def scores_name(
    model: Path, stage: Stage, parameters: Parameters, texts: Mapping[str, Path]
) -> str:
    """`<model>/<method>-<text>-<what the parameters say>`."""
    named = ("calibration", "domains")
    text = [path.name.partition(".")[0] for role, path in texts.items() if role in named]
    method = stage.name.removeprefix("score-")
    label = "-".join(filter(None, (method, *text, parameters.label())))
    return f"{name_after(model)}/{label}"


def given_scores(draft: Draft, names: Sequence[str], stage: str, model: Path) -> Path:
    """Those of SCORES that `stage` makes, of this very model.

    Raises:
        InputError: none of them are.
    """
    for name in names:
        scores = find_scores(draft, name)
        if draft.stage_of(scores) == stage:
            require_scores_of(draft, scores, model)
            return scores
    raise InputError(
        f"SCORES={','.join(names)} holds none made by {stage}; make them (make {stage}), or leave "
        "SCORES out."
    )


def find_scores(draft: Draft, name: str) -> Path:
    """The directory that SCORES=name means.

    Raises:
        InputError: there is none.
    """
    path = Path(name).expanduser()
    if "/" in name and (path in draft.requests or (path / MANIFEST).is_file()):
        return path
    if found := draft.find(name.removeprefix("scores/"), ("scores",)):
        return found
    raise InputError(
        f"SCORES={name} is not on the store; give a name that make list shows, or a path."
    )


def require_scores_of(draft: Draft, scores: Path, model: Path) -> None:
    """Refuse scores that were measured on another model.

    Raises:
        InputError: they were.
        NotMadeYet: the model, that it may be compared.
    """
    if request := draft.maker(scores):
        same, measured = request.inputs["model"] == model, request.inputs["model"].name
    else:
        record = read_manifest(scores).inputs["model"]
        measured, same = record.name, True
        if draft.require(model):
            same = record_of(model, draft.store).content == record.content
    if not same:
        raise InputError(
            f"{scores} was measured on {measured}, another model than {model.name}; leave "
            "SCORES out to measure it."
        )
