"""Starting real jobs of several workers, and reaching one of their processes."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_runs import ROOT, Runs

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def need_horovod() -> None:
    """Skip where Horovod is not installed, as on Python 3.13 or without a compiler."""
    pytest.importorskip("horovod", reason="no Horovod here (scripts/install.sh --horovod)")


def as_workers(count: int, command: list[str]) -> list[str]:
    """The command that starts another one as several workers."""
    return [sys.executable, str(ROOT / "start_workers.py"), "--workers", str(count), "--", *command]


class Job:
    """A job that is running: its launcher's process, what it prints, and its workers."""

    def __init__(self, workers: int, command: list[str], output: Path):
        self._output = output
        self.started = time.monotonic()
        with open(output, "wb") as stream:
            self.process = subprocess.Popen(
                as_workers(workers, command),
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )

    @property
    def text(self) -> str:
        return self._output.read_text(errors="replace")

    def workers(self) -> dict[int, int]:
        """Process of each worker that runs, by rank."""
        pid = self.process.pid
        found = {}
        for thread in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in thread.read_text().split():
                try:
                    environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
                except OSError:
                    continue  # it has just ended
                ranks = [word for word in environment if word.startswith(b"HOROVOD_RANK=")]
                if ranks:
                    found[int(ranks[0].split(b"=")[1])] = int(child)
        return found

    def wait_for(self, happened, seconds: float = 120) -> None:
        """Wait until happened() is true of the running job."""
        end = time.monotonic() + seconds
        while not happened():
            assert self.process.poll() is None, self.text[-3000:]
            assert time.monotonic() < end, self.text[-3000:]
            time.sleep(0.002)

    def signal(self, rank: int, number: int) -> None:
        os.kill(self.workers()[rank], number)

    def end(self, seconds: float = 60) -> int:
        """Wait for the end of the job and of all its processes; returns the exit code."""
        pids = self.workers().values() if self.process.poll() is None else []
        code = self.process.wait(timeout=seconds)
        assert not [pid for pid in pids if _runs(pid)]
        return code

    def wait_until_gone(self, pids, seconds: float) -> None:
        """Wait for the end of processes that are not this one's children."""
        end = time.monotonic() + seconds
        while any(_runs(pid) for pid in pids):
            assert time.monotonic() < end, self.text[-3000:]
            time.sleep(0.1)

    def limit_file_size(self, rank: int, most: int) -> None:
        """No file that this worker writes may be larger, as where a disk is full."""
        resource.prlimit(self.workers()[rank], resource.RLIMIT_FSIZE, (most, most))

    def last_lines(self, count: int = 40) -> str:
        return "\n".join(self.text.splitlines()[-count:])

    def close(self) -> None:
        """Kill whatever is left."""
        for pid in [*self.workers().values(), self.process.pid] if self.process.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()


class WorkerRuns:
    """Pre-training runs by several workers."""

    def __init__(self, runs: Runs, folder: Path):
        self.runs, self._folder = runs, folder
        self.jobs: list[Job] = []

    def start(self, name: str, workers: int, *flags: str, **settings) -> Job:
        command = self.runs.command(name, *flags, **settings)
        job = Job(workers, command, self._folder / f"{name}_{len(self.jobs)}.txt")
        self.jobs.append(job)
        return job

    def run(self, name: str, workers: int, *flags: str, expect: int = 0, **settings) -> Job:
        """Run to the end; the exit code must be the expected one."""
        job = self.start(name, workers, *flags, **settings)
        assert job.end(300) == expect, job.text[-3000:]
        return job


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
