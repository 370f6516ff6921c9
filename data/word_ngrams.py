"""Word n-grams of a text as 64-bit numbers: the same in every process, on every machine and at every time.

What is done with them is deduplication.py's and decontamination.py's.
"""

import hashlib
import re
import unicodedata

import numpy as np

# An underscore is emphasis in plain text ("_never_"), no part of a word.
_WORD = re.compile(r"[^\W_]+")
# Vowel signs and their like: no letters to Python's \w, though Hindi and Burmese words are full of them. To
# look for them takes several times as long, so that is done only where a character is of their blocks.
_BLOCKS = ((0x300, 0x370), (0x591, 0x1D00), (0xA800, 0xAC00), (0x11000, 0x12000))
_IN_BLOCKS = re.compile("[" + "".join(f"{chr(first)}-{chr(end - 1)}" for first, end in _BLOCKS) + "]")
_SIGNS = "".join(
    sign for block in _BLOCKS for sign in map(chr, range(*block)) if unicodedata.category(sign)[0] == "M"
)
_WORD_WITH_SIGNS = re.compile(rf"[^\W_]+(?:[{_SIGNS}]+[^\W_]*)*")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MAX_CACHED_WORDS = 1 << 18


class WordHasher:
    """Hashes a text's words; the frequent ones from a cache of bounded size (about 50 MB)."""

    def __init__(self):
        self._hashes = _HashOfWord()

    def hash_words(self, text: str) -> np.ndarray:
        """BLAKE2b's first 64 bits of each word, in order.

        A word is a run of letters, with their signs, and digits, after Unicode's compatibility composition
        (NFKC) and case folding; punctuation and white space do not count. Where words are not written apart,
        as in Chinese, what stands between two punctuation marks is one word.
        """
        if not text.isascii():
            text = unicodedata.normalize("NFKC", text)
        text = text.casefold()
        words = (_WORD_WITH_SIGNS if _IN_BLOCKS.search(text) else _WORD).findall(text)
        hashes = np.fromiter(map(self._hashes.__getitem__, words), np.uint64, len(words))
        if len(self._hashes) > _MAX_CACHED_WORDS:
            self._hashes.clear()
        return hashes


class _HashOfWord(dict[str, int]):
    def __missing__(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self[word] = value = int.from_bytes(digest, "little")
        return value


def hash_ngrams(words: np.ndarray, size: int) -> np.ndarray:
    """The n-grams of hashed words, in order, with repetitions: a polynomial in the words, modulo 2**64.

    Returns:
        uint64, `max(0, len(words) - size + 1)` of them.
    """
    count = max(0, len(words) - size + 1)
    hashes = np.zeros(count, np.uint64)
    for begin in range(size):
        hashes *= _MULTIPLIER
        hashes += words[begin : begin + count]
    return hashes
