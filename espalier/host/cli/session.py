"""From a command's words to settings and a plan, and to what is done with the plan."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from espalier.contract.store import Store
from espalier.errors import InputError
from espalier.host.draft import Draft, draw_up
from espalier.host.execution import Executor
from espalier.host.plan import Plan
from espalier.host.runners import Runner
from espalier.host.runners.run import PlanRun, console
from espalier.host.runners.show import Show
from espalier.host.runners.submit import Submit
from espalier.host.runtimes.choice import choose_runtime, fetching_runtime
from espalier.host.runtimes.slurm import in_job
from espalier.host.runtimes.slurm.submission import require_sbatch
from espalier.host.runtimes.tpu_vm.runtime import TpuVmRuntime
from espalier.host.settings import Settings, read_settings, split_assignments

Assignments = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME=value]...", help="settings and parameters")
]


@dataclass(frozen=True)
class Session:
    """One command's settings, what it runs requests with, and its remaining assignments."""

    settings: Settings
    executor: Executor
    rest: dict[str, str]

    @classmethod
    def of(cls, words: list[str] | None) -> "Session":
        """Read the words; nothing is prepared yet."""
        settings, rest = read_settings(split_assignments(words or []))
        submits = settings.runtime == "slurm" and not in_job()
        if submits and not settings.dry_run:
            require_sbatch()
        fetching = fetching_runtime(settings) if submits else None
        runtime = choose_runtime(settings)
        executor = Executor(Store(settings.store), runtime, settings, fetching)
        return cls(settings, executor, rest)

    def carry_out(self, title: str, build: Callable[[Draft], Path], anew: bool = False) -> None:
        """Draw up the plan that `build` states, and run, print or submit it.

        What is published is the last line on stdout; of what is submitted, the jobs' ids.

        Args:
            title: of a plan of one step.
            build: adds the requests.
            anew: make the result though it is there, as FORCE=1 does: it may no longer be true.
        """
        self.carry_out_plan(self.drawn_up(title, build, anew=anew))

    def drawn_up(
        self,
        title: str,
        build: Callable[[Draft], Path],
        *,
        only: bool = False,
        anew: bool = False,
    ) -> Plan:
        """The plan that `build` states; with `only` nothing is made for being planned with.

        With `anew` the result is made though it is there.
        """
        runner = Show(self.executor) if only else self._runner()
        asked = time.time() if self.settings.force or anew else None
        plan, notes = draw_up(build, self.executor.store, runner.settle, title, asked)
        for note in notes:
            console.print(note)
        return plan

    def carry_out_plan(self, plan: Plan) -> None:
        """Run, print or submit a plan that is drawn up already."""
        self.finish(self.carried_out(plan))

    def carried_out(self, plan: Plan) -> str:
        """The same; its last line for stdout, which is not printed yet."""
        if self.settings.force and plan.asked is None:
            plan = replace(plan, asked=time.time())
        return self._runner().finish(plan)

    @property
    def paid_tpu(self) -> Callable[[], str] | None:
        """What asks for the type of TPU that a training pays for, where RUNTIME makes one."""
        runtime = self.executor.runtime
        return (lambda: runtime.wanted().tpu.type) if isinstance(runtime, TpuVmRuntime) else None

    def finish(self, last: str) -> None:
        """Print the last line on stdout."""
        sys.stdout.write(f"{last}\n")

    def _runner(self) -> Runner:
        run = PlanRun(self.executor)
        if self.executor.fetching:
            return Submit(self.executor, run)
        return Show(self.executor) if self.settings.dry_run else run


def store_of(words: list[str] | None, *takes: str) -> tuple[Store, dict[str, str]]:
    """The store and the other assignments, of commands that start no stage and take a few words.

    Raises:
        InputError: another word was given.
    """
    settings, rest = read_settings(split_assignments(words or []))
    if unknown := sorted(rest.keys() - set(takes)):
        known = ", ".join(("STORE", *takes))
        raise InputError(f"{', '.join(unknown)} is not understood here (known: {known}).")
    return Store(settings.store), rest
