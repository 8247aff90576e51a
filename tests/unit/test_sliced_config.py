"""`pretraining_tp`, by which older versions of transformers never call the matrices."""

import json
from pathlib import Path

import pytest

from espalier.models.checkpoint.companions import CONFIG, copy_config
from espalier.models.decoder import Decoder
from espalier.models.shapes import config_file, config_notes, read_config
from espalier.pruning.layers.one_pass import one_pass
from espalier.pruning.structured.restructure import restructured_config
from espalier.pruning.structured.target import target_shapes
from methods.minitron.importance import WidthImportance
from methods.shortgpt.algorithm import BlockInfluence
from tests.unit.tiny_checkpoints import make_checkpoint, make_context, make_ids

pytestmark = pytest.mark.every_image
SIZES = {"hidden": 32, "intermediate": 44, "heads": 4}


def sliced(directory: Path, ways: int = 2) -> Path:
    make_checkpoint(directory)
    config = json.loads((directory / CONFIG).read_text()) | {"pretraining_tp": ways}
    (directory / CONFIG).write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize("ways", [2, 4, 8])  # eight do not divide the neurons
def test_scores_are_those_of_whole_products(tmp_path: Path, ways: int) -> None:
    models = {"whole": tmp_path / "whole", "sliced": sliced(tmp_path / "sliced", ways)}
    make_checkpoint(models["whole"])
    found = {}
    for name, model in models.items():
        for watcher in (WidthImportance(SIZES, 8, "l2", "mean"), BlockInfluence()):
            kind = type(watcher).__name__
            context = make_context(model, tmp_path / f"{name}-{kind}")
            found[name, kind] = one_pass(context, Decoder(model), make_ids(), 2, watcher)
    for kind in ("WidthImportance", "BlockInfluence"):
        assert found["sliced", kind] == found["whole", kind]
    assert min(found["sliced", "WidthImportance"][0]["intermediate"]) > 0


def test_it_is_published_as_it_was_computed_and_said(tmp_path: Path) -> None:
    model = sliced(tmp_path / "m")
    assert (
        read_config(model)["pretraining_tp"] == config_file(model / CONFIG)["pretraining_tp"] == 1
    )
    copy_config(model, tmp_path, "float32")
    assert json.loads((tmp_path / CONFIG).read_text()) == read_config(model)
    target = target_shapes(Decoder(model).architecture.shapes, ffn=41)
    assert restructured_config(read_config(model), [0, 1], target)["pretraining_tp"] == 1
    assert config_notes(model) == {
        "pretraining_tp": "config.json says 2; computed and published as 1"
    }


@pytest.mark.parametrize("ways", [1, None])
def test_other_configs_are_copied_byte_for_byte(tmp_path: Path, ways: int | None) -> None:
    model = sliced(tmp_path / "m", ways)  # type: ignore[arg-type]
    copy_config(model, tmp_path, "float32")
    assert (tmp_path / CONFIG).read_bytes() == (model / CONFIG).read_bytes()
    assert config_notes(model) == {}
