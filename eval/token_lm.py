"""lm-eval's questions as token ids, answered from rows of a prefix tree; without torch.

lm-eval 0.4.13 keeps how texts become tokens in two places: pairs of context and continuation in a
class that needs nothing, which is taken from there, and a text's own tokens in its model of
transformers, which imports torch. What follows of the latter is held to it by tests.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from espalier.data.token_ids import ModelLimits, require_rows
from espalier.errors import InputError
from eval.generation import Continuation, continue_texts, greedy_settings
from eval.requests.plan import Counts
from eval.requests.request import Request, continued, count_cut, rolling_text
from eval.requests.scores import Scores
from eval.scorer import Scorer, answers


class TokenLM(TemplateLM):  # type: ignore[misc]
    """A causal model as lm-eval asks it.

    Attributes:
        max_length: tokens that the model takes.
        bos: `once` leaves out the begin token that the tokenizer puts before a rolling text.
        counts: tokens of the task that is being asked.
        cut: its questions that are longer than the window.
    """

    def __init__(
        self,
        tokenizer: Any,
        scorer: Scorer,
        limits: ModelLimits,
        *,
        ends: Iterable[int] = (),
        bos: str = "harness",
    ) -> None:
        """A model and its tokenizer; `ends` are the ids that end what it generates."""
        super().__init__()
        self.tokenizer, self.max_length, self.bos = tokenizer, limits.positions, bos
        self.begin_task()
        self._scorer, self._vocabulary, self._ends = scorer, limits.vocabulary, frozenset(ends)
        begin = tokenizer.bos_token_id
        self._prefix: int | None = tokenizer.eos_token_id if begin is None else begin
        self._written = "" if self._prefix is None else tokenizer.decode(self._prefix)

    @property
    def eot_token_id(self) -> Any:
        """The token at the end of a text; None: the tokenizer has none."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before an empty question and before a text.

        Raises:
            InputError: the tokenizer has nothing that can.
        """
        if self._prefix is None:
            raise InputError(
                "a text has nothing before it, where a begin or end token has to stand, and the "
                "model's tokenizer has neither; name its bos_token in tokenizer_config.json."
            )
        return self._prefix

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """The ids of a text, all of which the embedding has rows for.

        A text that begins with the begin token, written out, gets no second one.

        Raises:
            InputError: an id is beyond the embedding.
        """
        if add_special_tokens is None and self._written and string.startswith(self._written):
            add_special_tokens = False
        how = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        ids: list[int] = self.tokenizer.encode(string, **how)
        require_rows(ids, self._vocabulary, string)
        return ids

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Log-likelihoods of whole texts, all of their windows in one plan."""
        windows, owners = [], []
        for index, request in enumerate(requests):
            begin = self.prefix_token_id
            found = get_rolling_token_windows(
                token_list=rolling_text(self.tok_encode(request.args[0]), begin, self.bos),
                prefix_token=begin,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for window in map(make_disjoint_window, found):
                windows.append((None, *window))
                owners.append(index)
        totals = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += value
        return totals

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """What follows texts, by the likeliest tokens."""
        texts = [
            Continuation(self.tok_encode(before), *self.generating(asked))
            for before, asked in (request.args for request in requests)
        ]
        return continue_texts(texts, self.tokenizer, self.max_length, self._ends, self._likeliest)

    def generating(self, asked: Mapping[str, Any]) -> tuple[int, list[str]]:
        """`greedy_settings` for this model."""
        end = self.eot_token_id
        written = None if end is None else self.tokenizer.decode(end)
        return greedy_settings(asked, self.max_length, written)

    def begin_task(self) -> None:
        """Another task is asked of it: what it accounts for begins anew."""
        self.cut = 0
        self.counts = Counts()

    def account(self) -> dict[str, Any]:
        """How the tasks were run, for the configuration in their results."""
        return {"backend": "jax", "tokens": asdict(self.counts), "cut": self.cut}

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
        self.cut += count_cut(requests, self.max_length)
        asked = [continued(before, answer, self.max_length) for _, before, answer in requests]
        scores = self._score(asked)
        return list(zip(scores.sums, scores.greedy, strict=True))

    def _likeliest(self, asked: Sequence[Request]) -> list[int]:
        return self._score(asked).likeliest

    def _score(self, asked: Sequence[Request]) -> Scores:
        scores, counts = answers(self._scorer, asked)
        self.counts += counts
        return scores
