"""`BACKEND=jax`: a text and tasks of lm-eval by MaxText's model, one `results.json`; no torch."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import transformers

from espalier.contract.manifest import published_name
from espalier.contract.parameters import Parameters
from espalier.contract.processes import Processes
from espalier.contract.progress import Progress
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
from eval.parts import Part, how_run, is_measured, measured_parts, say_cut
from eval.results import headline, merged, write_results
from eval.samples.sample import join_samples, samples_of_task
from eval.tasks import leaves
from eval.token_lm import TokenLM
from eval.windows import TestText, asked_text
from training.maxtext_model.devices import as_the_first, devices_of, together
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
    found = _measure(context, parameters, context.progress)
    if parameters.log_samples:
        join_samples(context.scratch, found.asked, context.output)
    name = published_name(checkpoint, otherwise=checkpoint.name)
    about = how_run(found.parts)
    say_cut(context, about)
    about |= {
        "model": "maxtext",
        "model_name": name,
        "model_dtype": found.dtype,
        "model_num_parameters": found.parameters,
        "batch_size": parameters.batch,
        "device": context.device,
        "devices": found.devices,
        "limit": parameters.limit,
        "suite": parameters.suite,
    }
    results = merged(
        found.parts,
        config=about,
        date=started,
        model_name=name,
        transformers_version=transformers.__version__,
        jax_version=jax.__version__,
        max_length=ModelLimits.of(checkpoint).positions,
        total_evaluation_time_seconds=str(time.time() - started),
    )
    write_results(results, context.output)
    notes: dict[str, Any] = {"suite": parameters.suite, "results": headline(results)}
    if found.asked:
        notes["tokenizer_probe"] = probe_hash(load_tokenizer(checkpoint))
    return Outcome(data=found.text.record if found.text else None, notes=notes)


def take_part(context: StageContext, parameters: Parameters) -> None:
    """Measure with the other machines what the first one writes.

    Raises:
        InputError, EnvironmentFailure: as `evaluate`.
    """
    assert isinstance(parameters, JaxEvalParameters)  # noqa: S101
    _measure(context, parameters, Progress())


@dataclass(frozen=True)
class _Found:
    """What was measured, and of what; on machines other than the first there are no parts."""

    parts: list[Part]
    asked: Mapping[str, Asked]
    text: TestText | None
    dtype: str
    parameters: int
    devices: int


def _measure(context: StageContext, parameters: JaxEvalParameters, progress: Progress) -> _Found:
    """Ask the model, which lies on the devices of all machines, each of which asks alike."""
    checkpoint, processes = context.inputs["model"], Processes.from_environment()
    asked, text = asked_of(context, parameters), asked_text(context, parameters)
    tasks = checked_tasks(asked, checkpoint, parameters.limit) if asked else {}
    _require_greedy(tasks.values(), ModelLimits.of(checkpoint).positions)
    config = config_as_stored(checkpoint)
    scratch = context.scratch if processes.node == 0 else None  # one machine writes
    with devices_of(context.device, processes):
        model = TreeModel.of(config, _dtype(config, parameters.dtype), context.device)
        arrays = model.load(checkpoint, config)
        scorer = JaxRows(model, arrays, Shapes.of(config), parameters.batch)
        measures: dict[str, Callable[[], Part]] = {}
        if text:
            measures[f"the perplexity of {text.name}"] = partial(
                measured_text, progress, scorer, text
            )
        if asked:
            folder = scratch if parameters.log_samples else None
            questions = {label: (one, tasks[label]) for label, one in asked.items()}
            measures |= _task_measures(parameters, scorer, checkpoint, questions, folder)
        progress.say(f"by JAX on {model.devices} {context.device}: {', '.join(measures)}")
        parts = _all_measured(scratch, measures)
        together("measured")
    size = sum(array.size for array in arrays.values())
    return _Found(parts, asked, text, model.dtype, size, model.devices)


def _all_measured(scratch: Path | None, measures: Mapping[str, Callable[[], Part]]) -> list[Part]:
    """Every part on the first machine, which has `scratch`; the others help with what is left."""
    known = as_the_first([scratch is not None and is_measured(scratch, name) for name in measures])
    if scratch is not None:
        return measured_parts(scratch, measures)
    for measure in (one for one, done in zip(measures.values(), known, strict=True) if not done):
        measure()
    return []


def _task_measures(
    parameters: JaxEvalParameters,
    scorer: JaxRows,
    checkpoint: Path,
    questions: Mapping[str, tuple[Asked, Any]],
    folder: Path | None,
) -> dict[str, Callable[[], Part]]:
    """How each task is measured, by its label; samples go to the folder, where there is one."""
    limits, ends = ModelLimits.of(checkpoint), end_ids(checkpoint)
    lm = TokenLM(load_tokenizer(checkpoint), scorer, limits, ends=ends, bos=parameters.bos)

    def measured(label: str) -> Part:
        samples = samples_of_task(folder, label) if folder else None
        return ask(lm, *questions[label], parameters.limit, samples)

    return {label: partial(measured, label) for label in questions}


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
