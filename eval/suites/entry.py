"""A task of a suite, and the word that it is asked for by: `winogrande:5:acc`."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from espalier.errors import InputError

_WORD = re.compile(r"(?P<name>[^:]+)(:(?P<shots>\d{0,3})(:(?P<metric>[^:]*))?)?", re.ASCII)


@dataclass(frozen=True)
class Entry:
    """One task as it is asked: `<task>[:<shots>[:<metric>]]`.

    Attributes:
        name: the task's, and that of its file of rows.
        shots: examples that stand before each question; None: as many as the harness's task says.
        metric: whose value counts as the task's own, `acc` or `acc_norm`; None: nobody has said.
    """

    name: str
    shots: int | None = None
    metric: str | None = None

    @property
    def label(self) -> str:
        """What it is called in results: the same task with other examples has another name."""
        return f"{self.name}:{self.shots}" if self.shots else self.name

    def __str__(self) -> str:
        """The word that means it."""
        shots = "" if self.shots is None else str(self.shots)
        return f"{self.name}:{shots}:{self.metric or ''}".rstrip(":")


def parse_entries(words: Iterable[str]) -> tuple[Entry, ...]:
    """The entries that words mean; what is named twice in the same way is one.

    Raises:
        InputError: a word is none, or results of two of them would have one name.
    """
    entries = tuple(dict.fromkeys(_parse(word.strip()) for word in words if word.strip()))
    labels: dict[str, Entry] = {}
    for entry in entries:
        if (other := labels.setdefault(entry.label, entry)) is not entry:
            raise InputError(
                f"TASKS={other},{entry} asks for {entry.label} twice; name it once (results have "
                "all of a task's metrics), or give each its own number of examples."
            )
    return entries


def _parse(word: str) -> Entry:
    found = _WORD.fullmatch(word)
    if found is None:
        raise InputError(
            f"TASKS={word} is not <task>[:<examples>[:<metric>]]; write winogrande, winogrande:5 "
            "or arc_easy:0:acc_norm."
        )
    shots = int(found["shots"]) if found["shots"] else None
    return Entry(found["name"].strip(), shots, (found["metric"] or "").strip() or None)
