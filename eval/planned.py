"""`BACKEND=torch`: lm-eval's model, but what requests have in common is computed once.

Texts become tokens in lm-eval's own code, so that begin tokens, blanks at the boundary and rolling
windows are the harness's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from eval.finite import require_finite_answers
from eval.quiet import QuietLM
from eval.requests.plan import Counts, make_plan, row_lengths
from eval.requests.request import continued, count_cut
from eval.row_scorer import RowScorer
from eval.tree_probe import attended_positions, refusal

ALL_AT_ONCE = 1 << 40
"""Windows that are given to the planner, which makes batches of its own."""


class PlannedLM(QuietLM):
    """Log-likelihoods from rows of a prefix tree; generation is lm-eval's own.

    A model that does not take rows of a tree is run as `BACKEND=hf` does, and the results say so.
    """

    batch_size_per_gpu: Any

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._given_batch = int(self.batch_size_per_gpu)
        self._refusal = refusal(self.model)
        self._scorer = None if self._refusal else RowScorer(self.model, self._given_batch)
        self.begin_task()

    def begin_task(self) -> None:
        """Another task is asked of it: what it accounts for begins anew."""
        super().begin_task()
        self.counts = Counts()
        self._fallbacks = {self._refusal: None} if self._refusal else {}

    def account(self) -> dict[str, Any]:
        """Tokens that were read, and why any were read lm-eval's way."""
        account: dict[str, Any] = {
            "backend": "torch" if self._scorer else "hf",
            "tokens": asdict(self.counts),
            "cut": self.cut,
        }
        return account | ({"backend_fallback": list(self._fallbacks)} if self._fallbacks else {})

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """Log-likelihoods of whole texts, all of their windows in one plan."""
        with self._at_once(ALL_AT_ONCE if self._scorer else self._given_batch):
            return super().loglikelihood_rolling(requests, disable_tqdm)

    def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
        asked = [continued(before, answer, self.max_length) for _, before, answer in requests]
        longest = max((len(request.inputs) for request in asked), default=0)
        reach = attended_positions(self.model.config)
        beyond = bool(reach and longest > reach)
        if self._scorer and beyond:
            why = f"some requests have {longest} tokens, of which layers see {reach}"
            self._fallbacks[why] = None
        if self._scorer is None or beyond:
            with self._at_once(self._given_batch):
                return super()._loglikelihood_tokens(requests, *args, **kwargs)
        self.cut += count_cut(requests, self.max_length)
        plan = make_plan(asked, row_lengths(longest), self._scorer.cost)
        scores = self._scorer.score(plan)
        self.counts += replace(plan.counts, rows=scores.tokens)
        answers = list(zip(scores.sums, scores.greedy, strict=True))
        require_finite_answers(self.model, requests, answers)
        return answers

    @contextmanager
    def _at_once(self, batch: int) -> Iterator[None]:
        """lm-eval's own batch size, for a while."""
        before, self.batch_size_per_gpu = self.batch_size_per_gpu, batch
        try:
            yield
        finally:
            self.batch_size_per_gpu = before
