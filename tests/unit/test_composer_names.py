"""State dicts of Sheared-LLaMA's Composer model: names, sizes, logits, and what is refused."""

import datetime
import json
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from espalier.contract.manifest import LOGITS
from espalier.contract.progress import Progress
from espalier.contract.stage import StageContext
from espalier.errors import InputError
from espalier.models.logits import check_logits
from tests.tiny import tiny_llama
from tests.unit.sheared import ids, stock
from tests.unit.tiny_checkpoints import load_all
from training.conversion.composer_file import STATE, read_state, write_state
from training.conversion.composer_forward import ComposerModel
from training.conversion.composer_names import IN_BLOCK, hugging_face_names
from training.conversion.from_composer import run as to_hugging_face
from training.conversion.spec import ComposerParameters
from training.conversion.to_composer import run as to_composer

WEIGHTS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "tied": {"tie_word_embeddings": True},
    "width": {"hidden_size": 24, "num_key_value_heads": 4},  # 4 heads of 8 are wider
    "bfloat16": {"dtype": torch.bfloat16},
}
WQ = "model.transformer.blocks.1.attn.wq.weight"


def context(output: Path, **inputs: Path) -> StageContext:
    scratch = output / "scratch"
    scratch.mkdir(parents=True)
    return StageContext(inputs, output, scratch, "cpu", Progress())


def converted(model: Path, output: Path) -> Path:
    to_composer(context(output, model=model), ComposerParameters())
    return output / STATE


def returned(state: Path, like: Path, output: Path) -> Path:
    to_hugging_face(context(output, composer=state, config=like), ComposerParameters())
    return output


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "model", initializer_range=0.3)


@pytest.fixture
def state(model: Path, tmp_path: Path) -> dict[str, Tensor]:
    return dict(torch.load(converted(model, tmp_path / "there"), weights_only=True))


def test_the_names_are_those_of_the_published_code() -> None:
    names = hugging_face_names(2)
    assert len(names) == 3 + 2 * 9 == len(set(names.values()))
    assert names["model.transformer.wte.weight"] == "model.embed_tokens.weight"
    assert names["model.transformer.ln_f.weight"] == "model.norm.weight"
    assert names["model.transformer.output.weight"] == "lm_head.weight"
    assert names[WQ] == "model.layers.1.self_attn.q_proj.weight"
    norm = "model.transformer.blocks.0.ln_2.weight"
    assert names[norm] == "model.layers.0.post_attention_layernorm.weight"


@pytest.mark.parametrize("groups", [1, 3, 6])
@pytest.mark.parametrize("tied", [False, True])
def test_logits_by_composers_names_are_the_stock_models(groups: int, tied: bool) -> None:
    reference = stock(torch.float32, num_key_value_heads=groups, tie_word_embeddings=tied)
    tensors = reference.state_dict()
    state = {name: tensors[place] for name, place in hugging_face_names(3).items()}
    if tied:
        del state["model.transformer.output.weight"]
    config = {**reference.config.to_dict(), "model_type": "llama"}
    positions = torch.tensor([0, 2, 3, 7, 8, 15, 16, 30, 31])
    with torch.inference_mode():
        expected = reference(ids(), position_ids=positions[None].expand(2, -1)).logits
        found = ComposerModel.of(state, config).logits(ids(), positions)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("shape", WEIGHTS)
def test_a_model_comes_back_bit_by_bit(tmp_path: Path, shape: str) -> None:
    model = tiny_llama(tmp_path / "model", initializer_range=0.3, **WEIGHTS[shape])
    there = converted(model, tmp_path / "there")
    back = returned(there, there.parent, tmp_path / "back")
    before, after = load_all(model), load_all(back)
    assert before.keys() == after.keys()
    for name, weight in before.items():
        assert weight.dtype == after[name].dtype
        assert torch.equal(weight.view(torch.uint8), after[name].view(torch.uint8)), name
    size = float(load_file(tmp_path / "there" / "scratch" / LOGITS)["logits"].abs().max())
    for output, directory in (("there", model), ("back", back)):
        checked = check_logits(directory, tmp_path / output / "scratch" / LOGITS)
        assert checked["logits_max_difference"] <= 1e-5 * size
    again = converted(model, tmp_path / "again")
    assert again.read_bytes() == there.read_bytes()


def test_what_the_reader_expects_of_a_torch_program(state: dict[str, Tensor]) -> None:
    """The tied head too is a tensor of its own name, as the published code loads it strictly."""
    assert set(state) == set(hugging_face_names(3))


