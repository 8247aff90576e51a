"""What is kept of a stage that failed, and what is said of it."""

import errno
import traceback
from dataclasses import dataclass
from pathlib import Path

import pytest

from espalier.contract.discovery import stage_named
from espalier.contract.machine import failure_of_the_machine
from espalier.contract.manifest import RUN_FOLDER, CodeRecord, ImageRecord, Recipe, RunSpec
from espalier.contract.saved import note, saved_in, with_place
from espalier.errors import DIVERGED
from espalier.host.runtimes.base import Launch
from espalier.host.runtimes.local import LocalRuntime
from espalier.host.stage_exit import StageFailed, check, start


@dataclass(frozen=True)
class Ends(LocalRuntime):
    """A stage that ends in a code, having saved something or not."""

    code: int = 1
    saves: str = ""

    def run(self, launch: Launch) -> int:
        if self.saves:
            save(launch.output, self.saves)
        return self.code


def save(partial: Path, place: str) -> None:
    """As the stage of that partial result would have saved all before `place`."""
    scratch = partial / RUN_FOLDER / "scratch"
    scratch.mkdir(exist_ok=True)
    unit, _, number = place.partition(" ")
    if unit == "step":
        for state in ("state/step-{:08d}", "training/state/step-{:08d}", "state/steps/{}"):
            (folder := scratch / state.format(int(number))).mkdir(parents=True)
            (folder / ".metadata").touch()
    else:
        note(scratch, place)


def begun(folder: Path, stage: str) -> Launch:
    """A partial result in which the stage has been told what to do, and nothing more."""
    partial = folder / "x.partial-0"
    (partial / RUN_FOLDER).mkdir(parents=True)
    spec = RunSpec(
        stage=stage,
        name="x",
        parameters={},
        inputs={},
        input_records={},
        recipe=Recipe(stage=stage, parameters={}, inputs={}),
        image=ImageRecord(name="eval", lock="0"),
        code=CodeRecord(sha256="0"),
        command=[],
        runtime="local",
        device="cpu",
    )
    (partial / RUN_FOLDER / "run.json").write_text(spec.model_dump_json())
    return Launch("eval", "cpu", "x", {}, partial)


FAILURES = (1, 3, 134, 139, 125, 126, 127, 137, 143, 75, 99, DIVERGED)
STOPS = (129, 130, 137, 143, 75)
PLACES = {
    "wanda": "layer 7", "score-minitron-depth": "part 2 of 3", "data": "document 4 of file 2",
    "train-gpu": "step 10", "train-tpu": "step 10", "grow": "step 10", "recover": "step 10",
}  # fmt: skip


@pytest.mark.parametrize("code", FAILURES)
@pytest.mark.parametrize("stage", PLACES)
def test_what_was_saved_is_kept_after_any_failure(tmp_path: Path, stage: str, code: int) -> None:
    launch = begun(tmp_path, stage)
    with pytest.raises(StageFailed) as failed:
        start(Ends(code=code, saves=PLACES[stage]), launch)
    assert saved_in(launch.output) == PLACES[stage]
    told = {3, 75, DIVERGED}  # by the stage itself
    again = f"un the same command to resume from {PLACES[stage]}."
    assert code in told or str(failed.value).endswith(again)
    expected = {125: 3, 126: 3, 127: 3, 137: 75, 143: 75, **{known: known for known in told}}
    assert failed.value.exit_code == expected.get(code, 1)


