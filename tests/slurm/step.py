"""A batch script of the tests: one step of two nodes, whose command says what each node sees."""

import sys
from dataclasses import dataclass
from pathlib import Path

from espalier.contract.processes import Processes
from espalier.host.runtimes.base import Launch
from espalier.host.runtimes.local import HostRuntime
from espalier.host.runtimes.slurm.backends import Bare
from espalier.host.runtimes.slurm.step import SlurmRuntime


@dataclass(frozen=True)
class Reporting(HostRuntime):
    """Instead of a stage, a report in the output."""

    name: str = "reporting"

    def argv(self, launch: Launch) -> list[str]:
        return [sys.executable, "-m", "tests.slurm.step", "report", str(launch.output)]


def report(folder: Path) -> None:
    seen = Processes.from_environment()
    (folder / str(seen.node)).write_text(f"{seen.nodes} {seen.each} {seen.meeting_point}")


if __name__ == "__main__":
    if sys.argv[1] == "report":
        report(Path(sys.argv[2]))
    else:
        nodes = int(sys.argv[1])
        launch = Launch("wanda", "cpu", "two", {}, Path(sys.argv[2]), processes=Processes(nodes, 3))
        sys.exit(SlurmRuntime(Bare(Reporting())).run(launch))
