"""Streamed layers give what the stock whole model gives, in every family."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from espalier.errors import InputError
from espalier.models.adapter import Architecture
from espalier.models.checkpoint.reader import CheckpointReader
from espalier.models.products import FLOAT32_ROUNDED, products
from espalier.models.shapes import Shapes, read_config
from tests.unit.tiny_checkpoints import make_checkpoint, make_ids, rewrite

pytestmark = pytest.mark.every_image

LLAMA31 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("Llama", {}),
    ("Llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    ("Llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 16}),
    ("Llama", {"rope_scaling": LLAMA31, "rope_theta": 500000.0}),
    ("Mistral", {"sliding_window": None}),
    ("Mistral", {"sliding_window": 8, "head_dim": 16}),
    ("Qwen2", {"tie_word_embeddings": True}),
    ("Qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}),
    ("Qwen3", {"head_dim": 16}),
]


def streamed_logits(directory: Path, ids: Any, dtype: Any = torch.float32) -> Any:
    architecture, reader = Architecture.of(directory), CheckpointReader(directory)
    architecture.check(reader)
    hidden = architecture.embed(reader, ids, dtype)
    positions = architecture.positions(ids.shape[1], dtype)
    for i in range(architecture.num_layers):
        layer = architecture.load_layer(reader, i, dtype)
        hidden = architecture.run_layer(layer, i, hidden, positions)
    return architecture.logits(reader, architecture.final_norm(reader, dtype)(hidden))


@pytest.mark.parametrize(("family", "settings"), CASES)
def test_streamed_forward_equals_the_whole_model(
    tmp_path: Path, family: str, settings: dict[str, Any]
) -> None:
    if not hasattr(transformers, f"{family}Config"):
        pytest.skip(f"transformers {transformers.__version__} has no {family}")
    model, ids = make_checkpoint(tmp_path, family, **settings), make_ids()
    with torch.no_grad():
        torch.testing.assert_close(streamed_logits(tmp_path, ids), model(ids).logits)


def test_bfloat16_and_its_float32_products(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, dtype=torch.bfloat16)
    model, ids = (
        transformers.LlamaForCausalLM.from_pretrained(tmp_path, torch_dtype="auto"),
        make_ids(),
    )
    with torch.no_grad():
        whole = model(ids).logits
        torch.testing.assert_close(streamed_logits(tmp_path, ids, torch.bfloat16), whole)
        with products(FLOAT32_ROUNDED):
            rounded = streamed_logits(tmp_path, ids, torch.bfloat16)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded, whole, atol=2e-2, rtol=2e-2)


def test_rotary_settings_of_transformers_4_and_5_mean_the_same(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    raw = read_config(tmp_path)
    for key in ("rope_parameters", "rope_theta", "rope_scaling"):
        raw.pop(key, None)
    old = Architecture(raw | {"rope_theta": 5e5, "rope_scaling": LLAMA31})
    new = Architecture(raw | {"rope_parameters": LLAMA31 | {"rope_theta": 5e5}})
    plain = Architecture(raw | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}})
    tables = [a.positions(40, torch.float32).embeddings for a in (old, new, plain)]
    assert all(torch.equal(a, b) for a, b in zip(tables[0], tables[1], strict=True))
    assert not torch.equal(tables[0][0], tables[2][0])


def test_shapes_need_no_stock_model(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, "Llama", head_dim=16)
    shapes = Shapes.of(read_config(tmp_path))
    expected = Architecture.of(tmp_path).expected_shapes()
    for name, shape in shapes.matrices.items():
        assert expected[f"model.layers.0.{name}.weight"] == shape


def test_unknown_family_names_those_supported() -> None:
    with pytest.raises(InputError, match=r"gpt2 is not supported.*llama, mistral, qwen2, qwen3"):
        Architecture({"model_type": "gpt2"})


def test_quantized_checkpoint_is_refused() -> None:
    with pytest.raises(InputError, match="quantized"):
        Architecture({"model_type": "llama", "quantization_config": {"bits": 4}})


def test_config_that_transformers_refuses(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    with pytest.raises(InputError, match="refused by transformers"):
        Architecture(read_config(tmp_path) | {"hidden_act": "no such"})


def test_missing_tensor(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    rewrite(tmp_path, model__layers__1__mlp__up_proj__weight=None)
    with pytest.raises(InputError, match=r"lacks the tensor model\.layers\.1\.mlp\.up_proj"):
        Architecture.of(tmp_path).check(CheckpointReader(tmp_path))


def test_shape_that_disagrees_with_the_config(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    rewrite(tmp_path, model__norm__weight=torch.ones(31))
    with pytest.raises(InputError, match=r"model\.norm\.weight has shape \[31\]"):
        Architecture.of(tmp_path).check(CheckpointReader(tmp_path))


def test_unknown_tensor_and_obsolete_buffer(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    rewrite(tmp_path, model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(4))
    Architecture.of(tmp_path).check(CheckpointReader(tmp_path))
    rewrite(tmp_path, model__layers__0__sparse_mask=torch.ones(4))
    with pytest.raises(InputError, match="sparse_mask"):
        Architecture.of(tmp_path).check(CheckpointReader(tmp_path))


def test_weights_of_another_kind(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    rewrite(tmp_path, model__norm__weight=torch.ones(32, dtype=torch.int8))
    with pytest.raises(InputError, match="stored as I8"):
        Architecture.of(tmp_path).check(CheckpointReader(tmp_path))