@pytest.mark.parametrize("code", FAILURES)
@pytest.mark.parametrize("stage", [*PLACES, "magnitude", "fetch", "adopt"])
def test_where_nothing_was_saved_nothing_is_left(tmp_path: Path, stage: str, code: int) -> None:
    """But of a stage that was stopped, which may have been about to save."""
    launch = begun(tmp_path, stage)
    (launch.output / RUN_FOLDER / "scratch").mkdir()
    (launch.output / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(StageFailed) as failed:
        start(Ends(code=code), launch)
    assert launch.output.exists() == (code in STOPS)
    assert "from" not in str(failed.value)


@pytest.mark.parametrize("stage", PLACES)
def test_a_refusal_deletes_no_saved_work(tmp_path: Path, stage: str) -> None:
    """What is refused after days may be the result, by a gate that is wrong itself."""
    one = begun(tmp_path / "one", stage)
    with pytest.raises(StageFailed):
        start(Ends(code=2, saves=PLACES[stage]), one)
    assert saved_in(one.output) == PLACES[stage]
    other = begun(tmp_path / "other", stage)
    save(other.output, PLACES[stage])
    for attempt in (start, check):  # GPUS that do not divide BATCH, or logits that differ
        with pytest.raises(StageFailed) as refused:
            attempt(Ends(code=2), other)
        assert refused.value.exit_code == 2
        assert saved_in(other.output) == PLACES[stage]


def test_a_checkpoint_half_copied_and_a_download_are_saved_work(tmp_path: Path) -> None:
    copied = begun(tmp_path / "copied", "shortgpt")
    journal = copied.output / "model.safetensors.journal"
    journal.write_text("layout\n")
    assert saved_in(copied.output) is None
    journal.write_text("layout\none\ntwo\n")
    assert saved_in(copied.output) == "tensor 3"
    fetched = begun(tmp_path / "fetched", "fetch")
    (fetched.output / ".cache").mkdir()
    (fetched.output / ".cache" / "model.incomplete").write_text("half")
    assert saved_in(fetched.output) == "where the download stopped"


def test_an_incomplete_state_is_no_saved_work(tmp_path: Path) -> None:
    launch = begun(tmp_path, "train-gpu")
    state = launch.output / RUN_FOLDER / "scratch" / "state" / "step-00000005"
    state.mkdir(parents=True)
    (state / "__0_0.distcp").write_text("half")
    (launch.output / RUN_FOLDER / "scratch/state/steps/5.orbax-checkpoint-tmp").mkdir(parents=True)
    assert saved_in(launch.output) is None
    assert stage_named("train-tpu").saved == "training.tpu_maxtext.saved:last_step"


@pytest.mark.parametrize(
    ("sentence", "place", "said"),
    [
        ("a is b.", None, "a is b."),
        ("a is b.", "step 3", "a is b. Run the same command to resume from step 3."),
        (
            "run the same command to resume.",
            "x 1",
            "run the same command to resume from x 1.",
        ),
    ],
)
def test_the_sentence(sentence: str, place: str | None, said: str) -> None:
    assert with_place(sentence, place) == said


class OfRanks(BaseException):
    """As torch's CheckpointException: no Exception, and the ranks' own ones in a dictionary."""

    def __init__(self, **failures: BaseException) -> None:
        frames = traceback.StackSummary.from_list([])
        self.failures = {name: (error, frames) for name, error in failures.items()}


def raised_from(error: BaseException) -> BaseException:
    try:
        raise ValueError("outer") from error
    except ValueError as outer:
        return outer


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (FULL, "cannot be written: No space left on device"),
        (OSError(errno.EDQUOT, "x"), "cannot be written"),
        (OfRanks(one=ValueError("x"), two=FULL), "cannot be written"),
        (raised_from(FULL), "cannot be written"),
        (RuntimeError("PytorchStreamWriter: No space left on device"), "cannot be written"),
        (MemoryError(), "memory ran out; give less."),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "memory ran out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory ran out"),
        (raised_from(RuntimeError("RESOURCE_EXHAUSTED: Out of memory")), "memory ran out"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory ran out"),
    ],
)
def test_a_failure_of_the_machine(error: BaseException, says: str) -> None:
    failure = failure_of_the_machine(error, "give less")
    assert failure is not None
    assert says in str(failure)
    assert failure.exit_code == 3


@pytest.mark.parametrize(
    "error", [RuntimeError("a bug"), KeyError("memory"), OSError(errno.ENOENT, "no such file")]
)
def test_a_bug_is_none(error: BaseException) -> None:
    assert failure_of_the_machine(error) is None
    assert failure_of_the_machine(OfRanks(one=error)) is None
