"""lm-eval 0.3.0, which the published Wanda and SparseGPT accuracies were read off.

That release loads its rows through dataset scripts that are gone, and its own Hugging Face models
refuse Llama's tokenizer; so its tasks are given their rows, and a causal model is adapted to it.
"""

import random
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lm_eval.base import BaseLM
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TASK_REGISTRY
from lm_eval.tasks.blimp import BlimpTask

from espalier.data.task_columns import line_of, read_rows
from espalier.data.task_rows import is_minimal_pair
from espalier.data.text import sha256_of_file
from espalier.data.token_ids import ModelLimits, require_rows
from espalier.errors import InputError
from espalier.models.tokenizer import load_tokenizer
from eval.finite import FiniteScores, require_finite_answers
from eval.questions import Question, Reader, fitting


class CausalLM(BaseLM):  # type: ignore[misc]
    """Any causal model of transformers, as lm-eval 0.3.0 calls one."""

    def __init__(self, model: Any, tokenizer: Any, batch: int) -> None:
        super().__init__()
        self.model, self.tokenizer, self._batch = model, tokenizer, batch

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def max_length(self) -> int:
        return int(self.model.config.max_position_embeddings)

    @property
    def max_gen_toks(self) -> int:
        return 256

    @property
    def batch_size(self) -> int:
        return self._batch

    @property
    def device(self) -> Any:
        return self.model.device

    def tok_encode(self, string: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(string, add_special_tokens=False)
        require_rows(ids, self.model.config.vocab_size, string)
        return ids

    def tok_decode(self, tokens: Iterable[int]) -> str:
        return str(self.tokenizer.decode(tokens))

    def _model_call(self, inps: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = self.model(inps).logits  # [batch, tokens, vocabulary]
        return logits.float()

    def _model_generate(self, context: torch.Tensor, max_length: int, eos_token_id: int) -> Any:
        return self.model.generate(
            context,
            max_length=max_length,
            eos_token_id=eos_token_id,
            do_sample=False,
            logits_processor=[FiniteScores(self.model)],
        )

    def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
        answers = super()._loglikelihood_tokens(requests, *args, **kwargs)
        require_finite_answers(self.model, requests, answers)
        return answers


def checked_tasks(files: dict[str, Path], checkpoint: Path, limit: int | None) -> dict[str, Any]:
    """Task objects by name, each looked at as `eval.harness.checked_tasks` does.

    Raises:
        InputError: neither minimal pairs nor a task of lm-eval 0.3.0, or a row is not usable.
    """
    tokenizer = load_tokenizer(checkpoint)
    begin = tokenizer.eos_token_id is not None
    reader = Reader(tokenizer, ModelLimits.of(checkpoint).positions, begin, apart=True)
    tasks = {}
    for name, path in files.items():
        with fitting(name, str(path)):
            tasks[name] = legacy_task(name, path)
        reader.check(_questions(name, path, tasks[name]))
    return tasks


def _questions(name: str, path: Path, task: Any) -> Iterator[Question]:
    """All that a task asks; which of its rows LIMIT leaves is drawn by lm-eval."""
    rows = read_rows(path)
    with fitting(name, str(path)):
        documents = list(task.test_docs() if task.has_test_docs() else task.validation_docs())
    for index, document in enumerate(documents):
        place = f"{path}{line_of(rows, index, len(documents))}"
        with fitting(name, place):
            context = task.fewshot_context(doc=document, num_fewshot=0, rnd=random.Random(0))  # noqa: S311
            asked = task.construct_requests(document, context)
            requests = asked if isinstance(asked, list | tuple) else [asked]
            likelihoods = [r.args for r in requests if r.request_type == "loglikelihood"]
        for before, answer in likelihoods:
            yield Question(place, before, answer)


def run_tasks(
    model: Any,
    checkpoint: Path,
    files: dict[str, Path],
    tasks: dict[str, Any],
    *,
    batch: int,
    limit: int | None,
) -> dict[str, Any]:
    """Results of tasks in the schema of lm-eval 0.4; arguments as `eval.harness.run_tasks`."""
    lm = CausalLM(model, load_tokenizer(checkpoint), batch)
    measured = evaluate(lm=lm, task_dict=tasks, num_fewshot=0, limit=limit, bootstrap_iters=1000)
    return translated(measured, files, limit)


def legacy_task(name: str, path: Path) -> Any:
    """A task object of lm-eval 0.3.0 that has the rows of `path`.

    Raises:
        InputError: neither minimal pairs nor a task of lm-eval 0.3.0.
    """
    base = BlimpTask if is_minimal_pair(path) else TASK_REGISTRY.get(name)
    if base is None:
        raise InputError(
            f"{name} is not a task of lm-eval 0.3.0, and its rows have no sentence_good and "
            "sentence_bad; leave LEGACY out or choose another task."
        )
    rows = [row for _, row in read_rows(path)]

    def download(self: Any, *places: Any) -> None:
        """Take the given rows, whichever split is evaluated."""
        self.dataset = {"train": rows, "validation": rows, "test": rows}

    return type(base.__name__, (base,), {"download": download})()


def translated(
    measured: dict[str, Any], files: dict[str, Path], limit: int | None
) -> dict[str, Any]:
    """Results of lm-eval 0.3.0 in the schema of 0.4: `acc` becomes `acc,none`."""
    counts = {name: _rows(path) for name, path in files.items()}
    results, better = {}, {}
    for name, metrics in measured["results"].items():
        results[name] = {"alias": name} | {f"{key},none": value for key, value in metrics.items()}
        better[name] = {key: True for key in metrics if not key.endswith("_stderr")}
    return {
        "results": results,
        "configs": {
            name: {"task": name, "num_fewshot": 0, "metadata": {"rows_sha256": sha256_of_file(p)}}
            for name, p in files.items()
        },
        "versions": measured["versions"],
        "n-shot": dict.fromkeys(files, 0),
        "higher_is_better": better,
        "n-samples": {
            name: {"original": rows, "effective": min(rows, limit or rows)}
            for name, rows in counts.items()
        },
        "task_hashes": {name: sha256_of_file(path) for name, path in files.items()},
        "lm_eval_version": version("lm_eval"),
    }


def _rows(path: Path) -> int:
    with path.open(encoding="utf-8") as lines:
        return sum(1 for line in lines if line.strip())
