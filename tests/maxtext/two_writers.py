"""One of two processes that save states under two names at once, round after round.

Arguments: the process's number, the coordinator's port, the folder of the states.
"""

import sys

import jax
import jax.numpy as jnp

from espalier.contract.processes import Processes
from training.maxtext_model.devices import devices_of
from training.tpu_maxtext.state import SavedStates

ROUNDS = 24


def main(number: int, port: int, folder: str) -> None:
    """Save every second round under one name, and every third one under the other."""
    processes = Processes(nodes=2, node=number, each=1, head="127.0.0.1", port=port)
    with devices_of("cpu", processes):
        steps, best = SavedStates(folder, "steps", most=2), SavedStates(folder, "best", most=1)
        mesh = jax.make_mesh((2,), ("rows",))
        divided = jax.NamedSharding(mesh, jax.P("rows"))
        arrays = {("weight",): jax.jit(lambda: jnp.zeros((1024, 256)), out_shardings=divided)()}
        for step in range(1, ROUNDS + 1):
            arrays = {path: array + 1 for path, array in arrays.items()}
            if step % 3 == 0:
                best.forget(step)
                best.save(step, arrays, {})
            if step % 2 == 0:
                steps.save(step, arrays, {"step": step})
        for states in (steps, best):
            states.wait()
            found, _ = states.load(ROUNDS, arrays)
            assert float(jnp.min(found["weight",])) == ROUNDS


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
