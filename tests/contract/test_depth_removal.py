"""SLEB and Shortened-LLaMA as a user runs them, with the packages of their image."""

import json
import re
from pathlib import Path

import pytest

from espalier.contract.manifest import read_manifest
from espalier.contract.pruned import Uniform
from tests.contract.command import (
    differing,
    espalier,
    refused,
    tree,
    without_times,
)
from tests.contract.shaped import check_loads, pictures, pruned
from tests.contract.waiting import interrupted
from tests.tiny import tiny_llama, token_rows

pytestmark = pytest.mark.minitron


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("parent") / "tiny", num_hidden_layers=5)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return token_rows(tmp_path_factory.mktemp("tokens") / "tokens.safetensors")


def account(checkpoint: Path) -> Uniform:
    found = read_manifest(checkpoint).pruning
    assert isinstance(found, Uniform)
    assert found.structure == "depth"
    return found


def test_sleb_prunes_by_one_search(tmp_path: Path, model: Path, tokens: Path) -> None:
    """Fewer removals are the start of the same order, and need no second search."""
    two = pruned(tmp_path, "sleb", model, tokens, "LAYERS=3")
    assert two == tmp_path / "checkpoints" / "tiny-sleb-3"
    check_loads(two, num_hidden_layers=3)
    scores = tmp_path / "scores" / "tiny" / "sleb-tokens-3-16"
    content = json.loads((scores / "scores.json").read_text())
    assert account(two).removal_order == tuple(content["order"])
    assert len(content["order"]) == 2
    assert {layer for past in content["rounds"] for layer in past["losses"]} <= {"1", "2", "3"}
    assert pictures(scores) == pictures(two) == {"removal.png", "removal.svg"}
    notes = read_manifest(scores).notes
    assert notes["layer_runs"] < notes["plain_layer_runs"] == 3 * 4 + 2 * 3
    words = (f"MODEL={model}", "SCORES=tiny/sleb-tokens-3-16", "SUITE=none")
    done = espalier(tmp_path, "prune-sleb", *words, "LAYERS=4")
    assert done.returncode == 0, done.stderr
    one = Path(done.stdout.strip())
    check_loads(one, num_hidden_layers=4)
    assert account(one).removal_order == tuple(content["order"][:1])
    done = espalier(tmp_path, "prune-sleb", *words, "LAYERS=2")
    refused(done, 2, "the scores hold the order of 2 removals and 3 layers are to go; leave SCORES")


def test_sleb_in_steps_is_the_same_order(tmp_path: Path, model: Path, tokens: Path) -> None:
    once = pruned(tmp_path, "sleb", model, tokens, "LAYERS=3")
    steps = pruned(tmp_path, "sleb", model, tokens, "LAYERS=3", "STEPS=2", "NAME=steps")
    first = account(tmp_path / "checkpoints" / "steps-step1of2")
    assert account(once).removal_order is not None
    assert first.removal_order == account(once).removal_order[:1]
    weights = [(folder / "model.safetensors").read_bytes() for folder in (once, steps)]
    assert weights[0] == weights[1]


def test_sleb_with_nothing_left_to_try(tmp_path: Path, model: Path, tokens: Path) -> None:
    """Refused before anything is measured; by REFERENCE=1 the last layer goes."""
    words = (f"MODEL={model}", f"CALIBRATION={tokens}", "SUITE=none", "LAYERS=1")
    done = espalier(tmp_path, "prune-sleb", *words)
    refused(
        done, 2, "LAYERS=1 needs 4 of 5 layers removed and EARLY_BARRIER=1 and LATTER_BARRIER=1"
    )
    assert not (tmp_path / "scores").exists()
    checkpoint = pruned(tmp_path, "sleb", model, tokens, "LAYERS=1", "REFERENCE=1")
    found = account(checkpoint)
    assert found.kept.layers == (0,)
    assert (found.removal_order or ())[-1] == 4


