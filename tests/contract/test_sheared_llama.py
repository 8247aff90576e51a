"""Sheared-LLaMA as a user runs it, with the packages of its own image."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

import methods.sheared_llama.torchvision_operators  # noqa: F401 - before models are made
from espalier.contract.manifest import read_manifest
from espalier.contract.paths import ROOT
from espalier.contract.pruned import Uniform
from espalier.data.tokens.domains import read_domains
from espalier.data.tokens.index import Split
from espalier.errors import DIVERGED
from espalier.models.flops import training_flops
from espalier.models.shapes import Shapes, read_config
from espalier.models.tokenizer import tokenizer_hash
from inputs.export import mds
from methods.sheared_llama.references import EXPONENT
from tests.contract.command import (
    command,
    differing,
    espalier,
    quiet_environment,
    refused,
    tree,
    without_times,
)
from tests.contract.shaped import check_loads, pictures
from tests.contract.waiting import interrupted, wait_for, working_on
from tests.manifests import mark_exported
from tests.tiny import SHAPE, tiny_llama
from tests.unit.tiny_domains import write_domains, write_stream

pytestmark = pytest.mark.sheared_llama

SEQLEN, BATCH, STEPS = 16, 8, 8
TARGET = ("LAYERS=2", "HIDDEN=24", "HEADS=2", "FFN=32")
RUN = (f"SEQLEN={SEQLEN}", f"BATCH={BATCH}", f"TOKENS={STEPS * BATCH * SEQLEN}", "EVAL_EVERY=2")
LOSSES = "cc=5,code=5,wiki=5"
REFERENCES = f"REFERENCE_LOSSES={LOSSES}"
VALID = 6
"""Held-out rows of each domain."""
CHECKPOINT = "checkpoints/*/.run/scratch/composer/latest.pt"
MANY = 60
"""Steps of a run that is stopped on its way."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("parent") / "tiny", initializer_range=0.2)


