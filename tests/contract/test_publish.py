"""A publish that ends at any moment, by a kill or a power cut, leaves whole results alone."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from espalier import run_stage
from espalier.contract.discovery import stages
from espalier.contract.manifest import MANIFEST, check_files, read_manifest
from espalier.contract.parameters import Parameters
from espalier.contract.stage import Outcome, Stage, StageContext
from espalier.contract.store import REPLACED, Store
from espalier.host.execution import Executor
from espalier.host.plan import Request
from espalier.host.runtimes.base import Launch
from espalier.host.runtimes.local import InsideRuntime
from espalier.host.settings import Settings
from tests.contract.power import Disk, account_of, copied, until_call


class Words(Parameters):
    text: str = "new"


def make(context: StageContext, parameters: Words) -> Outcome:
    """A stage's work: files, one of them in a folder, written as any library would."""
    (context.output / "inner").mkdir(exist_ok=True)
    (context.output / "inner" / "a.bin").write_bytes(parameters.text.encode() * 100)
    (context.output / "b.txt").write_text(parameters.text)
    return Outcome()


STAGE = Stage(
    name="words",
    verb="corpus",
    section="data",
    image="eval",
    parameters=Words,
    entry=f"{__name__}:make",
    summary="Writes words.",
)


@dataclass(frozen=True)
class Within(InsideRuntime):
    """Runs stages in this very process."""

    begun: list[str] = field(default_factory=list)

    def run(self, launch: Launch) -> int:
        self.begun.append(launch.run_id)
        run_stage.run(launch.output)
        return 0


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(stages(), STAGE.name, STAGE)
    monkeypatch.setattr(run_stage, "end_with_parent", lambda signal: None)
    yield


def publish(root: Path, text: str) -> int:
    """Have the words published, whatever was; how often the stage began."""
    executor = Executor(Store(root), runtime := Within(), Settings(force=True))
    executor.execute(Request(STAGE, Words(text=text), {}, "x"))
    return len(runtime.begun)


def text_at(folder: Path) -> str:
    """What a whole result says, whose files are those of its manifest."""
    assert check_files(folder) == 2
    return str(read_manifest(folder).parameters["text"])


def killed(root: Path, disk: Disk, to: Path) -> None:
    """Nothing is lost but what was going to be done."""
    copied(root, to)


def cut(root: Path, disk: Disk, to: Path) -> None:
    """Only what was synced is there."""
    disk.leave(to)


def cut_after_names(root: Path, disk: Disk, to: Path) -> None:
    """The disk has all names, and of the bytes only those that were synced."""
    disk.empty_unsynced(root)
    copied(root, to)


@pytest.mark.parametrize("end", [killed, cut, cut_after_names])
@pytest.mark.parametrize("before", ["nothing", "old"])
def test_no_moment_of_a_publish_loses_a_result(tmp_path: Path, before: str, end: object) -> None:
    first = tmp_path / "first"
    (first / "data").mkdir(parents=True)
    if before == "old":
        publish(first, before)
    made_again, number = [], 0
    while True:
        root, after = copied(first, tmp_path / f"{number}"), tmp_path / f"{number}-after"
        account = tmp_path / "account"
        if not until_call(number, root, lambda root=root: publish(root, "new"), account):
            break
        end(root, account_of(account), after)  # type: ignore[operator]
        made_again.append(_judged(after, before))
        number += 1
    assert number > 40
    assert True in made_again
    assert False in made_again  # once it was complete
    assert text_at(root / "data" / "x") == "new"


def _judged(root: Path, before: str) -> bool:
    """What is there is whole; the same command ends well. Whether it made the result again."""
    target = root / "data" / "x"
    whole = {path.parent for path in (root / "data").glob(f"*/{MANIFEST}")}
    for folder in whole:
        if REPLACED not in folder.name:  # one that is being removed has lost its manifest first
            assert text_at(folder) in (before, "new")
    if before == "old":
        assert whole, "the old result is lost, and the new one not there"
    complete = any(text_at(folder) == "new" for folder in whole)
    for lease in (root / ".locks").glob("*.lease"):
        os.utime(lease, (0, 0))  # a power cut takes its time, and may leave an empty one
    times = publish(root, "new")
    assert times == (0 if complete else 1)
    assert text_at(target) == "new"
    assert [path.name for path in (root / "data").iterdir()] == ["x"]
    assert sorted(path.name for path in target.iterdir()) == sorted(["b.txt", "inner", MANIFEST])
    return times == 1
