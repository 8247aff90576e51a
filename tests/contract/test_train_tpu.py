"""Training by MaxText: FSDP's losses, zeros that stay, kills, stops, and several processes."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from espalier.contract.discovery import stage_named
from espalier.contract.manifest import read_manifest
from espalier.contract.saved import saved_in
from espalier.contract.store import Store
from espalier.host.execution import Executor
from espalier.host.plan import Request
from espalier.host.runtimes.local import LocalRuntime
from espalier.host.settings import Settings
from espalier.host.stage_exit import StageFailed
from tests.contract.command import command, espalier, quiet_environment, refused
from tests.contract.maxtext_stages import Altered, OwnDisks, TpuMachines, made, maxtext, weights
from tests.contract.test_failures import at_call
from tests.contract.test_faults import stage_processes
from tests.contract.waiting import wait_for
from tests.fsdp.tiny_runs import token_data
from tests.tiny import tiny_llama
from tests.tiny_pruned import PADDED, padding_by_hand, tiny_padded

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RUN = ("BATCH=4", "SEQLEN=32", "LR=0.003", "VALID_TOKENS=512", "NAME=run", "EPOCHS=9")
STEP = 4 * 32
HERE = ("RUNTIME=inside",)
"""For a stage that is not tested here: by the tests' interpreter, which is warm."""


@pytest.fixture(scope="module", autouse=True)
def _packages() -> None:
    maxtext()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "tiny")


@pytest.fixture
def data(tmp_path: Path, model: Path) -> Path:
    return token_data(tmp_path / "walks", model)


def metrics(directory: Path, name: str = "loss") -> list[float]:
    rows = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return [row[name] for row in rows if name in row and "lr" in row]


@pytest.mark.parametrize("decay", ["all", "matrices"])
def test_it_tracks_the_other_trainer(tmp_path: Path, model: Path, data: Path, decay: str) -> None:
    """The same data, order and schedule: 20 steps of which each loss is the same."""
    words = [f"CKPT={model}", f"DATA={data}", *RUN, f"TOKENS={20 * STEP}", "Z_LOSS=0.0001"]
    words += [f"DECAY={decay}", "WEIGHT_DECAY=3"]  # enough to be seen in so few steps
    one = made(tmp_path / "tpu", "train-tpu", *words)
    other = made(tmp_path / "gpu", "train-gpu", *words, "TRACKER=none")
    for name, close in (("loss", 1e-5), ("grad_norm", 1e-3), ("lr", 1e-7), ("valid_loss", 1e-5)):
        assert metrics(one, name) == pytest.approx(metrics(other, name), rel=close)
    told = json.loads((one / "manifest.json").read_text())
    assert told["checks"]["logits_max_difference"] < 1e-3
    assert told["ledger"][-1]["tokens"] == 20 * STEP
    for name, weight in weights(other).items():
        torch.testing.assert_close(weights(one)[name], weight, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("pattern", "init"),
    [
        ("unstructured", "checkpoint"), ("unstructured", "random"), ("2:4", "checkpoint"),
        ("2:4", "random"),
    ],
)  # fmt: skip
def test_zeros_stay_exactly(
    tmp_path: Path, model: Path, data: Path, pattern: str, init: str
) -> None:
    """Whether a manifest says so, or the file alone, as of 2:4 from a checkpoint."""
    store = tmp_path / "store"
    words = ["prune-magnitude", f"MODEL={model}", f"PATTERN={pattern}", "SPARSITY=0.5"]
    pruned = made(store, *words, "SUITE=none", "NAME=sparse", *HERE)
    if (pattern, init) == ("2:4", "checkpoint"):
        pruned = shutil.copytree(pruned, tmp_path / "foreign")
        (pruned / "manifest.json").unlink()
    training = [f"CKPT={pruned}", f"DATA={data}", *RUN, f"TOKENS={50 * STEP}", f"INIT={init}"]
    trained = made(store, "train-tpu", *training)
    before, after = weights(pruned), weights(trained)
    for name, weight in before.items():
        if ".layers." in name and weight.dim() == 2:
            assert torch.equal(weight == 0, after[name] == 0), name
            assert not torch.equal(weight, after[name])
    pruning = json.loads((trained / "manifest.json").read_text())["pruning"]
    assert (pruning["policy"], pruning["pattern"]) == ("preserve", pattern)
    assert pruning["achieved"] == pytest.approx(0.5, abs=0.005)


def test_padding_stays_zero_under_any_policy(tmp_path: Path, data: Path) -> None:
    padded = tiny_padded(tmp_path / "padded")
    training = [f"CKPT={padded}", f"DATA={data}", *RUN, f"TOKENS={20 * STEP}", "POLICY=densify"]
    trained = made(tmp_path / "store", "train-tpu", *training)
    before, after, padding = weights(padded), weights(trained), padding_by_hand()
    for name, weight in before.items():
        if ".layers." in name and weight.dim() == 2:
            where = padding.get(name, torch.zeros_like(weight, dtype=torch.bool))
            assert torch.count_nonzero(after[name][where]) == 0, name
            assert (after[name] != weight)[~where].float().mean() > 0.9, name
    assert read_manifest(trained).pruning == PADDED


