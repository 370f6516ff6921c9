"""Sequences -> batches of like length: in which order, padded to what, for every fine-tuning.

Batches are padded to the least of a few lengths ("buckets"), so that little is computed for padding and no
more shapes are compiled than there are buckets. Neither a loss nor a prediction depends on the padding.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from batching import BatchShape, ExampleOrder, UpdateData, data_update, prefetch
from keyed_random import Permutation, derive_key

_LENGTHS = (64, 96, 128, 160, 192, 224, 256, 320, 384, 512, 768)
_MOST_BUCKETS = 8
# Updates whose sequences are sorted by length together: the more, the more alike are the lengths in a batch.
_SORTED_UPDATES = 32


def bucket_lengths(max_seq_length: int) -> tuple[int, ...]:
    """The lengths that sequences are padded to, the shortest first: at most 8, the last max_seq_length."""
    shorter = [length for length in _LENGTHS if length < max_seq_length]
    return (*shorter[1 - _MOST_BUCKETS :], max_seq_length)


def bucketed_batches(
    lengths: np.ndarray, batch_size: int, buckets: Sequence[int], *, filled: bool
) -> list[tuple[int, np.ndarray]]:
    """Divide sequences into batches of like length, the longest first.

    Args:
        lengths: int [sequences], tokens of each.
        buckets: the allowed lengths of a batch, ascending.
        filled: the last batch, of the shortest, is filled up with its last sequence again and again, whose
            results come more than once then: for XLA, which compiles each number of sequences by itself.

    Returns:
        (length, indices into `lengths`, int64) of each batch.

    Raises:
        ValueError: a sequence is longer than every bucket.
    """
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    batches = []
    for first in range(0, len(order), batch_size):
        indices = order[first : first + batch_size]
        if filled:
            indices = np.pad(indices, (0, batch_size - len(indices)), mode="edge")
        batches.append((_bucket(int(lengths[indices[0]]), buckets), indices))
    return batches


class Sequences(Protocol):
    """What a task's data must tell; sequences are numbered from 0.

    Attributes:
        lengths: int32 [sequences], tokens of each.
    """

    lengths: np.ndarray

    def batch(self, numbers: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """The arrays of some sequences, padded to `length`, by name."""

    def normalizers(self, numbers: np.ndarray) -> Mapping[str, np.float32]:
        """The counts that the loss of these sequences is divided by, by name."""

    def describe(self, numbers: np.ndarray) -> str:
        """Where these sequences came from, in one line."""


class TrainingOrder:
    """Gives the sequences of any update of fine-tuning, as a function of the seed and the update alone.

    An epoch is a keyed permutation of the sequences. Those of 32 updates at a time are sorted by length and
    cut into updates, which are then permuted; an update that an epoch's sequences do not fill is filled with
    the first of the next epoch's order. So each sequence comes once an epoch, and neither the number of
    workers nor of micro-batches changes which sequences an update has.

    Args:
        chosen: int64, the numbers of the sequences to train on; at least one.
        buckets: lengths to pad to, ascending; a micro-batch has the same on every worker.
        skipped: ranges of updates whose data is left out (batching.data_update).
    """

    def __init__(
        self,
        data: Sequences,
        chosen: np.ndarray,
        shape: BatchShape,
        *,
        seed: int,
        buckets: Sequence[int],
        skipped: Sequence[tuple[int, int]] = (),
    ):
        self._data, self._chosen, self._shape = data, chosen, shape
        self._buckets = tuple(buckets)
        self._lengths = data.lengths[chosen]
        self._order = ExampleOrder(len(chosen), seed)
        self._key = derive_key(seed, "order of updates")
        self._skipped = list(skipped)

    def __len__(self) -> int:
        """Sequences in an epoch."""
        return len(self._chosen)

    def sequences(self, number: int) -> np.ndarray:
        """Those of update `number`, from 1, of all workers: int64 [global batch], shortest first."""
        size, epoch_size = self._shape.global_batch_size, len(self._chosen)
        first = (data_update(number, self._skipped) - 1) * size
        pieces = []
        for epoch in range(first // epoch_size, (first + size - 1) // epoch_size + 1):
            begin = max(first, epoch * epoch_size)
            pieces.append(self._piece(epoch, begin, min(first + size, (epoch + 1) * epoch_size)))
        return self._chosen[self._by_length(np.concatenate(pieces))]

    def update(self, number: int) -> UpdateData:
        """This worker's micro-batches of update `number`, from 1."""
        numbers, shape = self.sequences(number), self._shape
        stride = shape.sequences * shape.workers
        micro_batches, own = [], []
        for step, positions in enumerate(shape.positions(1)):
            longest = int(self._data.lengths[numbers[step * stride : (step + 1) * stride]].max())
            own.append(numbers[positions])
            micro_batches.append(self._data.batch(own[-1], _bucket(longest, self._buckets)))
        own = np.concatenate(own)
        return UpdateData(
            number=number,
            micro_batches=micro_batches,
            normalizers=dict(self._data.normalizers(own)),
            sequences=len(own),
            tokens=int(self._data.lengths[own].sum()),
            origin=lambda: self._data.describe(own),
        )

    def from_update(self, first: int) -> Iterator[UpdateData]:
        """Updates from `first` on, made ahead by one thread."""
        return prefetch(self.update, first)

    def _piece(self, epoch: int, begin: int, end: int) -> np.ndarray:
        """Indices into the chosen sequences at positions begin to end, of one epoch and one update."""
        size = self._shape.global_batch_size
        epoch_begin = epoch * len(self._chosen)
        # Whole updates lie between the one that began in the epoch before and the one that ends in the next.
        whole_begin = epoch_begin + -epoch_begin % size
        count = (epoch_begin + len(self._chosen) - whole_begin) // size
        update = (begin - whole_begin) // size
        if not 0 <= update < count:
            return self._order(np.arange(begin, end))
        group = update - update % _SORTED_UPDATES
        count = min(_SORTED_UPDATES, count - group)
        positions = whole_begin + group * size + np.arange(count * size)
        ordered = self._by_length(self._order(positions))
        key = derive_key(self._key, epoch, group)
        place = int(Permutation(count, key)(update - group))
        return ordered[place * size : (place + 1) * size]

    def _by_length(self, indices: np.ndarray) -> np.ndarray:
        return indices[np.argsort(self._lengths[indices], kind="stable")]


def _bucket(length: int, buckets: Sequence[int]) -> int:
    for bucket in buckets:
        if bucket >= length:
            return bucket
    raise ValueError(f"a sequence of {length} tokens is longer than every bucket of {list(buckets)}")
