"""BERT's tokenization in plain Python, to be compared with: how slow that is, and that the ids are the same.

As google-research/bert's README describes it: clean, strip accents, lower-case, split at whitespace,
punctuation and CJK ideographs, then the longest piece first. For data_speed.py; no program uses it.
"""

import unicodedata

from tokenization import Vocabulary

_MAX_CHARACTERS_PER_WORD = 100
_ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


class PlainTokenizer:
    """Gives a line's ids, one character and one piece after another."""

    def __init__(self, vocabulary: Vocabulary):
        self._ids = vocabulary.ids
        self._lowers_case = vocabulary.do_lower_case
        self._strips_accents = (
            vocabulary.do_lower_case if vocabulary.strip_accents is None else vocabulary.strip_accents
        )

    def __call__(self, line: str) -> list[int]:
        return [piece for word in self._words(line) for piece in self._pieces(word)]

    def _words(self, line: str) -> list[str]:
        if self._strips_accents:
            decomposed = unicodedata.normalize("NFD", line)
            line = "".join(letter for letter in decomposed if unicodedata.category(letter) != "Mn")
        if self._lowers_case:
            line = line.lower()
        spaced = []
        for letter in line:
            if letter in "\t\n\r":
                spaced.append(" ")
            elif unicodedata.category(letter) in ("Cc", "Cf", "Co") or letter == "\ufffd":
                continue
            elif _is_word_by_itself(letter):
                spaced.append(f" {letter} ")
            else:
                spaced.append(letter)
        return "".join(spaced).split()

    def _pieces(self, word: str) -> list[int]:
        if len(word) > _MAX_CHARACTERS_PER_WORD:
            return [self._ids["[UNK]"]]
        pieces, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(len(word), start, -1):
                piece = self._ids.get(prefix + word[start:end])
                if piece is not None:
                    break
            else:
                return [self._ids["[UNK]"]]
            pieces.append(piece)
            start = end
        return pieces


def _is_word_by_itself(letter: str) -> bool:
    if letter in _ASCII_PUNCTUATION or unicodedata.category(letter)[0] == "P":
        return True
    code = ord(letter)
    return 0x3400 <= code <= 0x4DBF or 0x4E00 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF or code >= 0x20000