def documents(seed: int, low: int, high: int, rows: int) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    found: list[list[int]] = generator.integers(low, high, (rows, SEQLEN)).tolist()
    return found


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """Three: all tokens, a few, and a single one."""
    vocabulary = SHAPE["vocab_size"]
    return write_domains(
        tmp_path_factory.mktemp("data") / "domains",
        {
            name: {
                "train": documents(seed, low, high, rows),
                "valid": documents(9 + seed, low, high, VALID),
            }
            for seed, (name, low, high, rows) in enumerate(
                [("cc", 2, vocabulary, 60), ("code", 2, 20, 40), ("wiki", 5, 6, 20)]
            )
        },
        tokenizer_hash(model) or "",
        vocabulary,
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, so that losses are measured once."""
    return tmp_path_factory.mktemp("store")


def asked(model: Path, domains: Path, *words: str) -> list[str]:
    """The words of a pruning to TARGET, where they do not say another."""
    given = {
        word.partition("=")[0]: word
        for word in (f"MODEL={model}", f"DOMAIN_DATA={domains}", "SUITE=none", *TARGET, *RUN)
    }
    given |= {word.partition("=")[0]: word for word in words}
    return ["prune-sheared-llama", *(word for word in given.values() if not word.endswith("="))]


def sheared(store: Path, words: list[str]) -> Path:
    done = espalier(store, *words)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return Path(done.stdout.splitlines()[-1])


def scores_of(checkpoint: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((checkpoint / "scores.json").read_text())
    return found


@pytest.fixture(scope="module")
def forecast(store: Path, model: Path, domains: Path) -> Path:
    """A run whose references are forecast of the parent's losses."""
    return sheared(store, asked(model, domains))


def test_a_model_of_exactly_the_shape_that_is_asked_for(model: Path, forecast: Path) -> None:
    check_loads(
        forecast,
        num_hidden_layers=2,
        hidden_size=24,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
    )
    assert forecast.name == "tiny-sheared-llama-2-h24-a2-f32"
    assert pictures(forecast) == {
        f"{name}.{form}" for name in ("losses", "proportions") for form in ("png", "svg")
    }
    manifest = read_manifest(forecast)
    account = manifest.pruning
    assert isinstance(account, Uniform)
    kept = account.kept
    assert kept.intermediate
    assert kept.heads
    assert kept.kv_heads
    assert len(kept.layers) == 2
    check_kept(kept.hidden, 24, 32)
    for neurons in kept.intermediate:
        check_kept(neurons, 32, 48)
    for heads, kv_heads in zip(kept.heads, kept.kv_heads, strict=True):
        check_kept(kv_heads, 1, 2)
        assert list(heads) == [2 * kv_heads[0], 2 * kv_heads[0] + 1]
    assert {*kept.layers, *account.dropped_layers} == {0, 1, 2}
    assert 0 <= manifest.checks["extracted_logits_difference"] <= 1e-4
    assert manifest.checks["sparsity_gap"].keys() == {"hidden", "heads", "neurons", "layers"}


def check_kept(kept: Any, count: int, units: int) -> None:
    """So many of the units, each once, in their order."""
    assert len(kept) == count
    assert list(kept) == sorted(set(kept))
    assert 0 <= kept[0] <= kept[-1] < units


def test_what_it_cost_is_in_the_ledger(model: Path, forecast: Path) -> None:
    manifest = read_manifest(forecast)
    tokens = STEPS * BATCH * SEQLEN
    flops = tokens * training_flops(Shapes.of(read_config(model)), SEQLEN)
    last = manifest.ledger[-1]
    assert (last.kind, last.stage, last.tokens) == ("training", "sheared-llama", tokens)
    assert last.flops == pytest.approx(flops)
    assert manifest.data is not None
    assert manifest.data["tokens_seen"] == tokens
    assert manifest.data["tokenizer"] == tokenizer_hash(model)


def test_losses_are_those_of_stock_transformers_and_are_forecast_from(
    store: Path, model: Path, domains: Path, forecast: Path
) -> None:
    scored = store / "scores" / "tiny" / f"sheared-llama-domains-64x{SEQLEN}"
    measured = json.loads((scored / "losses.json").read_text())
    stock = AutoModelForCausalLM.from_pretrained(model).float().eval()
    parents = Shapes.of(read_config(model)).parameters
    ratio = parents / Shapes.of(read_config(forecast)).parameters
    references = read_manifest(forecast).notes["references"]
    matrices = [one for one in stock.parameters() if one.dim() == 2]
    assert measured["parameters"] == parents == sum(one.numel() for one in matrices)
    assert list(measured["losses"]) == list(references) == ["cc", "code", "wiki"]
    for name, data in read_domains(domains).items():
        rows = [data.window("valid", row, SEQLEN).astype(np.int64) for row in range(VALID)]
        ids = torch.from_numpy(np.stack(rows))
        with torch.inference_mode():
            logits = stock(ids).logits.double()
        loss = float(cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))
        assert measured["losses"][name] == pytest.approx(loss, abs=1e-5)
        assert measured["tokens"][name] == VALID * (SEQLEN - 1)
        assert references[name] == pytest.approx(measured["losses"][name] * ratio**EXPONENT)


