"""What a manifest says of its examples as a whole: tokens, shares and the histogram of lengths.

Everything follows from two arrays that add up over any division of the examples into units: the occurrences
of each piece, and the examples by length.
"""

import base64
import zlib
from dataclasses import dataclass

import numpy as np

LENGTH_BIN_WIDTH = 16


def length_counts(lengths: np.ndarray, max_seq_length: int) -> np.ndarray:
    """Examples by length: int64 [bins], bin i holding the lengths 16 i + 1 to 16 i + 16.

    Args:
        lengths: tokens of each example, special tokens included and padding not; 1 to `max_seq_length`.
    """
    bins = (np.asarray(lengths, np.int64) - 1) // LENGTH_BIN_WIDTH
    return np.bincount(bins, minlength=-(-max_seq_length // LENGTH_BIN_WIDTH)).astype(np.int64)


def summarize(
    token_counts: np.ndarray, counts_by_length: np.ndarray, unk_id: int, max_seq_length: int
) -> dict:
    """The manifest's entries: examples, tokens, padding_share, unknown_share, length_histogram.

    Args:
        token_counts: occurrences of each piece, int64 [vocabulary]; special tokens included, padding not.
        counts_by_length: sum of the units' `length_counts`.
    """
    examples, tokens = int(counts_by_length.sum()), int(token_counts.sum())
    return {
        "examples": examples,
        "tokens": tokens,
        "padding_share": round(1 - tokens / max(1, examples * max_seq_length), 6),
        "unknown_share": round(int(token_counts[unk_id]) / max(1, tokens), 6),
        "length_histogram": {"bin_width": LENGTH_BIN_WIDTH, "examples": counts_by_length.tolist()},
    }


@dataclass
class ExampleStatistics:
    """What a manifest says of examples, addable over files.

    Attributes:
        counts_by_length: examples by length, as `length_counts` gives them.
        token_counts: occurrences of each piece of the vocabulary, special ones included, int64 [pieces].
    """

    documents: int
    max_seq_length: int
    counts_by_length: np.ndarray
    token_counts: np.ndarray

    @classmethod
    def none(cls, vocabulary_size: int, max_seq_length: int) -> "ExampleStatistics":
        """Of no examples."""
        lengths = np.zeros(0, np.int64)
        counts = length_counts(lengths, max_seq_length)
        return cls(0, max_seq_length, counts, np.zeros(vocabulary_size, np.int64))

    @property
    def examples(self) -> int:
        return int(self.counts_by_length.sum())

    def add(self, other: "ExampleStatistics") -> None:
        """Count another's examples too."""
        self.documents += other.documents
        self.counts_by_length += other.counts_by_length
        self.token_counts += other.token_counts

    def record(self) -> dict:
        """The statistics as JSON values that `of_record` reads; some 40 kB, the token counts compressed."""
        return {
            "documents": self.documents,
            "examples": self.examples,
            "max_seq_length": self.max_seq_length,
            "counts_by_length": self.counts_by_length.tolist(),
            "token_counts": base64.b64encode(zlib.compress(self.token_counts.tobytes(), 1)).decode("ascii"),
        }

    @classmethod
    def of_record(cls, record: dict) -> "ExampleStatistics":
        """What `record` wrote."""
        token_counts = np.frombuffer(zlib.decompress(base64.b64decode(record["token_counts"])), np.int64)
        counts_by_length = np.array(record["counts_by_length"], np.int64)
        return cls(record["documents"], record["max_seq_length"], counts_by_length, token_counts)

    def figures(self, unk_id: int) -> dict:
        """The manifest's entries: `documents`, and those of `summarize`."""
        summary = summarize(self.token_counts, self.counts_by_length, unk_id, self.max_seq_length)
        return {"documents": self.documents} | summary
