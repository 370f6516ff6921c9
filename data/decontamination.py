"""Documents that hold what a model will be evaluated on: found by the word 13-grams that they share.

The size is that of Brown et al., "Language models are few-shot learners" (2020), appendix C. A document that
shares one with an evaluation passage is dropped whole. Words are compared apart from case, punctuation and
white space.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import tfrecords
from command_line import UsageError
from data.word_ngrams import WordHasher, hash_ngrams
from squad_data import iterate_contexts

FLAG = "decontaminate_against"
NGRAM_WORDS = 13
# The smallest size that Brown et al. use for evaluations of short texts.
MIN_NGRAM_WORDS = 8

# Of the n-grams that are not in the index, at most one in so many passes the filter before it.
_PLACES_PER_NGRAM = 16
_MIN_FILTER_BITS = 16
_DTYPE = np.dtype([("words", "u1"), ("ngram", "<u8")])


def build_evaluation_index(result_path: str | Path, paths: Sequence[str | Path]) -> dict[str, int]:
    """Index the passages of evaluation files, and write that to a .npy file that `EvaluationIndex` loads.

    A passage is a context of a SQuAD file (named .json), or in a UTF-8 text file what stands between blank
    lines. One of 8 to 12 words is found only as a whole; one of fewer than 8 is not looked for, since text
    that has nothing to do with it says the same.

    Returns:
        the numbers of `passages`, of passages that are `too_short`, and of `ngrams`.

    Raises:
        UsageError: a file cannot be read, is not UTF-8 or not SQuAD, or none holds a passage of 8 words.
    """
    hasher = WordHasher()
    ngrams: dict[int, list[np.ndarray]] = {}
    passages = too_short = 0
    for path in paths:
        for passage in _passages(Path(path)):
            words = hasher.hash_words(passage)
            size = min(NGRAM_WORDS, len(words))
            passages += 1
            too_short += size < MIN_NGRAM_WORDS
            if size >= MIN_NGRAM_WORDS:
                ngrams.setdefault(size, []).append(hash_ngrams(words, size))
    if not ngrams:
        named = " ".join(map(str, paths))
        raise UsageError(f"--{FLAG} {named}: no passage of {MIN_NGRAM_WORDS} words or more in it")
    tables = []
    for size, hashes in sorted(ngrams.items()):
        distinct = np.unique(np.concatenate(hashes))
        tables.append(np.zeros(len(distinct), _DTYPE))
        tables[-1]["words"], tables[-1]["ngram"] = size, distinct
    index = np.concatenate(tables)
    tfrecords.write_array(result_path, index)
    return {"passages": passages, "too_short": too_short, "ngrams": len(index)}


class EvaluationIndex:
    """The n-grams of evaluation passages."""

    def __init__(self, index: np.ndarray):
        self._hasher = WordHasher()
        self._tables = [
            (int(size), _Table(index["ngram"][index["words"] == size])) for size in np.unique(index["words"])
        ]

    @classmethod
    def load(cls, path: str | Path) -> "EvaluationIndex":
        """What `build_evaluation_index` wrote."""
        return cls(np.load(path, allow_pickle=False))

    def overlaps(self, text: str) -> bool:
        """Whether a text shares an n-gram with an evaluation passage."""
        words = self._hasher.hash_words(text)
        return any(table.holds_any(hash_ngrams(words, size)) for size, table in self._tables)


class _Table:
    """Sorted hashes, behind a filter that answers for nearly all that are not among them."""

    def __init__(self, hashes: np.ndarray):
        bits = max(_MIN_FILTER_BITS, int(len(hashes) * _PLACES_PER_NGRAM).bit_length())
        self._hashes = hashes
        self._shift = np.uint64(64 - bits)
        self._filter = np.zeros(1 << bits, bool)
        self._filter[hashes >> self._shift] = True

    def holds_any(self, hashes: np.ndarray) -> bool:
        hashes = hashes[self._filter[hashes >> self._shift]]
        places = np.searchsorted(self._hashes, hashes)
        return bool((self._hashes[np.minimum(places, len(self._hashes) - 1)] == hashes).any())


def _passages(path: Path) -> Iterator[str]:
    if path.suffix.lower() == ".json":
        yield from iterate_contexts(path, FLAG)
        return
    lines: list[str] = []
    try:
        with open(path, encoding="utf-8-sig") as stream:
            for line in stream:
                if line.strip():
                    lines.append(line)
                elif lines:
                    yield "".join(lines)
                    lines = []
    except OSError as error:
        raise UsageError(f"--{FLAG} {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--{FLAG} {path}: not UTF-8") from None
    if lines:
        yield "".join(lines)
