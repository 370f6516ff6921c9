"""What a manifest says of its examples as a whole: tokens, shares and the histogram of lengths.

Everything follows from two arrays that add up over any division of the examples into units: the occurrences
of each piece, and the examples by length.
"""

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
