"""One task in two evaluations: in how many of its documents something differs, and what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from eval.comparing.causes import (
    ORDER,
    REQUESTS,
    ROWS,
    TIES,
    Cause,
    differences,
    distance,
    is_same_text,
)
from eval.comparing.documents import Document, Pairs, choice, documents, paired
from eval.samples.sample import Sample


@dataclass
class TaskComparison:
    """A task in two evaluations, document by document.

    Attributes:
        choices: documents with another choice, by the metric that it is made for.
        documents: that both have.
        causes: what differs, by its name.
        distance: the largest between log-likelihoods of the same text; None: no text is the same.
        greedy: requests about the same text that are greedy in one alone.
    """

    choices: dict[str, int]
    documents: int = 0
    causes: dict[str, Cause] = field(default_factory=dict)
    distance: float | None = None
    greedy: int = 0

    @classmethod
    def of(
        cls, one: Sequence[Sample], other: Sequence[Sample], metrics: Sequence[str]
    ) -> "TaskComparison":
        """Compare the samples of a task, whose choices are of interest for `metrics`."""
        found = cls(dict.fromkeys(metrics, 0))
        first, second = documents(one), documents(other)
        found._compare_rows(first, second)
        for line in (line for line in first if line in second):
            found.documents += 1
            found._compare(line, first[line], second[line])
        return found

    @property
    def ordered(self) -> list[Cause]:
        """What differs, in the order in which one thing leads to another."""
        return sorted(self.causes.values(), key=lambda cause: ORDER.index(cause.name))

    def add(self, name: str, first: str, documents: int = 1) -> None:
        """Something differs in more documents; `first` says how, in the first of all."""
        known = self.causes.get(name, Cause(name, 0, first))
        self.causes[name] = Cause(name, known.documents + documents, known.first)

    def _compare_rows(self, one: Mapping[int, Document], other: Mapping[int, Document]) -> None:
        alone = sorted(one.keys() ^ other.keys())
        if alone:
            whose = "the first" if alone[0] in one else "the second"
            self.add(ROWS, f"row {alone[0]} is in {whose} alone", len(alone))

    def _compare(self, line: int, one: Document, other: Document) -> None:
        pairs = paired(one, other)
        if pairs is None:
            first, second = (f"{len(each)} of {each[0].kind}" for each in (one, other))
            self.add(REQUESTS, f"row {line}, {first} against {second}")
            self.choices = {metric: count + 1 for metric, count in self.choices.items()}
            return
        found: dict[str, str] = {}
        for pair in pairs:
            for name, how in differences(*pair):
                found.setdefault(name, f"row {line}, {how}")
        if self._has_other_choice(pairs) and not found:
            found[TIES] = f"row {line}, the likeliest answer is hardly more so than another"
        for name, how in found.items():
            self.add(name, how)
        for pair in filter(lambda both: is_same_text(*both), pairs):
            self.distance = max(self.distance or 0.0, distance(*pair))
            self.greedy += pair[0].greedy != pair[1].greedy

    def _has_other_choice(self, pairs: Pairs) -> bool:
        """Whether the choice is another by any metric; each is counted."""
        first, second = ([pair[side] for pair in pairs] for side in (0, 1))
        other = [name for name in self.choices if choice(first, name) != choice(second, name)]
        self.choices |= {name: self.choices[name] + 1 for name in other}
        return bool(other)
