"""Examples follow Google's segment rule; their draws follow from the seed and the document's text alone."""

import random

import numpy as np
import pytest
from google_examples import googles_examples

import example_builder
from example_builder import Segments, build_examples, document_key, is_held_out, join_segments

CLS, SEP = np.array([101], np.int32), np.array([102], np.int32)


def random_lengths(draw: random.Random, longest_line: int) -> list[int]:
    """The lengths of a document's lines."""
    return [draw.randint(0, longest_line) for _ in range(draw.randint(0, 40))]


def places(example: Segments) -> tuple[list[int], list[int]]:
    """Which of the document's tokens the two segments take."""
    first, second = ([place for line in segment for place in line] for segment in example)
    return first, second


@pytest.mark.parametrize("max_length", [8, 16, 128, 512])
def test_examples_are_those_of_googles_rule(max_length):
    draw = random.Random(max_length)
    compared = 0
    for number in range(400):
        lengths = random_lengths(draw, draw.choice([3, 30, 200]))
        numbers = iter(range(sum(lengths)))
        lines = [[next(numbers) for _ in range(length)] for length in lengths]
        ours = [places(example) for example in build_examples(lengths, max_length, number)]
        assert ours == list(googles_examples(lines, max_length, number))
        compared += len(ours)
    assert compared > 800


class ScriptedStream:
    """Gives the draws that a hand-worked case asks for, and no more."""

    def __init__(self, uniforms: list[float]):
        self._uniforms = uniforms

    def __call__(self, key: int) -> "ScriptedStream":
        return self

    def uniform(self) -> float:
        return self._uniforms.pop(0)

    def integer(self, low: int, high: int) -> int:
        return low + int(self.uniform() * (high - low + 1))


FULL, SHORT = 0.05, 0.049  # Draws of a target: the whole length, or one of a third draw.
PAIR, SINGLE = 0.1, 0.099
HEADS, TAILS = 0.499, 0.5


@pytest.mark.parametrize(
    ("lengths", "draws", "expected"),
    [
        # 12 of 16 tokens are not enough; the fourth line makes 18. First target (16 - 3) // 2 = 6.
        # 4 | 4 + 3 < 6 fails, tails: second | second | second, trimmed to 16 - 4 - 3 = 9.
        ([4, 3, 5, 6], [FULL, PAIR, TAILS, FULL], [([(0, 4)], [(4, 13)])]),
        # The same with heads: the first gets 7 and is full, the second 11, trimmed to 16 - 7 - 3 = 6.
        ([4, 3, 5, 6], [FULL, PAIR, HEADS, FULL], [([(0, 7)], [(7, 13)])]),
        # A line that fits joins the first segment even after the second was begun.
        ([2, 9, 2, 3], [FULL, PAIR, TAILS, FULL], [([(0, 2), (11, 13)], [(2, 11)])]),
        # A single segment takes all lines, trimmed to 16 - 2 = 14.
        ([4, 3, 5, 6], [FULL, SINGLE, FULL], [([(0, 14)], [])]),
        # A first line of 13 leaves no room for the second segment.
        ([13, 9], [FULL, PAIR, FULL], [([(0, 13)], [])]),
        ([12, 9], [FULL, PAIR, FULL], [([(0, 12)], [(12, 13)])]),
        # The rest of a document is an example, however short; blank lines have no part in it.
        ([0, 16, 0, 1, 0], [FULL, PAIR, FULL, PAIR], [([(0, 14)], []), ([(16, 17)], [])]),
        ([3], [FULL, PAIR], [([(0, 3)], [])]),
        ([], [FULL], []),
        ([0, 0], [FULL], []),
        # A short target of 5 + int(.25 * 12) = 8: first target (8 - 3) // 2 = 2, so no coin is thrown.
        ([4, 4, 9], [SHORT, 0.25, PAIR, FULL, PAIR], [([(0, 4)], [(4, 8)]), ([(8, 17)], [])]),
        # The shortest target is 5, the longest the whole length.
        ([5, 1], [SHORT, 0.0, PAIR, FULL, PAIR], [([(0, 5)], []), ([(5, 6)], [])]),
        ([15, 1], [SHORT, 0.999, PAIR, FULL], [([(0, 14)], [])]),
    ],
)
def test_hand_worked_segments(lengths, draws, expected, monkeypatch):
    """Places of the document's tokens, max_seq_length 16; every draw is taken, in this order."""
    stream = ScriptedStream(list(draws))
    monkeypatch.setattr(example_builder, "ScalarStream", stream)
    built = [places(example) for example in build_examples(lengths, 16, 0)]
    assert built == [
        tuple([place for borders in segment for place in range(*borders)] for segment in example)
        for example in expected
    ]
    assert stream._uniforms == []


