"""The streaming loop: results do not depend on how it was run, and bad input stops it early."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from espalier.contract.pattern import Pattern
from espalier.errors import EnvironmentFailure, InputError
from espalier.models.device import require_device
from espalier.models.gates import check_checkpoint
from espalier.pruning.layers.resume import ResumeState
from espalier.pruning.layers.walk import LayerStep
from espalier.pruning.masked import stream
from espalier.pruning.masked.stream import PruningJob, prune_checkpoint
from methods.magnitude.algorithm import Magnitude
from methods.sparsegpt.algorithm import SparseGPT
from methods.wanda.algorithm import Wanda
from tests.unit.tiny_checkpoints import (
    load_all,
    make_checkpoint,
    make_context,
    make_ids,
    rewrite,
)

FREE = Pattern()


def weight_bytes(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(directory.glob("model*"))}


def job(method: Any = Wanda, **changes: Any) -> PruningJob:
    settings = {"sparsity": 0.5, "input_ids": make_ids(), "pattern": FREE} | changes
    return PruningJob(method(settings["pattern"]), **settings)


def plain_wanda(model: Any, ids: Any, sparsity: float) -> dict[str, Any]:
    """Wanda over a whole model: one sample at a time, full sorts, nothing shared."""
    hidden = [model.model.embed_tokens(row[None]) for row in ids]
    positions = torch.arange(ids.shape[1])[None]
    rotary = model.model.rotary_emb(hidden[0], positions)
    names = [n for n, m in model.model.layers[0].named_modules() if isinstance(m, torch.nn.Linear)]
    pruned = {}
    for number, layer in enumerate(model.model.layers):
        seen: dict[str, list[Any]] = {name: [] for name in names}
        hooks = [
            layer.get_submodule(name).register_forward_hook(
                lambda m, x, y, kept=seen[name]: kept.append(x[0][0].float())
            )
            for name in names
        ]

        def forward(x: Any, layer: Any = layer) -> Any:
            out = layer(x, position_ids=positions, position_embeddings=rotary)
            return out[0] if isinstance(out, tuple) else out

        for x in hidden:
            forward(x)
        for hook in hooks:
            hook.remove()
        for name in names:
            weight = layer.get_submodule(name).weight.data
            mean = torch.stack([x.square().sum(0) for x in seen[name]]).mean(0)
            order = (weight.abs() * mean.sqrt()).argsort(dim=1, stable=True)
            weight.scatter_(1, order[:, : int(weight.shape[1] * sparsity)], 0)
            pruned[f"model.layers.{number}.{name}.weight"] = weight.clone()
        hidden = [forward(x) for x in hidden]
    return pruned


def test_streamed_wanda_equals_a_plain_whole_model_one(tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "m", attention_bias=True)
    record = prune_checkpoint(make_context(tmp_path / "m", tmp_path / "o"), job())
    got, parent = load_all(tmp_path / "o"), load_all(tmp_path / "m")
    with torch.no_grad():
        expected = plain_wanda(model, make_ids(), 0.5)
    for name, weight in expected.items():
        assert torch.equal(got[name], weight), name
    assert all(torch.equal(got[n], parent[n]) for n in parent if n not in expected)
    assert record.achieved == record.attainable == 0.5
    check_checkpoint(tmp_path / "o", pruning=record)


@pytest.mark.parametrize("method", [Wanda, SparseGPT, Magnitude])
@pytest.mark.parametrize("pattern", [FREE, Pattern(2, 4), Pattern(4, 8), Pattern(2, 5)])
def test_every_method_and_pattern_passes_the_gates(
    tmp_path: Path, method: Any, pattern: Pattern
) -> None:
    make_checkpoint(tmp_path / "m", dtype=torch.bfloat16, tie_word_embeddings=True)
    sparsity = pattern.sparsity if pattern.structured else 0.6
    record = prune_checkpoint(
        make_context(tmp_path / "m", tmp_path / "o"),
        job(method, pattern=pattern, sparsity=sparsity),
    )
    # Blocks this narrow are quantised coarsely; the gate's half a point is for real widths.
    if pattern.structured:
        check_checkpoint(tmp_path / "o", pruning=record)
    assert record.achieved == pytest.approx(record.attainable, abs=0.03)
    assert all(t.dtype == torch.bfloat16 for t in load_all(tmp_path / "o").values())


def test_batches_do_not_change_the_masks(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "m")
    masks = []
    for batch in (1, 3, None):
        output = tmp_path / f"o{batch}"
        prune_checkpoint(make_context(tmp_path / "m", output), job(batch=batch))
        masks.append({n: t != 0 for n, t in load_all(output).items()})
    for other in masks[1:]:
        assert sum(int((masks[0][n] != other[n]).sum()) for n in other) <= 2


def test_a_sparsity_per_layer(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "m")
    context = make_context(tmp_path / "m", tmp_path / "o")
    record = prune_checkpoint(context, job(sparsity=[0.25, 0.75]))
    found = [layer.sparsity for layer in record.layers]
    assert found == pytest.approx([0.25, 0.75], abs=0.01)
    with pytest.raises(InputError, match="1 sparsities were given for 2 layers"):
        prune_checkpoint(make_context(tmp_path / "m", tmp_path / "p"), job(sparsity=[0.5]))


class _KilledError(Exception):
    pass


@pytest.mark.parametrize("method", [Wanda, SparseGPT, Magnitude])
@pytest.mark.parametrize("fail_at", [0, 1, 2])
def test_resumed_run_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Any, fail_at: int
) -> None:
    make_checkpoint(tmp_path / "m", num_hidden_layers=3)
    whole = prune_checkpoint(make_context(tmp_path / "m", tmp_path / "a"), job(method))

    visit = stream._Masking.visit

    def failing(self: Any, step: LayerStep) -> Any:
        if step.number == fail_at:
            raise _KilledError
        return visit(self, step)

    context = make_context(tmp_path / "m", tmp_path / "b")
    with monkeypatch.context() as patch, pytest.raises(_KilledError):
        patch.setattr(stream._Masking, "visit", failing)
        prune_checkpoint(context, job(method))
    assert ResumeState.load(context.scratch).next_layer == fail_at
    again = prune_checkpoint(context, job(method))
    assert weight_bytes(tmp_path / "a") == weight_bytes(tmp_path / "b")
    assert whole == again


KILLED = """
import sys
from pathlib import Path
from tests.unit.test_pruning_stream import job
from tests.unit.tiny_checkpoints import make_context, make_ids
from espalier.pruning.masked.stream import prune_checkpoint
ids = make_ids(samples=32, tokens=48)
for output in sys.argv[2:]:
    prune_checkpoint(make_context(Path(sys.argv[1]), Path(output)), job(input_ids=ids, batch=1))
