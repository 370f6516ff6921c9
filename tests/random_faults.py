"""A run of several workers that is hit by one fault after another, at random, and must not lose anything.

    python tests/random_faults.py --faults 100 --seed 1

Not itself a test, as it takes most of an hour. It draws a moment, a worker or the launcher, and a signal;
waits for the end of all processes; starts the run again from its newest checkpoint; and in the end compares
the weights with those of a run that was left alone. Prints a table by kind of fault, and as its last line

    100 faults: 100 ended right, 0 lost work, 0 hung; the weights are equal
"""

import argparse
import collections
import random
import re
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from electra_cases import write_language
from training_runs import Runs
from worker_jobs import Job, WorkerRuns

STALL_SECONDS = 15
# What a job may take to end: a minute, and where a worker hangs the time after which that is noticed, which
# Horovod's own limits double for a worker that hangs before it has met the others.
END_SECONDS = {True: 2 * STALL_SECONDS + 60, False: 60}
RUN = {
    "num_train_steps": 3000,
    "save_checkpoints_steps": 25,
    "log_freq": 5,
    "train_batch_size": 2,
    "stall_timeout": STALL_SECONDS,
}
# Kind, whom it hits, signal, how often of a hundred.
FAULTS = [
    ("worker killed", "worker", signal.SIGKILL, 50),
    ("worker told to stop", "worker", signal.SIGTERM, 20),
    ("worker stopped", "worker", signal.SIGSTOP, 10),
    ("launcher killed", "launcher", signal.SIGKILL, 10),
    ("launcher told to stop", "launcher", signal.SIGTERM, 10),
]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1, help="of the faults (default 1)")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_language(Path(folder) / "corpus")
        runs = Runs(Path(folder) / "results", Path(folder) / "corpus")
        return Soak(WorkerRuns(runs, Path(folder)), arguments).run()


class Soak:
    """The faults of one call, and what came of them."""

    def __init__(self, workers: WorkerRuns, arguments):
        self._workers, self._runs = workers, workers.runs
        self._count, self._workers_of_a_job = arguments.faults, arguments.workers
        self._random = random.Random(arguments.seed)
        self._seconds = collections.defaultdict(list)
        self._to_first_update: list[float] = []
        self._lost = self._hung = self._differ = 0
        self._names = 0

    def run(self) -> int:
        started = time.monotonic()
        job = self._workers.run("left_alone", self._workers_of_a_job, "--deterministic", **RUN)
        print(f"left alone: {time.monotonic() - started:.0f} s", flush=True)
        expected = self._runs.weights("left_alone", f"ckpt-{RUN['num_train_steps']}")
        name, before, done = self._next_name(), None, 0
        while done < self._count:
            job = self._start(name)
            kind, moment = self._draw(), self._random.uniform(0, 25)
            ended = self._wait(job, moment)
            self._check_start(job, before)
            if ended:
                self._compare(name, expected)
                name, before = self._next_name(), None
                continue
            seconds = self._hit(job, name, kind)
            before = self._newest(name)
            done += 1
            print(
                f"{done}: {kind[0]} after {moment:.1f} s, gone in {seconds:.1f} s, ckpt-{before}", flush=True
            )
        job = self._start(name)
        job.end(600)
        self._check_start(job, before)
        self._compare(name, expected)
        return self._report()

    def _start(self, name: str) -> Job:
        flags = ("--deterministic", "--restore_checkpoint")
        return self._workers.start(name, self._workers_of_a_job, *flags, **RUN)

    def _draw(self) -> tuple:
        return self._random.choices(FAULTS, weights=[share for *_, share in FAULTS])[0]

    def _wait(self, job: Job, moment: float) -> bool:
        """Until the moment, counted from the start; returns whether the run has ended before."""
        measured = False
        while time.monotonic() < job.started + moment or not job.workers():
            if job.process.poll() is not None:
                assert job.process.returncode == 0, job.text[-3000:]
                return True
            if not measured and "\nStep:" in job.text:
                measured = True
                self._to_first_update.append(time.monotonic() - job.started)
            time.sleep(0.02)
        return False

    def _hit(self, job: Job, name: str, kind: tuple) -> float:
        """Send the signal; returns the seconds until nothing of the job was left."""
        what, whom, number, _ = kind
        workers = job.workers()
        at = time.monotonic()
        newest = self._newest(name)
        if whom == "launcher":
            job.process.send_signal(number)
        else:
            job.signal(self._random.choice(sorted(workers)), number)
        try:
            job.process.wait(END_SECONDS[number == signal.SIGSTOP])
            job.wait_until_gone(workers.values(), 60)
        except Exception as error:
            self._hung += 1
            print(f"HUNG: {what}: {error}\n{job.text[-3000:]}", flush=True)
            job.close()
        # A job that was nearly through may end before the signal takes effect.
        if job.process.returncode == 0 and newest != RUN["num_train_steps"] - RUN["save_checkpoints_steps"]:
            print(f"ended with 0 after {what}\n{job.text[-2000:]}", flush=True)
            self._lost += 1
        if (self._newest(name) or 0) < (newest or 0):
            self._lost += 1
            print(f"LOST: {what}: ckpt-{newest} is gone", flush=True)
        seconds = time.monotonic() - at
        self._seconds[what].append(seconds)
        return seconds

    def _newest(self, name: str) -> int | None:
        numbers = [int(found.split("-")[1]) for found in self._runs.checkpoints(name)]
        return max(numbers, default=None)

    def _check_start(self, job: Job, newest: int | None) -> None:
        """A start that came so far as to say where it goes on from must have taken the newest checkpoint."""
        said = re.search(r"going on from \S*ckpt-(\d+)", job.text)
        if said and int(said[1]) != newest:
            self._lost += 1
            print(f"LOST: goes on from ckpt-{said[1]}, and ckpt-{newest} was there", flush=True)

    def _compare(self, name: str, expected: dict) -> None:
        found = self._runs.weights(name, f"ckpt-{RUN['num_train_steps']}")
        equal = found.keys() == expected.keys()
        equal = equal and all(np.array_equal(found[key], value) for key, value in expected.items())
        self._differ += not equal
        print(f"{name} is through: the weights are {'equal' if equal else 'NOT EQUAL'}", flush=True)

    def _next_name(self) -> str:
        self._names += 1
        return f"hit_{self._names}"

    def _report(self) -> int:
        print("\nfault                    times   seconds until all was gone, median and most")
        for what, *_ in FAULTS:
            seconds = self._seconds[what]
            if seconds:
                print(f"{what:24s} {len(seconds):5d}   {statistics.median(seconds):.1f} {max(seconds):.1f}")
        if self._to_first_update:
            median = statistics.median(self._to_first_update)
            print(f"from a start to its first line of the log: median {median:.1f} s")
        right = self._count - self._lost - self._hung
        weights = "NOT equal" if self._differ else "equal"
        print(
            f"{self._count} faults: {right} ended right, {self._lost} lost work, {self._hung} hung; "
            f"the weights are {weights}"
        )
        return int(bool(self._lost or self._hung or self._differ))


if __name__ == "__main__":
    sys.exit(main())
