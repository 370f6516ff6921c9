"""Scores against values worked by hand, and spans against the rules of conlleval."""

import numpy as np
import pytest

from labelled_metrics import CLASSIFICATION_METRICS, score, score_tags, spans


def test_two_labels_by_hand():
    """3 true and 1 false positives, 2 true and 2 false negatives."""
    gold = np.array([1, 1, 1, 1, 1, 0, 0, 0])
    predicted = np.array([1, 1, 1, 0, 0, 0, 0, 1])
    scores = score(("accuracy", "f1", "matthews_correlation", "f1_macro"), gold, predicted)
    assert scores["accuracy"] == pytest.approx(5 / 8)
    assert scores["f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    assert scores["matthews_correlation"] == pytest.approx((3 * 2 - 1 * 2) / np.sqrt(4 * 5 * 3 * 4))
    assert scores["f1_macro"] == pytest.approx((6 / 9 + 4 / 7) / 2)


def test_numbers_by_hand():
    """Ranks 1 2 3 4 against 1 2 4 3; means 2.5 and 5, products of the deviations 12, squares 5 and 52."""
    gold, predicted = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 4.0, 10.0, 6.0])
    names = ("pearson", "spearman", "mean_squared_error", "mean_absolute_error")
    scores = score(names, gold, predicted)
    assert scores["pearson"] == pytest.approx(12 / np.sqrt(5 * 52))
    assert scores["spearman"] == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert scores["mean_squared_error"] == pytest.approx((1 + 4 + 49 + 4) / 4)
    assert scores["mean_absolute_error"] == pytest.approx(12 / 4)


def test_predictions_that_never_change_have_no_correlation():
    gold = np.array([0, 1, 1])
    assert score(("matthews_correlation", "f1"), gold, np.zeros(3, int)) == {
        "matthews_correlation": 0.0,
        "f1": 0.0,
    }
    constant = score(("pearson", "spearman"), np.array([0.5, 1.0]), np.array([2.0, 2.0]))
    assert constant == {"pearson": 0.0, "spearman": 0.0}
    assert score(("pearson",), np.array([0.5]), np.array([2.0])) == {"pearson": 0.0}


def test_labels_that_nobody_predicts_count_in_the_mean_of_f1():
    scores = score(CLASSIFICATION_METRICS, np.array([0, 1, 2, 2]), np.array([0, 1, 1, 1]))
    assert scores["f1_macro"] == pytest.approx((1 + 2 / 4 + 0) / 3)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-NP I-NP O B-VP", [(0, 2, "NP"), (3, 4, "VP")]),
        ("B-NP B-NP I-NP", [(0, 1, "NP"), (1, 3, "NP")]),
        # conlleval: an I of another type, or after O, begins a span.
        ("I-NP I-NP O I-VP", [(0, 2, "NP"), (3, 4, "VP")]),
        ("B-NP I-VP I-VP", [(0, 1, "NP"), (1, 3, "VP")]),
        ("O O", []),
        ("B-A-B I-A-B", [(0, 2, "A-B")]),
        # IOBES, BILOU and BMES: S and U are whole spans, and with E and L one ends.
        ("S-X S-X O B-X I-X E-X", [(0, 1, "X"), (1, 2, "X"), (3, 6, "X")]),
        ("U-X B-X L-X B-Y I-Y L-Y U-Y", [(0, 1, "X"), (1, 3, "X"), (3, 6, "Y"), (6, 7, "Y")]),
        ("B-X M-X M-X E-X S-X", [(0, 4, "X"), (4, 5, "X")]),
        # IOE: the I after an E begins the next span; an E after nothing of its type is one.
        ("I-X E-X I-X E-X E-X", [(0, 2, "X"), (2, 4, "X"), (4, 5, "X")]),
        ("B-X E-Y S-Y I-Y O E-X", [(0, 1, "X"), (1, 2, "Y"), (2, 3, "Y"), (3, 4, "Y"), (5, 6, "X")]),
    ],
)
def test_spans_by_hand(tags, expected):
    assert list(spans(tags.split())) == expected


def test_span_scores_by_hand():
    """Of three spans one is found whole, one with a wrong end, one not at all; a fourth is made up."""
    gold = [["B-NP", "I-NP", "O", "B-VP", "I-VP"], ["B-NP", "O"]]
    predicted = [["B-NP", "I-NP", "O", "B-VP", "O"], ["O", "B-PP"]]
    scores = score_tags(gold, predicted)
    assert scores == {
        "f1": pytest.approx(1 / 3),
        "precision": pytest.approx(1 / 3),
        "recall": pytest.approx(1 / 3),
        "accuracy": pytest.approx(4 / 7),
    }


def test_spans_of_one_word_count_in_iobes_and_bilou():
    """Of three spans of one word two are found, and the longer one with a wrong end: 2 of 4, and 2 of 3."""
    gold = [["S-X", "O", "B-X", "I-X", "E-X"], ["S-X", "S-Y"]]
    predicted = [["S-X", "O", "B-X", "E-X", "O"], ["O", "S-Y"]]
    expected = {
        "f1": pytest.approx(4 / 7),
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(2 / 4),
        "accuracy": pytest.approx(4 / 7),
    }
    assert score_tags(gold, predicted) == expected
    bilou = str.maketrans("SE", "UL")
    gold, predicted = ([[tag.translate(bilou) for tag in tags] for tags in all] for all in (gold, predicted))
    assert score_tags(gold, predicted) == expected
    assert score_tags([["S-X", "O"]], [["O", "O"]])["recall"] == 0


def test_nothing_found_is_no_error_and_tags_of_no_spans_have_an_accuracy_alone():
    assert score_tags([["B-X"]], [["O"]]) == {"f1": 0, "precision": 0, "recall": 0, "accuracy": 0}
    assert score_tags([["NN", "VB"]], [["NN", "NN"]]) == {"accuracy": 0.5}
