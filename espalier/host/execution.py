"""Runs one request: skip what is done, refuse what cannot fit, lock, resume, check, publish."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from espalier.contract.discovery import stage_named
from espalier.contract.files import write_text
from espalier.contract.lock import artifact_lock, lock_if_free
from espalier.contract.made import MADE
from espalier.contract.manifest import MANIFEST, RUN_FOLDER, RunSpec
from espalier.contract.ownership import require_own
from espalier.contract.processes import Processes
from espalier.contract.stage import Stage
from espalier.contract.store import Store
from espalier.errors import EnvironmentFailure, InputError
from espalier.host.fit import require_gpu
from espalier.host.gpus import taken
from espalier.host.identity import Standing, is_there
from espalier.host.package_index import package_index
from espalier.host.plan import Plan, Request
from espalier.host.resolution import Resolved, launch_to, nodes_of, packages_of, resolve, seen
from espalier.host.runtimes.base import Confined, Launch, Runtime, ShowsGpus
from espalier.host.runtimes.mounts import Mounting
from espalier.host.secrets import hub_token
from espalier.host.settings import Settings
from espalier.host.stage_exit import check, resumable, start
from espalier.host.visible import require_manifest


@dataclass(frozen=True)
class Executor:
    """Runs requests on a store.

    Attributes:
        fetching: the runtime of stages with the network, where that is another.
    """

    store: Store
    runtime: Runtime
    settings: Settings
    fetching: Runtime | None = None

    def resolve(self, request: Request) -> Resolved:
        """The request with all that running it here takes."""
        return resolve(request, self.store, self.runtime_of(request.stage), self.settings)

    def runtime_of(self, stage: Stage) -> Runtime:
        """Where it runs: near, where the runtime has TPUs and the stage no use for them."""
        if stage.network and self.fetching:
            return self.fetching
        return self.runtime if stage.tpu else self.runtime.nearby

    def execute(self, request: Request, renew_before: float | None = None) -> Path:
        """Run the request unless its result is there; give the published directory.

        A result that is there and is made anew stays until the new one is published.

        Args:
            request: what to run.
            renew_before: results published before this moment are made anew.

        Raises:
            InputError: an input is not there, or another result has the name.
            EnvironmentFailure: the store, the engine, memory or disk is not as needed.
            StageFailed: the stage failed.
        """
        run = self.resolve(request)
        standing = self.standing(run, renew_before)
        if standing.done:
            _say(f"{run.stage.name}: {run.target} is done already{standing.remark}.")
            self._finish_publish(run.target)
            return run.target
        self._require_mountable(request)
        self._require_place(run)
        self.store.create(run.target.parent)
        with self._locked(run.target):
            if not self.standing(run, renew_before).done:
                self._say_what_was_begun(run)
                self._finish(request, run)
        return run.target

    def publish_made(self, target: Path) -> Path:
        """Check and publish what a stage has made in an image that could not check it.

        Raises:
            InputError: nothing of the kind is there.
            StageFailed: it is not what it should be.
        """
        with self._locked(target):
            found = [path for path in self.store.partials(target) if _made(path)]
            if not found and (target / MANIFEST).is_file():
                _say(f"{target} is done already.")
                return target
            if len(found) != 1:
                raise InputError(
                    f"{len(found)} results of other parameters are unpublished candidates for "
                    f"{target}; make gc ALL=1 removes them."
                    if found
                    else f"there is no unpublished candidate for {target}; give the NAME of what a "
                    "stage has made."
                )
            require_own(found[0])
            spec = RunSpec.model_validate_json((found[0] / RUN_FOLDER / "run.json").read_bytes())
            inputs = {role: Path(path) for role, path in spec.inputs.items()}
            stage = stage_named(spec.stage)
            parameters = stage.parameters.model_validate(spec.parameters)
            request = Request(stage, parameters, inputs, spec.name)
            runtime = self.runtime_of(stage)
            launch = launch_to(found[0], request, runtime, self.store, self.settings)
            self._check(request, spec, launch)
            self.store.publish(found[0], target)
        return target

    def require_mountable(self, plan: Plan) -> None:
        """Refuse a path that no container could be given, before any of the plan is made.

        Raises:
            InputError: there is one.
        """
        for target, request in plan.requests.items():
            if not is_there(target, plan.renew_before(target)):
                self._require_mountable(request)

    def require_fit(self, plan: Plan) -> None:
        """Refuse a plan of which a stage cannot fit here, before any of it is made.

        Raises:
            EnvironmentFailure: memory or disk is short for one.
        """
        for target, request in plan.requests.items():
            if not is_there(target, plan.renew_before(target)):
                self._require_fit(self.resolve(request))

    def _require_fit(self, run: Resolved) -> None:
        # A TPU VM's memory is elsewhere.
        if not self.settings.force and run.runtime.name != "tpu-vm":
            run.fit.check_fits(self.store.root, self.settings.memory, run.partial)

    def make_ready(self, stage: Stage) -> None:
        """Have the images that a stage takes."""
        self.runtime_of(stage).image(stage.image, packages_of(stage, self.settings), build=True)
        if stage.checked_in:
            self.runtime.nearby.image(stage.checked_in, "cpu", build=True)

    def standing(self, run: Resolved, renew_before: float | None = None) -> Standing:
        """Whether the result is there, and what is worth saying of it.

        Raises:
            InputError: an input is not there, or another result has the name.
        """
        if run.identity is None:
            raise InputError(
                f"{run.missing[0]} does not exist; give a path, or a name on the store."
            )
        return run.identity.standing(run.target, self.settings.force, renew_before)

    def _require_place(self, run: Resolved) -> None:
        """Refuse what cannot run here.

        Raises:
            InputError: NODES is more than one, and there is one.
            EnvironmentFailure: there is no network, no GPU, or too little memory or disk.
        """
        settings, stage = self.settings, run.stage
        if stage.network and not run.runtime.network:
            raise EnvironmentFailure(
                f"{run.stage.name} needs the network for {run.target}, and RUNTIME="
                f"{run.runtime.name} has none; make it first, by RUNTIME=local where you give this "
                "command."
            )
        if nodes_of(stage, settings) > 1 and self.runtime.name != "slurm":
            raise InputError(
                f"NODES={settings.nodes} needs RUNTIME=slurm; {self.runtime.name} has one machine."
            )
        if run.device == "cuda":
            require_gpu()
        self._require_fit(run)

    def _require_mountable(self, request: Request) -> None:
        """Refuse a path that the stage's container, or that of its check, could not be given."""
        stage = request.stage
        runtimes = [self.runtime_of(stage), *[self.runtime.nearby] * bool(stage.checked_in)]
        for runtime in (each for each in runtimes if isinstance(each, Mounting)):
            partial = self.store.partial(stage.section, request.name, "0" * 64)
            launch = launch_to(partial, request, runtime, self.store, self.settings)
            with hub_token(stage) as hub, package_index(stage) as index:
                runtime.require_mountable(replace(launch, secrets={**hub, **index}))

    @contextmanager
    def on_gpus(self, run: Resolved) -> Iterator[Resolved]:
        """The run on GPUs that it holds meanwhile, where its runtime shows it some of several.

        Raises:
            EnvironmentFailure: there are too few.
        """
        if run.device != "cuda" or not isinstance(run.runtime, ShowsGpus):
            yield run
            return
        with taken(self.settings.gpus if run.stage.join else 1) as gpus:
            chosen = None if gpus is None else tuple(gpus)
            yield replace(run, launch=replace(run.launch, gpus=chosen))

    def _say_what_was_begun(self, run: Resolved) -> None:
        if run.identity and run.identity.abandoned(self.store.partials(run.target)):
            _say(
                f"{run.stage.name}: {run.target} was begun by other code or packages, whose work "
                "is not continued; it begins anew, and make gc removes the old work."
            )

    @contextmanager
    def _locked(self, target: Path) -> Iterator[None]:
        lock_file = self.store.lock_file(target)
        self.store.create(lock_file.parent)
        with artifact_lock(lock_file, self.settings.wait, _say):
            self.store.recover(target)
            yield

    def _finish(self, request: Request, run: Resolved) -> None:
        """Make, check and publish a result, as far as an earlier command has not done so."""
        if run.partial.exists():
            require_own(run.partial)
        manifest = run.partial / MANIFEST
        if run.identity and run.identity.is_complete(run.partial):
            manifest.touch()  # its time is when it is published
        else:
            manifest.unlink(missing_ok=True)
            with self.on_gpus(run) as on_them:
                spec = self._make(on_them)
            if self._check_waits(run.stage):
                _say(
                    f"{run.stage.name}: made; in image {run.stage.checked_in}, make "
                    f"publish NAME={request.name} checks and publishes it."
                )
                return
            self._check(request, spec, run.launch)
        self.store.publish(run.partial, run.target)

    def _finish_publish(self, target: Path) -> None:
        """Remove what a publish that was cut short has left beside its result."""
        if self.store.was_cut_short(target):
            with lock_if_free(self.store.lock_file(target)) as free:
                if free:
                    self.store.recover(target)

    def _make(self, run: Resolved) -> RunSpec:
        """Run the stage, unless it has ended already; give what it was told."""
        with resumable(run.partial):
            image = run.ready_image()
        self.store.begin(run.partial)
        self.store.create(run.partial / RUN_FOLDER)
        spec = run.spec(image)
        if _made(run.partial):
            return spec
        if run.launch.compiled:
            self.store.create(run.launch.compiled)
        write_text(run.partial / RUN_FOLDER / "run.json", spec.model_dump_json(indent=1))
        with hub_token(run.stage) as hub, package_index(run.stage) as index:
            start(run.runtime, replace(run.launch, secrets={**hub, **index}))
        return spec

    def _check_waits(self, stage: Stage) -> bool:
        """Whether the image that checks the stage's results cannot be started from here."""
        nearby, checker = self.runtime.nearby, stage.checked_in
        if checker is None or not isinstance(nearby, Confined):
            return False
        return not nearby.is_around(checker)

    def _check(self, request: Request, spec: RunSpec, launch: Launch) -> None:
        """The check that another image makes, of a stage that has one.

        Raises:
            StageFailed: the result is not what it should be.
        """
        partial = launch.output
        if checker := request.stage.checked_in:
            nearby = self.runtime.nearby
            nearby.image(checker, "cpu", build=True)
            described = spec.model_copy(update={"inputs": seen(request, nearby)})
            write_text(partial / RUN_FOLDER / "run.json", described.model_dump_json(indent=1))
            check(nearby, replace(launch, image=checker, device="cpu", processes=Processes()))
        require_manifest(partial)


def _made(partial: Path) -> bool:
    """Whether the stage has ended and only its check is left."""
    try:
        return (partial / RUN_FOLDER / MADE).is_file()
    except PermissionError:  # another user's
        return False


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201
