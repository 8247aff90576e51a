"""RUNTIME=slurm outside a job: a command is walked through here, and submitted as jobs."""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from espalier.contract.manifest import MANIFEST
from espalier.contract.parameters import Parameters
from espalier.contract.stage import Stage
from espalier.contract.store import Store
from espalier.host.chain import Chain
from espalier.host.cli.steps import steps
from espalier.host.execution import Executor, Request
from espalier.host.runtimes.choice import choose_runtime, fetching_runtime
from espalier.host.runtimes.slurm import in_job
from espalier.host.runtimes.slurm.command import Command
from espalier.host.runtimes.slurm.job import Job
from espalier.host.runtimes.slurm.submission import dependency, require_sbatch, submit
from espalier.host.settings import Settings


@dataclass
class Rehearsal(Chain):
    """Walks a chain on the host that submits it, so that its jobs lack nothing.

    What a bad word would refuse is refused before anything is queued. Stages that fetch run here:
    the hub's token goes into no job, and nodes need no network. Images are made ready here too.
    """

    missing: list[Stage] = field(default_factory=list)

    def run(
        self, stage: Stage, parameters: Parameters, inputs: Mapping[str, Path], name: str
    ) -> Path:
        if stage.network:
            return self._fetch(self.request(stage, parameters, inputs, name))
        target = self.show(stage, parameters, inputs, name)
        if self.settings.force or not (target / MANIFEST).is_file():
            self.missing.append(stage)
            if not self.settings.dry_run:
                self.executor.make_ready(stage)
        return target

    def _fetch(self, request: Request) -> Path:
        store = self.executor.store
        fetcher = Executor(store, fetching_runtime(self.settings), self.settings)
        if not self.settings.dry_run:
            return fetcher.execute(request)
        target = store.path(request.stage.section, request.name)
        self.previews[target] = fetcher.preview(request)
        return target


@dataclass(frozen=True)
class Submission:
    """A command that is to be submitted, and the rehearsal of it."""

    rehearsal: Rehearsal
    settings: Settings
    command: Command

    @classmethod
    def of(cls, settings: Settings, given: Mapping[str, str]) -> "Submission | None":
        """Of the command that this process was started with, where it is to become jobs."""
        if settings.runtime != "slurm" or in_job():
            return None
        if not settings.dry_run:
            require_sbatch()
        executor = Executor(Store(settings.store), choose_runtime(settings), settings)
        return cls(Rehearsal(executor, settings), settings, Command(sys.argv[1], dict(given)))

    def finish(self, published: Path) -> str:
        """Submit what is missing; the last line for stdout."""
        if not self.rehearsal.missing:
            return str(published)
        trains = any(stage.join for stage in self.rehearsal.missing)
        verbs = {stage.verb for stage in self.rehearsal.missing}
        commands = steps(replace(self.command, trains=trains), verbs)
        jobs = [Job(command, self.settings) for command in commands]
        if self.settings.dry_run:
            return "\n".join(self._shown(jobs))
        self.rehearsal.executor.store.create(jobs[0].folder)
        ids = submit(jobs)
        print(f"The last of them publishes {published}.", file=sys.stderr)  # noqa: T201
        return " ".join(ids)

    def _shown(self, jobs: list[Job]) -> list[str]:
        """Each script below the command that would submit it."""
        shown, before = [], None
        for job in jobs:
            command = shlex.join(["sbatch", *dependency(before)])
            shown += [f"# {command}", job.script()]
            before = f"<{job.command.title}>"
        return shown
