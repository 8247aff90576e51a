"""How much is left, from the sizes alone. Needs no torch.

The reference's rule: of an axis of n entries int(n (1 - SPARSITY)) stay; heads go whole, so that a
part of a head that is to go stays.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rich.table import Table

from espalier.contract.stage import Unrolled
from espalier.errors import InputError
from espalier.models.shapes import Shapes
from espalier.pruning.structured.target import check_layers, sized, with_kv_heads

if TYPE_CHECKING:
    from methods.llm_pruner.spec import LlmPrunerParameters

PUBLISHED_LAYERS, PUBLISHED_FIRST, PUBLISHED_LAST = 32, 4, 30
ROUNDING = 1e-9
"""Of a product such as 100 x (1 - 0.9): what a whole number may fall short of itself."""


@dataclass(frozen=True)
class Left:
    """What a pruning leaves of a model of some shapes.

    Attributes:
        pruned: the layers whose heads and neurons go.
        kv_heads: key-value heads that each of them keeps.
        neurons: that each of them keeps.
        hidden: channels of the hidden state.
        layers: how many there still are.
    """

    pruned: range
    kv_heads: int
    neurons: int
    hidden: int
    layers: int

    @classmethod
    def of(cls, parameters: "LlmPrunerParameters", shapes: Shapes) -> "Left":
        """What is left of a model of `shapes`, every layer of which counts alike.

        Raises:
            InputError: nothing would be left of something, or there are no such layers.
        """
        everything = cls(
            range(0), shapes.kv_heads, shapes.intermediate, shapes.hidden, shapes.layers
        )
        if parameters.mode == "layer":
            assert parameters.layers is not None  # noqa: S101 - its validator's
            return replace(everything, layers=check_layers(parameters.layers, shapes.layers))
        if parameters.mode == "channel":
            share, exact = parameters.sparsity, parameters.reference
            hidden = kept_channels(share, shapes, exact=exact)
            if hidden == shapes.hidden:
                raise InputError(
                    f"SPARSITY={share:g} removes no channel of {shapes.hidden}, which go "
                    f"{shapes.heads} at a time (as many as there are heads); give more."
                )
            return replace(everything, hidden=hidden)
        pruned = pruned_layers(parameters, shapes.layers)
        kv_heads = kept_heads(shapes.kv_heads, shapes.head_dim, parameters.sparsity)
        neurons = kept(shapes.intermediate, parameters.sparsity)
        for count, of, what in (
            (kv_heads, shapes.kv_heads, "key-value head"), (neurons, shapes.intermediate, "neuron"),
        ):  # fmt: skip
            if not count and not parameters.global_:
                raise InputError(
                    f"SPARSITY={parameters.sparsity:g} leaves a layer no {what} of {of}; give "
                    f"SPARSITY={1 - 1 / of:.3g} or less."
                )
        return replace(everything, pruned=pruned, kv_heads=kv_heads, neurons=neurons)

    def parameters(self, shapes: Shapes) -> int:
        """Weights and norms' gains that are left of a model of `shapes`; biases aside."""
        group = shapes.heads // shapes.kv_heads
        narrow = replace(
            shapes, hidden=self.hidden, heads=self.kv_heads * group, kv_heads=self.kv_heads,
            intermediate=self.neurons,
        )  # fmt: skip
        whole = replace(shapes, hidden=self.hidden, layers=self.layers)
        spared = len(self.pruned) * (whole.layer_parameters - narrow.layer_parameters)
        return whole.parameters + (2 * self.layers + 1) * self.hidden - spared


def pruned_layers(parameters: "LlmPrunerParameters", layers: int) -> range:
    """FIRST to LAST, by default the published 4 to 30 of 32 or as many of others in proportion.

    Raises:
        InputError: the model has no such layers.
    """
    first, last = parameters.first, parameters.last
    if first is None:
        first = layers * PUBLISHED_FIRST // PUBLISHED_LAYERS
    if last is None:
        last = layers - layers * (PUBLISHED_LAYERS - PUBLISHED_LAST) // PUBLISHED_LAYERS
    if not first < last <= layers:
        raise InputError(
            f"layers {first} to {last} (the last not pruned) are none of a model of {layers}; give "
            f"FIRST below LAST, and LAST={layers} at most."
        )
    return range(first, last)


def kept(count: int, sparsity: float) -> int:
    """Of `count` entries of an axis."""
    return int(count * (1 - sparsity) + ROUNDING)


