"""A job's script: what Slurm is asked for, and the step of a plan that it carries out."""

import math
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from espalier.contract.paths import ROOT
from espalier.errors import InputError
from espalier.host.runtimes.slurm.backends import tuning
from espalier.host.settings import Settings

BODY = Path(__file__).with_name("job.sh")
STOP_SECONDS = 120
"""How long ahead of its time limit a job is told to save."""
EXPORTED = ("PATH", "HOME", "USER", "LANG", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class Job:
    """One step of a saved plan.

    Attributes:
        step: its title, which is the job's name.
        plan: where the plan is saved.
        trains: whether it is one that NODES and GPUS are for.
        after: titles of the steps whose jobs have to end well before.
    """

    step: str
    plan: Path
    settings: Settings
    trains: bool = False
    after: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where plans, scripts and logs are kept."""
        return folder_of(self.settings)

    def file(self, number: str, suffix: str) -> Path:
        """The job's script (`sh`) or log."""
        return self.folder / f"{self.step}-{number}.{suffix}"

    @property
    def words(self) -> list[str]:
        """The command that the job runs, the settings spelt out."""
        alone = {} if self.trains else {"nodes": 1, "gpus": 1}
        settings = self.settings.model_copy(
            update={"store": self.settings.store.absolute(), **alone}
        )
        given = {"PLAN": str(self.plan), "STEP": self.step, **settings.assignments()}
        assignments = [f"{name}={value}" for name, value in given.items()]
        return [sys.executable, "-m", "espalier", "run", *assignments]

    def script(self) -> str:
        """The whole script: options, command, and the body that waits and requeues.

        Raises:
            InputError: Slurm cannot write a log in that store.
        """
        options = [f"#SBATCH {line}" for line in self._options()]
        command = [
            f"export PYTHONPATH={shlex.quote(str(ROOT))}",
            f"set -- {shlex.join(self.words)}",
        ]
        shebang, _, body = BODY.read_text().partition("\n")
        return "\n".join([shebang, *options, "", *command, "", body])

    def _options(self) -> list[str]:
        asked = self.settings
        nodes, gpus = (asked.nodes, asked.gpus) if self.trains else (1, 1)
        exported = [*EXPORTED, *sorted(tuning(os.environ))]
        options = {
            "job-name": self.step,
            "nodes": nodes,
            "ntasks-per-node": 1,
            "cpus-per-task": math.ceil(asked.cpus) if asked.cpus else None,
            "mem": f"{math.ceil(asked.memory / 2**20)}M" if asked.memory else None,
            "gres": f"gpu:{gpus}" if asked.accel == "cuda" else None,
            "partition": asked.partition,
            "account": asked.account,
            "time": asked.time,
            "output": f"{_literally(self.folder)}/%x-%j.log",
            "open-mode": "append",
            "signal": f"B:TERM@{STOP_SECONDS}",
            "chdir": Path.cwd(),
            # Of the caller's environment no more than this: its tokens stay where they are.
            "export": ",".join(exported),
        }
        lines = [f"--{k}={shlex.quote(str(v))}" for k, v in options.items() if v is not None]
        return [*lines, "--requeue", *filter(None, [asked.sbatch_flags])]


def _literally(folder: Path) -> str:
    """A folder in a pattern of Slurm's, where % begins a field and a backslash ends all of them."""
    if "\\" in str(folder):
        raise InputError(
            f"{folder} has a backslash, which Slurm takes out of a log's name; give another STORE."
        )
    return str(folder).replace("%", "%%")


def folder_of(settings: Settings) -> Path:
    """Where a store's plans, scripts and logs are kept."""
    return settings.store.absolute() / "slurm"
