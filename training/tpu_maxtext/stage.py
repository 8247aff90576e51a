"""The stage `train-tpu`: check the inputs, run this process's part, tell what came out."""

from typing import Any

import jax

from espalier.contract.manifest import METRICS
from espalier.contract.measure import peak_memory
from espalier.contract.parameters import Parameters
from espalier.contract.processes import Processes, Share
from espalier.contract.signals import asked_to_stop
from espalier.contract.stage import Outcome, StageContext
from espalier.errors import Interrupted
from training.maxtext_model.checkpoint import sparsity_of
from training.maxtext_model.devices import devices_of, together
from training.maxtext_model.probe import probe
from training.protocol.account import data_section, pruning_section, training_section
from training.protocol.plots import draw_losses
from training.protocol.progress import RunFolders
from training.tpu_maxtext.job import MaxTextRun, hardware
from training.tpu_maxtext.saved import folder_of_states
from training.tpu_maxtext.spec import TpuTrainingParameters
from training.tpu_maxtext.trainer import MaxTextTrainer


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Train, and publish the last weights; the best ones beside them where they are others."""
    job, found = _train(context, parameters)
    draw_losses(context.output / METRICS, context.name, context.output / "loss")
    return Outcome(
        pruning=pruning_section(job, lambda: sparsity_of(context.output)),
        training=training_section(job, found),
        data=data_section(
            job, job.records.tokenizer, job.records.rows["train"] * job.budget.seqlen
        ),
        checks={"validation_loss": found["valid"][-1][1] if found["valid"] else None},
        notes={
            "peak_bytes_a_process": found["peak_bytes"],
            **{name: found[name] for name in ("tokens_per_second", "data_share", "devices")},
        },
    )


def join(context: StageContext, parameters: Parameters) -> None:
    """Run this machine's part; the first machine tells what came out."""
    try:
        context.scratch.mkdir(exist_ok=True)  # the machine's own, where they share no disk
    except FileNotFoundError:
        raise Interrupted("the first machine has stopped.") from None
    _train(context, parameters)


def _train(context: StageContext, parameters: Parameters) -> tuple[MaxTextRun, dict[str, Any]]:
    assert isinstance(parameters, TpuTrainingParameters)  # noqa: S101
    job = MaxTextRun.of(parameters, context.inputs)
    place = RunFolders(context.scratch, context.output)
    states = folder_of_states(context.scratch)
    processes = Processes.from_environment()
    if processes.node == 0:
        place.stop.unlink(missing_ok=True)
    with devices_of(context.device, processes), asked_to_stop(place.stop):
        if job.parameters.verify:
            job.records.verify(Share(jax.process_index(), jax.process_count()))
        trainer = MaxTextTrainer(job, place, context.device, states)
        for line in job.notices if jax.process_index() == 0 else ():
            context.progress.say(line)
        found = trainer.carry_out(context.name, context.progress, jax.process_index())
        probe(job.config, trainer.weights(), context.scratch, hardware(context.device))
        together("probed")
        return job, {**found, "devices": jax.device_count(), "peak_bytes": peak_memory()}