def kept_heads(heads: int, head_dim: int, sparsity: float) -> int:
    """Of `heads` heads: whole ones alone go."""
    rows = heads * head_dim
    return heads - (rows - kept(rows, sparsity)) // head_dim


def kept_channels(sparsity: float, shapes: Shapes, *, exact: bool) -> int:
    """Rounded up to what the heads divide, which stock Llama asks for, unless `exact`.

    Raises:
        InputError: none would be left, or none removed.
    """
    count = kept(shapes.hidden, sparsity)
    if not exact:
        count = -(-count // shapes.heads) * shapes.heads
    if not count:
        raise InputError(f"SPARSITY={sparsity:g} leaves no channel of {shapes.hidden}; give less.")
    return count


def unroll(parameters: "LlmPrunerParameters", config: Mapping[str, Any]) -> Unrolled:
    """The prunings that STEPS stands for, and what is left by the last.

    Raises:
        InputError: the model cannot be pruned so.
    """
    if not config:
        if parameters.steps > 1:
            raise InputError("STEPS needs the model's config.json; fetch it first (make fetch).")
        return Unrolled((parameters,))
    shapes = Shapes.of(config)
    left = Left.of(parameters, shapes)
    if parameters.mode == "channel":
        steps, configs = _channel_steps(parameters, config)
    else:
        shares = (
            parameters.sparsity * n / parameters.steps for n in range(1, parameters.steps + 1)
        )
        steps = [_step(parameters, share) for share in shares]
        whole = {"whole_heads": shapes.kv_heads, "whole_neurons": shapes.intermediate}
        steps[1:] = [step.model_copy(update=whole) for step in steps[1:]]
        configs = [stored(config, Left.of(step, shapes), step) for step in steps]
    return Unrolled(tuple(steps), left_table(parameters, shapes, left), tuple(configs))


def _channel_steps(
    parameters: "LlmPrunerParameters", config: Mapping[str, Any]
) -> tuple[list["LlmPrunerParameters"], list[dict[str, Any]]]:
    """Each removes as many again, as a share of what the one before it left."""
    whole = current = Shapes.of(config)
    steps, configs = [], []
    for number in range(1, parameters.steps + 1):
        share = parameters.sparsity * number / parameters.steps
        hidden = kept_channels(share, whole, exact=parameters.reference)
        if hidden < current.hidden:
            step = _step(parameters, 1 - hidden / current.hidden)
            configs.append(stored(config, Left.of(step, current), step))
            steps.append(step)
            current = replace(current, hidden=hidden)
    return steps, configs


def _step(parameters: "LlmPrunerParameters", share: float) -> "LlmPrunerParameters":
    return parameters.model_copy(update={"sparsity": share, "steps": 1})


def stored(
    config: Mapping[str, Any], left: Left, parameters: "LlmPrunerParameters"
) -> dict[str, Any]:
    """config.json of what is published: as wide as the widest layer."""
    shapes = Shapes.of(config)
    if parameters.mode != "block" or parameters.global_ or len(left.pruned) < shapes.layers:
        return sized(config, replace(shapes, hidden=left.hidden, layers=left.layers))
    narrow = replace(next(with_kv_heads(shapes, left.kv_heads)), intermediate=left.neurons)
    return sized(config, narrow)


def left_table(parameters: "LlmPrunerParameters", shapes: Shapes, left: Left) -> Table:
    """What is left, before anything is run."""
    before = replace(left, pruned=range(0), hidden=shapes.hidden, layers=shapes.layers)
    whole, rest = before.parameters(shapes), left.parameters(shapes)
    table = Table(title=f"LLM-Pruner, MODE={parameters.mode}", box=None, pad_edge=False)
    for heading in ("layers", "key-value heads", "neurons", "hidden", "parameters"):
        table.add_column(heading, justify="right", no_wrap=True)
    if left.pruned and parameters.global_:
        share = f"{parameters.sparsity:.0%} of the parameters"
        table.add_row(_span(left.pruned), share, "of these", str(shapes.hidden), f"of {whole:,}")
        return table
    pruned = _span(left.pruned) if left.pruned else f"{left.layers} of {shapes.layers}"
    table.add_row(
        pruned,
        f"{left.kv_heads} of {shapes.kv_heads}",
        f"{left.neurons} of {shapes.intermediate}",
        f"{left.hidden} of {shapes.hidden}",
        f"{rest:,} of {whole:,} ({rest / whole:.1%})",
    )
    return table


def _span(layers: range) -> str:
    return f"{layers.start} to {layers.stop - 1}"
