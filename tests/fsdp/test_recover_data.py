"""What a recovery is trained on, and what it refuses before it computes anything."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espalier.data.tokenizing import Tokenizing
from espalier.errors import InputError
from tests.fsdp.recoveries import instructions, job_of, text
from tests.tiny import tiny_llama
from training.gpu_fsdp.loss import IGNORED
from training.protocol.order import Order
from training.recover.budget import ExampleBudget
from training.recover.examples import Examples, trimmed

pytestmark = pytest.mark.fsdp


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model") / "tiny", max_position_embeddings=512)


@settings(max_examples=50)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=30),
    batch=st.integers(1, 6),
    epochs=st.sampled_from([0.5, 1.0, 2.0, 3.7]),
    share=st.floats(0.01, 1.0),
)
def test_a_budget_is_the_steps_that_come_nearest(
    lengths: list[int], batch: int, epochs: float, share: float
) -> None:
    given_lengths, order = np.asarray(lengths), Order(len(lengths), 7)
    allowed = int(round(10 * epochs) * len(lengths) // 10)
    how = {"epochs": epochs, "batch": batch, "seqlen": 50, "order": order}
    if allowed < batch:
        with pytest.raises(InputError, match="a step takes BATCH="):
            ExampleBudget.of_lengths(given_lengths, tokens=None, **how)
        return
    whole = ExampleBudget.of_lengths(given_lengths, tokens=None, **how)
    assert whole.steps == allowed // batch
    samples = order.windows_of(0, whole.steps * batch)
    assert whole.tokens == given_lengths[samples].sum() == whole.tokens_after(whole.steps)
    assert whole.tokens_after(0) == 0
    wanted = max(1, round(share * whole.tokens))
    some = ExampleBudget.of_lengths(given_lengths, tokens=wanted, **how)
    distances = [abs(end - wanted) for end in whole.ends]
    assert abs(some.tokens - wanted) == min(distances)
    assert some.ends == whole.ends[: some.steps]
    with pytest.raises(InputError, match=f"give TOKENS={whole.tokens} or less"):
        ExampleBudget.of_lengths(given_lengths, tokens=whole.tokens + 1, **how)


def test_examples_are_padded_on_the_right_with_targets_that_do_not_count() -> None:
    ids = [np.asarray(row, np.int32) for row in ([5, 6, 7, 8], [9, 10], [1, 2, 3])]
    examples = Examples(ids, np.asarray([2, 0, 3]))
    assert examples.lengths.tolist() == [3, 1, 2]
    found = examples.read(np.asarray([0, 1, 2]))
    no = IGNORED
    assert found.inputs.tolist() == [[5, 6, 7], [9, 0, 0], [1, 2, 0]]
    assert found.targets.tolist() == [[no, 7, 8], [10, no, no], [no, no, no]]
    assert trimmed(examples.read(np.asarray([1, 2]))).inputs.tolist() == [[9], [1]]
    assert examples.of(np.asarray([2, 0])).lengths.tolist() == [2, 3]
    assert examples.sha256 != examples.of(np.asarray([0, 2, 1])).sha256


def test_the_tokens_of_a_response_begin_where_its_text_does(model: Path) -> None:
    tokenizing = Tokenizing.of(model)
    texts = ["Say: the quick brown fox", "Größe: der Fuchs", "x"]
    starts = [4, 7, 1]
    found = tokenizing.after(texts, starts)
    for (ids, count), whole, start in zip(found, texts, starts, strict=True):
        assert ids == tokenizing([whole])[0]
        assert tokenizing._tokenizer.decode(ids[:count]) == whole[:start]
        assert tokenizing._tokenizer.decode(ids[count:]) == whole[start:]
    across = tokenizing.after(["the quick"], [6])  # a token that begins before it
    (ids, count) = across[0]
    assert len(tokenizing._tokenizer.decode(ids[:count])) <= 6


def test_instructions_become_framed_prompts_and_responses(model: Path, tmp_path: Path) -> None:
    job = job_of(model, instructions(tmp_path / "rows.json"), seqlen=400)
    tokenizer, train = Tokenizing.of(model)._tokenizer, job.examples.train
    assert isinstance(train, Examples)
    assert (job.examples.kind, len(train), job.examples.held_out) == ("instructions", 22, 2)
    seen = set()
    for ids, given_ids in zip(train.ids, train.given, strict=True):
        assert (ids[0], ids[-1]) == (0, 1)
        prompt, response = tokenizer.decode(ids[1:given_ids]), tokenizer.decode(ids[given_ids:-1])
        assert prompt.startswith("Below is an instruction that describes a task")
        assert prompt.endswith("\n\n### Response:\n")
        assert response.startswith("the")
        seen.add("### Input:" in prompt)
    assert seen == {True, False}
    assert "2 of 24 sequences are held out, a tenth" in "".join(job.notices)
    lines = tmp_path / "rows.jsonl"
    rows = json.loads((tmp_path / "rows.json").read_text())
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert job_of(model, lines, seqlen=400).examples.record == job.examples.record


def test_parquet_and_a_folder_with_a_validation(model: Path, tmp_path: Path) -> None:
    from pyarrow import Table, parquet

    rows = json.loads(instructions(tmp_path / "rows.json").read_text())
    (tmp_path / "set").mkdir()
    parquet.write_table(Table.from_pylist(rows), tmp_path / "set" / "train-0.parquet")
    parquet.write_table(Table.from_pylist(rows[:5]), tmp_path / "set" / "validation-0.parquet")
    examples = job_of(model, tmp_path / "set", seqlen=400).examples
    assert (len(examples.lengths), examples.held_out) == (24, 5)
    assert job_of(model, tmp_path / "set", seqlen=400, valid=3).examples.held_out == 3
    assert job_of(model, tmp_path / "set", seqlen=400, valid=0).examples.valid is None


def test_a_text_is_one_stream_cut_into_windows(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    texts = ["the quick brown fox", "", "jumps over", "the lazy dog"] * 20
    file.write_text("".join(json.dumps({"text": one}) + "\n" for one in texts))
    job = job_of(model, file, seqlen=7, valid=3)
    tokenizing = Tokenizing.of(model)
    stream = [n for one in texts if one for n in (0, *tokenizing([one])[0], 1)]
    train = job.examples.train
    assert isinstance(train, Examples)
    held = job.examples.valid
    assert isinstance(held, Examples)
    for number, ids in enumerate([*train.ids, *held.ids]):  # what is held out is the end
        assert ids.tolist() == stream[number * 7 : number * 7 + 8]
    assert len(train) + len(held) == (len(stream) - 1) // 7


def test_token_data_are_read_as_training_reads_them(inputs: dict[str, Path]) -> None:
    job = job_of(inputs["model"], inputs["data"], seqlen=16, valid=4)
    assert (job.examples.kind, job.examples.held_out) == ("tokens", 4)
    assert set(job.examples.lengths) == {16}
    assert job.budget.step_tokens == 64


def test_usual_lengths(model: Path, tmp_path: Path) -> None:
    rows, words = instructions(tmp_path / "rows.json"), text(tmp_path / "words.txt")
    assert job_of(model, rows, seqlen=None).budget.seqlen == 256
    assert job_of(model, words, seqlen=None, batch=1).budget.seqlen == 512  # all its positions


def test_prompts_that_leave_nothing_of_a_response(model: Path, tmp_path: Path) -> None:
    rows = json.loads(instructions(tmp_path / "rows.json").read_text())
    for row in rows[:6]:
        row["instruction"] *= 40
    (tmp_path / "long.json").write_text(json.dumps(rows))
    job = job_of(model, tmp_path / "long.json", seqlen=220)
    assert "6 rows are left out: their prompts have SEQLEN=220 tokens or more." in job.notices
    assert job.examples.record["left_out"] == 6


def test_what_is_not_computed(model: Path, tmp_path: Path) -> None:
    """The mean length weighs tokens, and so do FLOPs: frozen weights have no gradients."""
    job = job_of(model, text(tmp_path / "words.txt"))
    shapes = job.shapes
    weights = shapes.layers * shapes.layer_parameters
    attention = 3 * 4 * shapes.layers * shapes.heads * shapes.head_dim * 16 / 2
    head = shapes.vocabulary * shapes.hidden
    adapters = job.adapter_parameters
    expected = 4 * (weights + head) + 6 * adapters + attention
    assert job.flops_per_token == pytest.approx(expected)


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no rows": ([], {}, "holds no documents"),
    "no output": ([{"instruction": "a"}], {}, "row 1 has no output .it has instruction.*correct"),
    "no instruction": (
        [{"instruction": "a", "output": "b"}, {"output": "b"}], {}, "row 2 has no instruction",
    ),
    "an output that is no text": (
        [{"instruction": "a", "output": 3}], {}, "row 1 has output that is no text",
    ),
    "an empty instruction": ([{"instruction": " ", "output": "b"}], {}, "an empty instruction"),
    "no object": (["a"], {}, "is no row of named values"),
    "neither": ([{"question": "a", "answer": "b"}], {}, "neither instructions nor texts .its rows"),
    "all too long": (
        [{"instruction": "a" * 300, "output": "b"}], {}, "prompts of all 1 rows of .* SEQLEN=256",
    ),
    "few rows": (
        [{"instruction": "a", "output": "b"}] * 3, {"batch": 9, "epochs": 1},
        "give BATCH=3 or less, or EPOCHS=3.00 or more",
    ),
    "a rank": ([], {"r": 17}, "R=17 is more than the rank that self_attn.k_proj of 16 x 32 can"),
    "no objective": ([], {"ce_weight": 0.0}, "leaves nothing to train on; give a TEACHER"),
    "too long": (
        [{"instruction": "a", "output": "b"}], {"seqlen": 1000}, "longer than the model's 512",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(model: Path, tmp_path: Path, case: str) -> None:
    rows, parameters, says = REFUSED[case]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match=says):
        job_of(model, tmp_path / "rows.json", **{"seqlen": None, **parameters})


def test_files_of_other_kinds(model: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("instruction,output\na,b\n")
    with pytest.raises(InputError, match=r"rows.csv is neither instructions nor a text; give"):
        job_of(model, tmp_path / "rows.csv")
    (tmp_path / "short.txt").write_text("the")
    with pytest.raises(InputError, match="too few tokens for a sequence of SEQLEN=16"):
        job_of(model, tmp_path / "short.txt")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "test.txt").write_text("the quick")
    with pytest.raises(InputError, match="are all named for test; name those"):
        job_of(model, tmp_path / "set")


def test_teachers_that_do_not_fit(model: Path, tmp_path: Path) -> None:
    words = text(tmp_path / "words.txt")
    other = tiny_llama(tmp_path / "other")
    content = json.loads((other / "tokenizer.json").read_text())
    content["model"]["merges"].reverse()
    (other / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"TEACHER=.*other has another tokenizer \("):
        job_of(model, words, other)
    short = tiny_llama(tmp_path / "short", max_position_embeddings=8)
    with pytest.raises(InputError, match="longer than TEACHER's 8 positions"):
        job_of(model, words, short)
    assert job_of(model, words, model).weights.kl == 1.0
    assert job_of(model, words, model).weights.cross_entropy == 0.0


def test_a_teacher_with_more_rows_is_said(model: Path, tmp_path: Path) -> None:
    wider = tiny_llama(tmp_path / "wider", vocab_size=320, max_position_embeddings=512)
    job = job_of(model, text(tmp_path / "words.txt"), wider)
    assert any("the first 288, which both have" in line for line in job.notices)
