"""Stages in containers, by docker or podman: the caller's uid, no network, no capabilities."""

import os
from dataclasses import dataclass
from pathlib import Path

from espalier.contract.cores import usable_cores
from espalier.contract.manifest import ImageRecord
from espalier.contract.processes import COMPILED
from espalier.host.images import Engine, ensure_built, load_image
from espalier.host.runtimes.base import COMMAND, Launch, quiet_environment, run_to_end
from espalier.host.runtimes.mark import LABEL, new_mark, remove_stale
from espalier.host.runtimes.mounts import Mount, container_path, mounts_of, secret_path
from espalier.host.secrets import by_name

STOP_SECONDS = 60
COMPILED_INSIDE = "/compiled"
SHARED_MEMORY = "2g"
"""What ranks on one machine exchange gradients through; an engine's own 64 MiB are too little."""


@dataclass(frozen=True)
class ContainerRuntime:
    """One container a stage, removed when it ends."""

    engine: Engine
    network: bool = True
    shows_gpus: bool = True

    @property
    def name(self) -> str:
        return self.engine.name

    @property
    def cores(self) -> int:
        """As many as without a container: the same number gives the same bytes."""
        return usable_cores()

    @property
    def nearby(self) -> "ContainerRuntime":
        return self

    def image(self, name: str, device: str, build: bool) -> ImageRecord:
        """The image's reference and digest, built or rebuilt first where `build` is asked."""
        lock = load_image(name).lock_hash(device)
        if not build:
            return ImageRecord(name=name, lock=lock, reference=_tag(name, device))
        built = ensure_built(name, self.engine, device)
        return ImageRecord(name=name, lock=lock, reference=built.reference, digest=built.digest)

    def seen_path(self, role: str, path: Path) -> str:
        return container_path(role, path)

    def require_mountable(self, launch: Launch) -> None:
        for mount in _mounts(launch):
            mount.flag()

    def argv(self, launch: Launch) -> list[str]:
        """The engine's `run` command, but for the name and the mark of one start."""
        flags = [
            "--rm",
            "--pull=never",
            "--label=org.espalier.managed=1",
            "--read-only",
            "--tmpfs=/tmp:rw,exec,mode=1777",
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges",
            f"--stop-timeout={STOP_SECONDS}",
            "--workdir=/tmp",
            *self.engine.as_caller,
            *([] if launch.network else ["--network=none"]),
            *self._gpus(launch),
        ]
        if launch.processes.each > 1:
            flags.append(f"--shm-size={SHARED_MEMORY}")
        if launch.limits.memory:
            flags.append(f"--memory={launch.limits.memory}")
        if launch.limits.cpus:
            flags.append(f"--cpus={launch.limits.cpus:g}")
        flags += [mount.flag() for mount in _mounts(launch)]
        if launch.compiled:
            flags.append(f"--env={COMPILED}={COMPILED_INSIDE}")
        flags += [f"--env={variable}={secret_path(variable)}" for variable in launch.secrets]
        for key, value in quiet_environment(launch).items():
            flags.append(f"--env={key}" if key in launch.environment else f"--env={key}={value}")
        own, _ = by_name(self.engine.run_flags)
        return [
            *(self.engine.client, *self.engine.flags, "run", *flags, *own),
            *(_tag(launch.image, launch.device), *COMMAND, "/out"),
        ]

    def run(self, launch: Launch) -> int:
        """Remove what a dead host left running of this very run, then run to the end."""
        remove_stale(self.engine, launch.output)
        mark = new_mark(launch.output)
        own = [f"--name=espalier-{launch.run_id}-{mark[:8]}", f"--label={LABEL}={mark}"]
        words, first = self.argv(launch), len(self.engine.command("run"))
        _, given = by_name(self.engine.run_flags)
        environment = {**os.environ, **launch.environment, **given}
        return run_to_end([*words[:first], *own, *words[first:]], environment)

    def _gpus(self, launch: Launch) -> list[str]:
        """The engine's flags for the GPUs of a launch, unless DOCKER_RUN_FLAGS has its own."""
        own = any("--gpus" in flag or "nvidia.com/gpu" in flag for flag in self.engine.run_flags)
        if launch.device != "cuda" or own:
            return []
        if self.name == "podman":  # CDI names them as nvidia-smi counts; UUIDs are newer
            names = ["all"] if launch.gpus is None else [gpu.index for gpu in launch.gpus]
            return [f"--device=nvidia.com/gpu={name}" for name in names]
        if launch.gpus is None:
            return ["--gpus=all"]
        devices = f"device={','.join(gpu.uuid for gpu in launch.gpus)}"
        # The value is a line of CSV, so that several devices have to be quoted within it.
        return [f"--gpus={devices}" if len(launch.gpus) == 1 else f'--gpus="{devices}"']


def _mounts(launch: Launch) -> list[Mount]:
    compiled = [Mount(launch.compiled, COMPILED_INSIDE, writable=True)] if launch.compiled else []
    return [*mounts_of(launch), *compiled]


def _tag(image: str, device: str) -> str:
    return f"espalier/{image}:{device}"
