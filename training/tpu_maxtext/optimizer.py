"""AdamW as optax has it, with pruned weights kept and clipping that sees what is trained alone."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from training.protocol.parameters import ProtocolParameters

EPSILON = 1e-8
"""AdamW's, as torch has it."""
NO_MATRICES = ("scale", "bias")
"""How MaxText names norms' weights, and biases: stacked over layers, they look like matrices."""


class MaskState(NamedTuple):
    """Where weights may differ from zero, bool trees of the weights' shapes."""

    kept: Any


class Clipped(NamedTuple):
    """The norm of the last step's gradient, float32 [], before it was clipped."""

    norm: jax.Array


def optimizer(
    parameters: ProtocolParameters, steps: int, *, masked: bool
) -> optax.GradientTransformation:
    """What MaxText's train step steps by. Pruned weights have no gradient, no moments, no decay."""
    rates = jnp.asarray([parameters.rate(step, steps) for step in range(steps)], jnp.float32)
    return optax.chain(
        *([keep_pruned()] if masked else []),
        clip_measured(parameters.clip),
        optax.adamw(
            lambda step: rates[jnp.minimum(step, steps - 1)],
            b1=parameters.beta1,
            b2=parameters.beta2,
            eps=EPSILON,
            weight_decay=parameters.weight_decay,
            mask=None if parameters.decay == "all" else matrices,
        ),
    )


def matrices(weights: Any) -> Any:
    """True for what is neither a norm's weight nor a bias, a bool tree like the weights'."""

    def is_matrix(path: tuple[Any, ...], _: Any) -> bool:
        names = {str(getattr(key, "key", getattr(key, "name", key))) for key in path}
        return names.isdisjoint(NO_MATRICES)

    return jax.tree_util.tree_map_with_path(is_matrix, weights)


def keep_pruned() -> optax.GradientTransformation:
    """Remove gradients of pruned weights, by a mask that the checkpoint sets once.

    The mask is state, not where a weight happens to be zero: a weight that training zeroes may
    leave zero again. Until it is set everything is kept.
    """

    def init(weights: Any) -> MaskState:
        return MaskState(jax.tree.map(lambda weight: jnp.ones_like(weight, dtype=bool), weights))

    def update(gradients: Any, state: MaskState, weights: Any = None) -> tuple[Any, MaskState]:
        return jax.tree.map(jnp.where, state.kept, gradients, _zeros(gradients)), state

    return optax.GradientTransformation(init, update)


def clip_measured(most: float) -> optax.GradientTransformation:
    """Clip by the global norm as torch does, and keep the norm for the metrics; 0: only measure."""

    def init(weights: Any) -> Clipped:
        return Clipped(jnp.zeros((), jnp.float32))

    def update(gradients: Any, state: Clipped, weights: Any = None) -> tuple[Any, Clipped]:
        norm = optax.global_norm(gradients)
        if most:
            scale = jnp.minimum(1.0, most / (norm + 1e-6))
            gradients = jax.tree.map(lambda gradient: gradient * scale, gradients)
        return gradients, Clipped(norm)

    return optax.GradientTransformation(init, update)


def _zeros(tree: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, tree)
