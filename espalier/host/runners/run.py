"""Runs a plan here: its steps in order, in each what is not there yet."""

import importlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from espalier.errors import EnvironmentFailure, EspalierError, InputError
from espalier.host.execution import Executor
from espalier.host.plan import Plan, Step

console = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class PlanRun:
    """Each request once, whatever needs it."""

    executor: Executor
    made: set[Path] = field(default_factory=set)

    def settle(self, plan: Plan, path: Path) -> None:
        self.make(plan, [path])

    def finish(self, plan: Plan) -> str:
        self.executor.require_mountable(plan)
        for step in plan.steps:
            with_its_hint(step, self._carry_out, plan, step)
        return str(plan.result)

    def make(self, plan: Plan, outputs: Iterable[Path]) -> None:
        """Make these, and before them what they need.

        Raises:
            EspalierError: a request failed; what was made before it stays.
        """
        order = plan.order(outputs)
        waited_for = {other for target in order for other in plan.after.get(target, ())}
        for target in order:
            if target not in self.made:
                for other in waited_for & self.made:
                    self._require_fit(plan, other)
                self.executor.execute(plan.requests[target], plan.renew_before(target))
                self.made.add(target)

    def _carry_out(self, plan: Plan, step: Step) -> None:
        self.make(plan, step.outputs)
        for results in step.tables:
            if report := step.report or plan.requests[results[-1]].stage.report:
                print_report(report, results)

    def _require_fit(self, plan: Plan, other: Path) -> None:
        """Refuse a training whose plan says that it does not fit."""
        if plan.requests[other].stage.verb != "plan":
            return
        fit = json.loads((other / "plan.json").read_text())
        if not fit["tried"][0]["fits"] and not self.executor.settings.force:
            raise InputError(f"the run {fit['verdict']} PLAN=0 trains without asking.")


def with_its_hint(step: Step, action: Any, *given: Any) -> bool:
    """Do something for a step; one that may be left out is, where the machine cannot make it.

    Returns whether it was done.
    """
    try:
        action(*given)
    except EspalierError as error:
        if not step.hint or error.exit_code != EnvironmentFailure.exit_code:
            raise
        console.print(f"Not evaluated. {error} {step.hint}")
        return False
    return True


def print_report(report: str, results: Iterable[Path]) -> None:
    """Print a table of results to stderr."""
    console.print(table_of(report, results))


def table_of(report: str, results: Iterable[Path]) -> Any:
    """The table of results that `package.module:function` makes, a rich renderable."""
    module, _, function = report.partition(":")
    return getattr(importlib.import_module(module), function)(*results)
