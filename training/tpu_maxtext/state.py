"""A run's arrays: made or read, masked, stepped, saved by Orbax and found again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
from flax import nnx
from flax.linen import logical_axis_rules
from jax.stages import Wrapped

from training.maxtext_model.checkpoint import Arrays, StoredWeights
from training.maxtext_model.model import Model
from training.maxtext_model.upstream import (
    TrainStateNNX,
    eval_step,
    maxtext_utils,
    sharding,
    train_step,
)
from training.tpu_maxtext.mask import KeptEntries

Path = tuple[Any, ...]
Batch = Mapping[str, jax.Array]


@dataclass(frozen=True)
class Program:
    """The jitted steps, and what their state looks like.

    Attributes:
        abstract: shapes, dtypes and shardings of every array, by path.
        train: (state, batch) to the next state and metrics; the state given is used up.
        evaluate: (state, batch) to metrics.
    """

    model: Model
    graph: Any
    shapes: Any
    shardings: Any
    data_sharding: Any
    train: Wrapped
    evaluate: Wrapped
    initial: Callable[[], nnx.Module]

    @classmethod
    def of(cls, model: Model, stepper: optax.GradientTransformation) -> "Program":
        """MaxText's own train step around the model and the optimizer."""
        settings, mesh = model.settings, model.mesh

        def initial() -> nnx.Module:
            made = model.create()
            return TrainStateNNX(made, nnx.Optimizer(made, stepper, wrt=nnx.Param))

        shapes, _, shardings = maxtext_utils.get_abstract_state(settings, mesh, initial, True)
        with logical_axis_rules(settings.logical_axis_rules):
            graph = nnx.graphdef(nnx.eval_shape(initial))
        of_weights, shardings = sharding.maybe_update_params_sharding_with_opt(settings, shardings)
        of_data = sharding.get_input_data_sharding(settings, mesh)
        train, inputs, outputs, _, donated = maxtext_utils.get_functional_train_with_signature(
            train_step, of_data, shardings, graph, settings, of_weights
        )
        evaluate, eval_inputs, eval_outputs, _, _ = (
            maxtext_utils.get_functional_eval_with_signature(
                eval_step, of_data, shardings, graph, settings
            )
        )
        return cls(
            model=model,
            graph=graph,
            shapes=shapes,
            shardings=shardings,
            data_sharding=of_data,
            train=jax.jit(
                train, in_shardings=inputs, out_shardings=outputs, donate_argnums=donated
            ),
            evaluate=jax.jit(evaluate, in_shardings=eval_inputs, out_shardings=eval_outputs),
            initial=initial,
        )

    def within(self, call: Callable[..., Any], *given: Any) -> Any:
        """Call something under the mesh and the rules that name its axes."""
        rules = self.model.settings.logical_axis_rules
        with jax.set_mesh(self.model.mesh), logical_axis_rules(rules):
            return call(*given)

    def start(self) -> nnx.State:
        """The state of step 0, as MaxText initialises it."""
        make = jax.jit(lambda: nnx.state(self.initial()), out_shardings=self.shardings)
        state: nnx.State = self.within(make)
        return state

    @cached_property
    def weights(self) -> dict[Path, jax.ShapeDtypeStruct]:
        """Shape, dtype and sharding of every parameter by its path in the model."""
        return weights_of(self.shapes)


def arrays_of(state: nnx.State) -> dict[Path, Any]:
    """Every array of a state by its path; random streams, which nothing here draws from, aside."""
    flat = nnx.to_flat_state(state)
    return {
        path: variable.get_value()
        for path, variable in flat
        if not isinstance(variable, nnx.RngState)
    }


def sharded(state: nnx.State, mesh: Any) -> dict[Path, jax.ShapeDtypeStruct]:
    """Shape, dtype and sharding of an abstract state's arrays, by path."""
    placed = dict(nnx.to_flat_state(sharding.nnx_construct_named_sharding(state, mesh)))
    return {
        path: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=_value(placed[path]))
        for path, array in arrays_of(state).items()
    }


def _value(variable: Any) -> Any:
    return variable.get_value() if isinstance(variable, nnx.Variable) else variable


def weights_of(state: nnx.State) -> Arrays:
    """The model's parameters by their path in it."""
    return {path[1:]: array for path, array in arrays_of(state).items() if path[0] == "model"}


