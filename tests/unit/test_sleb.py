"""The greedy search against plain loops, whatever it holds between rounds and wherever it stops."""

import itertools
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from espalier.errors import InputError
from espalier.models.decoder import Decoder, Layer
from espalier.pruning.depth.cuts import Cut, walk_runs
from espalier.pruning.depth.depth_search import Front, states_without
from espalier.pruning.depth.fronts import Fronts, chosen_depths
from espalier.pruning.depth.greedy import Removal, remove_one_by_one
from espalier.pruning.depth.samples import Sample
from espalier.pruning.structured.parameters import LayersLeft
from methods.sleb.algorithm import mean_loss, order_of_the_reference
from methods.sleb.spec import SlebScoreParameters
from tests.unit.tiny_checkpoints import make_checkpoint, make_context, make_ids

pytestmark = pytest.mark.minitron
TOKENS = 24
Run = tuple[int, ...]
"""A state as the list of layers that made it: nothing else can be mixed up."""


@given(st.integers(2, 8), st.integers(0, 60), st.randoms(use_true_random=False))
def test_rounds_share_what_they_run(layers: int, most: int, draw: random.Random) -> None:
    """Whatever goes in each round, and however much is held, states are those of a new walk."""
    fronts: Fronts[Run] = Fronts(most)
    removed: list[int] = []
    early = draw.randint(0, layers - 1)
    candidates = list(range(early, draw.randint(early + 1, layers)))
    while candidates:
        numbers = [n for n in range(layers) if n not in removed]
        wanted: list[Cut | None] = [*(() if removed else (None,)), *(Cut(n, 1) for n in candidates)]
        fronts.aim(numbers, {n: draw.random() for n in candidates})
        runs = 0

        def advance(layer: Layer, state: Run, cut: Cut | None) -> Run:
            nonlocal runs
            runs += 1
            return (*state, layer.number)

        start = fronts.begin(0) or Front(0, {None: ()})
        assert start.layer == fronts.start
        modules = [
            Layer(n, nn.Identity(), lambda: None, lambda m, n, h: h)
            for n in numbers
            if n >= start.layer
        ]
        found = states_without(modules, start, wanted, advance, partial(fronts.offer, 0))
        for cut in wanted:
            left_out = () if cut is None else (cut.first,)
            assert found[cut] == tuple(n for n in numbers if n not in left_out)
        assert runs == walk_runs(numbers, wanted, fronts.start)
        assert fronts.reached(0) == max(fronts.depths, default=0)
        held = fronts._held.get(0, {}).values()
        assert sum(len(front.states) for front in held) <= most
        removed.append(draw.choice(candidates))
        candidates.remove(removed[-1])
        fronts.removed(removed[-1])
        assert fronts.reached(0) <= removed[-1]


def test_fronts_are_held_where_they_are_worth_most() -> None:
    everything = dict.fromkeys(range(1, 9), 1.0)
    assert chosen_depths(range(10), everything, range(1, 9), 0) == []
    assert sorted(chosen_depths(range(10), everything, range(1, 9), 100)) == [*range(1, 9)]
    one_is_likely = {**dict.fromkeys(range(1, 9), 1e-6), 6: 1.0}
    assert chosen_depths(range(10), one_is_likely, range(1, 9), 6) == [6]  # the model and 1 to 5
    assert max(chosen_depths(range(10), one_is_likely, range(1, 9), 5)) < 6


def plain_losses(stock: Any, ids: Tensor, keep: list[int]) -> float:
    layers = stock.model.layers
    stock.model.layers = nn.ModuleList([layers[i] for i in keep])
    with torch.inference_mode():
        logits = stock(ids, use_cache=False).logits
    stock.model.layers = layers
    return float(cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))


def search(tmp_path: Path, name: str, **options: Any) -> Removal:
    model = tmp_path / "model"
    given = {"candidates": range(1, 5), "count": 3, "loss": partial(mean_loss, tokens=TOKENS)}
    return remove_one_by_one(
        make_context(model, tmp_path / name),
        Decoder(model, "cpu"),
        [Sample(row, TOKENS - 1) for row in make_ids(6, TOKENS)],
        **given | options,
    )


def parts_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("espalier.pruning.depth.measure.chunk_tokens", lambda cuts, width: 48)


