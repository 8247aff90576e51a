"""GGUF files become Hugging Face directories that give what the model they were made from gives."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("gguf", reason="GGUF files are read in the image eval")

import itertools

import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFEndian, TokenType, dequantize, quantize
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from espalier.contract.progress import Progress
from espalier.errors import InputError
from espalier.models.gates import check_checkpoint
from inputs.gguf.convert import convert
from inputs.gguf.file import GgufFile
from inputs.gguf.rope import llama3_table
from inputs.gguf.tokenizer import write_tokenizer
from inputs.gguf.weights import unpermuted
from tests.tiny import tokenizer as byte_level
from tests.unit.tiny_checkpoints import load_all, make_checkpoint, make_ids
from tests.unit.tiny_gguf import BYTES, byte_pairs, bytes_only, permuted, pieces, write_gguf

SHAPE: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 64,
    "bos_token_id": 1,
}
TEXTS = (
    "the quick brown fox",
    "  two  spaces, 12345 digits 1 2\n\n\ttabs and l'été, it's 漢字 🙂</s> ends",
    "",
)


def converted(path: Path, output: Path) -> dict[str, Any]:
    output.mkdir(parents=True)
    return convert(path, output, Progress())


def logits(directory: Path, ids: torch.Tensor) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    with torch.inference_mode():
        found: torch.Tensor = model(ids).logits.float()
    return found


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_the_same_logits_as_the_model_it_was_made_from(
    tmp_path: Path, tied: bool, kv_heads: int
) -> None:
    changes = {"tie_word_embeddings": tied, "num_key_value_heads": kv_heads}
    make_checkpoint(tmp_path / "model", **{**SHAPE, **changes})
    notes = converted(write_gguf(tmp_path / "m.gguf", tmp_path / "model"), tmp_path / "out")
    assert notes["weights"] == "float32, as in the file"
    assert notes["licence"] == "mit"
    original, ours = load_all(tmp_path / "model"), load_all(tmp_path / "out")
    assert original.keys() == ours.keys()
    assert ("lm_head.weight" in ours) is not tied
    assert all(torch.equal(original[name], ours[name]) for name in original)
    ids = make_ids(vocabulary=259)
    assert torch.equal(logits(tmp_path / "model", ids), logits(tmp_path / "out", ids))
    assert check_checkpoint(tmp_path / "out")["finite"]


@pytest.mark.parametrize("family", ["Qwen2", "Qwen3"])
def test_families_whose_rows_are_not_permuted(tmp_path: Path, family: str) -> None:
    make_checkpoint(tmp_path / "model", family, **SHAPE)
    converted(write_gguf(tmp_path / "m.gguf", tmp_path / "model"), tmp_path / "out")
    ids = make_ids(vocabulary=259)
    assert torch.equal(logits(tmp_path / "model", ids), logits(tmp_path / "out", ids))


def test_biases_of_queries_are_permuted_with_their_rows(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "model", **SHAPE, attention_bias=True, mlp_bias=True)
    converted(write_gguf(tmp_path / "m.gguf", tmp_path / "model"), tmp_path / "out")
    ids = make_ids(vocabulary=259)
    assert torch.equal(logits(tmp_path / "model", ids), logits(tmp_path / "out", ids))


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_1])
def test_every_type_is_what_gguf_makes_of_the_weights(tmp_path: Path, kind: Kind) -> None:
    make_checkpoint(tmp_path / "model", **SHAPE)
    notes = converted(write_gguf(tmp_path / "m.gguf", tmp_path / "model", kind), tmp_path / "out")
    dtype = torch.float16 if kind == Kind.F16 else torch.bfloat16
    kept = kind in (Kind.F16, Kind.BF16)
    name = str(dtype).removeprefix("torch.")
    said = f"{name}, as in the file" if kept else f"dequantized from {kind.name} to bfloat16"
    assert notes["weights"] == said
    ours = load_all(tmp_path / "out")
    for tensor, weights in load_all(tmp_path / "model").items():
        values = weights.numpy()
        if weights.dim() > 1:  # blocks lie along rows, so that rows may change places
            values = dequantize(quantize(values, kind), kind)
        assert torch.equal(ours[tensor], torch.from_numpy(values.copy()).to(dtype)), tensor
    assert check_checkpoint(tmp_path / "out")["finite"]


@given(heads=st.integers(1, 6), half=st.integers(1, 8), width=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_undoing_the_permutation(heads: int, half: int, width: int) -> None:
    rows = np.arange(heads * half * 2 * width, dtype=np.float32).reshape(-1, width)
    assert np.array_equal(unpermuted(permuted(rows, heads), heads), rows)


RULES = [
    {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original": 8192},
    {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original": 8192},
    {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original": 24},
    {"factor": 2.5, "low_freq_factor": 2.0, "high_freq_factor": 6.0, "original": 1000},
]


@pytest.mark.parametrize("head_dim", [8, 64])
@pytest.mark.parametrize("rule", RULES)
def test_llama_3s_rule_is_found_again_from_its_table(
    tmp_path: Path, rule: dict[str, Any], head_dim: int
) -> None:
    names = ("factor", "low_freq_factor", "high_freq_factor")
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "original_max_position_embeddings": rule["original"],
        **{name: rule[name] for name in names},
    }
    changes: dict[str, Any] = {"head_dim": head_dim, "max_position_embeddings": 64}
    make_checkpoint(tmp_path / "model", **SHAPE, **changes, rope_parameters=scaling)
    waves = 2 * math.pi * 500000.0 ** (np.arange(0, head_dim, 2) / head_dim)
    low, high = rule["low_freq_factor"], rule["high_freq_factor"]
    table = llama3_table(waves, rule["factor"], low, high, rule["original"])
    path = write_gguf(
        tmp_path / "m.gguf",
        tmp_path / "model",
        tensors={"rope_freqs.weight": table.astype(np.float32)},
    )
    converted(path, tmp_path / "out")
    ids = make_ids(tokens=60, vocabulary=259)
    found, wanted = logits(tmp_path / "out", ids), logits(tmp_path / "model", ids)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    plain = json.loads((tmp_path / "out" / "config.json").read_text()) | {"rope_scaling": None}
    (tmp_path / "out" / "config.json").write_text(json.dumps(plain))
    if table.max() > 1:
        assert not torch.allclose(logits(tmp_path / "out", ids), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_scaling_that_keys_state(tmp_path: Path, kind: str) -> None:
    scaling = {"rope_type": kind, "factor": 2.0, "rope_theta": 10000.0}
    more = {"original_max_position_embeddings": 32} if kind == "yarn" else {}
    make_checkpoint(tmp_path / "model", **SHAPE, rope_parameters={**scaling, **more})
    keys = {
        "llama.rope.scaling.type": kind,
        "llama.rope.scaling.factor": 2.0,
        "llama.rope.scaling.original_context_length": 32,
    }
    converted(write_gguf(tmp_path / "m.gguf", tmp_path / "model", keys=keys), tmp_path / "out")
    ids = make_ids(tokens=60, vocabulary=259)
    assert torch.equal(logits(tmp_path / "model", ids), logits(tmp_path / "out", ids))


def test_byte_pairs_have_the_ids_of_the_tokenizer_that_they_came_from(tmp_path: Path) -> None:
    original = byte_level()
    make_checkpoint(tmp_path / "model", **{**SHAPE, "vocab_size": 288})
    template = "{{ bos_token }}{{ messages[0]['content'] }}"
    path = write_gguf(
        tmp_path / "m.gguf",
        tmp_path / "model",
        vocabulary={**byte_pairs(original, "gpt-2"), "add_bos_token": False},
        keys={"tokenizer.chat_template": template},
    )
    converted(path, tmp_path / "out")
    ours = AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in TEXTS:
        assert ours(text).input_ids == original(text).input_ids
        assert ours.decode(ours(text).input_ids) == original.decode(original(text).input_ids)
    assert (ours.bos_token, ours.eos_token) == ("<s>", "</s>")
    assert ours.chat_template == template
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (0, 1)


def test_how_text_is_split_follows_from_the_rules_name(tmp_path: Path) -> None:
    """Each rule keeps apart what its model's tokenizer keeps apart."""
    make_checkpoint(tmp_path / "model", **{**SHAPE, "vocab_size": 288})
    expected = {
        "gpt-2": [" ", " ", "Ġ12345"],
        "smollm": ["ĠĠĠ", "1", "2", "3", "4", "5"],
        "llama-bpe": [" ", " ", "123", "45"],
        "qwen2": ["1", "2", "3", "4", "5"],
    }
    for rule, pieces_after in expected.items():
        path = write_gguf(
            tmp_path / f"{rule}.gguf",
            tmp_path / "model",
            vocabulary=byte_pairs(byte_level(), rule),
        )
        (tmp_path / rule).mkdir()
        write_tokenizer(GgufFile(path), tmp_path / rule)
        backend = AutoTokenizer.from_pretrained(tmp_path / rule).backend_tokenizer
        found = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str("it's   12345")]
        assert "".join(found) == "it'sĠĠĠ12345"
        assert found[-len(pieces_after) :][-1] == pieces_after[-1]
        begins = backend.encode("x").ids[0] == 0
        assert begins == (rule == "llama-bpe")


