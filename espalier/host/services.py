"""What docker compose's services are given: the words of their commands, by the environment.

A service says image, profile and command; which variables it looks at follows from the command.
"""

import os
from collections.abc import Sequence

from espalier.contract.discovery import method_named, methods, stages
from espalier.contract.stage import Stage
from espalier.host.words import Command, command_named

FROM_ENVIRONMENT = "ESPALIER_WORDS_FROM_ENVIRONMENT"
"""Set in compose's services alone: a command takes words that it is not given from there."""
IN_THE_SERVICE = frozenset(("CKPT", "ARCH", "TOKENIZER", "REVISION", "METHOD", "LEGACY"))
"""What a service says itself, or does not offer."""
EVALUATED = ("SUITE", "DATA", "TASKS", "TASK_DATA", "LIMIT")
"""What a pruning's words hand on to the evaluation of its result."""
PREPARED = frozenset(("MODEL", "CALIBRATION", "SUITE", "DATA", "TRAIN"))
"""What decides which models and texts the other services are going to need."""


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
        return PREPARED
    if command == "publish":
        return frozenset()
    if command == "eval" and method:
        return _pruned_words(method)
    return command_named(command).words - IN_THE_SERVICE


def _pruned_words(method: str) -> frozenset[str]:
    """What says which result of a method is evaluated, and how, as a pipeline's words do."""
    stages = Command.of(method_named(method)).stages
    own = frozenset[str]().union(*(stage.parameters.words() for stage in stages))
    return own | {"MODEL", "NAME", *EVALUATED}


def passed_on() -> list[str]:
    """The variables that compose hands to the services that prune, evaluate and train."""
    found: set[str] = set()
    for name, stage in methods().items():
        found |= Command.of(stage).words | _pruned_words(name)
    for stage in _trainers():
        found |= Command.of(stage).words
    return sorted(found - IN_THE_SERVICE)


def _trainers() -> list[Stage]:
    """The stages that train."""
    return [stage for stage in stages().values() if stage.verb == "train"]


def of_training() -> dict[str, str]:
    """What compose gives a training for the parameters that pruning has too.

    TRAIN_<NAME>, as a pipeline's. Where only a method that trains itself has the parameter, <NAME>
    stands for both as long as the training's own is not set.
    """
    training = {word for stage in _trainers() for word in stage.parameters.words()}
    pruning: dict[str, bool] = {}
    for name, stage in methods().items():
        trains = "TOKENS" in stage.parameters.words()
        for word in training & _pruned_words(name):
            pruning[word] = trains and pruning.get(word, True)
    return {
        word: f"${{TRAIN_{word}:-{f'${{{word}:-}}' if shared else ''}}}"
        for word, shared in sorted(pruning.items())
    }
