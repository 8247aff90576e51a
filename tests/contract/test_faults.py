"""What goes wrong with models, tokens, disks and processes: one sentence, the right code."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from espalier.contract.discovery import stages
from espalier.contract.paths import ROOT
from espalier.host.runtimes.base import Launch
from espalier.host.runtimes.base import quiet_environment as stage_environment
from tests.contract.command import (
    command,
    differing,
    espalier,
    quiet_environment,
    refused,
    tree,
    without_times,
)
from tests.contract.waiting import layers_written, wait_for_layer
from tests.tiny import tiny_llama, token_rows


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("parent") / "tiny")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return token_rows(tmp_path_factory.mktemp("tokens") / "ids.safetensors")


@pytest.fixture
def damaged(tmp_path: Path, parent: Path) -> Path:
    return shutil.copytree(parent, tmp_path / "damaged")


def wanda(store: Path, model: Path, tokens: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return espalier(
        store, "prune-wanda", f"MODEL={model}", f"CALIBRATION={tokens}", "SUITE=none", *words
    )


def test_a_pruned_checkpoint_is_published(tmp_path: Path, parent: Path, tokens: Path) -> None:
    done = wanda(tmp_path, parent, tokens)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path}/checkpoints/tiny-wanda-0.5\n"
    assert espalier(tmp_path, "verify", "CKPT=tiny-wanda-0.5").returncode == 0
    shown = espalier(tmp_path, "show", "CKPT=tiny-wanda-0.5")
    assert "sparsity 0.5000 achieved" in shown.stdout
    assert "model tiny  (a plain path)" in shown.stdout
    listed = espalier(tmp_path, "list")
    assert "checkpoints/tiny-wanda-0.5" in listed.stdout


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("SPARSITY=1.5", "SPARSITY=1.5 should be less than 1"),
        ("PATTERN=5:4", "PATTERN=5:4 is impossible"),
        ("PATTERN=17:32", "are not divisible by 32"),
        ("SEQLEN=65", "shorter than SEQLEN=65"),
        ("SAMPLES=0", "SAMPLES=0"),
        ("NAME=../escape", "cannot name an artifact"),
        ("NAME=/tmp/escape", "cannot name an artifact"),
        ("CALIBRATION=/nowhere.safetensors", "/nowhere.safetensors does not exist"),
        ("LAYERS=3", "LAYERS is not a parameter here"),
    ],
)
def test_wrong_parameters(tmp_path: Path, parent: Path, tokens: Path, word: str, says: str) -> None:
    store = tmp_path / "store"
    refused(wanda(store, parent, tokens, word), 2, says)
    nothing_published(store)


def test_a_width_that_2_of_4_does_not_divide(tmp_path: Path, tokens: Path) -> None:
    model = tiny_llama(tmp_path / "odd", intermediate_size=50)
    refused(wanda(tmp_path / "store", model, tokens, "PATTERN=2:4"), 2, "not divisible by 4")
    nothing_published(tmp_path / "store")


def test_seqlen_above_the_models_positions(tmp_path: Path, parent: Path) -> None:
    long = token_rows(tmp_path / "long.safetensors", width=256)
    refused(wanda(tmp_path / "store", parent, long, "SEQLEN=256"), 2, "128 positions")
    nothing_published(tmp_path / "store")


def test_a_text_shorter_than_seqlen(tmp_path: Path, parent: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("the quick brown fox")
    refused(wanda(tmp_path / "store", parent, text, "SEQLEN=100"), 2, "SEQLEN=100")
    nothing_published(tmp_path / "store")


def truncate_shard(model: Path) -> None:
    shard = model / "model.safetensors"
    os.truncate(shard, shard.stat().st_size - 100)


def only_pickles(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04N.")


def name_a_missing_file(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    map_ = dict.fromkeys(weights, "model-00001-of-00002.safetensors")
    map_["lm_head.weight"] = "model-00002-of-00002.safetensors"
    index = {"metadata": {}, "weight_map": map_}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


def put_nan(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 3] = torch.nan
    save_file(weights, model / "model.safetensors", {"format": "pt"})


def leave_out_a_tensor(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    del weights["model.layers.2.self_attn.o_proj.weight"]
    save_file(weights, model / "model.safetensors", {"format": "pt"})


def change(model: Path, **values: object) -> None:
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def another_family(model: Path) -> None:
    change(model, model_type="opt", architectures=["OPTForCausalLM"])


def larger_tokenizer(model: Path) -> None:
    path = model / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["extra"] = 400
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (truncate_shard, "model.safetensors"),
        (only_pickles, "pickle"),
        (name_a_missing_file, "model-00002-of-00002.safetensors"),
        (put_nan, "model.layers.1.mlp.up_proj.weight"),
        (leave_out_a_tensor, "model.layers.2.self_attn.o_proj.weight"),
        (another_family, "llama, mistral, qwen2, qwen3"),
        (larger_tokenizer, "tokenizer"),
    ],
)
def test_a_damaged_model(
    tmp_path: Path, damaged: Path, tokens: Path, damage: Callable[[Path], None], says: str
) -> None:
    damage(damaged)
    before = tree(damaged)
    store = tmp_path / "store"
    refused(wanda(store, damaged, tokens), 2, says)
    nothing_published(store)
    assert not differing(tree(damaged), before)


def test_ids_beyond_the_vocabulary(tmp_path: Path, parent: Path) -> None:
    save_file({"input_ids": torch.full((2, 64), 5000)}, tmp_path / "ids.safetensors")
    refused(wanda(tmp_path / "store", parent, tmp_path / "ids.safetensors"), 2, "vocabulary")
    nothing_published(tmp_path / "store")


def test_cuda_without_a_gpu_stops(tmp_path: Path, parent: Path, tokens: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = wanda(tmp_path / "store", parent, tokens, "ACCEL=cuda")
    refused(done, 3, "no GPU is visible here")
    nothing_published(tmp_path / "store")


def test_what_cannot_fit_is_refused_and_force_overrides(
    tmp_path: Path, parent: Path, tokens: Path
) -> None:
    store = tmp_path / "store"
    refused(wanda(store, parent, tokens, "MEMORY=1m"), 3, "memory is needed", "FORCE=1")
    assert not store.exists()
    assert wanda(store, parent, tokens, "MEMORY=1m", "FORCE=1").returncode == 0


def test_without_a_network_the_checkpoint_is_there_and_not_evaluated(
    tmp_path: Path, parent: Path
) -> None:
    words = ["prune-magnitude", f"MODEL={parent}"]
    unreachable = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    done = espalier(tmp_path, *words, environment=unreachable)
    assert done.returncode == 0, done.stderr
    assert "Not evaluated." in done.stderr
    assert done.stdout == f"{tmp_path}/checkpoints/tiny-magnitude-0.5\n"
    asked = espalier(tmp_path, *words, "SUITE=quick", environment=unreachable)
    refused(asked, 3, "cannot be fetched")


def test_a_dry_run_says_what_would_run(tmp_path: Path, parent: Path, tokens: Path) -> None:
    done = wanda(tmp_path / "store", parent, tokens, "DRY_RUN=1")
    assert done.returncode == 0
    for text in ("tiny-wanda-0.5", "wanda (would run)", "at the peak", "SPARSITY=0.5", str(tokens)):
        assert text in done.stdout
    assert not (tmp_path / "store").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few kilobytes, where mounting one is allowed."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(small_disk: Path, parent: Path, tokens: Path) -> None:
    refused(wanda(small_disk, parent, tokens), 3, "disk is needed")
    for _ in range(2):  # what was written stays, and is gone on with
        done = wanda(small_disk, parent, tokens, "FORCE=1")
        refused(done, 3, "No space left on device", "un the same command to resume from tensor ")
    nothing_published(small_disk)
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    assert wanda(small_disk, parent, tokens, "FORCE=1").returncode == 0


@pytest.fixture
def read_only_disk(small_disk: Path) -> Path:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    return small_disk


def test_a_read_only_store(read_only_disk: Path, parent: Path, tokens: Path) -> None:
    refused(wanda(read_only_disk, parent, tokens, "FORCE=1"), 3, "cannot be written")


@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "magnitude"])
def test_killed_in_a_layer_the_same_command_gives_the_same_bytes(
    tmp_path: Path, tokens: Path, method: str
) -> None:
    model = tiny_llama(tmp_path / "model", num_hidden_layers=24)
    words = [f"prune-{method}", f"MODEL={model}", "SUITE=none"]
    words += [f"CALIBRATION={tokens}"] if method != "magnitude" else []
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert espalier(whole, *words).returncode == 0
    process = subprocess.Popen(
        command(killed, *words),
        env=quiet_environment(),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    partial = "checkpoints/*.partial-*"
    wait_for_layer(killed, 2, process)
    for pid in stage_processes(killed):
        os.kill(pid, signal.SIGKILL)
    assert process.wait(60) == 75
    nothing_published(killed)
    assert 3 <= len(layers_written(killed)) < 24
    assert espalier(killed, *words).returncode == 0
    name = f"checkpoints/model-{method}-0.5"
    one, other = (without_times(tree(store / name)) for store in (whole, killed))
    assert one
    assert not differing(one, other)
    assert not list(killed.glob(partial))


def stage_processes(store: Path) -> list[int]:
    """Processes that run a stage in `store`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"espalier.run_stage" in words and any(str(store).encode() in w for w in words):
            found.append(int(entry.parent.name))
    assert found
    return found


def test_interrupted_at_a_layer(tmp_path: Path, tokens: Path) -> None:
    model = tiny_llama(tmp_path / "model", num_hidden_layers=24)
    words = ["prune-sparsegpt", f"MODEL={model}", f"CALIBRATION={tokens}", "SUITE=none"]
    process = subprocess.Popen(
        command(tmp_path, *words), env=quiet_environment(), stderr=subprocess.PIPE, text=True
    )
    wait_for_layer(tmp_path, 1, process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 75, stderr
    assert "run the same command to resume" in stderr
    assert "Traceback" not in stderr
    done = espalier(tmp_path, *words)
    assert done.returncode == 0
    assert "prune 24/24" in done.stderr


def nothing_published(store: Path) -> None:
    assert not list(store.glob("**/manifest.json"))


def test_no_stage_leaves_the_hub_on() -> None:
    """But for those that fetch or push, the hub is switched off in a stage's environment."""
    for stage in stages().values():
        launch = Launch(stage.image, "cpu", "id", {}, ROOT, network=stage.network)
        offline = stage_environment(launch)["HF_HUB_OFFLINE"]
        assert offline == ("0" if stage.verb in ("fetch", "fetch-data", "push") else "1")
