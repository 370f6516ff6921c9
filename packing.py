"""Which examples share a sequence: every example once an epoch, in an order that follows from (seed, epoch).

Each epoch's order of examples (batching.ExampleOrder) is cut into windows, and the examples of a window are
packed into rows that are as long as a sequence at most. The rows of all windows stand one after the other, so
the place in the data is a row's number: nothing needs saving, and any number of workers sees the same rows.
What a row is made of is packed_data.py's.
"""

import bisect
import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from batching import ExampleOrder
from keyed_random import Permutation, derive_key

# Wide enough that rows are full whatever the lengths, and packed in a tenth of a second.
_WINDOW = 1 << 16
_KEPT_WINDOWS = 4


def most_examples(length: int) -> int:
    """Examples that share a row of so many tokens at most: bounded, so that the number of picks is."""
    return max(16, length // 16)


def pack(lengths: np.ndarray, room: int, most: int) -> np.ndarray:
    """Pack items into rows, the longest first, each where it leaves the least room (best fit decreasing).

    Items of one length are placed together, so the time is that of the distinct lengths.

    Args:
        lengths: int [count], 1 to `room` each.
        room: what the lengths of a row add up to at most.
        most: items in a row at most.

    Returns:
        int64 [count]: the row of each item, from 0 and without a gap.
    """
    lengths = np.asarray(lengths, np.int64)
    rows = np.empty(len(lengths), np.int64)
    held = np.zeros(len(lengths), np.int64)
    with_space = [np.zeros(0, np.int64)] * (room + 1)
    opened = 0
    order = np.argsort(-lengths, kind="stable")
    borders = np.flatnonzero(np.diff(lengths[order])) + 1
    for items in np.split(order, borders) if len(order) else []:
        length = int(lengths[items[0]])
        while len(items):
            space = next((space for space in range(length, room + 1) if len(with_space[space])), None)
            if space is None:
                space, new = room, -(-len(items) // min(room // length, most))
                with_space[room] = np.arange(opened, opened + new)
                opened += new
            chosen, with_space[space] = np.split(with_space[space], [len(items)])
            rows[items[: len(chosen)]] = chosen
            items = items[len(chosen) :]
            held[chosen] += 1
            chosen = chosen[held[chosen] < most]
            with_space[space - length] = np.concatenate((with_space[space - length], chosen))
    return rows


def picks_in_row(mask_prob: float, length: int) -> int:
    """Picks that a row of examples has room for, so that none of an example's own is lost.

    An example of n tokens has round(n * mask_prob) picks, or 1 (masking.py): more than n * mask_prob by at
    most 1/2, or by 1 - 3 * mask_prob for the shortest example that has a token to pick, [CLS] x [SEP].
    """
    return min(length, int(mask_prob * length + most_examples(length) * max(0.5, 1 - 3 * mask_prob)))


class PackedOrder:
    """Which examples stand in a row, the rows of all epochs numbered from 0.

    A window's rows are known once those before it have been packed, about a million examples a second: a run
    that goes on packs those that it has passed again.

    Args:
        order: of the examples.
        lengths: tokens of each example, in the order of the shards; none over `room`.
        room: tokens in a row.
        seed: the run's seed.
        window: examples that are packed together, about.
        make_progress: called for each window that is packed.
    """

    def __init__(
        self,
        order: ExampleOrder,
        lengths: np.ndarray,
        room: int,
        seed: int,
        *,
        window: int = _WINDOW,
        make_progress: Callable[[], None] = lambda: None,
    ):
        self._make_progress = make_progress
        self._order, self._lengths, self._room = order, lengths, room
        self._key = derive_key(seed, "packed rows")
        self._windows_of_epoch = max(1, round(len(lengths) / window))
        # Of each window packed so far the number of its first row, and of the window after it.
        self._first_rows = [0]
        self._kept: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        # The thread that reads ahead asks for rows, the loop for how many examples were seen.
        self._lock = threading.Lock()

    def __call__(self, numbers: np.ndarray) -> list[np.ndarray]:
        """Positions, in the order of examples, of those in each of some rows: int64 [examples] each."""
        return [self._row(int(number)) for number in numbers]

    def examples_before(self, row: int) -> int:
        """How many examples the rows before a row hold."""
        with self._lock:
            window = self._window_of(row)
            _, starts = self._packed(window)
            return self._first_position(window) + int(starts[row - self._first_rows[window]])

    def examples_per_row(self) -> float:
        """Examples in a row on average, by the first window."""
        with self._lock:
            positions, starts = self._packed(0)
        return len(positions) / (len(starts) - 1)

    def _row(self, number: int) -> np.ndarray:
        with self._lock:
            window = self._window_of(number)
            positions, starts = self._packed(window)
            place = number - self._first_rows[window]
            return positions[starts[place] : starts[place + 1]]

    def _window_of(self, row: int) -> int:
        while self._first_rows[-1] <= row:
            window = len(self._first_rows) - 1
            _, starts = self._packed(window)
            self._first_rows.append(self._first_rows[-1] + len(starts) - 1)
        return bisect.bisect_right(self._first_rows, row) - 1

    def _first_position(self, window: int) -> int:
        epoch, part = divmod(window, self._windows_of_epoch)
        return epoch * len(self._lengths) + part * len(self._lengths) // self._windows_of_epoch

    def _packed(self, window: int) -> tuple[np.ndarray, np.ndarray]:
        """The positions of a window's examples, row by row; where in them each row starts, and the end."""
        if window not in self._kept:
            self._make_progress()
            first = self._first_position(window)
            lengths = self._lengths[self._order(np.arange(first, self._first_position(window + 1)))]
            rows = pack(lengths, self._room, most_examples(self._room))
            count = int(rows.max()) + 1
            rows = Permutation(count, derive_key(self._key, window))(rows)
            positions = first + np.argsort(rows, kind="stable")
            starts = np.concatenate(([0], np.cumsum(np.bincount(rows, minlength=count))))
            self._kept[window] = (positions, starts)
            while len(self._kept) > _KEPT_WINDOWS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(window)
        return self._kept[window]
