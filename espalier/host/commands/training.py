"""`make train-gpu`, and TRAIN= of a pipeline: the words, and their requests."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from espalier.contract.discovery import stage_named
from espalier.contract.parameters import Parameters, assigned_as
from espalier.contract.stage import Stage
from espalier.contract.usable import require_usable
from espalier.data.tokens import require_one_stream
from espalier.errors import InputError
from espalier.host.commands.sources import (
    default_name,
    examples_named,
    first_given,
    grown_token_data,
    model_named,
    token_data_named,
)
from espalier.host.draft import CONFIG, Draft
from espalier.models.shapes import Shapes, config_file

TRAINERS = {"gpu": "train-gpu", "tpu": "train-tpu", "recover": "recover"}
"""What TRAIN= of a pipeline may say, and the stage that it means."""
SOURCES = ("MODEL", "CKPT", "ARCH", "TOKENIZER", "TEACHER", "DATA", "REVISION", "NAME")
PREFIX = "TRAIN_"
RECORDS = {"FORMAT": "arrayrecord", "TARGETS": "1"}
"""What MaxText reads token data as."""


@runtime_checkable
class Sized(Protocol):
    """Parameters that say how long a model's sequences are."""

    def sequence_length(self, positions: int) -> int:
        """Tokens, of a model with as many positions."""


