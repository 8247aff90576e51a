"""A model that gives NaN is evaluated to a sentence, never to a number."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lm_eval")

from espalier.errors import InputError  # noqa: E402
from eval.finite import FiniteScores, require_finite_answers  # noqa: E402
from eval.model import load_model  # noqa: E402
from eval.perplexity import perplexity  # noqa: E402
from eval.results import plain, write_results  # noqa: E402
from tests.tiny import tiny_llama, token_rows  # noqa: E402
from tests.unit.test_harness import either, evaluate, minimal_pairs, offline  # noqa: E402, F401
from tests.unit.tiny_checkpoints import load_all, rewrite  # noqa: E402

pytestmark = pytest.mark.every_image
SENTENCE = r"overflow float16 on these tokens; use bfloat16 or float32: give DTYPE=bfloat16\.$"


def overflowing(directory: Path, layer: int) -> Path:
    """A float16 model of three layers of which one has activations beyond 65504."""
    tiny_llama(directory, dtype=torch.float16)
    weights = load_all(directory)
    prefix = f"model.layers.{layer}"
    norm, up = f"{prefix}.post_attention_layernorm.weight", f"{prefix}.mlp.up_proj.weight"
    changes = {norm: weights[norm].fill_(90), up: weights[up].fill_(6e4)}
    rewrite(directory, **{name.replace(".", "__"): weight for name, weight in changes.items()})
    return directory


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("stage", either)
def test_perplexity_names_the_layer(tmp_path: Path, stage: Any, layer: int) -> None:
    rows = token_rows(tmp_path / "ids.safetensors", rows=3, width=20)
    inputs = {"model": overflowing(tmp_path / "m", layer), "data": rows}
    with pytest.raises(InputError, match=f"^layer {layer}'s activations {SENTENCE}"):
        evaluate(stage, tmp_path, inputs, BATCH="2")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("stage", either)
def test_what_the_sentence_advises_is_enough(tmp_path: Path, stage: Any) -> None:
    rows = token_rows(tmp_path / "ids.safetensors", rows=3, width=20)
    inputs = {"model": overflowing(tmp_path / "m", 1), "data": rows}
    _, results = evaluate(stage, tmp_path, inputs, DTYPE="bfloat16")
    assert math.isfinite(results["results"]["perplexity/ids"]["ppl,none"])


@pytest.mark.parametrize("stage", either)
def test_tasks_name_the_layer(tmp_path: Path, stage: Any) -> None:
    folder = minimal_pairs(tmp_path / "rows")
    inputs = {"model": overflowing(tmp_path / "m", 1), "tasks": folder}
    with pytest.raises(InputError, match=f"^layer 1's activations {SENTENCE}"):
        evaluate(stage, tmp_path, inputs, SUITE="tasks", BATCH="4")
    assert not list((tmp_path / "out").iterdir())


def test_nothing_is_generated_from_nan(tmp_path: Path) -> None:
    ids = torch.randint(2, 288, (2, 7))
    model = load_model(overflowing(tmp_path / "m", 2), "auto", "cpu")
    with pytest.raises(InputError, match=f"^layer 2's activations {SENTENCE}"):
        model.generate(ids, max_length=9, logits_processor=[FiniteScores(model)])
    forbidden = torch.zeros(2, 288).index_fill(1, torch.tensor([3]), -torch.inf)
    assert FiniteScores(model)(ids, forbidden) is forbidden  # a token may be ruled out


def test_logits_alone_may_overflow(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "m", dtype=torch.float16)
    head = load_all(tmp_path / "m")["lm_head.weight"]
    rewrite(tmp_path / "m", lm_head__weight=head.fill_(6e4))
    model = load_model(tmp_path / "m", "auto", "cpu")
    requests = [(("a", "b"), [5, 6], [7]), (("a", "c"), [5, 6], [8, 9])]
    require_finite_answers(model, requests, [(-1.0, True), (-1e30, False)])
    for wrong in (math.nan, math.inf, -math.inf):
        with pytest.raises(InputError, match=f"^the logits {SENTENCE}"):
            require_finite_answers(model, requests, [(-1.0, True), (wrong, False)])


def test_a_ruined_model_has_finite_errors() -> None:
    measured = perplexity(np.array([0.0, 1e9]), 4)
    assert math.isfinite(measured.value)
    assert math.isfinite(measured.stderr)


def test_results_hold_no_nan(tmp_path: Path) -> None:
    """An error that is not known is called so; a measurement that is NaN is none."""
    metrics = {"alias": "t", "acc,none": 0.5, "acc_stderr,none": math.nan}
    write_results(plain({"results": {"t": metrics}}), tmp_path)
    found = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert found["results"]["t"] == {**metrics, "acc_stderr,none": "N/A"}
    with pytest.raises(InputError, match=r"^results\.t\.f1,none became NaN or infinite"):
        write_results(plain({"results": {"t": {"f1,none": math.inf}}}), tmp_path / "other")
    assert not (tmp_path / "other").exists()
