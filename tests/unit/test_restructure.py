"""Checkpoints without some layers, channels, neurons and heads, against the stock models."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from espalier.contract.progress import Progress
from espalier.errors import InputError
from espalier.models.checkpoint.shards import ShardWriter
from espalier.models.gates import check_checkpoint
from espalier.models.shapes import Shapes, read_config
from espalier.pruning.structured.record import uniform
from espalier.pruning.structured.restructure import Selection, restructure, restructured_config
from tests.unit.tiny_checkpoints import load_all, make_checkpoint, make_ids

FAMILIES = [
    ("Llama", {}),
    ("Llama", {"tie_word_embeddings": True}),
    ("Llama", {"attention_bias": True, "mlp_bias": True}),
    ("Mistral", {"sliding_window": 8}),
    ("Qwen2", {}),
]
pytestmark = pytest.mark.every_image


def cut(parent: Path, output: Path, kept: Selection, **sizes: int) -> Any:
    """The stock model of what is left."""
    output.mkdir()
    before = Shapes.of(read_config(parent))
    after = replace(before, **sizes)
    restructure(parent, output, kept, after, Progress())
    check_checkpoint(output, pruning=uniform(before, after, kept))
    return AutoModelForCausalLM.from_pretrained(output, torch_dtype="auto").eval()


def logits(model: Any, ids: Tensor) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model(ids).logits
    return found


@pytest.mark.parametrize(("family", "settings"), FAMILIES)
def test_without_layers(tmp_path: Path, family: str, settings: dict[str, Any]) -> None:
    stock = make_checkpoint(tmp_path / "parent", family, num_hidden_layers=4, **settings)
    model = cut(tmp_path / "parent", tmp_path / "out", Selection([0, 3]), layers=2)
    stock.model.layers = torch.nn.ModuleList([stock.model.layers[i] for i in (0, 3)])
    for index, layer in enumerate(stock.model.layers):
        layer.self_attn.layer_idx = index
    stock.model.config.num_hidden_layers = 2
    ids = make_ids()
    torch.testing.assert_close(logits(model, ids), logits(stock, ids))
    generated = model.generate(ids[:1, :5], max_new_tokens=8, do_sample=False, pad_token_id=0)
    uncached = model.generate(
        ids[:1, :5], max_new_tokens=8, do_sample=False, pad_token_id=0, use_cache=False
    )
    assert torch.equal(generated, uncached)
    assert model.config.num_hidden_layers == 2
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1]


@pytest.mark.parametrize(("family", "settings"), FAMILIES)
def test_in_another_order_the_logits_are_the_same(
    tmp_path: Path, family: str, settings: dict[str, Any]
) -> None:
    """Channels, neurons and whole groups of heads can be written in any order."""
    stock = make_checkpoint(tmp_path / "parent", family, **settings)
    draw = torch.Generator().manual_seed(0)

    def shuffled(count: int) -> list[int]:
        return torch.randperm(count, generator=draw).tolist()

    kept = Selection(
        [0, 1],
        shuffled(32),
        {layer: shuffled(44) for layer in range(2)},
        {0: [3, 2, 0, 1], 1: [1, 0, 2, 3]},  # two query heads a group
        {0: [1, 0], 1: [0, 1]},
    )
    model = cut(tmp_path / "parent", tmp_path / "out", kept)
    ids = make_ids()
    torch.testing.assert_close(logits(model, ids), logits(stock, ids), atol=1e-5, rtol=1e-4)


def test_neurons_and_heads_that_are_gone_add_nothing(tmp_path: Path) -> None:
    """Removing equals zeroing what the rest of the layer reads of them."""
    stock = make_checkpoint(tmp_path / "parent")
    neurons, heads, groups = [5, 1, 40, 17], [3, 2], [1]
    kept = Selection(
        [0, 1], None, dict.fromkeys(range(2), neurons), dict.fromkeys(range(2), heads),
        dict.fromkeys(range(2), groups),
    )  # fmt: skip
    model = cut(tmp_path / "parent", tmp_path / "out", kept, intermediate=4, heads=2, kv_heads=1)
    with torch.no_grad():
        for layer in stock.model.layers:
            gone = [n for n in range(44) if n not in neurons]
            layer.mlp.down_proj.weight[:, gone] = 0
            layer.self_attn.o_proj.weight[:, :16] = 0  # heads 0 and 1, 8 wide
    ids = make_ids()
    torch.testing.assert_close(logits(model, ids), logits(stock, ids), atol=1e-5, rtol=1e-4)
    assert (model.config.head_dim, model.config.hidden_size) == (8, 32)


def test_hidden_channels_by_hand(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "parent", dtype=torch.bfloat16)
    chosen = [7, 3, 30, 0, 11, 31, 4, 19]
    before, kept = load_all(tmp_path / "parent"), Selection([1], chosen)
    model = cut(tmp_path / "parent", tmp_path / "out", kept, layers=1, hidden=8)
    after = load_all(tmp_path / "out")
    rows = ("o_proj.weight", "down_proj.weight", "norm.weight")
    for name, tensor in after.items():
        source = before[name.replace("layers.0.", "layers.1.")]
        expected = source[chosen] if name.endswith(rows) else source[:, chosen]
        assert torch.equal(tensor, expected), name
        assert tensor.dtype == torch.bfloat16
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["hidden_size"], config["head_dim"], config["num_attention_heads"]) == (8, 8, 4)
    assert torch.isfinite(logits(model, make_ids())).all()


def test_what_a_killed_run_wrote_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written twice, and the result is that of one run."""
    make_checkpoint(tmp_path / "parent", num_hidden_layers=3)
    cut(tmp_path / "parent", tmp_path / "once", Selection([0, 2]), layers=2)
    (tmp_path / "again").mkdir()
    target = replace(Shapes.of(read_config(tmp_path / "parent")), layers=2)
    put, names = ShardWriter._put, []

    def killed(self: ShardWriter, descriptor: int, shard: Any, name: str, blocks: Any) -> None:
        if len(names) == 12:  # in the second layer
            raise KeyboardInterrupt
        names.append(name)
        put(self, descriptor, shard, name, blocks)

    def counted(self: ShardWriter, descriptor: int, shard: Any, name: str, blocks: Any) -> None:
        names.append(name)
        put(self, descriptor, shard, name, blocks)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ShardWriter, "_put", killed)
        restructure(tmp_path / "parent", tmp_path / "again", Selection([0, 2]), target, Progress())
    assert not (tmp_path / "again" / "model.safetensors").exists()
    names = [name for name in names if ".layers.0." in name]
    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "_put", counted)
        restructure(tmp_path / "parent", tmp_path / "again", Selection([0, 2]), target, Progress())
    assert len(names) == len(set(names)) == len(load_all(tmp_path / "once"))
    for file in sorted((tmp_path / "once").iterdir()):
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_lists_of_the_config_follow_the_layers() -> None:
    config = {
        "model_type": "qwen2",
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "max_window_layers": 2,
    }
    target = Shapes.of(
        {**config, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
         "num_attention_heads": 2, "vocab_size": 8}
    )  # fmt: skip
    changed = restructured_config(config, [1, 2], target)
    assert changed["layer_types"] == ["sliding_attention", "full_attention"]
    assert changed["max_window_layers"] == 1


def test_a_gate_that_sees_another_shape_than_aimed_at(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "parent")
    shapes = Shapes.of(read_config(tmp_path / "parent"))
    pruning = uniform(shapes, replace(shapes, layers=1), Selection([0]))
    with pytest.raises(InputError, match="has 2 layers but the target was 1"):
        check_checkpoint(tmp_path / "parent", pruning=pruning)


def test_damaged_weights_are_not_copied(tmp_path: Path) -> None:
    stock = make_checkpoint(tmp_path / "parent")
    with torch.no_grad():
        stock.model.layers[1].mlp.up_proj.weight[3, 3] = torch.nan
    stock.save_pretrained(tmp_path / "parent")
    with pytest.raises(InputError, match=r"layers\.1\.mlp\.up_proj\.weight holds NaN"):
        cut(tmp_path / "parent", tmp_path / "out", Selection([0, 1], list(range(28))), hidden=28)
