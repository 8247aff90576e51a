"""A stage computes with a stated number of threads, and as nothing else in the environment has it.

The order in which a sum is taken depends on how many threads share it, and with it the sum's last
bits; so do a library's choice of kernels and its precision, which variables can change. A container
sees none of the caller's: neither does a stage without one.
"""

import os
import sys
from collections.abc import Mapping, MutableMapping

from espalier.contract.cores import usable_cores

THREADS = "ESPALIER_THREADS"
"""From the host to the stage: how many. Where the host cannot know, the stage's own cores."""
NUMERIC = (
    *("OMP_", "GOMP_", "KMP_", "RAYON_"),  # pools of threads
    *("MKL_", "DNNL_", "ONEDNN_", "OPENBLAS_", "GOTO_", "BLIS_", "NVPL_", "VECLIB_", "ACCELERATE_"),
    *("NPY_", "NUMEXPR_", "ATEN_", "TORCH", "XLA_", "JAX_"),
    *("CUBLAS_", "CUBLASLT_", "CUDNN_", "NVIDIA_TF32_OVERRIDE", "NPROC", "GLIBC_TUNABLES"),
)
"""Beginnings of variables that choose threads, kernels or precision.

OPENBLAS_CORETYPE is among them: it picks the kernels, and so the bits, and is for builds that do
not know a processor. Those of the images' locks do.
"""
OURS = ("JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
"""What images and runtimes set themselves: where JAX computes, and where programs are kept."""


def without_numeric(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables but for those that would change a stage's numbers."""
    return {
        name: value
        for name, value in variables.items()
        if name in OURS or not name.startswith(NUMERIC)
    }


def thread_variables(threads: int) -> dict[str, str]:
    """What tells every library that a stage uses to take so many threads, no more and no fewer."""
    count = dict.fromkeys(
        (
            *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
            *("NUMEXPR_MAX_THREADS", "VECLIB_MAXIMUM_THREADS", "RAYON_NUM_THREADS"),
            "NPROC",  # XLA's pool on a processor
        ),
        str(threads),
    )
    return {"OMP_DYNAMIC": "FALSE", "MKL_DYNAMIC": "FALSE", **count}


def settle(variables: MutableMapping[str, str] = os.environ) -> int:
    """Make the environment of this process such; how many threads it has.

    To be called before a library that computes is loaded: most read their variables then.
    """
    threads = stated_threads(variables)
    for name in set(variables) - set(without_numeric(variables)):
        del variables[name]
    variables.update({THREADS: str(threads), **thread_variables(threads)})
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)
    return threads


def stated_threads(variables: Mapping[str, str] = os.environ) -> int:
    """Threads of this stage, all its processes together."""
    return int(variables.get(THREADS) or usable_cores())


def share_threads(processes: int, variables: MutableMapping[str, str] = os.environ) -> None:
    """Let that many processes, which are started next and compute at once, share the threads."""
    variables.update(thread_variables(max(1, stated_threads(variables) // processes)))
