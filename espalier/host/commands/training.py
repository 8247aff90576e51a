"""`make train-gpu`, and TRAIN= of a pipeline: the words, and what they chain."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from espalier.contract.discovery import stage_named
from espalier.contract.manifest import MANIFEST, read_manifest
from espalier.contract.parameters import Parameters
from espalier.contract.stage import Stage
from espalier.contract.usable import require_usable
from espalier.data.tokens import INDEX
from espalier.errors import InputError
from espalier.host.chain import GROWN_TEXT, Chain, default_name
from espalier.models.shapes import Shapes, config_file

TRAINERS = {"gpu": "train-gpu", "tpu": "train-tpu"}
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
            raise InputError(f"TEACHER has no use: {stage.name} does not distil; train-gpu does.")
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
            raise InputError(f"TRAIN={trainer} is not known; there are {', '.join(TRAINERS)}.")
        stage = stage_named(TRAINERS[trainer])
        own = {name.upper() for name in stage.parameters.model_fields} | {"TEACHER"}
        words = {key: rest.pop(key) for key in list(rest) if key in own - set(known)}
        words |= {key.removeprefix(PREFIX): value for key, value in prefixed.items()}
        if useless := {"MODEL", "CKPT", "ARCH", "TOKENIZER", "REVISION"} & words.keys():
            raise InputError(
                f"{', '.join(sorted(PREFIX + name for name in useless))} has no use: a pipeline "
                "trains what it prunes."
            )
        return cls.parse(stage, words)

    def run(self, chain: Chain) -> Path:
        """The trained checkpoint."""
        inputs, parent = self._start(chain)
        return self._run(chain, inputs, parent, inputs.get("tokenizer") or inputs["model"])

    def continued(self, chain: Chain, pruned: Path, parent: Path) -> Path:
        """The trained checkpoint of a pipeline's pruned one."""
        return self._run(chain, {"model": pruned}, pruned, parent)

    def model(self, chain: Chain) -> Path:
        """The model that CKPT or MODEL says."""
        named = self.sources.get("CKPT") or self.sources.get("MODEL") or "sapling"
        return chain.model(named, self.sources.get("REVISION", ""))

    def _run(self, chain: Chain, inputs: dict[str, Path], named: Path, tokenizer: Path) -> Path:
        if teacher := self.sources.get("TEACHER"):
            inputs["teacher"] = chain.model(teacher)
        require_usable(self.stage, inputs)
        inputs["data"] = self._data(chain, tokenizer)
        if self.stage.tpu and not _is_export(inputs["data"]):
            inputs["data"] = self._exported(chain, inputs)
        name = self.sources.get("NAME") or default_name(named, self.stage, self.parameters)
        return chain.run(self.stage, self.parameters, inputs, name)

    def _exported(self, chain: Chain, inputs: Mapping[str, Path]) -> Path:
        """The token data in rows of the length that the run has."""
        file, model = inputs.get("architecture"), inputs.get("model")
        config = config_file(file) if file else chain.config(model) if model else {}
        length = row_length(self.parameters, config)
        export = stage_named("export")
        parameters = export.parameters.from_assignments({**RECORDS, "SEQLEN": str(length)})
        name = f"{inputs['data'].name}-{parameters.label()}"
        return chain.run(export, parameters, {"data": inputs["data"]}, name)

    def _start(self, chain: Chain) -> tuple[dict[str, Path], Path]:
        """The inputs that say what is trained, and what the result is named after."""
        if (architecture := self.sources.get("ARCH")) is None:
            found = self.model(chain)
            return {"model": found}, found
        path = Path(architecture).expanduser()
        file = path if path.is_file() else chain.model(architecture) / "config.json"
        tokenizer = self.sources.get("TOKENIZER")
        if tokenizer is None and path.is_file():
            raise InputError(f"ARCH={architecture} has no tokenizer; give TOKENIZER=<model>.")
        owner = chain.model(tokenizer) if tokenizer else file.parent
        named_after = path.with_suffix("") if path.is_file() else file.parent
        return {"architecture": file, "tokenizer": owner}, named_after

    def _data(self, chain: Chain, tokenizer: Path) -> Path:
        """Token data by its name, or `pydoc` packed for a model that was grown on it."""
        name = self.sources.get("DATA")
        if name is None:
            if found := grown_token_data(chain, tokenizer):
                return found
            raise InputError("give DATA=<token data>; make data makes them.")
        if found := token_data_named(chain, name):
            return found
        raise InputError(
            f"DATA={name} is no token data on the store; make them with make data DATA={name} "
            "SOURCE=<text> TOKENIZER=<the model>."
        )


def row_length(parameters: Parameters, config: Mapping[str, Any]) -> int:
    """Tokens a row, where a model of that config.json is trained with such parameters."""
    assert isinstance(parameters, Sized)  # noqa: S101
    return parameters.sequence_length(Shapes.of(config).positions)


def token_data_named(chain: Chain, name: str) -> Path | None:
    """The token data that DATA=name means, a path or a name on the store, where they are there."""
    path = Path(name).expanduser()
    if "/" in name and (path / INDEX).is_file():
        return path
    return chain.executor.store.find(name, ("data",))


def _is_export(data: Path) -> bool:
    """Whether they are rows already, as compose's services hand them on."""
    return (data / MANIFEST).is_file() and read_manifest(data).stage == "export"


def grown_token_data(chain: Chain, model: Path) -> Path | None:
    """`pydoc` packed for a model that was grown on it; None for any other model."""
    if chain.default_text(model, prune=False) != GROWN_TEXT:
        return None
    packed = stage_named("data")
    inputs = {"text": chain.text(GROWN_TEXT), "tokenizer": chain.model("sapling")}
    parameters = packed.parameters.from_assignments({})
    return chain.run(packed, parameters, inputs, f"{GROWN_TEXT}-sapling")
