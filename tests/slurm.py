"""A real Slurm on this machine, for tests: two virtual nodes, all its state in one temporary folder, nothing left behind.

munged, slurmctld and one slurmd a node are started by hand, on ports that are free now and on the loopback interface,
as whoever runs the tests. They know nothing of a Slurm that the machine may have, and that one knows nothing of them.
"""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

NODES = ("n1", "n2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun")
#: Daemons are in sbin, which is not on the path of every user.
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])

CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SchedulerType=sched/builtin
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=10
{nodes}
PartitionName=tests Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class SlurmError(Exception):
    """Slurm is not installed, or does not run on this machine."""


class Slurm:
    """The running daemons. `env` is the environment of a user of this Slurm."""

    def __init__(self, folder: Path):
        self.folder = folder
        configuration = folder / "slurm.conf"
        self.env = {**os.environ, "PATH": PATH, "SLURM_CONF": str(configuration)}
        self._mark = f"SLURM_CONF={configuration}".encode()
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._lost: set[str] = set()
        ports = _free_ports(1 + len(NODES))
        host = socket.gethostname().split(".")[0]
        nodes = [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=8192"
            for node, port in zip(NODES, ports[1:], strict=True)
        ]
        values = {"folder": folder, "host": host, "ports": ports, "user": _user(), "nodes": "\n".join(nodes)}
        configuration.write_text(CONFIGURATION.format(**values))

    def start(self) -> None:
        for name in ("munge", "state", *NODES):
            (self.folder / name).mkdir(mode=0o755)
        key = self.folder / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        paths = {"key-file": "key", "log-file": "log", "pid-file": "pid", "seed-file": "seed", "socket": "socket"}
        self._daemon("munged", "-F", *(f"--{option}={key.parent / name}" for option, name in paths.items()))
        self._until("munged listens", (key.parent / "socket").exists)
        self._daemon("slurmctld", "-D")
        for node in NODES:
            self.start_node(node)
        self._until("both nodes are idle", lambda: self.states() == dict.fromkeys(NODES, "idle"))

    def start_node(self, node: str) -> None:
        self._lost.discard(node)
        # The name is in the environment of all that runs on the node, whether Slurm puts it there or we do.
        self._daemon("slurmd", "-D", "-N", node, node=node)

    def run(self, *command: str) -> str:
        """What a command of Slurm prints."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=30)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def states(self) -> dict[str, str]:
        """Node -> its state."""
        try:
            lines = self.run("sinfo", "-N", "-h", "-o", "%N %T").splitlines()
        except (RuntimeError, subprocess.TimeoutExpired):  # slurmctld does not answer
            return {}
        return dict(line.split() for line in lines)

    def jobs(self) -> dict[str, str]:
        """Running job -> its node."""
        return dict(line.split() for line in self.run("squeue", "-h", "-t", "R", "-o", "%i %N").splitlines())

    def lose(self, node: str) -> None:
        """Take a node away as if its power had gone: all that runs on it is killed at once, and it stays down."""
        self._lost.add(node)
        lost = self.processes(node)
        memory = set().union(*map(shared_memory, lost))
        for pid in lost:
            _kill(pid, signal.SIGKILL)
        for path in memory:  # which a node's power takes with it
            path.unlink(missing_ok=True)
        for daemon in [each for each in self._daemons if each.pid in lost]:
            daemon.wait()
            self._daemons.remove(daemon)
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")

    def mend(self) -> None:
        """Bring back the nodes that were lost."""
        for node in list(self._lost):
            self.start_node(node)
        self._until("both nodes are idle", lambda: self.states() == dict.fromkeys(NODES, "idle"))

    def processes(self, node: str | None = None) -> list[int]:
        """What runs under this Slurm, on one node or in all: the daemons, and the jobs with all their children."""
        marks = [self._mark, *([f"SLURMD_NODENAME={node}".encode()] if node else [])]
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    settings = (entry / "environ").read_bytes().split(b"\0")
                except OSError:  # it has ended, or is another user's
                    continue
                if all(mark in settings for mark in marks):
                    found.append(int(entry.name))
        return found

    def stop(self) -> None:
        if self._daemons and self._daemons[-1].poll() is None:
            subprocess.run(["scancel", "--user", _user()], env=self.env, capture_output=True, timeout=30)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for pid in self.processes():
            _kill(pid, signal.SIGKILL)

    def _daemon(self, program: str, *arguments: str, node: str | None = None) -> None:
        env = {**self.env, "SLURMD_NODENAME": node} if node else self.env
        path = shutil.which(program, path=PATH)
        assert path is not None
        with (self.folder / f"{node or program}.out").open("wb") as told:
            self._daemons.append(
                subprocess.Popen([path, *arguments], env=env, stdin=subprocess.DEVNULL, stdout=told, stderr=told)
            )

    def _until(self, what: str, reached, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not reached():
            if any(daemon.poll() is not None for daemon in self._daemons) or time.monotonic() > end:
                raise SlurmError(f"Slurm does not run here: not so that {what}; {self.states()}; {self._last_words()}")
            time.sleep(0.1)

    def _last_words(self) -> str:
        texts = [path.read_text(errors="replace").strip() for path in sorted(self.folder.glob("*.out"))]
        return "; ".join(text.splitlines()[-1] for text in texts if text)


@contextmanager
def running_slurm():
    """A Slurm that is stopped at the end, with what still runs in it.

    Raises
    ------
    SlurmError
        Says what to install, or what a daemon said.
    """
    missing = [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]
    if missing:
        raise SlurmError(
            f"{', '.join(missing)} not found: apt-get install --no-install-recommends slurm-wlm slurmctld slurmd "
            "slurm-client munge"
        )
    # Not under pytest's own folder: a socket's path may have 107 bytes, and munged wants a folder that all may enter.
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        slurm = Slurm(folder)
        try:
            slurm.start()
            yield slurm
        finally:
            slurm.stop()


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def shared_memory(pid: int) -> set[Path]:
    """Files in memory that a process maps, its semaphores among them."""
    with suppress(OSError):
        return {Path(name) for name in re.findall(r"/dev/shm/\S+", Path(f"/proc/{pid}/maps").read_text())}
    return set()


def _kill(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
