"""Runs one stage: skip what is done, refuse what cannot fit, lock, resume, publish."""

import hashlib
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from espalier.contract.discovery import stage_named
from espalier.contract.files import write_text
from espalier.contract.fingerprint import code_hash, identify
from espalier.contract.lock import artifact_lock
from espalier.contract.made import MADE
from espalier.contract.manifest import (
    MANIFEST,
    RUN_FOLDER,
    CodeRecord,
    ImageRecord,
    InputRecord,
    Recipe,
    RunSpec,
    read_manifest,
)
from espalier.contract.parameters import Parameters
from espalier.contract.processes import Processes
from espalier.contract.stage import Stage
from espalier.contract.store import Store
from espalier.contract.usable import require_usable
from espalier.errors import EnvironmentFailure, InputError
from espalier.host.fit import Plan, require_gpu
from espalier.host.revision import code_revision
from espalier.host.runtimes.base import Confined, Explained, Launch, Limits, Runtime
from espalier.host.secrets import hub_environment, hub_token
from espalier.host.settings import Settings
from espalier.host.stage_exit import StageFailed, check, start


@dataclass(frozen=True)
class Request:
    """A stage to run.

    Attributes:
        inputs: role to path.
        name: of its result.
        listed: what models.toml says of the model's shape, where its config is not at hand yet.
    """

    stage: Stage
    parameters: Parameters
    inputs: Mapping[str, Path]
    name: str
    listed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        return Plan.of(self.stage, self.parameters, self.inputs, self.listed)


