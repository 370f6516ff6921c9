"""Documents -> files of framed examples, and what is counted of them on the way.

A process keeps one `ExampleBuilder`, whose tokenizer remembers the words that it has met. How files are
joined to larger ones and which processes build them is not known here.
"""

import base64
import functools
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import corpus
import example_builder
import tfrecords
from corpus import Document
from tokenization import Vocabulary
from word_cache import LineTokenizer

_NOTABLE_CUT_OFF_SHARE = 0.2


@dataclass
class ExampleStatistics:
    """What a manifest says of examples, addable over files.

    Attributes:
        length_histogram: examples by their number of tokens, int64 [max_seq_length + 1].
        token_counts: occurrences of each piece of the vocabulary, special ones included, int64 [pieces].
        text_tokens: tokens of the documents, special ones not counted.
        cut_off_tokens: those of them that are in no example; both are None where files of an earlier version,
            which did not count them, were added.
    """

    documents: int
    length_histogram: np.ndarray
    token_counts: np.ndarray
    text_tokens: int | None = 0
    cut_off_tokens: int | None = 0

    @classmethod
    def none(cls, vocabulary_size: int, max_seq_length: int) -> "ExampleStatistics":
        """Of no examples."""
        return cls(0, np.zeros(max_seq_length + 1, np.int64), np.zeros(vocabulary_size, np.int64))

    @property
    def examples(self) -> int:
        return int(self.length_histogram.sum())

    def add(self, other: "ExampleStatistics") -> None:
        """Count another's examples too."""
        self.documents += other.documents
        self.length_histogram += other.length_histogram
        self.token_counts += other.token_counts
        if self.cut_off_tokens is None or other.cut_off_tokens is None:
            self.text_tokens = self.cut_off_tokens = None
        else:
            self.text_tokens += other.text_tokens
            self.cut_off_tokens += other.cut_off_tokens

    def record(self) -> dict:
        """The statistics as JSON values that `of_record` reads; some 40 kB, the token counts compressed."""
        return {
            "documents": self.documents,
            "examples": self.examples,
            "length_histogram": self.length_histogram.tolist(),
            "token_counts": base64.b64encode(zlib.compress(self.token_counts.tobytes(), 1)).decode("ascii"),
            "text_tokens": self.text_tokens,
            "cut_off_tokens": self.cut_off_tokens,
        }

    @classmethod
    def of_record(cls, record: dict) -> "ExampleStatistics":
        """What `record` wrote, here or in an earlier version."""
        token_counts = np.frombuffer(zlib.decompress(base64.b64decode(record["token_counts"])), np.int64)
        return cls(
            record["documents"],
            np.array(record["length_histogram"], np.int64),
            token_counts,
            record.get("text_tokens"),
            record.get("cut_off_tokens"),
        )

    def figures(self, unk_id: int) -> dict:
        """The figures of a manifest; shares are rounded to six digits.

        `padding_share` is of all places in the examples, `unknown_share` of the tokens in them, special ones
        included. `cut_off_share` is of the documents' own tokens; it and `cut_off_tokens` are left out where
        they were not counted. `length_histogram` leaves out the lengths that no example has.
        """
        tokens = int(self.token_counts.sum())
        places = max(1, self.examples * (len(self.length_histogram) - 1))
        cut_off = {}
        if self.cut_off_tokens is not None:
            share = round(self.cut_off_tokens / max(1, self.text_tokens), 6)
            cut_off = {"cut_off_tokens": self.cut_off_tokens, "cut_off_share": share}
        return {
            "documents": self.documents,
            "examples": self.examples,
            "tokens": tokens,
            **cut_off,
            "padding_share": round(1 - tokens / places, 6),
            "unknown_share": round(int(self.token_counts[unk_id]) / max(1, tokens), 6),
            "length_histogram": {
                str(length): int(self.length_histogram[length])
                for length in np.flatnonzero(self.length_histogram)
            },
        }


