"""Spectra, subspaces and perplexities of the reference's SliceGPT on stories260K."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from espalier.contract.progress import Progress
from espalier.contract.stage import StageContext
from espalier.models.decoder import Decoder
from espalier.models.loading import load_stock
from espalier.models.sliced import load_sliced
from methods.slicegpt import blockwise
from methods.slicegpt.algorithm import Basis
from methods.slicegpt.blockwise import slice_blockwise
from methods.slicegpt.cut import Cut
from methods.slicegpt.shared import slice_shared
from methods.slicegpt.spec import SliceGPTParameters

pytestmark = pytest.mark.shared

SPARSITIES = [0.25, 0.5]
SHARED = {0.25: 18.284, 0.5: 142.91}
"""Ours, which no reference has: what the README says."""


@dataclass(frozen=True)
class Sliced:
    """A result, and the bases in the order in which they were found."""

    directory: Path
    bases: list[Basis]


Slice = Callable[..., Sliced]


@pytest.fixture(scope="module")
def reference(shared: Path) -> Path:
    return shared / "reference" / "stories260k"


@pytest.fixture(scope="module")
def expected(reference: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((reference / "slicegpt.json").read_text())
    return found


@pytest.fixture(scope="module")
def sliced(shared: Path, reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Slice:
    """Slices by the parameters given, once each."""
    model, made = shared / "models" / "stories260k", dict[str, Sliced]()
    ids = load_file(reference / "calibration.safetensors")["input_ids"].long()

    def slice_it(**given: Any) -> Sliced:
        if (key := repr(given)) not in made:
            output, found = tmp_path_factory.mktemp("sliced"), list[Basis]()
            context = StageContext({"model": model}, output, output / ".run", "cpu", Progress())
            parameters, decoder = SliceGPTParameters(**given), Decoder(model)
            cut = Cut.of(parameters, decoder, ids)
            if parameters.shared:
                found.append(slice_shared(context, decoder, cut, ids, None))
            else:
                with pytest.MonkeyPatch.context() as patched:
                    find = blockwise.principal_basis

                    def remembered(moment: Tensor) -> Basis:
                        found.append(find(moment))
                        return found[-1]

                    patched.setattr(blockwise, "principal_basis", remembered)
                    slice_blockwise(context, decoder, cut, ids, None)
            made[key] = Sliced(output, found)
        return made[key]

    return slice_it


def perplexity(model: Any, reference: Path) -> float:
    ids = load_file(reference / "valid.safetensors")["input_ids"].long()
    with torch.inference_mode():
        losses = [
            torch.nn.functional.cross_entropy(
                model(batch, use_cache=False).logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten()
            )
            for batch in ids.split(16)
        ]
    return float(torch.stack(losses).mean().exp())


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_spectra(sliced: Slice, reference: Path, sparsity: float) -> None:
    found = sliced(sparsity=sparsity, reference=True).bases
    theirs = load_file(reference / f"slicegpt-{sparsity}.safetensors")["eigenvalues"]  # [11, 64]
    ours = torch.stack([basis.energies for basis in found])
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_every_direction_up_to_its_sign(sliced: Slice, reference: Path, sparsity: float) -> None:
    found = sliced(sparsity=sparsity, reference=True).bases
    theirs = load_file(reference / f"slicegpt-{sparsity}.safetensors")["Q"].double()
    kept = 64 - int(64 * sparsity)
    for basis, q in zip(found, theirs, strict=True):
        overlap = (q.T @ basis.vectors).abs()
        torch.testing.assert_close(overlap, torch.eye(64).double(), rtol=0, atol=2e-3)
        cosines = torch.linalg.svdvals(q[:, :kept].T @ basis.vectors[:, :kept])
        assert float(cosines.min()) > 1 - 1e-6  # of the angles between what is left


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_shortcuts(sliced: Slice, reference: Path, sparsity: float) -> None:
    theirs = load_file(reference / f"slicegpt-{sparsity}.safetensors")
    ours = load_file(sliced(sparsity=sparsity, reference=True).directory / "model.safetensors")
    for layer in range(5):
        for part in ("attn_shortcut", "mlp_shortcut"):
            mine = ours[f"model.layers.{layer}.{part}.weight"].T.abs()
            torch.testing.assert_close(mine, theirs[f"{part}_Q.{layer}"].abs(), rtol=0, atol=2e-3)


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_parameters(sliced: Slice, expected: dict[str, Any], sparsity: float) -> None:
    stored = load_file(sliced(sparsity=sparsity, reference=True).directory / "model.safetensors")
    count = sum(tensor.numel() for tensor in stored.values())
    assert count == expected["jobs"][f"slicegpt-{sparsity}"]["parameters_after"]


CASES = {
    "ppl_valid": {"reference": True},
    "ppl_valid_without_mean_subtraction": {},
    "ppl_valid_random_orientation_seed42": {
        "reference": True, "orientation": "random", "seed": 42,
    },
}  # fmt: skip


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("key", CASES)
def test_perplexity(
    sliced: Slice, reference: Path, expected: dict[str, Any], key: str, sparsity: float
) -> None:
    found = sliced(sparsity=sparsity, **CASES[key])
    theirs = expected["jobs"][f"slicegpt-{sparsity}"][key]
    assert perplexity(load_sliced(found.directory), reference) == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_perplexity_of_a_shared_basis(sliced: Slice, reference: Path, sparsity: float) -> None:
    found = sliced(sparsity=sparsity, shared=True)
    ours = perplexity(load_stock(found.directory), reference)
    assert ours == pytest.approx(SHARED[sparsity], rel=1e-3)


def test_rotated_and_not_cut(shared: Path, reference: Path, expected: dict[str, Any]) -> None:
    """Centring alone changes the model, as the reference's own figure has it."""
    model = load_stock(shared / "models" / "stories260k")
    embeddings = model.model.embed_tokens.weight.data
    head = embeddings.clone()
    embeddings -= embeddings.mean(dim=1, keepdim=True)
    model.lm_head.weight = torch.nn.Parameter(head)
    theirs = expected["meta"]["ppl_after_fusion"]
    assert perplexity(model, reference) == pytest.approx(theirs, rel=1e-4)
