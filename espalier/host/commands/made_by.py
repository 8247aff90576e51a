"""The command that makes what a manifest describes, as one would give it."""

import shlex
from collections.abc import Iterator
from typing import Any

from espalier.contract.discovery import stages
from espalier.contract.manifest import Manifest
from espalier.contract.parameters import assigned_as
from espalier.contract.stage import Stage
from espalier.host.words import ROLES, Command

TARGETS = {"fetch-package": "fetch", "eval-legacy": "eval", "eval-jax": "eval"}
"""Stages whose command has another name."""
NO_COMMAND = ("corpus",)
"""Stages that are made on the way alone."""
OWN_WORDS = {
    ("eval", "data"): "DATA", ("grow", "data"): "DATA", ("eval", "model"): "CKPT",
    ("prune", "model"): "MODEL", ("score", "model"): "MODEL", ("convert", "compact"): "CKPT",
}  # fmt: skip
"""What names an input, where a verb has a word of its own for the role."""
NAMED_BY = {"data": "DATA", "fetch-data": "DATA"}
"""Verbs whose result has its name from another word than NAME."""


def command_line(manifest: Manifest) -> str | None:
    """`make prune-wanda MODEL=sapling SPARSITY=0.5 … NAME=half`: all words that decide the result.

    None where today's stages have no such command.
    """
    stage = stages().get(manifest.stage)
    if stage is None or stage.name in NO_COMMAND:
        return None
    words = {**dict(_inputs(stage, manifest)), **_parameters(stage, manifest.parameters)}
    if stage.name == "eval-legacy":
        words["LEGACY"] = "1"
    if stage.name == "eval-jax":
        words["BACKEND"] = "jax"
    if word := _named_by(stage):
        words[word] = manifest.name.rpartition("/")[2]
    target = TARGETS.get(stage.name, Command.of(stage).name)
    given = (f"{name}={shlex.quote(value)}" for name, value in words.items())
    return " ".join(["make", target, *given])


def _inputs(stage: Stage, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """The words that name what it was made of."""
    scores = []
    for role, record in manifest.inputs.items():
        section, _, name = record.name.partition("/")
        if section == "scores":
            scores.append(name)
        elif word := _word(stage, role, section):
            yield word, name or section
    if scores:
        yield "SCORES", ",".join(scores)


def _word(stage: Stage, role: str, section: str) -> str | None:
    if word := OWN_WORDS.get((stage.verb, role)):
        return word
    words = ROLES.get(role, {})
    if role == "model":
        return "CKPT" if section == "checkpoints" else "MODEL"
    return next(iter(words), None)


def _parameters(stage: Stage, recorded: dict[str, Any]) -> dict[str, str]:
    """Those that were set, defaults too: a later version may have others."""
    known: frozenset[str] = stage.parameters.words()
    hidden = {"sha256"} if stage.name == "fetch-package" else set[str]()
    return {
        assigned_as(name): _written(value)
        for name, value in recorded.items()
        if value not in (None, "") and assigned_as(name) in known and name not in hidden
    }


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)


def _named_by(stage: Stage) -> str | None:
    """The word that its result is called by; what is fetched or pushed names it otherwise."""
    if stage.verb in NAMED_BY:
        return NAMED_BY[stage.verb]
    return None if stage.verb in ("fetch", "push") else "NAME"
