"""What a suite measures, and on how much of a text: read from the .toml files of this folder."""

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.suites.entry import Entry, parse_entries

MAX_SEQLEN = 8192
"""The reference's cap: 2048 for Llama-1, 4096 for Llama-2, 8192 for Llama-3.1."""
FILES = (
    "quick.toml",
    "perplexity.toml",
    "ppl.toml",
    "paper-zero-shot.toml",
    "wanda-table.toml",
    "llm-pruner-table.toml",
    "collection.toml",
    "blimp.toml",
    "tasks.toml",
)
"""Every suite, by name: a stage's code hash sees the files that are named."""


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


@dataclass(frozen=True)
class Suite:
    """A named choice of measurements.

    Attributes:
        about: what it measures, in a few words.
        perplexity: whether the given text's perplexity is measured.
        bounds: how much of it.
        tasks: tasks of lm-eval; their rows come from the task data's folder.
        harness: the release of lm-eval that the table's printed values were read off.
    """

    about: str
    perplexity: bool = False
    bounds: Bounds = WHOLE
    tasks: tuple[Entry, ...] = ()
    harness: str | None = None


def _read(file: str) -> Suite:
    written: dict[str, Any] = tomllib.loads(Path(__file__).with_name(file).read_text("utf-8"))
    bounds = Bounds(**written.pop("bounds", {}))
    return Suite(bounds=bounds, tasks=parse_entries(written.pop("tasks", ())), **written)


SUITES = {file.removesuffix(".toml"): _read(file) for file in FILES}
