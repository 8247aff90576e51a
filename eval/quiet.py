"""lm-eval's own model of transformers, `BACKEND=hf`, as an evaluation of ours runs it."""

import os
from typing import Any

from lm_eval.models.huggingface import HFLM

from espalier.data.token_ids import require_rows
from eval.finite import FiniteScores, require_finite_answers
from eval.requests.request import count_cut, rolling_text


class QuietLM(HFLM):  # type: ignore[misc]
    """lm-eval's own model, without its bars where there is no terminal, and without NaN.

    Attributes:
        bos: `once` leaves out the begin token that the tokenizer puts before a rolling text.
        cut: questions of the task that is being asked which are longer than the window.
    """

    def __init__(self, *, bos: str = "harness", **given: Any) -> None:
        super().__init__(**given)
        self.bos, self.cut, self._rolls = bos, 0, False

    @property
    def prefix_token_id(self) -> int:
        """What stands before an empty question; for any other lm-eval wants one too, unused."""
        found = super().prefix_token_id
        return int(self.tokenizer.pad_token_id if found is None else found)

    def begin_task(self) -> None:
        """Another task is asked of it: what it accounts for begins anew."""
        self.cut = 0

    def account(self) -> dict[str, Any]:
        """How the tasks were run, for the configuration in their results."""
        return {"backend": "hf", "cut": self.cut}

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """Log-likelihoods of continuations."""
        return super().loglikelihood(requests, disable_tqdm or "TQDM_DISABLE" in os.environ)

    def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
        self.cut += count_cut(requests, self.max_length)
        answers = super()._loglikelihood_tokens(requests, *args, **kwargs)
        require_finite_answers(self.model, requests, answers)
        return answers

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """Log-likelihoods of whole texts."""
        self._rolls = True
        try:
            return super().loglikelihood_rolling(requests, disable_tqdm)
        finally:
            self._rolls = False

    def _model_generate(self, *args: Any, **kwargs: Any) -> Any:
        return super()._model_generate(*args, **kwargs, logits_processor=[FiniteScores(self.model)])

    def tok_encode(self, string: str, *words: Any, **named: Any) -> Any:
        """The ids of a text, all of which the embedding has rows for."""
        ids = super().tok_encode(string, *words, **named)
        require_rows(ids, self.model.config.vocab_size, string)
        return rolling_text(ids, self.prefix_token_id, self.bos) if self._rolls else ids
