"""Labelled texts become the sequences that BERT's code would make, and words keep one token each."""

import numpy as np
import pytest

from labelled_data import Example, Sentence
from labelled_features import NO_LABEL, build_features, build_tagged_features
from tokenization import SPECIAL_PIECES, Vocabulary

# [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4, a 5, b 6, c 7, d 8, e 9, ##a 10, ##b 11.
LETTERS = Vocabulary((*SPECIAL_PIECES, *"abcde", "##a", "##b"))
ALL = np.arange(3)


def _features(*rows: tuple[str, str | None, float], length: int = 16, **options):
    examples = [Example(str(n), text, pair, str(label), n + 2) for n, (text, pair, label) in enumerate(rows)]
    options = {"dtype": np.int32, "source": "a.tsv", "hide_progress": True} | options
    return build_features(examples, LETTERS, length, lambda example: float(example.label), **options)


def _tagged(*rows: tuple[str, list[int]], length: int = 16):
    sentences = [Sentence(str(n), words.split(), tags, 10 * n) for n, (words, tags) in enumerate(rows)]

    def label_of(sentence, place):
        return sentence.tags[place]

    return build_tagged_features(sentences, LETTERS, length, label_of, source="a.conll", hide_progress=True)


def test_hand_worked_sequences_of_one_text_and_of_two():
    features = _features(("a b", None, 1), ("c", "d ab", 0), ("", "e", 2))
    batch = features.batch(ALL, 8)
    assert batch["input_ids"].tolist() == [
        [2, 5, 6, 3, 0, 0, 0, 0],
        [2, 7, 3, 8, 5, 11, 3, 0],
        [2, 3, 9, 3, 0, 0, 0, 0],
    ]
    assert batch["input_mask"].tolist() == [
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
    ]
    assert batch["segment_ids"].tolist() == [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 1, 1, 1, 0],
        [0, 0, 1, 1, 0, 0, 0, 0],
    ]
    assert batch["labels"].tolist() == [1, 0, 2] and batch["labels"].dtype == np.int32
    assert features.lengths.tolist() == [4, 7, 4] and features.ids == ["0", "1", "2"]
    assert features.normalizers(ALL) == {"labels": 3}
    assert features.describe(np.array([2, 0])) == "a.tsv, lines 2, 4"


def test_sequences_are_those_of_hugging_face(tmp_path):
    transformers = pytest.importorskip("transformers")
    LETTERS.save(tmp_path / "vocab.txt")
    tokenizer = transformers.ElectraTokenizer.from_pretrained(tmp_path)
    rows = [("a b, c", None, 0), ("", "B a", 0), ("abab é", "d  e", 0)]
    batch = _features(*rows, length=12).batch(ALL, 12)
    theirs = [
        tokenizer(text, pair, padding="max_length", max_length=12, truncation=True) for text, pair, _ in rows
    ]
    for ours, name in (("input_ids", "input_ids"), ("input_mask", "attention_mask")):
        assert batch[ours].tolist() == [row[name] for row in theirs]
    assert batch["segment_ids"].tolist() == [row["token_type_ids"] for row in theirs]


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        (9, 2, (7, 2)),
        (2, 9, (2, 7)),
        (9, 9, (5, 4)),
        (5, 9, (5, 4)),
        (9, 4, (5, 4)),
        (4, 5, (4, 5)),
        (3, 6, (3, 6)),
    ],
)
def test_the_longer_text_loses_tokens_one_at_a_time(first, second, kept):
    """Google's code takes a token from the longer text, or from the second, until both fit: 9 tokens here."""
    features = _features((" ".join("a" * first), " ".join("b" * second), 0), length=12)
    ids = features.batch(np.array([0]), 12)["input_ids"][0].tolist()
    assert (ids.count(5), ids.count(6)) == kept and len(ids) == 12
    lengths = [first, second]
    while sum(lengths) > 9:
        lengths[0 if lengths[0] > lengths[1] else 1] -= 1
    assert tuple(lengths) == kept


def test_a_single_text_is_cut_at_its_end():
    ids = _features(("a b c d e", None, 0), length=5).batch(np.array([0]), 5)["input_ids"][0]
    assert ids.tolist() == [2, 5, 6, 7, 3]


def test_pairs_come_in_both_orders_where_the_order_means_nothing():
    features = _features(("a", "b", 1), ("c", None, 0), both_orders=True)
    ids = features.batch(ALL, 6)["input_ids"]
    assert ids.tolist() == [[2, 5, 3, 6, 3, 0], [2, 6, 3, 5, 3, 0], [2, 7, 3, 0, 0, 0]]
    assert features.labels.tolist() == [1, 1, 0]


def test_real_labels_stay_real():
    features = _features(("a", None, 2.75), dtype=np.float32)
    assert features.batch(np.array([0]), 4)["labels"].dtype == np.float32 and features.labels[0] == 2.75


# -------------------------------------------------------------------------------------------------- tags


def test_the_first_token_of_a_word_carries_its_tag():
    features = _tagged(("aab c", [3, 4]), ("b", [5]))
    batch = features.batch(np.arange(2), 8)
    assert batch["input_ids"].tolist() == [[2, 5, 10, 11, 7, 3, 0, 0], [2, 6, 3, 0, 0, 0, 0, 0]]
    none = NO_LABEL
    assert batch["labels"].tolist() == [
        [none, 3, none, none, 4, none, none, none],
        [none, 5, none, none, none, none, none, none],
    ]
    assert not batch["segment_ids"].any()
    assert features.normalizers(np.arange(2)) == {"labels": 3}
    assert features.sentence_ends.tolist() == [2, 3] and features.labels.tolist() == [3, 4, 5]


def test_words_of_several_parts_and_of_none_have_one_tag_each():
    """Punctuation is split off, and a control character leaves nothing of its word."""
    features = _tagged(("a,b \u0001 c.", [1, 2, 3]))
    batch = features.batch(np.array([0]), 10)
    assert batch["labels"][0].tolist() == [-1, 1, -1, -1, 2, 3, -1, -1, -1, -1]
    assert batch["input_ids"][0, 4] == LETTERS.ids["[UNK]"]


def test_a_sentence_that_is_too_long_is_cut_between_words_and_none_is_lost():
    words, tags = "a b aab c d ab e", [0, 1, 2, 3, 4, 5, 6]
    features = _tagged((words, tags), ("a", [7]), length=6)
    assert features.lengths.tolist() == [4, 6, 6, 3] and len(features.ids) == 2
    batch = features.batch(np.arange(4), 6)
    assert batch["input_ids"].tolist() == [
        [2, 5, 6, 3, 0, 0],
        [2, 5, 10, 11, 7, 3],
        [2, 8, 5, 11, 9, 3],
        [2, 5, 3, 0, 0, 0],
    ]
    seen = batch["labels"][batch["labels"] >= 0]
    assert seen.tolist() == [*tags, 7]
    assert [list(range(7))[features.words_of(n)] for n in range(3)] == [[0, 1], [2, 3], [4, 5, 6]]


def test_a_word_longer_than_a_sequence_is_cut():
    features = _tagged(("a" + "b" * 20, [1]), length=8)
    assert features.batch(np.array([0]), 8)["input_ids"][0].tolist() == [2, 5, 11, 11, 11, 11, 11, 3]
