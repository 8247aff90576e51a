"""What each command does with a padded model, and with one of a foreign form."""

import json
import shutil
from pathlib import Path

import pytest

from espalier.contract.pruned import Padded
from tests.contract.command import espalier, refused
from tests.fsdp.tiny_runs import token_data
from tests.tiny import tiny_llama, token_rows
from tests.tiny_pruned import PADDED, tiny_foreign, tiny_padded


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model of each kind among the checkpoints, a stock one, and data of both forms."""
    store = tmp_path_factory.mktemp("store")
    tiny_foreign(store / "checkpoints" / "foreign")
    tiny_padded(store / "checkpoints" / "padded")
    tiny_llama(store / "stock")
    token_data(store / "walks", store / "stock")
    token_rows(store / "ids.safetensors")
    return store


COMMANDS = {
    "wanda": ("prune-wanda", "MODEL={}", "CALIBRATION={store}/ids.safetensors", "SUITE=none"),
    "magnitude": ("prune-magnitude", "MODEL={}", "SUITE=none"),
    "shortgpt": ("prune-shortgpt", "MODEL={}", "LAYERS=2"),
    "score-shortgpt": ("score-shortgpt", "MODEL={}", "CALIBRATION={store}/ids.safetensors"),
    "minitron-width": ("prune-minitron-width", "MODEL={}", "FFN=8"),
    "flap": ("prune-flap", "MODEL={}", "CALIBRATION={store}/ids.safetensors"),
    "score-flap": ("score-flap", "MODEL={}", "CALIBRATION={store}/ids.safetensors"),
    "wanda-sp": ("prune-wanda-sp", "MODEL={}", "CALIBRATION={store}/ids.safetensors"),
    "eval": ("eval", "CKPT={}", "DATA={store}/text.txt"),
    "eval-legacy": ("eval", "CKPT={}", "LEGACY=1", "SUITE=tasks", "TASK_DATA={store}"),
    "eval-jax": ("eval", "CKPT={}", "BACKEND=jax", "TASK_DATA={store}"),
    "train-gpu": ("train-gpu", "CKPT={}", "DATA={store}/walks"),
    "train-gpu as TEACHER": ("train-gpu", "CKPT={store}/stock", "TEACHER={}", "DATA={store}/walks"),
    "recover": ("recover", "CKPT={}", "DATA={store}/text.txt"),
    "recover as TEACHER": ("recover", "CKPT={store}/stock", "TEACHER={}", "DATA={store}/text.txt"),
    "train-tpu": ("train-tpu", "CKPT={}", "DATA={store}/walks"),
    "to-maxtext": ("to-maxtext", "CKPT={}"),
    "plan-gpu": ("plan-gpu", "CKPT={}"),
    "plan-tpu": ("plan-tpu", "CKPT={}", "TPU=v4-8"),
    "adopt": ("adopt", "FROM={store}/checkpoints/{}", "NAME=mine"),
}  # fmt: skip
PRUNING = (
    *("wanda", "magnitude", "shortgpt", "score-shortgpt", "minitron-width"),
    *("flap", "score-flap", "wanda-sp"),
)


def words(command: str, model: str, store: Path) -> list[str]:
    (store / "text.txt").write_text("the quick brown fox\n" * 50)
    return [word.format(model, store=store) for word in COMMANDS[command]]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_foreign_form_is_refused_where_it_cannot_be_read(store: Path, command: str) -> None:
    done = espalier(store, *words(command, "foreign", store))
    stage = command.partition(" ")[0]
    refused(
        done, 2, "foreign has SliceGPT's rotations between its blocks, which "
        f"{stage} cannot read; use image slicegpt"
    )  # fmt: skip


@pytest.mark.parametrize("command", PRUNING)
def test_a_padded_model_is_not_pruned_again(store: Path, command: str) -> None:
    done = espalier(store, *words(command, "padded", store))
    refused(done, 2, "padded is padded: its layers have different true widths", "its parent")


def test_a_padded_model_is_evaluated(store: Path) -> None:
    done = espalier(store, *words("eval", "padded", store), "SEQLEN=64", "SUITE=perplexity")
    assert done.returncode == 0, done.stderr


def test_a_manifest_that_lies_about_its_padding(store: Path, tmp_path: Path) -> None:
    """An account that contradicts itself is not read as one that holds."""
    model = tmp_path / "padded"
    shutil.copytree(store / "checkpoints" / "padded", model)
    manifest = json.loads((model / "manifest.json").read_text())
    manifest["pruning"]["layers"][0]["intermediate"] = 48
    (model / "manifest.json").write_text(json.dumps(manifest))
    done = espalier(tmp_path, "prune-magnitude", f"MODEL={model}", "SUITE=none")
    refused(done, 2, "is not a manifest of contract 1 (pruning")


def test_the_hand_made_account_is_one() -> None:
    assert Padded.model_validate(PADDED.model_dump()) == PADDED
