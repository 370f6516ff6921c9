"""A real Slurm of two nodes on one machine, for tests: daemons in a folder of their own, ended afterwards.

Both nodes are this machine under two names, with two processors each: a job of two nodes and two tasks on
each runs as on a cluster, but for the network between them.
"""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from training_runs import ROOT

_PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun")
_CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# A job that is queued again waits until the credentials of its last start are void (fewer seconds than 5
# are taken for the default, two minutes), then for the scheduler, by default up to another minute.
AuthInfo=socket={folder}/munge.socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
KillWait=20
JobRequeue=1
JobAcctGatherType=jobacct_gather/none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=1000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=1000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def need_slurm() -> None:
    """Skip where Slurm is not installed, or its daemons cannot run."""
    missing = [name for name in _PROGRAMS if not _program(name)]
    if missing:
        pytest.skip(f"no {', '.join(missing)} here (Debian: apt-get install slurm-wlm munge)")
    if os.geteuid() != 0:
        pytest.skip("slurmd starts the tasks of a job as root only")


class SlurmCluster:
    """The cluster, while it is up.

    Attributes:
        environment: what makes Slurm's commands talk to it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        for name in ("state", "spool.n1", "spool.n2"):
            (folder / name).mkdir(parents=True)
        folder.chmod(0o755)
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        host = socket.gethostname().split(".")[0]
        text = _CONFIGURATION.format(host=host, user="root", folder=folder, ports=_free_ports(3))
        (folder / "slurm.conf").write_text(text)
        self._daemons: list[subprocess.Popen] = []

    def __enter__(self) -> "SlurmCluster":
        places = {name: self.folder / f"munge.{name}" for name in ("socket", "pid", "log", "seed")}
        self._start("munged", "--foreground", "--force", f"--key-file={self.folder / 'munge.key'}",
            f"--socket={places['socket']}", f"--pid-file={places['pid']}",
            f"--log-file={places['log']}", f"--seed-file={places['seed']}")  # fmt: skip
        self.wait_for(places["socket"].exists)
        self._start("slurmctld", "-D")
        for node in ("n1", "n2"):
            self._start("slurmd", "-D", "-N", node)
        self.wait_for(lambda: self.run("sinfo", "-h", "-o", "%T %D", check=False).strip() == "idle 2")
        return self

    def __exit__(self, *_) -> None:
        if len(self._daemons) > 1:
            self.run("scancel", "--user=root", check=False)
            end = time.monotonic() + 40
            # What is left of a job would wait for the daemons for ever.
            while time.monotonic() < end and self.run("squeue", "-h", check=False):
                time.sleep(0.5)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def run(self, *command: str, check: bool = True, **variables: str) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(
            command, env=self.environment | variables, cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done.stdout

    def submit(self, *options: str, **variables: str) -> int:
        """Give run.sub to sbatch with these options of it and this environment; returns the job's number."""
        output = f"--output={self.folder}/job_%j.txt"
        words = ["sbatch", "--parsable", output, *options]
        return int(self.run(*words, **variables))

    def output(self, job: int) -> str:
        """All that a job has printed, whatever number of times it was started."""
        path = self.folder / f"job_{job}.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    def show(self, job: int) -> dict[str, str]:
        """What `scontrol show job` says."""
        words = self.run("scontrol", "-o", "show", "job", str(job)).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for(self, happened, job: int | None = None, seconds: float = 30) -> None:
        """Wait until happened() is true; what has been printed is shown where that does not come."""
        end = time.monotonic() + seconds
        while not happened():
            if time.monotonic() > end:
                logs = [path.read_text(errors="replace")[-1500:] for path in self.folder.glob("*.out")]
                pytest.fail(
                    "\n".join(logs) if job is None else f"{self.show(job)}\n{self.output(job)[-4000:]}"
                )
            time.sleep(0.2)

    def wait_for_output(self, job: int, text: str, seconds: float = 120) -> None:
        """Wait until a job has printed something."""
        self.wait_for(lambda: text in self.output(job), job, seconds)

    def wait_for_end(self, job: int, seconds: float = 600) -> str:
        """Wait for the last end of a job; returns its state, as COMPLETED."""
        going = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "SUSPENDED"}
        self.wait_for(lambda: self.show(job)["JobState"] not in going, job, seconds)
        return self.show(job)["JobState"]

    def wait_until_idle(self, seconds: float = 60) -> None:
        """Wait until no node has anything left of a job."""
        self.wait_for(lambda: self.run("sinfo", "-h", "-o", "%T").strip() == "idle", seconds=seconds)

    def _start(self, name: str, *arguments: str) -> None:
        log = open(self.folder / f"{name}.{len(self._daemons)}.out", "wb")  # noqa: SIM115 (the daemon's)
        command = [_program(name), *arguments]
        self._daemons.append(
            subprocess.Popen(command, env=self.environment, stdout=log, stderr=subprocess.STDOUT)
        )
        log.close()


def _program(name: str) -> str | None:
    # The daemons are where a user's PATH may not lead.
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
