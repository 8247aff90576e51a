"""Evaluate a checkpoint: perplexity of a text, tasks of lm-eval, one `results.json`."""

import importlib
import time
from typing import Any

import torch
import transformers

from espalier.contract.manifest import published_name
from espalier.contract.parameters import Parameters
from espalier.contract.stage import Outcome, StageContext
from espalier.data.task_rows import as_lines, task_files
from espalier.errors import InputError
from espalier.models.products import choose_products, products
from espalier.models.tokenizer import load_tokenizer, probe_hash
from eval.finite import require_finite_losses
from eval.model import load_model
from eval.perplexity import perplexity, window_losses
from eval.results import merged, perplexity_results, write_results
from eval.spec import EvalParameters
from eval.suites import SUITES, Suite
from eval.windows import TestText, load_windows

LOGITS_AT_ONCE = 1 << 28
"""Logits of a batch of windows: 512 MiB in bf16, whatever BATCH is."""


def evaluate(context: StageContext, parameters: Parameters, harness: str) -> Outcome:
    """Measure what the suite says and write `results.json`.

    Args:
        context: inputs `model`, and `data` and `tasks` where the suite needs them.
        parameters: `EvalParameters`.
        harness: the module whose `run_tasks` runs tasks.

    Raises:
        InputError: an input is missing or not usable, or the model gives NaN or infinities.
    """
    assert isinstance(parameters, EvalParameters)  # noqa: S101
    suite, checkpoint = SUITES[parameters.suite], context.inputs["model"]
    files = _task_files(context, suite, parameters)
    text = _text(context, suite, parameters)
    tests: Any = importlib.import_module(harness) if files else None
    tasks = tests.checked_tasks(files, checkpoint, parameters.limit) if files else None
    started, name = time.time(), published_name(checkpoint, otherwise=checkpoint.name)
    transformers.utils.logging.disable_progress_bar()
    model = load_model(checkpoint, parameters.dtype, context.device)
    kernel, parts = choose_products(model.dtype, context.device), []
    with products(kernel):
        if text:
            parts.append(_perplexity(context, model, text, parameters.batch))
        if files:
            context.progress.say(f"{harness}: {', '.join(files)}")
            how: dict[str, Any] = {"batch": parameters.batch, "limit": parameters.limit}
            if parameters.backend != "hf":
                how["backend"] = parameters.backend
            parts.append(tests.run_tasks(model, checkpoint, files, tasks, **how))
    config = parts[-1].pop("config", {})
    for why in config.get("backend_fallback", ()):
        context.progress.say(f"BACKEND={parameters.backend} ran as BACKEND=hf does: {why}.")
    config |= {
        "model": "hf",
        "model_name": name,
        "model_dtype": str(model.dtype),
        "products": kernel,
        "model_num_parameters": model.num_parameters(),
        "batch_size": parameters.batch,
        "device": context.device,
        "limit": parameters.limit,
        "suite": parameters.suite,
    }
    results = merged(
        parts,
        config=config,
        date=started,
        model_name=name,
        transformers_version=transformers.__version__,
        torch_version=torch.__version__,
        max_length=getattr(model.config, "max_position_embeddings", None),
        total_evaluation_time_seconds=str(time.time() - started),
    )
    write_results(results, context.output)
    notes: dict[str, Any] = {"suite": parameters.suite, "results": _headline(results)}
    if files:
        notes["tokenizer_probe"] = probe_hash(load_tokenizer(checkpoint))
    return Outcome(data=text.record if text else None, notes=notes)


def _task_files(context: StageContext, suite: Suite, parameters: EvalParameters) -> dict[str, Any]:
    names = parameters.task_names or suite.tasks
    folder = context.inputs.get("tasks")
    if folder is not None:
        return as_lines(task_files(folder, names), context.scratch / "tasks")
    if names or parameters.suite == "tasks":
        raise InputError(
            f"SUITE={parameters.suite} needs the rows of {', '.join(names) or 'its tasks'}: give "
            "TASK_DATA=<folder of <task>.jsonl>; an evaluation never downloads."
        )
    return {}


def _text(context: StageContext, suite: Suite, parameters: EvalParameters) -> TestText | None:
    source = context.inputs.get("data")
    if source is None and suite.perplexity:
        raise InputError(f"SUITE={parameters.suite} measures perplexity: give DATA=<a text>.")
    if source is None:
        return None
    return load_windows(
        source,
        context.inputs["model"],
        parameters.seqlen,
        parameters.split,
        suite.bounds.limited(parameters.limit),
    )


def _perplexity(context: StageContext, model: Any, text: TestText, batch: int) -> dict[str, Any]:
    seqlen = text.windows.shape[1]
    batch = max(1, min(batch, LOGITS_AT_ONCE // (seqlen * model.config.vocab_size)))

    def forward(ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model(ids.to(model.device), use_cache=False).logits
        return logits

    losses = []
    total = -(-len(text.windows) // batch)
    with context.progress.steps(f"perplexity {text.name}", total) as steps:
        batches = text.windows.split(batch)
        for ids, loss in zip(batches, window_losses(forward, text.windows, batch), strict=True):
            require_finite_losses(model, ids, loss)
            losses.append(loss)
            steps.advance(loss=float(loss.mean()))
    measured = perplexity(torch.cat(losses), seqlen)
    context.progress.say(
        f"perplexity {text.name}: {measured.value:.4f} "
        f"({measured.windows} windows of {seqlen} tokens)"
    )
    return perplexity_results(text.name, measured, text.record)


def _headline(results: dict[str, Any]) -> dict[str, float]:
    """One number a task: its perplexity or its accuracy."""
    chosen = {}
    for task, metrics in results["results"].items():
        for key in ("ppl,none", "acc,none"):
            if key in metrics:
                chosen[task] = float(metrics[key])
    return chosen
