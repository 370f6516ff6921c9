"""Documents -> training examples: pure functions, Google's segment rule, draws keyed by the document.

An example is [CLS] A [SEP] B [SEP], or [CLS] A [SEP] alone. The lines of a document accumulate until a target
length is reached and are then split in two segments (google-research/electra, build_pretraining_dataset).
Every random draw is a function of the seed and of the document's text, so it does not depend on the file,
the process or the order in which the document is met.
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from keyed_random import ScalarStream, derive_key

_SINGLE_SEGMENT_PROBABILITY = 0.1
_SHORT_TARGET_PROBABILITY = 0.05
_SHORTEST_TARGET = 5


class Segments(NamedTuple):
    """The token ids of an example's two segments, without special tokens; the second may be empty."""

    first: list[int]
    second: list[int]


def document_key(seed: int, lines: list[str]) -> int:
    """The key of a document's draws: of the seed and its text."""
    digest = hashlib.blake2b(digest_size=8)
    for line in lines:
        digest.update(line.encode("utf-8"))
        digest.update(b"\n")
    return derive_key(seed, "document", int.from_bytes(digest.digest(), "little"))


def is_held_out(key: int, held_out_fraction: float) -> bool:
    """Whether the document of this key belongs to the held-out set."""
    return ScalarStream(derive_key(key, "held out")).uniform() < held_out_fraction


def build_examples(lines: list[list[int]], max_seq_length: int, key: int) -> Iterator[Segments]:
    """Split one tokenized document into examples of at most `max_seq_length` tokens.

    Args:
        lines: token ids of each line, without special tokens.
        max_seq_length: length that [CLS], the segments and their [SEP] must fit in.
        key: the document's key.
    """
    stream = ScalarStream(derive_key(key, "segments"))
    target = _draw_target(stream, max_seq_length)
    gathered: list[list[int]] = []
    length = 0
    for line in lines:
        if not line:
            continue
        gathered.append(line)
        length += len(line)
        if length >= target:
            yield _split(gathered, target, max_seq_length, stream)
            gathered, length = [], 0
            target = _draw_target(stream, max_seq_length)
    if gathered:
        yield _split(gathered, target, max_seq_length, stream)


def join_segments(segments: Segments, cls_id: int, sep_id: int) -> tuple[list[int], int]:
    """The example's token ids with [CLS] and [SEP], and the length of segment 0 with its special tokens."""
    first = [cls_id, *segments.first, sep_id]
    if not segments.second:
        return first, len(first)
    return [*first, *segments.second, sep_id], len(first)


def _draw_target(stream: ScalarStream, max_seq_length: int) -> int:
    """Mostly the full length; now and then a shorter one, so that the model meets short inputs too."""
    if stream.uniform() < _SHORT_TARGET_PROBABILITY:
        return stream.integer(_SHORTEST_TARGET, max_seq_length)
    return max_seq_length


def _split(lines: list[list[int]], target: int, max_seq_length: int, stream: ScalarStream) -> Segments:
    single = stream.uniform() < _SINGLE_SEGMENT_PROBABILITY
    first_target = float("inf") if single else (target - 3) // 2
    first: list[int] = []
    second: list[int] = []
    for line in lines:
        fits = len(first) + len(line) < first_target
        if not first or fits or (not second and len(first) < first_target and stream.uniform() < 0.5):
            first += line
        else:
            second += line
    first = first[: max_seq_length - 2]
    second = second[: max(0, max_seq_length - len(first) - 3)]
    return Segments(first, second)
