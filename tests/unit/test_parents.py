"""Models that no stage should start from are refused before it begins; others go on working.

The checks are made of the tensors: config.json is a label.
"""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from espalier.contract.discovery import stage_named, stages
from espalier.contract.manifest import recorded_checks
from espalier.contract.pattern import Pattern
from espalier.contract.progress import Progress
from espalier.contract.store import Store
from espalier.errors import InputError
from espalier.host.commands.planning import known
from espalier.models import agreement
from espalier.models.checkpoint.locate import locate
from espalier.models.content import check_content, config_as_stored, dtype_note, stated_dtype
from espalier.models.decoder import Decoder
from espalier.models.gates import check_checkpoint, check_parent
from espalier.models.given import check_models
from espalier.models.loading import load_stock
from espalier.models.shapes import Shapes, read_config
from espalier.pruning.masked.stream import PruningJob, prune_checkpoint
from espalier.pruning.structured.record import uniform
from espalier.pruning.structured.restructure import Selection, restructure
from methods.magnitude.algorithm import Magnitude
from tests.unit.tiny_checkpoints import load_all, make_checkpoint, make_context, rewrite

Tensors = dict[str, torch.Tensor]
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def made(directory: Path, change: Callable[[Tensors], Tensors] = dict, **settings: Any) -> Path:
    """A tiny model whose tensors are changed and whose config.json then states `settings`."""
    make_checkpoint(directory, tie_word_embeddings=settings.pop("tied", False))
    save_file(change(load_all(directory)), directory / "model.safetensors", {"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | settings))
    return directory


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def without(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {n: t for n, t in tensors.items() if n not in names}


def having(**more: torch.Tensor) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {n.replace("__", "."): t for n, t in more.items()}


def matrices(convert: Callable[[str, torch.Tensor], Tensors]) -> Callable[[Tensors], Tensors]:
    """Each layer's matrix as something else stores it."""

    def change(tensors: Tensors) -> Tensors:
        changed: Tensors = {}
        for name, tensor in tensors.items():
            changed |= convert(name, tensor) if "proj.weight" in name else {name: tensor}
        return changed

    return change


def gptq(name: str, weight: torch.Tensor) -> Tensors:
    stem = name.removesuffix("weight")
    packed = torch.zeros(weight.shape[1] // 4, weight.shape[0], dtype=torch.int32)
    scales = torch.ones(1, weight.shape[0], dtype=torch.float16)
    return {stem + "qweight": packed, stem + "scales": scales, stem + "qzeros": packed[:1].clone()}


def bitsandbytes(name: str, weight: torch.Tensor) -> Tensors:
    packed = torch.zeros(weight.numel() // 2, 1, dtype=torch.uint8)
    return {name: packed, name + ".absmax": torch.ones(4), name + ".quant_map": torch.ones(16)}


def packed(name: str, weight: torch.Tensor) -> Tensors:
    stem = name.removesuffix("weight")
    values = torch.zeros(weight.shape[0], 4, dtype=torch.int32)
    return {stem + "weight_packed": values, stem + "weight_scale": torch.ones(1)}


def as_float8(name: str, weight: torch.Tensor) -> Tensors:
    return {name: weight.to(torch.float8_e4m3fn)}


def as_integers(name: str, weight: torch.Tensor) -> Tensors:
    return {name: weight.to(torch.int8)}


def scaled(name: str, weight: torch.Tensor) -> Tensors:
    """Looks like plain weights but for what lies beside them."""
    return {name: weight, name.removesuffix("weight") + "weight_scale_inv": torch.ones(1)}


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "compiled": (lambda p: made(p, prefixed("_orig_mod.")), r"torch\.compile gives"),
    "peft": (lambda p: made(p, prefixed("base_model.model.")), "merge the adapter"),
    "adapter": (
        lambda p: made(p, having(model__layers__0__mlp__up_proj__lora_A__weight=torch.ones(1, 32))),
        "an adapter that is not merged",
    ),
    "data-parallel": (lambda p: made(p, prefixed("module.")), "data-parallel training"),
    "fsdp": (lambda p: made(p, prefixed("_fsdp_wrapped_module.")), "whole state dictionary"),
    "no head": (lambda p: made(p, without(HEAD)), "the head would be random"),
    "another head": (
        lambda p: made(p, tie_word_embeddings=True),
        "these are two models; set tie_word_embeddings to false",
    ),
    "gptq": (lambda p: made(p, matrices(gptq)), "is quantized"),
    "bitsandbytes": (lambda p: made(p, matrices(bitsandbytes)), "quantized .bitsandbytes"),
    "packed": (lambda p: made(p, matrices(packed)), "quantized .compressed-tensors"),
    "fp8": (lambda p: made(p, matrices(as_float8)), "stored as F8_E4M3"),
    "int8": (lambda p: made(p, matrices(as_integers)), "stored as I8"),
    "scaled": (lambda p: made(p, matrices(scaled)), "quantized .fp8"),
    "says quantized": (
        lambda p: made(p, quantization_config={"quant_method": "awq"}),
        r"says config\.json .*\(awq\)",
    ),
}
STAGES = {
    stage.name: stage
    for stage in stages().values()
    if stage.verb in ("prune", "score", "train", "convert", "eval", "adopt")
    and {"model", "source"} & stage.inputs.keys()
}


@pytest.mark.parametrize("kind", REFUSED)
def test_every_stage_refuses_before_it_begins(kind: str, tmp_path: Path) -> None:
    make, sentence = REFUSED[kind]
    directory = make(tmp_path / "model")
    trainers = {"train-gpu", "train-tpu", "recover"}
    assert {"wanda", "shortgpt", *trainers, "to-maxtext", "eval"} < STAGES.keys()
    for stage in STAGES.values():
        for role in {"model", "teacher", "source"} & stage.inputs.keys():
            with pytest.raises(InputError, match=sentence):
                check_models(stage, {role: directory})
    with pytest.raises(InputError, match=sentence):
        load_stock(directory)


@pytest.mark.parametrize("kind", ["compiled", "no head", "another head", "gptq"])
@pytest.mark.parametrize("planned", ["plan-gpu", "plan-tpu"])
def test_a_plan_refuses_what_the_training_would(kind: str, planned: str, tmp_path: Path) -> None:
    make, sentence = REFUSED[kind]
    directory = make(tmp_path / "model")
    with pytest.raises(InputError, match=sentence):
        known(stage_named(planned), Store(tmp_path), str(directory))


def test_a_plan_takes_the_dtype_of_the_weights(tmp_path: Path) -> None:
    directory = SOUND["another dtype"](tmp_path / "model")
    found = known(stage_named("plan-gpu"), Store(tmp_path), str(directory))
    assert found.config["torch_dtype"] == found.config["dtype"] == "float32"


DAMAGED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nan at the end": (lambda p: made(p, nan_in("model.layers.1.mlp.down_proj.weight")), "NaN"),
    "nan in the head": (lambda p: made(p, nan_in(HEAD)), "NaN"),
    "nan in a rare row": (lambda p: made(p, nan_in(EMBEDDING)), "NaN"),
    "a loss that is none": (
        lambda p: made(p, having(model__norm__weight=torch.full((32,), 3e38))),
        "gives a loss of",
    ),
    "a layer too few": (lambda p: made(p, num_hidden_layers=3), r"lacks the tensor model\.layers"),
    "a layer too many": (lambda p: made(p, num_hidden_layers=1), r"holds model\.layers\.1"),
}


def nan_in(name: str) -> Callable[[Tensors], Tensors]:
    def change(tensors: Tensors) -> Tensors:
        tensors[name][-1, -1] = torch.nan
        return tensors

    return change


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_the_result_must_pass_the_parent_passes_first(kind: str, tmp_path: Path) -> None:
    make, sentence = DAMAGED[kind]
    directory = make(tmp_path / "model")
    for stage in STAGES.values():
        if stage.verb in ("prune", "score"):
            with pytest.raises(InputError, match=sentence):
                check_models(stage, {"model": directory})


SOUND: dict[str, Callable[[Path], Path]] = {
    "tied": lambda p: made(p, tied=True),
    "tied with an equal head": lambda p: made(
        p, lambda t: t | {HEAD: t[EMBEDDING].clone()}, tied=True
    ),
    "old tables": lambda p: made(
        p,
        having(
            model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(4),
            model__rotary_emb__inv_freq=torch.ones(4),
        ),
    ),
    "flash attention": lambda p: made(p, attn_implementation="flash_attention_2"),
    "flash attention, as saved": lambda p: made(p, _attn_implementation="flash_attention_2"),
    "other outputs": lambda p: made(p, output_hidden_states=True, return_dict=False),
    "another dtype": lambda p: made(p, torch_dtype="bfloat16", dtype="bfloat16"),
    "half says so otherwise": lambda p: made(p, torch_dtype="float16"),
}


@pytest.mark.parametrize("kind", SOUND)
def test_what_is_sound_goes_on_working(kind: str, tmp_path: Path) -> None:
    """Every kind of pruning ends in a result that passes the gates, of the weights' dtype."""
    parent = SOUND[kind](tmp_path / "model")
    for stage in STAGES.values():
        check_models(stage, {"model": parent})
    stock = load_stock(parent)
    assert stock.dtype == torch.float32
    assert stock.config._attn_implementation == "sdpa"
    assert stock(torch.arange(8)[None]).logits.isfinite().all()

    masked = make_context(parent, tmp_path / "masked")
    pruning = prune_checkpoint(
        masked, PruningJob(Magnitude(Pattern.parse("2:4")), Pattern.parse("2:4"), 0.5)
    )
    check_checkpoint(masked.output, pruning=pruning)

    shapes = Shapes.of(config_as_stored(parent))
    target, kept = Shapes(**{**vars(shapes), "layers": 1}), Selection([1])
    shorter = tmp_path / "shorter"
    shorter.mkdir()
    restructure(parent, shorter, kept, target, Progress())
    check_checkpoint(shorter, pruning=uniform(shapes, target, kept))
    for result in (masked.output, shorter):
        assert dtype_note(result) is None
        assert stated_dtype(read_config(result)) == "float32"


def test_a_dtype_that_is_only_stated_is_said(tmp_path: Path) -> None:
    parent = SOUND["another dtype"](tmp_path / "model")
    for name in ("magnitude", "shortgpt", "train-gpu", "to-maxtext", "eval"):
        _, notes = check_models(stage_named(name), {"model": parent})
        assert notes["model_dtype"].startswith("config.json states bfloat16 and the weights are fl")


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen2"])
def test_the_walk_gives_the_stock_models_logits(
    family: str, whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also past a sliding window, which the tokens then are longer than."""
    windowed = {"Mistral": {"sliding_window": 5}}.get(family, {})
    make_checkpoint(tmp_path, family, **windowed)
    monkeypatch.setattr(agreement, "WHOLE_BYTES", 1 << 30 if whole else 0)
    found = check_parent(tmp_path)["stock_logits"]
    assert found["max_difference"] <= 1e-5
    assert found["stock_model"].startswith("whole" if whole else "layer by layer")


@pytest.mark.parametrize("whole", [True, False])
def test_a_walk_that_is_another_model_is_refused(
    whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint(tmp_path)
    monkeypatch.setattr(agreement, "WHOLE_BYTES", 1 << 30 if whole else 0)
    run = Decoder._run

    def other(self: Decoder, module: Any, number: int, hidden: torch.Tensor) -> torch.Tensor:
        return run(self, module, number, hidden).roll(number, -1)

    monkeypatch.setattr(Decoder, "_run", other)
    with pytest.raises(InputError, match="from those of the stock model of transformers"):
        check_parent(tmp_path)


def test_a_parent_that_a_manifest_vouches_for_is_not_walked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint(tmp_path)
    record = check_checkpoint(tmp_path)

    def walked(*_: Any, **__: Any) -> None:
        raise AssertionError("walked again")

    monkeypatch.setattr("espalier.models.gates.compare_with_stock", walked)
    monkeypatch.setattr("espalier.models.gates.recorded_checks", lambda directory: record)
    assert check_parent(tmp_path) == {"stock_logits": record["stock_logits"]}
    monkeypatch.setattr("espalier.models.gates.recorded_checks", recorded_checks)
    with pytest.raises(AssertionError, match="walked again"):
        check_parent(tmp_path)


def test_heads_of_two_dtypes_are_compared_by_value(tmp_path: Path) -> None:
    def wide(tensors: Tensors) -> Tensors:
        narrow = tensors[EMBEDDING].to(torch.bfloat16)
        return tensors | {EMBEDDING: narrow, HEAD: narrow.float()}

    directory = made(tmp_path, wide, tie_word_embeddings=True)
    check_content(directory)
    head = load_all(directory)[HEAD]
    head[-1, -1] += 1
    rewrite(directory, lm_head__weight=head)
    with pytest.raises(InputError, match="two models"):
        check_content(directory)


@pytest.mark.parametrize("nested", [True, False])
def test_a_nested_config_ties_its_own_text_model(nested: bool, tmp_path: Path) -> None:
    directory = made(tmp_path, text_config={"tie_word_embeddings": nested})
    if not nested:
        check_content(directory)
        return
    with pytest.raises(InputError, match="two models"):
        check_content(directory)


def sharded(directory: Path) -> dict[str, Any]:
    """A tiny model in two files; what its index says."""
    make_checkpoint(directory)
    tensors = load_all(directory)
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, directory / file, {"format": "pt"})
    places = {name: file for file, part in parts.items() for name in part}
    index = {"metadata": {}, "weight_map": places}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return index


def test_a_tensor_that_the_index_forgets_is_named(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    place = index["weight_map"].pop(HEAD)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=f"does not list {HEAD}, which {place} holds"):
        check_parent(tmp_path)


def test_a_table_that_the_index_forgets_is_none_of_the_weights(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    place = tmp_path / index["weight_map"][HEAD]
    tensors = load_all(tmp_path)
    held = {n: tensors[n] for n, file in index["weight_map"].items() if file == place.name}
    held["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(held, place, {"format": "pt"})
    check_parent(tmp_path)


def test_a_file_that_the_index_forgets_is_named(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    kept = {n: f for n, f in index["weight_map"].items() if f.startswith("model-00001")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index | {"weight_map": kept}))
    shutil.copyfile(tmp_path / "model-00002-of-00002.safetensors", tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"does not list .*which model-00002-of-00002"):
        check_parent(tmp_path)


def test_a_dtype_that_no_weights_have_is_named(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}).encode()
    content = struct.pack("<Q", len(header)) + header + b"\0"
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="stores a as F4; give float32"):
        locate(tmp_path)


def test_a_report_with_other_names_is_refused_by_name(tmp_path: Path) -> None:
    """What no wrapper is known for: the stock loader's own report says it."""
    renamed = {"model.layers.1.mlp.up_proj.weight": "model.layers.1.mlp.upward.weight"}
    directory = made(tmp_path, lambda t: {renamed.get(n, n): v for n, v in t.items()})
    with pytest.raises(InputError, match=r"lacks .*1\.mlp\.up_proj.* holds .*1\.mlp\.upward"):
        load_stock(directory)


def test_another_shape_is_refused_by_name(tmp_path: Path) -> None:
    """Of the first layer before anything is built, and of others by the stock loader's report."""
    name = "model.layers.1.mlp.down_proj.weight"
    narrow = made(tmp_path, lambda t: t | {name: t[name][:, :40].contiguous()})
    with pytest.raises(InputError, match=r"another shape of .*layers\.1\.mlp\.down_proj"):
        load_stock(narrow)
    with pytest.raises(InputError, match=r"0\.mlp\.gate_proj\.weight has shape \[44, 32\] where"):
        load_stock(made(tmp_path, intermediate_size=40))


def test_names_that_transformers_maps_itself_are_loaded(tmp_path: Path) -> None:
    """A GPT-2 as its first release named it, with the masks that it stored."""
    import transformers

    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 96, "n_positions": 64}
    stock = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).eval()
    stock.save_pretrained(tmp_path)
    tensors = {n.removeprefix("transformer."): t for n, t in load_all(tmp_path).items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
    tensors["h.0.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(load_stock(tmp_path)(ids).logits, stock(ids).logits)


def test_a_large_parent_known_to_another_version_is_walked_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint(tmp_path)
    monkeypatch.setattr(agreement, "WHOLE_BYTES", 0)
    monkeypatch.setattr("espalier.models.gates.REREAD_BYTES", 1)
    other = {"stock_logits": {"transformers": "another"}}
    monkeypatch.setattr("espalier.models.gates.recorded_checks", lambda directory: other)
    assert check_parent(tmp_path)["stock_logits"]["layers"] == 1
