"""SQuAD's windows -> the batches of fine-tuning and of prediction.

The order and the padding are those of length_batches.py. Here is which windows can be trained on, and which
questions are predicted together, so that each can be decoded when its windows are done.
"""

from collections.abc import Sequence

import numpy as np

from batching import BatchShape
from command_line import UsageError
from length_batches import TrainingOrder, bucketed_batches
from squad_features import Features

# Batches whose windows are sorted by length together: the more, the more alike are the lengths in a batch.
_BLOCK_BATCHES = 64


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
    features: Features, questions: range, batch_size: int, buckets: Sequence[int], *, filled: bool
) -> list[tuple[int, np.ndarray]]:
    """The batches of a block, as from `bucketed_batches`, with the numbers of windows in place of indices."""
    first = features.windows_of(questions.start).start
    lengths = features.lengths[first : features.windows_of(questions.stop - 1).stop]
    batches = bucketed_batches(lengths, batch_size, buckets, filled=filled)
    return [(length, first + indices) for length, indices in batches]


def training_windows(
    features: Features,
    shape: BatchShape,
    *,
    seed: int,
    buckets: Sequence[int],
    skipped: Sequence[tuple[int, int]] = (),
) -> TrainingOrder:
    """The order of the windows that can be trained on.

    Raises:
        UsageError: there is none.
    """
    windows = np.flatnonzero(features.trainable)
    if not len(windows):
        reasons = ", ".join(sorted({reason for _, reason in features.unusable()}))
        raise UsageError(f"--train_file: none of its questions can be trained on: {reasons}")
    return TrainingOrder(features, windows, shape, seed=seed, buckets=buckets, skipped=skipped)