@dataclass(frozen=True)
class Executor:
    """Runs requests on a store with a runtime."""

    store: Store
    runtime: Runtime
    settings: Settings

    def execute(self, request: Request) -> Path:
        """Run the request unless its result is there; give the published directory.

        Raises:
            InputError: another result has the name.
            EnvironmentFailure: the store, the engine, memory or disk is not as needed.
            StageFailed: the stage failed.
        """
        require_usable(request.stage, request.inputs)
        recipe, records = self._recipe(request)
        target = self.store.path(request.stage.section, request.name)
        if self._is_done(request.stage, target, recipe):
            self._say(f"{request.stage.name}: {target} is done already.")
            return target
        runtime = self._runtime(request.stage)
        if request.stage.network and not runtime.network:
            raise EnvironmentFailure(
                f"{target} is not there, and RUNTIME={runtime.name} fetches nothing; make it "
                "first, by RUNTIME=local where you give this command."
            )
        if self._nodes(request.stage) > 1 and self.runtime.name != "slurm":
            raise InputError(
                f"NODES={self.settings.nodes} needs RUNTIME=slurm; {self.runtime.name} has one "
                "machine."
            )
        if self.settings.accel == "cuda" and not request.stage.network:
            require_gpu()
        if not self.settings.force and runtime.name != "tpu-vm":  # whose memory is elsewhere
            request.plan.check_fits(self.store.root, self.settings.memory)
        self.store.create(target.parent)
        lock_file = self.store.lock_file(target)
        self.store.create(lock_file.parent)
        with artifact_lock(lock_file, self.settings.wait, self._say):
            if self._is_done(request.stage, target, recipe):
                return target
            image = self._image(request.stage, build=True)
            partial = self.store.partial(request.stage.section, request.name, recipe.fingerprint)
            self.store.create(partial / RUN_FOLDER)
            spec = self._spec(request, recipe, records, image, partial)
            self._make(request, spec, partial)
            if self._check_waits(request.stage):
                self._say(
                    f"{request.stage.name}: made; in image {request.stage.checked_in}, make "
                    f"publish NAME={request.name} checks and publishes it."
                )
            else:
                self._check(request, spec, partial)
                self.store.publish(partial, target)
        return target

    def publish_made(self, target: Path) -> Path:
        """Check and publish what a stage has made in an image that could not check it.

        Raises:
            InputError: nothing of the kind is there.
            StageFailed: it is not what it should be.
        """
        self.store.create(self.store.lock_file(target).parent)
        with artifact_lock(self.store.lock_file(target), self.settings.wait, self._say):
            found = [path for path in self.store.partials(target) if _made(path)]
            if not found and (target / MANIFEST).is_file():
                self._say(f"{target} is done already.")
                return target
            if len(found) != 1:
                raise InputError(
                    f"{len(found)} results of other parameters wait to be {target}; make gc drops "
                    "them."
                    if found
                    else f"nothing waits to be {target}; give the NAME of what a stage has made."
                )
            spec = RunSpec.model_validate_json((found[0] / RUN_FOLDER / "run.json").read_bytes())
            inputs = {role: Path(path) for role, path in spec.inputs.items()}
            stage = stage_named(spec.stage)
            parameters = stage.parameters.model_validate(spec.parameters)
            self._check(Request(stage, parameters, inputs, spec.name), spec, found[0])
            self.store.publish(found[0], target)
        return target

    def make_ready(self, stage: Stage) -> None:
        """Have the images that a stage takes."""
        self._image(stage, build=True)
        if stage.checked_in:
            self.runtime.nearby.image(stage.checked_in, "cpu", build=True)

    def launch(
        self, request: Request, partial: Path, secrets: Mapping[str, Path] | None = None
    ) -> Launch:
        """How the request is started with `partial` as its output."""
        # Another store's run of the same recipe is another run: engines know no stores.
        place = hashlib.sha256(str(partial.resolve()).encode()).hexdigest()[:12]
        run_id = f"{request.name.replace('/', '-')}-{place}"
        runtime = self._runtime(request.stage)
        compiled = self.store.root / "cache" / "xla" if request.stage.tpu else None
        if compiled and partial.is_dir():
            compiled.mkdir(parents=True, exist_ok=True)
        return Launch(
            image=request.stage.image,
            device=self._packages(request.stage),
            run_id=run_id,
            inputs=request.inputs,
            output=partial,
            network=request.stage.network,
            secrets=secrets or {},
            environment=hub_environment(request.stage),
            limits=Limits(self.settings.memory, self.settings.cpus),
            compiled=compiled,
            processes=Processes(self._nodes(request.stage), self.settings.gpus),
            threads=self.settings.threads_of(runtime.cores),
        )

    def _spec(
        self,
        request: Request,
        recipe: Recipe,
        records: dict[str, InputRecord],
        image: ImageRecord,
        partial: Path,
    ) -> RunSpec:
        runtime = self._runtime(request.stage)
        return RunSpec(
            stage=request.stage.name,
            name=request.name,
            parameters=request.parameters.model_dump(mode="json"),
            inputs={role: runtime.seen_path(role, path) for role, path in request.inputs.items()},
            input_records=records,
            recipe=recipe,
            image=image,
            code=CodeRecord(sha256=recipe.code, revision=code_revision()),
            command=runtime.argv(self.launch(request, partial)),
            runtime=runtime.name,
            device=self._device(request.stage),
        )

    def preview(self, request: Request) -> dict[str, str]:
        """What `execute` would do, for DRY_RUN=1; nothing is built, made or written."""
        require_usable(request.stage, request.inputs)
        target = self.store.path(request.stage.section, request.name)
        missing = [path for path in request.inputs.values() if not path.exists()]
        fingerprint = "0" * 64
        state = "waits for " + ", ".join(map(str, missing)) if missing else "would run"
        if not missing:
            recipe, _ = self._recipe(request)
            fingerprint = recipe.fingerprint
            state = "done already" if self._is_done(request.stage, target, recipe) else state
        partial = self.store.partial(request.stage.section, request.name, fingerprint)
        image = self._image(request.stage, build=False)
        runtime, launch = self._runtime(request.stage), self.launch(request, partial)
        asked = runtime.rows(launch) if isinstance(runtime, Explained) else {}
        return {
            "stage": f"{request.stage.name} ({state})",
            "image": image.reference or f"{image.name}, lock {image.lock[:12]}",
            "parameters": " ".join(
                f"{name.upper()}={value}"
                for name, value in request.parameters.model_dump().items()
                if value not in (None, "")
            ),
            **{f"input {role}": str(path) for role, path in request.inputs.items()},
            "output": str(target),
            **request.plan.rows(self.store.root, self.settings.memory),
            "command": shlex.join(runtime.argv(launch)),
            **asked,
        }

    def identity(self, path: Path) -> InputRecord:
        """An input's name and the digest of its content."""
        return identify(self._name_of(path), path, self.store.root / "cache" / "hashes")

    def _recipe(self, request: Request) -> tuple[Recipe, dict[str, InputRecord]]:
        records = {role: self.identity(path) for role, path in request.inputs.items()}
        recipe = Recipe(
            stage=request.stage.name,
            code=code_hash(request.stage.entry.partition(":")[0]),
            lock=self._image(request.stage, build=False).lock,
            parameters=request.parameters.identity(),
            inputs={role: record.content for role, record in records.items()},
        )
        return recipe, records

    def _image(self, stage: Stage, *, build: bool) -> ImageRecord:
        return self._runtime(stage).image(stage.image, self._packages(stage), build)

    def _runtime(self, stage: Stage) -> Runtime:
        """Where it runs: near, where the runtime has TPUs and the stage no use for them."""
        return self.runtime if stage.tpu else self.runtime.nearby

    def _device(self, stage: Stage) -> str:
        """ACCEL, or the processor where that is a TPU and the stage has no use for it."""
        accel = "tpu" if self.runtime.name == "tpu-vm" else self.settings.accel
        return "cpu" if accel == "tpu" and not stage.tpu else accel

    def _packages(self, stage: Stage) -> str:
        """The image's variant: that of its device, unless the stage names another."""
        return stage.packages or self._device(stage)

    def _nodes(self, stage: Stage) -> int:
        """Machines that it runs on; a stage that has no part for others runs on one."""
        return self.settings.nodes if stage.join else 1

    def _name_of(self, path: Path) -> str:
        resolved, root = path.resolve(), self.store.root.resolve()
        return str(resolved.relative_to(root)) if resolved.is_relative_to(root) else path.name

    def _is_done(self, stage: Stage, target: Path, recipe: Recipe) -> bool:
        if not (target / MANIFEST).is_file():
            return False
        made = read_manifest(target).recipe
        differences = recipe.differences(made)
        if differences and not (self.settings.force or stage.renewed):
            raise InputError(
                f"{target} was made otherwise: {'; '.join(differences)}. Choose another NAME=, "
                "or replace it with FORCE=1."
            )
        return not differences

    def _make(self, request: Request, spec: RunSpec, partial: Path) -> None:
        """The stage, unless it has ended already."""
        if _made(partial):
            return
        write_text(partial / RUN_FOLDER / "run.json", spec.model_dump_json(indent=1))
        with hub_token(request.stage) as secrets:
            start(self._runtime(request.stage), self.launch(request, partial, secrets))

    def _check_waits(self, stage: Stage) -> bool:
        """Whether the image that checks the stage's results cannot be started from here."""
        nearby, checker = self.runtime.nearby, stage.checked_in
        if checker is None or not isinstance(nearby, Confined):
            return False
        return not nearby.is_around(checker)

    def _check(self, request: Request, spec: RunSpec, partial: Path) -> None:
        """The check that another image makes; then only what is to be published is left."""
        if checker := request.stage.checked_in:
            nearby = self.runtime.nearby
            nearby.image(checker, "cpu", build=True)
            seen = self._seen(spec, request, nearby)
            write_text(partial / RUN_FOLDER / "run.json", seen.model_dump_json(indent=1))
            launch = self.launch(request, partial)
            alone = replace(launch, image=checker, device="cpu", processes=Processes())
            check(nearby, alone)
        if not (partial / MANIFEST).is_file():
            shutil.rmtree(partial, ignore_errors=True)
            raise StageFailed(1)
        shutil.rmtree(partial / RUN_FOLDER)

    def _seen(self, spec: RunSpec, request: Request, runtime: Runtime) -> RunSpec:
        """The description with the inputs' paths as another runtime has them."""
        seen = {role: runtime.seen_path(role, path) for role, path in request.inputs.items()}
        return spec.model_copy(update={"inputs": seen})

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)  # noqa: T201


def _made(partial: Path) -> bool:
    """Whether the stage has ended and only its check is left."""
    return (partial / RUN_FOLDER / MADE).is_file()
