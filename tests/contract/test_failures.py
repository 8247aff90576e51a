"""A stage that fails midway, by a bug or because it is killed, goes on where it was."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from espalier.contract.discovery import stage_named
from espalier.contract.manifest import RUN_FOLDER
from espalier.contract.saved import saved_in
from espalier.contract.store import Store
from espalier.contract.threads import THREADS, thread_variables
from espalier.host.execution import Executor
from espalier.host.plan import Request
from espalier.host.runtimes.base import Launch
from espalier.host.runtimes.local import InsideRuntime
from espalier.host.settings import Settings
from espalier.host.stage_exit import StageFailed
from tests.contract.command import differing, tree
from tests.tiny import tiny_llama
from tests.unit.test_exit_codes import living_worker
from tests.warm.interpreters import planted, warm_up, warmed

TIMES = ("manifest.json", "metrics.jsonl", "tokens.json")
RAISE = "raise RuntimeError('a bug')"
KILL = "import os; os.kill(os.getpid(), 9)"
FULL = "raise OSError(28, 'No space left on device')"
ENDINGS = {
    RAISE: (1, "the stage failed for the reason above"),
    KILL: (75, "the stage was killed, probably out of memory"),
    FULL: (3, "the store cannot be written: No space left on device"),
}


@dataclass(frozen=True)
class Planted(InsideRuntime):
    """Runs a stage after some lines of Python, to plant a failure in it."""

    before: str = ""

    def argv(self, launch: Launch) -> list[str]:
        warm_up(**{THREADS: "1"}, **thread_variables(1))
        return warmed(super().argv(launch))

    def environment(self, launch: Launch) -> dict[str, str]:
        plant = planted(launch.output.parent, self.before) if self.before else {}
        return super().environment(launch) | plant


def at_call(function: str, number: int, what: str) -> str:
    """Lines that do something in the n-th call of `module:class.function`."""
    module, _, name = function.partition(":")
    owner, _, method = name.rpartition(".")
    place = f"m.{owner}" if owner else "m"
    return f"""
import {module} as m
stock, calls = {place}.{method}, []
def planted(*given, **named):
    calls.append(1)
    if len(calls) == {number}:
        {what}
    return stock(*given, **named)
{place}.{method} = planted
"""


def words(stage: str, tmp_path: Path) -> Request:
    model = tiny_llama(tmp_path / "model", num_hidden_layers=8)
    described = stage_named(stage)
    if stage == "magnitude":
        return Request(described, described.parameters(), {"model": model}, "x")
    text = tmp_path / "text.jsonl"
    rows = [{"text": f"{number} quick brown foxes jump over it"} for number in range(5000)]
    text.write_text("".join(json.dumps(row) + "\n" for row in rows))
    inputs = {"text": text, "tokenizer": model}
    return Request(described, described.parameters(), inputs, "x")


FAILING: dict[str, tuple[Callable[[str], str], str]] = {
    "magnitude": (
        lambda what: at_call("espalier.pruning.masked.stream:_Masking.visit", 5, what),
        "layer 4",  # but for what was still being written
    ),
    "data": (
        lambda what: at_call("inputs.data.stream:Packing._pack", 3, what),
        "document 4097 of file 1",
    ),
}


@pytest.mark.parametrize(
    ("stage", "what"), [("magnitude", RAISE), ("magnitude", FULL), ("data", KILL), ("data", RAISE)]
)
def test_the_same_again_gives_the_bytes_of_a_run_at_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], stage: str, what: str
) -> None:
    plant, place = FAILING[stage]
    request, store = words(stage, tmp_path), Store(tmp_path / "store")
    settings = Settings(store=store.root, threads=1)
    with pytest.raises(StageFailed) as failed:
        Executor(store, Planted(before=plant(what)), settings).execute(request)
    code, says = ENDINGS[what]
    told = f"{failed.value}{capfd.readouterr().err}"
    assert failed.value.exit_code == code
    assert says in told
    assert f"un the same command to resume from {place}." in told or what == KILL
    assert "the same command to resume from" in told
    (partial,) = store.partials(store.path(request.stage.section, "x"))
    assert partial.is_dir()
    done = Executor(store, Planted(), settings).execute(request)
    whole = Store(tmp_path / "whole")  # of the same inputs
    once = Executor(whole, Planted(), Settings(store=whole.root, threads=1)).execute(request)
    assert not differing(without(TIMES, tree(done)), without(TIMES, tree(once)))
    assert not store.partials(done)


@pytest.mark.parametrize("stage", FAILING)
def test_work_that_was_whole_when_it_was_checked_is_kept(tmp_path: Path, stage: str) -> None:
    """Killed after its last piece: what it had saved until then is still there to go on with."""
    request, store = words(stage, tmp_path), Store(tmp_path / "store")
    settings = Settings(store=store.root, threads=1)
    at_the_end = at_call("espalier.contract.manifest:write_manifest", 1, KILL)
    with pytest.raises(StageFailed):
        Executor(store, Planted(before=at_the_end), settings).execute(request)
    (partial,) = store.partials(store.path(request.stage.section, "x"))
    assert saved_in(partial) is not None
    done = Executor(store, Planted(), settings).execute(request)
    whole = Store(tmp_path / "whole")
    once = Executor(whole, Planted(), Settings(store=whole.root, threads=1)).execute(request)
    assert not differing(without(TIMES, tree(done)), without(TIMES, tree(once)))


def test_nothing_is_removed_under_the_worker_of_a_launcher_that_died(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It may be about to save its first piece. Once it has ended, the same command goes on."""
    request, store = words("magnitude", tmp_path), Store(tmp_path / "store")
    settings = Settings(store=store.root, threads=1)
    brief = "import espalier.contract.worker as w; w.WAIT_SECONDS = 0"
    executor = Executor(store, Planted(before=brief), settings)
    partial = executor.resolve(request).partial
    (partial / RUN_FOLDER).mkdir(parents=True)
    (partial / "half").write_text("half")
    with living_worker(partial):
        with pytest.raises(StageFailed) as failed:
            executor.execute(request)
        assert failed.value.exit_code == 3
        assert "another process still works in x.partial-" in capfd.readouterr().err
        assert (partial / "half").read_text() == "half"
    assert executor.execute(request).is_dir()


def without(names: tuple[str, ...], files: dict[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in files.items() if name not in names}
