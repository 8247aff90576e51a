"""Log-probabilities in pieces: of the vocabulary, of positions, for several streams at once."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from espalier.contract.files import write_text
from espalier.errors import InputError
from espalier.models import decoder as decoder_module
from espalier.models.checkpoint import reader as reader_module
from espalier.models.decoder import Decoder
from espalier.pruning.depth.cuts import Cut, cuts_of
from espalier.pruning.depth.measure import STATE, measure
from espalier.pruning.depth.samples import Sample
from tests.unit.tiny_checkpoints import load_all, make_checkpoint, make_context, make_ids, rewrite

pytestmark = pytest.mark.every_image


@pytest.mark.parametrize(("most", "rows"), [(1, 7), (100, 7), (5000, 96), (1 << 24, 96)])
@pytest.mark.parametrize("tied", [False, True])
def test_pieces_are_bounded_and_give_what_the_whole_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, rows: int, tied: bool
) -> None:
    stock = make_checkpoint(tmp_path / "m", tie_word_embeddings=tied)
    decoder = Decoder(tmp_path / "m")
    streams = [torch.randn(53, 32) for _ in range(3)]
    targets = torch.randint(0, 96, (53,))
    monkeypatch.setattr(decoder_module, "LOGITS_AT_ONCE", most)
    monkeypatch.setattr(reader_module, "BLOCK_BYTES", rows * 32 * 4)
    sizes: list[int] = []
    linear = nn.functional.linear

    def counted(*args: Any) -> Any:
        sizes.append(linear(*args).numel())
        return linear(*args)

    monkeypatch.setattr(nn.functional, "linear", counted)
    found = decoder.log_probabilities(streams, targets)
    monkeypatch.undo()
    assert max(sizes) <= max(most, rows)
    assert sum(sizes) == 3 * 53 * 96
    for stream, (log_probabilities, greedy) in zip(streams, found, strict=True):
        logits = stock.lm_head(stream).detach()
        expected = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
        torch.testing.assert_close(log_probabilities, expected, atol=2e-6, rtol=2e-6)
        assert torch.equal(greedy, logits.gather(1, targets[:, None])[:, 0] == logits.amax(-1))


@pytest.mark.parametrize(("scored", "tokens"), [(0, 5), (5, 5), (1, 1)])
def test_nothing_to_predict_is_refused(tmp_path: Path, scored: int, tokens: int) -> None:
    make_checkpoint(tmp_path / "m")
    decoder, cuts = Decoder(tmp_path / "m"), cuts_of(2, [1])
    context = make_context(tmp_path / "m", tmp_path / "o")
    with pytest.raises(InputError, match="there is nothing to score"):
        measure(context, decoder, [], cuts)
    samples = [Sample(torch.arange(9), 3), Sample(torch.arange(tokens), scored)]
    with pytest.raises(InputError, match=f"sample 1 has {tokens} tokens of which {scored} are"):
        measure(context, decoder, samples, cuts)


def test_a_cut_that_overflows_has_no_score_and_the_whole_model_is_refused(tmp_path: Path) -> None:
    """Layer 0 makes room that layer 1 needs: without it, float16 is left."""
    make_checkpoint(tmp_path / "m", dtype=torch.float16, num_hidden_layers=3)
    weights = load_all(tmp_path / "m")
    decoder, cuts = Decoder(tmp_path / "m"), cuts_of(3, [1])
    samples = [Sample(row, 23) for row in make_ids()]
    attempt = decoder._run

    def without_the_first(module: nn.Module, number: int, hidden: torch.Tensor) -> torch.Tensor:
        outputs = attempt(module, number, hidden)
        if number == 0:
            return outputs + 8
        return outputs if hidden.mean() > 4 else outputs * torch.inf

    decoder._run = without_the_first  # type: ignore[method-assign]
    context = make_context(tmp_path / "m", tmp_path / "o")
    whole, without = measure(context, decoder, samples, cuts)
    assert whole.perplexity(23) is not None
    assert without[Cut(0, 1)].perplexity(23) is None
    assert all(without[cut].perplexity(23) is not None for cut in cuts[1:])
    state = (context.scratch / STATE).read_text()
    assert "NaN" not in state
    assert "null" in state
    again = measure(context, decoder, samples, cuts)
    assert again[0] == whole
    assert again[1][Cut(0, 1)].perplexity(23) is None
    huge = weights["model.layers.1.mlp.up_proj.weight"].fill_(6e4)
    rewrite(tmp_path / "m", model__layers__1__mlp__up_proj__weight=huge)
    write_text(context.scratch / STATE, "")
    with pytest.raises(InputError, match="layer 1's activations overflow float16"):
        measure(context, Decoder(tmp_path / "m"), samples, cuts)
