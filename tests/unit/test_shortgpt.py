"""Block influence against the stock model's own hidden states."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cosine_similarity

from espalier.errors import InputError
from espalier.models.decoder import Decoder
from espalier.pruning.layers.one_pass import one_pass
from espalier.pruning.layers.resume import ResumeState
from espalier.pruning.layers.taps import Tap
from methods.shortgpt.algorithm import BlockInfluence, least_influential
from tests.unit.tiny_checkpoints import make_checkpoint, make_context, make_ids

pytestmark = pytest.mark.minitron


@pytest.mark.parametrize("batch", [1, 3, None])
def test_influence_is_that_of_the_whole_model(tmp_path: Path, batch: int | None) -> None:
    stock = make_checkpoint(tmp_path / "model", num_hidden_layers=3)
    ids, states = make_ids(5), []
    for layer in stock.model.layers:
        layer.register_forward_hook(
            lambda m, i, o: states.append((i[0], o[0] if isinstance(o, tuple) else o))
        )
    with torch.inference_mode():
        stock(ids)
    context = make_context(tmp_path / "model", tmp_path / "out")
    records = one_pass(context, Decoder(tmp_path / "model", "cpu"), ids, batch, BlockInfluence())
    for record, (before, after) in zip(records, states, strict=True):
        expected = 1 - float(cosine_similarity(before, after, dim=-1).mean())
        assert record["block_influence"] == pytest.approx(expected, abs=1e-6)


def test_a_killed_pass_goes_on_at_its_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint(tmp_path / "model", num_hidden_layers=4)
    ids, decoder = make_ids(5), Decoder(tmp_path / "model", "cpu")
    whole = one_pass(
        make_context(tmp_path / "model", tmp_path / "once"), decoder, ids, None, BlockInfluence()
    )
    observer, context = BlockInfluence(), make_context(tmp_path / "model", tmp_path / "killed")
    begin, layers = observer.begin, [0]

    def failing(module: torch.nn.Module) -> list[Tap]:
        layers[0] += 1
        if layers[0] == 3:
            raise KeyboardInterrupt
        return begin(module)

    monkeypatch.setattr(observer, "begin", failing)
    with pytest.raises(KeyboardInterrupt):
        one_pass(context, decoder, ids, None, observer)
    assert ResumeState.load(context.scratch).next_layer == 2
    assert one_pass(context, decoder, ids, None, BlockInfluence()) == whole


def test_the_least_influential_first() -> None:
    influence = [0.5, 0.1, 0.3, 0.1, 0.05]
    assert least_influential(influence, 3) == [4, 3, 1]


def test_a_broken_model_says_so(tmp_path: Path) -> None:
    observer = BlockInfluence()
    observer.begin(torch.nn.Identity())
    observer.see(torch.ones(1, 2, 4), torch.full((1, 2, 4), torch.nan))
    with pytest.raises(InputError, match="NaN"):
        observer.end()
