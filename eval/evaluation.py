"""Evaluate a checkpoint: perplexity of a text, tasks of lm-eval, one `results.json`."""

import importlib
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
import transformers

from espalier.contract.manifest import published_name
from espalier.contract.parameters import Parameters
from espalier.contract.stage import Outcome, StageContext
from espalier.models.products import choose_products, products, quickest_products
from espalier.models.tokenizer import load_tokenizer, probe_hash
from eval.asked import asked_of
from eval.finite import require_finite_losses
from eval.model import load_model
from eval.parts import Part, how_run, measured_parts, say_cut
from eval.perplexity import perplexity
from eval.results import headline, merged, perplexity_results, write_results
from eval.samples.sample import join_samples
from eval.spec import TorchEvalParameters
from eval.suites.suite import SUITES
from eval.window_losses import window_losses
from eval.windows import TestText, asked_text

LEGACY = "eval.legacy"
LOGITS_AT_ONCE = 1 << 28
"""Logits of a batch of windows: 512 MiB in bf16, whatever BATCH is."""


def evaluate(context: StageContext, parameters: Parameters, harness: str) -> Outcome:
    """Measure what the suite says and write `results.json`.

    Args:
        context: inputs `model`, and `data` and `tasks` where the suite needs them.
        parameters: `TorchEvalParameters`.
        harness: the module whose `task_measures` measures tasks.

    Raises:
        InputError: an input is missing or not usable, or the model gives NaN or infinities.
    """
    assert isinstance(parameters, TorchEvalParameters)  # noqa: S101
    suite, checkpoint = SUITES[parameters.suite], context.inputs["model"]
    asked, text = asked_of(context, parameters), asked_text(context, parameters)
    tests: Any = importlib.import_module(harness) if asked else None
    tasks = tests.checked_tasks(asked, checkpoint, parameters.limit) if asked else None
    if asked and not parameters.tasks and suite.harness not in (None, version("lm_eval")):
        context.progress.say(
            f"SUITE={parameters.suite}: its table was read off lm-eval {suite.harness}, this is "
            f"{version('lm_eval')}; LEGACY=1 measures with lm-eval 0.3.0."
        )
    started, name = time.time(), published_name(checkpoint, otherwise=checkpoint.name)
    transformers.utils.logging.disable_progress_bar()
    model = load_model(checkpoint, parameters.dtype, context.device)
    measures: dict[str, Callable[[], Part]] = {}
    if text:
        how = partial(_perplexity, context, model, text, parameters.batch)
        measures[f"the perplexity of {text.name}"] = how
    if asked:
        context.progress.say(f"{harness}: {', '.join(asked)}")
        given: dict[str, Any] = {"batch": parameters.batch, "limit": parameters.limit}
        if harness != LEGACY:  # whose begin token stands once, and which has one backend
            given |= {"bos": parameters.bos, "backend": parameters.backend}
        if parameters.log_samples:
            given["samples"] = context.scratch
        measures |= tests.task_measures(model, checkpoint, asked, tasks, **given)
    # lm-eval's own ways are yardsticks: they multiply as torch does.
    yardstick = harness == LEGACY or parameters.backend == "hf"
    choose = choose_products if yardstick else quickest_products
    with products(kernel := choose(model.dtype, context.device)):
        parts = measured_parts(context.scratch, measures)
    if parameters.log_samples:
        join_samples(context.scratch, asked, context.output)
    config = how_run(parts)
    say_cut(context, config)
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
    notes: dict[str, Any] = {"suite": parameters.suite, "results": headline(results)}
    if asked:
        notes["tokenizer_probe"] = probe_hash(load_tokenizer(checkpoint))
    return Outcome(data=text.record if text else None, notes=notes)


def _perplexity(context: StageContext, model: Any, text: TestText, batch: int) -> dict[str, Any]:
    seqlen = text.windows.shape[1]
    batch = max(1, min(batch, LOGITS_AT_ONCE // (seqlen * model.config.vocab_size)))

    def forward(ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model(ids.to(model.device), use_cache=False).logits
        return logits

    losses = []
    batches = torch.from_numpy(text.windows).split(batch)
    with context.progress.steps(f"perplexity {text.name}", len(batches)) as steps:
        for ids, loss in zip(batches, window_losses(forward, batches), strict=True):
            require_finite_losses(model, ids, loss)
            losses.append(loss)
            steps.advance(loss=float(loss.mean()))
    measured = perplexity(torch.cat(losses).numpy(), seqlen)
    context.progress.say(f"perplexity {text.name}: {measured}")
    return perplexity_results(text.name, measured, text.record)
