"""Start a program as several workers on this machine and end with it.

    python start_workers.py --workers 4 -- python run_pretraining.py --model_name base ...

Worker 0 prints as if it were alone; the lines of the others begin with their number. What differs from
`horovodrun -np 4`: the exit code is that of the worker that failed first, which is named; SIGTERM and Ctrl-C
leave the workers the time that they need to save; and workers end when this program is killed. For several
machines there is horovodrun -H.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import rendezvous
from command_line import EXIT_FAILURE, UsageError, parse, run_program
from configuration import StartWorkersConfig

_POLL_SECONDS = 0.1
# What the others get to notice that one is lost, and then to end when told to.
_SECONDS_TO_TIDY_UP = 5
_SECONDS_TO_NOTICE = 10
_SECONDS_TO_END = 10
_SAME_SIGNAL_SECONDS = 2.0
_PR_SET_PDEATHSIG = 1


def main() -> int:
    arguments, command = _split(sys.argv[1:])
    config = parse(StartWorkersConfig, arguments, description=__doc__)
    if not command:
        raise UsageError("no command: give it after --")
    return Job(config.workers, command).run()


class Job:
    """The workers of a command."""

    def __init__(self, workers: int, command: list[str]):
        self._slots = rendezvous.number_slots([("localhost", workers)])
        self._command = command
        self._workers: list[subprocess.Popen] = []
        self._signalled_at = 0.0

    def run(self) -> int:
        """Start all, wait for all; returns the exit code of the first that failed, else 0."""
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self._pass_on)
        port = rendezvous.serve(self._slots, "127.0.0.1")
        for slot in self._slots:
            self._start(slot, port)
        failed = self._wait_for_a_failure()
        if failed is None:
            return 0
        code = self._workers[failed].returncode
        # Workers that were told to stop save, and end alike; that takes as long as it takes.
        if self._signalled_at:
            self._wait(None)
        else:
            _say(f"error: worker {failed} {_ending(code)}")
            self._wait(_SECONDS_TO_NOTICE)
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._send(number)
            self._wait(_SECONDS_TO_END)
        return code if code >= 0 else 128 - code

    def _start(self, slot, port: int) -> None:
        environment = os.environ | rendezvous.variables(slot, "127.0.0.1", port)
        environment["HOROVOD_GLOO_IFACE"] = "lo"
        is_first = slot.rank == 0
        try:
            worker = subprocess.Popen(
                self._command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=None if is_first else subprocess.PIPE,
                stderr=None if is_first else subprocess.STDOUT,
                preexec_fn=_end_with_parent,
                # Ctrl-C at a terminal goes to this program alone, which passes it on once.
                process_group=0,
            )
        except OSError as error:
            self._send(signal.SIGKILL)
            raise UsageError(f"{self._command[0]}: {error.strerror}") from None
        self._workers.append(worker)
        if not is_first:
            threading.Thread(target=_copy_lines, args=(worker.stdout, slot.rank), daemon=True).start()

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

        Who misses another ends with 1, and may do so before the other, which is still tidying up.
        """
        if self._workers[first].returncode == EXIT_FAILURE:
            self._wait(_SECONDS_TO_TIDY_UP)
        codes = [worker.poll() for worker in self._workers]
        return next((rank for rank, code in enumerate(codes) if code not in (None, 0, EXIT_FAILURE)), first)

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


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _copy_lines(stream, rank: int) -> None:
    for line in stream:
        os.write(2, b"[%d] %s" % (rank, line))


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with status {code}"
    return f"was killed by {signal.Signals(-code).name}"


def _say(message: str) -> None:
    os.write(2, f"{Path(sys.argv[0]).name}: {message}\n".encode())


if __name__ == "__main__":
    run_program(main)
