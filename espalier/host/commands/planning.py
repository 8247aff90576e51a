"""`make plan-gpu` and `plan-tpu`: the words of a training that is planned and not started.

A plan goes by shapes alone, of a config.json, of the store or of those that models.toml lists;
nothing is fetched, and of weights no more is read than shows that the training would refuse them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from espalier.contract.discovery import stage_named
from espalier.contract.json_text import to_json
from espalier.contract.manifest import pruning_of
from espalier.contract.parameters import assigned_as
from espalier.contract.pruned import Foreign, Masked, Padded, Pruned
from espalier.contract.stage import Stage
from espalier.contract.store import Store, name_after
from espalier.contract.usable import require_kind
from espalier.errors import InputError
from espalier.host.commands.sources import default_name, token_data_named
from espalier.host.commands.training import TrainingCommand
from espalier.host.draft import CONFIG, Draft
from espalier.host.settings import read_settings, split_assignments
from espalier.models.aliases import model_aliases
from espalier.models.content import check_content, config_as_stored
from espalier.models.shapes import Shapes, config_file, read_config


@dataclass(frozen=True)
class Known:
    """A model's shape, wherever it was found.

    Attributes:
        directory: the model itself, where it is available.
    """

    name: str
    config: Mapping[str, Any]
    directory: Path | None = None

    @property
    def pruned(self) -> Pruned | None:
        """What was pruned of it: training may have to keep its zeros."""
        return None if self.directory is None else pruning_of(self.directory)


@dataclass(frozen=True)
class PlanningCommand:
    """A training command, and what it starts from."""

    training: TrainingCommand
    model: Known

    @classmethod
    def parse(cls, stage: Stage, words: Sequence[str], store: Store) -> "PlanningCommand":
        """Read the words of a training command; GPUS, NODES and TPU are those that are planned for.

        Raises:
            InputError: something is unknown, does not hold or is not available.
        """
        settings, given = read_settings(split_assignments(list(words)))
        architecture = given.get("ARCH")
        named = architecture or given.get("CKPT") or given.get("MODEL") or "sapling"
        model = known(stage, store, named)
        parameters = {
            **given,
            "CONFIG": to_json(model.config),
            "MASKED": str(not architecture and isinstance(model.pruned, Masked)),
            "PADDED": str(not architecture and isinstance(model.pruned, Padded)),
            **{
                assigned_as(name): str(value)
                for name, value in settings
                if name in stage.parameters.model_fields and value is not None
            },
        }
        if teacher := given.get("TEACHER"):
            if "teacher_config" not in stage.parameters.model_fields:
                raise InputError(f"TEACHER is not used: what {stage.name} plans has none.")
            parameters["TEACHER_CONFIG"] = to_json(known(stage, store, teacher).config)
        return cls(TrainingCommand.parse(stage, parameters), model)

    @property
    def stage(self) -> Stage:
        return self.training.stage

    def add(self, draft: Draft) -> Path:
        """The plan."""
        sources, parameters = self.training.sources, self.training.parameters
        named = Path(self.model.name)
        name = sources.get("NAME") or default_name(named, self.stage, parameters)
        return draft.make(self.stage, parameters, self._data(draft), name)

    def _data(self, draft: Draft) -> dict[str, Path]:
        """The token data that are counted; what is not made yet is told by TOKENS alone."""
        name = self.training.sources.get("DATA")
        found = None if name is None else token_data_named(draft, name)
        return {} if found is None else {"data": found}


def planned_before(
    draft: Draft,
    training: TrainingCommand,
    trained: Path,
    model: Path | None,
    tpu: Callable[[], str],
) -> Path | None:
    """The plan of `trained` on the TPU that it will get, which is to fit before that is paid for.

    `model` is what is trained; nothing where that is an architecture. None where the words ask for
    no plan, and where the model will not be there, since it is only shown.

    Raises:
        NotMadeYet: the model, whose shape is compiled.
    """
    if not (training.stage.tpu and getattr(training.parameters, "plan", False)):
        return None
    given = {name: value for name, value in training.given.items() if name != "NAME"}
    if model:
        if not draft.require(model):
            return None
        given["CKPT"] = str(model)
    words = [f"{name}={value}" for name, value in {**given, "TPU": tpu()}.items()]
    planned = PlanningCommand.parse(stage_named("plan-tpu"), words, draft.store).add(draft)
    draft.wait(trained, planned)
    return planned


def single_process(words: Sequence[str] | None) -> list[str]:
    """The words with which the plan itself is made: by one process, on a processor."""
    return [*(words or []), "ACCEL=cpu", "GPUS=1", "NODES=1"]


def known(stage: Stage, store: Store, name: str) -> Known:
    """The shape that MODEL=, CKPT=, ARCH= or TEACHER= means.

    Raises:
        InputError: it is not available, or of a form that the stage does not read.
    """
    found = _found(store, name)
    require_kind(stage, found.name, found.pruned)
    Shapes.of(found.config)
    weights = found.directory is not None and any(found.directory.glob("*.safetensors"))
    if found.directory is None or not weights or isinstance(found.pruned, Foreign):
        return found
    check_content(found.directory)
    return replace(found, config=config_as_stored(found.directory))


def _found(store: Store, name: str) -> Known:
    path = Path(name).expanduser()
    if path.is_file():
        return Known(path.with_suffix("").name, config_file(path))
    if "/" in name and (path / CONFIG).is_file():
        return Known(name_after(path), read_config(path), path)
    if not name.startswith((".", "/", "~")):
        if found := store.find(name, ("models", "checkpoints")):
            return Known(found.name, read_config(found), found)
        aliases = model_aliases()
        if name in aliases:
            return Known(name, aliases[name].shape)
    raise InputError(
        f"the shape of {name} is unknown, and a plan fetches nothing; give ARCH=<config.json>, "
        f"a model of the store, or one of {', '.join(model_aliases())}."
    )
