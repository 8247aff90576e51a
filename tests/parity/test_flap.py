"""FLAP and Wanda-sp beside the reference on stories260K: what stays, biases and perplexity.

Perplexities are the stock model's, of the checkpoint as it is published.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

pytest.importorskip("matplotlib", reason="the stages draw")

from espalier.contract.progress import Progress
from espalier.contract.pruned import Padded, Uniform
from espalier.contract.stage import StageContext
from espalier.models.gates import check_checkpoint
from espalier.models.shapes import Shapes
from methods.flap import score_stage
from methods.flap import stage as flap_stage
from methods.flap.algorithm import Scores, adaptive, metric_of, unit_scores
from methods.flap.scored import SITES, read_figures
from methods.flap.spec import FlapParameters, FlapScoreParameters, Fluctuation
from methods.wanda_sp import stage as wanda_sp_stage
from methods.wanda_sp.spec import WandaSpParameters

pytestmark = [pytest.mark.shared, pytest.mark.minitron]

METRICS, STRUCTURES = ("WIFV", "IFV", "WIFN"), ("AL-AM", "UL-UM", "UL-MM", "AL-MM")
RATIOS = ("0.2", "0.5")
SHAPES = Shapes(
    hidden=64, intermediate=172, layers=5, heads=8, kv_heads=4, head_dim=8,
    vocabulary=512, positions=512, tied=True, item_bytes=4,
)  # fmt: skip
JOBS = [f"flap-{m}-{s}-{r}" for m in METRICS for s in STRUCTURES for r in RATIOS]
MENDED = [
    f"flap-WIFV-AL-AM-{ratio}/{kind}"
    for ratio in RATIOS
    for kind in (
        *("head-weight-170.6667", "head-weight-16"),
        *("exact-variance", "exact-variance-head-weight-16"),
    )
]
PUBLISHED = {
    "exact-variance": {"fluctuation": "exact", "reference": True},
    "head-weight-16": {},
    "exact-variance-head-weight-16": {"fluctuation": "exact"},
}
"""Those among them that a user can ask for."""


@pytest.fixture(scope="module")
def model(shared: Path) -> Path:
    return shared / "models" / "stories260k"


@pytest.fixture(scope="module")
def reference(shared: Path) -> Path:
    return shared / "reference" / "stories260k"


@pytest.fixture(scope="module")
def expected(reference: Path) -> dict[str, dict[str, Any]]:
    flap, wanda_sp = (
        json.loads((reference / f"{n}.json").read_text()) for n in ("flap", "wanda_sp")
    )
    return {**flap["jobs"], **flap["mended"], **wanda_sp["jobs"]}


def context(output: Path, **inputs: Path) -> StageContext:
    output.mkdir()
    scratch = output.parent / f"{output.name}-scratch"
    return StageContext(inputs, output, scratch, "cpu", Progress())


@pytest.fixture(scope="module")
def given(model: Path, reference: Path) -> dict[str, Path]:
    return {"model": model, "calibration": reference / "calibration.safetensors"}


@pytest.fixture(scope="module")
def scores(given: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("flap") / "scores"
    done = score_stage.run(context(output, **given), FlapScoreParameters())
    assert done.data is not None
    assert (done.data["samples"], done.data["seqlen"]) == (32, 256)
    return output


def parameters_of(job: str, expected: dict[str, Any], **changes: Any) -> FlapParameters:
    _, metric, first, second, ratio = job.lower().split("-")
    asked: dict[str, Any] = {
        "metric": metric,
        "structure": f"{first}-{second}",
        "sparsity": float(ratio),
        "remove_heads": expected.get("remove_heads"),
    }
    return FlapParameters(**(asked | changes))


def check_kept(pruning: Padded | Uniform, expected: dict[str, Any]) -> None:
    kept = pruning.kept
    assert kept is not None
    layers = range(5)
    for found, name, every in (
        (kept.kv_heads, "kept_kv_heads", 4),
        (kept.heads, "kept_query_heads", 8),
        (kept.intermediate, "kept_ffn", 172),
    ):
        whole = tuple(tuple(range(every)) for _ in layers)
        assert [list(layer) for layer in found or whole] == expected[name], name


def perplexity(model: Any, ids: torch.Tensor) -> float:
    """Of a stock model."""
    with torch.no_grad():
        losses = [model(part, labels=part).loss for part in ids.split(16)]
    return float(torch.stack(losses).mean().exp())


def loaded(checkpoint: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(checkpoint).eval()


Prune = Callable[[FlapParameters], tuple[Path, Padded | Uniform]]


@pytest.fixture
def prune(model: Path, scores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prune:
    for name in ("save", "draw_widths", "draw_unit_scores"):  # pictures would cost most here
        monkeypatch.setattr(flap_stage, name, lambda *_, **__: None)

    def pruned(parameters: FlapParameters) -> tuple[Path, Padded | Uniform]:
        output = tmp_path / parameters.label()
        done = flap_stage.run(context(output, model=model, scores=scores), parameters)
        assert isinstance(done.pruning, Padded | Uniform)
        check_checkpoint(output, pruning=done.pruning)
        return output, done.pruning

    return pruned


@pytest.fixture(scope="module")
def valid(reference: Path) -> torch.Tensor:
    return load_file(reference / "valid.safetensors")["input_ids"].long()


def test_statistics(scores: Path, reference: Path) -> None:
    figures = read_figures(scores, SHAPES)
    theirs = load_file(reference / "flap.safetensors")
    for site in SITES:
        of_site = figures[site]
        for ours, name in (
            (of_site["mean"], f"mean.{site}"),
            (of_site["running"], f"WIFV.{site}_stat"),
            (of_site["running"], f"IFV.{site}_stat"),
            (of_site["squares"], f"WIFN.{site}_stat"),
        ):
            torch.testing.assert_close(ours, theirs[name], rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("job", JOBS)
def test_a_job_of_the_references(
    prune: Prune, expected: dict[str, Any], reference: Path, valid: torch.Tensor, job: str
) -> None:
    """Kept heads and neurons, biases, and perplexity with and without them."""
    checkpoint, pruning = prune(parameters_of(job, expected[job], reference=True))
    check_kept(pruning, expected[job])
    weights = load_file(checkpoint / "model.safetensors")
    theirs = load_file(reference / "flap.safetensors")
    for part, place in (("o_proj", "self_attn"), ("down_proj", "mlp")):
        ours = [weights[f"model.layers.{n}.{place}.{part}.bias"] for n in range(5)]
        biases = theirs[f"{job}.{part}.bias"]
        torch.testing.assert_close(torch.stack(ours), biases, rtol=0, atol=1e-5)
    model = loaded(checkpoint)
    assert perplexity(model, valid) == pytest.approx(expected[job]["ppl_with_bias"], rel=1e-3)
    for layer in model.model.layers:
        layer.self_attn.o_proj.bias.data.zero_()
        layer.mlp.down_proj.bias.data.zero_()
    found = perplexity(model, valid)
    assert found == pytest.approx(expected[job]["ppl_without_bias"], rel=1e-3)


@pytest.mark.parametrize("job", ["flap-WIFV-AL-AM-0.2", "flap-WIFV-AL-MM-0.5"])
def test_a_job_without_biases(
    prune: Prune, expected: dict[str, Any], valid: torch.Tensor, job: str
) -> None:
    """As a user asks for it: by BIAS=0."""
    checkpoint, pruning = prune(parameters_of(job, expected[job], reference=True, bias=False))
    check_kept(pruning, expected[job])
    found = perplexity(loaded(checkpoint), valid)
    assert found == pytest.approx(expected[job]["ppl_without_bias"], rel=1e-3)


@pytest.mark.parametrize("job", MENDED)
def test_a_mended_job(
    prune: Prune, scores: Path, expected: dict[str, Any], valid: torch.Tensor, job: str
) -> None:
    ratio, kind = float(job.partition("/")[0].rpartition("-")[2]), job.partition("/")[2]
    figures = read_figures(scores, SHAPES)
    fluctuation: Fluctuation = "exact" if kind.startswith("exact") else "running"
    weight = float(kind.partition("weight-")[2] or 170)
    features = Scores(*(list(metric_of(figures[s], "wifv", fluctuation)) for s in SITES))
    kept = adaptive(unit_scores(features, "al-am", SHAPES), ratio, weight)
    assert [list(layer.kv_heads) for layer in kept] == expected[job]["kept_kv_heads"]
    assert [list(layer.neurons) for layer in kept] == expected[job]["kept_ffn"]
    if kind in PUBLISHED:
        for bias, key in ((True, "ppl_with_bias"), (False, "ppl_without_bias")):
            checkpoint, pruning = prune(
                FlapParameters(sparsity=ratio, bias=bias, **PUBLISHED[kind])
            )
            check_kept(pruning, expected[job])
            assert perplexity(loaded(checkpoint), valid) == pytest.approx(
                expected[job][key], rel=1e-3
            )


@pytest.mark.parametrize("ratio", RATIOS)
def test_wanda_sp(
    given: dict[str, Path],
    tmp_path: Path,
    expected: dict[str, Any],
    valid: torch.Tensor,
    ratio: str,
) -> None:
    output = tmp_path / "wanda-sp"
    parameters = WandaSpParameters(sparsity=float(ratio))
    done = wanda_sp_stage.run(context(output, **given), parameters)
    assert isinstance(done.pruning, Uniform)
    check_checkpoint(output, pruning=done.pruning)
    job = expected[f"wanda_sp-{ratio}"]
    check_kept(done.pruning, job)
    assert perplexity(loaded(output), valid) == pytest.approx(job["ppl"], rel=1e-3)
