"""The manifest's figures are those that one works out by hand, and units add up to them."""

import numpy as np

from example_statistics import length_counts, summarize


def test_hand_worked_bins_of_lengths():
    assert length_counts(np.array([1, 16, 17, 32, 33, 128, 128]), 128).tolist() == [2, 2, 1, 0, 0, 0, 0, 2]
    assert length_counts(np.array([2, 20]), 20).tolist() == [1, 1], "the last bin ends with the sequence"
    assert length_counts(np.array([8]), 8).tolist() == [1]
    assert len(length_counts(np.array([]), 512)) == 32


def test_units_add_up_to_the_whole():
    lengths = np.random.RandomState(0).randint(2, 129, 1000)
    parts = [length_counts(part, 128) for part in np.split(lengths, [0, 10, 10, 700])]
    assert np.array_equal(sum(parts), length_counts(lengths, 128))
    assert sum(parts).sum() == 1000


def test_hand_worked_shares():
    """Three examples of 20 places with 5, 18 and 17 tokens: 40 of 60 are tokens, and 2 of these unknown."""
    token_counts = np.array([0, 2, 3, 3, 0, 32])
    assert summarize(token_counts, length_counts(np.array([5, 18, 17]), 20), 1, 20) == {
        "examples": 3,
        "tokens": 40,
        "padding_share": 0.333333,
        "unknown_share": 0.05,
        "length_histogram": {"bin_width": 16, "examples": [1, 2]},
    }


def test_no_example_has_no_share():
    nothing = summarize(np.zeros(6, np.int64), length_counts(np.array([]), 20), 1, 20)
    assert (nothing["examples"], nothing["tokens"], nothing["unknown_share"]) == (0, 0, 0)
    assert nothing["length_histogram"]["examples"] == [0, 0]
