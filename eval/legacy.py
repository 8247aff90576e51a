"""lm-eval 0.3.0, which the published Wanda and SparseGPT accuracies were read off.

That release loads its rows through dataset scripts that are gone, and its own Hugging Face models
refuse Llama's tokenizer; so its tasks are given their rows, and a causal model is adapted to it.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
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
from eval.asked import Asked
from eval.finite import FiniteScores, require_finite_answers
from eval.headline import name_metrics
from eval.parts import Part
from eval.questions import Question, Reader, fitting
from eval.samples.legacy import LegacySamples
from eval.samples.sample import samples_of_task, write_samples

FEWEST = 2
"""Rows that this release can evaluate."""


class CausalLM(BaseLM):  # type: ignore[misc]
    """Any causal model of transformers, as lm-eval 0.3.0 calls one.

    Attributes:
        bos: as `QuietLM`'s; this release asks the tokenizer for no begin token.
    """

    bos = "once"

    def __init__(self, model: Any, tokenizer: Any, batch: int) -> None:
        super().__init__()
        self.model, self.tokenizer, self._batch = model, tokenizer, batch

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What this release puts before an empty question and before a text."""
        return self.eot_token_id

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


def checked_tasks(
    asked: Mapping[str, Asked], checkpoint: Path, limit: int | None
) -> dict[str, Any]:
    """Task objects by label, each looked at as `eval.harness.checked_tasks` does.

    Raises:
        InputError: neither minimal pairs nor a task of lm-eval 0.3.0, or its metric, its examples
            or a row is not usable, or there is a single one.
    """
    tokenizer = load_tokenizer(checkpoint)
    begin = tokenizer.eos_token_id is not None
    reader = Reader(tokenizer, ModelLimits.of(checkpoint).positions, begin, apart=True)
    tasks = {}
    for label, one in asked.items():
        with fitting(one.entry.name, str(one.rows)):
            tasks[label] = legacy_task(one, limit)
            one.require_metric(tasks[label].aggregation())
        reader.check(_questions(one.entry.name, one.rows, tasks[label], limit))
        if len(read_rows(one.rows)[:limit]) < FEWEST:
            raise InputError(
                f"{one.rows} has one row to ask, of which lm-eval 0.3.0 can tell no standard "
                f"error; give {FEWEST} or more."
            )
    return tasks


def _questions(name: str, path: Path, task: Any, limit: int | None) -> Iterator[Question]:
    """All that a task asks."""
    rows = read_rows(path)[:limit]
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


def task_measures(
    model: Any,
    checkpoint: Path,
    asked: Mapping[str, Asked],
    tasks: Mapping[str, Any],
    *,
    batch: int,
    limit: int | None,
    samples: Path | None = None,
) -> dict[str, Callable[[], Part]]:
    """As `eval.harness.task_measures`: results in the schema of lm-eval 0.4."""
    lm = CausalLM(model, load_tokenizer(checkpoint), batch)
    return {
        label: partial(
            _measure, lm, one, tasks[label], limit, samples and samples_of_task(samples, label)
        )
        for label, one in asked.items()
    }


def _measure(
    lm: CausalLM, asked: Asked, task: Any, limit: int | None, samples: Path | None
) -> Part:
    given, lines = {asked.label: task}, {asked.label: _lines(asked, limit)}
    listening = LegacySamples(lm, given, lines) if samples else None
    measured = evaluate(lm=lm, task_dict=given, num_fewshot=0, limit=limit, bootstrap_iters=1000)
    if samples and listening:
        write_samples(samples, listening.samples())
    begin = {"token": lm.tokenizer.eos_token, "before": "empty contexts", "rolling": "once"}
    results = translated(measured, asked, limit) | {"config": {"begin_token": begin}}
    name_metrics(results, {asked.label: asked.entry.metric})
    return results


def legacy_task(asked: Asked, limit: int | None = None) -> Any:
    """A task object of lm-eval 0.3.0 that has the rows and the number of examples of what is asked.

    It has the first `limit` of the rows, which are those that every other harness leaves: the
    release itself would draw that many.

    Raises:
        InputError: neither minimal pairs nor a task of lm-eval 0.3.0, or examples are missing.
    """
    name, shots = asked.entry.name, asked.entry.shots or 0
    base = BlimpTask if is_minimal_pair(asked.rows) else TASK_REGISTRY.get(name)
    if base is None:
        raise InputError(
            f"{name} is not a task of lm-eval 0.3.0, and its rows have no sentence_good and "
            "sentence_bad; leave LEGACY out or choose another task."
        )
    rows = [row for _, row in read_rows(asked.rows)[:limit]]
    examples = [row for _, row in read_rows(asked.examples)] if asked.examples and shots else rows

    def download(self: Any, *places: Any) -> None:
        """Take the given rows, whichever split is evaluated."""
        self.dataset = {"train": examples, "validation": rows, "test": rows}

    def fewshot_context(self: Any, *given: Any, **named: Any) -> Any:
        """The harness has one number of examples for all tasks; each has its own here."""
        return base.fewshot_context(self, *given, **named | {"num_fewshot": shots})

    own = {"download": download} | ({"fewshot_context": fewshot_context} if shots else {})
    task = type(base.__name__, (base,), own)()
    if shots and not task.has_training_docs():
        raise InputError(
            f"{name} has no examples in lm-eval 0.3.0, which draws them from training rows; write "
            f"TASKS={name}."
        )
    asked.require_examples(shots)
    return task


def translated(measured: dict[str, Any], asked: Asked, limit: int | None) -> Part:
    """Results of lm-eval 0.3.0 in the schema of 0.4: `acc` becomes `acc,none`."""
    name, shots, rows = asked.label, asked.entry.shots or 0, _rows(asked.rows)
    metrics = measured["results"][name]
    about = {"task": name, "num_fewshot": shots, "metadata": asked.metadata(shots)}
    return {
        "results": {
            name: {"alias": name} | {f"{key},none": value for key, value in metrics.items()}
        },
        "configs": {name: about},
        "versions": measured["versions"],
        "n-shot": {name: shots},
        "higher_is_better": {name: {k: True for k in metrics if not k.endswith("_stderr")}},
        "n-samples": {name: {"original": rows, "effective": min(rows, limit or rows)}},
        "task_hashes": {name: sha256_of_file(asked.rows)},
        "lm_eval_version": version("lm_eval"),
    }


def _lines(asked: Asked, limit: int | None) -> list[int]:
    """The line of each row that is asked."""
    return [line for line, _ in read_rows(asked.rows)[:limit]]


def _rows(path: Path) -> int:
    with path.open(encoding="utf-8") as lines:
        return sum(1 for line in lines if line.strip())
