"""`make train-gpu`: the words of the command, and what they chain."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from espalier.chain import GROWN_TEXT, Chain, default_name
from espalier.discovery import stage_named
from espalier.errors import InputError
from espalier.parameters import Parameters
from espalier.stage import Stage
from espalier.token_data import INDEX

TRAINERS = {"gpu": "train-gpu"}
"""What TRAIN= of a pipeline may say, and the stage that it means."""
SOURCES = ("MODEL", "CKPT", "ARCH", "TOKENIZER", "TEACHER", "DATA", "REVISION", "NAME")


@dataclass(frozen=True)
class TrainingCommand:
    """A trainer, its parameters and where its inputs come from."""

    stage: Stage
    parameters: Parameters
    sources: Mapping[str, str]

    @classmethod
    def parse(cls, stage: Stage, given: Mapping[str, str]) -> "TrainingCommand":
        """Read the assignments, but for settings.

        Raises:
            InputError: something is unknown, does not hold or contradicts another.
        """
        rest = dict(given)
        sources = {name: rest.pop(name) for name in SOURCES if name in rest}
        if "ARCH" in sources:
            if {"MODEL", "CKPT"} & sources.keys():
                raise InputError("ARCH is trained from scratch; leave CKPT out, or ARCH.")
            rest.setdefault("INIT", "random")
        elif "TOKENIZER" in sources:
            raise InputError("TOKENIZER goes with ARCH; a CKPT has its own.")
        return cls(stage, stage.parameters.from_assignments(rest), sources)

    def run(self, chain: Chain, model: Path | None = None) -> Path:
        """The trained checkpoint; of `model` where it is given, as by a pipeline."""
        inputs, parent = self._start(chain, model)
        if teacher := self.sources.get("TEACHER"):
            inputs["teacher"] = chain.model(teacher)
        inputs["data"] = self._data(chain, inputs.get("tokenizer") or inputs["model"])
        name = self.sources.get("NAME") or default_name(parent, self.stage, self.parameters)
        return chain.run(self.stage, self.parameters, inputs, name)

    def _start(self, chain: Chain, model: Path | None) -> tuple[dict[str, Path], Path]:
        """The inputs that say what is trained, and what the result is named after."""
        if (architecture := self.sources.get("ARCH")) is None:
            named = self.sources.get("CKPT") or self.sources.get("MODEL") or "sapling"
            found = model or chain.model(named, self.sources.get("REVISION", ""))
            return {"model": found}, found
        path = Path(architecture).expanduser()
        file = path if path.is_file() else chain.model(architecture) / "config.json"
        tokenizer = self.sources.get("TOKENIZER")
        if tokenizer is None and path.is_file():
            raise InputError(f"ARCH={architecture} has no tokenizer; give TOKENIZER=<model>.")
        owner = chain.model(tokenizer) if tokenizer else file.parent
        parent = path.with_suffix("") if path.is_file() else file.parent
        return {"architecture": file, "tokenizer": owner}, parent

    def _data(self, chain: Chain, tokenizer: Path) -> Path:
        """Token data by its name, or `pydoc` packed for a model that was grown on it."""
        name = self.sources.get("DATA")
        if name is None:
            if chain.default_text(tokenizer, prune=False) != GROWN_TEXT:
                raise InputError("give DATA=<token data>; make data makes them.")
            packed = stage_named("data")
            parameters = packed.parameters.from_assignments({})
            inputs = {"text": chain.text(GROWN_TEXT), "tokenizer": chain.model("sapling")}
            return chain.run(packed, parameters, inputs, f"{GROWN_TEXT}-sapling")
        path = Path(name).expanduser()
        if "/" in name and (path / INDEX).is_file():
            return path
        if found := chain.executor.store.find(name, ("data",)):
            return found
        raise InputError(
            f"DATA={name} is no token data on the store; make them with make data DATA={name} "
            "SOURCE=<text> TOKENIZER=<the model>."
        )
