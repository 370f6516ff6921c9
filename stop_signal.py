"""Signals that end a training: remembered, so that it stops between two updates and saves."""

import os
import signal
import time

from command_line import EXIT_INTERRUPTED, EXIT_TERMINATED
from workers import Workers


class EvaluationStopped(Exception):
    """A signal came while a training evaluated: what it has computed of that is given up, and it saves."""


class StopSignal:
    """Remembers SIGTERM, SIGUSR1 and Ctrl-C, so that the loop can stop and save.

    SIGUSR1 is what Slurm can send ahead of a time limit, and what srun hands to its tasks. The SIGTERM of the
    limit itself only reminds then: a long update may still be saved before SIGKILL follows. A second SIGTERM
    or Ctrl-C kills. Batch systems and `timeout` signal the whole process group, and a launcher in it passes
    the signal on, so what comes within two seconds of the first is taken for the same.
    """

    _SAME_SIGNAL_SECONDS = 2.0

    def __init__(self):
        self.exit_code = 0
        self._told_at: float | None = None
        numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
        self._handlers_before = {number: signal.signal(number, self._remember) for number in numbers}

    def release(self) -> None:
        """Leave the signals to whoever had them before, unless one has come: it may come a second time."""
        if not self.exit_code:
            for number, handler in self._handlers_before.items():
                signal.signal(number, handler)

    def end_evaluation(self) -> None:
        """To be called now and then by an evaluation in the middle of a training.

        Raises:
            EvaluationStopped: a signal has come.
        """
        if self.exit_code:
            raise EvaluationStopped

    def agree(self, workers: Workers) -> None:
        """Take a signal to any of the workers for one to all of them; `or` keeps one that comes meanwhile."""
        self.exit_code = max(workers.gather(self.exit_code)) or self.exit_code

    def _remember(self, number, frame):
        self.exit_code = self.exit_code or (EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_TERMINATED)
        if number == signal.SIGUSR1:
            return
        now = time.monotonic()
        if self._told_at is None:
            self._told_at = now
        elif now - self._told_at > self._SAME_SIGNAL_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
