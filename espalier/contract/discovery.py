"""Finds the stages: every `spec.py` in a folder of methods/, inputs/, training/ and eval/."""

import importlib
from functools import cache

from espalier.contract.paths import ROOT
from espalier.contract.stage import Stage
from espalier.errors import InputError

PLACES = (
    *("methods/*/spec.py", "inputs/*/spec.py", "training/*/spec.py"),
    *("eval/spec.py", "eval/*/spec.py"),
)


@cache
def stages() -> dict[str, Stage]:
    """All stages by name; a `spec.py` holds one `STAGE` or several `STAGES`."""
    found: dict[str, Stage] = {}
    for place in PLACES:
        for path in sorted(ROOT.glob(place)):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            module = importlib.import_module(name)
            for stage in getattr(module, "STAGES", None) or (module.STAGE,):
                found[stage.name] = stage
    return found


def stage_named(name: str) -> Stage:
    """The stage of that name.

    Raises:
        InputError: there is none.
    """
    if name not in stages():
        raise InputError(f"{name} is not a stage; there are {', '.join(stages())}.")
    return stages()[name]


def methods() -> dict[str, Stage]:
    """The stages that prune."""
    return {name: stage for name, stage in stages().items() if stage.verb == "prune"}


def scorers() -> dict[str, Stage]:
    """The stages that measure what pruning goes by."""
    return {name: stage for name, stage in stages().items() if stage.verb == "score"}


def method_named(name: str) -> Stage:
    """The pruning method of that name.

    Raises:
        InputError: there is none.
    """
    if name not in methods():
        raise InputError(f"METHOD={name} is not known; choose one of {', '.join(methods())}.")
    return methods()[name]
