"""A text's perplexity from rows: each window asks for the log-probabilities of all its tokens."""

from dataclasses import asdict

import numpy as np

from espalier.contract.progress import Progress
from eval.parts import Part
from eval.perplexity import perplexity
from eval.requests.plan import Counts
from eval.requests.request import Request
from eval.results import perplexity_results
from eval.scorer import Scorer, answers
from eval.windows import TestText

WINDOWS_AT_ONCE = 32
"""That are planned together; a progress line is said after each."""


def measured_text(progress: Progress, scorer: Scorer, text: TestText) -> Part:
    """The part of the results that a text fills, with the tokens that were read for it.

    Raises:
        InputError: the model gives NaN or infinities.
    """
    losses, counts = list[float](), Counts()
    windows, width = text.windows.astype(np.int32), text.windows.shape[1]
    starts = range(0, len(windows), WINDOWS_AT_ONCE)
    with progress.steps(f"perplexity {text.name}", len(starts)) as steps:
        for start in starts:
            chosen = windows[start : start + WINDOWS_AT_ONCE]
            scores, read = answers(scorer, [Request(ids[:-1], ids[1:]) for ids in chosen])
            losses += [-total / (width - 1) for total in scores.sums]
            counts += read
            steps.advance(loss=float(np.mean(losses[start:])))
    measured = perplexity(np.array(losses), width)
    progress.say(f"perplexity {text.name}: {measured}")
    how = {"backend": "jax", "tokens": asdict(counts)}
    return perplexity_results(text.name, measured, text.record) | {"config": how}
