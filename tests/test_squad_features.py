"""Windows of tokens: BERT's, with labels that give the gold answer back, from a cache that is never wrong."""

import concurrent.futures
import dataclasses
import mmap
import re
import shutil
import string
import threading
import time
import tracemalloc
import unicodedata

import numpy as np
import pytest
from squad_questions import CLS, LETTERS, SEP, A, entry, question, write_squad

import files
import squad_features
from command_line import UsageError
from sliding_windows import shown_best, window_places
from squad_data import Question, read_squad
from squad_features import FeatureRule, Features, answer_tokens, build_features, load_features, token_spans
from tokenization import SPECIAL_PIECES, Vocabulary, build_tokenizer, load_vocabulary


def _ids(text: str) -> list[int]:
    return [A + ord(letter) - ord("a") for letter in text.replace(" ", "")]


def _recovered(features: Features, number: int = 0) -> list[str]:
    """What perfect logits answer, from each window that holds the whole gold answer."""
    only = features.question(number)
    answers = []
    for window in features.windows_of(number):
        batch = features.batch([window], features.lengths[window])
        if not batch["is_impossible"][0]:
            spans = features.spans(window)
            start, end = batch["start_positions"][0], batch["end_positions"][0]
            assert batch["context_mask"][0, start] and batch["context_mask"][0, end]
            answers.append(only.context[spans[start][0] : spans[end][1]])
    return answers


# ------------------------------------------------------------------------------------ windows and labels


def test_hand_worked_windows():
    """Room for 10 - 2 - 3 = 5 tokens of 8, 3 further each time: a b c d e, then d e f g h."""
    features = build_features([question("x y", "a b c d e f g h", "e f")], LETTERS, FeatureRule(10, 3, 4))
    assert len(features) == 2 and features.windows_of(0) == range(2)
    batch = features.batch([0, 1], 12)
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int32)}
    assert batch["input_ids"].tolist() == [
        [CLS, *_ids("x y"), SEP, *_ids("a b c d e"), SEP, 0, 0],
        [CLS, *_ids("x y"), SEP, *_ids("d e f g h"), SEP, 0, 0],
    ]
    assert batch["input_mask"].tolist() == [[1] * 10 + [0] * 2] * 2
    assert batch["segment_ids"].tolist() == [[0] * 4 + [1] * 6 + [0] * 2] * 2
    assert batch["context_mask"].tolist() == [[1, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0]] * 2
    # The first window cuts the answer off, so that it counts as one without.
    assert batch["start_positions"].tolist() == [0, 5]
    assert batch["end_positions"].tolist() == [0, 6]
    assert batch["is_impossible"].tolist() == [1, 0]
    assert features.spans(1).tolist() == [[-1, -1]] * 4 + [[6, 7], [8, 9], [10, 11], [12, 13], [14, 15]] + [
        [-1, -1]
    ]
    assert features.lengths.tolist() == [10, 10] and features.question_of.tolist() == [0, 0]
    # d has 1 token on its lesser side in the first window and 0 in the second; e 0 and 1.
    assert features.best_context(0)[4:9].tolist() == [True, True, True, True, False]
    assert features.best_context(1)[4:9].tolist() == [False, True, True, True, True]
    assert not features.best_context(0)[[0, 1, 2, 3, 9]].any()


@pytest.mark.parametrize(
    ("rule", "query", "context", "windows"),
    [
        # Room 5: everything fits; one token more takes a second window, which ends with the context.
        (FeatureRule(10, 3, 4), 2, 5, [(0, 5)]),
        (FeatureRule(10, 3, 4), 2, 6, [(0, 5), (3, 3)]),
        (FeatureRule(10, 3, 4), 2, 8, [(0, 5), (3, 5)]),
        (FeatureRule(10, 3, 4), 2, 9, [(0, 5), (3, 5), (6, 3)]),
        (FeatureRule(10, 1, 4), 2, 7, [(0, 5), (1, 5), (2, 5)]),
        # An empty context has a window too: the question wants some answer.
        (FeatureRule(10, 3, 4), 2, 0, [(0, 0)]),
        (FeatureRule(10, 3, 4), 0, 1, [(0, 1)]),
        # Room 3 < stride 100: the windows lie side by side and no token is left out.
        (FeatureRule(10, 100, 4), 4, 7, [(0, 3), (3, 3), (6, 1)]),
    ],
)
def test_windows_advance_by_the_stride_to_the_end(rule, query, context, windows):
    assert rule.windows(query, context) == windows


