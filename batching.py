"""What the data of an update is: in which order, how divided among micro-batches and workers, read ahead.

The example at position p of the endless sequence of epochs is known without looking at any other position
(ExampleOrder), so the place in the data is the update number: nothing needs saving, and any number of
workers reads the same sequences.
"""

import functools
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from keyed_random import Permutation, derive_key

_PREFETCHED_UPDATES = 2
# Positions whose examples are found together: in small batches NumPy's calls cost fifty times the work.
# Packed rows take positions from all over a window of packing.py's, so as many are kept as make two of those.
_WINDOW = 4096
_KEPT_WINDOWS = 32


@dataclass
class UpdateData:
    """The data of one update of one worker.

    Attributes:
        number: the update, from 1.
        micro_batches: arrays by name, one dictionary for each micro-batch.
        normalizers: float32 counts over the whole update that the losses are divided by.
        sequences, tokens: real ones, padding not counted.
        origin: says where the data came from, for an error message; called only then.
    """

    number: int
    micro_batches: list[dict[str, np.ndarray]]
    normalizers: dict[str, np.float32]
    sequences: int
    tokens: int
    origin: Callable[[], str]


class ExampleOrder:
    """Which example stands at a position: every example once an epoch, in an order of the epoch's own.

    Args:
        examples: number of examples.
        seed: the run's seed.
        block_size: shuffle blocks of so many neighbours, and the examples inside each; 1 shuffles freely.
    """

    def __init__(self, examples: int, seed: int, block_size: int = 1):
        self._examples = examples
        self._key = derive_key(seed, "example order")
        self._block_size = min(block_size, examples)
        # No window holds more than two epochs.
        self._window_size = min(_WINDOW, examples)
        self._window = functools.lru_cache(_KEPT_WINDOWS)(self._find_window)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Examples at positions 0, 1, 2, …, the epochs one after the other: int64 in and out, [count]."""
        positions = np.asarray(positions, np.int64)
        if len(positions) > self._window_size:
            return self._find(positions)
        windows, places = np.divmod(positions, self._window_size)
        examples = np.empty_like(places)
        for window in np.unique(windows):
            chosen = windows == window
            examples[chosen] = self._window(int(window))[places[chosen]]
        return examples

    def _find_window(self, window: int) -> np.ndarray:
        return self._find(window * self._window_size + np.arange(self._window_size))

    def _find(self, positions: np.ndarray) -> np.ndarray:
        epochs, places = np.divmod(positions, self._examples)
        examples = np.empty_like(places)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            examples[chosen] = self._in_epoch(places[chosen], int(epoch))
        return examples

    def _in_epoch(self, places: np.ndarray, epoch: int) -> np.ndarray:
        key = derive_key(self._key, epoch)
        if self._block_size == 1:
            return Permutation(self._examples, key)(places)
        # The examples are turned by a random amount first, so that those after the last whole block, which
        # come at the end of the epoch, are others each time.
        turn = derive_key(key, "turn") % self._examples
        size = self._block_size
        blocks = self._examples // size
        in_blocks = places < blocks * size
        turned = np.empty_like(places)
        block = Permutation(blocks, derive_key(key, "blocks"))(np.minimum(places // size, blocks - 1))
        inside = np.empty_like(places)
        for number in np.unique(block[in_blocks]):
            chosen = in_blocks & (block == number)
            inside[chosen] = Permutation(size, derive_key(key, "block", int(number)))(places[chosen] % size)
        turned[in_blocks] = (block * size + inside)[in_blocks]
        rest = self._examples - blocks * size
        if rest:
            tail = ~in_blocks
            turned[tail] = blocks * size + Permutation(rest, derive_key(key, "rest"))(
                places[tail] - blocks * size
            )
        return (turned + turn) % self._examples


def data_update(update: int, skipped: list[tuple[int, int]]) -> int:
    """Whose data an update uses when ranges of updates are left out: the later ones move up.

    Args:
        update: number from 1. skipped: ranges (first, last), each in the numbering that the ranges before
            it had left.
    """
    for first, last in reversed(skipped):
        if update >= first:
            update += last - first + 1
    return update


@dataclass(frozen=True)
class BatchShape:
    """How an update's sequences are divided: micro-batches, workers, sequences."""

    sequences: int
    accumulation_steps: int
    workers: int = 1
    rank: int = 0

    @property
    def global_batch_size(self) -> int:
        return self.sequences * self.accumulation_steps * self.workers

    def positions(self, update: int) -> list[np.ndarray]:
        """Positions of this worker's sequences in each micro-batch of an update (from 1)."""
        first = (update - 1) * self.global_batch_size + self.rank * self.sequences
        stride = self.sequences * self.workers
        return [first + step * stride + np.arange(self.sequences) for step in range(self.accumulation_steps)]


def prefetch(make: Callable[[int], UpdateData], first: int) -> Iterator[UpdateData]:
    """make(first), make(first + 1), … computed ahead by one thread; its errors are raised here."""
    ready: queue.Queue = queue.Queue(_PREFETCHED_UPDATES)
    closed = threading.Event()

    def work():
        number = first
        while not closed.is_set():
            try:
                item = make(number)
            except Exception as error:
                item = error
            while not closed.is_set():
                try:
                    ready.put(item, timeout=0.2)
                    break
                except queue.Full:
                    continue
            if isinstance(item, Exception):
                return
            number += 1

    threading.Thread(target=work, name="prefetch", daemon=True).start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        closed.set()
