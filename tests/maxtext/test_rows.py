"""Rows of a plan by JAX give each request what it is given alone, by formulas in float64."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

jnp = pytest.importorskip("jax.numpy")
pytest.importorskip("maxtext")

from espalier.contract.paths import ROOT  # noqa: E402
from espalier.models.shapes import Shapes, read_config  # noqa: E402
from eval.maxtext.rows import BATCH_COST, JaxRows, _largest, rows_at_once  # noqa: E402
from eval.requests import rows as plan_rows  # noqa: E402
from eval.requests.plan import Plan, make_plan  # noqa: E402
from eval.requests.request import Request, continued  # noqa: E402
from tests.maxtext.plain_llama import PlainLlama, random_checkpoint  # noqa: E402
from tests.maxtext.test_image import OFFLINE  # noqa: E402
from training.maxtext_model.trees import TreeModel, tree_attention  # noqa: E402

pytestmark = pytest.mark.maxtext

WINDOW, VOCABULARY = 128, 288


class Case:
    """A checkpoint, read by JAX and by the formulas."""

    def __init__(
        self, folder: Path, dtype: str = "float32", batch: int = 2, **changes: Any
    ) -> None:
        config = random_checkpoint(folder, **changes)
        model = TreeModel.of(config, dtype, "cpu")
        shapes = Shapes.of(config)
        self.rows = JaxRows(model, model.load(folder, config), shapes, batch)
        self.plain = PlainLlama(folder, config)

    def plan(self, requests: Sequence[Request]) -> Plan:
        longest = max((len(request.inputs) for request in requests), default=0)
        return make_plan(requests, self.rows.lengths(longest), self.rows.cost)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("model"))


def ids(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(2, VOCABULARY) for _ in range(count)]


def few_shot() -> list[Request]:
    """Questions after one prefix, answers of several tokens and of one, some asked twice."""
    rng = random.Random(0)
    prefix, found = ids(rng, 40), []
    for _ in range(5):
        question = [*prefix, *ids(rng, 6)]
        found += [continued(question, ids(rng, rng.randint(1, 5)), WINDOW) for _ in range(4)]
        found += [continued(question, [answer], WINDOW) for answer in (7, 8, 9, 9)]
    return found


def pairs() -> list[Request]:
    rng, found = random.Random(1), []
    for _ in range(20):
        start = ids(rng, rng.randint(0, 6))
        found += [continued([0], [*start, *ids(rng, rng.randint(1, 6))], WINDOW) for _ in range(2)]
    return found


def windows() -> list[Request]:
    rng = random.Random(2)
    return [continued(ids(rng, 1), ids(rng, tokens), WINDOW) for tokens in (128, 127, 90, 3, 1)]


CASES = {
    "few-shot": few_shot(), "pairs": pairs(), "windows": windows(),
    "all": [*few_shot(), *pairs(), *windows()], "one": pairs()[:1], "none": [],
}  # fmt: skip


def assert_alike(case: Case, requests: Sequence[Request]) -> None:
    found = case.rows.score(case.plan(requests))
    sums, greedy = case.plain.score(requests)
    assert found.sums == pytest.approx(sums, abs=1e-3, rel=1e-5)
    assert found.greedy == greedy


@pytest.mark.parametrize("name", CASES)
def test_each_request_is_scored_as_if_alone(case: Case, name: str) -> None:
    assert_alike(case, CASES[name])


def test_what_the_model_itself_would_say_is_greedy(case: Case) -> None:
    rng, found = random.Random(3), []
    for _ in range(4):
        said = ids(rng, 9)
        for _ in range(3):
            said.append(int(case.plain.logits(np.array(said))[-1].argmax()))
        found += [continued(said[:9], said[9:end], WINDOW) for end in (10, 11, 12)]
        found.append(continued(said[:9], [said[9], (said[10] + 1) % VOCABULARY], WINDOW))
    assert_alike(case, found)
    assert case.rows.score(case.plan(found)).greedy == 4 * [True, True, True, False]


@pytest.mark.parametrize("scores", [1, 200, 1 << 20])
@pytest.mark.parametrize("length", [8, 7])
def test_attention_is_that_of_the_plan_s_mask(length: int, scores: int) -> None:
    """However many queries go at a time: one of an even length, or half of them, or all."""
    rng = np.random.default_rng(0)
    trees = [[6, 3, 3, 6, 5, 6, 7, 8], [8, 8, 8, 8, 8, 8, 8, 8]]
    ends = np.minimum(np.array(trees, np.int32)[:, :length], length)
    query = rng.normal(size=(2, length, 6, 4)).astype(np.float32)
    key, value = rng.normal(size=(2, 2, length, 3, 4)).astype(np.float32)
    found = tree_attention(
        *(jnp.asarray(array) for array in (query, key, value, ends)),
        scores=scores,
        precision="highest",
    )
    logits = np.einsum("btnd,bsnd->bnts", query, key.repeat(2, axis=2), dtype=np.float64)
    weights = np.exp(logits) * plan_rows.tree_mask(ends)[:, None]
    weights /= weights.sum(axis=-1, keepdims=True)
    expected = np.einsum("bnts,bsnd->btnd", weights, value.repeat(2, axis=2))
    assert found.dtype == jnp.float32
    assert np.asarray(found) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("tokens", [1, 7, 96, 256, 384])
def test_the_first_of_the_largest_logits_is_found(tokens: int) -> None:
    rng = np.random.default_rng(tokens)
    logits = rng.integers(0, 9, (2, 5, tokens)).astype(np.float32)  # most of them tie
    largest, best = _largest(jnp.asarray(logits))
    assert (np.asarray(largest) == logits.max(axis=-1)).all()
    assert (np.asarray(best) == logits.argmax(axis=-1)).all()


def test_a_program_is_compiled_for_each_length_and_no_more(case: Case) -> None:
    def programs() -> int:
        for name in ("few-shot", "pairs", "windows"):
            case.rows.score(case.plan(CASES[name]))
        return int(case.rows._states._cache_size())

    first = programs()
    assert programs() == first
    most = [max(1, 512 // length) for length in case.rows.lengths(WINDOW)]  # BATCH=2
    assert first <= sum(number.bit_length() for number in most)  # each power of two up to it


def test_all_that_is_read_is_counted(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    run, read = case.rows._states, []

    def counting(arrays: Any, ids: Any, *rest: Any) -> Any:
        read.append(ids.size)
        return run(arrays, ids, *rest)

    monkeypatch.setattr(case.rows, "_states", counting)
    plan = case.plan(CASES["all"])
    assert plan.counts.rows <= case.rows.score(plan).tokens == sum(read)


@pytest.mark.parametrize("length", [64, 384, 1024])
@pytest.mark.parametrize("most", [1, 2, 5, 8])
def test_no_other_size_of_batches_reads_less(most: int, length: int) -> None:
    def read(number: int, size: int) -> int:
        batches = -(-number // size)
        return batches * (size * length + BATCH_COST)

    for number in range(1, 4 * most):
        size = rows_at_once(number, length, most)
        assert size in {most, 1, 2, 4}
        allowed = [other for other in (most, 1, 2, 4) if other <= most]
        assert read(number, size) == min(read(number, other) for other in allowed)
    assert rows_at_once(100 * most, length, most) == most  # a long task compiles nothing of its own
    assert rows_at_once(1, length, most) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"tie_word_embeddings": True, "num_key_value_heads": 4},
        {"rope_scaling": {"rope_type": "linear", "factor": 4.0}, "head_dim": 16},
    ],
    ids=["tied", "scaled"],
)
def test_other_shapes(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert_alike(Case(tmp_path, **changes), few_shot())


def test_bfloat16_rounds_and_no_more(tmp_path: Path) -> None:
    """Its eight bits are off by 1/256 at each step; a wrong mask is off by whole units."""
    case = Case(tmp_path, "bfloat16", scale=0.1)
    requests = few_shot()
    found, (sums, _) = case.rows.score(case.plan(requests)), case.plain.score(requests)
    assert found.sums == pytest.approx(sums, abs=0.2, rel=0.02)


def test_any_block_of_states_gives_the_same(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case.rows, "_block", 7)
    assert_alike(case, CASES["all"])


def test_rows_are_halved_where_memory_runs_out(tmp_path: Path) -> None:
    case = Case(tmp_path, batch=8)
    requests = CASES["all"]
    run, sizes = case.rows._states, []

    def too_much(arrays: Any, ids: Any, *rest: Any) -> Any:
        sizes.append(ids.size)
        if ids.size > 512:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1234 bytes.")
        return run(arrays, ids, *rest)

    case.rows._states = too_much
    assert_alike(case, requests)
    assert case.rows.batch == 2
    assert max(sizes) > 512

    def broken(*_: Any) -> Any:
        raise RuntimeError("INTERNAL: something else.")

    case.rows._states = broken
    with pytest.raises(RuntimeError, match="something else"):
        case.rows.score(case.plan(requests))


def test_memory_for_not_even_one_row_is_said(tmp_path: Path) -> None:
    case = Case(tmp_path)

    def nothing(*_: Any) -> Any:
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1234 bytes.")

    case.rows._states = nothing
    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
        case.rows.score(case.plan(CASES["all"]))


def test_devices_share_a_batch(tmp_path: Path) -> None:
    """Three of them, in a process of their own: JAX counts them once."""
    program = (
        "import sys, jax; jax.config.update('jax_num_cpu_devices', 3);"
        "from pathlib import Path; from tests.maxtext.test_rows import *;"
        "case = Case(Path(sys.argv[1]), batch=1); assert case.rows._model.devices == 3;"
        "assert_alike(case, CASES['all']); assert_alike(case, CASES['one']); print('alike')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | OFFLINE,
    )
    assert done.stdout.split() == ["alike"], done.stderr


@pytest.mark.shared
def test_a_trained_model_s_reference_perplexity(shared: Path) -> None:
    model = shared / "models" / "stories260k"
    reference = shared / "reference" / "stories260k"
    config = read_config(model)
    shapes = Shapes.of(config)
    trees = TreeModel.of(config, "float32", "cpu")
    rows = JaxRows(trees, trees.load(model, config), shapes, batch=8)
    windows = load_file(reference / "valid.safetensors")["input_ids"].astype(np.int32)
    requests = [Request(ids[:-1], ids[1:]) for ids in windows]
    found = rows.score(make_plan(requests, rows.lengths(255), rows.cost))
    dense = json.loads((reference / "results.json").read_text())["dense"]["ppl"]
    assert np.exp(-np.sum(found.sums) / (64 * 255)) == pytest.approx(dense, rel=1e-5)
    sums, greedy = PlainLlama(model, config).score(requests[:4])
    assert found.sums[:4] == pytest.approx(sums, abs=1e-3)
    assert found.greedy[:4] == greedy