def test_windows_are_berts_for_any_lengths():
    """Against the loop that BERT's run_squad.py describes."""
    rule = FeatureRule(20, 4, 10)
    for query in range(11):
        for context in range(1, 60):
            expected, first = [], 0
            while True:
                count = min(17 - query, context - first)
                expected.append((first, count))
                if first + count == context:
                    break
                first += min(count, 4)
            assert rule.windows(query, context) == expected


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ((384, 0, 64), "--doc_stride 0: windows would make no progress"),
        ((384, 128, 0), "--max_query_length 0"),
        ((64, 128, 64), "--max_query_length 64: leaves no room for the context in --max_seq_length 64"),
        ((67, 128, 64), "--max_query_length 64: leaves no room"),
    ],
)
def test_rules_without_progress_or_room_are_refused(lengths, message):
    with pytest.raises(UsageError, match=message):
        FeatureRule(*lengths)
    FeatureRule(68, 128, 64)


def test_a_question_over_the_limit_is_cut():
    features = build_features([question("a b c d e f", "x y", "y")], LETTERS, FeatureRule(10, 3, 4))
    assert features.batch([0], 9)["input_ids"].tolist() == [[CLS, *_ids("abcd"), SEP, *_ids("xy"), SEP]]
    assert _recovered(features) == ["y"]
    assert features.question(0).text == "a b c d e f"


@pytest.mark.parametrize("context", ["", "   ", "\n"])
def test_an_empty_context_has_one_window_without_an_answer(context):
    features = build_features([question("a b", context)], LETTERS, FeatureRule(10, 3, 4))
    batch = features.batch([0], 6)
    assert batch["input_ids"].tolist() == [[CLS, *_ids("ab"), SEP, SEP, 0]]
    assert batch["input_mask"].tolist() == [[1, 1, 1, 1, 1, 0]]
    assert batch["segment_ids"].tolist() == [[0, 0, 0, 0, 1, 0]]
    assert batch["context_mask"].tolist() == [[1, 0, 0, 0, 0, 0]]
    assert batch["is_impossible"].tolist() == [1] and not features.trainable.any()
    assert features.spans(0).tolist() == [[-1, -1]] * 5 and not features.best_context(0).any()


def test_an_empty_question_still_has_its_place():
    features = build_features([question("", "a b", "b")], LETTERS, FeatureRule(10, 3, 4))
    assert features.batch([0], 5)["input_ids"].tolist() == [[CLS, SEP, *_ids("ab"), SEP]]
    assert _recovered(features) == ["b"]


def test_a_batch_that_is_too_short_is_refused():
    features = build_features([question("a", "b c")], LETTERS, FeatureRule(10, 3, 4))
    with pytest.raises(ValueError, match="6 tokens in a batch of 5"):
        features.batch([0], 5)
    assert features.batch([], 5)["input_ids"].shape == (0, 5)


def test_an_answer_longer_than_every_window_is_in_none():
    features = build_features(
        [question("x", "a b c d e f g h", "a b c d e f g h")], LETTERS, FeatureRule(8, 2, 2)
    )
    batch = features.batch(range(len(features)), 8)
    assert batch["is_impossible"].all() and not batch["start_positions"].any()
    assert features.trainable.all()


def test_what_cannot_be_trained_on_is_listed_and_still_predicted():
    """The empty mark is all there is of the fifth answer, and normalisation drops it."""
    questions = [
        question("a", "b c", "c", id="good"),
        question("a", "b c", "c", id="misplaced", start=0),
        dataclasses.replace(question("a", "b c", id="impossible"), is_impossible=True),
        question("a", "b c", id="unknown"),
        question("a", "b \u200b c", "\u200b", id="dropped"),
    ]
    features = build_features(questions, LETTERS, FeatureRule(10, 3, 4))
    assert features.trainable.tolist() == [True, False, True, False, False]
    assert [id for id, _ in features.unusable()] == ["misplaced", "unknown", "dropped"]
    assert features.num_unusable == 3
    assert [reason for _, reason in features.unusable()] == [
        "the answer does not stand at its answer_start, but elsewhere in the context",
        "no answer is given",
        "no token is left of the answer when the vocabulary's normalisation has dropped characters",
    ]
    assert features.batch(range(5), 6)["is_impossible"].tolist() == [0, 1, 1, 1, 1]
    assert [features.question(number) for number in range(5)] == questions


