"""HF to MaxText to HF: the same bits, the same logits, and a wrong rotation is caught."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from espalier.contract.discovery import stage_named
from espalier.contract.manifest import read_manifest
from espalier.contract.store import Store
from espalier.errors import InputError
from espalier.host.execution import Executor
from espalier.host.plan import Request
from espalier.host.runtimes.base import Launch
from espalier.host.runtimes.local import LocalRuntime
from espalier.host.settings import Settings
from espalier.host.stage_exit import StageFailed, check
from tests.contract.command import espalier, refused
from tests.contract.maxtext_stages import Altered, maxtext, returns_bit_by_bit
from tests.tiny import tiny_llama
from tests.tiny_pruned import PADDED, tiny_padded

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SCALED = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
SHAPES: dict[str, dict[str, Any]] = {
    # 4 heads of 8 are wider than what is hidden.
    "depth-and-width": {"num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 36},
    "tied": {"tie_word_embeddings": True, "num_key_value_heads": 1},
    "scaled": {"rope_parameters": SCALED, "num_attention_heads": 2, "head_dim": 12},
}


@pytest.fixture(scope="module", autouse=True)
def _packages() -> None:
    maxtext()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_comes_back_bit_by_bit(tmp_path: Path, shape: str) -> None:
    model = tiny_llama(tmp_path / shape, initializer_range=0.3, **SHAPES[shape])
    assert returns_bit_by_bit(tmp_path / "store", model)["logits_max_difference"] < 2e-4


def test_scaling_as_older_configs_state_it(tmp_path: Path) -> None:
    """As on the hub beside the weights of Llama 3.1."""
    model = tiny_llama(tmp_path / "model", initializer_range=0.3, **SHAPES["scaled"])
    config = json.loads((model / "config.json").read_text())
    scaling = config.pop("rope_parameters")
    config |= {"rope_theta": scaling.pop("rope_theta"), "rope_scaling": scaling}
    (model / "config.json").write_text(json.dumps(config))
    returns_bit_by_bit(tmp_path / "store", model)


def test_unscanned_layers_come_back_too(tmp_path: Path) -> None:
    returns_bit_by_bit(tmp_path / "store", tiny_llama(tmp_path / "model"), "SCAN=0")


def test_a_padded_model_goes_there_and_back_as_one(tmp_path: Path) -> None:
    """MaxText holds the padded form, which is a stock one; the account goes with it."""
    returns_bit_by_bit(tmp_path / "store", tiny_padded(tmp_path / "padded"))
    for place in ("maxtext/padded-there", "checkpoints/padded-back"):
        manifest = read_manifest(tmp_path / "store" / place)
        assert manifest.pruning == PADDED
        assert [entry.kind for entry in manifest.ledger] == ["pretraining"]  # converting costs none


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_as_it_is(tmp_path: Path, dtype: torch.dtype) -> None:
    returns_bit_by_bit(tmp_path / "store", tiny_llama(tmp_path / "model", dtype=dtype))


@pytest.mark.shared
def test_a_trained_model_comes_back(tmp_path: Path, shared: Path) -> None:
    returns_bit_by_bit(tmp_path / "store", shared / "models" / "stories260k")


@dataclass(frozen=True)
class OneImage(LocalRuntime):
    """Is in image maxtext, as a service of compose is."""

    def is_around(self, image: str) -> bool:
        return image == "maxtext"


def test_what_another_image_checks_waits_for_it(tmp_path: Path) -> None:
    model, store = tiny_llama(tmp_path / "model"), Store(tmp_path / "store")
    stage, settings = stage_named("to-maxtext"), Settings(store=store.root, threads=1)
    request = Request(stage, stage.parameters(), {"model": model}, "there")
    waiting = Executor(store, OneImage(), settings)
    target = waiting.execute(request)
    assert not target.exists()
    [partial] = store.partials(target)
    made_at = (partial / ".run" / "made.json").stat().st_mtime_ns
    waiting.execute(request)
    assert (partial / ".run" / "made.json").stat().st_mtime_ns == made_at
    checking = Executor(store, LocalRuntime(), settings)
    with pytest.raises(InputError, match="there is no unpublished candidate for"):
        checking.publish_made(store.path("maxtext", "here"))
    assert checking.publish_made(target) == target
    assert json.loads((target / "manifest.json").read_text())["checks"]["logits_max_kl"] < 1e-5
    assert store.partials(target) == []
    assert not (target / ".run").exists()
    assert checking.publish_made(target) == waiting.execute(request) == target


@dataclass(frozen=True)
class EndsIn(LocalRuntime):
    """Whose checks end in a code, as where memory or an engine is short."""

    code: int = 0

    def run(self, launch: Launch) -> int:
        return self.code if launch.image == "eval" else super().run(launch)


@pytest.mark.parametrize("code", [1, 2, 3, 125])
def test_what_did_not_pass_its_check_is_kept(tmp_path: Path, code: int) -> None:
    """Days of training are not thrown away for lack of an engine, nor for a check that is wrong."""
    store = Store(tmp_path)
    partial = store.partial("maxtext", "there", "f" * 64)
    (partial / ".run").mkdir(parents=True)
    launch = Launch("eval", "cpu", "run", {}, partial)
    with pytest.raises(StageFailed):
        check(EndsIn(code=code), launch)
    assert store.partials(store.path("maxtext", "there")) == [partial]


PLANTED = {
    "interleaved": "m.StatedRotary._rotate_half = lambda self, x: __import__('jax').numpy.stack("
    "[-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)",
    "theta": "import numpy; m.inverse_frequencies = lambda config: "
    "(numpy.float32(1) / numpy.float32(20000) ** (numpy.arange(0, 8, 2) / 8)).astype('float32')",
}


@pytest.mark.parametrize("error", PLANTED)
def test_a_planted_rotary_error_is_caught(
    tmp_path: Path, error: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model = tiny_llama(tmp_path / "model", initializer_range=0.3)
    plant = f"import training.maxtext_model.model as m; {PLANTED[error]}"
    stage, store = stage_named("to-maxtext"), Store(tmp_path / "store")
    request = Request(stage, stage.parameters(), {"model": model}, "wrong")
    with pytest.raises(StageFailed) as failure:
        Executor(store, Altered(before=plant), Settings(store=store.root, threads=1)).execute(
            request
        )
    assert failure.value.exit_code == InputError.exit_code
    assert "logits differ" in capfd.readouterr().err
    target = store.path("maxtext", "wrong")
    assert not target.exists()
    (refused,) = store.partials(target)  # for whoever looks into it; make gc ALL=1 removes it
    assert (refused / ".run" / "made.json").is_file()


def test_what_maxtext_has_no_place_for_is_refused(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "model", attention_bias=True, mlp_bias=True)  # as FLAP's are
    done = espalier(tmp_path / "store", "to-maxtext", f"CKPT={model}", "RUNTIME=local")
    refused(done, 2, "biases of attention", "where a pruning has added them, prune with BIAS=0")
    refused(espalier(tmp_path / "store", "to-hf", "CKPT=nothing"), 2, "make to-maxtext")
