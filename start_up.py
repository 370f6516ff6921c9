"""How long a run takes until it trains: seconds from the start of its process."""

import os
import time
from pathlib import Path

# Where the start time of proc_pid_stat(5) stands, counted from what follows the name of the program.
_START_FIELD = 22 - 3


def seconds_since_process_start() -> float:
    """Seconds that this process has existed, to a hundredth."""
    # The name may hold spaces and parentheses.
    fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    started = int(fields[_START_FIELD]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


class StartUp:
    """The start of a run: made when all modules are imported, told of each finished update.

    The first run of a process counts from the start of the process, another one from where it is made.
    """

    _has_run = False

    def __init__(self):
        age = seconds_since_process_start()
        self._import_seconds = 0.0 if StartUp._has_run else age
        self._origin = time.monotonic() - self._import_seconds
        self._first_update_seconds: float | None = None
        StartUp._has_run = True

    def update_done(self) -> None:
        """An update is finished; only the first counts."""
        if self._first_update_seconds is None:
            self._first_update_seconds = time.monotonic() - self._origin

    def seconds(self) -> dict[str, float]:
        """import_seconds and first_update_seconds, as far as they are known."""
        known = {"import_seconds": self._import_seconds}
        if self._first_update_seconds is not None:
            known["first_update_seconds"] = self._first_update_seconds
        return known
