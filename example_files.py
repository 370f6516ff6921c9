"""Documents -> files of framed examples, and what is counted of them on the way.

A process keeps one `ExampleBuilder`, whose tokenizer remembers the words that it has met. How files are
joined to larger ones and which processes build them is not known here.
"""

import functools
from collections.abc import Iterable
from pathlib import Path

import numpy as np

import corpus
import example_builder
import tfrecords
from corpus import Document
from example_statistics import ExampleStatistics, length_counts
from tokenization import Vocabulary
from word_cache import LineTokenizer


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
        for lines in documents:
            key = example_builder.document_key(self.seed, lines)
            tokens, line_lengths = self._tokenize(lines)
            for segments in example_builder.build_examples(line_lengths, self.max_seq_length, key):
                ids, first_length = example_builder.join_segments(segments, tokens, self._cls, self._sep)
                examples.append(ids)
                first_lengths.append(first_length)
        tokens, lengths = np.concatenate(examples), [len(ids) for ids in examples[1:]]
        payloads = tfrecords.serialize_examples(tokens, lengths, first_lengths, self.max_seq_length)
        statistics = ExampleStatistics(
            len(documents),
            self.max_seq_length,
            length_counts(np.array(lengths, np.int64), self.max_seq_length),
            np.bincount(tokens, minlength=self.vocabulary.size),
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