def describe_figures(figures: dict, max_seq_length: int, shards: int) -> str:
    """The figures of `ExampleStatistics` in a line; where much is cut off, a second one says what to do."""
    share = figures.get("cut_off_share")
    cut_off = "" if share is None else f", {share:.1%} of the text cut off"
    text = (
        f"{figures['examples']:,} examples of {max_seq_length} from {figures['documents']:,} documents, "
        f"{figures['tokens']:,} tokens, {figures['padding_share']:.1%} padding, "
        f"{figures['unknown_share']:.2%} unknown{cut_off}, in {shards} shards"
    )
    if share is not None and share >= _NOTABLE_CUT_OFF_SHARE:
        text += (
            "\nmuch of the text is cut off, as its lines are long for the examples: split paragraphs into "
            "sentences, one a line, or give a longer --max_seq_length"
        )
    return text


class ExampleBuilder:
    """Turns documents into the examples of one vocabulary, length and seed."""

    def __init__(self, vocabulary: Vocabulary, seed: int, max_seq_length: int):
        self.vocabulary = vocabulary
        self.seed = seed
        self.max_seq_length = max_seq_length
        self._tokenize = LineTokenizer(vocabulary)
        self._cls, self._sep = np.array([[vocabulary.cls_id], [vocabulary.sep_id]], np.int32)

    def write(self, path: str | Path, blocks: Iterable[list[Document]]) -> ExampleStatistics:
        """Write the examples of blocks of documents as a shard with its index; memory is that of one block.

        Args:
            blocks: documents as lines, as examples are made from them (`corpus.as_sentences`).
        """
        statistics = ExampleStatistics.none(self.vocabulary.size, self.max_seq_length)
        with tfrecords.ShardWriter(path) as shard:
            for block in blocks:
                frames, counted = self._build(block)
                shard.write_frames(b"".join(frames), list(map(len, frames)))
                statistics.add(counted)
        return statistics

    def _build(self, documents: list[Document]) -> tuple[list[bytes], ExampleStatistics]:
        # Begun with none, so that a block without a token can be joined as well.
        examples: list[np.ndarray] = [np.zeros(0, np.int32)]
        first_lengths: list[int] = []
        text_tokens = kept_tokens = 0
        for lines in documents:
            key = example_builder.document_key(self.seed, lines)
            tokens, line_lengths = self._tokenize(lines)
            text_tokens += len(tokens)
            for segments in example_builder.build_examples(line_lengths, self.max_seq_length, key):
                ids, first_length = example_builder.join_segments(segments, tokens, self._cls, self._sep)
                examples.append(ids)
                first_lengths.append(first_length)
                # Without [CLS] and a [SEP] for each segment.
                kept_tokens += len(ids) - (3 if segments.second else 2)
        tokens, lengths = np.concatenate(examples), [len(ids) for ids in examples[1:]]
        payloads = tfrecords.serialize_examples(tokens, lengths, first_lengths, self.max_seq_length)
        statistics = ExampleStatistics(
            len(documents),
            np.bincount(np.array(lengths, np.int64), minlength=self.max_seq_length + 1),
            np.bincount(tokens, minlength=self.vocabulary.size),
            text_tokens,
            text_tokens - kept_tokens,
        )
        return [tfrecords.frame_record(payload) for payload in payloads], statistics


def write_text_file(
    path: str | Path, text_file: str, vocabulary: Vocabulary, seed: int, max_seq_length: int
) -> dict:
    """Write the examples of one file of sentences, a blank line between documents, as a shard with its index.

    A unit of its own: the bytes do not depend on the process nor on what it built before. Returns the
    statistics' record.
    """
    builder = _builder_of_process(vocabulary, seed, max_seq_length)
    return builder.write(path, corpus.read_blocks(text_file, blanks_separate_docs=True)).record()


@functools.lru_cache(maxsize=1)
def _builder_of_process(vocabulary: Vocabulary, seed: int, max_seq_length: int) -> ExampleBuilder:
    return ExampleBuilder(vocabulary, seed, max_seq_length)
