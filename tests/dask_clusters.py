"""A Dask scheduler and its workers on this machine, for tests: processes of their own, ended afterwards."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_runs import ROOT

# Of the project and of the tests, whose functions are units.
PYTHONPATH = f"{ROOT}:{ROOT / 'tests'}"


class DaskCluster:
    """The cluster, while it is up.

    Args:
        folder: for what it needs; it is made.
        count: workers, of one thread each.
        pythonpath: where the scheduler finds modules.
        nannies: whether a worker that dies is started again.

    Attributes:
        address: the scheduler's.
        scheduler, workers: the processes; a nanny's, where there are nannies.
    """

    def __init__(self, folder: Path, count: int, nannies: bool = False, pythonpath: str = PYTHONPATH):
        pytest.importorskip("distributed")
        folder.mkdir(parents=True)
        self.folder, self._count, self._nannies, self._pythonpath = folder, count, nannies, pythonpath
        self.workers: list[subprocess.Popen] = []

    def __enter__(self) -> "DaskCluster":
        place = self.folder / "scheduler.json"
        self.scheduler = self._start(
            "distributed.cli.dask_scheduler",
            "--host=127.0.0.1",
            "--port=0",
            f"--scheduler-file={place}",
            pythonpath=self._pythonpath,
        )
        end = time.monotonic() + 60
        while not (place.exists() and place.stat().st_size):
            assert time.monotonic() < end and self.scheduler.poll() is None, self.log()
            time.sleep(0.05)
        self.address = json.loads(place.read_text())["address"]
        for _ in range(self._count):
            self.start_worker()
        return self

    def __exit__(self, *_) -> None:
        for process in [*self.workers, self.scheduler]:
            # With its group: a nanny's worker outlives a nanny that is killed for a while.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def start_worker(self, pythonpath: str = PYTHONPATH, *command: str) -> subprocess.Popen:
        """Start another worker.

        Args:
            command: what runs it, before the interpreter.
        """
        self.workers.append(
            self._start(
                "distributed.cli.dask_worker",
                self.address,
                "--nthreads=1",
                f"--local-directory={self.folder}",
                "--nanny" if self._nannies else "--no-nanny",
                pythonpath=pythonpath,
                command=command,
            )
        )
        return self.workers[-1]

    def log(self) -> str:
        """All that its processes have printed."""
        return (self.folder / "log.txt").read_text(errors="replace")

    def _start(self, module: str, *arguments: str, pythonpath: str, command: tuple = ()) -> subprocess.Popen:
        with open(self.folder / "log.txt", "ab") as log:
            return subprocess.Popen(
                [*command, sys.executable, "-m", module, *arguments, "--dashboard-address=127.0.0.1:0"],
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": pythonpath},
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
