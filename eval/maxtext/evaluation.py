"""`BACKEND=jax`: a text and tasks of lm-eval by MaxText's model, one `results.json`; no torch."""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import transformers

from espalier.contract.manifest import published_name
from espalier.contract.parameters import Parameters
from espalier.contract.processes import Processes
from espalier.contract.stage import Outcome, StageContext
from espalier.data.token_ids import ModelLimits
from espalier.models.content import config_as_stored
from espalier.models.shapes import Shapes
from espalier.models.tokenizer import load_tokenizer, probe_hash
from eval.asked import Asked, asked_of
from eval.asking import ask
from eval.checked_tasks import checked_tasks
from eval.generation import end_ids, greedy_settings
from eval.maxtext.perplexity import measured_text
from eval.maxtext.rows import JaxRows
from eval.maxtext.spec import JaxEvalParameters
from eval.parts import Part, how_run, measured_parts, say_cut
from eval.results import headline, merged, write_results
from eval.samples.sample import join_samples, samples_of_task
from eval.tasks import leaves
from eval.token_lm import TokenLM
from eval.windows import asked_text
from training.maxtext_model.devices import devices_of
from training.maxtext_model.shape import stored_dtype
from training.maxtext_model.trees import TreeModel


def evaluate(context: StageContext, parameters: Parameters) -> Outcome:
    """Measure what the suite says and write `results.json`.

    Args:
        context: inputs `model`, and `data` and `tasks` where the suite needs them.
        parameters: `JaxEvalParameters`.

    Raises:
        InputError: an input is missing or not usable, a task samples what it generates, MaxText
            does not support the model, or it gives NaN or infinities.
        EnvironmentFailure: there is no such device.
    """
    assert isinstance(parameters, JaxEvalParameters)  # noqa: S101
    started, checkpoint = time.time(), context.inputs["model"]
    asked, text = asked_of(context, parameters), asked_text(context, parameters)
    tasks = checked_tasks(asked, checkpoint, parameters.limit) if asked else {}
    limits = ModelLimits.of(checkpoint)
    _require_greedy(tasks.values(), limits.positions)
    config = config_as_stored(checkpoint)
    with devices_of(context.device, Processes.from_environment()):
        model = TreeModel.of(config, _dtype(config, parameters.dtype), context.device)
        arrays = model.load(checkpoint, config)
        scorer = JaxRows(model, arrays, Shapes.of(config), parameters.batch)
        measures: dict[str, Callable[[], Part]] = {}
        if text:
            how = partial(measured_text, context.progress, scorer, text)
            measures[f"the perplexity of {text.name}"] = how
        if asked:
            measures |= _task_measures(context, parameters, scorer, asked, tasks)
        context.progress.say(f"by JAX on {model.devices} {context.device}: {', '.join(measures)}")
        parts = measured_parts(context.scratch, measures)
    if parameters.log_samples:
        join_samples(context.scratch, asked, context.output)
    name = published_name(checkpoint, otherwise=checkpoint.name)
    about = how_run(parts)
    say_cut(context, about)
    about |= {
        "model": "maxtext",
        "model_name": name,
        "model_dtype": model.dtype,
        "model_num_parameters": sum(array.size for array in arrays.values()),
        "batch_size": parameters.batch,
        "device": context.device,
        "devices": model.devices,
        "limit": parameters.limit,
        "suite": parameters.suite,
    }
    results = merged(
        parts,
        config=about,
        date=started,
        model_name=name,
        transformers_version=transformers.__version__,
        jax_version=jax.__version__,
        max_length=limits.positions,
        total_evaluation_time_seconds=str(time.time() - started),
    )
    write_results(results, context.output)
    notes: dict[str, Any] = {"suite": parameters.suite, "results": headline(results)}
    if asked:
        notes["tokenizer_probe"] = probe_hash(load_tokenizer(checkpoint))
    return Outcome(data=text.record if text else None, notes=notes)


def _task_measures(
    context: StageContext,
    parameters: JaxEvalParameters,
    scorer: JaxRows,
    asked: Mapping[str, Asked],
    tasks: Mapping[str, Any],
) -> dict[str, Callable[[], Part]]:
    """How each of the tasks is measured, by its label."""
    checkpoint = context.inputs["model"]
    limits, ends = ModelLimits.of(checkpoint), end_ids(checkpoint)
    lm = TokenLM(load_tokenizer(checkpoint), scorer, limits, ends=ends, bos=parameters.bos)

    def measured(label: str) -> Part:
        samples = samples_of_task(context.scratch, label) if parameters.log_samples else None
        return ask(lm, asked[label], tasks[label], parameters.limit, samples)

    return {label: partial(measured, label) for label in asked}


def _require_greedy(tasks: Iterable[Any], positions: int) -> None:
    """See before the model is loaded that what tasks generate can be generated."""
    for task in (leaf for each in tasks for leaf in leaves(each)):
        for instance in task.instances:
            if instance.request_type == "generate_until":
                greedy_settings(instance.args[1], positions, None)


def _dtype(config: dict[str, Any], asked: str) -> str:
    """What to compute in: MaxText knows no float16, whose numbers float32 holds."""
    stored = stored_dtype(config) if asked == "auto" else asked
    return stored if stored == "bfloat16" else "float32"
