"""Gradients a layer at a time are those of the whole model at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from espalier.contract.progress import Progress
from espalier.contract.stage import StageContext
from espalier.errors import InputError
from espalier.models.decoder import Decoder
from espalier.models.loading import load_stock
from espalier.pruning.layers.backward import Gradients, backward
from tests.tiny import tiny_llama

IDS = torch.randint(2, 288, (3, 9), generator=torch.Generator().manual_seed(1))  # [S, T]
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "tied": {"tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "tie_word_embeddings": False},
}


class Sums:
    """The mean of all samples' gradients and of their squares."""

    def begin(self, weights: Mapping[str, Tensor]) -> None:
        self.found: dict[str, Tensor] = {}

    def add(self, gradients: Mapping[str, Tensor]) -> None:
        for name, gradient in gradients.items():
            for key, value in ((name, gradient), (f"{name}^2", gradient.square())):
                self.found[key] = self.found.get(key, torch.zeros_like(value)) + value / len(IDS)

    def end(self) -> dict[str, Tensor]:
        return self.found


class Rows(Sums):
    """The same of blocks, of which only sums over rows can be added up."""

    def end(self) -> dict[str, Tensor]:
        return {name: value.sum(dim=0) for name, value in self.found.items() if value.ndim == 2}


def context(folder: Path) -> StageContext:
    output = folder / "output"
    return StageContext({}, output, folder / "scratch", "cpu", Progress(None))


def taken(model: Path, folder: Path, observer: Any = None) -> Gradients:
    decoder = Decoder(model, dtype=torch.float32)
    return backward(context(folder), decoder, IDS, observer or Sums(), outer=Rows(), batch=2)


def by_autograd(model: Path) -> dict[str, Tensor]:
    """Mean gradients and mean squares by a stock model's own loss, sample by sample."""
    stock = load_stock(model, torch.float32).requires_grad_()
    found: dict[str, Tensor] = {}
    for ids in IDS:
        stock.zero_grad()
        stock(ids[None], labels=ids[None]).loss.backward()
        for name, weight in stock.named_parameters():
            for key, value in ((name, weight.grad), (f"{name}^2", weight.grad.square())):
                found[key] = found.get(key, torch.zeros_like(value)) + value / len(IDS)
    return found


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    return tiny_llama(folder, initializer_range=0.2, **FAMILIES[request.param])


def test_gradients_are_the_whole_model_s(model: Path, tmp_path: Path) -> None:
    expected, found = by_autograd(model), taken(model, tmp_path)
    for number, layer in enumerate(found.layers):
        for name, value in layer.items():
            whole = expected[f"model.layers.{number}.{name}"]
            torch.testing.assert_close(value, whole, atol=1e-6, rtol=1e-4)
    names = {name for name in expected if not name.startswith("model.layers.")}
    matrices = {name for name in names if expected[name].ndim == 2}
    assert found.outer.keys() == matrices
    for name, value in found.outer.items():
        torch.testing.assert_close(value, expected[name].sum(dim=0), atol=1e-6, rtol=1e-4)


def test_losses_are_the_stock_model_s(model: Path, tmp_path: Path) -> None:
    stock = load_stock(model, torch.float32)
    expected = [stock(ids[None], labels=ids[None]).loss.item() for ids in IDS]
    torch.testing.assert_close(taken(model, tmp_path).losses, torch.tensor(expected))


class Killed(Exception):
    pass


@pytest.mark.parametrize("survived", [0, 1, 4, 7])
def test_a_killed_run_resumes_with_the_same_bytes(tmp_path: Path, survived: int) -> None:
    """Killed after so many gradients, of 3 samples and 3 layers."""
    model = tiny_llama(tmp_path / "model", initializer_range=0.2)

    class Dying(Sums):
        left = survived

        def add(self, gradients: Mapping[str, Tensor]) -> None:
            if not self.left:
                raise Killed
            self.left -= 1
            super().add(gradients)

    whole = taken(model, tmp_path / "whole")
    with pytest.raises(Killed):
        taken(model, tmp_path / "killed", Dying())
    resumed = taken(model, tmp_path / "killed")
    for before, after in zip(whole.layers, resumed.layers, strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(whole.outer[name], resumed.outer[name]) for name in whole.outer)


def test_one_token_has_nothing_to_predict(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "model")
    with pytest.raises(InputError, match="nothing to predict"):
        backward(context(tmp_path), Decoder(model, dtype=torch.float32), IDS[:, :1], Sums())
