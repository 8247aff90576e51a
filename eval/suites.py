"""What a suite measures, and on how much of a text."""

from dataclasses import dataclass, replace

MAX_SEQLEN = 8192
"""The reference's cap: 2048 for Llama-1, 4096 for Llama-2, 8192 for Llama-3.1."""
QUICK_SEQLEN = 2048
QUICK_TOKENS = 64 * 512
"""A minute for 135M parameters on two cores, however long a model's windows may be."""


@dataclass(frozen=True)
class Bounds:
    """How much of a text is measured at most.

    Attributes:
        windows: at most so many (None: all of the data set's protocol).
        tokens: windows of at most so many tokens in all, and one window in any case (None: all).
        seqlen: a window's tokens where nobody gives them, if the model has as many positions.
    """

    windows: int | None = None
    tokens: int | None = None
    seqlen: int = MAX_SEQLEN

    def limited(self, windows: int | None) -> "Bounds":
        """These, and at most so many windows."""
        caps = [cap for cap in (self.windows, windows) if cap is not None]
        return replace(self, windows=min(caps, default=None))

    def count(self, available: int, seqlen: int) -> int:
        """How many of the windows of `seqlen` tokens that there are are measured."""
        caps = [available, self.windows]
        if self.tokens is not None:
            caps.append(max(1, self.tokens // seqlen))
        return min(cap for cap in caps if cap is not None)


WHOLE = Bounds()
PAPER_ZERO_SHOT = (
    *("boolq", "rte", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa"),
)
"""The seven tasks of the Wanda and SparseGPT tables, zero-shot, plain `acc`."""


@dataclass(frozen=True)
class Suite:
    """A named choice of measurements.

    Attributes:
        perplexity: whether the given text's perplexity is measured.
        bounds: how much of it.
        tasks: tasks of lm-eval; their rows come from the task data's folder.
    """

    perplexity: bool = False
    bounds: Bounds = WHOLE
    tasks: tuple[str, ...] = ()


SUITES = {
    "quick": Suite(perplexity=True, bounds=Bounds(64, QUICK_TOKENS, QUICK_SEQLEN)),
    "perplexity": Suite(perplexity=True),
    "paper-zero-shot": Suite(tasks=PAPER_ZERO_SHOT),
    "tasks": Suite(),
}
