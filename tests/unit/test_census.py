"""Zeros counted while reading are those that a plain comparison finds."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from espalier.errors import InputError
from espalier.models import agreement, zeros
from espalier.models.checkpoint import reader
from espalier.models.checkpoint.census import Census
from espalier.models.gates import check_checkpoint, describe_model
from espalier.models.zeros import count_zeros
from tests.unit.tiny_checkpoints import load_all, make_checkpoint, rewrite


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", [(0,), (7,), (3, 5), (40, 33)])
@pytest.mark.parametrize("elements", [1, 16, 1 << 18])
def test_zeros_of_either_sign(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, shape: tuple[int, ...], elements: int
) -> None:
    monkeypatch.setattr(zeros, "CACHED_ELEMENTS", elements)
    generator = torch.Generator().manual_seed(0)
    values = torch.tensor([0.0, -0.0, 1.0, -1.0, 6e-8, -6e-8, torch.inf, torch.nan])
    tensor = values[torch.randint(0, 8, shape, generator=generator)].to(dtype)
    assert count_zeros(tensor) == int((tensor == 0).sum())
    if tensor.dim() == 2:
        assert count_zeros(tensor.T) == int((tensor == 0).sum())


@pytest.mark.parametrize("tied", [True, False])
def test_the_gate_reads_each_tensor_once_and_counts_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tied: bool
) -> None:
    make_checkpoint(tmp_path, dtype=torch.bfloat16, tie_word_embeddings=tied)
    up = load_all(tmp_path)["model.layers.1.mlp.up_proj.weight"]
    up[:, ::3] = 0
    rewrite(tmp_path, model__layers__1__mlp__up_proj__weight=up)
    times: dict[str, int] = {}
    read = reader.read_entry

    def counting(entry: reader.TensorEntry, *part: int) -> torch.Tensor:
        times[entry.name] = times.get(entry.name, 0) + 1
        return read(entry, *part)

    monkeypatch.setattr(reader, "read_entry", counting)
    monkeypatch.setattr(agreement, "WHOLE_BYTES", 0)  # as of a model that is not loaded whole
    census = Census(tmp_path)
    check_checkpoint(tmp_path, census=census)
    described = describe_model(tmp_path, census=census)
    tensors = load_all(tmp_path)
    assert times == dict.fromkeys(tensors, 1)
    assert {name: census.zeros(name) for name in tensors} == {
        name: int((tensor == 0).sum()) for name, tensor in tensors.items()
    }
    assert described == describe_model(tmp_path)


def test_counting_late_is_checking_too(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    rewrite(tmp_path, model__norm__weight=torch.full((32,), torch.nan))
    with pytest.raises(InputError, match=r"norm\.weight holds NaN"):
        Census(tmp_path).zeros("model.norm.weight")


UNNEEDED = """
import sys
from pathlib import Path
from espalier.models.gates import check_parent
check_parent(Path(sys.argv[1]))
import transformers.utils
print(*sorted({"sklearn", "scipy", "transformers"} & sys.modules.keys()))
print(transformers.utils.is_sklearn_available.__module__)
"""


def test_stock_layers_are_imported_without_what_they_do_not_use(tmp_path: Path) -> None:
    """It would take a second of each stage; and others still find that it is installed."""
    make_checkpoint(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", UNNEEDED, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["transformers", "transformers.utils.import_utils"]
