"""The rehearsed step: what its parts must be, whatever the machine."""

from typing import Any

import pytest

from espalier.errors import InputError
from espalier.models.flops import forward_flops, training_flops
from espalier.models.shapes import Shapes
from tests.unit.test_plan_gpu import CONFIG
from training.plan_gpu.advice import Peak
from training.plan_gpu.spec import PlanParameters

pytestmark = pytest.mark.fsdp

MATRICES = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)
WEIGHTS = MATRICES + 2 * 96 * 32 + 5 * 32
"""Of CONFIG: layers, embedding and head, norms."""


def rehearsed(world: int = 4, **given: Any) -> Peak:
    from training.plan_gpu.memory import Rehearsal, pretended_ranks
    from training.plan_gpu.stage import planned_job

    parameters = PlanParameters(**{"config": CONFIG, "gpus": world, "batch": 8, **given})
    job, _ = planned_job(parameters, None)
    micro_batch = job.micro_batch(world)
    with pretended_ranks(world):
        rehearsal = Rehearsal(job, parameters.teacher_config, world, parameters.recompute)
        return rehearsal.peak(micro_batch)


def test_states_are_shared_by_all_ranks_or_by_those_of_a_replica() -> None:
    for world, replicas, shards in ((1, 1, 1), (4, 1, 4), (4, 2, 2)):
        parts = rehearsed(world, replicas=replicas, micro_batch=1).parts
        assert parts["weights"] == parts["gradients"] == 4 * WEIGHTS / shards
        assert parts["optimizer"] == pytest.approx(2 * parts["weights"], rel=0.01)  # and steps


def test_masks_take_a_byte_a_weight_of_the_layers() -> None:
    assert rehearsed(masked=True).parts["masks"] == MATRICES / 4
    assert "masks" not in rehearsed(masked=True, policy="densify").parts


def test_a_teacher_is_frozen_and_sharded_too() -> None:
    teacher = {**CONFIG, "num_hidden_layers": 4}
    plain, taught = rehearsed(), rehearsed(teacher_config=teacher, hidden_weight=1.0)
    assert taught.parts["teacher"] == (4 * WEIGHTS + 4 * 2 * (MATRICES // 2 + 64)) / 4
    assert taught.parts["weights"] == plain.parts["weights"]
    assert taught.parts["activations"] > plain.parts["activations"]


def test_attention_holds_no_scores_unless_documents_are_masked() -> None:
    """Of [L, L], a bool a sequence and two bytes a layer, and nothing a head."""
    short, long = ({**CONFIG, "max_position_embeddings": length} for length in (512, 1024))
    plain = [rehearsed_of(config).parts["activations"] for config in (short, long)]
    assert plain[1] == pytest.approx(2 * plain[0], rel=0.01)
    masked = rehearsed_of(long, document_mask=True).parts["activations"]
    assert 4 * 1024**2 <= masked - plain[1] < 5.5 * 1024**2
    windowed = {**long, "model_type": "mistral", "sliding_window": 256}
    assert rehearsed_of(windowed).parts["activations"] - plain[1] >= 1024**2


def rehearsed_of(config: dict[str, Any], **given: Any) -> Peak:
    return rehearsed(config=config, micro_batch=1, **given)


def test_recomputing_and_smaller_micro_batches_take_less() -> None:
    full, half = rehearsed(micro_batch=2), rehearsed(micro_batch=1)
    assert half.parts["activations"] == pytest.approx(full.parts["activations"] / 2, rel=0.05)
    assert rehearsed(micro_batch=2, recompute=True).total < full.total


def test_muon_gathers_whole_matrices() -> None:
    assert rehearsed(optimizer="muon").total > 0


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"replicas": 3}, "REPLICAS=3 does not divide the 4 processes"),
        ({"batch": 6}, "BATCH=6 does not divide among 4 processes"),
        ({"batch": 12, "micro_batch": 2}, "MICRO_BATCH=2 does not divide the 3 sequences"),
        ({"seqlen": 65}, "SEQLEN=65 is longer than the model's 64 positions"),
        (
            {"teacher_config": {**CONFIG, "max_position_embeddings": 32}},
            "longer than TEACHER's 32 positions",
        ),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        rehearsed(**given)


def test_time_is_that_of_the_models_own_operations() -> None:
    from training.plan_gpu.stage import planned, planned_job

    parameters = PlanParameters(
        config=CONFIG, teacher_config=CONFIG, gpus=2, mfu=0.5, gpu="a100-80", batch=8, tokens=10**6
    )
    told = planned(*planned_job(parameters, None), lambda text: None)
    flops = training_flops(Shapes.of(CONFIG), 64) + forward_flops(Shapes.of(CONFIG), 64)
    assert told["tokens_per_second"] == pytest.approx(0.5 * 2 * 312e12 / flops)
    assert told["tokens"] == told["steps"] * 8 * 64
    assert told["hours"] == pytest.approx(told["tokens"] / told["tokens_per_second"] / 3600)
    assert told["gpu_hours"] == 2 * told["hours"]
    parameters = parameters.model_copy(update={"precision": "float32", "tokens": None})
    slower = planned(*planned_job(parameters, None), lambda text: None)
    assert slower["hours"] is None
    assert told["tokens_per_second"] / slower["tokens_per_second"] == pytest.approx(16)
