"""What the host knows of Sheared-LLaMA: names, steps, targets, and which losses are measured."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.contract.stage import Estimate
from espalier.errors import InputError
from espalier.models.shapes import Shapes
from methods.sheared_llama.spec import (
    STAGES,
    DomainLossParameters,
    ShearedLlamaParameters,
    asked_of_losses,
)

SCORE, PRUNE = STAGES
CONFIG = {
    "model_type": "llama", "vocab_size": 288, "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 128, "tie_word_embeddings": False, "torch_dtype": "float32",
}  # fmt: skip


def asked(**assignments: str) -> ShearedLlamaParameters:
    return ShearedLlamaParameters.from_assignments({"LAYERS": "2", **assignments})


@pytest.mark.parametrize(
    ("assignments", "label"),
    [
        ({"LAYERS": "24", "HIDDEN": "2048", "HEADS": "16", "FFN": "5504"}, "24-h2048-a16-f5504"),
        ({"HIDDEN": "24"}, "h24"),
        ({"TARGET": "1.3B"}, "1.3b"),
        ({"TARGET": "shapes/Small.toml"}, "small"),
        ({"TARGET": "1.3b", "RECOVER": "1"}, "1.3b-recovered"),
    ],
)
def test_a_name_says_the_target(assignments: dict[str, str], label: str) -> None:
    assert ShearedLlamaParameters.from_assignments(assignments).label() == label


def test_names_of_losses() -> None:
    assert DomainLossParameters.from_assignments({}).label() == "64"
    assert DomainLossParameters.from_assignments({"VALID": "8", "SEQLEN": "16"}).label() == "8x16"


@pytest.mark.parametrize(
    ("assignments", "sentence"),
    [
        ({}, "give TARGET, or LAYERS, HIDDEN, HEADS and FFN of the shape that is to be left"),
        ({"TARGET": "1.3b", "FFN": "32"}, "not both"),
        ({"FFN": "32", "MICRO_BATCH": "5"}, "MICRO_BATCH=5 does not divide BATCH=32"),
        (
            {"FFN": "32", "RECOVER": "1", "MICRO_BATCH": "32", "RECOVER_BATCH": "48"},
            "RECOVER_BATCH",
        ),
        ({"FFN": "32", "RECOVER_TOKENS": "1B"}, "go with RECOVER=1"),
        ({"FFN": "32", "MASKS": "none"}, "MASKS"),
        ({"FFN": "32", "PROPORTIONS": "even"}, "PROPORTIONS"),
        ({"FFN": "32", "LR": "0"}, "LR"),
        ({"FFN": "32", "TOKENS": "0"}, "TOKENS"),
        ({"FFN": "32", "SEQLEN": "1"}, "SEQLEN"),
    ],
)
def test_what_is_refused(assignments: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        ShearedLlamaParameters.from_assignments(assignments)


def test_losses_are_measured_only_to_be_forecast_from() -> None:
    assert asked().unused() == frozenset()
    assert asked(PROPORTIONS="bandit").unused() == frozenset()
    for given_ in (
        {"PROPORTIONS": "fixed"},
        {"REFERENCE_LOSSES": "1.3b"},
        {"REFERENCE_LOSSES": "cc=2"},
    ):
        assert asked(**given_).unused() == {"losses"}
    assert asked_of_losses(asked()) == {}
    assert asked_of_losses(asked(SEQLEN="16")) == {"SEQLEN": "16"}


@given(st.integers(1, 10**7), st.integers(1, 64), st.integers(2, 4096))
def test_steps_hold_all_tokens_and_no_step_more(tokens: int, batch: int, seqlen: int) -> None:
    steps = asked(TOKENS=str(tokens), BATCH=str(batch)).steps(seqlen)
    assert (steps - 1) * batch * seqlen < tokens <= steps * batch * seqlen


def test_as_published() -> None:
    """3200 steps of 32 rows of 4096 tokens, the first 320 with rising targets and rates."""
    parameters = ShearedLlamaParameters.from_assignments({"TARGET": "1.3b"})
    steps = parameters.steps(parameters.length(4096))
    assert steps == 3200
    assert parameters.beginning(steps) == 320
    assert parameters.every(None, steps) == 50
    assert (parameters.every(7, steps), parameters.every(None, 40), parameters.every(None, 3)) == (
        *(7, 4, 1),
    )


def test_rows() -> None:
    assert (asked().length(512), asked().length(131_072)) == (512, 4096)
    assert asked(SEQLEN="16").length(512) == 16
    assert (asked().micro(4096), asked().micro(16_384), asked(MICRO_BATCH="8").micro(16)) == (
        *(2, 1, 8),
    )


def unrolled(config: dict[str, Any], **assignments: str) -> Any:
    assert PRUNE.unroll
    parameters = ShearedLlamaParameters.from_assignments(assignments)
    found = PRUNE.unroll(parameters, config)
    (only,) = found.steps
    return only, found.configs


def test_a_target_is_read_where_the_command_is_given(tmp_path: Path) -> None:
    """So that the file counts by what it says, and the shape is known to what comes after."""
    file = tmp_path / "small.toml"
    file.write_text("layers = 2\nffn = 32\n")
    found, (config,) = unrolled(CONFIG, TARGET=str(file), TOKENS="100")
    assert (found.target, found.layers, found.hidden, found.heads, found.ffn, found.tokens) == (
        *(None, 2, None, None, 32, 100),
    )
    assert config == CONFIG | {"num_hidden_layers": 2, "intermediate_size": 32}
    assert Shapes.of(config) == found.aim(Shapes.of(CONFIG)).shapes
    found, configs = unrolled({}, TARGET="1.3b")
    assert (found.layers, found.hidden, found.heads, found.ffn) == (24, 2048, 16, 5504)
    assert configs == ()
    kept, _ = unrolled(CONFIG, HIDDEN="24")
    assert kept == ShearedLlamaParameters.from_assignments({"HIDDEN": "24"})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "states no size; give some of layers, hidden, heads, ffn"),
        ("layers = 0", "layers is 0; give a whole number, 1 or more"),
        ("layers = 9", "LAYERS=9 is above the parent's 3 layers"),
        ("heads = 3", "HEADS=3 is not a multiple of 2"),
    ],
)
def test_a_file_that_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "small.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=sentence):
        unrolled(CONFIG, TARGET=str(file))


def test_estimates_grow_with_what_is_asked_for() -> None:
    def pruning(**assignments: str) -> Estimate:
        assert PRUNE.estimate
        found = PRUNE.estimate(asked(**assignments), CONFIG)
        assert found
        return found

    few, many = pruning(TOKENS="100000"), pruning(TOKENS="200000")
    assert few.seconds < many.seconds
    assert few.memory == many.memory
    weights = 4 * Shapes.of(CONFIG).parameters
    assert few.disk > 3 * 3 * weights  # of three checkpoints, each with two moments
    assert pruning(MICRO_BATCH="8", SEQLEN="128").memory > pruning(MICRO_BATCH="1").memory
    assert SCORE.estimate
    found = SCORE.estimate(DomainLossParameters.from_assignments({}), CONFIG)
    assert found
    assert found.memory < few.memory + (1 << 30)


def test_the_training_that_follows_is_the_published_one_and_is_counted() -> None:
    found = asked(RECOVER="1")
    assert (found.rows_of_recovery, found.rate_of_recovery) == (256, 1e-4)
    assert found.steps_of_recovery(4096) == 47_684  # 50B tokens
    assert found.beginning_of_recovery(47_684) == 1_431
    assert asked().steps_of_recovery(4096) == 0
    assert PRUNE.estimate
    seconds = []
    for words in (
        {},
        {"RECOVER": "1", "RECOVER_TOKENS": "1M"},
        {"RECOVER": "1", "RECOVER_TOKENS": "3M"},
    ):
        estimate = PRUNE.estimate(asked(TOKENS="1M", **words), CONFIG)
        assert isinstance(estimate, Estimate)
        seconds.append(estimate.products)
    alone, with_one, with_three = seconds
    assert with_three - alone == pytest.approx(3 * (with_one - alone), rel=0.02)
    assert 0 < with_one - alone < alone  # a token costs less in what is left
