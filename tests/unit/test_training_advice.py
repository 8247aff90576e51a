"""Whatever a refusal of the protocol names is enough when it is given, and data are used up."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from espalier.errors import InputError
from tests.manifests import mark_pruned
from training.gpu_fsdp.sharding import device_mesh
from training.gpu_fsdp.spec import TrainingParameters
from training.plan_gpu.spec import PlanParameters
from training.protocol.budget import Budget
from training.protocol.parameters import ProtocolParameters
from training.protocol.planned_budget import planned_budget
from training.protocol.run import Start

NAMED = r"([A-Z_]+)=(\d+(?:\.\d+)?)"
WAY = re.compile(rf"(?:{NAMED} or (?:more|less)(?: and )?)+")


def ways(error: InputError) -> list[dict[str, str]]:
    """Each way out that a sentence names after `give`, as what is to be given together."""
    advice = str(error).split("; give ", 1)[1]
    if together := [way[0] for way in WAY.finditer(advice)]:
        return [dict(re.findall(NAMED, way)) for way in together]
    return [{name: value} for name, value in re.findall(NAMED, advice)]


def budget(available: int, given: dict[str, Any]) -> Budget:
    """As a trainer makes it, of what is given in words."""
    read = ProtocolParameters.from_assignments({name: str(value) for name, value in given.items()})
    return Budget.of(
        tokens=read.tokens,
        epochs=read.epochs,
        batch=read.batch,
        seqlen=read.sequence_length(10**9),
        available=available,
    )


SIZES = {
    "available": st.integers(0, 3000),
    "tokens": st.none() | st.integers(1, 6000),
    "epochs": st.none() | st.decimals("0.01", "9.99", places=2),
    "batch": st.integers(1, 40),
    "seqlen": st.integers(2, 70),
}


@settings(max_examples=400)
@given(**SIZES)
def test_every_way_out_of_a_budgets_refusal(
    available: int, tokens: int | None, epochs: Any, batch: int, seqlen: int
) -> None:
    words = {"TOKENS": tokens, "EPOCHS": epochs, "BATCH": batch, "SEQLEN": seqlen}
    given_words = {name: value for name, value in words.items() if value is not None}
    try:
        found = budget(available, given_words)
    except InputError as error:
        named = ways(error)
        assert named or "give more data" in str(error)
        for way in named:
            again = budget(available, given_words | way)
            assert again.steps * again.batch <= float(way.get("EPOCHS", epochs or 1)) * (
                again.windows
            ) * (1 + 1e-9)
    else:
        assert found.steps >= 1
        assert found.steps * batch <= float(epochs or 1) * found.windows * (1 + 1e-9)


@settings(max_examples=300)
@given(st.integers(3, 5000), st.integers(1, 9), st.integers(2, 70), st.data())
def test_tokens_that_the_data_hold_are_trained(
    available: int, batch: int, seqlen: int, data: st.DataObject
) -> None:
    """TOKENS no larger than the data: the nearest number of steps, or the most that there are."""
    windows = (available - 1) // seqlen
    assume(windows >= batch)
    tokens = data.draw(st.integers(1, available))
    found = budget(available, {"TOKENS": tokens, "BATCH": batch, "SEQLEN": seqlen})
    nearest, most = max(1, round(tokens / (batch * seqlen))), windows // batch
    assert found.steps == min(nearest, most)
    assert found.rounded_down == (nearest > most)
    assert ("rounded down" in str(found)) == (nearest > most)


@given(st.integers(1, 300), st.integers(1, 300))
def test_epochs_are_taken_as_they_are_written(windows: int, hundredths: int) -> None:
    """0.29 passes over 100 sequences are 29, whatever the product of two floats is."""
    steps = windows * hundredths // 100
    assume(steps)
    text = f"{hundredths / 100:.2f}"
    assert budget(windows * 4 + 1, {"EPOCHS": text, "BATCH": 1, "SEQLEN": 4}).steps == steps


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 9))
def test_every_way_out_of_sizes_that_do_not_divide(batch: int, micro: int, devices: int) -> None:
    given_words = {"BATCH": str(batch), "MICRO_BATCH": str(micro)}

    def tried(words: dict[str, str], world: int) -> int:
        read = TrainingParameters.from_assignments(words)
        return read.sequences_at_once(read.share(world, "processes"), 64)

    # How many devices share a batch is asked only once its parts go into it.
    for world in (1, devices):
        try:
            tried(given_words, world)
        except InputError as error:
            named = ways(error)
            assert named
            for way in named:
                assert tried(given_words | way, world)
            given_words |= named[0]


@pytest.mark.parametrize(("world", "replicas"), [(4, 3), (6, 4), (5, 2), (8, 16)])
def test_replicas(world: int, replicas: int) -> None:
    with pytest.raises(InputError) as error:
        device_mesh("cpu", world, replicas)
    (way,) = ways(error.value)
    assert world % int(way["REPLICAS"]) == 0


@given(st.integers(2, 100), st.integers(2, 200))
def test_a_sequence_longer_than_the_model(positions: int, seqlen: int) -> None:
    read = TrainingParameters(seqlen=seqlen)
    if seqlen <= positions:
        assert read.sequence_length(positions) == seqlen
        return
    with pytest.raises(InputError) as error:
        read.sequence_length(positions)
    (way,) = ways(error.value)
    assert TrainingParameters(seqlen=int(way["SEQLEN"])).sequence_length(positions) == positions


CONFIG = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "vocab_size": 96, "max_position_embeddings": 128,
}  # fmt: skip


def test_rows_of_another_length(tmp_path: Path) -> None:
    """A plan for data that are exported already: the length that they have is named."""
    mark_pruned(tmp_path, None)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest |= {"parameters": {"seqlen": 32}, "data": {"rows": {"train": 10}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError) as error:
        planned_budget(PlanParameters(config=CONFIG, batch=2, seqlen=64), tmp_path)
    (way,) = ways(error.value)
    read = PlanParameters(config=CONFIG, batch=2, seqlen=int(way["SEQLEN"]))
    found, tokens = planned_budget(read, tmp_path)
    assert (found.steps, tokens) == (5, 320)


def test_what_a_run_starts_from(tmp_path: Path) -> None:
    """Each sentence's advice in turn, until there is something to train."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps(CONFIG))
    inputs: dict[str, Path] = {}
    parameters = ProtocolParameters()
    with pytest.raises(InputError, match=r"give CKPT=<model>, or ARCH=<model or config.json>"):
        Start.of(parameters, inputs)
    inputs["architecture"] = file
    with pytest.raises(InputError, match="give INIT=random"):
        Start.of(parameters, inputs)
    parameters = ProtocolParameters(init="random")
    with pytest.raises(InputError, match="give TOKENIZER=<model>"):
        Start.of(parameters, inputs)
    assert Start.of(parameters, {**inputs, "tokenizer": tmp_path}).tokenizer == tmp_path
