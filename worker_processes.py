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

from command_line import RunFailure, Terminated


class WorkerDied(RunFailure):
    """A worker process ended without a result: the system ended it, most often for want of memory."""


@contextlib.contextmanager
def worker_pool(
    count: int, initializer: Callable | None = None, initargs: tuple = ()
) -> Iterator[ProcessPoolExecutor]:
    """A pool of `count` processes; an error cancels what has not started, an interrupt what runs, too.

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
    try:
        # The first tasks start the workers.
        with _signals_deferred():
            for _ in range(count):
                pool.submit(os.getpid)
        yield pool
        # Here already, so that an interrupt ends workers that are still starting, too.
        pool.shutdown(cancel_futures=True)
    except BrokenProcessPool:
        _close_unread_pipe(pool)
        raise WorkerDied("a worker process died (out of memory?); run the command again to go on") from None
    except (KeyboardInterrupt, Terminated):
        # Results are complete or absent, so that nobody has to wait for the tasks that run.
        for worker in multiprocessing.active_children():
            worker.terminate()
        _close_unread_pipe(pool)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _close_unread_pipe(pool: ProcessPoolExecutor) -> None:
    """Let a pool end whose workers are gone.

    Until Python 3.11.5 one that was sending them data waits for ever for the pipe to be read
    (github.com/python/cpython/issues/94777); it is closed here as newer versions do themselves.
    """
    if sys.version_info < (3, 11, 5):
        with contextlib.suppress(AttributeError, OSError):
            pool._call_queue._reader.close()


@contextlib.contextmanager
def _signals_deferred() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait while processes start: one that is cut off from its parent would complain.

    Ctrl-C reaches the whole process group, but the parent alone decides what happens: its workers inherit
    that SIGINT is blocked. That alone does not make the parent wait: another thread may take the signal.
    """
    arrived = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = {
        number: signal.signal(number, lambda number, frame: arrived.append(number)) for number in numbers
    }
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for number in arrived:
        signal.raise_signal(number)


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