def check_proportions(
    checkpoint: Path, references: Mapping[str, float], initial: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Every evaluation's sum to 1, and have moved by more of the loss above its reference.

    Only for `doremi`, whose ratios rise with excess: p'_k / p_k against any other domain's.
    """
    evaluations: list[dict[str, Any]] = scores_of(checkpoint)["evaluations"]
    assert [one["step"] for one in evaluations] == [*range(2, STEPS + 1, 2)]
    before = initial
    for one in evaluations:
        after = one["proportions"]
        assert math.fsum(after.values()) == pytest.approx(1, abs=1e-12)
        excess = {name: loss - references[name] for name, loss in one["losses"].items()}
        order = sorted(excess, key=lambda name: excess[name])
        grown = [after[name] / before[name] for name in order]
        assert grown == sorted(grown)
        assert grown[-1] > 1 > grown[0]
        before = after
    return evaluations


def test_domains_with_more_excess_loss_are_drawn_more(forecast: Path) -> None:
    manifest = read_manifest(forecast)
    shares = {"cc": 60 / 120, "code": 40 / 120, "wiki": 20 / 120}
    evaluations = check_proportions(forecast, manifest.notes["references"], shares)
    assert manifest.data is not None
    assert manifest.data["proportions"] == evaluations[-1]["proportions"]


@pytest.mark.parametrize(("masks", "tracker"), [("sampled", "none"), ("deterministic", "wandb")])
def test_references_and_shares_that_are_given(
    tmp_path: Path, model: Path, domains: Path, masks: str, tracker: str
) -> None:
    shares = {"cc": 0.2, "code": 0.3, "wiki": 0.5}
    given = "SHARES=" + ",".join(f"{name}={share}" for name, share in shares.items())
    words = (REFERENCES, given, f"MASKS={masks}", f"TRACKER={tracker}")
    found = sheared(tmp_path, asked(model, domains, *words))
    assert bool(list(found.glob("trackers/wandb/offline-run-*/*.wandb"))) == (tracker == "wandb")
    check_proportions(found, dict.fromkeys(shares, 5.0), shares)
    assert not (tmp_path / "scores").exists()


def test_fixed_and_bandit(tmp_path: Path, model: Path, domains: Path) -> None:
    """`fixed` stays and needs no reference; `bandit` gives the worst domain the most at once."""
    shares = {"cc": 60 / 120, "code": 40 / 120, "wiki": 20 / 120}
    fixed = sheared(tmp_path, asked(model, domains, "PROPORTIONS=fixed", "NAME=fixed"))
    for one in scores_of(fixed)["evaluations"]:
        assert one["proportions"] == pytest.approx(shares, abs=1e-12)
    assert read_manifest(fixed).notes["references"] == {}
    assert not (tmp_path / "scores").exists()
    words = ("PROPORTIONS=bandit", REFERENCES, "NAME=bandit")
    bandit = scores_of(sheared(tmp_path, asked(model, domains, *words)))["evaluations"]
    for one in bandit:
        assert math.fsum(one["proportions"].values()) == pytest.approx(1, abs=1e-12)
    first = bandit[0]
    logits = {name: math.exp(shares[name] + first["losses"][name] - 5) for name in shares}
    for name, share in first["proportions"].items():
        expected = (1 - 1e-4) * logits[name] / sum(logits.values()) + 1e-4 / 3
        assert share == pytest.approx(expected, rel=1e-9)


def test_a_target_in_a_file_counts_by_what_it_says(
    tmp_path: Path, model: Path, domains: Path
) -> None:
    file = tmp_path / "small.toml"
    file.write_text("layers = 2\nhidden = 24\nheads = 2\nffn = 32\n")
    sizes = [f"{word.partition('=')[0]}=" for word in TARGET]
    words = asked(model, domains, *sizes, f"TARGET={file}", "PROPORTIONS=fixed")
    found = sheared(tmp_path / "store", words)
    assert found.name == "tiny-sheared-llama-small"
    assert read_manifest(found).parameters["ffn"] == 32
    again = espalier(tmp_path / "store", *words)
    assert "is done already" in again.stderr
    file.write_text("layers = 2\nffn = 40\n")
    refused(espalier(tmp_path / "store", *words), 2, "tiny-sheared-llama-small")
    file.write_text("layers = 0\n")
    refused(espalier(tmp_path / "store", *words), 2, "layers is 0; give a whole number, 1 or more")


def long(model: Path, domains: Path, *words: str) -> list[str]:
    tokens = f"TOKENS={MANY * BATCH * SEQLEN}"
    given = (tokens, REFERENCES, "NAME=run", "EVAL_EVERY=20", *words)
    return asked(model, domains, *given)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, model: Path, domains: Path) -> Path:
    """A longer run that nothing stopped."""
    return sheared(tmp_path_factory.mktemp("whole"), long(model, domains))


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory, model: Path, domains: Path) -> Path:
    """The store of the same run, whose stage was killed by SIGKILL in the middle."""
    store = tmp_path_factory.mktemp("left")
    process = subprocess.Popen(
        command(store, *long(model, domains, "SAVE_EVERY=7")),
        cwd=ROOT,
        env=quiet_environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    wait_for(store, CHECKPOINT, process)
    struck = working_on(store)
    assert struck
    for pid in struck:
        os.kill(pid, signal.SIGKILL)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 75, told
    assert re.search(r"run the same command to resume from step \d+\.$", told.strip())
    return store


@pytest.fixture
def killed(left: Path, tmp_path: Path) -> Path:
    """Another such store."""
    return Path(shutil.copytree(left, tmp_path / "killed", symlinks=True))


def check_same(found: Path, whole: Path) -> None:
    one, other = (without_times(tree(place)) for place in (found, whole))
    assert {"model.safetensors", "scores.json", "losses.png"} <= one.keys()
    assert not differing(one, other)


def test_a_killed_run_gives_the_same_bytes(
    killed: Path, whole: Path, model: Path, domains: Path
) -> None:
    words = long(model, domains, "SAVE_EVERY=7")
    done = espalier(killed, *words)
    assert done.returncode == 0, done.stderr
    check_same(killed / "checkpoints" / "run", whole)
    lines = map(json.loads, (killed / "checkpoints/run/metrics.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if line["task"] == "shear"] == [*range(1, MANY + 1)]
    again = espalier(killed, *words)
    assert again.returncode == 0
    assert "is done already" in again.stderr


def test_a_stopped_run_gives_the_same_bytes(
    tmp_path: Path, whole: Path, model: Path, domains: Path
) -> None:
    """By Ctrl-C, which ends it in 75, between two evaluations; a tracker changes nothing."""
    words = long(model, domains, "SAVE_EVERY=3", "TRACKER=tensorboard")
    told = interrupted(tmp_path, words, CHECKPOINT)
    assert re.search(r"run the same command to resume from step \d+\.$", told.strip()), told
    found = sheared(tmp_path, words)
    check_same(found, whole)
    assert list(found.glob("trackers/tensorboard/**/events.out.tfevents.*"))


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def test_a_checkpoint_that_is_not_the_runs_own_or_cut_short(
    killed: Path, whole: Path, model: Path, domains: Path
) -> None:
    """Nothing in it runs, and what the sentence asks for helps."""
    words = long(model, domains, "SAVE_EVERY=7")
    (latest,) = killed.glob(CHECKPOINT)
    file, ran = latest.resolve(), killed / "ran"
    before = file.read_bytes()
    torch.save({"state": Planted(ran), "rng": []}, file)
    for content in (file.read_bytes(), before[:-100]):
        file.write_bytes(content)
        refused(
            espalier(killed, *words), 2, "is no whole checkpoint", f"; remove {latest.parent} to"
        )
        assert not ran.exists()
    shutil.rmtree(latest.parent)
    check_same(sheared(killed, words), whole)


def test_a_file_in_the_place_of_the_link_is_not_read(
    killed: Path, whole: Path, model: Path, domains: Path
) -> None:
    (latest,) = killed.glob(CHECKPOINT)
    ran = killed / "ran"
    latest.unlink()
    torch.save({"state": Planted(ran), "rng": []}, latest)
    check_same(sheared(killed, long(model, domains, "SAVE_EVERY=7")), whole)
    assert not ran.exists()


def test_a_loss_that_is_no_number(tmp_path: Path, model: Path, domains: Path) -> None:
    words = asked(model, domains, "PROPORTIONS=fixed", "LR=1e30", "CLIP=1e30", "EVAL_EVERY=100")
    refused(espalier(tmp_path, *words), DIVERGED, "the loss became NaN or infinite at step", "LR")
    assert not list(tmp_path.rglob("model.safetensors"))


def exported(domains: Path, folder: Path) -> Path:
    """The rows of token data, in their order, as `make export FORMAT=mds` writes them."""
    facts: dict[str, Any] = {}
    for name, data in read_domains(domains).items():
        rows = {}
        for split in ("train", "valid"):
            count = data.windows(split, SEQLEN)
            windows = (data.window(split, row, SEQLEN) for row in range(count))
            mds.write(folder / name / split, windows, "uint16", name)
            rows[split] = count
        facts[name] = {"rows": rows}
    index = data.index
    mark_exported(
        folder,
        {"format": "mds", "seqlen": SEQLEN},
        {"tokenizer": index.tokenizer, "vocabulary": index.vocabulary, "domains": facts},
    )
    return folder


def test_an_mds_export_gives_the_same_weights(
    tmp_path: Path, model: Path, domains: Path, forecast: Path
) -> None:
    """Its rows are those of the token data, and the sampler decides their order."""
    folder = exported(domains, tmp_path / "store" / "data" / "domains")
    found = sheared(tmp_path / "store", asked(model, domains, "DOMAIN_DATA=domains"))
    mine, theirs = (without_times(tree(place)) for place in (found, forecast))
    assert not differing(mine, theirs)
    mine, theirs = (without_times(tree(place.parents[1] / "scores")) for place in (found, forecast))
    assert not differing(mine, theirs)
    index = folder / "code" / "train" / "index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "shards": []}))
    made = read_manifest(folder)
    (folder / "manifest.json").unlink()
    mark_exported(folder, made.parameters, made.data or {})  # whose hashes agree
    words = asked(model, domains, "DOMAIN_DATA=domains", "PROPORTIONS=fixed", "NAME=empty")
    refused(espalier(tmp_path / "store", *words), 2, "code/train is an MDS folder without a sample")
    assert not list((tmp_path / "store").glob("checkpoints/empty*/model.safetensors"))


def test_what_is_refused_leaves_nothing(tmp_path: Path, model: Path, domains: Path) -> None:
    sizes = tuple(f"{word.partition('=')[0]}=" for word in TARGET)
    fixed = "PROPORTIONS=fixed"
    for words, sentence in (
        (("LAYERS=4",), "LAYERS=4 is above the parent's 3 layers"),
        (("HIDDEN=64",), "HIDDEN=64"),
        (("FFN=64",), "FFN=64"),
        (("HEADS=8",), "HEADS=8 is above the parent's 4 heads"),
        (("HEADS=3",), "HEADS=3 is not a multiple of 2"),
        ((*sizes, "TARGET=1.3b"), "above the parent's"),
        ((*sizes, "TARGET=9b"), "TARGET=9b is not known"),
        (sizes, "give TARGET, or LAYERS, HIDDEN, HEADS and FFN"),
        (("TARGET=1.3b",), "not both"),
        (("DOMAIN_DATA=",), "DOMAIN_DATA"),
        (("DOMAIN_DATA=nowhere",), "nowhere"),
        ((fixed, "SHARES=cc=0.5,code=0.3,wiki=0.1"), "SHARES sum to 0.9"),
        ((fixed, "SHARES=cc=0.5,code=0.3,arxiv=0.2"), "SHARES has no number for wiki"),
        ((fixed, "SHARES=cc=0.5,code=0.3,wiki=0.1,arxiv=0.1"), "SHARES names arxiv"),
        ((fixed, "SHARES=half"), "SHARES has half where a domain and a number belong"),
        (("REFERENCE_LOSSES=cc=5,code=5",), "REFERENCE_LOSSES has no number for wiki"),
        (("REFERENCE_LOSSES=1.3b",), "REFERENCE_LOSSES"),
        (("MICRO_BATCH=3",), "MICRO_BATCH=3 does not divide BATCH=8"),
        ((fixed, "SEQLEN=4096"), "SEQLEN"),
    ):
        done = espalier(tmp_path / "store", *asked(model, domains, *words))
        refused(done, 2, sentence)
        assert not list((tmp_path / "store").rglob("*.safetensors")), words


def test_data_that_is_refused(tmp_path: Path, model: Path, domains: Path) -> None:
    hashed, vocabulary = tokenizer_hash(model) or "", SHAPE["vocab_size"]
    splits: dict[Split, list[list[int]]] = {
        "train": documents(0, 2, 20, 9),
        "valid": documents(1, 2, 20, 2),
    }
    write_stream(tmp_path / "stream", splits, hashed, vocabulary)
    write_domains(tmp_path / "other", {"cc": splits}, "another", vocabulary)
    write_domains(tmp_path / "unheld", {"cc": {"train": splits["train"]}}, hashed, vocabulary)
    for name, sentence in (
        ("stream", "is one stream of tokens where several domains are needed"),
        ("other", "tokenizer"),
        ("unheld", "cc"),
    ):
        words = asked(model, tmp_path / name, "PROPORTIONS=fixed")
        refused(espalier(tmp_path / "store", *words), 2, sentence)
        scoring = ("score-sheared-llama", f"MODEL={model}", f"DOMAIN_DATA={tmp_path / name}")
        refused(espalier(tmp_path / "store", *scoring, f"SEQLEN={SEQLEN}"), 2, sentence)
        assert not list((tmp_path / "store").rglob("manifest.json"))
    done = espalier(
        tmp_path / "store", "prune-wanda", f"MODEL={model}", f"DOMAIN_DATA={domains}", "SUITE=none"
    )
    refused(done, 2, "DOMAIN_DATA")