def test_many_questions_of_scattered_contexts_keep_their_own(monkeypatch):
    """Chunks of 3, contexts that come back in later chunks: each is tokenized into the cache once."""
    monkeypatch.setattr(squad_features, "_CHUNK_QUESTIONS", 3)
    contexts = [" ".join(string.ascii_lowercase[k : k + 9]) for k in range(5)]
    questions = [
        question("x", contexts[number * 7 % 5], contexts[number * 7 % 5][-1], id=str(number))
        for number in range(20)
    ]
    features = build_features(questions, LETTERS, FeatureRule(9, 2, 4))
    assert [features.question(number) for number in range(20)] == questions
    assert features.windows_of(19).stop == len(features) and features.num_questions == 20
    for number, only in enumerate(questions):
        assert set(_recovered(features, number)) == {only.answers[0]}
        first = features.windows_of(number).start
        assert features.batch([first], 9)["input_ids"][0, 3:8].tolist() == _ids(only.context)[:5]
    assert len(features._arrays["context_ends"]) == 5


def test_making_features_holds_a_chunk_at_a_time(monkeypatch):
    """150 contexts of 1000 tokens are 1.2 MB of spans; files are checksummed in pieces of 1 MB."""
    monkeypatch.setattr(squad_features, "_CHUNK_QUESTIONS", 2)
    questions = (
        question("x", f"{number} " + "a b c d e " * 200, "a", id=str(number)) for number in range(150)
    )
    tracemalloc.start()
    try:
        features = build_features(questions, LETTERS, FeatureRule(384, 128, 4))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert features.num_questions == 150 and peak < 3.1e6


@pytest.mark.parametrize(
    ("rule", "counts"),
    # A last window that is much shorter loses tokens that it shows in slightly more context.
    [(FeatureRule(14, 3, 4), range(40)), (FeatureRule(384, 128, 4), (380, 508, 600))],
)
def test_the_best_context_is_berts(rule, counts):
    """Against its rule in words: the largest min(left, right) + .01 * length, the first of equals."""
    for count in counts:
        context = " ".join("abcdefghij"[k % 10] for k in range(count))
        features = build_features([question("x y", context)], LETTERS, rule)
        windows = rule.windows(2, count)
        for token in range(count):
            scores = [
                min(token - first, first + length - 1 - token) + 0.01 * length
                if first <= token < first + length
                else -1
                for first, length in windows
            ]
            best = scores.index(max(scores))
            for window, (first, length) in enumerate(windows):
                if first <= token < first + length:
                    assert features.best_context(window)[4 + token - first] == (window == best)


def test_the_best_windows_of_a_long_text_are_those_of_all_of_them_compared():
    for room, stride, tokens in ((10, 3, 400), (9, 9, 100), (12, 5, 12), (8, 1, 60)):
        firsts, counts = map(np.array, zip(*window_places(tokens, room, stride), strict=True))
        left = np.arange(tokens) - firsts[:, None]
        right = (firsts + counts - 1)[:, None] - np.arange(tokens)
        scores = 100 * np.minimum(left, right) + counts[:, None]
        best = np.where((left >= 0) & (right >= 0), scores, -1).argmax(axis=0)
        for own, (first, count) in enumerate(zip(firsts, counts, strict=True)):
            expected = best[first : first + count] == own
            assert shown_best(firsts, counts, own).tolist() == expected.tolist()


def test_other_answers_to_the_same_questions_have_another_checksum():
    first = question("x", "a b a", "a")
    other = dataclasses.replace(first, answer_start=4)
    one, two = (build_features([asked], LETTERS, FeatureRule(32, 8, 4)) for asked in (first, other))
    assert one.fingerprint() == two.fingerprint() and one.label_fingerprint() != two.label_fingerprint()
    again = build_features([first], LETTERS, FeatureRule(32, 8, 4))
    assert one.label_fingerprint() == again.label_fingerprint()


# ------------------------------------------------------------------------------------ every kind of text