"""


def test_sigkill_in_the_middle_of_a_layer(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "m", num_hidden_layers=6)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "m"), str(tmp_path / "b")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    state = tmp_path / "b" / ".run" / "scratch" / "layers.safetensors"
    deadline = time.monotonic() + 120
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "b" / "config.json").exists(), "finished before it could be killed"
    command.append(str(tmp_path / "a"))
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert weight_bytes(tmp_path / "a") == weight_bytes(tmp_path / "b")


def test_damaged_resume_state_is_not_used(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "m")
    context = make_context(tmp_path / "m", tmp_path / "o")
    context.scratch.mkdir(parents=True)
    (context.scratch / "layers.safetensors").write_bytes(b"\x10")
    assert prune_checkpoint(context, job()).achieved == 0.5


def test_nan_weights_are_named_and_nothing_is_finished(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "m")
    bad = load_all(tmp_path / "m")["model.layers.1.mlp.up_proj.weight"]
    bad[0, 0] = float("nan")
    rewrite(tmp_path / "m", model__layers__1__mlp__up_proj__weight=bad)
    for method in (Wanda, Magnitude):
        with pytest.raises(InputError, match=r"layers\.1\.mlp\.up_proj\.weight holds NaN"):
            prune_checkpoint(make_context(tmp_path / "m", tmp_path / "o"), job(method))
    assert not (tmp_path / "o" / "config.json").exists()


def test_pattern_that_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "m", intermediate_size=42)
    with pytest.raises(InputError, match=r"2:4 does not fit mlp\.down_proj.* 42 inputs"):
        prune_checkpoint(make_context(tmp_path / "m", tmp_path / "o"), job(pattern=Pattern(2, 4)))
    assert not list((tmp_path / "o").iterdir())


def test_tokens_outside_the_vocabulary(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "m")
    ids = torch.full((2, 8), 96)
    with pytest.raises(InputError, match="outside the 96 rows"):
        prune_checkpoint(make_context(tmp_path / "m", tmp_path / "o"), job(input_ids=ids))


def test_no_tokens(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "m")
    with pytest.raises(InputError, match="give CALIBRATION"):
        prune_checkpoint(make_context(tmp_path / "m", tmp_path / "o"), job(input_ids=None))


def test_mixed_dtypes(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "m")
    half = load_all(tmp_path / "m")["model.layers.1.mlp.up_proj.weight"].half()
    rewrite(tmp_path / "m", model__layers__1__mlp__up_proj__weight=half)
    with pytest.raises(InputError, match="mixes float16 and float32"):
        prune_checkpoint(make_context(tmp_path / "m", tmp_path / "o"), job())


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_cuda_without_a_gpu_stops() -> None:
    with pytest.raises(EnvironmentFailure, match="no GPU"):
        require_device("cuda")
