"""JAX on this machine's devices, alone or with those of other machines."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from espalier.contract.processes import Processes
from espalier.errors import EnvironmentFailure, InputError


@contextmanager
def devices_of(device: str, processes: Processes) -> Iterator[None]:
    """Make the devices of all machines known; a machine's processor counts as `each` devices.

    Raises:
        EnvironmentFailure: there is no such device, or not all machines are heard of.
        InputError: a TPU is asked to be shared by several processes.
    """
    _choose(device, processes)
    several = processes.nodes > 1
    if several:
        try:
            jax.distributed.initialize(
                coordinator_address=processes.meeting_point,
                coordinator_bind_address=processes.listens_at,
                num_processes=processes.nodes,
                process_id=processes.node,
            )
        except RuntimeError as error:
            raise EnvironmentFailure(
                f"not all {processes.nodes} machines connected: {error}"
            ) from None
    try:
        found = jax.devices()[0].platform
        if found != device:
            raise EnvironmentFailure(f"ACCEL={device} was requested, but JAX sees only a {found}.")
        yield
    finally:
        if several:
            jax.distributed.shutdown()


def agreed(asked: bool) -> bool:
    """Whether any process asks: the same answer on all of them."""
    if jax.process_count() == 1:
        return asked
    return bool(multihost_utils.process_allgather(np.array([asked])).any())


def as_the_first(answers: Sequence[bool]) -> list[bool]:
    """What the first process says, on all of them."""
    if jax.process_count() == 1:
        return list(answers)
    found = multihost_utils.broadcast_one_to_all(np.array(answers, np.bool_))
    return [bool(answer) for answer in found]


def gathered(arrays: Any) -> Any:
    """Arrays, in whatever they are, as numpy has them: whole, on every process."""
    if all(array.is_fully_addressable for array in jax.tree.leaves(arrays)):
        return jax.device_get(arrays)
    return multihost_utils.process_allgather(arrays, tiled=True)


def together(name: str) -> None:
    """Go on when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _choose(device: str, processes: Processes) -> None:
    if device == "tpu":
        if processes.each > 1:
            raise InputError("GPUS is for GPUs; on a TPU leave it out: all its chips are used.")
        return
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", processes.each)
    if processes.nodes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