def _characters(text: str, lower: bool) -> Vocabulary:
    """A vocabulary of all the characters of a text, inside and at the beginning of words."""
    decomposed = set(text) | set(unicodedata.normalize("NFD", text.lower())) | set(text.lower())
    characters = sorted(c for c in decomposed if not c.isspace())
    return Vocabulary((*SPECIAL_PIECES, *characters, *(f"##{c}" for c in characters)), do_lower_case=lower)


FLAG = "\U0001f3f4\U000e0067\U000e0062\U000e007f"
TEXTS = {
    "spaces": ("one  two\tthree\nfour   five", "two\tthree\nfour"),
    "case": ("The BBC and the McDonald", "McDonald"),
    "composed accents": ("un café à Orléans", "café à Orléans"),
    "combining accents": ("un cafe\u0301 a\u0300 Paris", "cafe\u0301"),
    "combining accent at the end": ("au cafe\u0301", "cafe\u0301"),
    "several marks": ("x a\u0301\u0323\u0336 y", "a\u0301\u0323\u0336"),
    "chinese": ("他在东京出生。后来", "东京"),
    "japanese": ("ガガーリンは、東京に", "ガガーリン"),
    "korean": ("그는 한국 사람", "한국"),
    "korean in one word": ("그는한국사람", "한국"),
    "emoji": ("so 😀 and 🎉", "😀"),
    "emoji sequence": ("a 👨\u200d👩\u200d👧 b", "👨\u200d👩\u200d👧"),
    "emoji with a selector": ("I ❤\ufe0f it", "❤\ufe0f"),
    "emoji flag with tags": (f"go {FLAG} now", FLAG),
    "hebrew with points": ("הוא אמר שָׁלוֹם לי", "שָׁלוֹם"),
    "hebrew ending in a point": ("אמר שָׁלוֹמָ לי", "שָׁלוֹמָ"),
    "arabic with marks": ("قال مُحَمَّدٌ ذلك", "مُحَمَّدٌ"),
    "hindi": ("वह नमस्ते बोला", "नमस्ते"),
    "thai": ("ไป น้ำ กิน", "น้ำ"),
    "no-break space": ("about 5\u00a0km north", "5\u00a0km"),
    "control characters": ("one t\x00w\x07o three", "t\x00w\x07o"),
    "ligature": ("the \ufb01ne \ufb01sh", "\ufb01sh"),
    "dotted capital": ("in \u0130stanbul now", "\u0130stanbul"),
    "quotes": ('he said "no" twice', '"no"'),
    "currency": ("cost $7.50, or £6", "$7.50"),
    "line separator": ("one\u2028two", "two"),
}


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("name", TEXTS)
def test_the_gold_answer_comes_back_from_every_window(name, lower):
    """With its case, white space and marks as in the context, wherever the windows cut."""
    context, answer = TEXTS[name]
    vocabulary = _characters(context, lower)
    for max_seq_length in (8, 11, 15, 64):
        rule = FeatureRule(max_seq_length, 2, 3)
        features = build_features([question("x", context, answer)], vocabulary, rule)
        assert set(_recovered(features)) <= {answer}
    assert _recovered(features) == [answer]


def test_spans_are_in_the_original_text():
    """Any text: within it, never empty, never going back, and the marks that follow a letter with it."""
    draw = np.random.RandomState(0)
    pieces = [
        *"ab .-$東각😀",
        "e\u0301",
        "\u0301",
        "שָׁ",
        "नि",
        "\ufb01",
        "\u0130",
        "\u0149",
        "\u0390",
        "[SEP]",
    ]
    pieces += ["\u00a0", "\u200b", "\x00", "\ufffd", "\u3000", "\u1e9b\u0323", "👨\u200d👩", "a" * 101]
    for lower in (True, False):
        for strip_accents in (True, False):
            vocabulary = _characters("".join(pieces), lower)
            vocabulary = dataclasses.replace(vocabulary, strip_accents=strip_accents)
            tokenizer = build_tokenizer(vocabulary)
            for _ in range(300):
                text = "".join(pieces[k] for k in draw.randint(0, len(pieces), 12))
                encoding = tokenizer.encode(text, add_special_tokens=False)
                spans = token_spans(text, encoding.offsets)
                assert (spans[:, 0] < spans[:, 1]).all() and (spans >= 0).all()
                assert (np.diff(spans, axis=0) >= 0).all() and (spans <= len(text)).all()
                assert (spans[:, 0] == np.reshape(encoding.offsets, (-1, 2))[:, 0]).all()
                covered = np.zeros(len(text), bool)
                for begin, end in spans:
                    covered[begin:end] = True
                marks = np.array([unicodedata.category(character)[0] == "M" for character in text])
                assert covered[1:][marks[1:] & covered[:-1]].all()


