"""JAX counts its devices once in a process: one, as a stage on a processor has."""

import importlib.util

if importlib.util.find_spec("jax"):
    import jax

    jax.config.update("jax_num_cpu_devices", 1)