def test_a_tied_head_is_the_embedding_in_the_same_storage(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "model", tie_word_embeddings=True)
    state = torch.load(converted(model, tmp_path / "there"), weights_only=True)
    places = {state[f"model.transformer.{n}.weight"].data_ptr() for n in ("wte", "output")}
    assert len(places) == 1


def as_of_numpy_1(file: Path, target: Path) -> Path:
    """A copy in which numpy's arrays are made by what numpy 1 calls it."""
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(target, "w") as copy:
        for entry in archive.infolist():
            content = archive.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert b"numpy._core.multiarray" in content
                content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            copy.writestr(entry.filename, content)
    return target


def test_checkpoints_of_composer_are_read(
    model: Path, state: dict[str, Tensor], tmp_path: Path
) -> None:
    inner = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    inner["transformer.blocks.0.attn.rotary_emb.inv_freq"] = torch.ones(4)
    whole = {
        "state": {"model": inner, "timestamp": {"total_wct": datetime.timedelta(1)}},
        "rng": [{"numpy": np.random.RandomState(0).get_state(), "python": random.getstate()}],
    }
    file = saved(tmp_path / "ep0-ba3200-rank0.pt", whole)
    for found in (read_state(file), read_state(as_of_numpy_1(file, tmp_path / "older.pt"))):
        assert found.keys() == state.keys()
        assert all(torch.equal(found[name], state[name]) for name in state)
    back = load_all(returned(file, model, tmp_path / "back"))
    assert all(torch.equal(back[name], tensor) for name, tensor in load_all(model).items())


def test_sizes_are_the_tensors(model: Path, state: dict[str, Tensor], tmp_path: Path) -> None:
    """As of a model that was pruned from MODEL: fewer layers, heads, channels and neurons."""
    cut = {n: t for n, t in state.items() if ".blocks.2." not in n}
    for name, tensor in cut.items():
        part = tensor[:24] if name.endswith(("down_proj.weight", "out_proj.weight")) else tensor
        sizes = {
            "attn.wq": (16, 24), "attn.wk": (8, 24), "attn.wv": (8, 24), "attn.out_proj": (24, 16),
            "mlp.gate_proj": (40, 24), "mlp.up_proj": (40, 24), "mlp.down_proj": (24, 40),
            "wte": (288, 24), "output": (288, 24),
        }  # fmt: skip
        short = next((size for key, size in sizes.items() if f"{key}.weight" in name), (24,))
        cut[name] = part[tuple(slice(size) for size in short)].contiguous()
    back = returned(saved(tmp_path / "pruned.pt", cut), model, tmp_path / "back")
    config = json.loads((back / "config.json").read_text())
    wanted = {
        "num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 40, "head_dim": 8,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 288,
    }  # fmt: skip
    assert {key: config[key] for key in wanted} == wanted
    assert check_logits(back, tmp_path / "back" / "scratch" / LOGITS)["logits_max_kl"] < 1e-9


def test_a_head_of_its_own_is_not_tied(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "model", tie_word_embeddings=True)
    state = dict(torch.load(converted(model, tmp_path / "there"), weights_only=True))
    state["model.transformer.output.weight"] = 2 * state["model.transformer.output.weight"]
    back = returned(saved(tmp_path / "state.pt", state), model, tmp_path / "back")
    assert not json.loads((back / "config.json").read_text())["tie_word_embeddings"]
    assert torch.equal(
        load_all(back)["lm_head.weight"], 2 * load_all(model)["model.embed_tokens.weight"]
    )
    del state["model.transformer.output.weight"]
    without = returned(saved(tmp_path / "none.pt", state), model, tmp_path / "without")
    assert "lm_head.weight" not in load_all(without)