LETTERS = "abc▁"
WORDS = {"ab": -1.0, "bc": -2.0, "abc": -3.0, "▁a": -0.5, "▁ab": -4.0, "cc": -5.0, "▁▁": -6.0}


def scored(tmp_path: Path, **more: Any) -> Any:
    """A tokenizer made of a SentencePiece vocabulary of `WORDS`."""
    tokens = ["<unk>", "<s>", "</s>", *BYTES, *WORDS, *LETTERS, "<|user|>"]
    scores = [0.0] * 259 + [*WORDS.values(), *(-10.0 - n for n in range(len(LETTERS))), 0.0]
    special = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
    normal = [TokenType.NORMAL] * (len(WORDS) + len(LETTERS))
    kinds = [*special, *[TokenType.BYTE] * 256, *normal, TokenType.USER_DEFINED]
    make_checkpoint(tmp_path / "model", **{**SHAPE, "vocab_size": len(tokens)})
    path = write_gguf(
        tmp_path / "m.gguf",
        tmp_path / "model",
        vocabulary={**pieces(tokens, scores, kinds), **more},
    )
    (tmp_path / "out").mkdir()
    write_tokenizer(GgufFile(path), tmp_path / "out")
    return AutoTokenizer.from_pretrained(tmp_path / "out")


