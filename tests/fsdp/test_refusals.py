"""What a training run refuses, in one sentence, before any process is started."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from espalier.data.tokens.reader import TokenData
from espalier.errors import InputError
from tests.contract.command import espalier, refused
from tests.fsdp.tiny_runs import job_of, train
from tests.tiny import tiny_llama

pytestmark = pytest.mark.fsdp


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"seqlen": 256}, "SEQLEN=256 is longer than the model's 128 positions"),
        ({"tokens": 10**6}, "epochs of the .* training tokens that there are.*; give EPOCHS="),
        ({"batch": 4096}, "; give EPOCHS=.* or more, or BATCH=.* or less"),
        ({"ce_weight": 0.0}, "leaves nothing to train on; give a TEACHER"),
    ],
)
def test_parameters(inputs: dict[str, Path], parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        job_of(inputs, **parameters)


def test_more_passes_are_made_when_they_are_asked_for(inputs: dict[str, Path]) -> None:
    job = job_of(inputs, epochs=2.5)
    assert job.budget.epochs == pytest.approx(2.5, abs=0.02)


@pytest.mark.parametrize(
    ("world", "parameters", "says"),
    [
        (3, {}, "BATCH=4 does not divide among 3 processes"),
        (2, {"micro_batch": 4}, "MICRO_BATCH=4 does not divide the 2 sequences"),
    ],
)
def test_sizes_that_do_not_divide(
    inputs: dict[str, Path], world: int, parameters: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        job_of(inputs, **parameters).micro_batch(world)


def test_data_of_another_tokenizer(inputs: dict[str, Path], tmp_path: Path) -> None:
    other = tiny_llama(tmp_path / "other")
    content = json.loads((other / "tokenizer.json").read_text())
    (other / "tokenizer.json").write_text(json.dumps(content, indent=1) + "\n ")
    assert job_of({**inputs, "model": other, "teacher": other})
    content["model"]["merges"].reverse()
    (other / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"was made with tokenizer .* has another \("):
        job_of({**inputs, "model": other})
    with pytest.raises(InputError, match=r"has another \("):
        job_of({**inputs, "teacher": other})


def test_teachers_that_do_not_fit(inputs: dict[str, Path], tmp_path: Path) -> None:
    wide = tiny_llama(tmp_path / "wide", hidden_size=64, head_dim=16)
    assert job_of({**inputs, "teacher": wide}).weights.kl == 1.0
    with pytest.raises(InputError, match="TEACHER's are 64 wide, the model's 32"):
        job_of({**inputs, "teacher": wide}, hidden_weight=1.0)
    wider = shutil.copytree(inputs["data"], tmp_path / "wider")
    content = json.loads((wider / "tokens.json").read_text()) | {"vocabulary": 300}
    (wider / "tokens.json").write_text(json.dumps(content))
    fits = tiny_llama(tmp_path / "fits", vocab_size=300)
    with pytest.raises(InputError, match=r"tokens up to 300 and the vocabulary of .* ends at 288"):
        job_of({"model": fits, "data": wider, "teacher": inputs["model"]})
    short = tiny_llama(tmp_path / "short", max_position_embeddings=8)
    with pytest.raises(InputError, match="longer than TEACHER's 8 positions"):
        job_of({**inputs, "teacher": short})


def test_architectures(inputs: dict[str, Path], tmp_path: Path) -> None:
    config = inputs["model"] / "config.json"
    fresh = {"architecture": config, "tokenizer": inputs["model"], "data": inputs["data"]}
    assert job_of(fresh, init="random").checkpoint is None
    with pytest.raises(InputError, match="give INIT=random"):
        job_of(fresh)
    with pytest.raises(InputError, match="leave CKPT out"):
        job_of({**fresh, "model": inputs["model"]}, init="random")
    (tmp_path / "config.json").write_text("no config")
    with pytest.raises(InputError, match=r"is not a config\.json"):
        job_of({**fresh, "architecture": tmp_path / "config.json"}, init="random")
    with pytest.raises(InputError, match="needs a tokenizer"):
        job_of({"architecture": config, "data": inputs["data"]}, init="random")
    with pytest.raises(InputError, match="nothing to train"):
        job_of({"data": inputs["data"]})


def damaged(data: Path, target: Path) -> tuple[Path, str]:
    """A copy with one bit of a train shard turned."""
    shutil.copytree(data, target)
    shard = sorted(target.glob("train-*.tokens"))[1]
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    return target, shard.name


def test_a_damaged_shard(inputs: dict[str, Path], tmp_path: Path) -> None:
    target, name = damaged(inputs["data"], tmp_path / "data")
    with pytest.raises(InputError, match=f"{name} is not what tokens.json says"):
        train(tmp_path / "run", {**inputs, "data": target}, tokens=64)
    assert TokenData(target).counts("train")
    unseen = train(tmp_path / "seen", {**inputs, "data": target}, tokens=64, verify=False)
    assert len(unseen.losses) == 1


def test_tokens_beyond_the_vocabulary(inputs: dict[str, Path], tmp_path: Path) -> None:
    target = shutil.copytree(inputs["data"], tmp_path / "data")
    for shard in target.glob("train-*.tokens"):
        shard.write_bytes(b"\xff\xff" * (shard.stat().st_size // 2))
    with pytest.raises(InputError, match="holds token 65535 and its vocabulary ends at 288"):
        train(tmp_path / "run", {**inputs, "data": target}, tokens=64, verify=False)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("GPUS=3",), "BATCH=4 does not divide among 3 processes"),
        (("GPUS=2", "REPLICAS=3"), "REPLICAS=3 does not divide the 2 processes"),
        (("NODES=2",), "NODES=2 needs RUNTIME=slurm"),
        (("ARCH=x",), "leave CKPT out, or ARCH"),
        (("TOKENIZER=x",), "TOKENIZER goes with ARCH"),
        (("LR=0",), "LR=0"),
        (("POLICY=maybe",), "POLICY=maybe"),
        (("TOKENS=many",), "TOKENS=many"),
        (("RATE=1",), "RATE is not a parameter here"),
        (("DATA=nothing",), "make data DATA=nothing"),
    ],
)
def test_commands(
    tmp_path: Path, inputs: dict[str, Path], words: tuple[str, ...], says: str
) -> None:
    store = tmp_path / "store"
    given = {
        "CKPT": f"{inputs['model']}", "DATA": f"{inputs['data']}", "BATCH": "4", "SEQLEN": "16",
        "TOKENS": "64",
    }  # fmt: skip
    given |= dict(word.split("=", 1) for word in words)
    done = espalier(store, "train-gpu", *(f"{key}={value}" for key, value in given.items()))
    refused(done, 2, says)
    assert not list(store.glob("checkpoints/*"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("TRAIN=tpus",), "TRAIN=tpus is not known; choose one of gpu"),
        (("TRAIN_LR=1",), "is for training; give TRAIN=gpu too"),
        (("TRAIN=gpu", "TRAIN_CKPT=x"), "TRAIN_CKPT is not used"),
        (("TRAIN=gpu", "TRAIN_SPEED=x"), "SPEED is not a parameter here"),
    ],
)
def test_pipelines(tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    refused(espalier(tmp_path, "pipeline", *words), 2, says)
    assert not list(tmp_path.iterdir())