def test_answers_are_the_tokens_that_share_a_character():
    spans = np.array([[0, 3], [3, 5], [6, 7], [6, 7], [6, 7], [9, 12]])
    assert answer_tokens(spans, 0, 3) == (0, 0)
    assert answer_tokens(spans, 2, 2) == (0, 1)
    assert answer_tokens(spans, 6, 1) == (2, 4)
    assert answer_tokens(spans, 5, 2) == (2, 4)
    assert answer_tokens(spans, 7, 3) == (5, 5)
    assert answer_tokens(spans, 7, 2) is None
    assert answer_tokens(spans, 12, 1) is None
    assert answer_tokens(spans[:0], 0, 5) is None


# ------------------------------------------------------------------------------------------- real questions


def _normalized(text: str) -> str:
    """The official evaluators' normalisation: lower case, no punctuation, no articles, single spaces."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _unrecoverable(features: Features) -> tuple[int, list[tuple[str, str]]]:
    """How many questions have an answer, and (id, reason) of those that perfect logits do not give back."""
    reasons = dict(features.unusable())
    answerable = [n for n in range(features.num_questions) if features.question(n).answers]
    for number in answerable:
        only, texts = features.question(number), _recovered(features, number)
        if not texts:
            reasons.setdefault(only.id, "no window holds the whole answer")
        elif {_normalized(text) for text in texts} != {_normalized(only.answers[0])}:
            reasons[only.id] = f"{only.answers[0]!r} begins or ends inside a word piece of {texts[0]!r}"
    return len(answerable), list(reasons.items())


@pytest.mark.parametrize(("name", "version_2"), [("train-v1.1", False), ("train-v2.0", True)])
@pytest.mark.parametrize("rule", [FeatureRule(384, 128, 64), FeatureRule(128, 32, 32)])
def test_real_answers_come_back_from_perfect_logits(shared_data, name, version_2, rule):
    vocabulary = load_vocabulary(shared_data / "vocab" / "vocab.txt")
    questions = read_squad(shared_data / "squad" / f"{name}.json", "train_file", version_2)
    answerable, lost = _unrecoverable(build_features(questions, vocabulary, rule))
    assert answerable == 823
    # "(2,700" begins the word piece that "(2,70" is the gold answer's cut end of.
    assert [reason for _, reason in lost] == [
        "'7,000,000 square kilometres (2,70' begins or ends inside a word piece of "
        "'7,000,000 square kilometres (2,700'"
    ]
    assert len(lost) <= 0.005 * answerable


def test_tokens_and_labels_are_hugging_faces(shared_data):
    """On the development set. Its `stride` is the overlap of two windows, ours their advance."""
    transformers = pytest.importorskip("transformers")
    vocab_file = shared_data / "vocab" / "vocab.txt"
    tokenizer = transformers.BertTokenizerFast.from_pretrained(vocab_file.parent)
    rule = FeatureRule(96, 30, 40)
    questions = read_squad(shared_data / "squad" / "dev-v1.1.json", "predict_file", False)
    features = build_features(questions, load_vocabulary(vocab_file), rule)
    for number, only in enumerate(questions):
        query = tokenizer(only.text, add_special_tokens=False)["input_ids"]
        assert len(query) <= rule.max_query_length
        encoded = tokenizer(
            only.text,
            only.context,
            truncation="only_second",
            max_length=rule.max_seq_length,
            stride=rule.max_seq_length - len(query) - 3 - rule.doc_stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        windows = features.windows_of(number)
        assert len(windows) == len(encoded["input_ids"])
        end = only.answer_start + len(only.answers[0])
        for place, window in enumerate(windows):
            batch = features.batch([window], rule.max_seq_length)
            length = features.lengths[window]
            assert batch["input_ids"][0, :length].tolist() == encoded["input_ids"][place]
            assert batch["segment_ids"][0, :length].tolist() == encoded["token_type_ids"][place]
            is_context = np.array([part == 1 for part in encoded.sequence_ids(place)])
            offsets = np.array(encoded["offset_mapping"][place])
            assert batch["context_mask"][0, 1:length].tolist() == is_context[1:].tolist()
            np.testing.assert_array_equal(features.spans(window)[is_context], offsets[is_context])
            held = np.flatnonzero(is_context & (offsets[:, 0] < end) & (offsets[:, 1] > only.answer_start))
            whole = len(held) and offsets[held[0], 0] <= only.answer_start and offsets[held[-1], 1] >= end
            assert batch["is_impossible"][0] == (not whole)
            if whole:
                assert (batch["start_positions"][0], batch["end_positions"][0]) == (held[0], held[-1])


# ------------------------------------------------------------------------------------------------- the cache


RULE = FeatureRule(10, 3, 4)


@pytest.fixture
def squad_file(tmp_path):
    entries = [entry("1", ("e f", 8)), entry("2", ("a", 0))]
    others = [entry("3", ("東", 2))]
    return write_squad(tmp_path / "train.json", ("a b c d e f g h", entries), ("é 東", others))


def _load(path, cache, vocabulary=LETTERS, rule=RULE, version_2=False, **options) -> Features:
    return load_features(path, "train_file", vocabulary, rule, version_2, cache, **options)


def _content(features: Features) -> list:
    batch = features.batch(range(len(features)), 10)
    return [
        *(array.tolist() for array in batch.values()),
        [features.question(number) for number in range(features.num_questions)],
        [features.spans(window).tolist() for window in range(len(features))],
        features.trainable.tolist(),
        features.question_of.tolist(),
    ]


def _no_tokenizer(*arguments):
    raise AssertionError("tokenized again")


def test_the_second_load_reads_the_cache(squad_file, tmp_path, monkeypatch):
    cache = tmp_path / "a" / "cache"
    made = _content(_load(squad_file, cache))
    (folder,) = cache.iterdir()
    assert folder.name.startswith("train-")
    monkeypatch.setattr(squad_features, "_Builder", _no_tokenizer)
    monkeypatch.setattr(squad_features, "iterate_questions", _no_tokenizer)
    assert _content(_load(squad_file, cache)) == made
    # The file's name is no part of what it means.
    other = shutil.copy(squad_file, tmp_path / "a" / "train.json")
    assert _content(_load(other, str(cache))) == made


def test_without_a_cache_nothing_is_kept(squad_file, tmp_path, monkeypatch):
    """And what a cache holds is not read."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    cache = tmp_path / "cache"
    made = _content(_load(squad_file, cache))
    for options in ({"skip_cache": True, "cache": cache}, {"cache": None}, {"cache": tmp_path / "new"}):
        options = {"skip_cache": True} | options
        features = _load(squad_file, **options)
        assert _content(features) == made
        del features
    assert not list((tmp_path / "temporary").iterdir())
    assert len(list(cache.iterdir())) == 1 and not (tmp_path / "new").exists()
    with monkeypatch.context() as patch:
        patch.setattr(squad_features, "_Builder", _no_tokenizer)
        with pytest.raises(AssertionError, match="tokenized again"):
            _load(squad_file, cache, skip_cache=True)