def test_a_wrong_name_is_caught_by_the_logits(
    model: Path, state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = saved(tmp_path / "state.pt", state)
    monkeypatch.setitem(IN_BLOCK, "mlp.gate_proj", "mlp.up_proj")
    monkeypatch.setitem(IN_BLOCK, "mlp.up_proj", "mlp.gate_proj")
    back = returned(file, model, tmp_path / "back")
    with pytest.raises(InputError, match="logits differ"):
        check_logits(back, tmp_path / "back" / "scratch" / LOGITS)


class Harmful:
    """What unpickling would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def test_code_is_refused_and_does_not_run(
    state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = saved(tmp_path / "state.pt", {**state, "extra": Harmful()})
    with pytest.raises(InputError, match=r"asks for more than tensors .*save the state dict"):
        read_state(file)
    assert not (tmp_path / "ran").exists()
    torch.load(file, weights_only=False)  # which is what would have run it
    assert (tmp_path / "ran").exists()


def test_files_that_are_none_of_torchs_are_refused(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    whole = saved(tmp_path / "state.pt", state).read_bytes()
    for content in (whole[:-100], whole[: len(whole) // 2], b"", pickle.dumps({"a": 1})):
        (tmp_path / "cut.pt").write_bytes(content)
        with pytest.raises(InputError, match=r"no file that torch.save has written, or is cut"):
            read_state(tmp_path / "cut.pt")
    with (
        zipfile.ZipFile(tmp_path / "state.pt") as archive,
        zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as copy,
    ):
        for entry in archive.infolist():
            copy.writestr(entry.filename, archive.read(entry))
    with pytest.raises(InputError, match="has been compressed since"):
        read_state(tmp_path / "small.pt")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(InputError, match="is damaged"):
        read_state(tmp_path / "other.zip")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no state dict"),
        ([1, 2], "holds no state dict"),
        ({"state": {"optimizers": {}}}, "'optimizers' of type dict where a tensor belongs"),
        ({3: torch.ones(2)}, "3 of type Tensor where a tensor belongs; give a state dict"),
        ({"a": torch.ones(2).to_sparse()}, "a of .* is no plain tensor"),
        ({"model.l0_module.masks.hidden.z_loga": torch.ones(2)}, "holds masks .*extract"),
        ({"model.l0_module.lambdas.lambda_1": torch.ones(2)}, "holds masks .*extract"),
        ({"masks.log_alpha": torch.ones(2)}, "holds masks .*extract"),
        ({"_fsdp_wrapped_module.model.wte": torch.ones(2)}, "sharded or checkpointed training"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_state(saved(tmp_path / "state.pt", content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((WQ, None), f"lacks the tensor {WQ}"),
        (
            (WQ, torch.ones(24, 32)),
            r"has shape \[24, 32\], where the other tensors ask for \[32, 32",
        ),
        ((WQ, torch.ones(32, 32).double()), "is torch.float64; weights must be"),
        ((WQ, torch.full((32, 32), torch.nan)), "NaN or infinite"),
        ((WQ.replace("s.1.", "s.0."), torch.ones(30, 32)), "30 rows, which are no heads of 8"),
        ((WQ.replace("s.1.", "s.0."), torch.ones(1024)), "where a matrix belongs"),
        ((WQ.replace("s.1.", "s.3."), torch.ones(32, 32)), "lacks the tensor .*blocks.3.attn.wk"),
        ((WQ.replace("weight", "bias"), torch.ones(32)), "for which a Llama has no place"),
        (("model.transformer.wte.weight", None), "lacks the tensor model.transformer.wte.weight"),
        (("model.transformer.output.weight", None), "lacks the tensor .*output.weight"),
    ],
)
def test_tensors_that_make_no_llama_are_refused(
    state: dict[str, Tensor],
    model: Path,
    tmp_path: Path,
    change: tuple[str, Tensor | None],
    message: str,
) -> None:
    name, tensor = change
    state.pop(name, None)
    if tensor is not None:
        state[name] = tensor
    with pytest.raises(InputError, match=message):
        returned(saved(tmp_path / "state.pt", state), model, tmp_path / "back")


def test_no_blocks_are_no_model(model: Path, tmp_path: Path) -> None:
    file = saved(tmp_path / "state.pt", {"model.layers.0.input_layernorm.weight": torch.ones(2)})
    with pytest.raises(InputError, match=r"holds no transformer.blocks"):
        returned(file, model, tmp_path / "back")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_theta": 5e5, "rope_parameters": None}, "has rope_theta 500000.0"),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, "rope_theta 500000.0"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "has rotary scaling"),
        ({"hidden_act": "gelu"}, "has hidden_act gelu"),
        ({"model_type": "mistral"}, "has model_type mistral"),
    ],
)
def test_models_that_composers_would_compute_otherwise_are_refused(
    model: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    there = converted(model, tmp_path / "there")
    config = json.loads((model / "config.json").read_text())
    if "rope_scaling" in changes:
        config.pop("rope_parameters", None)
    (model / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(InputError, match=message):
        converted(model, tmp_path / "again")
    with pytest.raises(InputError, match=message):
        returned(there, model, tmp_path / "back")


def test_biases_have_no_place(model: Path, tmp_path: Path) -> None:
    bias = {"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}
    save_file({**load_all(model), **bias}, model / "model.safetensors")
    with pytest.raises(InputError, match=r"q_proj.bias, for which .*BIAS=0"):
        converted(model, tmp_path / "there")


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(AttributeError):
        write_state(tmp_path / STATE, {"a": lambda: None})  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []
