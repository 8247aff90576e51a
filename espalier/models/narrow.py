"""A padded model's layers in their true widths: which heads and neurons of each are left.

Two forms hold them. `layers` has every layer's own widths, which our loader reads. `block-configs`
is that of Nemotron-NAS (config.json's `block_configs`, `DeciLMForCausalLM`), which vLLM, SGLang,
TensorRT-LLM and llama.cpp read: there the number of query heads is the same in all layers and
neurons come in multiples of 256, so that some padding stays. Needs no torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from espalier.contract.pruned import Padded, PaddedAxis, PaddedLayer
from espalier.errors import InputError

Form = Literal["layers", "block-configs"]
COMPACT = "espalier-compact"
"""`model_type` of the first form, which no stock loader has."""
NEMOTRON = "nemotron-nas"
NEURONS = 256
"""What loaders of `block_configs` round a layer's neurons up to."""


@dataclass(frozen=True)
class Narrowed:
    """One layer, as indices into its padded axes.

    Attributes:
        heads: query heads; those of one key-value head stand together, and are equally many.
        kv_heads: key-value heads, in the order of their query heads.
        neurons: of the FFN.
    """

    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    neurons: tuple[int, ...]

    @property
    def widths(self) -> "Widths":
        """How many there are."""
        return Widths(len(self.heads), len(self.kv_heads), len(self.neurons))


@dataclass(frozen=True)
class Widths:
    """A layer's sizes; 0 heads: it has no attention, 0 neurons: no FFN."""

    heads: int
    kv_heads: int
    neurons: int


def narrowed(account: Padded, form: Form) -> tuple[Narrowed, ...]:
    """What of each layer the form has to hold, as little padding as it allows.

    Raises:
        InputError: the form cannot hold the layers.
    """
    narrow = _own if form == "layers" else _nemotron
    return tuple(narrow(layer, account) for layer in account.layers)


def _own(layer: PaddedLayer, account: Padded) -> Narrowed:
    """Query heads of padding stay only where the key-value heads have unequally many."""
    groups = [_group(head, account) for head in _true(layer, "kv_heads", account)]
    size = max((len(_without(layer, group)) for group in groups), default=0)
    heads = [head for group in groups for head in _filled(layer, group, size)]
    kept = _true(layer, "kv_heads", account) if size else ()
    return Narrowed(tuple(heads), tuple(kept), tuple(_true(layer, "intermediate", account)))


def _nemotron(layer: PaddedLayer, account: Padded) -> Narrowed:
    """All query heads, over as few key-value heads as divide them; neurons in whole blocks."""
    neurons = _true(layer, "intermediate", account)
    more = -len(neurons) % NEURONS
    spare = sorted({*range(account.after.intermediate)} - {*neurons})
    if more > len(spare):
        raise InputError(
            f"a layer's {len(neurons)} neurons are {len(neurons) + more} in block_configs, which "
            f"holds multiples of {NEURONS}, and the model has {account.after.intermediate}; use "
            "FORM=layers."
        )
    heads, kv_heads = _all_heads(layer, account)
    return Narrowed(heads, kv_heads, tuple(sorted((*neurons, *spare[:more]))))


def _all_heads(layer: PaddedLayer, account: Padded) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Every query head, by the key-value heads that are left: padding fills up their groups."""
    heads, kept = account.after.heads, _true(layer, "kv_heads", account)
    if not any(_without(layer, _group(head, account)) for head in kept):
        return (), ()
    count = next(n for n in range(len(kept), account.after.kv_heads + 1) if heads % n == 0)
    others = [head for head in range(account.after.kv_heads) if head not in kept]
    chosen = sorted((*kept, *others[: count - len(kept)]))
    fillers = iter([q for head in others if head not in chosen for q in _group(head, account)])
    more = heads // count - heads // account.after.kv_heads
    order = [q for head in chosen for q in (*_group(head, account), *islice(fillers, more))]
    return tuple(order), tuple(chosen)


def _true(layer: PaddedLayer, axis: PaddedAxis, account: Padded) -> list[int]:
    return list(layer.true_places(axis, getattr(account.after, axis)))


def _group(kv_head: int, account: Padded) -> range:
    """The query heads that read a key-value head."""
    size = account.after.heads // account.after.kv_heads
    return range(kv_head * size, (kv_head + 1) * size)


def _without(layer: PaddedLayer, heads: Iterable[int]) -> list[int]:
    return [head for head in heads if not layer.is_padding("heads", head)]


def _filled(layer: PaddedLayer, group: range, size: int) -> list[int]:
    """The group's heads that are no padding, and of the others as many as `size` lacks."""
    true = _without(layer, group)
    padding = [head for head in group if head not in true]
    return sorted(true + padding[: size - len(true)])


def narrow_config(
    config: Mapping[str, Any], layers: Sequence[Narrowed], form: Form
) -> dict[str, Any]:
    """config.json of a form, from the padded model's.

    Raises:
        InputError: the form is not for models of this family.
    """
    if form == "layers":
        widths = [vars(layer.widths) for layer in layers]
        return {**config, "model_type": COMPACT, "architectures": [COMPACT], "layers": widths}
    if config["model_type"] != "llama":
        raise InputError(
            f"block_configs is a form of Llama's layers, and this is {config['model_type']}; use "
            "FORM=layers."
        )
    blocks = [_block(layer.widths, int(config["hidden_size"])) for layer in layers]
    return {
        **{key: value for key, value in config.items() if key != "intermediate_size"},
        "model_type": NEMOTRON,
        "architectures": ["DeciLMForCausalLM"],
        "num_key_value_heads": None,
        "block_configs": blocks,
    }


def _block(widths: Widths, hidden: int) -> dict[str, Any]:
    attention: dict[str, Any] = {"no_op": not widths.heads, "replace_with_linear": False}
    ffn: dict[str, Any] = {"no_op": not widths.neurons, "replace_with_linear": False}
    attention["n_heads_in_group"] = widths.heads // widths.kv_heads if widths.heads else None
    # Loaders take int(2 * ffn_mult * hidden / 3), and round that up.
    ffn["ffn_mult"] = 3 * widths.neurons / (2 * hidden) if widths.neurons else None
    return {"attention": attention, "ffn": ffn}


def is_compact(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of one of the forms."""
    return config.get("model_type") in (COMPACT, NEMOTRON)


def widths_of(config: Mapping[str, Any]) -> tuple[Widths, ...]:
    """Each layer's sizes, as a loader of the form reads them.

    Raises:
        InputError: config.json is of no form that is known.
    """
    try:
        if config.get("model_type") == COMPACT:
            return tuple(Widths(**layer) for layer in config["layers"])
        return tuple(_read_block(block, config) for block in config["block_configs"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"config.json does not say how wide each layer is ({error!r}).") from None


def _read_block(block: Mapping[str, Any], config: Mapping[str, Any]) -> Widths:
    attention, ffn = block["attention"], block["ffn"]
    if attention.get("replace_with_linear") or ffn.get("replace_with_linear"):
        raise ValueError("replace_with_linear")
    heads = 0 if attention["no_op"] else int(config["num_attention_heads"])
    kv_heads = heads // int(attention["n_heads_in_group"]) if heads else 0
    neurons = 0 if ffn["no_op"] else int(2 * ffn["ffn_mult"] * config["hidden_size"] / 3)
    return Widths(heads, kv_heads, neurons + -neurons % NEURONS)
