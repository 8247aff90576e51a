"""What is taken of a layer while tokens pass it: the inputs or outputs of any of its parts.

Shapes: B samples, T tokens, C features of an input or output.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from espalier.errors import InputError
from espalier.models.finite import none_unless_finite
from espalier.models.shapes import INPUT_GROUPS

LAST = INPUT_GROUPS[-1][0]
"""The matrix whose product is the last thing that a layer computes."""


@dataclass
class Tap:
    """Something that takes in what passes a part of a layer.

    Attributes:
        part: a submodule's name, such as `mlp.down_proj`, `self_attn` or `input_layernorm`; the
            empty name is the layer itself.
        take: called with the part's inputs [B, T, C], its outputs [B, T, C], or both.
        inputs: whether it is given the inputs.
        outputs: whether it is given the outputs.
        fed: how many batches it was given.
    """

    part: str
    take: Callable[..., None]
    inputs: bool = True
    outputs: bool = False
    fed: int = 0

    @property
    def needs_last_product(self) -> bool:
        """Whether it wants to see what the layer's last matrix gives."""
        return self.outputs and f"{LAST}.".startswith(f"{self.part}." if self.part else "")


def inputs_of(part: str, take: Callable[[Tensor], None]) -> Tap:
    """Takes what a part is given."""
    return Tap(part, take)


def outputs_of(part: str, take: Callable[[Tensor], None]) -> Tap:
    """Takes what a part gives."""
    return Tap(part, take, inputs=False, outputs=True)


def across(part: str, take: Callable[[Tensor, Tensor], None]) -> Tap:
    """Takes what a part is given and what it makes of it."""
    return Tap(part, take, inputs=True, outputs=True)


def require_fed(count: int, what: str, passed: int = 1) -> None:
    """Refuse a measurement of something that the tokens have never reached.

    Args:
        count: how often it was given something.
        what: it is, in words that follow "reached".
        passed: how often it should have been.

    Raises:
        InputError: it was given less.
    """
    if count < passed:
        tokens = f"only {count} of {passed} batches of tokens" if count else "no tokens"
        raise InputError(
            f"{tokens} reached {what}, so it cannot be measured; give calibration tokens, and "
            "check config.json for a setting that changes how layers are computed."
        )


@contextmanager
def tapped(module: nn.Module, taps: Sequence[Tap], *, dropped: bool = False) -> Iterator[None]:
    """Feed the taps of a layer with whatever passes it in this context.

    With `dropped`, nobody wants the layer's outputs: the last matrix's product is left out unless a
    tap asks for it.
    """
    left_out = dropped and not any(tap.needs_last_product for tap in taps)
    final = module.get_submodule(LAST) if left_out else None
    if final is not None:
        _replace(module, LAST, _Sink(final.out_features))
    hooks = [_hook(module.get_submodule(tap.part), tap) for tap in taps]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        if final is not None:
            _replace(module, LAST, final)


def _hook(part: nn.Module, tap: Tap) -> Any:
    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tap.fed += 1
        tap.take(_first(args, kwargs))

    def after(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        given = output[0] if isinstance(output, tuple) else output
        tap.fed += 1
        tap.take(*((_first(args, kwargs), given) if tap.inputs else (given,)))

    if tap.outputs:
        return part.register_forward_hook(after, with_kwargs=True)
    return part.register_forward_pre_hook(before, with_kwargs=True)


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The states that a stock part is given, which some call by name."""
    return args[0] if args else kwargs["hidden_states"]


class _Sink(nn.Module):  # type: ignore[misc]
    """Stands for a layer's last matrix where nobody wants its product."""

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self._out_features = out_features

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs [B, T, C] to zeros [B, T, H] that take no memory; NaN where the product has it."""
        return none_unless_finite(inputs).expand(*inputs.shape[:-1], self._out_features)


def _replace(module: nn.Module, name: str, replacement: nn.Module) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner), leaf, replacement)
