"""The requests that fill a table: its model, every row pruned and perhaps trained, and measured."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from espalier.contract.discovery import stage_named
from espalier.contract.reproduction import DENSE, Column, Filled, Row, Words, fitted
from espalier.contract.stage import Stage
from espalier.contract.store import name_after
from espalier.errors import InputError
from espalier.host.commands.evaluation import TASK_DATA, evaluate
from espalier.host.commands.pruning import PruningCommand, roles_of, score
from espalier.host.commands.reproduction import ReproduceCommand, deciding, words_of
from espalier.host.commands.sources import GROWN_TEXT, default_name, default_text, model_named
from espalier.host.commands.training import PREFIX, TRAINERS, TrainingCommand
from espalier.host.draft import Draft

MARK = "as-in-paper"
"""What the names of results have in them, so that they are none of another command's."""


def fill(command: ReproduceCommand, draft: Draft) -> list[Filled]:
    """The rows, in the table's order.

    Raises:
        InputError: a word does not hold, or nothing is left to do.
        NotMadeYet: the model, whose shape decides its words.
    """
    return _Table(command, draft).fill()


class _Table:
    """One model's table, as it is put into a draft."""

    def __init__(self, command: ReproduceCommand, draft: Draft) -> None:
        self.command, self.draft = command, draft
        self.reproduction = command.reproduction
        self.parent = model_named(draft, command.model, command.revision)
        self.config: Mapping[str, Any] = draft.config(self.parent)
        self.near = default_text(draft, self.parent, prune=True) == GROWN_TEXT
        """Whether the model needs no hub, and so is not to wait for texts of one."""
        self.left_out: list[str] = []

    def fill(self) -> list[Filled]:
        """Every row that is asked for and can be filled."""
        only = self.command.only
        columns = self._columns()
        rows = self.reproduction.rows_of(self.command.model)
        scores = self._shared_scores() if not only or set(only) - {DENSE} else None
        found = []
        if not only or DENSE in only:
            found.append(self._measured(DENSE, self.parent, self.parent, columns))
        for name, row in rows.items():
            if only and name not in only:
                continue
            if (pruned := self._pruned(name, row, scores)) is not None:
                trains = self.reproduction.train and columns
                model = self._trained(name, pruned) if trains else pruned
                found.append(self._measured(name, pruned, model, columns))
        if self.left_out:
            self.draft.notes.append(
                f"Left out for want of {TASK_DATA}=<folder of <task>.jsonl>: "
                f"{', '.join(self.left_out)}."
            )
        if not any(each.evaluations or each.pruned != self.parent for each in found):
            raise InputError(f"nothing of this is measured without {TASK_DATA}; give it.")
        return found

    def _columns(self) -> list[Words]:
        """The words of each evaluation, once; those of tasks where there are rows for them."""
        found: list[Words] = []
        for column in self.reproduction.columns_of(self.command.model):
            if column.words and (words := self._evaluation(column)) not in found:
                if self.command.tasks or not _needs_tasks(words):
                    found.append(words)
                elif (suite := words.get("TASKS", words["SUITE"])) not in self.left_out:
                    self.left_out.append(suite)
        return found

    def _evaluation(self, column: Column) -> Words:
        """A column's words, as this model takes them."""
        words = fitted(column.words, self.config)
        if _needs_tasks(words):
            return words | {k: v for k, v in self.command.measuring.items() if k == "LIMIT"}
        if self.near:
            words["DATA"] = GROWN_TEXT
        return words | self.command.measuring

    def _words(self, row: Words, wanted: set[str]) -> Words:
        """The words of a pruning, those of the row foremost; empty ones of it are left out."""
        reproduction, given = self.reproduction, self.command.given
        own = reproduction.models.get(self.command.model, {})
        near = reproduction.local if self.near else {}
        words = fitted({**reproduction.words, **own, **row, **near}, self.config)
        if self.near:
            words.pop("CALIBRATION", None)
        unused = {word for word, value in row.items() if not value}
        return {k: v for k, v in (words | given).items() if k in wanted - unused}

    def _shared_scores(self) -> Path | None:
        """What all prunings go by, where one measurement serves them."""
        if not self.reproduction.score:
            return None
        (method,) = {row.method for row in self.reproduction.rows.values()}
        (derived,) = stage_named(method).derived.values()
        stage = stage_named(derived.stage)
        own = self.reproduction.models.get(self.command.model, {})
        wanted = {*stage.parameters.words(), "CALIBRATION"}
        words = self._words({**self.reproduction.score, **own}, wanted)
        return score(self.draft, stage, {**words, "MODEL": str(self.parent)})

    def _pruned(self, name: str, row: Row, scores: Path | None) -> Path | None:
        """The row's pruned model; None where it lacks the rows of a task."""
        stage, draft = stage_named(row.method), self.draft
        wanted = words_of(row) if scores is None else set(stage.parameters.words())
        words = self._words(row.words, wanted) | {"MODEL": str(self.parent)}
        if scores is not None:
            words["SCORES"] = str(scores)
        if "tasks" in roles_of(stage) and self.command.tasks:
            words[TASK_DATA] = self.command.tasks
        command = PruningCommand.parse(row.method, words)
        if not self.command.tasks and _goes_by_tasks(command):
            self.left_out.append(f"row {name}")
            return None
        named = default_name(self.parent, stage, command.parameters)
        # What a row measures by is in no label of its pruning.
        if any(value and word not in stage.parameters.words() for word, value in row.words.items()):
            named += f"-{_slug(name)}"
        given = deciding(self.command.given, stage)
        sources = replace(command.sources, name=_name(named, MARK, given))
        _, pruned = replace(command, sources=sources).add(draft)
        draft.step(f"prune-{_slug(name)}", [pruned])
        return pruned

    def _trained(self, name: str, pruned: Path) -> Path:
        """The same, trained as the table's rows are."""
        near = self.reproduction.local if self.near else {}
        words = self.reproduction.train | {
            key.removeprefix(PREFIX): value for key, value in near.items() if PREFIX in key
        }
        trainer = TRAINERS[words.pop("TRAIN")]
        if self.near:
            words.pop("DATA", None)
        words = fitted(words, self.config) | self.command.training
        stage = stage_named(trainer)
        words["NAME"] = _name(pruned.name, trainer, deciding(self.command.training, stage))
        command = TrainingCommand.parse(stage, words)
        trained = command.continued(self.draft, pruned, self.parent)
        self.draft.step(f"{trainer}-{_slug(name)}", [trained])
        return trained

    def _measured(self, name: str, pruned: Path, model: Path, columns: list[Words]) -> Filled:
        """With the evaluations of a model, each of whose texts is there before it is pruned."""
        found = []
        for words in columns:
            given = words | ({TASK_DATA: self.command.tasks} if _needs_tasks(words) else {})
            evaluation = evaluate(self.draft, model, {**given, "NAME": _label(words)})
            found.append(evaluation)
            text = self.draft.requests[evaluation].inputs.get("data")
            if text is not None and name != DENSE:
                self.draft.wait(pruned, text)
        if found:
            self.draft.step(f"eval-{_slug(name)}", found)
        return Filled(name, pruned, model, tuple(found))


