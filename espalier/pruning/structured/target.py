"""From what is asked to the shapes that are left, or the sentence that says why not."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from espalier.errors import InputError
from espalier.models.shapes import Shapes


def target_shapes(
    parent: Shapes,
    *,
    layers: int | None = None,
    hidden: int | None = None,
    ffn: int | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
) -> Shapes:
    """The parent's shapes with some made smaller; None leaves one as it is.

    Each key-value head keeps the same number of query heads. `kv_heads` alone takes whole groups,
    `heads` alone thins every group.

    Raises:
        InputError: it cannot be reached by removing, or nothing would be removed.
    """
    if layers is not None:
        check_layers(layers, parent.layers)
    _check_at_most("HIDDEN", hidden, parent.hidden, "hidden channels")
    _check_at_most("FFN", ffn, parent.intermediate, "FFN neurons")
    _check_at_most("KV_HEADS", kv_heads, parent.kv_heads, "key-value heads")
    _check_at_most("HEADS", heads, parent.heads, "heads")
    queries, groups = _queries_a_group(parent, heads, kv_heads)
    target = replace(
        parent,
        layers=layers or parent.layers,
        hidden=hidden or parent.hidden,
        intermediate=ffn or parent.intermediate,
        heads=groups * queries,
        kv_heads=groups,
    )
    if target.hidden % target.heads:
        least = target.hidden // target.heads * target.heads
        raise InputError(
            f"HIDDEN={target.hidden} is not a multiple of the {target.heads} heads, which stock "
            f"transformers insists on; give HIDDEN={least or target.heads} or other HEADS."
        )
    if target == parent:
        raise InputError("nothing would be removed; give a size below the parent's.")
    return target


def sized(config: Mapping[str, Any], target: Shapes) -> dict[str, Any]:
    """A config.json with the sizes of `target`; head_dim is stated, not implied."""
    return dict(config) | {
        "num_hidden_layers": target.layers,
        "hidden_size": target.hidden,
        "intermediate_size": target.intermediate,
        "num_attention_heads": target.heads,
        "num_key_value_heads": target.kv_heads,
        "head_dim": target.head_dim,
    }


def with_kv_heads(shapes: Shapes, least: int) -> Iterator[Shapes]:
    """The shapes with `least` key-value heads and more, whole groups, that stock models may have.

    transformers 5 wants query heads that divide the hidden width, whichever version is installed
    here; a model whose heads do not is left as it is.
    """
    group, free = shapes.heads // shapes.kv_heads, shapes.hidden % shapes.heads
    for kv_heads in range(least, shapes.kv_heads + 1):
        if free or not shapes.hidden % (kv_heads * group):
            yield replace(shapes, heads=kv_heads * group, kv_heads=kv_heads)


def same_share(kv_heads: int, neurons: int, sparsity: float) -> tuple[int, int]:
    """Key-value heads and neurons that make up the share `sparsity` of a layer's, rounded down.

    Raises:
        InputError: it is less than one of either.
    """
    counts = int(sparsity * kv_heads), int(sparsity * neurons)
    if not any(counts):
        raise InputError(
            f"SPARSITY={sparsity:g} of {kv_heads} key-value heads and of {neurons} neurons is less "
            "than one of either: nothing would be removed; give more."
        )
    return counts


def check_layers(left: int, layers: int) -> int:
    """`left` where so many of `layers` can be left.

    Raises:
        InputError: none would be left, or none removed.
    """
    if not 0 < left < layers:
        raise InputError(
            f"LAYERS={left} layers cannot be left of {layers} by removing some; give 1 to "
            f"{layers - 1}."
        )
    return left


def _queries_a_group(parent: Shapes, heads: int | None, kv_heads: int | None) -> tuple[int, int]:
    """Query heads of each group, and the number of groups."""
    groups, most = kv_heads or parent.kv_heads, parent.heads // parent.kv_heads
    if heads is None:
        return most, groups
    if heads % groups:
        raise InputError(
            f"HEADS={heads} is not divisible by KV_HEADS={groups}: every key-value head keeps the "
            f"same number of query heads; give HEADS={max(heads // groups, 1) * groups} or "
            "other KV_HEADS."
        )
    if heads // groups > most:
        raise InputError(
            f"HEADS={heads} over KV_HEADS={groups} is {heads // groups} query heads a group and "
            f"the parent has {most}; give HEADS={most * groups} or less."
        )
    return heads // groups, groups


def _check_at_most(name: str, value: int | None, most: int, what: str) -> None:
    if value is not None and value > most:
        raise InputError(f"{name}={value} is above the parent's {most} {what}; give fewer.")