def test_sleb_interrupted(tmp_path: Path, tokens: Path) -> None:
    """Ctrl-C in the middle of a round ends in 75; the same command gives the bytes of one run."""
    model = tiny_llama(tmp_path / "deep", num_hidden_layers=10)
    rows = token_rows(tmp_path / "rows.safetensors", rows=512, width=128)
    words = ("score-sleb", f"MODEL={model}", f"CALIBRATION={rows}", "LAYERS=7", "SAMPLES=512")
    errors = interrupted(tmp_path / "store", words, "scores/deep/*/.run/scratch/rounds.json")
    assert re.search(r"from round (1 of 3, the last part.s end|[23] of 3)", errors), errors
    whole = espalier(tmp_path / "whole", *words)
    again = espalier(tmp_path / "store", *words)
    assert again.returncode == whole.returncode == 0, again.stderr
    one, two = (without_times(tree(Path(done.stdout.strip()))) for done in (whole, again))
    assert {"scores.json", "removal.png", "removal.svg"} <= one.keys()
    assert not differing(one, two)


@pytest.mark.parametrize("importance", ["ppl", "taylor", "magnitude"])
def test_shortened_llama(tmp_path: Path, model: Path, tokens: Path, importance: str) -> None:
    text = () if importance == "magnitude" else ("SEQLEN=64",)
    words = ("LAYERS=3", f"IMPORTANCE={importance}", *text)
    checkpoint = pruned(tmp_path, "shortened-llama", model, tokens, *words)
    check_loads(checkpoint, num_hidden_layers=3)
    (scores,) = (tmp_path / "scores" / "tiny").iterdir()
    content = json.loads((scores / "scores.json").read_text())
    may = [block for block in content["order"] if block not in (0, 4)]
    assert account(checkpoint).removal_order == tuple(may[:2])
    assert pictures(scores) == pictures(checkpoint) == {"blocks.png", "blocks.svg"}
    assert bool(read_manifest(scores).data) == (importance != "magnitude")


def test_one_score_serves_every_protection(tmp_path: Path, model: Path, tokens: Path) -> None:
    given = (f"MODEL={model}", f"CALIBRATION={tokens}", "SEQLEN=64")
    scored = espalier(tmp_path, "score-shortened-llama", *given)
    assert scored.returncode == 0, scored.stderr
    scores = Path(scored.stdout.strip())
    assert scores == tmp_path / "scores" / "tiny" / "shortened-llama-tokens-ppl-10x64"
    order = json.loads((scores / "scores.json").read_text())["order"]
    words = (f"MODEL={model}", f"SCORES={scores}", "SUITE=none")
    done = espalier(tmp_path, "prune-shortened-llama", *words, "LAYERS=1", "PROTECT=none")
    assert done.returncode == 0, done.stderr
    assert account(Path(done.stdout.strip())).removal_order == tuple(order[:4])
    done = espalier(tmp_path, "prune-shortened-llama", *words, "LAYERS=3", "REFERENCE=1")
    assert done.returncode == 0, done.stderr
    assert account(Path(done.stdout.strip())).kept.layers == (0, 1, 2)
    done = espalier(tmp_path, "prune-shortened-llama", *words, "LAYERS=4", "PROTECT=published")
    refused(done, 2, "1 of 5 blocks are to go and PROTECT=published lets 0 of them; give another")


def test_the_same_bytes_every_time(tmp_path: Path, model: Path, tokens: Path) -> None:
    for method, words in (
        ("sleb", ("LAYERS=3",)),
        ("shortened-llama", ("LAYERS=3", "IMPORTANCE=taylor", "SEQLEN=64")),
    ):
        first = pruned(tmp_path / "a", method, model, tokens, *words)
        again = pruned(tmp_path / "b", method, model, tokens, *words, cold=True)
        assert not differing(*(without_times(tree(place)) for place in (first, again)))


def test_a_text_that_is_needed(tmp_path: Path, model: Path, tokens: Path) -> None:
    words = (f"MODEL={model}", f"CALIBRATION={tokens}", "LAYERS=3", "SUITE=none")
    done = espalier(tmp_path, "prune-shortened-llama", *words)
    refused(done, 2, "is shorter than SEQLEN=128: its rows have 64 tokens; give SEQLEN=64")
    done = espalier(tmp_path, "prune-shortened-llama", *words, "IMPORTANCE=magnitude", "SAMPLES=3")
    refused(done, 2, "IMPORTANCE=magnitude uses no tokens; leave out SAMPLES")
