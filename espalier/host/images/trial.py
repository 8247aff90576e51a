"""Whether an engine runs containers here: one is started, since being installed proves nothing.

An engine that answers may still start none: limits that it may not raise, no ids for a user without
root, control groups that it does not find. What was seen is kept for a while, a failure only for a
moment: whoever mends the engine is believed at once.
"""

import hashlib
import json
import os
import resource
import secrets
import time
from dataclasses import dataclass

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.contract.paths import ROOT
from espalier.host.images.engine import Engine, reason
from espalier.host.images.tiny_program import PROGRAM, archive
from espalier.host.secrets import by_name

RECORDS = ROOT / ".espalier" / "engines"
START_SECONDS = 30
BELIEVED_SECONDS = {True: 24 * 3600, False: 60}
"""How long it is believed that an engine runs containers, and that it runs none."""
CONFINED = (
    *("--rm", "--pull=never", "--network=none", "--read-only", "--tmpfs=/tmp:rw,exec,mode=1777"),
    *("--cap-drop=ALL", "--security-opt=no-new-privileges"),
)
"""As every stage is confined."""
SURROUNDINGS = (
    *("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_TLS_VERIFY"),
    *("CONTAINER_HOST", "CONTAINERS_CONF", "XDG_RUNTIME_DIR", "PATH"),
)
"""Variables that make it another engine."""


@dataclass(frozen=True)
class Trial:
    """What was seen of an engine that is installed.

    Attributes:
        fault: why it runs no container; nothing where it does.
    """

    engine: Engine
    fault: str

    @property
    def runs(self) -> bool:
        return not self.fault


def tried(engine: Engine, anew: bool = False) -> Trial:
    """Ask the engine, and let it start a container unless that was seen a moment ago.

    Args:
        engine: an engine whose client is installed.
        anew: whether a container is started whatever is known.
    """
    if complaint := engine.complaint():
        return Trial(engine, f"it does not answer: {complaint}")
    fault = None if anew else _known(engine)
    if fault is None:
        fault = _start(engine)
        _remember(engine, fault)
    return Trial(engine, fault)


def _start(engine: Engine) -> str:
    """Start the smallest container as a stage is started; why that failed."""
    root = archive()
    if root is None:  # an unusual processor: that the engine answers has to do
        return ""
    name = f"espalier-trial-{secrets.token_hex(6)}"
    reference = f"espalier/trial:{name[-12:]}"
    said = engine.ask("import", "-", reference, within=START_SECONDS, given=root)
    if said.code != 0:
        return f"it cannot take an image: {reason(said)}"
    own, _ = by_name(engine.run_flags)  # no secret among the words
    words = (*CONFINED, f"--name={name}", *engine.as_caller, *own)
    said = engine.ask("run", *words, reference, f"/{PROGRAM}", within=START_SECONDS)
    if said.code is None:
        engine.ask("rm", "-f", name, within=START_SECONDS)
    engine.ask("rmi", "-f", reference, within=START_SECONDS)
    return "" if said.code == 0 else f"it cannot start a container: {reason(said)}"


def _known(engine: Engine) -> str | None:
    """The fault that was seen of it, or nothing; None where that is too long ago."""
    try:
        seen = json.loads((RECORDS / _key(engine)).read_text())
        fault, age = str(seen["fault"]), time.time() - float(seen["at"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return fault if 0 <= age < BELIEVED_SECONDS[not fault] else None


def _remember(engine: Engine, fault: str) -> None:
    try:
        RECORDS.mkdir(parents=True, exist_ok=True)
        write_text(RECORDS / _key(engine), to_json({"fault": fault, "at": time.time()}))
    except OSError:
        return  # a checkout that cannot be written: the next command looks again


def _key(engine: Engine) -> str:
    """The engine with all that decides whether it can start a container."""
    limits = [resource.getrlimit(kind) for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)]
    variables = [os.environ.get(name) for name in SURROUNDINGS]
    called = [engine.command(), engine.run_flags, engine.as_caller]
    text = to_json([called, limits, variables])
    return f"{engine.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
