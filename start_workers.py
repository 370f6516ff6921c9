"""Start a program as several workers, on this machine or over ssh on others, and end with it.

    python start_workers.py --workers 4 -- python run_pretraining.py --model_name base ...
    python start_workers.py --hosts one:8,two:8 -- python run_pretraining.py --model_name base ...

Worker 0 prints as if it were alone; the lines of the others begin with their number. What differs from
`horovodrun -np 4 [-H one:2,two:2]`: the exit code is that of the worker that failed first, which is named;
SIGTERM and Ctrl-C leave the workers the time that they need to save; workers end when this program is killed;
and of several machines each that does not answer is named, within a minute.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen

import child_processes
import rendezvous
from command_line import EXIT_FAILURE, EXIT_OTHER_FAILED, UsageError, parse, run_program
from configuration import StartWorkersConfig
from remote_hosts import LOST, RemoteHosts, RemoteWorker, parse_hosts

_POLL_SECONDS = 0.1
# What the others get to notice that one is lost, and then to end when told to.
_SECONDS_TO_TIDY_UP = 5
_SECONDS_TO_NOTICE = 10
_SECONDS_TO_END = 10
_SAME_SIGNAL_SECONDS = 2.0


def main() -> int:
    arguments, command = _split(sys.argv[1:])
    config = parse(StartWorkersConfig, arguments, description=__doc__)
    if not command:
        raise UsageError("no command: give it after --")
    if not config.hosts:
        return Job(partial(_start_here, config.workers, command)).run()
    with RemoteHosts(parse_hosts(config.hosts, config.workers), config.ssh_config) as hosts:
        return Job(partial(hosts.start, command)).run()


class Job:
    """The workers of a command, which start() starts."""

    def __init__(self, start: Callable[[], Iterable[Popen | RemoteWorker]]):
        self._start = start
        self._workers: list[Popen | RemoteWorker] = []
        self._signalled_at = 0.0

    def run(self) -> int:
        """Start all, wait for all; returns the exit code of the first that failed, else 0."""
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self._pass_on)
        try:
            for worker in self._start():
                self._workers.append(worker)
        except UsageError:
            self._send(signal.SIGKILL)
            raise
        if self._signalled_at:
            self._send(signal.SIGTERM)
        failed = self._wait_for_a_failure()
        if failed is None:
            return 0
        code = self._workers[failed].returncode
        # Workers that were told to stop save, and end alike; that takes as long as it takes.
        if self._signalled_at:
            self._wait(None)
        else:
            _say(f"error: worker {failed}{_place(self._workers[failed])} {_ending(code)}")
            self._wait(_SECONDS_TO_NOTICE)
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._send(number)
            self._wait(_SECONDS_TO_END)
        if code == LOST:
            return EXIT_FAILURE
        return code if code >= 0 else 128 - code

    def _wait_for_a_failure(self) -> int | None:
        while True:
            codes = [worker.poll() for worker in self._workers]
            failed = [rank for rank, code in enumerate(codes) if code]
            if failed:
                return self._cause(failed[0])
            if all(code == 0 for code in codes):
                return None
            time.sleep(_POLL_SECONDS)

    def _cause(self, first: int) -> int:
        """The worker whose failure was the first one's cause.

        Who misses another says so by its exit code, and may end before the other, which is still tidying up.
        """
        if self._workers[first].returncode == EXIT_OTHER_FAILED:
            self._wait(_SECONDS_TO_TIDY_UP)
        codes = [worker.poll() for worker in self._workers]
        causes = (rank for rank, code in enumerate(codes) if code not in (None, 0, EXIT_OTHER_FAILED))
        return next(causes, first)

    def _wait(self, seconds: float | None) -> None:
        end = None if seconds is None else time.monotonic() + seconds
        while any(worker.poll() is None for worker in self._workers):
            if end is not None and time.monotonic() > end:
                return
            time.sleep(_POLL_SECONDS)

    def _pass_on(self, number, frame) -> None:
        now = time.monotonic()
        if self._signalled_at and now - self._signalled_at < _SAME_SIGNAL_SECONDS:
            return
        self._signalled_at = now
        self._send(number)

    def _send(self, number: int) -> None:
        for worker in self._workers:
            if worker.poll() is None:
                worker.send_signal(number)


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in words:
        return words, []
    place = words.index("--")
    return words[:place], words[place + 1 :]


def _start_here(count: int, command: list[str]) -> Iterable[Popen]:
    slots = rendezvous.number_slots([("localhost", count)])
    port = rendezvous.serve(slots, "127.0.0.1")
    for slot in slots:
        is_first = slot.rank == 0
        own = rendezvous.variables(slot, "127.0.0.1", port) | {"HOROVOD_GLOO_IFACE": "lo"}
        try:
            worker = child_processes.start(
                command,
                os.environ | own,
                stdin=DEVNULL,
                stdout=None if is_first else PIPE,
                stderr=None if is_first else STDOUT,
            )
        except OSError as error:
            raise UsageError(f"{command[0]}: {error.strerror}") from None
        if not is_first:
            child_processes.copy_lines(worker.stdout, 2, b"[%d] " % slot.rank)
        yield worker


def _place(worker: Popen | RemoteWorker) -> str:
    return f" on {worker.host}" if isinstance(worker, RemoteWorker) else ""


def _ending(code: int) -> str:
    if code == LOST:
        return "is lost with its connection"
    if code >= 0:
        return f"ended with status {code}"
    return f"was killed by {signal.Signals(-code).name}"


def _say(message: str) -> None:
    os.write(2, f"{Path(sys.argv[0]).name}: {message}\n".encode())


if __name__ == "__main__":
    run_program(main)
