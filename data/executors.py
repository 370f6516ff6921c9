"""Where units run: processes of this machine, or the workers of a Dask cluster.

Both are seen through the interface of concurrent.futures alone, so that no step knows which one it has. A
cluster's workers must see this repository and the working folder at the same paths.
"""

import contextlib
import resource
import uuid
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Protocol

import files
from command_line import RunFailure, UsageError
from worker_processes import worker_pool

_GIGABYTE = 10**9
_CONNECT_SECONDS = 30


class Backend(Protocol):
    """Backend that a step may use."""

    def open(self, folder: Path) -> contextlib.AbstractContextManager[Executor]:
        """Start or find the workers, for results in a folder.

        Raises:
            WorkerDied: within the context, as soon as the executor reports that it is broken.
        """

    def count(self) -> int:
        """How many there are now, one at least."""

    def has_given_up(self, error: BaseException) -> bool:
        """Whether a unit that ended so has been tried often enough elsewhere already."""


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

    def has_given_up(self, error: BaseException) -> bool:
        return False


class DaskBackend:
    """The workers of a Dask scheduler.

    Args:
        address: such as tcp://host:8786.
    """

    def __init__(self, address: str):
        self._address = address
        self._client = None

    @contextlib.contextmanager
    def open(self, folder: Path) -> Iterator[Executor]:
        """As `Backend.open`.

        Raises:
            UsageError: there is no scheduler, it has no workers, or one of them does not see what it has to.
        """
        # Here, because a pool of processes needs no Dask.
        import distributed

        try:
            self._client = distributed.Client(
                self._address, timeout=_CONNECT_SECONDS, set_as_default=False, direct_to_workers=False
            )
        except (OSError, ValueError) as error:
            raise UsageError(f"--dask_scheduler {self._address}: cannot be reached ({error})") from None
        with self._client:
            try:
                self._client.wait_for_workers(1, timeout=_CONNECT_SECONDS)
            except TimeoutError:
                raise UsageError(f"--dask_scheduler {self._address}: has no workers") from None
            self._check_workers(folder)
            executor = self._client.get_executor(pure=False)
            try:
                yield executor
            finally:
                executor.shutdown(wait=False)

    def count(self) -> int:
        threads = self._client.nthreads() if self._client else {}
        return max(1, sum(threads.values()))

    def has_given_up(self, error: BaseException) -> bool:
        # Dask itself has moved it from worker to worker, and each of them died.
        import distributed

        return isinstance(error, distributed.KilledWorker)

    def _check_workers(self, folder: Path) -> None:
        """Have each worker read a file in the folder, by this module as it finds it."""
        token = uuid.uuid4().hex
        path = folder / ".seen_by_workers"
        files.write_text(path, token)
        try:
            answers = self._client.run(_read_token, str(path), on_error="return")
        finally:
            path.unlink(missing_ok=True)
        for worker, answer in answers.items():
            if isinstance(answer, ModuleNotFoundError):
                raise UsageError(
                    f"--dask_scheduler {self._address}: worker {worker} does not find the module "
                    f"{answer.name}: start workers in the repository with PYTHONPATH set to it"
                )
            if answer != token:
                raise UsageError(
                    f"--dask_scheduler {self._address}: worker {worker} does not see {folder}: workers need "
                    "the same file system"
                )


def _set_up_process(max_memory: int) -> None:
    if max_memory:
        # Anonymous memory: files that are mapped do not count, as they need not stay in memory.
        resource.setrlimit(resource.RLIMIT_DATA, (max_memory, max_memory))


def _read_token(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return None


def backend_of(processes: int, max_memory_gb: float, dask_scheduler: str | None) -> Backend:
    """The workers that a program's settings ask for.

    Raises:
        RunFailure: Dask is asked for and not installed.
    """
    if dask_scheduler is None:
        return LocalBackend(processes, max_memory_gb)
    try:
        import distributed  # noqa: F401
    except ModuleNotFoundError:
        raise RunFailure(
            "--dask_scheduler: needs the package distributed (bash scripts/install.sh)"
        ) from None
    return DaskBackend(dask_scheduler)
