"""Submits a plan (RUNTIME=slurm): what is fetched is fetched here, every other step is a job.

Whatever a bad word or a missing image would end is refused before anything is queued. Stages that
fetch run here, since the hub's token goes into no job, and nodes need no network.
"""

import hashlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from espalier.host.execution import Executor
from espalier.host.identity import is_there
from espalier.host.plan import Plan, Step
from espalier.host.runners.run import PlanRun, with_its_hint
from espalier.host.runners.show import Show
from espalier.host.runtimes.slurm.job import Job, folder_of
from espalier.host.runtimes.slurm.submission import dependency, submit
from espalier.host.saved_plan import to_text


@dataclass(frozen=True)
class Submit:
    """Jobs of a plan's steps, or, with DRY_RUN=1, their scripts.

    Attributes:
        here: runs what is fetched.
    """

    executor: Executor
    here: PlanRun

    def settle(self, plan: Plan, path: Path) -> None:
        """Fetch it; what a job makes is planned with as far as it is known."""
        targets = plan.order([path])
        fetched = all(plan.requests[target].stage.network for target in targets)
        if fetched and not self.executor.settings.dry_run:
            self.here.make(plan, [path])

    def finish(self, plan: Plan) -> str:
        settings, store = self.executor.settings, self.executor.store
        self.executor.require_mountable(plan)
        if settings.dry_run:
            Show(self.executor).finish(plan)
        text = to_text(plan, store)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        file = folder_of(settings) / f"plan-{digest}.json"
        jobs = self._jobs(plan, file)
        if not jobs:
            return str(plan.result)
        if settings.dry_run:
            return "\n".join(f"# {_command(job)}\n{job.script()}" for job in jobs)
        store.create(file.parent)
        ids = _submit_with(file, text, jobs)
        print(f"The last of them publishes {plan.result}.", file=sys.stderr)  # noqa: T201
        return " ".join(ids)

    def _jobs(self, plan: Plan, file: Path) -> list[Job]:
        """A job for each step that lacks something, after those that make what it needs."""
        settings = self.executor.settings
        makers: dict[Path, str] = {}
        before: dict[str, set[str]] = {}
        jobs = []
        for step in plan.steps:
            if not (settings.dry_run or with_its_hint(step, self._fetch, plan, step)):
                continue
            needed = [target for target in plan.order(step.outputs) if self._is_jobs(plan, target)]
            stages = [plan.requests[target].stage for target in needed if target not in makers]
            if not stages:
                continue
            for stage in stages if not settings.dry_run else ():
                self.executor.make_ready(stage)
            after = {makers[target] for target in needed if target in makers}
            trains = any(stage.join for stage in stages)
            jobs.append(Job(step.title, file, settings, trains, _last(after, before)))
            before[step.title] = after.union(*(before[title] for title in after))
            makers |= {target: step.title for target in needed if target not in makers}
        return jobs

    def _fetch(self, plan: Plan, step: Step) -> None:
        """Fetch here what the step needs."""
        needed = plan.order(step.outputs)
        self.here.make(plan, [path for path in needed if plan.requests[path].stage.network])

    def _is_jobs(self, plan: Plan, target: Path) -> bool:
        """Whether a job has to make it."""
        there = is_there(target, plan.renew_before(target))
        return not there and not plan.requests[target].stage.network


def _last(after: set[str], before: Mapping[str, set[str]]) -> tuple[str, ...]:
    """Those that no other one waits for: the others have ended when these have."""
    waited = set().union(*(before[title] for title in after))
    return tuple(title for title in before if title in after - waited)


def _command(job: Job) -> str:
    return shlex.join(["sbatch", *dependency([f"<{title}>" for title in job.after])])


def _submit_with(file: Path, text: str, jobs: Sequence[Job]) -> list[str]:
    """The jobs' ids; the plan that they read stays only where they do."""
    new = not file.exists()
    file.write_text(text)
    try:
        return submit(jobs)
    except BaseException:
        if new:
            file.unlink()
        raise
