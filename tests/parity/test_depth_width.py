"""Block influence, depth scores and width importance of the reference on stories260K."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from espalier.contract.progress import Progress
from espalier.contract.stage import StageContext
from espalier.models.decoder import Decoder
from espalier.pruning.depth.cuts import cuts_of
from espalier.pruning.depth.depth_search import choose_block
from espalier.pruning.depth.measure import measure
from espalier.pruning.depth.samples import Sample
from espalier.pruning.layers.one_pass import one_pass
from methods.minitron.importance import WidthImportance, most_important
from methods.shortgpt.algorithm import BlockInfluence, least_influential

pytestmark = pytest.mark.shared

BATCHES = [1, None]


@pytest.fixture(scope="module")
def model(shared: Path) -> Path:
    return shared / "models" / "stories260k"


@pytest.fixture(scope="module")
def ids(shared: Path) -> Any:
    file = shared / "reference" / "stories260k" / "calibration.safetensors"
    return load_file(file)["input_ids"].long()


@pytest.fixture(scope="module")
def expected(shared: Path) -> dict[str, Any]:
    file = shared / "reference" / "stories260k" / "minitron_shortgpt.json"
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def context(model: Path, output: Path) -> StageContext:
    return StageContext({"model": model}, output, output / ".run" / "scratch", "cpu", Progress())


@pytest.mark.parametrize("batch", BATCHES)
def test_block_influence(
    tmp_path: Path, model: Path, ids: Any, expected: dict[str, Any], batch: int | None
) -> None:
    decoder = Decoder(model, "cpu")
    records = one_pass(context(model, tmp_path), decoder, ids, batch, BlockInfluence())
    influence = [record["block_influence"] for record in records]
    assert influence == pytest.approx(expected["shortgpt"]["block_influence"], abs=1e-4)
    dropped = sorted(least_influential(influence, 2))
    assert dropped == expected["shortgpt"]["dropped_layers_keep3"]


@pytest.mark.parametrize("batch", BATCHES)
def test_perplexity_without_layers(
    tmp_path: Path, model: Path, ids: Any, expected: dict[str, Any], batch: int | None
) -> None:
    cuts, samples = cuts_of(5, [1, 2]), [Sample(row, 255) for row in ids]
    whole, without = measure(context(model, tmp_path), Decoder(model, "cpu"), samples, cuts, batch)

    by_size = {
        size: [without[cut].perplexity(255) for cut in cuts if cut.count == size] for size in (1, 2)
    }
    unpruned = whole.perplexity(255)
    assert unpruned is not None
    assert unpruned == pytest.approx(expected["calibration_ppl"], rel=1e-3)
    reference = expected["minitron_depth"]
    assert by_size[2] == pytest.approx(reference["ppl_by_first_dropped_layer"], rel=1e-3)
    assert by_size[1] == pytest.approx(expected["ppl_without_layer"], rel=1e-3)
    first = choose_block(by_size[2], unpruned, lower_is_better=True, best=False)
    assert [first, first + 1] == reference["dropped_layers_keep3"]


@pytest.mark.parametrize("batch", BATCHES)
def test_kept_channels_and_neurons_in_order(
    tmp_path: Path, model: Path, ids: Any, expected: dict[str, Any], batch: int | None
) -> None:
    observer = WidthImportance({"hidden": 64, "intermediate": 172, "heads": 8}, 8, "l2", "l2")
    decoder = Decoder(model, "cpu")
    records = one_pass(context(model, tmp_path), decoder, ids, batch, observer)
    reference = expected["minitron_width"]
    channels = torch.tensor([record["hidden"] for record in records]).sum(dim=0)
    assert most_important(channels, 48) == reference["kept_hidden"]
    for record, kept in zip(records, reference["kept_ffn_by_layer"], strict=True):
        assert most_important(torch.tensor(record["intermediate"]), 128) == kept
