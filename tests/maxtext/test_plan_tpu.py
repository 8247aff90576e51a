"""Plans for TPUs, but for the compiler, which only the image's variant for TPUs has."""

import json
from pathlib import Path

import pytest

from espalier.errors import InputError
from espalier.hardware.tpus import tpu_named
from tests.unit.test_plan_gpu import CONFIG
from training.plan_tpu.spec import PlanTpuParameters

pytestmark = pytest.mark.maxtext

GIB = 1 << 30
MANIFEST = {
    "verb": "export",
    "name": "rows",
    "seed": None,
    "inputs": {},
    "parents": [],
    "image": {"name": "export", "lock": ""},
    "code": {"sha256": ""},
    "command": [],
    "fingerprint": "",
    "recipe": {"stage": "export", "code": "", "lock": "", "parameters": {}, "inputs": {}},
    "content": "",
    "files": [],
}


@pytest.mark.parametrize(
    ("message", "total"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (81.02G) exceeds available HBM (15.75G). HLO module: jit_train_step.",
            round(81.02 * GIB) + 2 * GIB,
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
            "space hbm. Used 24.60G of 15.75G hbm. Exceeded hbm capacity by 8.85G.",
            round(24.6 * GIB),
        ),
        ("RESOURCE_EXHAUSTED: in other words", 2 * GIB),
    ],
)
def test_what_a_refused_program_wants(message: str, total: int) -> None:
    from training.plan_tpu.compiling import wanted

    assert wanted(message, 2 * GIB) == total


def test_sequences_that_chips_do_not_share_evenly_are_refused() -> None:
    from training.plan_tpu.stage import planned_job

    parameters = PlanTpuParameters(tpu="v5litepod-16", config=CONFIG, batch=24)
    with pytest.raises(
        InputError, match="BATCH=24 does not divide among 16 devices; give BATCH=16 or BATCH=32"
    ):
        planned_job(parameters, None)


def test_a_plan_has_the_length_of_its_run() -> None:
    from training.plan_tpu.stage import planned_job

    parameters = PlanTpuParameters(tpu="v4-8", config=CONFIG, batch=16, tokens=10_000)
    job, tokens = planned_job(parameters, None)
    assert (job.budget.steps, tokens, job.zeros) == (10, 10 * 16 * 64, None)
    assert planned_job(parameters.model_copy(update={"tokens": None}), None)[1] is None


def test_types_without_a_topology_are_refused_and_the_nearest_named() -> None:
    from training.plan_tpu.topology import absent_chips

    with pytest.raises(InputError, match="knows no topology of 12 chips; give v4-16 or v4-32"):
        absent_chips(tpu_named("v4-24"))


@pytest.mark.parametrize("name", ["v4-8", "v5litepod-16", "v5p-16", "v6e-256"])
def test_maxtext_counts_the_chips_that_are_rented(name: str) -> None:
    from training.plan_tpu.topology import KNOWN, topology_keys

    tpu = tpu_named(name)
    assert KNOWN[topology_keys(tpu)["compile_topology"]].devices_per_slice == tpu.chips


@pytest.mark.parametrize(
    ("head_dim", "seqlen", "kernel"),
    [
        (128, 128, "flash"),
        (128, 384, "flash"),
        (128, 1024, "flash"),
        (128, 640, "dot_product"),
        (128, 64, "dot_product"),
        (64, 1024, "dot_product"),
    ],
)
def test_attention_is_what_the_kernel_takes(head_dim: int, seqlen: int, kernel: str) -> None:
    """In float32 where it is not the kernel's, which accumulates so by itself."""
    from training.plan_tpu.stage import planned_job

    config = {**CONFIG, "head_dim": head_dim, "max_position_embeddings": 1024}
    parameters = PlanTpuParameters(tpu="v4-8", config=config, batch=16, seqlen=seqlen)
    keys = planned_job(parameters, None)[0].keys("tpu", 4)
    assert keys["attention"] == kernel
    assert keys["float32_logits"] == keys["float32_qk_product"] == (kernel != "flash")


def test_rows_of_an_export_are_counted(tmp_path: Path) -> None:
    from training.plan_tpu.stage import planned_job

    told = {"stage": "export", "parameters": {"seqlen": 64}, "data": {"rows": {"train": 320}}}
    (tmp_path / "manifest.json").write_text(json.dumps({**MANIFEST, **told}))
    parameters = PlanTpuParameters(tpu="v4-8", config=CONFIG, batch=16, seqlen=64)
    assert planned_job(parameters, tmp_path)[1] == 320 * 64
    with pytest.raises(InputError, match="has no rows of 32 tokens"):
        planned_job(parameters.model_copy(update={"seqlen": 32}), tmp_path)
