"""Sheared-LLaMA as a user runs it, with the packages of its own image."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from espalier.contract.manifest import read_manifest
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
    differing,
    espalier,
    refused,
    tree,
    without_times,
)
from tests.contract.shaped import check_loads, pictures
from tests.manifests import mark_exported
from tests.sheared.shearing import (
    BATCH,
    REFERENCES,
    SEQLEN,
    STEPS,
    TARGET,
    TARGET_SHAPE,
    VALID,
    asked,
    documents,
    parent,
    sheared,
)
from tests.tiny import SHAPE
from tests.unit.tiny_checkpoints import load_all
from tests.unit.tiny_domains import write_domains, write_stream

pytestmark = pytest.mark.sheared_llama


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, so that losses are measured once."""
    return tmp_path_factory.mktemp("store")


def scores_of(checkpoint: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((checkpoint / "scores.json").read_text())
    return found


@pytest.fixture(scope="module")
def forecast(store: Path, model: Path, domains: Path) -> Path:
    """A run whose references are forecast of the parent's losses."""
    return sheared(store, asked(model, domains))


def test_a_model_of_exactly_the_shape_that_is_asked_for(model: Path, forecast: Path) -> None:
    check_loads(forecast, **TARGET_SHAPE)
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


def test_a_model_of_16_bits_is_trained_in_32_on_a_processor(tmp_path: Path, domains: Path) -> None:
    narrow = parent(tmp_path, dtype=torch.bfloat16)
    found = sheared(tmp_path / "store", asked(narrow, domains, REFERENCES))
    training = read_manifest(found).training
    assert training
    assert training["precision"] == "float32"
    assert {weight.dtype for weight in load_all(found).values()} == {torch.bfloat16}


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
        ((fixed, "PRECISION=bf16"), "PRECISION=bf16 needs a GPU"),
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
