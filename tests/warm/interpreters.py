"""The warm interpreters of a test process: one a Python, started when it is first wanted."""

import atexit
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from espalier.contract.paths import ROOT
from espalier.contract.threads import THREADS
from espalier.host.runtimes.base import Launch
from espalier.host.runtimes.base import quiet_environment as stage_environment

HOST = "espalier"
RANKS = ("training.gpu_fsdp.worker", "methods.sheared_llama.worker")
MODULES = (HOST, "espalier.run_stage", *RANKS, "tests.contract.loaded")
"""What they run, each as `python -m` would."""
FOLDER = "ESPALIER_TESTS_WARM"
"""Names the folder of their sockets to whatever the tests start."""
FIRST = "ESPALIER_TESTS_FIRST"
"""Names modules, or files of Python, with commas between, that a command's process runs first."""
ANEW = "tests.warm.anew"
"""Of FIRST: what is ours is imported again, as in a new interpreter."""
ROOM = "." * 1000
"""Of a command's length, for others to take its place in the list of processes."""
RELAY = Path(__file__).with_name("relay.py")
AT_START = dict(os.environ)
"""Before any test has changed it: a test's own variables are no reason for others to run cold."""
WIDE = {"COLUMNS": "200"}
"""How wide tables are: what draws them looks once, as it is imported."""
READ_AT_IMPORT = ("HF_", "JAX_PLATFORMS", "TQDM_", "TRANSFORMERS_", THREADS)
"""Beginnings of the names of variables that packages look at when they are imported.

Those of numeric libraries are not: a stage takes none of the caller's. XLA's compiled programs are
kept where this interpreter was told, not in each store.
"""


def warmed(argv: Sequence[str]) -> list[str]:
    """The command by which a warm interpreter runs `PYTHON -m MODULE …`; any other as it is."""
    words = [argv] if isinstance(argv, str) else [os.fspath(word) for word in argv]
    socket = socket_of(words[0])
    if words[1:2] != ["-m"] or words[2] not in MODULES or not socket or not socket.exists():
        return words
    return [words[0], "-IS", str(RELAY), str(socket), *words[2:]]


def socket_of(python: str) -> Path | None:
    """Where that Python's warm interpreter is asked, whether or not there is one.

    An environment of the tests has its image's packages first, and stands for the image's own.
    """
    folder, environment = os.environ.get(FOLDER), Path(python).parent.parent.name
    return Path(folder, environment.removeprefix("test-")) if folder else None


def forget_variables_of_packages() -> None:
    """Drop what packages have set for themselves in this process since it began.

    lm_eval does on import, and every later command would have a variable that no warm interpreter
    was started with.
    """
    for name in set(os.environ) - set(AT_START):
        if name.startswith(READ_AT_IMPORT):
            del os.environ[name]


def planted(folder: Path, program: str) -> dict[str, str]:
    """The variable by which a command's process runs a program of Python first."""
    file = folder / f"plant-{hashlib.sha256(program.encode()).hexdigest()[:12]}.py"
    file.write_text(program)
    return {FIRST: str(file)}


def warm_up(python: str = sys.executable, **variables: str) -> None:
    """Have that Python imported what stages do, with the variables that they will have."""
    if FOLDER not in os.environ:
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="warm-")
        atexit.register(shutil.rmtree, os.environ[FOLDER], ignore_errors=True)
    socket = socket_of(python)
    if not socket or socket.exists():
        return
    launch = Launch("", "cpu", "", {}, ROOT)
    own = {FOLDER: os.environ[FOLDER], "PYTHONPATH": str(ROOT)}
    given = {**AT_START, **stage_environment(launch), **WIDE, **variables, **own}
    with socket.with_suffix(".log").open("w") as log:
        server = subprocess.Popen(
            [python, "-m", "tests.warm.server", str(socket), ROOM],
            cwd=ROOT, env=given, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    atexit.register(server.kill)
    while not socket.exists():
        assert server.poll() is None, socket.with_suffix(".log").read_text()
        time.sleep(0.02)
