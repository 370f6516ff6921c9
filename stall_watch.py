"""Ends a worker that waits for ever: a thread that sees to it that the run makes progress.

Where one worker hangs, all wait for it. When half of the allowed time has passed, each that can still do so
writes what it is waiting for into a folder that all share; when all of it has, each names those that wrote
nothing, or do something else than wait, and ends. Nothing is written while a run makes progress.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import files
from command_line import EXIT_FAILURE

# What a worker does in an update is computing or waiting for the others; from outside the two look alike.
WAITING = "computing or waiting for the others"


class StallWatch:
    """Watches one worker of several.

    Args:
        folder: shared by the workers.
        rank, size: this worker and how many there are.
        timeout: seconds that may pass without progress.
    """

    def __init__(self, folder: str | Path, rank: int, size: int, timeout: float):
        self._folder, self._rank, self._size, self._timeout = Path(folder), rank, size, timeout
        self._activity, self._since = "starting", time.monotonic()
        # A file of an earlier run that ended so would be taken for a sign of life.
        self._told = size > 1
        self._retract()
        self._stopped = threading.Event()
        if size > 1:
            threading.Thread(target=self._watch, name="stall watch", daemon=True).start()

    @contextlib.contextmanager
    def doing(self, activity: str) -> Iterator[None]:
        """Say what the time is spent on; progress is made when it begins and when it ends."""
        before = self._activity
        self._activity, self._since = activity, time.monotonic()
        try:
            yield
        finally:
            self._activity, self._since = before, time.monotonic()

    def make_progress(self) -> None:
        """Say that what is being done goes on, where it takes long."""
        self._since = time.monotonic()

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped.set()
        self._retract()

    def _watch(self) -> None:
        pause = min(1.0, self._timeout / 20)
        while not self._stopped.wait(pause):
            waited = time.monotonic() - self._since
            if waited < self._timeout / 2:
                self._retract()
            elif waited < self._timeout:
                self._tell()
            else:
                self._end()

    def _tell(self) -> None:
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            files.write_text(self._own_file(), self._activity)
            self._told = True

    def _retract(self) -> None:
        if self._told:
            self._own_file().unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self._folder.rmdir()
            self._told = False

    def _end(self) -> None:
        self._tell()
        others = [rank for rank in range(self._size) if rank != self._rank]
        found = {rank: self._read(rank) for rank in others}
        guilty = [f"worker {rank} {state}" for rank, state in found.items() if state != f"is {WAITING}"]
        own = f"worker {self._rank} has been {self._activity} for {self._timeout:g} s (--stall_timeout)"
        program = Path(sys.argv[0]).name
        line = f"{program}: error: {own}; {', '.join(guilty) or 'so have the others'}\n"
        os.write(2, line.encode("utf-8"))
        # What hangs would hang the interpreter's own end as well.
        os._exit(EXIT_FAILURE)

    def _read(self, rank: int) -> str:
        try:
            return f"is {(self._folder / str(rank)).read_text(encoding='utf-8')}"
        except OSError:
            return "gives no sign of life"

    def _own_file(self) -> Path:
        return self._folder / str(self._rank)
