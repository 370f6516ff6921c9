"""Worker processes for preparing data: a pool that ends when its parent or one of its workers does."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from command_line import RunFailure, Terminated, UsageError

# Far longer than a pool needs to notice that its workers are gone.
_REMINDER_SECONDS = 2


class WorkerDied(RunFailure):
    """A worker process ended without a result: the system ended it, most often for want of memory."""


@contextlib.contextmanager
def worker_pool(
    count: int, initializer: Callable | None = None, initargs: tuple = ()
) -> Iterator[ProcessPoolExecutor]:
    """A pool of `count` processes; an error cancels what has not started, an interrupt or a mistake of the
    user's what runs, too.

    Args:
        initializer: called in each worker with `initargs` before its first task.

    Raises:
        WorkerDied: one of the processes.
    """
    pool = ProcessPoolExecutor(
        count,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_set_up_worker,
        initargs=(initializer, initargs),
    )
    broken = False
    with _Interrupts() as interrupts:
        try:
            # The first tasks start the workers.
            with interrupts.deferred():
                for _ in range(count):
                    pool.submit(os.getpid)
            yield pool
            # Here already, so that an interrupt ends workers that are still starting, too.
            pool.shutdown(cancel_futures=True)
        except BrokenProcessPool:
            _close_unread_pipe(pool)
            broken = True
        except (KeyboardInterrupt, Terminated, UsageError):
            _end_workers()
            _close_unread_pipe(pool)
            raise
        finally:
            pool.shutdown(cancel_futures=True)
    if broken:
        raise WorkerDied("a worker process died (out of memory?); run the command again to go on")


def _end_workers() -> None:
    """Results are complete or absent, so that nobody has to wait for the tasks that run."""
    for worker in multiprocessing.active_children():
        worker.terminate()


def _close_unread_pipe(pool: ProcessPoolExecutor) -> None:
    """Let a pool end whose workers are gone.

    Until Python 3.11.5 one that was sending them data waits for ever for the pipe to be read
    (github.com/python/cpython/issues/94777); it is closed here as newer versions do themselves.
    """
    if sys.version_info < (3, 11, 5):
        with contextlib.suppress(AttributeError, OSError):
            pool._call_queue._reader.close()


class _Interrupts:
    """SIGINT, SIGTERM and SIGUSR1 while a pool is there: its workers end, and so does waiting for one.

    The signal follows at the end, when the pool is gone. Raised at once, its exception could strike where the
    pool holds a lock that its own thread needs, and the program would wait for ever. A second signal, or the
    first one again after a while spent without the pool, is not held back.
    """

    def __init__(self):
        self._arrived: int | None = None
        self._deferring = False
        self._reminder: threading.Timer | None = None
        self._handlers: dict[int, Callable | int] = {}

    def __enter__(self) -> "_Interrupts":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            # What is ignored, as of a program in the background, stays so.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._handlers[number] = signal.signal(number, self._arrive)
        return self

    def __exit__(self, *exception) -> None:
        self._restore_handlers()
        if self._reminder is not None:
            self._reminder.cancel()
        # After an interrupt that got through there is nothing left to say.
        if self._arrived is not None and exception[0] not in (KeyboardInterrupt, Terminated):
            signal.raise_signal(self._arrived)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """While processes start, nothing is ended: one that is cut off from its parent would complain.

        Ctrl-C reaches the whole process group, but the parent alone decides what happens: its workers inherit
        that SIGINT is blocked. That alone does not make the parent wait: another thread may take the signal.
        """
        self._deferring = True
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            self._deferring = False
            if self._arrived is not None:
                self._act()

    def _arrive(self, number: int, frame) -> None:
        self._arrived = number
        if not self._deferring:
            self._act()

    def _act(self) -> None:
        self._restore_handlers()
        _end_workers()
        self._reminder = threading.Timer(_REMINDER_SECONDS, os.kill, (os.getpid(), self._arrived))
        self._reminder.daemon = True
        self._reminder.start()

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


def _set_up_worker(initializer: Callable | None, initargs: tuple) -> None:
    # Again, for a worker that the pool starts later than the first tasks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initializer is not None:
        initializer(*initargs)


def _end_with_parent() -> None:
    """A parent that is killed cannot stop its workers, and they would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)
