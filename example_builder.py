"""Documents -> training examples: pure functions, Google's segment rule, draws keyed by the document.

An example is [CLS] A [SEP] B [SEP], or [CLS] A [SEP] alone. The lines of a document accumulate until a target
length is reached and are then split in two segments (google-research/electra, build_pretraining_dataset).
Every random draw is a function of the seed and of the document's text, so it does not depend on the file,
the process or the order in which the document is met. What the tokens are has no part in the rule: segments
are ranges of places in the document's tokens.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from keyed_random import ScalarStream, derive_key

_SINGLE_SEGMENT_PROBABILITY = 0.1
_SHORT_TARGET_PROBABILITY = 0.05
_SHORTEST_TARGET = 5


class Segments(NamedTuple):
    """Which of the document's tokens an example's segments take, line by line; the second may be empty."""

    first: list[range]
    second: list[range]


def document_key(seed: int, lines: list[str]) -> int:
    """The key of a document's draws: of the seed and its text."""
    text = "".join([f"{line}\n" for line in lines]).encode("utf-8")
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return derive_key(seed, "document", int.from_bytes(digest, "little"))


def is_held_out(key: int, held_out_fraction: float) -> bool:
    """Whether the document of this key belongs to the held-out set."""
    return ScalarStream(derive_key(key, "held out")).uniform() < held_out_fraction


def build_examples(line_lengths: Iterable[int], max_seq_length: int, key: int) -> Iterator[Segments]:
    """Split one tokenized document into examples of at most `max_seq_length` tokens.

    Args:
        line_lengths: number of tokens of each line, special tokens not counted.
        max_seq_length: length that [CLS], the segments and their [SEP] must fit in.
        key: the document's key.
    """
    stream = ScalarStream(derive_key(key, "segments"))
    target = _draw_target(stream, max_seq_length)
    gathered: list[range] = []
    begin = end = 0
    for length in line_lengths:
        if not length:
            continue
        gathered.append(range(end, end + length))
        end += length
        if end - begin >= target:
            yield _split(gathered, target, max_seq_length, stream)
            gathered, begin = [], end
            target = _draw_target(stream, max_seq_length)
    if gathered:
        yield _split(gathered, target, max_seq_length, stream)


def join_segments(
    segments: Segments, tokens: np.ndarray, cls: np.ndarray, sep: np.ndarray
) -> tuple[np.ndarray, int]:
    """The example's token ids with [CLS] and [SEP], and the length of segment 0 with its special tokens.

    Args:
        tokens: ids of all of the document's tokens.
        cls, sep: ids of the special tokens, each an array of one.
    """
    first = np.concatenate([cls, *[tokens[line.start : line.stop] for line in segments.first], sep])
    if not segments.second:
        return first, len(first)
    second = [tokens[line.start : line.stop] for line in segments.second]
    return np.concatenate([first, *second, sep]), len(first)


def _draw_target(stream: ScalarStream, max_seq_length: int) -> int:
    """Mostly the full length; now and then a shorter one, so that the model meets short inputs too."""
    if stream.uniform() < _SHORT_TARGET_PROBABILITY:
        return stream.integer(_SHORTEST_TARGET, max_seq_length)
    return max_seq_length


def _split(lines: list[range], target: int, max_seq_length: int, stream: ScalarStream) -> Segments:
    single = stream.uniform() < _SINGLE_SEGMENT_PROBABILITY
    first_target = float("inf") if single else (target - 3) // 2
    first: list[range] = []
    second: list[range] = []
    first_length = second_length = 0
    for line in lines:
        length = len(line)
        fits = first_length + length < first_target
        if not first or fits or (not second and first_length < first_target and stream.uniform() < 0.5):
            first.append(line)
            first_length += length
        else:
            second.append(line)
            second_length += length
    first_most = max_seq_length - 2
    _drop_last(first, first_length - first_most)
    _drop_last(second, second_length - (first_most - 1 - min(first_length, first_most)))
    return Segments(first, second)


def _drop_last(lines: list[range], count: int) -> None:
    """Take the last `count` tokens off; none where it is negative."""
    while count > 0 and lines:
        last = lines.pop()
        if len(last) > count:
            lines.append(last[:-count])
        count -= len(last)