def best_pairs_first(text: str) -> list[str]:
    """SentencePiece's way: of all neighbours that make a piece, the best is joined, leftmost."""
    parts = list("▁" + text.replace(" ", "▁"))
    while True:
        joined = [(WORDS[a + b], -n) for n, (a, b) in enumerate(itertools.pairwise(parts))
                  if a + b in WORDS]  # fmt: skip
        if not joined:
            return parts
        place = -max(joined)[1]
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


def test_pieces_are_joined_as_sentencepiece_joins_them(tmp_path: Path) -> None:
    tokenizer = scored(tmp_path)

    @given(st.text("abc ", min_size=1, max_size=14))
    @settings(max_examples=150, deadline=None)
    def agree(text: str) -> None:
        ids = tokenizer(text).input_ids
        assert ids[0] == 1
        assert tokenizer.convert_ids_to_tokens(ids[1:]) == best_pairs_first(text)
        assert tokenizer.decode(ids[1:]) == text

    agree()
    assert tokenizer.convert_ids_to_tokens(tokenizer("é").input_ids) == [
        *("<s>", "▁", "<0xC3>", "<0xA9>")
    ]
    assert tokenizer("<|user|>").input_ids[-1] == 259 + len(WORDS) + len(LETTERS)


def test_whether_a_text_begins_and_ends_is_the_files_to_say(tmp_path: Path) -> None:
    tokenizer = scored(tmp_path, add_bos_token=False, add_eos_token=True, add_space_prefix=False)
    assert tokenizer.convert_ids_to_tokens(tokenizer("abc").input_ids) == ["ab", "c", "</s>"] or (
        tokenizer.convert_ids_to_tokens(tokenizer("abc").input_ids) == ["abc", "</s>"]
    )