@dataclass(frozen=True)
class TrainingCommand:
    """A trainer, its parameters and where its inputs come from; `given` are its words."""

    stage: Stage
    parameters: Parameters
    sources: Mapping[str, str]
    given: Mapping[str, str]

    @classmethod
    def parse(cls, stage: Stage, given: Mapping[str, str]) -> "TrainingCommand":
        """Read the assignments, but for settings.

        Raises:
            InputError: something is unknown, does not hold or contradicts another.
        """
        rest = dict(given)
        sources = {name: rest.pop(name) for name in SOURCES if name in rest}
        if "TEACHER" in sources and stage.verb == "train" and "teacher" not in stage.inputs:
            raise InputError(f"TEACHER is not used: {stage.name} does not distil; train-gpu does.")
        if "ARCH" in sources and stage.verb == "train" and "architecture" not in stage.inputs:
            raise InputError(
                f"ARCH is not used: {stage.name} needs weights to start from; train-gpu trains "
                "from scratch."
            )
        if "ARCH" in sources:
            if {"MODEL", "CKPT"} & sources.keys():
                raise InputError("ARCH is trained from scratch; leave CKPT out, or ARCH.")
            rest.setdefault("INIT", "random")
        elif "TOKENIZER" in sources:
            raise InputError("TOKENIZER goes with ARCH; a CKPT has its own.")
        return cls(stage, stage.parameters.from_assignments(rest), sources, given)

    @classmethod
    def of_pipeline(cls, rest: dict[str, str], known: Collection[str]) -> "TrainingCommand | None":
        """Take the training's words out of a pipeline's; None where it has no TRAIN.

        They are TRAIN_<NAME>, and <NAME> alone where nothing else `known` has that name.

        Raises:
            InputError: no such trainer, or as `parse`.
        """
        prefixed = {key: rest.pop(key) for key in list(rest) if key.startswith(PREFIX)}
        trainer = rest.pop("TRAIN", None)
        if trainer is None:
            if prefixed:
                raise InputError(f"{', '.join(prefixed)} is for training; give TRAIN=gpu too.")
            return None
        if trainer not in TRAINERS:
            raise InputError(f"TRAIN={trainer} is not known; choose one of {', '.join(TRAINERS)}.")
        stage = stage_named(TRAINERS[trainer])
        own = {assigned_as(name) for name in stage.parameters.model_fields} | {"TEACHER"}
        words = {key: rest.pop(key) for key in list(rest) if key in own - set(known)}
        words |= {key.removeprefix(PREFIX): value for key, value in prefixed.items()}
        if useless := {"MODEL", "CKPT", "ARCH", "TOKENIZER", "REVISION"} & words.keys():
            raise InputError(
                f"{', '.join(sorted(PREFIX + name for name in useless))} is not used: a pipeline "
                "trains what it prunes."
            )
        return cls.parse(stage, words)

    def add(self, draft: Draft) -> Path:
        """The trained checkpoint."""
        inputs, parent = self._start(draft)
        return self._made(draft, inputs, parent, inputs.get("tokenizer") or inputs["model"])

    def continued(self, draft: Draft, pruned: Path, parent: Path) -> Path:
        """The trained checkpoint of a pipeline's pruned one."""
        return self._made(draft, {"model": pruned}, pruned, parent)

    def model(self, draft: Draft) -> Path:
        """The model that CKPT or MODEL says."""
        named, given_as = first_given(self.sources, ("CKPT", "MODEL"), "sapling")
        return model_named(draft, named, self.sources.get("REVISION", ""), given_as=given_as)

    def _made(self, draft: Draft, inputs: dict[str, Path], named: Path, tokenizer: Path) -> Path:
        if teacher := self.sources.get("TEACHER"):
            inputs["teacher"] = model_named(draft, teacher, given_as="TEACHER")
        require_usable(self.stage, inputs)
        if "examples" in self.stage.inputs:
            inputs["examples"] = examples_named(draft, self.sources.get("DATA"), inputs["model"])
        else:
            inputs["data"] = self._data(draft, tokenizer)
        # Compose's services hand rows on that are exported already.
        if self.stage.tpu and draft.stage_of(inputs["data"]) != "export":
            inputs["data"] = self._exported(draft, inputs)
        name = self.sources.get("NAME") or default_name(named, self.stage, self.parameters)
        return draft.make(self.stage, self.parameters, inputs, name)

    def _exported(self, draft: Draft, inputs: Mapping[str, Path]) -> Path:
        """The token data in rows of the length that the run has."""
        length = row_length(self.parameters, self._config(draft, inputs))
        export = stage_named("export")
        parameters = export.parameters.from_assignments({**RECORDS, "SEQLEN": str(length)})
        name = f"{inputs['data'].name}-{parameters.label()}"
        return draft.make(export, parameters, {"data": inputs["data"]}, name)

    def _config(self, draft: Draft, inputs: Mapping[str, Path]) -> Mapping[str, Any]:
        """The config.json of what is trained: given by itself, or a model's."""
        if (file := inputs.get("architecture")) is None:
            return draft.config(inputs["model"])
        return draft.config(file.parent) if draft.maker(file) else config_file(file)

    def _start(self, draft: Draft) -> tuple[dict[str, Path], Path]:
        """The inputs that say what is trained, and what the result is named after."""
        if (architecture := self.sources.get("ARCH")) is None:
            found = self.model(draft)
            return {"model": found}, found
        path = Path(architecture).expanduser()
        file = path
        if not path.is_file():
            file = model_named(draft, architecture, given_as="ARCH") / CONFIG
        tokenizer = self.sources.get("TOKENIZER")
        if tokenizer is None and path.is_file():
            raise InputError(f"ARCH={architecture} has no tokenizer; give TOKENIZER=<model>.")
        owner = file.parent
        if tokenizer:
            owner = model_named(draft, tokenizer, given_as="TOKENIZER")
        named_after = path.with_suffix("") if path.is_file() else file.parent
        return {"architecture": file, "tokenizer": owner}, named_after

    def _data(self, draft: Draft, tokenizer: Path) -> Path:
        """Token data by its name, or `pydoc` packed for a model that was grown on it."""
        name = self.sources.get("DATA")
        if name is None:
            if found := grown_token_data(draft, tokenizer):
                return found
            raise InputError("give DATA=<token data>; make data makes them.")
        if found := token_data_named(draft, name):
            require_one_stream(found)
            return found
        raise InputError(
            f"DATA={name} is not token data on the store; make them with make data DATA={name} "
            "SOURCE=<text> TOKENIZER=<the model>."
        )


def row_length(parameters: Parameters, config: Mapping[str, Any]) -> int:
    """Tokens a row, where a model of that config.json is trained with such parameters.

    Raises:
        InputError: the config.json is not available.
    """
    if not config:
        raise InputError(
            "the length of rows needs the model's config.json; fetch it first (make fetch)."
        )
    assert isinstance(parameters, Sized)  # noqa: S101
    return parameters.sequence_length(Shapes.of(config).positions)
