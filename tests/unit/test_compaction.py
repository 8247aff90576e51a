"""Padded layers in their true widths: the same logits, and the same bits on the way back."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espalier.contract.manifest import pruning_of
from espalier.contract.progress import Progress
from espalier.contract.pruned import Foreign, Padded, PaddedAxis, PaddedLayer, Sizes
from espalier.contract.stage import StageContext
from espalier.errors import InputError
from espalier.models.compact import load_compact
from espalier.models.loading import load_stock
from espalier.models.narrow import Form, narrowed, widths_of
from tests.contract.command import tree
from tests.manifests import mark_pruned
from tests.tiny import tiny_llama
from tests.unit.tiny_checkpoints import load_all, rewrite
from training.compaction import compact, pad
from training.compaction.spec import CompactParameters, PadParameters

HEADS, KV_HEADS, NEURONS, HEAD_DIM = 8, 4, 512, 8
SIZES = Sizes(layers=1, hidden=32, intermediate=NEURONS, heads=HEADS, kv_heads=KV_HEADS)
ALL: dict[PaddedAxis, int] = {"heads": HEADS, "kv_heads": KV_HEADS, "intermediate": NEURONS}


def account_of(*padding: Mapping[PaddedAxis, tuple[tuple[int, int], ...]]) -> Padded:
    """What the padding leaves, layer by layer."""
    layers = []
    for ranges in padding:
        left = {
            axis: size - sum(end - first for first, end in ranges.get(axis, ()))
            for axis, size in ALL.items()
        }
        layers.append(PaddedLayer(**left, padding=dict(ranges)))
    sizes = SIZES.model_copy(update={"layers": len(layers)})
    return Padded(before=sizes, after=sizes, achieved=0.3, layers=tuple(layers))


WHOLE: dict[PaddedAxis, tuple[tuple[int, int], ...]] = {}
KINDS = account_of(
    WHOLE,
    {"intermediate": ((10, 300),)},
    {"heads": ((0, 2), (5, 6)), "kv_heads": ((0, 1),)},  # groups of 2, 1 and 2
    {"heads": ((2, 8),), "kv_heads": ((1, 4),), "intermediate": ((0, 509),)},
    {"heads": ((0, 8),), "kv_heads": ((0, 4),)},  # no attention
    {"intermediate": ((0, 512),)},  # no FFN
)


def padded_llama(directory: Path, account: Padded, **changes: Any) -> Path:
    """A Llama with biases, whose entries of padding are zero."""
    shape: dict[str, Any] = {
        "num_hidden_layers": account.after.layers, "intermediate_size": NEURONS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
        "attention_bias": True, "mlp_bias": True,
    }  # fmt: skip
    tiny_llama(directory, initializer_range=0.3, **(shape | changes))
    weights = load_all(directory)
    zeroed = {}
    for number, layer in enumerate(account.layers):
        for part, axis, size in (
            ("self_attn.q_proj", "heads", HEAD_DIM), ("self_attn.k_proj", "kv_heads", HEAD_DIM),
            ("self_attn.v_proj", "kv_heads", HEAD_DIM), ("mlp.gate_proj", "intermediate", 1),
            ("mlp.up_proj", "intermediate", 1),
        ):  # fmt: skip
            for kind in ("weight", "bias"):
                name = f"model.layers.{number}.{part}.{kind}"
                if name in weights:
                    zeroed[name] = weights[name].clone()
                    for first, end in layer.padding.get(axis, ()):  # type: ignore[call-overload]
                        zeroed[name][first * size : end * size] = 0
        for part, axis, size in (
            ("self_attn.o_proj", "heads", HEAD_DIM), ("mlp.down_proj", "intermediate", 1),
        ):  # fmt: skip
            name = f"model.layers.{number}.{part}.weight"
            zeroed[name] = weights[name].clone()
            for first, end in layer.padding.get(axis, ()):  # type: ignore[call-overload]
                zeroed[name][:, first * size : end * size] = 0
    rewrite(directory, **{name.replace(".", "__"): tensor for name, tensor in zeroed.items()})
    mark_pruned(directory, account)
    return directory


def stage(output: Path, **inputs: Path) -> StageContext:
    for folder in (output, scratch := output.parent / f"{output.name}-scratch"):
        folder.mkdir()
    return StageContext(inputs, output, scratch, "cpu", Progress())


def compacted(model: Path, output: Path, form: Form) -> Foreign:
    """What the stage writes, and says of it."""
    done = compact.run(stage(output, model=model), CompactParameters(form=form, seqlen=12))
    assert isinstance(done.pruning, Foreign)
    mark_pruned(output, done.pruning)
    return done.pruning


FORMS: tuple[Form, ...] = ("layers", "block-configs")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tied", [False, True])
def test_the_logits_are_the_padded_models_and_the_bits_come_back(
    tmp_path: Path, form: Form, tied: bool
) -> None:
    bias = form == "layers"  # o_proj has none in block_configs' attention that is left out
    model = padded_llama(
        tmp_path / "model", KINDS, tie_word_embeddings=tied, attention_bias=bias, mlp_bias=bias
    )
    compacted(model, tmp_path / "compact", form)
    ids = torch.arange(1, 21)[None]
    with torch.inference_mode():
        stock, ours = load_stock(model)(ids).logits, load_compact(tmp_path / "compact")(ids).logits
    assert torch.allclose(stock, ours, rtol=0, atol=1e-5 * float(stock.abs().max()))
    back = pad.run(stage(tmp_path / "back", compact=tmp_path / "compact"), PadParameters())
    assert back.pruning == pruning_of(model)
    before, after = load_all(model), load_all(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    configs = [tree(folder)["config.json"] for folder in (model, tmp_path / "back")]
    assert configs[0] == configs[1]


def test_nothing_is_stored_that_is_padding(tmp_path: Path) -> None:
    model = padded_llama(tmp_path / "model", KINDS)
    compacted(model, tmp_path / "compact", "layers")
    stored = load_all(tmp_path / "compact")
    shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    assert shapes["model.layers.1.mlp.up_proj.weight"] == (222, 32)
    assert shapes["model.layers.2.self_attn.q_proj.weight"] == (6 * HEAD_DIM, 32)  # 3 groups of 2
    assert shapes["model.layers.3.self_attn.k_proj.bias"] == (HEAD_DIM,)
    assert shapes["model.layers.3.mlp.down_proj.weight"] == (32, 3)
    assert "model.layers.4.self_attn.q_proj.weight" not in shapes
    assert "model.layers.4.self_attn.o_proj.bias" in shapes  # it is added all the same
    assert "model.layers.5.mlp.up_proj.weight" not in shapes
    sizes = compact.size_of(tmp_path / "compact")
    assert sizes["parameters"] == sum(math.prod(shape) for shape in shapes.values())


def test_blocks_as_loaders_of_nemotron_read_them(tmp_path: Path) -> None:
    model = padded_llama(tmp_path / "model", KINDS, attention_bias=False, mlp_bias=False)
    compacted(model, tmp_path / "compact", "block-configs")
    config = json.loads((tmp_path / "compact" / "config.json").read_text())
    assert config["architectures"] == ["DeciLMForCausalLM"]
    blocks = config["block_configs"]
    assert [block["attention"]["no_op"] for block in blocks] == [0, 0, 0, 0, 1, 0]
    assert [block["attention"]["n_heads_in_group"] for block in blocks] == [2, 2, 2, 8, None, 2]
    assert [block["ffn"]["no_op"] for block in blocks] == [0, 0, 0, 0, 0, 1]
    for block, neurons in zip(blocks[:5], (512, 256, 512, 256, 512), strict=True):
        half_made = int(2 * round(block["ffn"]["ffn_mult"], 6) * 32 / 3)  # some round it
        assert 256 * math.ceil(half_made / 256) == neurons
    assert [widths.heads for widths in widths_of(config)] == [8, 8, 8, 8, 0, 8]


def test_what_a_form_cannot_hold(tmp_path: Path) -> None:
    plain = tiny_llama(tmp_path / "plain")
    with pytest.raises(InputError, match="plain is not padded"):
        compact.run(stage(tmp_path / "a", model=plain), CompactParameters())
    odd = KINDS.after.model_copy(update={"intermediate": 300})
    layers = (
        PaddedLayer(heads=8, kv_heads=4, intermediate=299, padding={"intermediate": ((0, 1),)}),
    )
    account = Padded(
        before=odd, after=odd.model_copy(update={"layers": 1}), achieved=0.1, layers=layers
    )
    with pytest.raises(InputError, match=r"299 neurons are 512 in block_configs.*use FORM=layers"):
        narrowed(account, "block-configs")
    with pytest.raises(InputError, match="is not compact"):
        pad.run(stage(tmp_path / "b", compact=plain), PadParameters())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_each_head_that_is_left_reads_its_own_key_value_head(data: st.DataObject) -> None:
    padding_kv = data.draw(st.sets(st.integers(0, KV_HEADS - 1)))
    size = HEADS // KV_HEADS
    padding_heads = data.draw(st.sets(st.integers(0, HEADS - 1)))
    padding_heads |= {head for kv in padding_kv for head in range(kv * size, (kv + 1) * size)}
    account = account_of(
        {
            "heads": tuple((head, head + 1) for head in sorted(padding_heads)),
            "kv_heads": tuple((head, head + 1) for head in sorted(padding_kv)),
        }
    )
    for form in FORMS:
        (layer,) = narrowed(account, form)
        assert {*range(HEADS)} - padding_heads <= {*layer.heads}
        assert len({*layer.heads}) == len(layer.heads)
        group = len(layer.heads) // len(layer.kv_heads) if layer.kv_heads else 0
        assert group * len(layer.kv_heads) == len(layer.heads)
        for place, head in enumerate(layer.heads):
            if head not in padding_heads:
                assert layer.kv_heads[place // group] == head // size
        if form == "block-configs":
            assert len(layer.heads) in (0, HEADS)
