"""The words that a command takes: those that name its inputs and its result, and its parameters.

Parameters are the specs'; what names an input follows from the input's role. Help, compose's
services and the tables of the READMEs all read this.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from espalier.contract.discovery import method_named, methods, stage_named, stages
from espalier.contract.stage import Stage
from espalier.errors import InputError

EVALUATED = ("SUITE", "DATA", "TASKS", "TASK_DATA", "LIMIT")
"""What a pruning's words hand on to the evaluation of its result."""
FROM_ENVIRONMENT = "ESPALIER_WORDS_FROM_ENVIRONMENT"
"""Set in compose's services alone: a command takes words that it is not given from there."""
IN_THE_SERVICE = frozenset(("CKPT", "ARCH", "TOKENIZER", "REVISION", "METHOD", "LEGACY"))
"""What a service of compose says itself, or does not offer."""

MODEL = "an alias (make list-models), a Hugging Face id, a name on the store or a path"
TOKEN_DATA = "token data on the store, which make data makes"
TEXT = "a listed text such as wikitext2, a Hugging Face id, a file, or a name on the store"
ROLES: Mapping[str, Mapping[str, str]] = {
    "model": {
        "MODEL": f"{MODEL}; default sapling",
        "CKPT": "the same, of a checkpoint",
        "REVISION": "commit, tag or branch of MODEL; default the listed one",
    },
    "calibration": {"CALIBRATION": "c4, wikitext2, pg19, bookcorpus, pydoc, a file, token ids"},
    "tasks": {"TASK_DATA": "a folder with the rows of tasks"},
    "architecture": {"ARCH": "a config.json, or a model whose shape is trained from scratch"},
    "tokenizer": {"TOKENIZER": "a model whose tokenizer is taken"},
    "teacher": {"TEACHER": f"{MODEL}: who is distilled from"},
    "text": {"SOURCE": TEXT, "FILES": "files of SOURCE at most, where it is fetched"},
    "source": {"FROM": "a Hugging Face directory"},
    "maxtext": {"CKPT": "a MaxText checkpoint on the store"},
    "data": {"DATA": TOKEN_DATA},
}
SCORES = {"SCORES": "scores on the store, of this very model, with commas between"}
"""Beside what a method goes by, which is measured where these are not given."""
OF_VERB: Mapping[str, Mapping[str, str]] = {
    "eval": {
        "DATA": TEXT,
        "METHOD": "MODEL pruned by this method, with its parameters, is what is evaluated",
        "LEGACY": "1: by lm-eval 0.3.0, which the papers used",
    },
    "grow": {"DATA": f"{TEXT}; default pydoc"},
    "plan": {**ROLES["model"], **ROLES["architecture"]},
    "export": {
        "CKPT": "a model: rows are as long as it takes them where SEQLEN is not given",
        "MODEL": "the same",
    },
    "data": {"DATA": "the name of the result"},
}
"""What a verb adds, or means otherwise."""
UNNAMED = ("data", "fetch", "fetch-data")
"""Verbs whose result has its name from another word."""
PREPARED = {
    **{name: ROLES["model"][name] for name in ("MODEL", "REVISION")},
    **ROLES["calibration"],
    "SUITE": "none: nothing is evaluated later",
    "DATA": TEXT,
    "TRAIN": "anything: token data of a model that was grown here are made too",
}


@dataclass(frozen=True)
class Command:
    """A command that runs a stage.

    Attributes:
        name: as the Makefile has it.
        sources: words that name inputs and the result, and what each means.
        stages: whose parameters are words of it: its own first, then those that measure for it.
    """

    name: str
    sources: Mapping[str, str]
    stages: tuple[Stage, ...]

    @classmethod
    def of(cls, stage: Stage) -> "Command":
        """The command of a stage."""
        stages = (stage, *(stage_named(derived.stage) for derived in stage.derived.values()))
        roles = [role for each in stages for role in each.inputs if role not in stage.derived]
        sources = {word: text for role in roles for word, text in ROLES.get(role, {}).items()}
        sources |= OF_VERB.get(stage.verb, {}) | (SCORES if stage.derived else {})
        if "teacher_config" in stage.parameters.model_fields:
            sources |= ROLES["teacher"]
        if stage.verb not in UNNAMED:
            sources["NAME"] = "of the result"
        name = f"prune-{stage.name}" if stage.verb == "prune" else stage.name
        return cls(name, sources, stages)

    @property
    def stage(self) -> Stage:
        return self.stages[0]

    @property
    def words(self) -> frozenset[str]:
        """All that may be assigned, settings aside."""
        return frozenset(self.sources).union(*(each.parameters.words() for each in self.stages))


def command_named(name: str) -> Command:
    """The command `prune-wanda`, or that of the stage `wanda`.

    Raises:
        InputError: there is none.
    """
    commands = {stage.name: Command.of(stage) for stage in stages().values()}
    found = commands.get(name) or commands.get(name.removeprefix("prune-"))
    if found is None or (name != found.stage.name and name != found.name):
        raise InputError(f"{name} is not a stage; there are {', '.join(commands)}.")
    return found


def with_environment(words: Sequence[str]) -> list[str]:
    """A command line, with what a service of compose has in its environment put before its words.

    A word that is given wins. Anywhere else than in such a service the words come back as they
    are: a stray SEED or NAME in a user's shell changes no run.
    """
    if os.environ.get(FROM_ENVIRONMENT) != "1" or not words:
        return list(words)
    command, *given = words
    method = dict(word.partition("=")[::2] for word in given).get("METHOD")
    names = sorted(_service_words(command, method))
    found = [f"{name}={os.environ[name]}" for name in names if os.environ.get(name)]
    return [command, *found, *given]


def _service_words(command: str, method: str | None) -> frozenset[str]:
    """What a command takes from the environment of its service."""
    if command == "prepare":
        return frozenset(PREPARED)
    if command == "publish":
        return frozenset()
    if command == "eval" and method:
        return pruned_words(method)
    return command_named(command).words - IN_THE_SERVICE


def pruned_words(method: str) -> frozenset[str]:
    """What says which result of a method is evaluated, and how, as a pipeline's words do."""
    stages = Command.of(method_named(method)).stages
    own = frozenset[str]().union(*(stage.parameters.words() for stage in stages))
    return own | {"MODEL", "NAME", *EVALUATED}


def passed_on() -> list[str]:
    """The variables that compose hands to the services that prune, evaluate and train."""
    found: set[str] = set()
    for name, stage in methods().items():
        found |= Command.of(stage).words | pruned_words(name)
    for stage in trainers():
        found |= Command.of(stage).words
    return sorted(found - IN_THE_SERVICE)


def trainers() -> list[Stage]:
    """The stages that train."""
    return [stage for stage in stages().values() if stage.verb == "train"]


def doubled() -> list[str]:
    """Parameters of training that pruning has too: compose's TRAIN_<NAME>, as a pipeline's."""
    pruning = {word for name in methods() for word in pruned_words(name)}
    training = {word for stage in trainers() for word in stage.parameters.words()}
    return sorted(pruning & training)
