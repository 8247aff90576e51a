"""No NaN or infinity that a model gives becomes a number of an evaluation.

What is looked at are the results, which costs nothing; only where one is not finite is the model
run once more, to find the layer.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from transformers import LogitsProcessor

from espalier.errors import InputError
from espalier.models.finite import overflow


def require_finite_losses(model: Any, ids: torch.Tensor, losses: torch.Tensor) -> None:
    """Refuse mean losses float [B] of ids int64 [B, T] that are not finite.

    Raises:
        InputError: naming the layer whose activations overflow, and the dtype.
    """
    for row, loss in zip(ids, losses.tolist(), strict=True):
        if not math.isfinite(loss):
            raise overflowing(model, row)


def require_finite_answers(
    model: Any, requests: Iterable[Any], answers: Iterable[tuple[float, bool]]
) -> None:
    """Refuse log-likelihoods that are not finite.

    Args:
        model: a stock causal language model.
        requests: as lm-eval puts them: (context, continuation), and the token ids of both.
        answers: to each the log-likelihood, and whether it was greedy.

    Raises:
        InputError: as `require_finite_losses`.
    """
    for (_, context, continuation), (likelihood, _) in zip(requests, answers, strict=True):
        if not math.isfinite(likelihood):
            raise overflowing(model, torch.tensor([*context, *continuation]))


class FiniteScores(LogitsProcessor):  # type: ignore[misc]
    """Ends a generation whose next token would be chosen among NaN or infinite logits."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores [B, V] of what follows ids int64 [B, T]; minus infinity forbids a token."""
        wrong = (scores.isnan() | (scores == torch.inf)).any(dim=1)
        if bool(wrong.any()):
            raise overflowing(self._model, input_ids[int(wrong.nonzero()[0])])
        return scores


def overflowing(model: Any, ids: torch.Tensor) -> InputError:
    """What to say of ids int64 [T] on which a stock model gives NaN or infinities."""
    window = ids[-int(model.config.max_position_embeddings) :].to(model.device)
    with torch.inference_mode():
        states = model(window[None], use_cache=False, output_hidden_states=True).hidden_states
    spoilt = [place for place, state in enumerate(states) if not bool(state.isfinite().all())]
    # The first states are the embeddings; the last have gone through the final norm as well.
    what = f"layer {max(spoilt[0] - 1, 0)}'s activations" if spoilt else "the logits"
    sentence = overflow(what, model.dtype)
    if model.dtype == torch.float16:
        sentence = sentence.removesuffix(".") + ": give DTYPE=bfloat16."
    return InputError(sentence)