def norm_of(state: nnx.State) -> jax.Array:
    """The norm of the last step's gradient, before it was clipped, float32 []."""
    return next(
        array
        for path, array in arrays_of(state).items()
        if path[0] == "optimizer" and path[-1] == "norm"
    )


def masks_of(state: nnx.State) -> dict[Path, Path]:
    """Where the masks are, by the path in the model of the weight that each is for."""
    return {path[path.index("kept") + 1 :]: path for path in arrays_of(state) if "kept" in path}


def replaced(state: nnx.State, arrays: Mapping[Path, Any]) -> nnx.State:
    """The state with some of its arrays exchanged."""
    flat = nnx.to_flat_state(state)
    return nnx.from_flat_state(
        (path, variable.replace(arrays[path]) if path in arrays else variable)
        for path, variable in flat
    )


def with_weights(program: Program, state: nnx.State, stored: StoredWeights) -> nnx.State:
    """The state with a checkpoint's weights."""
    loaded = {("model", *path): stored.load(path, like) for path, like in program.weights.items()}
    return replaced(state, loaded)


def with_fresh_weights(
    program: Program, state: nnx.State, seed: int, deviation: float
) -> nnx.State:
    """The state with normal weights, and norms of one; no number of devices changes them."""
    made = {}
    for number, (path, like) in enumerate(sorted(program.weights.items())):
        key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), number)
        if path[-1] == "scale":
            draw = jax.jit(
                lambda key, like=like: jnp.ones(like.shape, like.dtype), out_shardings=like.sharding
            )
        else:
            draw = jax.jit(
                lambda key, like=like: deviation * jax.random.normal(key, like.shape, like.dtype),
                out_shardings=like.sharding,
            )
        made["model", *path] = draw(key)
    return replaced(state, made)


def with_mask(program: Program, state: nnx.State, entries: KeptEntries) -> nnx.State:
    """The state that keeps a checkpoint's zeros: its mask set, and its weights zero there."""
    arrays, exchanged = arrays_of(state), {}
    for place, path in masks_of(state).items():
        if place not in entries.masked:
            continue
        weight = program.weights[place]
        like = jax.ShapeDtypeStruct(weight.shape, bool, sharding=weight.sharding)
        kept = entries.load(place, like)
        exchanged[path] = jax.device_put(kept, arrays[path].sharding)
        exchanged["model", *place] = jnp.where(kept, arrays["model", *place], 0)
    return replaced(state, exchanged)


def broken(state: nnx.State) -> int:
    """Pruned weights that are not exactly zero."""
    arrays = arrays_of(state)
    return sum(
        int(jnp.count_nonzero(jnp.where(arrays[path], 0, arrays["model", *place])))
        for place, path in masks_of(state).items()
    )


class SavedStates:
    """The last states of a run, `most` of them, below `folder`: a directory or gs://.

    Those of another name may be written at the same time: processes would wait for each other
    for ever if two writers met at barriers of one name.
    """

    def __init__(self, folder: str, name: str, most: int) -> None:
        meeting = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=name)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=most, create=True, multiprocessing_options=meeting
        )
        self._manager = ocp.CheckpointManager(f"{folder}/{name}", options=options)

    def latest(self) -> int | None:
        """The step of the last complete one."""
        step = self._manager.latest_step()
        return None if step is None else int(step)

    def save(self, step: int, arrays: Arrays, facts: Mapping[str, Any]) -> None:
        """Write in the background; the arrays are copied before this returns."""
        if step == self.latest():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_by_name(arrays)),
                facts=ocp.args.JsonSave(dict(facts)),
            ),
        )

    def load(self, step: int, arrays: Arrays) -> tuple[Arrays, dict[str, Any]]:
        """What was saved in place of `arrays`, with their shardings, and the facts beside it."""
        like = {
            name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
            for name, array in _by_name(arrays).items()
        }
        found = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(like), facts=ocp.args.JsonRestore()
            ),
        )
        paths = {_name(path): path for path in arrays}
        return {paths[name]: a for name, a in found["state"].items()}, dict(found["facts"])

    def forget(self, first: int) -> None:
        """Remove the states from step `first` on: they are made again, and may be saved again."""
        self.wait()
        for step in self._manager.all_steps():
            if step >= first:
                self._manager.delete(step)

    def wait(self) -> None:
        self._manager.wait_until_finished()


def _by_name(arrays: Mapping[Path, Any]) -> dict[str, Any]:
    return {_name(path): array for path, array in arrays.items()}


def _name(path: Path) -> str:
    return ".".join(map(str, path))