def test_layout_is_cls_a_sep_b_sep():
    tokens = np.array([7, 8, 9, 10], np.int32)
    ids, first_length = join_segments(Segments([range(1), range(3, 4)], [range(1, 3)]), tokens, CLS, SEP)
    assert (ids.tolist(), ids.dtype, first_length) == ([101, 7, 10, 102, 8, 9, 102], np.int32, 4)
    ids, first_length = join_segments(Segments([range(2)], []), tokens, CLS, SEP)
    assert (ids.tolist(), first_length) == ([101, 7, 8, 102], 4)


@pytest.mark.parametrize("max_length", [8, 9, 16, 128])
def test_no_example_is_longer_than_the_maximum_or_empty(max_length):
    draw = random.Random(3)
    longest = 0
    for number in range(500):
        lengths = random_lengths(draw, draw.choice([2, 10, 300]))
        tokens = np.arange(sum(lengths), dtype=np.int32)
        for segments in build_examples(lengths, max_length, number):
            ids, first_length = join_segments(segments, tokens, CLS, SEP)
            assert segments.first and 3 <= len(ids) <= max_length and first_length <= len(ids)
            longest = max(longest, len(ids))
    assert longest == max_length


def test_a_tenth_of_the_examples_is_a_single_segment():
    """Lines of three tokens always leave some for a second segment, so that only the draw decides."""
    lengths = [3] * 4000
    examples = [example for key in range(60) for example in list(build_examples(lengths, 128, key))[:-1]]
    singles = sum(not example.second for example in examples)
    count = len(examples)
    assert count > 5000
    assert abs(singles - 0.1 * count) < 5 * np.sqrt(count * 0.1 * 0.9)


def test_a_twentieth_of_the_targets_is_short_and_uniform():
    """Lines of one token show the target as the number of tokens, up to the 125 that a pair has room for."""
    lines = [1] * 12_800
    lengths = [
        sum(map(len, places(example)))
        for key in range(150)
        for example in list(build_examples(lines, 128, key))[:-1]
    ]
    counts = np.bincount(lengths, minlength=127)
    share = 0.05 / 124
    short, count = counts[5:125], len(lengths)
    assert counts[:5].sum() == 0 and count > 10_000
    assert abs(short.sum() - count * share * 120) < 5 * np.sqrt(count * share * 120)
    statistic = ((short - short.mean()) ** 2 / short.mean()).sum()
    assert (statistic - 119) / np.sqrt(2 * 119) < 5


# ---------------------------------------------------------------------------------- the key of a document


def test_draws_follow_from_the_key_whatever_is_built_beside_it():
    lengths = random_lengths(random.Random(4), 30) * 5
    alone = list(build_examples(lengths, 64, 11))
    one, other = build_examples(lengths, 64, 11), build_examples(lengths, 64, 12)
    interleaved = [(next(one), next(other, None)) for _ in alone]
    assert [pair[0] for pair in interleaved] == alone
    assert [pair[1] for pair in interleaved] != alone


def test_key_is_of_the_seed_and_the_text():
    documents = [["ab", "c"], ["a", "bc"], ["abc"], ["c", "ab"], ["ab", "c", ""], ["Ab", "c"], []]
    keys = [document_key(seed, lines) for seed in (1, 2) for lines in documents]
    assert len(set(keys)) == len(keys)
    assert document_key(1, ["ab", "c"]) == keys[0]


def test_held_out_share_is_the_fraction_that_was_asked_for():
    keys = [document_key(7, [f"document {number}"]) for number in range(20_000)]
    held_out = {fraction: {k for k in keys if is_held_out(k, fraction)} for fraction in (0.0, 0.01, 0.1, 0.5)}
    for fraction, chosen in held_out.items():
        assert abs(len(chosen) - fraction * 20_000) <= 5 * np.sqrt(20_000 * fraction * (1 - fraction))
    assert held_out[0.01] < held_out[0.1] < held_out[0.5], (
        "a larger fraction holds the smaller one's documents"
    )


def test_held_out_choice_says_nothing_about_the_segments():
    """First examples of held-out documents are single or short as often as those of others."""
    lengths = [1] * 200
    examples: dict[bool, list] = {True: [], False: []}
    for number in range(12_000):
        key = document_key(7, [str(number)])
        examples[is_held_out(key, 0.05)].append(places(next(build_examples(lengths, 128, key))))
    for chosen in examples.values():
        short = sum(len(first) + len(second) < 125 for first, second in chosen)
        single = sum(not second for _, second in chosen)
        # Of the targets 5 to 128 those below 125 show as such; a pair has room for 125 tokens.
        for found, share in ((short, 0.05 * 120 / 124), (single, 0.1)):
            assert abs(found - share * len(chosen)) < 5 * np.sqrt(share * (1 - share) * len(chosen))
