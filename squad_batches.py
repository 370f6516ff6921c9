"""Windows -> the batches of fine-tuning and of prediction: which windows, in which order, padded to what.

Batches hold windows of like length and are padded to the least of a few lengths ("buckets"), so that little
is computed for padding and no more shapes are compiled than there are buckets. Neither the loss nor an
answer depends on the padding.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from batching import BatchShape, ExampleOrder, UpdateData, data_update, prefetch
from command_line import UsageError
from keyed_random import Permutation, derive_key
from squad_features import Features

_LENGTHS = (64, 96, 128, 160, 192, 224, 256, 320, 384, 512, 768)
_MOST_BUCKETS = 8
# Updates whose windows are sorted by length together, and batches whose windows are while predicting: the
# more, the more alike are the lengths in a batch.
_SORTED_UPDATES = 32
_BLOCK_BATCHES = 64


def bucket_lengths(max_seq_length: int) -> tuple[int, ...]:
    """The lengths that windows are padded to, the shortest first: at most 8, the last max_seq_length."""
    shorter = [length for length in _LENGTHS if length < max_seq_length]
    return (*shorter[1 - _MOST_BUCKETS :], max_seq_length)


def bucketed_batches(
    lengths: np.ndarray, batch_size: int, buckets: Sequence[int]
) -> list[tuple[int, np.ndarray]]:
    """Divide windows into batches of like length, the longest first.

    Args:
        lengths: int [windows], tokens of each.
        buckets: the allowed lengths of a batch, ascending.

    Returns:
        (length, indices into `lengths`, int64 [batch_size]) of each batch. The last one, of the shortest
        windows, is filled up with its last window again and again: its results come more than once.

    Raises:
        ValueError: a window is longer than every bucket.
    """
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    batches = []
    for first in range(0, len(order), batch_size):
        indices = order[first : first + batch_size]
        indices = np.pad(indices, (0, batch_size - len(indices)), mode="edge")
        batches.append((_bucket(int(lengths[indices[0]]), buckets), indices))
    return batches


def prediction_blocks(features: Features, batch_size: int, workers: int = 1) -> list[range]:
    """The questions in blocks of consecutive ones that can be decoded when their windows are done.

    A block has at most some 64 batches, and there are enough blocks for all workers.
    """
    windows_each = -(-len(features) // (workers * batch_size)) * batch_size
    most = min(_BLOCK_BATCHES * batch_size, max(windows_each, batch_size))
    blocks, question = [], 0
    while question < features.num_questions:
        first = features.windows_of(question).start
        last = min(first + most, len(features)) - 1
        # Up to the question that the last of these windows belongs to, with all of that question's.
        blocks.append(range(question, int(features.question_of[last]) + 1))
        question = blocks[-1].stop
    return blocks


def block_batches(
    features: Features, questions: range, batch_size: int, buckets: Sequence[int]
) -> list[tuple[int, np.ndarray]]:
    """The batches of a block, as from `bucketed_batches`, with the numbers of windows in place of indices."""
    first = features.windows_of(questions.start).start
    lengths = features.lengths[first : features.windows_of(questions.stop - 1).stop]
    batches = bucketed_batches(lengths, batch_size, buckets)
    return [(length, first + indices) for length, indices in batches]


class TrainingWindows:
    """Gives the windows of any update of fine-tuning, as a function of the seed and the update alone.

    An epoch is a keyed permutation of the trainable windows. The windows of 32 updates at a time are sorted
    by length and cut into updates, which are then permuted; an update that an epoch's windows do not fill is
    filled with the first of the next epoch's order. So each window comes once an epoch, and neither the
    number of workers nor of micro-batches changes which windows an update has.

    Args:
        buckets: lengths to pad to, ascending; a micro-batch has the same on every worker.
        skipped: ranges of updates whose data is left out (batching.data_update).

    Raises:
        UsageError: no window can be trained on.
    """

    def __init__(
        self,
        features: Features,
        shape: BatchShape,
        *,
        seed: int,
        buckets: Sequence[int],
        skipped: Sequence[tuple[int, int]] = (),
    ):
        self._features, self._shape, self._buckets = features, shape, tuple(buckets)
        self._windows = np.flatnonzero(features.trainable)
        if not len(self._windows):
            reasons = ", ".join(sorted({reason for _, reason in features.unusable()}))
            raise UsageError(f"--train_file: none of its questions can be trained on: {reasons}")
        self._lengths = features.lengths[self._windows]
        self._order = ExampleOrder(len(self._windows), seed)
        self._key = derive_key(seed, "order of updates")
        self._skipped = list(skipped)

    def __len__(self) -> int:
        """Windows in an epoch."""
        return len(self._windows)

    def windows(self, number: int) -> np.ndarray:
        """The windows of update `number`, from 1, of all workers: int64 [global batch], shortest first."""
        size, epoch_size = self._shape.global_batch_size, len(self._windows)
        first = (data_update(number, self._skipped) - 1) * size
        pieces = []
        for epoch in range(first // epoch_size, (first + size - 1) // epoch_size + 1):
            begin = max(first, epoch * epoch_size)
            pieces.append(self._piece(epoch, begin, min(first + size, (epoch + 1) * epoch_size)))
        chosen = np.concatenate(pieces)
        return self._windows[self._by_length(chosen)]

    def update(self, number: int) -> UpdateData:
        """This worker's micro-batches of update `number`, from 1."""
        windows, shape = self.windows(number), self._shape
        stride = shape.sequences * shape.workers
        micro_batches, own = [], []
        for step, positions in enumerate(shape.positions(1)):
            longest = int(self._features.lengths[windows[step * stride : (step + 1) * stride]].max())
            own.append(windows[positions])
            micro_batches.append(self._features.batch(own[-1], _bucket(longest, self._buckets)))
        own = np.concatenate(own)
        return UpdateData(
            number=number,
            micro_batches=micro_batches,
            normalizers={"windows": np.float32(len(own))},
            sequences=len(own),
            tokens=int(self._features.lengths[own].sum()),
            origin=lambda: self.describe(own),
        )

    def from_update(self, first: int) -> Iterator[UpdateData]:
        """Updates from `first` on, made ahead by one thread."""
        return prefetch(self.update, first)

    def describe(self, windows: np.ndarray) -> str:
        """The ids of the questions that windows belong to, in one line."""
        questions = np.unique(self._features.question_of[windows])
        return "questions " + ", ".join(self._features.question(int(number)).id for number in questions)

    def _piece(self, epoch: int, begin: int, end: int) -> np.ndarray:
        """Indices into the trainable windows at positions begin to end, of one epoch and one update."""
        size = self._shape.global_batch_size
        epoch_begin = epoch * len(self._windows)
        # Whole updates lie between the one that began in the epoch before and the one that ends in the next.
        whole_begin = epoch_begin + -epoch_begin % size
        count = (epoch_begin + len(self._windows) - whole_begin) // size
        update = (begin - whole_begin) // size
        if not 0 <= update < count:
            return self._order(np.arange(begin, end))
        group = update - update % _SORTED_UPDATES
        count = min(_SORTED_UPDATES, count - group)
        positions = whole_begin + group * size + np.arange(count * size)
        windows = self._by_length(self._order(positions))
        key = derive_key(self._key, epoch, group)
        place = int(Permutation(count, key)(update - group))
        return windows[place * size : (place + 1) * size]

    def _by_length(self, indices: np.ndarray) -> np.ndarray:
        return indices[np.argsort(self._lengths[indices], kind="stable")]


def _bucket(length: int, buckets: Sequence[int]) -> int:
    for bucket in buckets:
        if bucket >= length:
            return bucket
    raise ValueError(f"a window of {length} tokens is longer than every bucket of {list(buckets)}")
