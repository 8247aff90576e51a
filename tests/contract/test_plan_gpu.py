"""`plan-gpu` on the command line: what it publishes, prints and refuses."""

import json
from pathlib import Path

import pytest

from tests.contract.command import espalier, refused

pytestmark = pytest.mark.fsdp


def test_a_plan_is_published_printed_and_done_once(tmp_path: Path) -> None:
    words = ("plan-gpu", "MODEL=sapling", "GPUS=4", "NODES=2", "TOKENS=1M", "BATCH=16")
    done = espalier(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    published = Path(done.stdout.splitlines()[-1])
    assert published.parent == tmp_path / "plans"
    assert published.name.startswith("sapling-plan-gpu-8xh100-")
    told = json.loads((published / "plan.json").read_text())
    assert told["gpus"] == 8
    assert [peak["recompute"] for peak in told["peaks"]] == [False, True]
    for text in ("GiB on each of 8 h100", "tokens/s", "GPU hours", "The run fits"):
        assert text in done.stderr
    again = espalier(tmp_path, *words)
    assert again.stdout == done.stdout
    assert "is done already" in again.stderr
    assert "The run fits" in again.stderr
    listed = espalier(tmp_path, "list")
    assert f"plans/{published.name}" in listed.stdout


def test_sizes_that_do_not_divide_end_in_one_sentence(tmp_path: Path) -> None:
    done = espalier(tmp_path, "plan-gpu", "GPUS=3", "BATCH=16")
    refused(done, 2, "BATCH=16 does not divide among 3 processes")
    assert not list(tmp_path.glob("plans/*"))
