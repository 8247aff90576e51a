"""The stage `recover`: check the inputs, train the adapters, merge them, tell what came out."""

import torch

from espalier.contract.manifest import METRICS
from espalier.contract.measure import peak_memory
from espalier.contract.parameters import Parameters
from espalier.contract.signals import asked_to_stop
from espalier.contract.stage import Outcome, StageContext
from espalier.errors import InputError
from espalier.models.device import require_device
from espalier.models.tokenizer import tokenizer_hash
from training.gpu_fsdp.export import sparsity_of
from training.gpu_fsdp.repeatable import repeatable
from training.protocol.account import data_section, pruning_section, training_section
from training.protocol.plots import draw_losses
from training.protocol.progress import RunFolders
from training.recover.job import RecoverRun
from training.recover.spec import RecoverParameters
from training.recover.trainer import RecoverTrainer

MAX_DIFFERENCE = 1e-4
"""Of a float32 model's logits, merged and not, relative to the largest: sums in another order."""


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Train adapters, and publish the model with what they add.

    Raises:
        InputError: something of what was given does not fit, or the merged model is another one.
    """
    assert isinstance(parameters, RecoverParameters)  # noqa: S101
    require_device(context.device)
    job = RecoverRun.of(parameters, context.inputs)
    for line in job.notices:
        context.progress.say(line)
    share = job.adapter_parameters / job.shapes.parameters
    context.progress.say(
        f"{job.adapter_parameters:,} parameters are trained beside the model's, {share:.2%} of them"
    )
    place = RunFolders(context.scratch, context.output)
    place.stop.unlink(missing_ok=True)
    with repeatable(), asked_to_stop(place.stop):
        trainer = RecoverTrainer(job, place, context.device)
        found = trainer.carry_out(context.name, context.progress, tracker=parameters.tracker)
        difference = trainer.merged_difference()
    _check_merged(difference, job)
    on_gpu = torch.cuda.max_memory_allocated() if context.device == "cuda" else 0
    draw_losses(context.output / METRICS, context.name, context.output / "loss")
    tokenizer = tokenizer_hash(job.tokenizer) or ""
    train_tokens = int(job.examples.lengths.sum())
    return Outcome(
        pruning=pruning_section(job, lambda: sparsity_of(context.output)),
        training=training_section(job, found, job.teacher),
        data={
            **data_section(job, tokenizer, train_tokens),
            "kind": job.examples.kind,
            **job.examples.record,
        },
        checks={
            "validation_loss": found["valid"][-1][1] if found["valid"] else None,
            "merged_logits_difference": difference,
        },
        notes={
            "adapter_parameters": job.adapter_parameters,
            "peak_bytes_a_process": on_gpu or peak_memory(),
            "tokens_per_second": found["tokens_per_second"],
            "data_share": found["data_share"],
            "micro_batch": job.micro_batch,
        },
    )


def _check_merged(difference: float, job: RecoverRun) -> None:
    """Refuse to publish another function than the one that was trained.

    Raises:
        InputError: logits differ by more than rounding.
    """
    exact = job.precision == job.config["torch_dtype"] == "float32"
    if exact and not difference <= MAX_DIFFERENCE:
        raise InputError(
            f"the merged model's logits differ from the trained one's by {difference:.3g} of the "
            f"largest, where {MAX_DIFFERENCE:g} is allowed; nothing is published."
        )
