"""WordPiece as TensorFlow operations: strings in, ids and the characters that each token stands for out.

What tokenization.py does with the `tokenizers` library is done here inside a graph, for processes without it.
Normalisation and the division into words go by tables with an entry for each character, which are read off
that library; the pieces of a word are found by tensorflow-text, whose operations the graph needs.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
import tensorflow_text
from tokenizers import Tokenizer

from squad_features import token_spans
from tokenization import Vocabulary, build_tokenizer

# Characters past the first bound are unassigned, private use or, from the second bound on, tags; unassigned
# and private ones are all treated as are these two.
_ASSIGNED, _TAGS, _TAGS_END = 0x32400, 0xE0000, 0xE1000
_PRIVATE_USE, _UNASSIGNED = 0xE000, 0xFFFF
_SURROGATES = range(0xD800, 0xE000)
# Stands between two characters when all are normalised together; no other one becomes it.
_SEPARATOR = "0"
_ORDINARY, _SPACE, _PUNCTUATION = 0, 1, 2
_REPLACEMENT = 0xFFFD
_UNKNOWN = "[UNK]"
_MAX_BYTES_PER_CHARACTER = 4


@dataclass(frozen=True)
class TokenizedTexts:
    """n texts in tokens.

    Attributes:
        ids: int32 RaggedTensor [n, tokens].
        begins, ends: int32 RaggedTensors like it, the first character that a token stands for and the one
            after its last.
        characters: int32 RaggedTensor [n, characters], code points.
        bytes: int32 RaggedTensor [n, characters + 1], the byte at which each character begins, and the text's
            length.
    """

    ids: tf.RaggedTensor
    begins: tf.RaggedTensor
    ends: tf.RaggedTensor
    characters: tf.RaggedTensor
    bytes: tf.RaggedTensor


class GraphTokenizer(tf.Module):
    """Gives the tokens of tokenization.build_tokenizer with the spans of squad_features.token_spans.

    One thing differs. Before it drops accents the library puts the marks of a letter into canonical order;
    here each character is normalised by itself. Marks that are dropped leave no trace of their order, so the
    ids are the same; but where one of the few that are not dropped (musical stems and flags, Hangul tone
    marks) changes places with one that is, the library takes the wrong one for its token's begin or end.
    """

    def __init__(self, vocabulary: Vocabulary):
        super().__init__()
        tokenizer = build_tokenizer(vocabulary)
        self._max_characters_per_word = tokenizer.model.max_input_chars_per_word
        self._tables = {
            name: tf.Variable(values, trainable=False, name=name)
            for name, values in dataclasses.asdict(character_tables(tokenizer)).items()
        }
        self._wordpiece = tensorflow_text.FastWordpieceTokenizer(
            list(vocabulary.pieces),
            max_bytes_per_word=_MAX_BYTES_PER_CHARACTER * self._max_characters_per_word,
            token_out_type=tf.int32,
            unknown_token=_UNKNOWN,
            no_pretokenization=True,
        )

    def tokenize(self, texts: tf.Tensor) -> TokenizedTexts:
        """texts: string [n], UTF-8; bytes that are not count as U+FFFD."""
        characters, byte_begins = tf.strings.unicode_decode_with_offsets(texts, "UTF-8")
        byte_begins = tf.concat([tf.cast(byte_begins, tf.int32), tf.strings.length(texts)[:, None]], 1)
        source, normalized = self._normalize(characters.values)
        kinds = tf.gather(self._tables["kinds"], _table_rows(normalized))
        rows = tf.gather(characters.value_rowids(), source)
        inside = kinds != _SPACE
        # A word begins after a space, at and after punctuation, and with the text.
        after_other = (kinds[1:] != _ORDINARY) | (kinds[:-1] != _ORDINARY) | (rows[1:] != rows[:-1])
        begins_word = tf.boolean_mask(tf.concat([tf.ones_like(kinds[:1], tf.bool), after_other], 0), inside)
        source, normalized = tf.boolean_mask(source, inside), tf.boolean_mask(normalized, inside)
        ids, first, last, word_of_token, word_begins = self._pieces(normalized, begins_word)
        row_of_token = tf.gather(tf.boolean_mask(rows, inside), tf.gather(word_begins, word_of_token))
        text_begins = tf.cast(characters.row_splits, tf.int32)
        text_begin = tf.gather(text_begins, row_of_token)
        begins = tf.gather(source, first)
        ends = self._with_marks(
            characters.values, begins, tf.gather(source, last) + 1, row_of_token, text_begins
        )

        def ragged(values):
            rows = characters.nrows()
            return tf.RaggedTensor.from_value_rowids(values, row_of_token, nrows=rows, validate=False)

        begins, ends = ragged(begins - text_begin), ragged(ends - text_begin)
        return TokenizedTexts(ragged(ids), begins, ends, characters, byte_begins)

    def _normalize(self, characters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The place of the character that each normalised one comes from, and the normalised ones."""
        table_rows = _table_rows(characters)
        splits = self._tables["normal_splits"]
        first = tf.gather(splits, table_rows)
        counts = tf.gather(splits, table_rows + 1) - first
        source = tf.repeat(tf.range(tf.size(characters)), counts)
        number = tf.range(tf.size(source)) - tf.repeat(tf.cumsum(counts, exclusive=True), counts)
        normalized = tf.gather(self._tables["normal_characters"], tf.gather(first, source) + number)
        # Past the table a character stays as it is.
        is_outside = (tf.gather(characters, source) != normalized) & (normalized == _UNASSIGNED)
        return source, tf.where(is_outside, tf.gather(characters, source), normalized)

    def _pieces(self, characters: tf.Tensor, begins_word: tf.Tensor):
        """Divide words into pieces.

        Args:
            characters: int32 [characters], normalised, of all words without what stands between them.
            begins_word: bool [characters].

        Returns:
            ids, and the first and last character and the word of each piece, int32 [pieces]; the first
            character of each word.
        """
        # TensorFlow writes no noncharacters, which are in no vocabulary.
        characters = tf.where(_is_noncharacter(characters), _REPLACEMENT, characters)
        total = tf.size(characters)
        word_begins = tf.cast(tf.where(begins_word)[:, 0], tf.int32)
        word_ends = tf.concat([word_begins[1:], total[None]], 0)[: tf.size(word_begins)]
        is_long = word_ends - word_begins > self._max_characters_per_word
        splits = tf.concat([word_begins, total[None]], 0)
        words = tf.RaggedTensor.from_row_splits(characters, splits, validate=False)
        words = tf.strings.unicode_encode(words, "UTF-8")
        ids, begins, ends = self._wordpiece.tokenize_with_offsets(tf.where(is_long, _UNKNOWN, words))
        word = tf.cast(ids.value_rowids(), tf.int32)
        # From bytes in a word to bytes in all words to characters.
        byte_begins = tf.cumsum(_utf8_bytes(characters), exclusive=True)
        word_byte = tf.gather(tf.gather(byte_begins, word_begins), word)
        first = tf.searchsorted(byte_begins, word_byte + tf.cast(begins.values, tf.int32))
        last = tf.searchsorted(byte_begins, word_byte + tf.cast(ends.values, tf.int32)) - 1
        is_long = tf.gather(is_long, word)
        first = tf.where(is_long, tf.gather(word_begins, word), first)
        last = tf.where(is_long, tf.gather(word_ends, word) - 1, last)
        return ids.values, first, last, word, word_begins

    def _with_marks(self, characters, begins, ends, row_of_token, text_begins):
        """The ends of tokens, with the dropped marks after them that belong to their last letters."""
        belongs = tf.gather(self._tables["belongs"], _table_rows(characters))
        stops = tf.concat([tf.cast(tf.where(~belongs)[:, 0], tf.int32), tf.size(characters)[None]], 0)
        next_stop = tf.gather(stops, tf.searchsorted(stops, ends))
        # Up to the next token of the same text, or the text's end.
        following = tf.concat([begins[1:], tf.size(characters)[None]], 0)[: tf.size(begins)]
        limits = tf.minimum(following, tf.gather(text_begins, row_of_token + 1))
        return tf.maximum(ends, tf.minimum(next_stop, limits))


