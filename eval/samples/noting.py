"""Which tokens a model of lm-eval's reads for each request, noted as it is asked; without torch.

Both releases part a question into tokens of context and continuation in `loglikelihood`, each in
its own way, and hand them to `_loglikelihood_tokens`: that is where they are seen.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import Any

from eval.requests.request import rolling_text
from eval.samples.sample import GENERATION, PAIR, ROLLING, Sample, Tokens


class Noting:
    """Listens to a model of either release from now on; whoever did before no longer does."""

    def __init__(self, lm: Any) -> None:
        self._lm, self._found = lm, dict[tuple[str, str], Tokens]()
        tokenizer = lm.tokenizer
        self._marks = {tokenizer.bos_token_id, tokenizer.eos_token_id} - {None}
        asked = partial(type(lm)._loglikelihood_tokens, lm)

        def noted(requests: Any, *args: Any, **kwargs: Any) -> Any:
            for texts, context, continuation in requests:
                if texts is not None:  # else it is a window of a longer text
                    self._found[tuple(texts)] = self._tokens(context, continuation)
            return asked(requests, *args, **kwargs)

        lm._loglikelihood_tokens = noted

    def sample(self, of: Mapping[str, Any], kind: str, texts: Sequence[Any], answer: Any) -> Sample:
        """A request that has been answered.

        Args:
            of: `Sample`'s task, document and request.
            kind: PAIR, ROLLING or GENERATION.
            texts: the request's arguments: a context and what follows, or a whole text.
            answer: a log-likelihood, of PAIR with whether it is greedy, or the generated text.
        """
        context, *rest = texts
        if kind == GENERATION:
            return Sample(**of, kind=kind, context=context, generated=str(answer))
        if kind == ROLLING:
            digest, tokens = hashlib.sha256(context.encode()).hexdigest(), self._whole(context)
            return Sample(**of, kind=kind, text=digest, loglikelihood=float(answer), tokens=tokens)
        (continuation,), (loglikelihood, greedy) = rest, answer
        return Sample(
            **of,
            kind=PAIR,
            context=context,
            continuation=continuation,
            loglikelihood=float(loglikelihood),
            greedy=bool(greedy),
            tokens=self._found[context, continuation],
        )

    def _tokens(self, context: Sequence[int], continuation: Sequence[int]) -> Tokens:
        """Of a question and its answer, as much as the model takes."""
        ids = [*context, *continuation][-(self._lm.max_length + 1) :]
        return self._described(ids, len(ids) - len(continuation))

    def _whole(self, text: str) -> Tokens:
        """Of a text, all of which is read in windows, with what the harness puts before it."""
        begin = self._lm.prefix_token_id
        ids = rolling_text(self._lm.tok_encode(text), begin, self._lm.bos)
        return self._described([begin, *ids], 1)

    def _described(self, ids: Sequence[int], context: int) -> Tokens:
        marks = list(takewhile(self._marks.__contains__, ids))
        begin = "".join(self._lm.tokenizer.convert_ids_to_tokens(marks))
        rest = ",".join(map(str, ids[len(marks) :]))
        digest = hashlib.sha256(rest.encode()).hexdigest()[:16]
        return Tokens(context, len(ids) - context, begin, digest)


def places(rows: Sequence[int], documents: int) -> Sequence[int]:
    """What each of a task's documents is called: its row's line.

    Args:
        rows: the lines of the task's rows.
        documents: how many the task makes of them; where they are not as many, each has its number.
    """
    return rows if len(rows) == documents else range(1, documents + 1)
