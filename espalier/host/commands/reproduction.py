"""`make reproduce-<method>`: the words by which a paper's table is filled."""

from collections.abc import Mapping
from dataclasses import dataclass

from espalier.contract.discovery import stage_named
from espalier.contract.reproduction import DENSE, Reproduction, Row, Words, reproduction_of
from espalier.contract.stage import Stage
from espalier.errors import InputError
from espalier.host.commands.evaluation import TASK_DATA
from espalier.host.commands.pruning import DOMAIN_DATA, known_names, roles_of
from espalier.host.commands.training import PREFIX

OWN = ("MODEL", "REVISION", "ONLY", TASK_DATA, "DATA", "LIMIT")
"""Words beside those of its prunings and, with TRAIN_ before them, its trainings."""
MEASURING = ("DATA", "LIMIT")
"""Those that go to the evaluations."""
SOURCES = {"CALIBRATION": "calibration", DOMAIN_DATA: "domains", TASK_DATA: "tasks"}
"""Words that name inputs, and the role of each."""


@dataclass(frozen=True)
class ReproduceCommand:
    """A table, the model that it is filled for, and what the user says otherwise.

    Attributes:
        only: the rows that are asked for; none: all.
        tasks: the folder with the rows of tasks, or nothing.
        measuring: words of every evaluation.
        given: words of every pruning, or of what it goes by.
        training: words of every training.
    """

    reproduction: Reproduction
    model: str
    revision: str
    only: tuple[str, ...]
    tasks: str
    measuring: Words
    given: Words
    training: Words

    @classmethod
    def parse(cls, name: str, given: Mapping[str, str]) -> "ReproduceCommand":
        """Read the assignments, but for settings.

        Raises:
            InputError: something is unknown, or is no row of the table.
        """
        reproduction, rest = reproduction_of(name), dict(given)
        own = {word: rest.pop(word, "") for word in OWN}
        model = own["MODEL"] or reproduction.default
        only = tuple(filter(None, map(str.strip, own["ONLY"].split(","))))
        known = [DENSE, *reproduction.rows_of(model)]
        if unknown := [row for row in only if row not in known]:
            raise InputError(
                f"ONLY={','.join(unknown)} is no row of {model} here; there are {', '.join(known)}."
            )
        training = {key: rest.pop(key) for key in list(rest) if key.startswith(PREFIX)}
        if training and not reproduction.train:
            raise InputError(f"{', '.join(training)} is for training; {name} trains nothing after.")
        words = frozenset[str]().union(*map(words_of, reproduction.rows.values()))
        if unknown := sorted(rest.keys() - words):
            raise InputError(
                f"{', '.join(unknown)} is not a parameter here (known: "
                f"{', '.join(sorted({*words, *OWN}))})."
            )
        return cls(
            reproduction=reproduction,
            model=model,
            revision=own["REVISION"],
            only=only,
            tasks=own[TASK_DATA],
            measuring={word: own[word] for word in MEASURING if own[word]},
            given=dict(sorted(rest.items())),
            training={key.removeprefix(PREFIX): training[key] for key in sorted(training)},
        )

    @property
    def otherwise(self) -> str:
        """What is given in place of the paper's own words, so that no value can be compared."""
        training = {PREFIX + word: value for word, value in self.training.items()}
        words = {"REVISION": self.revision} if self.revision else {}
        stages = [stage_named(row.method) for row in self.reproduction.rows.values()]
        words |= {**deciding(self.given, *stages), **self.measuring, **training}
        # Where domains are from is in nobody's words.
        return " ".join(f"{k}={v}" for k, v in words.items() if k != DOMAIN_DATA)


def words_of(row: Row) -> set[str]:
    """What may be given of a row's pruning."""
    stage = stage_named(row.method)
    roles = roles_of(stage)
    named = {word for word, role in SOURCES.items() if role in roles}
    return (known_names(stage) | named) - {TASK_DATA}


def deciding(given: Mapping[str, str], *stages: Stage) -> Words:
    """Of words those that decide a result, and do not only say how it is made."""
    every = [*stages, *(stage_named(d.stage) for s in stages for d in s.derived.values())]
    execution = {name.upper() for stage in every for name in stage.parameters.EXECUTION}
    return {word: value for word, value in given.items() if word not in execution}
