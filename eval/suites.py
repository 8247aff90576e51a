"""What a suite measures."""

from dataclasses import dataclass

PAPER_ZERO_SHOT = (
    *("boolq", "rte", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa"),
)
"""The seven tasks of the Wanda and SparseGPT tables, zero-shot, plain `acc`."""


@dataclass(frozen=True)
class Suite:
    """A named choice of measurements.

    Attributes:
        perplexity: whether the given text's perplexity is measured.
        windows: at most so many windows of it (None: all of the data set's protocol).
        tasks: tasks of lm-eval; their rows come from the task data's folder.
    """

    perplexity: bool = False
    windows: int | None = None
    tasks: tuple[str, ...] = ()


SUITES = {
    "quick": Suite(perplexity=True, windows=64),
    "perplexity": Suite(perplexity=True),
    "paper-zero-shot": Suite(tasks=PAPER_ZERO_SHOT),
    "tasks": Suite(),
}
