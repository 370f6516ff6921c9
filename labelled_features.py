"""Labelled texts -> sequences of tokens with their labels, in memory, and the arrays of a batch.

An example is [CLS] text [SEP], or [CLS] text [SEP] second text [SEP] with segment 1 from the second text on.
A sentence of tagged words is [CLS] words [SEP], in several sequences where it is too long for one; the first
token of each word stands for it. Kept are token ids and labels alone: some 200 bytes an example of 40 tokens.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import tokenizers
from tqdm import tqdm

from labelled_data import Example, Sentence
from tokenization import Vocabulary, build_tokenizer

# The label of what has none: a test's example, or a token that stands for no word.
NO_LABEL = -1
_CHUNK = 1024


@dataclass(frozen=True)
class Rows:
    """Arrays of different lengths, one after the other: `ends` says where each ends."""

    values: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, rows: list[np.ndarray], dtype: type) -> "Rows":
        values = np.concatenate(rows).astype(dtype) if rows else np.zeros(0, dtype)
        return cls(values, np.cumsum([len(row) for row in rows], dtype=np.int64))

    def __getitem__(self, number: int) -> np.ndarray:
        begin = self.ends[number - 1] if number else 0
        return self.values[begin : self.ends[number]]


class LabelledFeatures:
    """Sequences with a label each; what length_batches.py wants of them.

    Attributes:
        lengths: int32 [sequences], tokens of each.
        labels: int32 or a float [sequences]; NO_LABEL or NaN where none is known.
        ids: of each sequence's example.
    """

    def __init__(
        self,
        tokens: Rows,
        second_texts: np.ndarray,
        labels: np.ndarray,
        ids: list[str],
        lines: np.ndarray,
        source: str,
        pad_id: int,
    ):
        self._tokens, self._second_texts, self._pad_id = tokens, second_texts, pad_id
        self._lines, self._source = lines, source
        self.lengths = np.diff(tokens.ends, prepend=0).astype(np.int32)
        self.labels, self.ids = labels, ids

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, numbers: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """input_ids, input_mask and segment_ids, int32 [sequences, length], and their labels [sequences]."""
        return self._arrays(numbers, length) | {"labels": self.labels[numbers]}

    def normalizers(self, numbers: np.ndarray) -> dict[str, np.float32]:
        """The number of labels: one a sequence."""
        return {"labels": np.float32(len(numbers))}

    def describe(self, numbers: np.ndarray) -> str:
        """The lines of the file that sequences come from."""
        lines = ", ".join(map(str, np.unique(self._lines[numbers])))
        return f"{self._source}, lines {lines}"

    def arrays_to_check(self) -> Iterator[np.ndarray]:
        """What must be the same on all workers."""
        yield from (self._tokens.values, self._tokens.ends, self._second_texts, self.labels)

    def _arrays(self, numbers: np.ndarray, length: int) -> dict[str, np.ndarray]:
        ids = np.full((len(numbers), length), self._pad_id, np.int32)
        places = np.arange(length)
        mask = (places < self.lengths[numbers, None]).astype(np.int32)
        ids[mask > 0] = np.concatenate([self._tokens[int(number)] for number in numbers])
        segments = mask * (places >= self._second_texts[numbers, None])
        return {"input_ids": ids, "input_mask": mask, "segment_ids": segments.astype(np.int32)}


class TaggedFeatures(LabelledFeatures):
    """Sequences of words with a tag each.

    Attributes:
        sentence_ends: int64 [sentences], how many words there are up to each one's end.
        labels: int32 [words], the tags.
        ids: of each sentence.
    """

    def __init__(self, tokens: Rows, places: Rows, labels, ids, lines, source, pad_id, sentence_ends):
        no_second = np.full(len(tokens.ends), np.iinfo(np.int32).max, np.int32)
        super().__init__(tokens, no_second, labels, ids, lines, source, pad_id)
        self._places = places
        self.sentence_ends = sentence_ends

    def batch(self, numbers: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """As for texts, but labels [sequences, length]: NO_LABEL where a token stands for no word."""
        labels = np.full((len(numbers), length), NO_LABEL, np.int32)
        for row, number in enumerate(numbers):
            labels[row, self.word_places(int(number))] = self.labels[self.words_of(int(number))]
        return self._arrays(numbers, length) | {"labels": labels}

    def normalizers(self, numbers: np.ndarray) -> dict[str, np.float32]:
        """The number of words."""
        return {"labels": np.float32(sum(len(self.word_places(int(number))) for number in numbers))}

    def word_places(self, number: int) -> np.ndarray:
        """Where in a sequence the tokens that stand for words are."""
        return self._places[number]

    def words_of(self, number: int) -> slice:
        """Which words those are."""
        return slice(self._places.ends[number - 1] if number else 0, self._places.ends[number])


def build_features(
    examples: Iterable[Example],
    vocabulary: Vocabulary,
    max_seq_length: int,
    label_of: Callable[[Example], float],
    *,
    dtype: type,
    source: str,
    both_orders: bool = False,
    hide_progress: bool | None = None,
) -> LabelledFeatures:
    """The sequences of examples; with `both_orders` two for each pair, the second one the other way round.

    Args:
        label_of: an example's label as a number of `dtype`.
        source: names the examples' file in messages.
    """
    tokenizer = build_tokenizer(vocabulary)
    tokens, seconds, labels, ids, lines = [], [], [], [], []
    for chunk in _chunks(examples, hide_progress):
        first = _encode(tokenizer, [example.text for example in chunk])
        second = _encode(tokenizer, [example.text_pair or "" for example in chunk])
        for example, text, pair in zip(chunk, first, second, strict=True):
            has_pair = example.text_pair is not None
            orders = [(text, pair), (pair, text)] if both_orders and has_pair else [(text, pair)]
            for one, other in orders:
                row, begin = _join(one, other if has_pair else None, vocabulary, max_seq_length)
                tokens.append(row)
                seconds.append(begin)
                labels.append(label_of(example))
                ids.append(example.id)
                lines.append(example.line)
    return LabelledFeatures(
        Rows.of(tokens, np.int32),
        np.array(seconds, np.int32),
        np.array(labels, dtype),
        ids,
        np.array(lines, np.int64),
        source,
        vocabulary.pad_id,
    )


def build_tagged_features(
    sentences: Iterable[Sentence],
    vocabulary: Vocabulary,
    max_seq_length: int,
    label_of: Callable[[Sentence, int], int],
    *,
    source: str,
    hide_progress: bool | None = None,
) -> TaggedFeatures:
    """The sequences of tagged sentences.

    Args:
        label_of: the number of the tag of a sentence's word, given by its place.
        source: names the sentences' file in messages.
    """
    tokenizer = build_tokenizer(vocabulary)
    tokens, places, labels, ids, lines, ends = [], [], [], [], [], []
    for chunk in _chunks(sentences, hide_progress):
        encodings = tokenizer.encode_batch([sentence.words for sentence in chunk], is_pretokenized=True)
        for sentence, encoding in zip(chunk, encodings, strict=True):
            for row, starts in _pieces(sentence, encoding, vocabulary, max_seq_length):
                tokens.append(row)
                places.append(starts)
                lines.append(sentence.line)
            labels += [label_of(sentence, place) for place in range(len(sentence.words))]
            ids.append(sentence.id)
            ends.append(len(labels))
    return TaggedFeatures(
        Rows.of(tokens, np.int32),
        Rows.of(places, np.int32),
        np.array(labels, np.int32),
        ids,
        np.array(lines, np.int64),
        source,
        vocabulary.pad_id,
        np.array(ends, np.int64),
    )


def _chunks(items: Iterable, hide_progress: bool | None) -> Iterator[list]:
    items = iter(items)
    with tqdm(desc="texts to tokens", unit="text", disable=hide_progress) as bar:
        while chunk := list(itertools.islice(items, _CHUNK)):
            yield chunk
            bar.update(len(chunk))


def _encode(tokenizer: tokenizers.Tokenizer, texts: list[str]) -> list[np.ndarray]:
    return [np.array(encoding.ids, np.int32) for encoding in tokenizer.encode_batch(texts)]


def _join(
    text: np.ndarray, pair: np.ndarray | None, vocabulary: Vocabulary, max_seq_length: int
) -> tuple[np.ndarray, int]:
    """A sequence, and where its second text begins, or its length where it has none.

    What is too long loses tokens at the end of the longer text, as in BERT's code (google-research/bert).
    """
    cls_id, sep_id = [vocabulary.cls_id], [vocabulary.sep_id]
    if pair is None:
        row = np.concatenate([cls_id, text[: max_seq_length - 2], sep_id])
        return row, len(row)
    room = max_seq_length - 3
    kept, kept_pair = len(text), len(pair)
    if kept + kept_pair > room:
        # Either one text is short enough to stay whole, or both end at about half of the room.
        kept = min(kept, max(room - kept_pair, room - room // 2))
        kept_pair = room - kept
    row = np.concatenate([cls_id, text[:kept], sep_id, pair[:kept_pair], sep_id])
    return row, kept + 2


def _pieces(
    sentence: Sentence, encoding: tokenizers.Encoding, vocabulary: Vocabulary, max_seq_length: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The sequences of a sentence, each with the places of the tokens that stand for its words."""
    room = max_seq_length - 2
    by_word: list[list[int]] = [[] for _ in sentence.words]
    for token, word in zip(encoding.ids, encoding.word_ids, strict=True):
        by_word[word].append(token)
    row, starts = [vocabulary.cls_id], []
    for pieces in by_word:
        # A word of which the vocabulary's normalisation leaves nothing is tagged all the same.
        pieces = pieces[:room] or [vocabulary.ids["[UNK]"]]
        if len(row) - 1 + len(pieces) > room:
            yield np.array([*row, vocabulary.sep_id]), np.array(starts)
            row, starts = [vocabulary.cls_id], []
        starts.append(len(row))
        row += pieces
    yield np.array([*row, vocabulary.sep_id]), np.array(starts)
