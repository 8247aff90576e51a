"""The chips of a TPU that is not there, as XLA compiles for them."""

import os
from typing import Any

import jax
from jax.experimental.topologies import get_topology_desc

from espalier.errors import InputError
from espalier.hardware.tpus import Tpu
from training.maxtext_model.upstream import accelerator_to_spec_map

KNOWN = accelerator_to_spec_map.UserFacingNameToSystemCharacteristics
ALONE = {
    "TPU_SKIP_MDS_QUERY": "1",  # else libtpu asks the cloud's metadata server, which is not there
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several plans at once: none of them holds a chip
}
"""What libtpu is told, to be only a compiler."""


def absent_chips(tpu: Tpu) -> list[Any]:
    """The devices of a slice, in the order that JAX has them there; JAX itself is on a processor.

    Raises:
        InputError: MaxText has no topology for the type.
    """
    os.environ.update({**ALONE, "TPU_ACCELERATOR_TYPE": tpu.type})
    jax.config.update("jax_platforms", "cpu")
    shape = KNOWN.get(tpu.topology)
    if shape is None:
        raise InputError(
            f"TPU={tpu.type} cannot be compiled for: MaxText knows no topology of {tpu.chips} "
            f"chips; give {_nearest(tpu)}."
        )
    described = get_topology_desc(
        platform="tpu",
        topology_name=shape.topology_name,
        chip_config_name=shape.chip_config_name,
        chips_per_host_bounds=shape.chips_per_host_bounds,
        num_slices=1,
        wrap=shape.wrap,
    )
    return list(described.devices)


def topology_keys(tpu: Tpu) -> dict[str, Any]:
    """MaxText's keys by which it counts the slice's devices, and keeps no compiled program."""
    return {
        "compile_topology": tpu.topology,
        "compile_topology_num_slices": 1,
        "jax_cache_dir": "",
    }


def _nearest(tpu: Tpu) -> str:
    """The next smaller and larger types that there are topologies for."""
    generation = tpu.generation
    sizes = [
        int(size)
        for name in KNOWN
        for prefix, _, size in [name.partition("-")]
        if prefix == generation.name
    ]
    nearest = (
        max((size for size in sizes if size < tpu.size), default=None),
        min((size for size in sizes if size > tpu.size), default=None),
    )
    return " or ".join(f"{generation.prefix}-{size}" for size in nearest if size)
