"""The stage `train-gpu`: check the inputs, run the ranks, tell what came out."""

from espalier.contract.manifest import METRICS
from espalier.contract.parameters import Parameters
from espalier.contract.processes import Processes
from espalier.contract.stage import Outcome, StageContext
from espalier.data.tokens.reader import TokenData
from espalier.errors import Interrupted
from espalier.models.device import require_device
from espalier.ranks.parting import wait_for_the_first
from training.gpu_fsdp.export import sparsity_of
from training.gpu_fsdp.job import FsdpRun
from training.gpu_fsdp.launch import train
from training.gpu_fsdp.spec import TrainingParameters
from training.protocol.account import data_section, pruning_section, training_section
from training.protocol.plots import draw_losses
from training.protocol.progress import RunFolders


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Train, and publish the last weights; the best ones beside them where they are others."""
    assert isinstance(parameters, TrainingParameters)  # noqa: S101
    require_device(context.device)
    job = FsdpRun.of(parameters, context.inputs)
    for line in job.notices:
        context.progress.say(line)
    place = RunFolders(context.scratch, context.output)
    processes = Processes.from_environment()
    found = train(job, place, context.device, context.name, processes)
    draw_losses(context.output / METRICS, context.name, context.output / "loss")
    index = TokenData(job.data).index
    return Outcome(
        pruning=pruning_section(job, lambda: sparsity_of(context.output)),
        training=training_section(job, found, job.teacher),
        data=data_section(job, index.tokenizer, index.splits["train"].tokens),
        checks={"validation_loss": found["valid"][-1][1] if found["valid"] else None},
        notes={
            "peak_bytes_a_process": found["peak_bytes"],
            "tokens_per_second": found["tokens_per_second"],
            "data_share": found["data_share"],
            "processes": processes.world,
            "micro_batch": job.micro_batch(processes.world),
        },
    )


def join(context: StageContext, parameters: Parameters) -> None:
    """Run this machine's ranks; the first machine tells what came out."""
    assert isinstance(parameters, TrainingParameters)  # noqa: S101
    require_device(context.device)
    job = FsdpRun.of(parameters, context.inputs)
    place = RunFolders(context.scratch, context.output)
    try:
        train(job, place, context.device, context.name, Processes.from_environment())
    except FileNotFoundError:  # the first machine has reported and tidied already
        raise Interrupted("the first machine has stopped.") from None
    wait_for_the_first(context.output)
