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
from espalier.host.secrets import by_name

STOP_SECONDS = 60
SECRETS = "/run/secrets"
SHARED_MEMORY = "2g"
"""What ranks on one machine exchange gradients through; an engine's own 64 MiB are too little."""


@dataclass(frozen=True)
class ContainerRuntime:
    """One container a stage, removed when it ends."""

    engine: Engine
    network: bool = True

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
            *self._user(),
            *([] if launch.network else ["--network=none"]),
            *self._device(launch.device),
        ]
        if launch.processes.each > 1:
            flags.append(f"--shm-size={SHARED_MEMORY}")
        if launch.limits.memory:
            flags.append(f"--memory={launch.limits.memory}")
        if launch.limits.cpus:
            flags.append(f"--cpus={launch.limits.cpus:g}")
        for role, path in launch.inputs.items():
            flags.append(f"--volume={path.resolve()}:{self.seen_path(role, path)}:ro")
        flags.append(f"--volume={launch.output.resolve()}:/out:rw")
        if launch.compiled:
            flags += [f"--volume={launch.compiled.resolve()}:/compiled:rw"]
            flags += [f"--env={COMPILED}=/compiled"]
        for variable, path in launch.secrets.items():
            inside = f"{SECRETS}/{variable.lower()}"
            flags += [f"--volume={path.resolve()}:{inside}:ro", f"--env={variable}={inside}"]
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

    def _user(self) -> list[str]:
        user = [f"--user={os.getuid()}:{os.getgid()}"]
        rootless = self.engine.name == "podman" and os.getuid() != 0
        return [*user, "--userns=keep-id"] if rootless else user

    def _device(self, device: str) -> list[str]:
        if device != "cuda":
            return []
        return ["--device=nvidia.com/gpu=all" if self.name == "podman" else "--gpus=all"]


def container_path(role: str, path: Path) -> str:
    """`/in/<role>`; a file keeps its name below it, since its suffix says what it is."""
    return f"/in/{role}/{path.name}" if path.is_file() else f"/in/{role}"


def _tag(image: str, device: str) -> str:
    return f"espalier/{image}:{device}"
