"""A SLURM cluster of one node, on loopback, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")

CONF = """\
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/munge/socket
SlurmUser=root
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
SlurmdSpoolDir={root}/spool
StateSaveLocation={root}/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,batch_sched_delay=0
SlurmctldTimeout=30
KillWait=2
MinJobAge=300
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=60 State=UP
"""


def missing() -> str:
    """Return what a cluster would need and is not here; empty where all is."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed"
    return "" if os.geteuid() == 0 else "not root"


class Cluster:
    """The three daemons; `environment` is what the commands of SLURM need to find them."""

    def __init__(self) -> None:
        # Not below pytest's folder, which munge's user may not enter.
        self.root = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.root.chmod(0o755)
        self.environment = {
            "SLURM_CONF": str(self.root / "slurm.conf"),
            "MUNGE_SOCKET": str(self.root / "munge" / "socket"),
        }
        self._processes: list[subprocess.Popen] = []

    def start(self) -> None:
        """Start everything and wait until the node takes jobs; raises AssertionError if not."""
        munge = self.root / "munge"
        for folder in ("munge", "spool", "state"):
            (self.root / folder).mkdir()
        (munge / "key").write_bytes(secrets.token_bytes(1024))
        (munge / "key").chmod(0o400)
        for path in (munge, munge / "key"):
            shutil.chown(path, "munge", "munge")
        conf = CONF.format(
            host=socket.gethostname(),
            root=self.root,
            ports=[_free_port() for _ in range(2)],
            cpus=os.cpu_count(),
        )
        (self.root / "slurm.conf").write_text(conf)
        files = [f"--{kind}={munge / kind.partition('-')[0]}" for kind in ("key-file", "socket")]
        files += [f"--{name}-file={munge / name}" for name in ("pid", "log", "seed")]
        self._run("munged", "--foreground", *files, user="munge")
        _wait(lambda: (munge / "socket").exists(), self._told)
        self._run("slurmctld", "-D", "-i")
        self._run("slurmd", "-D")
        _wait(lambda: self.command("sinfo", "-h", "-o", "%T").strip() == "idle", self._told)

    def command(self, *words: str) -> str:
        """Run a command of SLURM and return what it printed."""
        environment = os.environ | self.environment
        return subprocess.run(
            words, env=environment, capture_output=True, text=True, check=False, timeout=30
        ).stdout

    def stop(self) -> None:
        """End the jobs and the daemons, and remove the folder."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.command("scancel", "--user", "root")
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            process.kill()
            process.wait()
        shutil.rmtree(self.root, ignore_errors=True)

    def _run(self, *words: str, user: str | None = None) -> None:
        with (self.root / f"{len(self._processes)}.txt").open("wb") as log:
            self._processes.append(
                subprocess.Popen(
                    words, env=os.environ | self.environment, stdout=log, stderr=log,
                    stdin=subprocess.DEVNULL, user=user, group=user,
                    extra_groups=[] if user else None,
                )
            )  # fmt: skip

    def _told(self) -> str:
        logs = [*self.root.glob("*.txt"), *self.root.glob("*.log"), *self.root.glob("munge/log")]
        return "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in logs)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _wait(condition, told) -> None:
    for _ in range(300):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(told())
