"""POLICY=preserve and zeros that something else pruned: kept without a manifest, and said."""

import shutil
from pathlib import Path

import pytest
import torch

from tests.contract.command import espalier, refused
from tests.fsdp.tiny_runs import job_of, train
from tests.tiny import tiny_llama
from tests.unit.test_found_zeros import masked_by
from tests.unit.tiny_checkpoints import load_all, rewrite
from training.protocol.account import pruning_section

pytestmark = pytest.mark.fsdp


@pytest.fixture
def foreign(pruned: Path, tmp_path: Path) -> Path:
    """As `pruned`, without a manifest."""
    target = shutil.copytree(pruned, tmp_path / "foreign")
    (target / "manifest.json").unlink()
    return target


def matrices(directory: Path) -> dict[str, torch.Tensor]:
    return {n: w for n, w in load_all(directory).items() if ".layers." in n and w.ndim == 2}


@pytest.mark.parametrize("init", ["checkpoint", "random"])
def test_every_zero_is_kept(
    tmp_path: Path, inputs: dict[str, Path], foreign: Path, init: str
) -> None:
    given = {**inputs, "model": foreign}
    run = train(tmp_path / "run", given, tokens=4 * 64, init=init)
    before = matrices(foreign)
    for name, weight in matrices(run.output).items():
        assert torch.equal(weight == 0, before[name] == 0)
        assert not torch.equal(weight, before[name])
    job = job_of(given, tokens=64, init=init)
    (line,) = job.notices
    assert line.startswith("50.00% of the layers' matrices are zero")
    assert "POLICY=preserve keeps them" in line
    section = pruning_section(job, lambda: 0.5)
    assert section is not None
    assert section.achieved == 0.5


def test_densify_trains_every_weight(
    tmp_path: Path, inputs: dict[str, Path], foreign: Path
) -> None:
    given = {**inputs, "model": foreign}
    run = train(tmp_path / "run", given, tokens=4 * 64, policy="densify")
    assert all(torch.count_nonzero(w) == w.numel() for w in matrices(run.output).values())
    job = job_of(given, tokens=64, policy="densify")
    assert pruning_section(job, lambda: 0.0) is None


def test_a_few_zeros_are_trained(tmp_path: Path, inputs: dict[str, Path]) -> None:
    """Accidents of a dense model, and layers that were added to be trained."""
    model = tiny_llama(tmp_path / "model")
    name = "model.layers.1.mlp.up_proj.weight"
    weight = load_all(model)[name]
    weight[5, ::3] = 0
    added = "model.layers.2.mlp.down_proj.weight"
    empty = load_all(model)[added] * 0
    rewrite(model, **{name.replace(".", "__"): weight, added.replace(".", "__"): empty})
    run = train(tmp_path / "run", {**inputs, "model": model}, tokens=4 * 64)
    trained = matrices(run.output)
    assert torch.count_nonzero(trained[name]) == weight.numel()
    assert torch.count_nonzero(trained[added]) == empty.numel()
    job = job_of({**inputs, "model": model}, tokens=64)
    (line,) = job.notices
    assert "1 matrices throughout" in line
    assert "they are trained" in line
    assert pruning_section(job, lambda: 0.0) is None
    assert job_of(inputs, tokens=64).notices == []


def test_what_is_adopted_with_its_pattern_is_known(tmp_path: Path, inputs: dict[str, Path]) -> None:
    """Through the command: refused where it does not hold, else recorded for what comes after."""
    model, store = tiny_llama(tmp_path / "model"), tmp_path / "store"
    masked_by(model, 2, 4)
    words = ("adopt", f"FROM={model}", "RUNTIME=inside")
    refused(espalier(store, *words, "NAME=a", "PATTERN=3:4"), 2, "PATTERN=3:4 does not hold; give")
    refused(espalier(store, *words, "NAME=a", "PATTERN=4"), 2, "PATTERN=4 is not a pattern")
    plain = espalier(store, *words, "NAME=plain")
    assert plain.returncode == 0
    assert "if it was pruned, PATTERN=2:4 records that" in plain.stderr
    done = espalier(store, *words, "NAME=a", "PATTERN=2:4")
    assert done.returncode == 0, done.stderr
    job = job_of({**inputs, "model": store / "models" / "a"}, tokens=64)
    assert job.zeros
    assert job.notices == []
    section = pruning_section(job, lambda: 0.5)
    assert section is not None
    assert (section.kind, section.pattern) == ("masked", "2:4")
    shutil.rmtree(model)
    tiny_llama(model)
    refused(
        espalier(store, *words, "NAME=b", "PATTERN=unstructured"), 2, "too few for a pruned model"
    )