def _needs_tasks(words: Mapping[str, str]) -> bool:
    """Whether an evaluation is of tasks, and of no text."""
    stage = stage_named("eval")
    known = {k: v for k, v in words.items() if k in stage.parameters.words()}
    return "data" in stage.parameters.from_assignments(known).unused()


def _goes_by_tasks(command: PruningCommand) -> bool:
    """Whether what a pruning goes by is measured on rows of a task."""

    def takes(stage: Stage, words: Mapping[str, str]) -> bool:
        unused = stage.parameters.from_assignments(dict(words)).unused()
        return "tasks" in stage.inputs.keys() - unused

    return any(
        takes(
            stage_named(derived.stage),
            {**command.scoring[role], **derived.asked(command.parameters)},
        )
        for role, derived in command.stage.derived.items()
    )


def _label(words: Mapping[str, str]) -> str:
    """`wikitext2-2048`, `legacy-wanda-table`, `tasks-winogrande-5-acc`; what LIMIT leaves too."""
    if _needs_tasks(words):
        legacy = "legacy" if words.get("LEGACY") == "1" else ""
        parts = [legacy, words["SUITE"], _slug(words.get("TASKS", ""))]
    else:
        parts = [name_after(Path(words["DATA"])), words.get("SEQLEN", "")]
    limit = f"limit{words['LIMIT']}" if "LIMIT" in words else ""
    return "-".join(filter(None, (*parts, limit)))


def _name(named: str, mark: str, given: Mapping[str, str]) -> str:
    """A result's name, with what was given that decides it."""
    said = [f"{word.lower()}-{name_after(Path(value))}" for word, value in given.items()]
    return "-".join([named, mark, *map(_slug, said)])


def _slug(words: str) -> str:
    """Words as a name may have them."""
    return "-".join("".join(c if c.isalnum() or c in "._" else " " for c in words).split())
