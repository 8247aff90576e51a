"""lm-eval 0.4, in this process and without a network."""

import logging
import os
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.models.huggingface import HFLM

from espalier.data.text import sha256_of_file
from espalier.data.token_ids import require_rows
from espalier.models.tokenizer import load_tokenizer
from eval.finite import FiniteScores, require_finite_answers
from eval.tasks import harness_task


class QuietLM(HFLM):  # type: ignore[misc]
    """lm-eval's own model, without its bars where there is no terminal, and without NaN."""

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """Log-likelihoods of continuations."""
        return super().loglikelihood(requests, disable_tqdm or "TQDM_DISABLE" in os.environ)

    def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
        answers = super()._loglikelihood_tokens(requests, *args, **kwargs)
        require_finite_answers(self.model, requests, answers)
        return answers

    def _model_generate(self, *args: Any, **kwargs: Any) -> Any:
        return super()._model_generate(*args, **kwargs, logits_processor=[FiniteScores(self.model)])

    def tok_encode(self, string: str, *words: Any, **named: Any) -> Any:
        """The ids of a text, all of which the embedding has rows for."""
        ids = super().tok_encode(string, *words, **named)
        require_rows(ids, self.model.config.vocab_size, string)
        return ids


def run_tasks(
    model: Any, checkpoint: Path, files: dict[str, Path], batch: int, limit: int | None
) -> dict[str, Any]:
    """Results of tasks in lm-eval's schema, without samples.

    Args:
        model: loaded by `load_model`.
        checkpoint: its directory, which has its tokenizer.
        files: task to the file of its rows.
        batch: sequences at a time.
        limit: at most so many rows a task.

    Raises:
        InputError: a task or a row file is not usable, or the model gives NaN or infinities.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of a model given as an object
    tasks = [harness_task(name, path) for name, path in files.items()]
    lm = QuietLM(pretrained=model, tokenizer=load_tokenizer(checkpoint), batch_size=batch)
    results: dict[str, Any] = lm_eval.simple_evaluate(
        model=lm, tasks=tasks, limit=limit, log_samples=False, bootstrap_iters=1000
    )
    return results | {"task_hashes": {n: sha256_of_file(path) for n, path in files.items()}}
