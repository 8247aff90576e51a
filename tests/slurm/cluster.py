"""A Slurm cluster of two nodes on this host: its daemons, with ports and folders of their own."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.ports import free_ports

REVOKED = 3
"""Seconds after which a node surely starts a job again that it has ended."""
DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIGURATION = """\
ClusterName=espalier
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/controller
SlurmctldPidFile={folder}/controller/pid
SlurmctldLogFile={folder}/controller/log
SlurmdSpoolDir={folder}/%n
SlurmdPidFile={folder}/%n/pid
SlurmdLogFile={folder}/%n/log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=10
ReturnToService=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 GraceTime=60 State=UP
PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=OFF State=UP
"""


def lacking() -> str:
    """What this machine lacks to run a cluster, or nothing."""
    if os.geteuid() != 0:
        return "slurmd needs root"
    missing = [name for name in DAEMONS if not daemon(name)]
    return f"no {', '.join(missing)} on this machine" if missing else ""


def daemon(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@dataclass
class Cluster:
    """Its daemons' processes, and how it is asked."""

    folder: Path
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)
    hurried: set[str] = field(default_factory=set)

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def ask(self, *words: str) -> str:
        """What one of Slurm's commands says."""
        done = subprocess.run(
            words,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def idle(self) -> bool:
        """Whether nothing runs on either node, nor ends there."""
        words = ("sinfo", "--noheader", "--Node", "--format=%T", "--partition=main")
        return self.ask(*words).split() == ["idle", "idle"]

    def job(self, number: str) -> dict[str, str]:
        """A job's fields, as scontrol shows them."""
        words = self.ask("scontrol", "show", "job", number, "--oneliner").split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def ended(self, number: str, seconds: float = 300) -> str:
        """The state in which the job ends.

        One that was requeued need not wait two minutes, but until its first run has left the nodes,
        which for a second or two take it for the one that has just ended.
        """
        deadline = time.monotonic() + seconds
        while True:
            job = self.job(number)
            if job["JobState"] not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING"):
                return job["JobState"]
            if job["Reason"] == "BeginTime" and self.idle() and number not in self.hurried:
                self.ask("scontrol", "update", f"JobId={number}", f"StartTime=now+{REVOKED}")
                self.hurried.add(number)
            assert time.monotonic() < deadline, job
            time.sleep(0.2)

    def start(self, *words: str) -> None:
        log = (self.folder / f"{Path(words[0]).name}.out").open("ab")
        self.children.append(
            subprocess.Popen(words, env={**os.environ, **self.environment}, stdout=log, stderr=log)
        )

    def stop(self) -> None:
        """End what jobs are left, and the daemons."""
        try:
            self.ask("scancel", "--user=root")
            time.sleep(1)
        finally:
            for child in reversed(self.children):
                child.send_signal(signal.SIGTERM)
            for child in self.children:
                try:
                    child.wait(10)
                except subprocess.TimeoutExpired:
                    child.kill()


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """Two nodes, idle, until the block ends."""
    for name in ("munge", "controller", "n1", "n2"):
        (folder / name).mkdir()
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    host = socket.gethostname().partition(".")[0]
    text = CONFIGURATION.format(folder=folder, host=host, ports=free_ports(3))
    (folder / "slurm.conf").write_text(text)
    cluster = Cluster(folder)
    munge = folder / "munge"
    try:
        cluster.start(
            *(str(daemon("munged")), "--foreground", "--force", f"--socket={munge}/socket"),
            *(f"--key-file={key}", f"--pid-file={munge}/pid"),
            *(f"--log-file={munge}/log", f"--seed-file={munge}/seed"),
        )
        cluster.start(str(daemon("slurmctld")), "-D")
        for name in ("n1", "n2"):
            cluster.start(str(daemon("slurmd")), "-D", "-N", name)
        _wait_for_nodes(cluster)
        yield cluster
    finally:
        cluster.stop()


def _wait_for_nodes(cluster: Cluster) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            if cluster.idle():
                return
        except AssertionError:  # the controller is not there yet
            pass
        assert time.monotonic() < deadline, (cluster.folder / "controller" / "log").read_text()
        time.sleep(0.2)
