"""Samples of tasks that lm-eval 0.3.0 puts to a model, which keeps no requests itself.

A task says which requests it makes of a document, and the model answers all of one kind at once, in
that order; both are listened to.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from eval.samples.noting import Noting, places
from eval.samples.sample import GENERATION, PAIR, ROLLING, Sample

KINDS = {"loglikelihood": PAIR, "loglikelihood_rolling": ROLLING, "greedy_until": GENERATION}
"""The release's own names, which are its model's methods."""
SHUFFLED_BY = 42
"""The release's own seed, by which it puts a task's documents in another order."""


class LegacySamples:
    """Listens to a model and to its tasks while they are evaluated."""

    def __init__(
        self, lm: Any, tasks: Mapping[str, Any], rows: Mapping[str, Sequence[int]]
    ) -> None:
        """Begin to listen.

        Args:
            lm: a model of lm-eval 0.3.0.
            tasks: its task objects by label.
            rows: the lines of each one's rows.
        """
        self._noting, self._tasks = Noting(lm), list(tasks)
        self._asked: dict[str, list[tuple[dict[str, Any] | None, Any]]] = {k: [] for k in KINDS}
        self._answers: dict[str, list[Any]] = {kind: [] for kind in KINDS}
        for kind in KINDS:
            setattr(lm, kind, self._answering(kind, partial(getattr(type(lm), kind), lm)))
        for label, task in tasks.items():
            task.construct_requests = self._asking(label, task, rows[label])

    def samples(self) -> list[Sample]:
        """What was asked and answered, of each task in the order of its rows."""
        found = [
            self._noting.sample(of, KINDS[kind], request.args, answer)
            for kind in KINDS
            for (of, request), answer in zip(self._asked[kind], self._answers[kind], strict=True)
            if of
        ]
        return sorted(found, key=lambda s: (self._tasks.index(s.task), s.document, s.request))

    def _asking(self, label: str, task: Any, rows: Sequence[int]) -> Callable[..., Any]:
        own = task.construct_requests
        documents = list(task.test_docs() if task.has_test_docs() else task.validation_docs())
        order = list(places(rows, len(documents)))
        random.Random(SHUFFLED_BY).shuffle(order)  # noqa: S311
        waiting = iter(order)

        def asking(*given: Any, **named: Any) -> Any:
            made = own(*given, **named)
            document = next(waiting)
            for number, request in numbered(made if isinstance(made, list | tuple) else [made]):
                of = {"task": label, "document": document, "request": number}
                self._asked[request.request_type].append((None if number is None else of, request))
            return made

        return asking

    def _answering(self, kind: str, own: Callable[..., Any]) -> Callable[..., Any]:
        def answering(requests: Any) -> Any:
            answers = own(requests)
            self._answers[kind].extend(answers)
            return answers

        return answering


def numbered(requests: Iterable[Any]) -> Iterator[tuple[int | None, Any]]:
    """Requests of a document with their numbers.

    The release asks twice where a task wants both parts of an answer; the second time has no
    number.
    """
    number, before = -1, None
    for request in requests:
        again = (
            before is not None
            and (before.request_type, before.args) == (request.request_type, request.args)
            and before.index != request.index
        )
        number, before = number + (not again), request
        yield None if again else number, request
