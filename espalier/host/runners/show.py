"""Prints a plan (DRY_RUN=1): nothing is built, made or written."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from espalier.contract.parameters import assigned_as
from espalier.errors import EnvironmentFailure
from espalier.host.execution import Executor
from espalier.host.plan import Plan
from espalier.host.resolution import Resolved
from espalier.host.runtimes.base import Explained
from espalier.host.secrets import without_logins


@dataclass(frozen=True)
class Show:
    """Each request with what running it would take."""

    executor: Executor

    def settle(self, plan: Plan, path: Path) -> None:
        """Nothing is made: what is known of it has to do."""

    def finish(self, plan: Plan) -> str:
        for target in plan.order(output for step in plan.steps for output in step.outputs):
            print_rows(self.rows(plan, target))
        return str(plan.result)

    def rows(self, plan: Plan, target: Path) -> dict[str, str]:
        """What `execute` would do."""
        run, settings = self.executor.resolve(plan.requests[target]), self.executor.settings
        if run.missing:
            state = "waits for " + ", ".join(map(str, run.missing))
        else:
            standing = self.executor.standing(run, plan.renew_before(target))
            state = f"done already{standing.remark}" if standing.done else "would run"
        asked = run.runtime.rows(run.launch) if isinstance(run.runtime, Explained) else {}
        return {
            "stage": f"{run.stage.name} ({state})",
            "image": run.image.reference or f"{run.image.name}, lock {run.image.lock[:12]}",
            "parameters": " ".join(
                f"{assigned_as(name)}={value}"
                for name, value in run.request.parameters.model_dump().items()
                if value not in (None, "")
            ),
            **{f"input {role}": str(path) for role, path in run.request.inputs.items()},
            "output": str(run.target),
            **run.fit.rows(self.executor.store.root, settings.memory),
            **self._command(run),
            **asked,
        }

    def _command(self, run: Resolved) -> dict[str, str]:
        """The command, with the GPUs that it would be given now."""
        try:
            with self.executor.on_gpus(run) as placed:
                gpus = ", ".join(map(str, placed.launch.gpus or ()))
                command = {"command": shlex.join(without_logins(run.runtime.argv(placed.launch)))}
                return ({"GPUs": gpus} if gpus else {}) | command
        except EnvironmentFailure as error:
            return {"command": f"none here: {error}"}


def print_rows(rows: dict[str, str]) -> None:
    """Two columns on stdout."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in rows.items():
        table.add_row(key, Text(value))  # a script has brackets
    Console(highlight=False, soft_wrap=False).print(table)