def test_rows_of_the_embedding_that_are_no_tokens_are_left_out(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "model", **{**SHAPE, "vocab_size": 272})
    converted(write_gguf(tmp_path / "m.gguf", tmp_path / "model"), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(tokenizer) == 259
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 272


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "experts": ({"keys": {"llama.expert_count": 4}}, "mixture of 4 experts"),
    "part": ({"keys": {"split.count": 3}}, "one of 3 parts"),
    "partly rotated": ({"keys": {"llama.rope.dimension_count": 4}}, "rotates 4 of 8"),
    "heads by layer": (
        {"keys": {"llama.attention.head_count_kv": [2, 1]}},
        "layers of different attention.head_count_kv",
    ),
    "no sizes": ({"keys": {"llama.context_length": None}}, "does not state llama.context_length"),
    "wrong sizes": ({"keys": {"llama.feed_forward_length": 48}}, "has shape"),
    "fewer layers": ({"keys": {"llama.block_count": 1}}, "holds blk.1"),
    "more layers": ({"keys": {"llama.block_count": 3}}, "lacks the tensor of model.layers.2"),
    "lacking": ({"tensors": {"blk.0.ffn_up.weight": None}}, "lacks the tensor of model.layers.0"),
    "unknown tensor": (
        {"tensors": {"blk.0.attn_sub_norm.weight": np.ones(32, np.float32)}},
        "holds blk.0.attn_sub_norm.weight",
    ),
    "another table": (
        {"tensors": {"rope_freqs.weight": np.array([3, 1, 2, 1], np.float32)}},
        "not one of Llama 3's rule",
    ),
    "longrope": (
        {"keys": {"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 4.0}},
        "scales its positions by longrope",
    ),
    "word pieces": ({"vocabulary": {"model": "bert", "tokens": ["a"]}}, "of the type bert"),
    "other bytes": ({"order": GGUFEndian.BIG}, "the other order of bytes"),
    "more tokens than rows": (
        {"vocabulary": bytes_only(300) | {"token_type": [1] * 300}},
        "token ids up to 299 and the embedding has 259 rows",
    ),
    "no vocabulary": ({"vocabulary": {}}, "has no vocabulary"),
    "no scores": ({"vocabulary": {"model": "llama", "tokens": ["a"]}}, "without scores"),
    "no merges": ({"vocabulary": {"model": "gpt2", "tokens": ["a"]}}, "no merges"),
    "merges of others": (
        {"vocabulary": {"model": "gpt2", "tokens": ["a"], "merges": ["a a"]}},
        "the merge of 'a' and 'a'",
    ),
    "twice": ({"vocabulary": {"model": "llama", "tokens": ["a", "a"]}}, "a token twice"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_right_is_refused_before_weights_are_written(
    tmp_path: Path, case: str
) -> None:
    make_checkpoint(tmp_path / "model", **SHAPE)
    changes, said = REFUSED[case]
    path = write_gguf(tmp_path / "m.gguf", tmp_path / "model", **changes)
    with pytest.raises(InputError, match=said):
        converted(path, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.safetensors*"))


def test_an_unknown_rule_of_splitting_is_refused_by_its_name(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "model", **{**SHAPE, "vocab_size": 288})
    vocabulary = byte_pairs(byte_level(), "chameleon")
    path = write_gguf(tmp_path / "m.gguf", tmp_path / "model", vocabulary=vocabulary)
    with pytest.raises(InputError, match="by the rule chameleon"):
        converted(path, tmp_path / "out")


def test_another_architecture_is_refused_by_its_name(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "model", **SHAPE)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "model_type": "gemma2"}))
    with pytest.raises(InputError, match="of the architecture gemma2; GGUF files of llama"):
        converted(write_gguf(tmp_path / "m.gguf", tmp_path / "model"), tmp_path / "out")


def test_a_type_that_cannot_be_dequantized_is_refused_by_its_name(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "model", **SHAPE)
    path = write_gguf(tmp_path / "m.gguf", tmp_path / "model", Kind.Q8_0)
    content = bytearray(path.read_bytes())
    place = content.index(b"blk.1.ffn_up.weight") + len(b"blk.1.ffn_up.weight") + 4 + 16
    assert content[place] == Kind.Q8_0
    content[place] = Kind.Q8_1  # blocks of 36 bytes where 34 are
    path.write_bytes(content + bytes(1 << 16))
    with pytest.raises(InputError, match="is Q8_1, which cannot be dequantized"):
        converted(path, tmp_path / "out")


@pytest.mark.parametrize("damage", ["empty", "text", "cut header", "cut weights"])
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path: Path, damage: str) -> None:
    make_checkpoint(tmp_path / "model", **SHAPE)
    path = write_gguf(tmp_path / "m.gguf", tmp_path / "model")
    content = path.read_bytes()
    ends = {"empty": 0, "cut header": 300, "cut weights": len(content) - 500}
    path.write_bytes(b"GGUF, they said" if damage == "text" else content[: ends[damage]])
    with pytest.raises(InputError, match="cannot be read as a GGUF file"):
        converted(path, tmp_path / "out")