def test_everything_that_changes_features_changes_the_key(squad_file, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    _load(squad_file, cache)
    count = 1

    def adds_a_folder(**changes) -> bool:
        nonlocal count
        _load(**({"path": squad_file, "cache": cache} | changes))
        before, count = count, len(list(cache.iterdir()))
        return count == before + 1

    assert not adds_a_folder()
    assert adds_a_folder(rule=FeatureRule(11, 3, 4))
    assert adds_a_folder(rule=FeatureRule(10, 2, 4))
    assert adds_a_folder(rule=FeatureRule(10, 3, 5))
    swapped = (*LETTERS.pieces[:5], "b", "a", *LETTERS.pieces[7:])
    assert adds_a_folder(vocabulary=Vocabulary(swapped))
    assert adds_a_folder(vocabulary=dataclasses.replace(LETTERS, do_lower_case=False))
    assert adds_a_folder(vocabulary=dataclasses.replace(LETTERS, strip_accents=False))
    both = write_squad(tmp_path / "both.json", ("a", [entry("1", ("a", 0), is_impossible=False)]))
    assert adds_a_folder(path=both)
    assert adds_a_folder(path=both, version_2=True)
    squad_file.write_text(squad_file.read_text() + "\n")
    assert adds_a_folder()
    monkeypatch.setattr(squad_features, "_FORMAT_VERSION", 1000)
    assert adds_a_folder()
    monkeypatch.setattr(squad_features.tokenizers, "__version__", "other")
    assert adds_a_folder()


def _flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _manifest_of_others(path):
    manifest = files.read_json(path)
    manifest["settings"]["doc_stride"] = 7
    files.write_json(path, manifest)


DAMAGE = {
    "a changed byte": ("context_tokens.npy", _flip),
    "a cut file": ("records.npy", lambda path: path.write_bytes(path.read_bytes()[:-3])),
    "an emptied file": ("lengths.npy", lambda path: path.write_bytes(b"")),
    "a missing file": ("context_spans.npy", lambda path: path.unlink()),
    "no manifest": ("manifest.json", lambda path: path.unlink()),
    "half a manifest": ("manifest.json", lambda path: path.write_bytes(path.read_bytes()[:50])),
    "another manifest": ("manifest.json", lambda path: path.write_text("[1, 2]")),
    "a manifest of other settings": ("manifest.json", _manifest_of_others),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_made_again(squad_file, tmp_path, damage, monkeypatch):
    cache = tmp_path / "cache"
    made = _content(_load(squad_file, cache))
    (folder,) = cache.iterdir()
    name, spoil = DAMAGE[damage]
    spoil(folder / name)
    assert _content(_load(squad_file, cache)) == made
    assert list(cache.iterdir()) == [folder]
    monkeypatch.setattr(squad_features, "_Builder", _no_tokenizer)
    assert _content(_load(squad_file, cache)) == made


def test_an_interrupted_build_leaves_no_cache(squad_file, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    cache = tmp_path / "cache"
    monkeypatch.setattr(squad_features, "answer_fault", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _load(squad_file, cache)
    assert list(cache.iterdir()) == []


def test_of_two_processes_that_want_one_cache_one_makes_it(squad_file, tmp_path, monkeypatch):
    cache, built = tmp_path / "cache", []

    class CountedBuilder(squad_features._Builder):
        def __init__(self, *arguments):
            built.append(threading.current_thread().name)
            time.sleep(0.5)
            super().__init__(*arguments)

    monkeypatch.setattr(squad_features, "_Builder", CountedBuilder)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: _content(_load(squad_file, cache)), range(2))
    assert first == second and len(built) == 1 and len(list(cache.iterdir())) == 1


def test_what_a_killed_builder_left_is_removed(squad_file, tmp_path):
    cache = tmp_path / "cache"
    left = cache / ".train-v1.1-0123.77.tmp"
    left.mkdir(parents=True)
    (left / "contexts.npy").write_bytes(b"half")
    _load(squad_file, cache)
    assert not left.exists() and len(list(cache.iterdir())) == 1


def test_a_cache_folder_that_cannot_be_made_is_named(squad_file, tmp_path):
    with pytest.raises(UsageError, match=rf"--cache_dir {squad_file}: "):
        _load(squad_file, squad_file)
    with pytest.raises(UsageError, match=r"--train_file .*absent.json: No such file"):
        _load(tmp_path / "absent.json", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_bad_files_leave_no_cache(tmp_path):
    path = tmp_path / "train.json"
    path.write_text("{}")
    with pytest.raises(UsageError, match="not SQuAD format"):
        _load(path, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_arrays_are_mapped_and_read_only(squad_file, tmp_path):
    features = _load(squad_file, tmp_path / "cache")
    for array in features._arrays.values():
        assert not array.flags.writeable
        while isinstance(array.base, np.ndarray):
            array = array.base
        assert isinstance(array.base, memoryview | mmap.mmap)
    made = _content(features)
    features.release_memory()
    assert _content(features) == made


def test_questions_keep_what_no_encoding_likes(tmp_path):
    """Ids may hold anything that JSON can."""
    odd = Question("\ud800 \"'\n", "a\u0000b", "\ufeff c \U0001f600", ["c"], 2, False, "article 1 '\u2028'")
    assert build_features([odd], LETTERS, RULE).question(0) == odd