@dataclass(frozen=True)
class CharacterTables:
    """What becomes of a character, by its row as `_table_rows` counts.

    Attributes:
        normal_splits: int32 [rows + 1], where what it is normalised to begins in `normal_characters`.
        normal_characters: int32, code points.
        kinds: int8 [rows], of a normalised one: part of a word, space, or punctuation.
        belongs: bool [rows], whether it belongs to the letter before it when it is dropped.
    """

    normal_splits: np.ndarray
    normal_characters: np.ndarray
    kinds: np.ndarray
    belongs: np.ndarray


def character_tables(tokenizer: Tokenizer) -> CharacterTables:
    """Read off what a tokenizer and squad_features.py do with every character."""
    codes = [*range(_ASSIGNED), *range(_TAGS, _TAGS_END)]
    # Surrogates are no characters: they have rows that nothing asks for.
    left_out = {ord(_SEPARATOR), *_SURROGATES}
    characters = ["1" if code in left_out else chr(code) for code in codes]
    outputs = tokenizer.normalizer.normalize_str(_SEPARATOR.join(characters)).split(_SEPARATOR)
    outputs[ord(_SEPARATOR)] = _SEPARATOR
    splits = np.cumsum([0, *map(len, outputs)])
    # Every character at an odd place, so that what is part of a word is never a word alone.
    text = _SEPARATOR + _SEPARATOR.join(characters) + _SEPARATOR
    kinds = np.full(len(text), _SPACE, np.int8)
    for _, (begin, end) in tokenizer.pre_tokenizer.pre_tokenize_str(text):
        kinds[begin:end] = _ORDINARY if end - begin > 1 else _PUNCTUATION
    spans = token_spans(text, [(begin, begin + 1) for begin in range(0, len(text), 2)])
    return CharacterTables(
        splits.astype(np.int32),
        np.array([ord(character) for output in outputs for character in output], np.int32),
        kinds[1::2],
        spans[:-1, 1] - spans[:-1, 0] > 1,
    )


def _table_rows(codes: tf.Tensor) -> tf.Tensor:
    """The row of each code point in the tables."""
    is_private = (codes >= 0xF0000) & (tf.bitwise.bitwise_and(codes, 0xFFFF) <= 0xFFFD)
    beyond = tf.where(is_private, _PRIVATE_USE, _UNASSIGNED)
    is_tag = (codes >= _TAGS) & (codes < _TAGS_END)
    return tf.where(codes < _ASSIGNED, codes, tf.where(is_tag, codes - _TAGS + _ASSIGNED, beyond))


def _is_noncharacter(codes: tf.Tensor) -> tf.Tensor:
    ends_plane = tf.bitwise.bitwise_and(codes, 0xFFFE) == 0xFFFE
    return ends_plane | ((codes >= 0xFDD0) & (codes <= 0xFDEF))


def _utf8_bytes(codes: tf.Tensor) -> tf.Tensor:
    """Bytes of each code point in UTF-8, int32."""
    return 1 + sum(tf.cast(codes >= bound, tf.int32) for bound in (0x80, 0x800, 0x10000))
