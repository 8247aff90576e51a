"""Masks, weights and perplexity of the reference implementations on stories260K."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from espalier.contract.pattern import Pattern
from espalier.contract.progress import Progress
from espalier.contract.stage import StageContext
from espalier.models.gates import check_checkpoint
from espalier.pruning.masked.stream import PruningJob, prune_checkpoint
from methods.magnitude.algorithm import Magnitude
from methods.sparsegpt.algorithm import SparseGPT
from methods.wanda.algorithm import Wanda

pytestmark = pytest.mark.shared

PATTERNS = {"2of4": Pattern(2, 4), "4of8": Pattern(4, 8)}
MASKED = [
    *(f"magnitude-{kind}" for kind in ("0.5", "2of4", "4of8")),
    *(f"wanda-{kind}" for kind in ("0.5", "0.7", "2of4", "4of8", "variant-0.5")),
]
UPDATED = [f"sparsegpt-{kind}" for kind in ("0.5", "2of4", "4of8")]

Pruned = Callable[..., dict[str, Any]]


def job_of(name: str, ids: Any, batch: int | None) -> PruningJob:
    method, _, kind = name.partition("-")
    variant = kind.startswith("variant-")
    kind = kind.removeprefix("variant-")
    pattern = PATTERNS.get(kind, Pattern())
    sparsity = pattern.sparsity if pattern.structured else float(kind)
    made: Any = {
        "magnitude": lambda: Magnitude(pattern),
        "wanda": lambda: Wanda(pattern, variant),
        "sparsegpt": lambda: SparseGPT(pattern),
    }[method]()
    return PruningJob(made, pattern, sparsity, ids, batch)


@pytest.fixture(scope="module")
def reference(shared: Path) -> Path:
    return shared / "reference" / "stories260k"


@pytest.fixture(scope="module")
def pruned(shared: Path, reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Pruned:
    """Prunes by job name and batch, once each; the tensors of the result."""
    made: dict[tuple[str, int | None], dict[str, Any]] = {}
    ids = load_file(reference / "calibration.safetensors")["input_ids"].long()

    def prune(name: str, batch: int | None = None) -> dict[str, Any]:
        if (name, batch) not in made:
            output = tmp_path_factory.mktemp(name)
            inputs = {"model": shared / "models" / "stories260k"}
            context = StageContext(inputs, output, output / ".run", "cpu", Progress())
            record = prune_checkpoint(context, job_of(name, ids, batch))
            check_checkpoint(output, pruning=record)
            tensors: dict[str, Any] = {}
            for file in output.glob("*.safetensors"):
                tensors |= load_file(file)
            made[name, batch] = tensors
        return made[name, batch]

    return prune


@pytest.mark.parametrize("name", MASKED)
def test_masks_are_the_references(pruned: Pruned, shared: Path, reference: Path, name: str) -> None:
    parent = load_file(shared / "models" / "stories260k" / "model.safetensors")
    masks = {
        key.partition("/")[2]: mask
        for key, mask in load_file(reference / "kept_masks.safetensors").items()
        if key.startswith(f"{name}/")
    }
    tensors = pruned(name)
    assert len(masks) == 35
    for weight, mask in masks.items():
        assert torch.equal(tensors[weight] != 0, mask), weight
        assert torch.equal(tensors[weight][mask], parent[weight][mask]), weight


@pytest.mark.parametrize("name", UPDATED)
def test_updated_weights_are_the_references(pruned: Pruned, reference: Path, name: str) -> None:
    expected, tensors = load_file(reference / f"{name}.safetensors"), pruned(name)
    different = sum(int(((tensors[k] != 0) != (v != 0)).sum()) for k, v in expected.items())
    assert different <= 0.001 * sum(v.numel() for v in expected.values())
    for weight, value in expected.items():
        torch.testing.assert_close(tensors[weight], value, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["dense", *MASKED, *UPDATED])
def test_perplexity(pruned: Pruned, shared: Path, reference: Path, name: str) -> None:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(shared / "models" / "stories260k").eval()
    if name != "dense":
        model.load_state_dict(pruned(name), strict=False)
    ids = load_file(reference / "valid.safetensors")["input_ids"].long()
    with torch.no_grad():
        losses = [model(batch, labels=batch).loss for batch in ids.split(16)]
    perplexity = float(torch.stack(losses).mean().exp())
    expected = json.loads((reference / "results.json").read_text())[name]["ppl"]
    assert perplexity == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize("name", ["wanda-0.5", "wanda-2of4", "sparsegpt-0.5"])
def test_batches_of_1_and_8(pruned: Pruned, name: str) -> None:
    one, eight = pruned(name, 1), pruned(name, 8)
    assert sum(int(((one[k] != 0) != (eight[k] != 0)).sum()) for k in one) <= 10
