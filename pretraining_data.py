"""Shards -> the batches of pre-training and of its held-out evaluation, read, checked and masked."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from batching import BatchShape, ExampleOrder, UpdateData, data_update, prefetch
from command_line import UsageError
from example_parsing import parse_examples
from masking import MaskingRule, mask_batch, mask_keys
from tfrecords import TOKEN_COUNTS_NAME, CorruptShard, Shards, read_array
from tokenization import Vocabulary

# Held-out text is masked alike in every run, so that runs compare.
_HELD_OUT_SEED = 20_200_323
_UNIGRAM_SAMPLE = 20_000


class PretrainingData:
    """Gives the data of any update."""

    def __init__(
        self,
        shards: Shards,
        order: ExampleOrder,
        shape: BatchShape,
        rule: MaskingRule,
        *,
        max_seq_length: int,
        vocabulary_size: int,
        seed: int,
        skipped: list[tuple[int, int]],
    ):
        self._shards, self._order, self._shape, self._rule = shards, order, shape, rule
        self._max_seq_length, self._vocabulary_size = max_seq_length, vocabulary_size
        self._seed = seed
        self._skipped = skipped

    def update(self, number: int) -> UpdateData:
        """The micro-batches of update `number`, from 1, masked.

        Raises:
            CorruptShard: a damaged record, one of another length, or ids outside the vocabulary.
        """
        positions = self._shape.positions(data_update(number, self._skipped))
        micro_batches = [self._micro_batch(part) for part in positions]
        picks = sum(batch["masked_lm_weights"].sum(dtype=np.float64) for batch in micro_batches)
        tokens = sum(int(batch["input_mask"].sum()) for batch in micro_batches)
        return UpdateData(
            number=number,
            micro_batches=micro_batches,
            normalizers={"picks": np.float32(picks), "tokens": np.float32(tokens)},
            sequences=self._shape.sequences * self._shape.accumulation_steps,
            tokens=tokens,
            origin=lambda: self.describe(number),
        )

    @property
    def examples_per_sequence(self) -> float:
        """Examples in a sequence on average."""
        return 1.0

    def examples_seen(self, updates: int) -> int:
        """How many examples the first `updates` updates read, on all workers."""
        return updates * self._shape.global_batch_size

    def examples(self, number: int) -> list[list[tuple[str, int]]]:
        """(shard, record) of the examples in each sequence of an update, in order."""
        sequences = np.concatenate(self._shape.positions(data_update(number, self._skipped)))
        return [
            [self._shards.locate(int(example)) for example in self._order(positions)]
            for positions in self._example_positions(sequences)
        ]

    def describe(self, number: int) -> str:
        """The shards and records of an update, in one line."""
        records: dict[str, list[int]] = {}
        for shard, record in itertools.chain.from_iterable(self.examples(number)):
            records.setdefault(shard, []).append(record)
        return "; ".join(
            f"{shard} records {', '.join(map(str, sorted(numbers)))}" for shard, numbers in records.items()
        )

    def from_update(self, first: int) -> Iterator[UpdateData]:
        """Updates from `first` on, read ahead by one thread."""
        return prefetch(self.update, first)

    def _example_positions(self, sequences: np.ndarray) -> Iterable[np.ndarray]:
        """The positions of the examples in each of some sequences."""
        return sequences[:, None]

    def _micro_batch(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        examples = read_examples(
            self._shards, self._order(positions), self._max_seq_length, self._vocabulary_size
        )
        return mask_batch(examples, mask_keys(self._seed, positions), self._rule)


class HeldOutData:
    """The batches of a held-out set, in the order of the files, always masked the same way.

    Args:
        rule: with the 15 % of every held-out evaluation.
        unigram_log_probabilities: float64 [vocabulary], for the unigram cross-entropy.
        most_batches: evaluate no more than these; 0 is all.
    """

    def __init__(
        self,
        shards: Shards,
        rule: MaskingRule,
        *,
        max_seq_length: int,
        batch_size: int,
        most_batches: int,
        unigram_log_probabilities: np.ndarray,
    ):
        self._shards, self._rule = shards, rule
        self._max_seq_length, self._batch_size = max_seq_length, batch_size
        self._unigram_log_probabilities = unigram_log_probabilities
        batches = -(-len(shards) // batch_size)
        self.batches = min(batches, most_batches) if most_batches else batches

    def sequences(self, batches: int) -> int:
        """How many sequences the first `batches` batches hold."""
        return min(batches * self._batch_size, len(self._shards))

    def batch(self, number: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Batch `number`, from 0, filled up with empty sequences.

        Returns:
            The batch, and the unigram loss of each sequence's [MASK] tokens, float64 [batch].
        """
        first = number * self._batch_size
        positions = np.arange(first, min(first + self._batch_size, len(self._shards)))
        vocabulary_size = len(self._unigram_log_probabilities)
        examples = read_examples(self._shards, positions, self._max_seq_length, vocabulary_size)
        missing = self._batch_size - len(positions)
        examples = {name: np.pad(values, [(0, missing), (0, 0)]) for name, values in examples.items()}
        keys = mask_keys(_HELD_OUT_SEED, np.arange(first, first + self._batch_size))
        batch = mask_batch(examples, keys, self._rule)
        losses = -self._unigram_log_probabilities[batch["masked_lm_ids"]]
        # Where nothing is picked an id stands that has no frequency, and an infinite loss.
        return batch, np.where(batch["masked_lm_is_mask"] > 0, losses, 0.0).sum(axis=1)


