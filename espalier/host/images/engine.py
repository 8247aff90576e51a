"""The container engines, docker and podman, as far as images need them."""

import json
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from espalier.errors import EnvironmentFailure
from espalier.host.images.security import Security

ANSWER_SECONDS = 10
BASE_LABEL = "org.espalier.base.reference"
CONTEXT_LABEL = "org.espalier.context"
ENVIRONMENT_LABEL = "org.espalier.environment"
LOCK_LABEL = "org.espalier.lock"
SBOM_LABEL = "org.espalier.sbom"
CONFINED = ("--rm", "--read-only", "--tmpfs=/tmp:rw,exec,mode=1777", "--network=none")
"""What a container of ours may do at most; the check after a build runs under it too."""
ANY_UID = ("--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=54321:54321")


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
class Said:
    """How a client's command ended: its exit code, and all that it said; None: it did not end."""

    code: int | None
    out: str
    err: str


@dataclass(frozen=True)
class Engine:
    """An engine's client, and the flags that this machine needs.

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

    @property
    def security(self) -> Security:
        """How it maps users and labels files; where it does not say, as most do."""
        return _security(self) or Security(rootless=self.name == "podman" and os.getuid() != 0)

    @property
    def as_caller(self) -> list[str]:
        """Flags of `run` with which a container's files are the caller's own."""
        return self.security.flags(self.name, os.getuid(), os.getgid())

    def ask(self, *words: str, within: float | None = None, given: bytes = b"") -> Said:
        """Run a command of the client to its end, or for so many seconds."""
        return _said(self.command(*words), within, given)

    def complaint(self) -> str:
        """Why it does not answer, in its own words; nothing where it does."""
        # `docker version` asks the engine; podman has none to ask, but `info` sees a broken set-up.
        question = "version" if self.name == "docker" else "info"
        said = self.ask(question, within=ANSWER_SECONDS)
        return "" if said.code == 0 else reason(said)

    def inspect(self, reference: str) -> HeldImage | None:
        """None when the engine does not hold the image."""
        said = self.ask("image", "inspect", reference)
        if said.code != 0:
            return None
        image: dict[str, Any] = json.loads(said.out)[0]
        digest = image["Id"] if image["Id"].startswith("sha256:") else f"sha256:{image['Id']}"
        labels = (image.get("Config") or {}).get("Labels") or {}
        published = (image.get("RepoDigests") or [""])[0].partition("@")[2]
        return HeldImage(digest, labels, image["Size"], published)


def installed_engine(name: str) -> Engine | None:
    """The engine of that name, if its client is here. DOCKER and PODMAN name another client."""
    prefix = name.upper()
    client = shutil.which(os.environ.get(prefix) or name)
    if not client:
        return None
    return Engine(
        name,
        client,
        flags=_words(f"{prefix}_FLAGS"),
        run_flags=_words(f"{prefix}_RUN_FLAGS"),
        build_flags=_words(f"{prefix}_BUILD_FLAGS"),
    )


def find_engine(name: str) -> Engine | None:
    """The engine of that name, if it answers."""
    engine = installed_engine(name)
    return engine if engine and not engine.complaint() else None


@cache
def _security(engine: Engine) -> Security | None:
    said = engine.ask("info", "--format", "{{json .}}", within=ANSWER_SECONDS)
    return Security.read(said.out) if said.code == 0 else None


def reason(said: Said) -> str:
    """The line of what a client said that tells what went wrong."""
    if said.code is None:
        return "it did not answer in time"
    lines = [" ".join(line.split()) for line in (said.err or said.out).splitlines()]
    lines = [line for line in lines if line and not line.startswith(ADVICE)]
    errors = [line for line in lines if any(word in line.lower() for word in FAULTS)]
    told = (errors or lines or [f"it ended with {said.code} and said nothing"])[-1]
    return told.rstrip(".")


ADVICE = ("See '", "Run '", "For more information")
"""How lines of a client begin that tell no cause."""
FAULTS = ("error", "cannot", "denied", "failed")


def _words(variable: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(os.environ.get(variable, "")))
    except ValueError as error:
        raise EnvironmentFailure(f"{variable} is not a list of words: {error}.") from None


def _said(command: Sequence[str], within: float | None, given: bytes) -> Said:
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # what it has started ends with it
        )
    except OSError as error:
        return Said(127, "", f"Error: {command[0]}: {error.strerror}")
    with child:
        try:
            out, err = child.communicate(given, timeout=within)
        except subprocess.TimeoutExpired:
            return Said(None, "", "")
        finally:
            if child.returncode is None:
                os.killpg(child.pid, signal.SIGKILL)
    return Said(child.returncode, out.decode(errors="replace"), err.decode(errors="replace"))
