"""Chains stages through the store: what a model or a text needs is made or fetched first."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from espalier.contract.discovery import stage_named
from espalier.contract.lineage import descends_from
from espalier.contract.parameters import Parameters
from espalier.contract.stage import Stage
from espalier.data.tokens import INDEX
from espalier.errors import InputError
from espalier.host.execution import Executor, Request
from espalier.host.settings import Settings
from espalier.models.aliases import model_aliases, resolve_model
from espalier.models.shapes import read_config

GROWN_TEXT = "pydoc"
"""The text that CPython ships: what `sapling` grows on, is calibrated with and is tested on."""
PUBLISHED_CALIBRATION, PUBLISHED_TEXT = "c4", "wikitext2"
DEFAULT_SUITE = "quick"
FILES = (".txt", ".jsonl", ".gz", ".parquet", ".safetensors")
"""What a file of text or token ids may end in."""


@dataclass
class Chain:
    """Makes artifacts in order, or only shows what would be made (DRY_RUN=1)."""

    executor: Executor
    settings: Settings
    previews: dict[Path, dict[str, str]] = field(default_factory=dict)
    _shapes: dict[Path, Mapping[str, Any]] = field(default_factory=dict)

    def make(
        self, stage: Stage, parameters: Mapping[str, str], inputs: Mapping[str, Path], name: str
    ) -> Path:
        """One stage's published directory; where it will be, when only shown."""
        return self.run(stage, stage.parameters.from_assignments(dict(parameters)), inputs, name)

    def run(
        self, stage: Stage, parameters: Parameters, inputs: Mapping[str, Path], name: str
    ) -> Path:
        """As `make`, with parameters that are validated already."""
        if self.settings.dry_run:
            return self.show(stage, parameters, inputs, name)
        return self.executor.execute(self.request(stage, parameters, inputs, name))

    def show(
        self, stage: Stage, parameters: Parameters, inputs: Mapping[str, Path], name: str
    ) -> Path:
        """Where the stage's directory will be; what would make it goes to `previews`."""
        request = self.request(stage, parameters, inputs, name)
        target = self.executor.store.path(stage.section, name)
        self._shapes[target] = request.listed
        self.previews[target] = self.executor.preview(request)
        return target

    def request(
        self, stage: Stage, parameters: Parameters, inputs: Mapping[str, Path], name: str
    ) -> Request:
        """The stage with what is known of its model's shape."""
        target = self.executor.store.path(stage.section, name)
        shape = self._shapes.get(inputs.get("model", target), {})
        return Request(stage, parameters, inputs, name, shape)

    def model(self, name: str, revision: str = "") -> Path:
        """The directory that `MODEL=name` means: a path, a name on the store, an alias or a hub id.

        Raises:
            InputError: none of these.
        """
        if path := _existing_path(name, want="config.json"):
            return path
        if not name.startswith((".", "/", "~")):
            if found := self.executor.store.find(name, ("models", "checkpoints")):
                return found
            source = resolve_model(name, revision or None)
            if source.grown:
                self._shapes[self.executor.store.path("models", source.name)] = source.shape
                text = self.text(GROWN_TEXT)
                return self.make(stage_named("grow"), {}, {"data": text}, source.name)
            wanted = {"MODEL": name, "REVISION": source.revision}
            self._shapes[self.executor.store.path("models", source.name)] = source.shape
            return self.make(stage_named("fetch"), wanted, {}, source.name)
        raise InputError(
            f"MODEL={name} holds no config.json; give a Hugging Face directory, a name on the "
            f"store, a hub id or one of {', '.join(model_aliases())}."
        )

    def text(self, name: str, files: str = "") -> Path:
        """The file or data set that CALIBRATION= or DATA= means; FILES= of it, where it is fetched.

        Raises:
            InputError: no such file, set or name.
        """
        if path := _existing_path(name):
            return path
        stored = name.replace("/", "--")
        if not files and (found := self.executor.store.find(stored, ("data",))):
            if (found / INDEX).is_file():
                raise InputError(
                    f"{name} is token data that make data has packed, not a text; give a text, or "
                    "make the data again under another name."
                )
            return found
        if name == GROWN_TEXT:
            return self.make(stage_named("corpus"), {}, {}, GROWN_TEXT)
        looks_like_path = name.startswith((".", "/", "~")) or Path(name).suffix
        if looks_like_path and not _is_hub_id(name):
            raise InputError(f"{name} does not exist; give an existing file or data set.")
        wanted = {"DATA": name, "FILES": files}
        return self.make(stage_named("fetch-data"), wanted, {}, stored)

    def evaluate(self, checkpoint: Path, given: Mapping[str, str]) -> Path:
        """The evaluation's directory; LEGACY=1 takes the method's own pinned harness."""
        rest = dict(given)
        legacy = rest.pop("LEGACY", "0") not in ("0", "false")
        stage = stage_named("eval-legacy" if legacy else "eval")
        inputs = {"model": checkpoint}
        data, tasks = rest.pop("DATA", None), rest.pop("TASK_DATA", None)
        suite = rest.get("SUITE", DEFAULT_SUITE)
        if data or ("data" in stage.inputs and suite in ("quick", "perplexity")):
            inputs["data"] = self.text(data or self.default_text(checkpoint, prune=False))
        if tasks:
            inputs["tasks"] = self.text(tasks)
        label = rest.pop("NAME", None) or ("legacy-" if legacy else "") + suite
        return self.make(stage, rest, inputs, f"{checkpoint.resolve().name}/{label}")

    def config(self, model: Path) -> Mapping[str, Any]:
        """A model's config.json; what models.toml lists of it, or nothing, where it is not made."""
        path = model / "config.json"
        return read_config(model) if path.is_file() else self._shapes.get(model, {})

    def default_text(self, model: Path, prune: bool) -> str:
        """What a model is calibrated with and tested on where nothing else is asked."""
        if model.name == "sapling" or descends_from(model, "grow"):
            return GROWN_TEXT
        return PUBLISHED_CALIBRATION if prune else PUBLISHED_TEXT


def default_name(parent: Path, stage: Stage, parameters: Parameters) -> str:
    """`<parent>-<method>-<what the parameters say>`."""
    return "-".join(filter(None, (parent.resolve().name, stage.name, parameters.label())))


def _is_hub_id(name: str) -> bool:
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name)) and not name.endswith(FILES)


def _existing_path(name: str, want: str | None = None) -> Path | None:
    path = Path(name).expanduser()
    looks_like_path = "/" in name or path.suffix in FILES
    if not looks_like_path or not path.exists():
        return None
    return path if not want or (path / want).is_file() else None
