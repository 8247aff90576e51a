"""The words that a command takes: those that name its inputs and its result, and its parameters.

Parameters are the specs'; what names an input follows from the input's role. Help, compose's
services and the README's table of methods all read this.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from espalier.contract.discovery import stage_named, stages
from espalier.contract.stage import Stage
from espalier.errors import InputError

MODEL = "an alias (make list-models), a Hugging Face id, a name on the store or a path"
PACKED = "token data on the store, which make data makes"
TEXT = "a listed text such as wikitext2, a Hugging Face id, a file, or a name on the store"
ROLES: Mapping[str, Mapping[str, str]] = {
    "model": {
        "MODEL": f"{MODEL}; default sapling",
        "CKPT": "the same, of a checkpoint",
        "REVISION": "commit, tag or branch of MODEL; default the listed one",
    },
    "calibration": {"CALIBRATION": "c4, wikitext2, pg19, bookcorpus, pydoc, a file, token ids"},
    "tasks": {"TASK_DATA": "a folder with the rows of tasks"},
    "domains": {"DOMAIN_DATA": "token data of several domains, which make data DOMAINS=1 makes"},
    "architecture": {"ARCH": "a config.json, or a model whose shape is trained from scratch"},
    "tokenizer": {"TOKENIZER": "a model whose tokenizer is taken"},
    "teacher": {"TEACHER": f"{MODEL}: who is distilled from"},
    "text": {"SOURCE": TEXT, "FILES": "files of SOURCE at most, where it is fetched"},
    "source": {"FROM": "a Hugging Face directory, or a GGUF file"},
    "maxtext": {"CKPT": "a MaxText checkpoint on the store"},
    "composer": {"CKPT": "a state dict of Sheared-LLaMA's Composer model: a file, or on the store"},
    "config": {
        "MODEL": f"whose config.json and tokenizer are taken; {MODEL}; default those of CKPT",
        "REVISION": "commit, tag or branch of MODEL; default the listed one",
    },
    "checkpoint": {"CKPT": "a checkpoint or a model, by its name on the store"},
    "data": {"DATA": PACKED},
    "examples": {
        "DATA": "rows of instruction, input and output, a text, or token data: a listed one such "
        "as alpaca, a Hugging Face id, a file, or a name on the store"
    },
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
UNNAMED = ("data", "fetch", "fetch-data", "push")
"""Verbs whose result has its name from another word."""


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
        sources |= {**OF_VERB.get(stage.verb, {}), **(SCORES if stage.derived else {})}
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
    for stage in stages().values():
        command = Command.of(stage)
        if name in (stage.name, command.name):
            return command
    raise InputError(f"{name} is not a stage; there are {', '.join(stages())}.")