@pytest.mark.parametrize("batch", [1, 3, None])
@pytest.mark.parametrize(("early", "latter"), [(0, 0), (1, 1), (2, 0)])
def test_the_search_is_the_plain_loop(
    tmp_path: Path, batch: int | None, early: int, latter: int
) -> None:
    stock, ids = make_checkpoint(tmp_path / "model", num_hidden_layers=6), make_ids(6, TOKENS)
    candidates = range(early, 6 - latter)
    found = search(tmp_path, "out", candidates=candidates, batch=batch)
    left = [*range(6)]
    assert found.unpruned == pytest.approx(plain_losses(stock, ids, left), rel=1e-5)
    for past in found.rounds:
        tried = [n for n in left if n in candidates]
        expected = {n: plain_losses(stock, ids, [m for m in left if m != n]) for n in tried}
        assert past.losses == pytest.approx(expected, rel=1e-5)
        assert past.removed == min(expected, key=lambda n: (past.losses[n], n))
        left.remove(past.removed)
    assert found.plain_runs == sum((len(candidates) - r) * (5 - r) for r in range(3))


def test_what_is_held_changes_the_runs_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint(tmp_path / "model", num_hidden_layers=6)
    parts_of_two(monkeypatch)
    state = 6 * (TOKENS - 1) * 32 * 4
    found = [search(tmp_path, str(n), kept_bytes=n * state) for n in (0, 3, 100)]
    assert found[0].rounds == found[1].rounds == found[2].rounds
    assert found[0].unpruned == found[1].unpruned == found[2].unpruned
    assert found[0].layer_runs > found[1].layer_runs > found[2].layer_runs
    assert found[0].layer_runs < found[0].plain_runs


@pytest.mark.parametrize("stop", [0, 1, 2, 4, 7])
def test_a_killed_search_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """Between its parts and between its rounds; with the same result to the last digit."""
    make_checkpoint(tmp_path / "model", num_hidden_layers=6)
    parts_of_two(monkeypatch)
    expected = search(tmp_path, "whole")
    answers, calls = Decoder.log_probabilities, itertools.count()

    def failing(*words: Any) -> Any:
        if next(calls) == stop:
            raise KeyboardInterrupt
        return answers(*words)

    with monkeypatch.context() as patched:
        patched.setattr(Decoder, "log_probabilities", failing)
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path, "killed")
    rest = itertools.count()
    monkeypatch.setattr(
        Decoder, "log_probabilities", lambda *words: (next(rest), answers(*words))[1]
    )
    assert search(tmp_path, "killed") == expected
    assert next(rest) == 9 - stop  # three rounds of three parts


def test_no_finite_loss_is_refused(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "model", num_hidden_layers=6)
    with pytest.raises(InputError, match=r"the whole model has no finite loss on these tokens; "):
        search(tmp_path, "a", loss=lambda answers: None)
    losses = itertools.count()
    with pytest.raises(InputError, match=r"^the model without layers 1 has no finite loss without"):
        search(tmp_path, "b", loss=lambda answers: 1.0 if next(losses) < 5 else None)


def parameters(**given: str) -> SlebScoreParameters:
    return SlebScoreParameters.from_assignments(given)


def test_barriers() -> None:
    assert parameters().removals(32) == 16
    assert parameters(EARLY_BARRIER="9", LATTER_BARRIER="9").removals(32) == 14
    assert parameters(LAYERS="2").removals(5) == 3
    assert [*parameters().candidates(5)] == [1, 2, 3]
    with pytest.raises(InputError, match=r"^LAYERS=1 needs 4 of 5 layers removed and EARLY_B.* 3 "):
        parameters(LAYERS="1").removals(5)
    with pytest.raises(InputError, match=r"leave none of 5 layers that may be removed; give lower"):
        parameters(EARLY_BARRIER="3", LATTER_BARRIER="2", REFERENCE="1").removals(5)
    with pytest.raises(InputError, match="LAYERS=5 layers cannot be left of 5"):
        parameters(LAYERS="5").removals(5)
    with pytest.raises(InputError, match="EARLY_BARRIER=-1"):
        parameters(EARLY_BARRIER="-1")


def test_the_references_last_layer() -> None:
    assert parameters(LAYERS="1", REFERENCE="1").removals(5) == 4
    assert order_of_the_reference([2, 1, 3], 5, 4) == [2, 1, 3, 4]
    assert order_of_the_reference([2, 1, 3], 5, 3) == [2, 1, 3]


def test_names() -> None:
    assert parameters(LAYERS="23").label() == "23-16"
    assert parameters(EARLY_BARRIER="0", SEQLEN="512").label() == "half-barriers0-1-16x512"
    assert parameters(REFERENCE="1").label() == "half-16-reference"
    with pytest.raises(InputError, match="say what is to be left: give LAYERS or PARAMS"):
        LayersLeft.from_assignments({})
