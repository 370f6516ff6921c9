"""The units of a step: independent of each other, each done once, whatever is interrupted.

A unit writes its result, complete or absent, and returns a record of it. The record is kept as
<folder>/.units/<name>.json and comes after the result, so that a unit with a record is done: a step that was
killed goes on with the units that have none. Where units run is for executors.py, what they do for the
steps that have them.
"""

import concurrent.futures
import contextlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

import files
from command_line import UsageError
from data.executors import Backend
from worker_processes import WorkerDied

UNITS_FOLDER = ".units"
ATTEMPTS = 3
# Of workers, one after another without a unit done in between: what ails them is none of the units.
_MOST_DEATHS = 4 * ATTEMPTS


@dataclass(frozen=True)
class Unit:
    """A piece of a step's work.

    Attributes:
        name: of its own within the step, and fit for a file's name.
        result: path of its result within the step's folder.
        arguments: what the step's function takes beside the result's path.
        weight: its share of the work, for the progress bar.
    """

    name: str
    result: str
    arguments: tuple
    weight: int = 1


def record_path(folder: Path, unit: Unit) -> Path:
    return folder / UNITS_FOLDER / f"{unit.name}.json"


def is_done(folder: Path, unit: Unit) -> bool:
    """Whether a unit has its record, and its result has not been taken away."""
    return record_path(folder, unit).exists() and (folder / unit.result).exists()


def weight_left(units: Sequence[Unit], folder: Path) -> int:
    """The weight of the units that are not done."""
    return sum(unit.weight for unit in units if not is_done(folder, unit))


def read_records(folder: Path, units: Sequence[Unit]) -> Iterator[tuple[Unit, dict]]:
    """The units that are done and their records, in the order of the units."""
    for unit in units:
        with contextlib.suppress(FileNotFoundError):
            yield unit, files.read_json(record_path(folder, unit))


def run_units(
    units: Sequence[Unit],
    function: Callable[..., dict],
    folder: Path,
    backend: Backend,
    description: str,
    scale: bool = False,
) -> dict[str, str]:
    """Have every unit done that is not done yet: `function(result path, *arguments)` gives its record.

    A unit that fails is tried again at the end, `ATTEMPTS` times in all. Where a worker dies, those that were
    running are tried one at a time, so that only the one that it died of is counted.

    Args:
        scale: whether weights are bytes.

    Returns:
        What went wrong with the units that have been set aside, by name.

    Raises:
        UsageError: a unit met a mistake of the user's; nothing else is tried then.
        OSError: the disk is full.
        RunFailure: workers die whatever they do.
    """
    for written in {folder / UNITS_FOLDER} | {(folder / unit.result).parent for unit in units}:
        written.mkdir(parents=True, exist_ok=True)
        files.remove_leftovers(written)
    waiting = [unit for unit in units if not is_done(folder, unit)]
    if not waiting:
        return {}
    run = _Run(function, folder.resolve(), backend)
    weight = sum(unit.weight for unit in units)
    done = weight - sum(unit.weight for unit in waiting)
    with tqdm(
        total=weight,
        initial=done,
        desc=description,
        unit="B" if scale else "unit",
        unit_scale=scale,
        disable=None,
    ) as bar:
        run.run(waiting, bar)
    return run.set_aside


class _Run:
    """The units of a step on their way, over as many pools of workers as it takes."""

    def __init__(self, function: Callable[..., dict], folder: Path, backend: Backend):
        self.set_aside: dict[str, str] = {}
        self._function, self._folder, self._backend = function, folder, backend
        self._failures: Counter[str] = Counter()
        self._running: dict[Future, Unit] = {}
        self._deaths = 0
        self._suspects: deque[Unit] = deque()

    def run(self, units: Sequence[Unit], bar: tqdm) -> None:
        queue = deque(units)
        while queue or self._suspects:
            try:
                with self._backend.open(self._folder) as pool:
                    self._drive(pool, self._suspects, 1, bar)
                    self._drive(pool, queue, None, bar)
            except WorkerDied as error:
                lost = list(self._running.values())
                self._running.clear()
                self._deaths += 1
                if not lost or self._deaths >= _MOST_DEATHS:
                    raise
                if len(lost) == 1:
                    self._count_failure(lost[0], error, self._suspects, bar)
                else:
                    self._suspects.extend(lost)

    def _drive(
        self, pool: concurrent.futures.Executor, queue: deque[Unit], limit: int | None, bar: tqdm
    ) -> None:
        while queue or self._running:
            # Twice as many as there are workers, so that none waits for the next one.
            while queue and len(self._running) < (limit or 2 * self._backend.count()):
                # A pool that is broken refuses it: then it is still the first in the queue.
                self._running[pool.submit(run_unit, self._function, str(self._folder), queue[0])] = queue[0]
                queue.popleft()
            finished, _ = concurrent.futures.wait(
                self._running, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in finished:
                error = future.exception()
                if isinstance(error, BrokenExecutor):
                    raise error
                unit = self._running.pop(future)
                if error is None:
                    self._deaths = 0
                    bar.update(unit.weight)
                elif isinstance(error, UsageError) or _is_full_disk(error):
                    raise error
                elif limit is None and self._backend.has_given_up(error):
                    self._suspects.append(unit)
                else:
                    self._backend.check(self._folder)
                    self._count_failure(unit, error, queue, bar)

    def _count_failure(self, unit: Unit, error: BaseException, queue: deque[Unit], bar: tqdm) -> None:
        self._failures[unit.name] += 1
        words = " ".join(f"{type(error).__name__}: {error}".split())
        if isinstance(error, MemoryError):
            words = f"{words} it takes more memory than a process may have (--max_memory_gb)"
        if self._failures[unit.name] < ATTEMPTS and not self._backend.has_given_up(error):
            tqdm.write(f"{unit.name}: failed ({words}); it will be tried again")
            queue.append(unit)
        else:
            tqdm.write(f"{unit.name}: set aside ({words})")
            self.set_aside[unit.name] = words
            bar.update(unit.weight)


def run_unit(function: Callable[..., dict], folder: str, unit: Unit) -> None:
    """In a worker: a unit's result, then its record."""
    # Each worker has one core; the threads that tokenizers and rensa start of their own would only compete.
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    path = Path(folder)
    record = function(path / unit.result, *unit.arguments)
    files.write_json(record_path(path, unit), record)


def _is_full_disk(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in files.FULL_DISK