def read_examples(
    shards: Shards, examples: np.ndarray, max_seq_length: int, vocabulary_size: int
) -> dict[str, np.ndarray]:
    """Read and check examples: int32 [count, max_seq_length] by feature.

    Raises:
        CorruptShard: names the shard and record that is damaged or does not fit the run.
    """
    payloads = [shards.read(int(example)) for example in examples]
    try:
        arrays = parse_examples(payloads, max_seq_length)
    except ValueError:
        for example, payload in zip(examples, payloads, strict=True):
            try:
                parse_examples([payload], max_seq_length)
            except ValueError as error:
                shard, record = shards.locate(int(example))
                raise CorruptShard(
                    f"--max_seq_length {max_seq_length}: record {record} of {shard} does not fit ({error})"
                ) from None
        raise
    wrong = ((arrays["input_ids"] < 0) | (arrays["input_ids"] >= vocabulary_size)).any(axis=1)
    if wrong.any():
        shard, record = shards.locate(int(examples[np.argmax(wrong)]))
        raise CorruptShard(
            f"--vocab_file: record {record} of {shard} has ids outside a vocabulary of {vocabulary_size}"
        )
    return arrays


def has_token_counts(shards: Shards) -> bool:
    """Whether every folder of the shards has its token counts, so that no example need be read for them."""
    return all(path.exists() for path in _token_count_paths(shards))


def unigram_entropy(log_probabilities: np.ndarray) -> float:
    """Entropy in nats: the masked-LM loss of a model that knows how frequent each token is, and no more."""
    possible = log_probabilities[np.isfinite(log_probabilities)]
    return float(-(np.exp(possible) * possible).sum())


def unigram_log_probabilities(shards: Shards, vocabulary: Vocabulary, max_seq_length: int) -> np.ndarray:
    """Log frequency of each token in the training data, add-one smoothed: float64 [vocabulary].

    Counted from the token counts beside the shards, else from the first 20,000 examples. Tokens that are
    never picked have no share.

    Raises:
        UsageError: the counts beside the shards are damaged, or another vocabulary's.
    """
    counts = np.zeros(vocabulary.size, np.float64)
    if has_token_counts(shards):
        for path in _token_count_paths(shards):
            recorded = read_array(path)
            if recorded is None or recorded.shape != counts.shape or recorded.dtype.kind not in "iu":
                raise UsageError(
                    f"--pretrain_tfrecords: {path} holds no counts of {vocabulary.size} tokens; delete it to "
                    "have them counted"
                )
            counts += recorded
    else:
        for first in range(0, min(len(shards), _UNIGRAM_SAMPLE), 1000):
            sample = np.arange(first, min(first + 1000, len(shards)))
            arrays = read_examples(shards, sample, max_seq_length, vocabulary.size)
            counts += np.bincount(arrays["input_ids"][arrays["input_mask"] > 0], minlength=vocabulary.size)
    counts += 1
    counts[[vocabulary.pad_id, vocabulary.cls_id, vocabulary.sep_id, vocabulary.mask_id]] = 0
    with np.errstate(divide="ignore"):
        return np.log(counts / counts.sum())


def _token_count_paths(shards: Shards) -> set[Path]:
    return {Path(path).parent / TOKEN_COUNTS_NAME for path in shards.paths}