def test_densify_trains_every_weight(tmp_path: Path, model: Path, data: Path) -> None:
    store = tmp_path / "store"
    pruning = ["prune-magnitude", f"MODEL={model}", "SUITE=none", "NAME=sparse"]
    pruned = made(store, *pruning, *HERE)
    training = [f"CKPT={pruned}", f"DATA={data}", *RUN, f"TOKENS={5 * STEP}", "POLICY=densify"]
    trained = made(store, "train-tpu", *training)
    matrices = [w for name, w in weights(trained).items() if ".layers." in name and w.dim() == 2]
    assert all(torch.count_nonzero(weight) > 0.9 * weight.numel() for weight in matrices)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_run_goes_on(
    tmp_path: Path, model: Path, data: Path, number: signal.Signals
) -> None:
    """Killed between two saved states, or asked to stop: losses and weights of a run at once."""
    words = ["train-tpu", f"CKPT={model}", f"DATA={data}", *RUN, f"TOKENS={100 * STEP}"]
    words += ["SAVE_EVERY=7", "VALID_EVERY=100"]
    whole = made(tmp_path / "whole", *words)
    store = tmp_path / "killed"
    process = subprocess.Popen(
        command(store, *words, "RUNTIME=local"),
        env=quiet_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(store, "checkpoints/run.partial-*/.run/scratch/state/steps/14", process)
    if number == signal.SIGTERM:
        process.send_signal(number)
    for pid in stage_processes(store) if number == signal.SIGKILL else []:
        os.kill(pid, number)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 75, told
    assert "Traceback" not in told
    again = made(store, *words)
    assert metrics(again) == metrics(whole)
    assert len(metrics(again)) == 100
    before, after = weights(whole), weights(again)
    assert all(torch.equal(before[name], after[name]) for name in before)


def asked(words: list[str], store: Path) -> Request:
    """What a command's words ask for, with the rows that it has exported to the store."""
    given = dict(word.split("=") for word in words)
    model = Path(given.pop("CKPT"))
    del given["DATA"], given["NAME"]
    exported = next((store / "data").glob("walks-arrayrecord-*"))
    stage = stage_named("train-tpu")
    parameters = stage.parameters.from_assignments(given)
    return Request(stage, parameters, {"model": model, "data": exported}, "run")


@pytest.mark.parametrize("trainer", ["train-tpu", "train-gpu"])
def test_the_best_weights_outlive_the_machine(
    tmp_path: Path, model: Path, data: Path, trainer: str
) -> None:
    """A rate that ruins the model after its first validation, and a stop between."""
    words = [trainer, f"CKPT={model}", f"DATA={data}", *RUN, f"TOKENS={80 * STEP}", "LR=2"]
    words += ["SAVE_EVERY=7", "VALID_EVERY=5", "SCHEDULE=constant", "WARMUP=0.5"]
    whole = made(tmp_path / "whole", *words)
    store, states = tmp_path / "stopped", tmp_path / "states"
    environment = quiet_environment() | {"ESPALIER_STATE": str(states)}
    process = subprocess.Popen(
        command(store, *words, "RUNTIME=local"),
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    kept = {
        "train-tpu": "states/steps/21",
        "train-gpu": "stopped/checkpoints/*/.run/scratch/state/step-*21",
    }
    wait_for(tmp_path, kept[trainer], process)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 75, told
    if trainer == "train-tpu":  # another machine has only what is below ESPALIER_STATE
        [partial] = (store / "checkpoints").glob("run.partial-*")
        shutil.rmtree(partial)
    done = espalier(store, *words, "RUNTIME=local", environment={"ESPALIER_STATE": str(states)})
    assert done.returncode == 0, done.stderr
    assert len(metrics(store / "checkpoints" / "run")) == 80  # none is lost with the machine
    step, _ = json.loads((whole / "manifest.json").read_text())["training"]["best"].values()
    assert step < 80
    again = store / "checkpoints" / "run"
    for name, weight in weights(whole / "best").items():
        assert torch.equal(weights(again / "best")[name], weight), name
        assert not torch.equal(weights(again)[name], weight) or "norm" in name


def test_two_processes_are_one(tmp_path: Path, model: Path, data: Path) -> None:
    """Two machines, each with two devices, under jax.distributed; accumulating on one."""
    pruning = ["prune-magnitude", f"MODEL={model}", "PATTERN=2:4", "SUITE=none", "NAME=sparse"]
    pruned = made(tmp_path / "one", *pruning, *HERE)
    words = [f"CKPT={pruned}", f"DATA={data}", *RUN, f"TOKENS={12 * STEP}", "Z_LOSS=0.01"]
    one = made(tmp_path / "one", "train-tpu", *words, "MICRO_BATCH=2")
    store, request = Store(tmp_path / "two"), asked(words, tmp_path / "one")
    settings = Settings(store=store.root, gpus=2, threads=1)
    two = Executor(store, TpuMachines(), settings).execute(request)
    assert metrics(two) == pytest.approx(metrics(one), rel=1e-5)
    assert json.loads((two / "manifest.json").read_text())["notes"]["devices"] == 4
    for name, weight in weights(one).items():
        torch.testing.assert_close(weights(two)[name], weight, rtol=0, atol=1e-5)
        assert torch.equal(weights(two)[name] == 0, weight == 0), name
    assert json.loads((two / "manifest.json").read_text())["pruning"]["pattern"] == "2:4"


def test_machines_that_share_no_disk_stop_together_and_go_on(
    tmp_path: Path, model: Path, data: Path
) -> None:
    """Each gets the signal, as from `docker stop` on the hosts of a slice."""
    words = [f"CKPT={model}", f"DATA={data}", *RUN, f"TOKENS={60 * STEP}", "SAVE_EVERY=7"]
    one = made(tmp_path / "one", "train-tpu", *words)
    store, request = Store(tmp_path / "two"), asked(words, tmp_path / "one")
    settings = Settings(store=store.root, threads=1)
    with pytest.raises(StageFailed) as stopped:
        Executor(store, OwnDisks(stop_after="steps/14"), settings).execute(request)
    assert stopped.value.exit_code == 75
    again = Executor(store, OwnDisks(), settings).execute(request)
    assert len(metrics(again)) == 60
    assert metrics(again) == pytest.approx(metrics(one), rel=1e-4)


def test_a_failure_at_a_step_keeps_the_states(tmp_path: Path, model: Path, data: Path) -> None:
    """A bug, then memory that runs out; in the end the losses are those of a run at once."""
    words = [f"CKPT={model}", f"DATA={data}", *RUN, f"TOKENS={20 * STEP}", "SAVE_EVERY=4"]
    one = made(tmp_path / "one", "train-tpu", *words)
    store, request = Store(tmp_path / "two"), asked(words, tmp_path / "one")
    settings = Settings(store=store.root, threads=1)
    trainer = "training.tpu_maxtext.trainer:MaxTextTrainer._step"
    endings = {
        "raise RuntimeError('a bug')": (11, 1, "step 8"),
        "raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory')": (6, 3, "step 12"),
    }
    for what, (number, code, place) in endings.items():
        plant = at_call(trainer, number, what)
        with pytest.raises(StageFailed) as failed:
            Executor(store, Altered(before=plant), settings).execute(request)
        assert failed.value.exit_code == code
        (partial,) = store.partials(store.path("checkpoints", "run"))
        assert saved_in(partial) == place
    again = Executor(store, LocalRuntime(), settings).execute(request)
    assert metrics(again) == metrics(one)


def test_damaged_rows_are_refused(tmp_path: Path, model: Path, data: Path) -> None:
    """One bit of a published file turned, and given as it is, without another export."""
    store = tmp_path / "store"
    form = ("FORMAT=arrayrecord", "TARGETS=1", f"CKPT={model}")
    rows = made(store, "export", f"DATA={data}", *form, "NAME=rows")
    length = json.loads((rows / "manifest.json").read_text())["parameters"]["seqlen"]
    assert length == json.loads((model / "config.json").read_text())["max_position_embeddings"]
    damaged = next(rows.glob("train-*.arrayrecord"))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    words = ["train-tpu", f"CKPT={model}", "DATA=rows", "BATCH=4", "TOKENS=512", "RUNTIME=local"]
    refused(espalier(store, *words), 2, f"{damaged.name} is not what was published")
    assert [path.name for path in (store / "data").iterdir()] == ["rows"]


def test_what_does_not_fit_is_refused(tmp_path: Path, model: Path, data: Path) -> None:
    store, words = tmp_path / "store", ["train-tpu", f"DATA={data}", "RUNTIME=local", "SEQLEN=32"]
    short = espalier(store, *words, f"CKPT={model}", "BATCH=4", "TOKENS=9M")
    refused(short, 2, "EPOCHS")
    stranger = tiny_llama(tmp_path / "stranger", vocab_size=300)
    (stranger / "tokenizer.json").write_text(
        (stranger / "tokenizer.json").read_text().replace('"<s>"', '"<b>"')
    )
    refused(espalier(store, *words, f"CKPT={stranger}", "BATCH=4"), 2, "tokenizer")
    several = espalier(store, *words, f"CKPT={model}", "BATCH=4", "GPUS=3")
    refused(several, 2, "does not divide among 3 devices")
    refused(espalier(store, *words, f"CKPT={model}", "OPTIMIZER=muon"), 2, "OPTIMIZER")
    refused(espalier(store, *words, f"CKPT={model}", f"TEACHER={model}"), 2, "TEACHER")
