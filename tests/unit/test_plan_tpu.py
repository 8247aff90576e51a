"""Plans for TPUs: the arithmetic, what is compiled next, and the words of the command."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from espalier.contract.discovery import stage_named
from espalier.contract.pruned import Masked, Padded, PaddedLayer, Sizes
from espalier.contract.store import Store
from espalier.errors import InputError
from espalier.hardware.tpus import tpu_named
from espalier.host.cli.plan import plan_tpu
from espalier.host.commands.planning import PlanningCommand
from espalier.host.execution import Executor
from espalier.host.plan import Request
from espalier.host.runtimes.local import LocalRuntime
from espalier.host.settings import Settings
from espalier.models.flops import training_flops
from tests.manifests import mark_pruned
from tests.unit.test_plan_gpu import CONFIG
from training.plan_tpu.estimate import estimated
from training.plan_tpu.spec import PlanTpuParameters
from training.plan_tpu.trials import USABLE, Trial, following, verdict
from training.protocol.budget import Budget
from training.protocol.run import Run

GIB = 1 << 30
SIZES = Sizes(layers=1, hidden=8, intermediate=8, heads=2, kv_heads=1)
WHOLE = PaddedLayer(heads=2, kv_heads=1, intermediate=8)


def trial(total: float, micro: int = 4, *, recompute: bool = False, state: int = 4) -> Trial:
    fits = total <= USABLE * 16
    return Trial(recompute, micro, fits, state * GIB, round(total * GIB), 60.0)


def parse(store: Path, *words: str) -> PlanTpuParameters:
    command = PlanningCommand.parse(stage_named("plan-tpu"), words, Store(store))
    assert isinstance(command.training.parameters, PlanTpuParameters)
    return command.training.parameters


@pytest.mark.parametrize(
    ("tried", "share", "then"),
    [
        ([trial(8)], 64, (False, 8)),  # 1 GiB a sequence: 11 do, 8 divide 64
        ([trial(8)], 36, (False, 9)),
        ([trial(8)], 4, None),
        ([trial(14)], 64, None),
        ([trial(8), trial(12, 8)], 64, None),
        ([trial(8), trial(20, 8)], 64, None),
        ([trial(24)], 64, (False, 2)),  # 5 GiB a sequence: 2 do
        ([trial(24), trial(14, 2)], 64, None),
        ([trial(24), trial(17, 2)], 64, (True, 1)),
        ([trial(64)], 64, (True, 4)),  # not even one sequence
        ([trial(64), trial(20, recompute=True)], 64, (True, 1)),
        ([trial(64, recompute=True)], 64, (True, 1)),
        ([trial(40, 1, recompute=True)], 64, None),
        ([trial(64), trial(20, recompute=True), trial(16, 1, recompute=True)], 64, None),
    ],
)
def test_what_is_compiled_next(
    tried: list[Trial], share: int, then: tuple[bool, int] | None
) -> None:
    assert following(tried, share, 16 * GIB) == then


def test_at_most_three_are_compiled_and_the_least_is_the_last() -> None:
    for asked in (trial(99, 8), trial(99, 8, recompute=True), trial(20, 8), trial(99, 1)):
        tried = [asked]
        while then := following(tried, 8, 16 * GIB):
            recompute, micro = then
            tried.append(trial(99, micro, recompute=recompute))
        assert len(tried) <= 3
        assert (tried[-1].recompute, tried[-1].micro_batch) == (True, 1)


@pytest.mark.parametrize(
    ("tried", "says"),
    [
        ([trial(8)], "fits: 50% of a chip's memory."),
        (
            [trial(24), trial(14, 2)],
            "does not fit: MICRO_BATCH=4 RECOMPUTE=0 wants 24.00 GiB of 15.36 usable GiB a chip; "
            "MICRO_BATCH=2 RECOMPUTE=0 fits.",
        ),
        (
            [trial(64, 1), trial(20, 1, recompute=True)],
            "does not fit: MICRO_BATCH=1 RECOMPUTE=0 wants 64.00 GiB of 15.36 usable GiB a chip; "
            "neither does MICRO_BATCH=1 RECOMPUTE=1 fit; give a larger TPU, or a shorter SEQLEN.",
        ),
        (
            [replace(trial(4, 1, recompute=True), fits=False)],
            "does not fit: MICRO_BATCH=1 RECOMPUTE=1 wants more of 15.36 usable GiB a chip; "
            "give a larger TPU, or a shorter SEQLEN.",
        ),
    ],
)
def test_the_verdict(tried: list[Trial], says: str) -> None:
    assert verdict(tried, 16 * GIB) == says


def test_time_and_price_follow_from_the_utilisation(tmp_path: Path) -> None:
    parameters = parse(tmp_path, "MODEL=llama3.1-8b", "TPU=v5litepod-256", "TOKENS=52.4B")
    budget = Budget.of(
        tokens=parameters.tokens, epochs=None, batch=512, seqlen=8192, available=10**11
    )
    run = Run(parameters, tmp_path, parameters.config, None, tmp_path, None, None, budget)
    told = estimated(run, budget.tokens, tpu_named("v5litepod-256"), 0.4)
    work = training_flops(run.shapes, 8192)
    assert told["tokens_per_second"] == pytest.approx(0.4 * 197e12 * 256 / work)
    assert told["step_seconds"] == pytest.approx(512 * 8192 / told["tokens_per_second"])
    assert told["hours"] == pytest.approx(budget.tokens / told["tokens_per_second"] / 3600)
    assert told["chip_hours"] == pytest.approx(256 * told["hours"])
    assert told["dollars"] == pytest.approx(1.2 * told["chip_hours"])
    unknown = estimated(run, None, tpu_named("v5litepod-256"), 0.2)
    assert unknown["hours"] is unknown["dollars"] is unknown["steps"] is None
    assert unknown["step_seconds"] == pytest.approx(2 * told["step_seconds"])


def test_float32_takes_six_passes(tmp_path: Path) -> None:
    words = ("MODEL=llama3.1-8b", "TPU=v4-8", "TOKENS=1B")
    speeds = []
    for precision in ("bf16", "float32"):
        parameters = parse(tmp_path, *words, f"PRECISION={precision}")
        budget = Budget.of(tokens=10**9, epochs=None, batch=8, seqlen=8192, available=10**10)
        run = Run(parameters, tmp_path, parameters.config, None, tmp_path, None, None, budget)
        speeds.append(estimated(run, None, tpu_named("v4-8"), 0.4)["tokens_per_second"])
    assert speeds[0] == pytest.approx(6 * speeds[1])


def test_a_command_of_train_tpu_is_a_command_of_plan_tpu(tmp_path: Path) -> None:
    found = parse(
        tmp_path, "MODEL=llama3.1-8b", "DATA=somewhere", "TOKENS=52.4B", "LR=1e-4", "RECOMPUTE=1",
        "TPU=v6e-256", "MFU=0.5", "PLAN=0", "NODES=4",
    )  # fmt: skip
    assert found.config["hidden_size"] == 4096
    assert (found.recompute, found.tpu, found.mfu, found.masked) == (True, "v6e-256", 0.5, False)
    assert found.slice.chips == 256


def test_everything_decides_a_plan_and_its_name(tmp_path: Path) -> None:
    one = parse(tmp_path, "TPU=v4-8")
    assert one.label().startswith("v4-8-")
    for words in (("TPU=v4-16",), ("TPU=v4-8", "MICRO_BATCH=2"), ("TPU=v4-8", "MFU=0.5")):
        other = parse(tmp_path, *words)
        assert (one.identity(), one.label()) != (other.identity(), other.label())


def test_a_mask_is_planned_where_zeros_are_kept(tmp_path: Path) -> None:
    accounts = {
        "dense": None,
        "masked": Masked(pattern="2:4", target=0.5, achieved=0.5),
        "padded": Padded(before=SIZES, after=SIZES, achieved=0.1, layers=(WHOLE,)),
    }
    kept = set()
    for name, account in accounts.items():
        model = tmp_path / "checkpoints" / name
        model.mkdir(parents=True)
        (model / "config.json").write_text(json.dumps(CONFIG))
        mark_pruned(model, account)
        for policy in ("preserve", "densify"):
            if parse(tmp_path, f"CKPT={name}", "TPU=v4-8", f"POLICY={policy}").zeros:
                kept.add((name, policy))
    assert kept == {("masked", "preserve"), ("padded", "preserve"), ("padded", "densify")}


def test_it_runs_with_the_packages_of_tpus_on_a_processor(tmp_path: Path) -> None:
    runtime = LocalRuntime()
    executor = Executor(Store(tmp_path), runtime, Settings(store=tmp_path))
    stage = stage_named("plan-tpu")
    request = Request(stage, parse(tmp_path, "TPU=v4-8"), {}, "plan")
    assert executor.resolve(request).launch.device == "tpu"
    assert stage_named("train-tpu").packages is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("TPU=v5e-16",),
            "TPU=v5e-16 is not known; choose one of v4-8 to -4096 in steps of 8, v5lite",
        ),
        ((), "TPU is needed"),
        (("TPU=v4-8", "MFU=1.2"), "MFU=1.2"),
        (("TPU=v4-8", "MODEL=org/unknown"), "a plan fetches nothing; give ARCH=<config.json>"),
        (("TPU=v4-8", "TEACHER=sapling"), "TEACHER is not used"),
        (("TPU=v4-8", "COLOUR=red"), "COLOUR is not a parameter here"),
    ],
)
def test_what_does_not_hold_is_refused(tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    with pytest.raises(InputError) as refused:
        plan_tpu([*words, f"STORE={tmp_path}", "RUNTIME=inside", "DRY_RUN=1"])
    assert says in str(refused.value)


def test_a_dry_run_says_what_would_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan_tpu(["TPU=v4-8", f"STORE={tmp_path}/store", "RUNTIME=inside", "DRY_RUN=1"])
    assert "plan-tpu (would run)" in capsys.readouterr().out
    assert not (tmp_path / "store").exists()
