"""The container engines, docker and podman, as far as images need them."""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from espalier.errors import EnvironmentFailure

ANSWER_SECONDS = 10
BASE_LABEL = "org.espalier.base.reference"
CONTEXT_LABEL = "org.espalier.context"
ENVIRONMENT_LABEL = "org.espalier.environment"


@dataclass(frozen=True)
class ImageReference:
    """An image that an engine holds, and its local id."""

    reference: str
    digest: str


@dataclass(frozen=True)
class HeldImage:
    """What an engine says of an image that it holds."""

    digest: str
    labels: dict[str, str]
    size: int
    published: str = ""
    """Its digest at the registry that it was pulled from."""


@dataclass(frozen=True)
class Engine:
    """A client that answers, and the flags that this machine needs.

    Attributes:
        flags: before the client's command, from DOCKER_FLAGS or PODMAN_FLAGS.
        run_flags: after `run`, from DOCKER_RUN_FLAGS or PODMAN_RUN_FLAGS.
        build_flags: after `build`, from DOCKER_BUILD_FLAGS or PODMAN_BUILD_FLAGS.
    """

    name: str
    client: str
    flags: tuple[str, ...] = ()
    run_flags: tuple[str, ...] = ()
    build_flags: tuple[str, ...] = ()

    def command(self, *words: str) -> list[str]:
        return [self.client, *self.flags, *words]

    def inspect(self, reference: str) -> HeldImage | None:
        """None when the engine does not hold the image."""
        found = _output(self.command("image", "inspect", reference))
        if found is None:
            return None
        image: dict[str, Any] = json.loads(found)[0]
        digest = image["Id"] if image["Id"].startswith("sha256:") else f"sha256:{image['Id']}"
        labels = (image.get("Config") or {}).get("Labels") or {}
        published = (image.get("RepoDigests") or [""])[0].partition("@")[2]
        return HeldImage(digest, labels, image["Size"], published)


def find_engine(name: str) -> Engine | None:
    """The engine of that name, if it answers. DOCKER and PODMAN name another client."""
    prefix = name.upper()
    client = shutil.which(os.environ.get(prefix) or name)
    if not client:
        return None
    engine = Engine(
        name,
        client,
        flags=_words(f"{prefix}_FLAGS"),
        run_flags=_words(f"{prefix}_RUN_FLAGS"),
        build_flags=_words(f"{prefix}_BUILD_FLAGS"),
    )
    # `docker version` asks the engine; podman has none to ask, but `info` sees a broken set-up.
    question = ("version",) if name == "docker" else ("info",)
    return engine if _output(engine.command(*question), ANSWER_SECONDS) is not None else None


def _words(variable: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(os.environ.get(variable, "")))
    except ValueError as error:
        raise EnvironmentFailure(f"{variable} is not a list of words: {error}.") from None


def _output(command: Sequence[str], timeout: float | None = None) -> str | None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
