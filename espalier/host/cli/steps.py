"""A pipeline's words, and its steps as the commands of several jobs."""

from collections.abc import Mapping, Set
from dataclasses import replace

from espalier.contract.discovery import method_named
from espalier.host.commands.pruning import known_names
from espalier.host.commands.training import TRAINERS, TrainingCommand
from espalier.host.runtimes.slurm.command import Command

EVALUATION = ("SUITE", "DATA", "TASKS", "TASK_DATA", "LIMIT", "LEGACY")
"""Assignments of a pipeline that go to its evaluations, not to its method."""
DEFAULT_METHOD = "wanda"
ALONE = {"SUITE": "none"}


def names_before_training(method: str) -> set[str]:
    """What the pruning and the evaluation of a pipeline understand; its training has the rest."""
    return known_names(method_named(method)) | {*EVALUATION, "MODEL", "CKPT", "NAME", "REVISION"}


def steps(command: Command, missing: Set[str]) -> list[Command]:
    """The commands that stand for `command`, in order: a pipeline is itself, cut after each step.

    What an earlier one has published, the later ones find done and skip. `missing` holds the verbs
    of the stages whose results are not there yet.
    """
    method = command.name.removeprefix("prune-")
    if command.name == "pipeline":
        method = command.given.get("METHOD", DEFAULT_METHOD)
    elif method == command.name:
        return [replace(command, title=command.name)]
    training = TRAINERS.get(command.given.get("TRAIN", ""), "")
    found = []
    if missing - {"eval", "train"}:
        given = _without_training(command.given, method) | ALONE
        found.append(replace(command, given=given, trains=False, title=f"prune-{method}"))
    if "train" in missing:
        found.append(replace(command, given={**command.given, **ALONE}, title=training))
    if "eval" in missing:
        found.append(replace(command, trains=False, title="eval"))
    return found


def _without_training(given: Mapping[str, str], method: str) -> dict[str, str]:
    rest = dict(given)
    TrainingCommand.of_pipeline(rest, names_before_training(method))
    return rest
