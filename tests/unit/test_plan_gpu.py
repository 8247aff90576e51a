"""Plans of training runs: the arithmetic, the words of the command, and the rehearsed step."""

import json
from pathlib import Path
from typing import Any

import pytest

from espalier.contract.discovery import stage_named
from espalier.contract.pruned import Masked
from espalier.contract.store import Store
from espalier.errors import InputError
from espalier.hardware.gpus import GPUS
from espalier.host.cli.plan import plan_gpu
from espalier.host.commands.planning import PlanningCommand, known, single_process
from tests.manifests import mark_pruned
from training.plan_gpu.advice import Peak, verdict
from training.plan_gpu.spec import PlanParameters

GIB = 1 << 30
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "torch_dtype": "bfloat16",
}


def peak(activations: int, recompute: bool = False, micro: int = 4, weights: int = 20) -> Peak:
    parts = {
        "weights": weights * GIB,
        "gathered weights": 2 * GIB,
        "activations": activations * GIB,
    }
    return Peak(recompute, micro, parts)


def parse(store: Path, *words: str) -> PlanParameters:
    command = PlanningCommand.parse(stage_named("plan-gpu"), words, Store(store))
    parameters = command.training.parameters
    assert isinstance(parameters, PlanParameters)
    return parameters


def test_what_fits_leaves_a_tenth_of_the_memory() -> None:
    gpu = GPUS["h100"]
    assert peak(50).fits(gpu)
    assert not peak(51).fits(gpu)
    assert verdict([peak(50)], gpu, 8, 8, 1) == "fits: 90% of a GPU's memory."


def test_the_largest_micro_batch_divides_the_share_and_grows_with_activations_alone() -> None:
    gpu = GPUS["h100"]  # 72 GiB of 80, 22 of them taken by what does not grow
    assert peak(20, micro=4).largest_micro_batch(gpu, 64) == 8  # 5 GiB each: 10 do, 8 divides
    assert peak(20, micro=4).largest_micro_batch(gpu, 20) == 10
    assert peak(20, micro=4).largest_micro_batch(gpu, 4) == 4
    assert peak(20, weights=71).largest_micro_batch(gpu, 64) == 0


@pytest.mark.parametrize(
    ("peaks", "replicas", "says"),
    [
        ([peak(60), peak(10, True)], 1, "give RECOMPUTE=1, or MICRO_BATCH=2"),
        ([peak(60), peak(60, True)], 1, "give MICRO_BATCH=2, or MICRO_BATCH=2 with RECOMPUTE=1"),
        ([peak(60, micro=1), peak(55, True, 1)], 2, "give REPLICAS=1"),
        # 160 GiB shared by 8; each has 72 - 2 - 60 = 10 for its part, or 72 - 2 - 54 = 16
        ([peak(60, micro=1), peak(54, True, 1)], 1, "give 10 GPUs or more"),
        ([peak(90, micro=1), peak(80, True, 1)], 1, "give a shorter SEQLEN, or a GPU of more"),
    ],
)
def test_what_to_change(peaks: list[Peak], replicas: int, says: str) -> None:
    told = verdict(peaks, GPUS["h100"], 64, 8, replicas)
    assert told.startswith("does not fit 90% of a GPU's 80 GiB; ")
    assert says in told


def test_the_run_itself_is_of_one_process_and_the_plan_of_all(tmp_path: Path) -> None:
    words = ["MODEL=sapling", "GPUS=8", "NODES=2", "ACCEL=cuda", "TOKENS=1B"]
    assert single_process(words)[-3:] == ["ACCEL=cpu", "GPUS=1", "NODES=1"]
    found = parse(tmp_path, *words)
    assert (found.gpus, found.nodes, found.world, found.tokens) == (8, 2, 16, 10**9)


def test_a_command_of_train_gpu_is_a_command_of_plan_gpu(tmp_path: Path) -> None:
    found = parse(
        tmp_path, "MODEL=llama3.1-8b", "TEACHER=llama3.1-8b", "DATA=somewhere", "TOKENS=52.4B",
        "LR=1e-4", "REPLICAS=2", "RECOMPUTE=1", "GPU=h200", "MFU=0.5",
    )  # fmt: skip
    assert found.config["hidden_size"] == 4096
    assert found.teacher_config == found.config
    assert (found.replicas, found.recompute, found.gpu, found.mfu) == (2, True, "h200", 0.5)


def test_everything_decides_a_plan_and_its_name(tmp_path: Path) -> None:
    one, other = parse(tmp_path), parse(tmp_path, "MICRO_BATCH=2")
    assert one.identity() != other.identity()
    assert one.label() != other.label()
    assert one.label().startswith("1xh100-")
    assert one.label() == parse(tmp_path, "MODEL=sapling").label()


def test_shapes_are_taken_from_a_file_from_the_store_or_from_the_list(tmp_path: Path) -> None:
    stage, store, file = stage_named("plan-gpu"), Store(tmp_path), tmp_path / "tiny.json"
    file.write_text(json.dumps(CONFIG))
    assert known(stage, store, str(file)).name == "tiny"
    found = parse(tmp_path, f"ARCH={file}")
    assert (found.init, dict(found.config)) == ("random", CONFIG)
    pruned = tmp_path / "checkpoints" / "pruned"
    pruned.mkdir(parents=True)
    (pruned / "config.json").write_text(json.dumps(CONFIG))
    mark_pruned(pruned, Masked(pattern="2:4", target=0.5, achieved=0.5))
    assert known(stage, store, "pruned").directory == pruned
    assert known(stage, store, "llama2-7b").directory is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("GPU=h1000",), "GPU=h1000 is not listed; there are a100-40, a100-80, h100"),
        (("MFU=1.2",), "MFU=1.2"),
        (("MODEL=org/unknown",), "a plan fetches nothing; give ARCH=<config.json>"),
        (("ARCH=./absent.json",), "a plan fetches nothing"),
        (("MODEL=sapling", "ARCH=sapling"), "leave CKPT out"),
        (("COLOUR=red",), "COLOUR is not a parameter here"),
        (("BATCH=6", "MICRO_BATCH=4"), "MICRO_BATCH=4 does not divide BATCH=6"),
    ],
)
def test_what_does_not_hold_is_refused(tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    with pytest.raises(InputError) as refused:
        plan_gpu([*words, f"STORE={tmp_path}", "RUNTIME=inside", "DRY_RUN=1"])
    assert says in str(refused.value)


def test_a_dry_run_says_what_would_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan_gpu(["GPUS=8", f"STORE={tmp_path}/store", "RUNTIME=inside", "DRY_RUN=1"])
    assert "plan-gpu (would run)" in capsys.readouterr().out
    assert not (tmp_path / "store").exists()
