"""Token ids of lines, with all that repeats served from memory; WordPiece's rules are tokenization.py's.

Most words of a text occur again and again, and the tokenizer would normalise and split each of them anew.
What it makes of a line follows from the texts between the line's spaces, each by itself: a space is never
removed, nothing is composed across it, and it always ends a word. ASCII punctuation marks and CJK ideographs
are words by themselves, for the same reasons. So a dictionary from such texts to ids gives what the tokenizer
gives.
"""

import re
from collections.abc import Iterable

import numpy as np
from tokenizers import Tokenizer

from tokenization import Vocabulary, build_tokenizer

# About 40 MB, at some 150 bytes a text.
_MOST_TEXTS = 1 << 18
# What is longer is rarely met again.
_LONGEST_TEXT = 48
# An ASCII punctuation mark, an ideograph, or what stands between two of these.
_PARTS = re.compile("[!-/:-@\\[-`{-~\u4e00-\u9fff]|[^!-/:-@\\[-`{-~\u4e00-\u9fff]+")


class LineTokenizer:
    """Gives lines the ids that `build_tokenizer` gives them, for one process."""

    def __init__(self, vocabulary: Vocabulary):
        self._cache = _Cache(build_tokenizer(vocabulary), vocabulary.do_lower_case)

    def __call__(self, lines: Iterable[str]) -> tuple[np.ndarray, list[int]]:
        """The ids of all lines, one line after another, int32, and the number of each line's tokens."""
        look_up = self._cache.__getitem__
        encoded = [b"".join(map(look_up, line.split(" "))) for line in lines]
        ids = np.frombuffer(b"".join(encoded), np.int32)
        return ids, [len(line) // ids.itemsize for line in encoded]


class _Cache(dict[str, bytes]):
    """Text without a space -> the bytes of its ids, int32. Emptied when it is full."""

    def __init__(self, tokenizer: Tokenizer, lowers_case: bool):
        super().__init__()
        self._tokenizer = tokenizer
        self._model = tokenizer.model
        self._lowers_case = lowers_case

    def __missing__(self, text: str) -> bytes:
        ids = self._ids(text)
        if len(text) <= _LONGEST_TEXT:
            if len(self) >= _MOST_TEXTS:
                self.clear()
            self[text] = ids
        return ids

    def _ids(self, text: str) -> bytes:
        if text.isascii() and text.isalnum():
            # One word, and normalisation changes its case at most: a third of the time of `encode`.
            pieces = self._model.tokenize(text.lower() if self._lowers_case else text)
            return np.array([piece.id for piece in pieces], np.int32).tobytes()
        parts = _PARTS.findall(text)
        if len(parts) > 1:
            return b"".join([self[part] for part in parts])
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32).tobytes()
