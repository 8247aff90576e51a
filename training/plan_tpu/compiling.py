"""One train step of `train-tpu`, compiled for chips that are not there."""

import math
import re
import time
from dataclasses import replace
from functools import partial
from typing import Any

from jax.errors import JaxRuntimeError

from espalier.hardware.tpus import Tpu
from training.maxtext_model.model import Model
from training.maxtext_model.upstream import maxtext_utils
from training.plan_tpu.topology import topology_keys
from training.plan_tpu.trials import USABLE, Trial
from training.tpu_maxtext.job import MaxTextRun
from training.tpu_maxtext.optimizer import optimizer
from training.tpu_maxtext.state import Program, arrays_of

NO_MEMORY = "RESOURCE_EXHAUSTED"
SIZE = r"([\d.]+)([KMGT])"
TEMPORARIES = re.compile(rf"temporaries \({SIZE}\) exceeds available HBM")
ALL = re.compile(rf"Used {SIZE} of {SIZE} hbm")
"""How XLA's TPU compiler says what it would need: temporaries alone, or everything."""
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def compiled(
    job: MaxTextRun, tpu: Tpu, chips: list[Any], recompute: bool, micro_batch: int
) -> Trial:
    """The step with these settings, the rest being the run's own."""
    settings = {"recompute": recompute, "micro_batch": micro_batch}
    job = replace(job, parameters=job.parameters.model_copy(update=settings))
    keys = job.keys("tpu", len(chips)) | topology_keys(tpu)
    began = time.monotonic()
    model = Model.of(job.config, keys, chips)
    stepper = optimizer(job.parameters, job.budget.steps, masked=job.zeros is not None)
    program = Program.of(model, stepper)
    batch = maxtext_utils.get_shaped_batch(model.settings, batch_sharding=program.data_sharding)
    lowered = program.within(program.train.lower, program.shapes, batch)
    state = _state_bytes(program)
    trial = partial(Trial, recompute, micro_batch, state=state)
    try:
        step = program.within(lowered.compile)
    except JaxRuntimeError as error:
        if NO_MEMORY not in str(error):
            raise
        return trial(fits=False, total=wanted(str(error), state), seconds=_since(began))
    total = _taken(step.memory_analysis())
    fits = total <= USABLE * (tpu.generation.hbm_gib << 30)  # not all that is compiled can be run
    flops = float(step.cost_analysis()["flops"])
    return trial(fits=fits, total=total, flops=flops, seconds=_since(began))


def wanted(message: str, state: int) -> int:
    """Bytes that a program would take, at least, by XLA's refusal."""
    if found := ALL.search(message):
        return _bytes(found[1], found[2])
    if found := TEMPORARIES.search(message):
        return state + _bytes(found[1], found[2])
    return state


def _taken(memory: Any) -> int:
    """Bytes on a chip: what goes in, what comes out elsewhere, what is between, and the program."""
    new = memory.output_size_in_bytes - memory.alias_size_in_bytes  # the state is updated in place
    code = memory.generated_code_size_in_bytes
    return int(memory.argument_size_in_bytes + new + memory.temp_size_in_bytes + code)


def _since(began: float) -> float:
    return round(time.monotonic() - began, 1)


def _state_bytes(program: Program) -> int:
    """A chip's part of weights, moments and masks."""
    return sum(
        math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize
        for array in arrays_of(program.shapes).values()
    )


def _bytes(number: str, unit: str) -> int:
    return round(float(number) * UNITS[unit])
