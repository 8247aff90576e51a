"""A request with all that running it takes, looked up once: identity, image, device, places."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from espalier.contract.fingerprint import identify
from espalier.contract.manifest import CodeRecord, ImageRecord, InputRecord, RunSpec
from espalier.contract.processes import Processes
from espalier.contract.stage import Stage
from espalier.contract.store import Store
from espalier.contract.usable import require_usable
from espalier.host.fit import Fit
from espalier.host.identity import Identity
from espalier.host.plan import Request
from espalier.host.revision import code_revision
from espalier.host.runtimes.base import Launch, Limits, Runtime
from espalier.host.secrets import hub_environment, without_logins
from espalier.host.settings import Settings


@dataclass(frozen=True)
class Resolved:
    """One run of a stage, before it is started.

    Attributes:
        runtime: what starts it.
        device: what it computes on.
        image: as it is known before it is made ready.
        identity: what its result is known by; None while an input is not there.
        target: where its result is published.
        launch: how it is started, secrets aside; its output is the partial result.
        fit: what it needs of memory, disk and time.
    """

    request: Request
    runtime: Runtime
    device: str
    image: ImageRecord
    identity: Identity | None
    target: Path
    launch: Launch
    fit: Fit

    @property
    def stage(self) -> Stage:
        return self.request.stage

    @property
    def partial(self) -> Path:
        return self.launch.output

    @property
    def missing(self) -> list[Path]:
        """Inputs that are not there yet."""
        return [path for path in self.request.inputs.values() if not path.exists()]

    def ready_image(self) -> ImageRecord:
        """The image, built or found where it was not."""
        return self.runtime.image(self.stage.image, self.launch.device, build=True)

    def spec(self, image: ImageRecord) -> RunSpec:
        """What the stage is told, in an image that is ready."""
        assert self.identity is not None  # noqa: S101
        return RunSpec(
            stage=self.stage.name,
            name=self.request.name,
            parameters=self.request.parameters.model_dump(mode="json"),
            inputs=seen(self.request, self.runtime),
            input_records=dict(self.identity.inputs),
            recipe=self.identity.recipe,
            image=image,
            code=CodeRecord(sha256=self.identity.code, revision=code_revision()),
            command=without_logins(self.runtime.argv(self.launch)),
            runtime=self.runtime.name,
            device=self.device,
        )


def resolve(request: Request, store: Store, runtime: Runtime, settings: Settings) -> Resolved:
    """Look up what running the request on `runtime` takes; nothing is built or written.

    Raises:
        InputError: the stage does not read what an input is, or it cannot be identified.
    """
    stage = request.stage
    require_usable(stage, request.inputs)
    image = runtime.image(stage.image, packages_of(stage, settings), build=False)
    identity, device = None, device_of(stage, settings)
    if all(path.exists() for path in request.inputs.values()):
        records = {role: record_of(path, store) for role, path in request.inputs.items()}
        identity = Identity.of(stage, request.parameters, records, image.lock, device)
    work = identity.work if identity else "0" * 64
    return Resolved(
        request=request,
        runtime=runtime,
        device=device,
        image=image,
        identity=identity,
        target=store.path(stage.section, request.name),
        launch=launch_to(
            store.partial(stage.section, request.name, work),
            request,
            runtime,
            store,
            settings,
        ),
        fit=Fit.of(stage, request.parameters, request.inputs, request.shape),
    )


def record_of(path: Path, store: Store) -> InputRecord:
    """An input's name and the digest of its content.

    Raises:
        InputError: it links out of itself, or is not what its manifest says.
    """
    resolved, root = path.resolve(), store.root.resolve()
    name = str(resolved.relative_to(root)) if resolved.is_relative_to(root) else path.name
    hashes = store.root / "cache" / "hashes"
    return identify(name, path, hashes, published=store.holds(path))


def seen(request: Request, runtime: Runtime) -> dict[str, str]:
    """Where the stage finds its inputs, by role."""
    return {role: runtime.seen_path(role, path) for role, path in request.inputs.items()}


def nodes_of(stage: Stage, settings: Settings) -> int:
    """Machines that it runs on; a stage that has no part for others runs on one."""
    return settings.nodes if stage.join else 1


def device_of(stage: Stage, settings: Settings) -> str:
    """ACCEL, or the processor where the stage has no use for it."""
    return stage.device_of(settings.accel)


def packages_of(stage: Stage, settings: Settings) -> str:
    """The image's variant: that of its device, unless the stage names another."""
    return stage.packages_on(settings.accel)


def launch_to(
    partial: Path, request: Request, runtime: Runtime, store: Store, settings: Settings
) -> Launch:
    """How the request is started on `runtime`, with `partial` as its output."""
    # Another store's run of the same recipe is another run: engines know no stores.
    place = hashlib.sha256(str(partial.resolve()).encode()).hexdigest()[:12]
    return Launch(
        image=request.stage.image,
        device=packages_of(request.stage, settings),
        run_id=f"{request.name.replace('/', '-')}-{place}",
        inputs=request.inputs,
        output=partial,
        network=request.stage.network,
        environment=hub_environment(request.stage),
        limits=Limits(settings.memory, settings.cpus),
        compiled=store.root / "cache" / "xla" if request.stage.tpu else None,
        processes=Processes(nodes_of(request.stage, settings), settings.gpus),
        threads=settings.threads_of(runtime.cores),
    )
