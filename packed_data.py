"""Shards -> the batches of packed pre-training: several examples in a sequence, each for itself.

An example is masked as it would be unpacked, by the key of its own position in the order of examples, and
then put into its row: so picks and samples do not depend on what it is packed with. Which examples share a
row is packing.py's.
"""

from collections.abc import Callable, Sequence

import numpy as np

from batching import BatchShape, ExampleOrder
from masking import MaskingRule
from packing import PackedOrder, picks_in_row
from pretraining_data import PretrainingData
from tfrecords import CorruptShard, Shards, lengths_path

_OF_TOKENS = ("input_ids", "input_mask", "segment_ids", "masked_input_ids")
_OF_PICKS = ("masked_lm_weights", "masked_lm_is_mask", "sample_uniforms")


class PackedData(PretrainingData):
    """Gives the data of any update; its sequences are rows of packed examples.

    Args:
        lengths: tokens of each example (example_lengths.py).
        make_progress: called for each window that is packed.
    """

    def __init__(
        self,
        shards: Shards,
        order: ExampleOrder,
        shape: BatchShape,
        rule: MaskingRule,
        lengths: np.ndarray,
        *,
        max_seq_length: int,
        seed: int,
        make_progress: Callable[[], None] = lambda: None,
        **settings,
    ):
        super().__init__(shards, order, shape, rule, max_seq_length=max_seq_length, seed=seed, **settings)
        self._lengths = lengths
        self._rows = PackedOrder(order, lengths, max_seq_length, seed, make_progress=make_progress)
        self._picks = picks_in_row(rule.mask_prob, max_seq_length)

    @property
    def examples_per_sequence(self) -> float:
        """Examples in a sequence on average, by the first of them."""
        return self._rows.examples_per_row()

    def examples_seen(self, updates: int) -> int:
        """How many examples the first `updates` updates read, on all workers."""
        return self._rows.examples_before(super().examples_seen(updates))

    def _example_positions(self, sequences: np.ndarray) -> list[np.ndarray]:
        return self._rows(sequences)

    def _micro_batch(self, sequences: np.ndarray) -> dict[str, np.ndarray]:
        rows = self._rows(sequences)
        positions = np.concatenate(rows)
        masked = super()._micro_batch(positions)
        self._check_lengths(masked, self._order(positions))
        return pack_batch(masked, [len(row) for row in rows], self._picks)

    def _check_lengths(self, masked: dict[str, np.ndarray], examples: np.ndarray) -> None:
        wrong = masked["input_mask"].sum(axis=1) != self._lengths[examples]
        if wrong.any():
            shard, record = self._shards.locate(int(examples[np.argmax(wrong)]))
            raise CorruptShard(
                f"--pack_sequences: record {record} of {shard} is not as long as {lengths_path(shard).name} "
                "beside it says; delete that file"
            )


def pack_batch(masked: dict[str, np.ndarray], counts: Sequence[int], picks: int) -> dict[str, np.ndarray]:
    """Put masked examples into rows, one after another, their padding left out and their picks joined.

    Two rows of room 6 from three examples, `a b`, `c d e` and `f g h i`, with counts [2, 1]:

        input_ids         a b c d e -   f g h i - -
        example_numbers   1 1 2 2 2 0   1 1 1 1 0 0
        position_ids      0 1 0 1 2 0   0 1 2 3 0 0

    Args:
        masked: what masking.mask_batch returns for the examples, row by row; [examples, length].
        counts: examples in each row, at least one.
        picks: places for picks in a row, as many as its examples have at least (packing.picks_in_row).

    Returns:
        The same features, [rows, length] and [rows, picks], and int32 [rows, length]:
        example_numbers: 1, 2, … by example within the row, 0 for padding.
        position_ids: a token's place in its example, 0 for padding.
    """
    is_token, is_pick = masked["input_mask"] > 0, masked["masked_lm_weights"] > 0
    counts = np.asarray(counts)
    row_of = np.repeat(np.arange(len(counts)), counts)
    firsts = np.cumsum(counts) - counts
    lengths = is_token.sum(axis=1)
    begins = np.cumsum(lengths) - lengths
    begins -= begins[firsts][row_of]
    shape = (len(counts), is_token.shape[1])

    examples, places = np.nonzero(is_token)
    target = row_of[examples], begins[examples] + places
    packed = {name: _placed(masked[name][is_token], target, shape) for name in _OF_TOKENS}
    numbers = np.arange(len(row_of)) - firsts[row_of] + 1
    packed["example_numbers"] = _placed(numbers[examples].astype(np.int32), target, shape)
    packed["position_ids"] = _placed(places.astype(np.int32), target, shape)

    examples, _ = np.nonzero(is_pick)
    rows = row_of[examples]
    in_row = np.bincount(rows, minlength=len(counts))
    target = rows, np.arange(len(rows)) - (np.cumsum(in_row) - in_row)[rows]
    shape = (len(counts), picks)
    positions = (masked["masked_lm_positions"][is_pick] + begins[examples]).astype(np.int32)
    packed["masked_lm_positions"] = _placed(positions, target, shape)
    packed["masked_lm_ids"] = np.take_along_axis(packed["input_ids"], packed["masked_lm_positions"], axis=1)
    return packed | {name: _placed(masked[name][is_pick], target, shape) for name in _OF_PICKS}


def _placed(values: np.ndarray, target: tuple[np.ndarray, np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """An array of zeros but for these values at these places."""
    array = np.zeros(shape, values.dtype)
    array[target] = values
    return array
