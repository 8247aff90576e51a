"""`plan-tpu` on the command line, with the image's variant for TPUs: XLA's own compiler."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.contract.command import espalier, refused
from tests.contract.maxtext_stages import made
from tests.tiny import tiny_llama

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 128,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
"""Of heads and sequences that the flash kernel takes."""


def test_a_step_is_compiled_for_a_tpu_that_is_not_there(tmp_path: Path) -> None:
    shape = tmp_path / "small.json"
    shape.write_text(json.dumps(SMALL))
    words = ("plan-tpu", f"ARCH={shape}", "TPU=v5litepod-4", "BATCH=4", "TOKENS=1M")
    done = espalier(tmp_path, *words, "RUNTIME=local")
    assert done.returncode == 0, done.stderr
    published = Path(done.stdout.splitlines()[-1])
    assert published.parent == tmp_path / "plans"
    assert published.name.startswith("small-plan-tpu-v5litepod-4-")
    told = json.loads((published / "plan.json").read_text())
    trial, *others = told["tried"]
    assert not others  # a chip has one sequence
    assert (trial["micro_batch"], trial["recompute"], trial["fits"]) == (1, False, True)
    shared = 12 * told["parameters"] / 4  # weights and two moments, float32
    assert shared <= trial["state"] < 1.2 * shared
    assert trial["state"] < trial["total"] < 1 << 30
    assert trial["flops"] > 0
    for text in ("GiB on each of 4 chips of v5litepod-4", "chip-hours", "The run fits"):
        assert text in done.stderr
    again = espalier(tmp_path, *words, "RUNTIME=local")
    assert again.stdout == done.stdout
    assert "is done already" in again.stderr


def test_masks_are_part_of_the_step(tmp_path: Path) -> None:
    """A checkpoint with zeros: a byte more for each weight of the layers' matrices."""
    dense = tiny_llama(tmp_path / "tiny")
    pruning = ("prune-magnitude", f"MODEL={dense}", "PATTERN=2:4", "SUITE=none")
    pruned = made(tmp_path, *pruning, "RUNTIME=inside")
    states = []
    for model in (dense, pruned):
        words = ("plan-tpu", f"CKPT={model}", "TPU=v5litepod-4", "BATCH=4", "TOKENS=1M")
        plan = json.loads((made(tmp_path, *words) / "plan.json").read_text())
        states.append(plan["tried"][0]["state"])
    assert states[1] > states[0]


def test_sizes_that_do_not_divide_end_in_one_sentence(tmp_path: Path) -> None:
    shape = tmp_path / "small.json"
    shape.write_text(json.dumps(SMALL))
    words = ("plan-tpu", f"ARCH={shape}", "TPU=v5litepod-16", "BATCH=24", "RUNTIME=local")
    refused(espalier(tmp_path, *words), 2, "BATCH=24 does not divide among 16 devices")
    assert not list(tmp_path.glob("plans/*"))
