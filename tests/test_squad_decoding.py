"""Answers are the best spans of all windows, cut from the original context; or nothing, where that wins.

Windows are made here from words; how real ones are cut is tested with squad_data.py.
"""

import json
import math

import numpy as np
import pytest

from squad_decoding import DecodingRule, JointOutput, PlainOutput, WindowView, decode, rank_answers

CONTEXT = "The  Seine flows\nthrough Paris, France"
WORDS = ["The", "Seine", "flows", "through", "Paris", ",", "France"]
PLAIN = DecodingRule(joint_head=False)
LENGTH = len(WORDS) + 4
LOW = -10.0


def word_spans(context: str, words: list[str]) -> list[tuple[int, int]]:
    """Character spans of words that follow one another in the context."""
    spans, end = [], 0
    for word in words:
        start = context.index(word, end)
        end = start + len(word)
        spans.append((start, end))
    return spans


def view(spans: list[tuple[int, int]], best=None) -> WindowView:
    """[CLS] question [SEP] context… [SEP]: the context begins at token 3."""
    outside = [(-1, -1)]
    in_context = [True] * len(spans) if best is None else best
    return WindowView(
        np.array(outside * 3 + spans + outside, np.int32), np.array([False] * 3 + list(in_context) + [False])
    )


WINDOW = view(word_spans(CONTEXT, WORDS))


def plain(starts: dict[int, float], ends: dict[int, float], null=(LOW, LOW), length=LENGTH):
    """Logits of context words by their number; everything else is low, [CLS] is `null`."""
    output = PlainOutput(np.full(length, LOW, np.float32), np.full(length, LOW, np.float32))
    for logits, values, of_null in zip(output.__dict__.values(), (starts, ends), null, strict=True):
        logits[0] = of_null
        for word, value in values.items():
            logits[3 + word] = value
    return output


def joint(beams: list[tuple[int, float, dict[int, float]]], null=LOW):
    """Beams of (start word, log-probability, {end word: log-probability})."""
    return JointOutput(
        np.array([log_prob for _, log_prob, _ in beams], np.float32),
        np.array([3 + word for word, _, _ in beams], np.int32),
        np.array([list(ends.values()) for *_, ends in beams], np.float32),
        np.array([[3 + word for word in ends] for *_, ends in beams], np.int32),
        null,
    )


def texts(decoded) -> list[str]:
    return [entry["text"] for entry in decoded.n_best]


def test_the_answer_is_a_piece_of_the_context_as_it_stands():
    """Double blanks, line ends and punctuation included."""
    decoded = decode(CONTEXT, [WINDOW], [plain({0: 3}, {3: 2})], PLAIN)
    assert decoded.prediction == "The  Seine flows\nthrough"
    assert decoded.null_odds is None
    best = decoded.n_best[0]
    assert list(best) == ["text", "probability", "start_logit", "end_logit"]
    assert (best["start_logit"], best["end_logit"]) == (3.0, 2.0)
    (first, *_) = rank_answers(CONTEXT, [WINDOW], [plain({0: 3}, {3: 2})], PLAIN)
    assert (first.start, first.end, first.score) == (0, 24, 5.0)


def test_the_best_text_is_what_a_threshold_above_all_odds_would_answer():
    """Whatever the threshold makes of the prediction; "" alone where the context holds no answer."""
    for joint_head in (False, True):
        output = joint([(4, -0.1, {6: -0.1}), (1, -3.0, {1: -0.1})], null=8.0)
        if not joint_head:
            output = plain({4: 3, 1: 1}, {6: 3, 1: 1}, null=(8, 8))
        for threshold, prediction in ((-100, ""), (100, "Paris, France")):
            rule = DecodingRule(
                version_2=True, null_score_diff_threshold=threshold, joint_head=joint_head, n_best_size=2
            )
            decoded = decode(CONTEXT, [WINDOW], [output], rule)
            assert (decoded.prediction, decoded.best_text) == (prediction, "Paris, France")
    nothing = decode(
        "", [view([])], [plain({}, {}, length=4)], DecodingRule(version_2=True, joint_head=False)
    )
    assert nothing.best_text == ""


def test_probabilities_are_a_softmax_over_the_scores():
    decoded = decode(
        CONTEXT, [WINDOW], [plain({1: 2, 4: 1}, {2: 1, 6: 0})], DecodingRule(3, 3, joint_head=False)
    )
    assert texts(decoded) == ["Seine flows", "Paris, France", "The  Seine flows"]
    weights = [math.exp(3), math.exp(1), math.exp(LOW + 1)]
    assert [entry["probability"] for entry in decoded.n_best] == pytest.approx(
        [weight / sum(weights) for weight in weights]
    )
    json.dumps(decoded.n_best)


@pytest.mark.parametrize(
    ("starts", "ends", "expected"),
    [
        ({1: 5, 4: 4}, {0: 5, 4: 3}, "Seine flows\nthrough Paris"),  # the best end lies before the best start
        ({4: 5}, {4: 5}, "Paris"),  # one token
        ({0: 5, 3: 1}, {6: 5, 5: 1}, "through Paris, France"),  # the best pair is seven tokens long
    ],
)
def test_answers_end_where_they_start_or_later_and_are_not_too_long(starts, ends, expected):
    rule = DecodingRule(20, 4, joint_head=False)
    assert decode(CONTEXT, [WINDOW], [plain(starts, ends)], rule).prediction == expected


@pytest.mark.parametrize(("longest", "expected"), [(5, "Seine flows\nthrough Paris,"), (4, "Seine")])
def test_the_longest_answer_counts_tokens(longest, expected):
    rule = DecodingRule(20, longest, joint_head=False)
    assert decode(CONTEXT, [WINDOW], [plain({1: 5}, {5: 5, 1: 1})], rule).prediction == expected


def test_equal_scores_go_to_the_earlier_window_then_the_earlier_start_then_the_shorter_answer():
    spans = word_spans("a b c d", list("abcd"))
    rule = DecodingRule(20, 30, joint_head=False)
    flat = plain(dict.fromkeys(range(4), 0.0), dict.fromkeys(range(4), 0.0), length=8)
    expected = ["a", "a b", "a b c", "a b c d", "b", "b c", "b c d", "c", "c d", "d"]
    assert texts(decode("a b c d", [view(spans)], [flat], rule)) == expected
    first, second = view(spans[2:]), view(spans[:2])
    short = plain(dict.fromkeys(range(2), 0.0), dict.fromkeys(range(2), 0.0), length=6)
    assert texts(decode("a b c d", [first, second], [short, short], rule)) == [
        "c",
        "c d",
        "d",
        "a",
        "a b",
        "b",
    ]


def test_a_tie_that_float32_would_round_into_being_is_none():
    """8388608 + 0.25 is 8388608 in float32; the scores differ all the same."""
    spans = word_spans("a b", ["a", "b"])
    output = plain({0: 2.0**23, 1: 2.0**23}, {0: 0.0, 1: 0.25}, length=6)
    assert texts(decode("a b", [view(spans)], [output], PLAIN)) == ["a b", "b", "a"]


def test_the_plain_head_pairs_as_many_starts_and_ends_as_the_list_is_long():
    """Of two, the best starts are words 0 and 1, the best ends 5 and 6: nothing else is proposed."""
    output = plain({0: 5, 1: 4, 2: 3}, {6: 5, 5: 4, 2: 3})
    found = rank_answers(CONTEXT, [WINDOW], [output], DecodingRule(2, 30, joint_head=False))
    assert [found[0].score, found[1].score] == [10.0, 9.0]
    scores = {a.score for a in rank_answers(CONTEXT, [WINDOW], [output], PLAIN)}
    assert {10.0, 9.0, 8.0, 7.0, 6.0} <= scores, "with a longer list the third start and end come in"
    short = DecodingRule(2, 3, joint_head=False)
    fallback = rank_answers(CONTEXT, [WINDOW], [output], short)
    assert [answer.text for answer in fallback] == ["The  Seine flows", "Seine flows"]


def test_an_untrained_model_still_answers():
    """All its best starts lie behind its best ends."""
    words = [chr(ord("a") + number) for number in range(26)]
    context = " ".join(words)
    ramp = {number: float(number) for number in range(26)}
    output = plain(ramp, {word: -value for word, value in ramp.items()}, length=30)
    rule = DecodingRule(5, 30, joint_head=False)
    assert decode(context, [view(word_spans(context, words))], [output], rule).prediction == "a"
    assert len(rank_answers(context, [view(word_spans(context, words))], [output], rule)) == 5


def test_question_special_and_padding_tokens_are_never_in_an_answer():
    output = PlainOutput(np.full(20, 50, np.float32), np.full(20, 50, np.float32))
    output.start_logits[3:10], output.end_logits[3:10] = 0, 0
    output.start_logits[7], output.end_logits[7] = 1, 1
    assert decode(CONTEXT, [WINDOW], [output], PLAIN).prediction == "Paris"


def test_what_lies_past_the_window_is_not_looked_at():
    """Batches are padded: logits there may be anything."""
    output = plain({4: 1}, {4: 1}, length=30)
    output.start_logits[11:], output.end_logits[11:] = np.nan, np.inf
    assert decode(CONTEXT, [WINDOW], [output], PLAIN).prediction == "Paris"


# --- windows ---


def overlapping_windows() -> list[WindowView]:
    """The words 0 to 4 and 3 to 6: 3 has its best context in the first, 4 in the second."""
    spans = word_spans(CONTEXT, WORDS)
    return [view(spans[:5], [True] * 4 + [False]), view(spans[3:], [False] + [True] * 3)]


def test_an_answer_cut_off_in_one_window_comes_from_the_one_that_holds_it():
    """The first window sees "Paris" at its border and likes it best; it has no say there."""
    first = plain({4: 9}, {4: 9}, length=9)
    second = plain({1: 3}, {3: 3}, length=8)
    decoded = decode(CONTEXT, overlapping_windows(), [first, second], PLAIN)
    assert decoded.prediction == "Paris, France"
    assert decoded.n_best[0]["start_logit"] == 3.0


def test_starts_of_other_windows_take_no_place_among_the_best():
    """Of two starts a window, words 3 and 0 of the first, though 4 has the highest logit there."""
    window = overlapping_windows()[0]
    output = plain({4: 9, 3: 2, 0: 1}, {3: 5, 4: 4}, length=9)
    answers = rank_answers(CONTEXT, [window], [output], DecodingRule(2, 2, joint_head=False))
    assert [answer.text for answer in answers] == ["through", "through Paris"]
    answers = rank_answers(CONTEXT, [window], [output], DecodingRule(2, 30, joint_head=False))
    assert [answer.score for answer in answers] == [7.0, 6.0]
    assert answers[1].text == "The  Seine flows\nthrough"


def test_an_answer_may_end_where_another_window_sees_more():
    first = plain({3: 9}, {4: 9}, length=9)
    second = plain({1: 3}, {3: 3}, length=8)
    assert decode(CONTEXT, overlapping_windows(), [first, second], PLAIN).prediction == "through Paris"


def test_the_same_text_is_listed_once_with_its_best_score():
    """From two windows, and from two places of the context."""
    context = "Paris, not Paris"
    spans = word_spans(context, ["Paris", ",", "not", "Paris"])
    windows = [view(spans), view(spans)]
    outputs = [plain({0: 1, 3: 2}, {0: 1, 3: 2}, length=8), plain({0: 3}, {0: 3}, length=8)]
    rule = DecodingRule(3, 1, joint_head=False)
    decoded = decode(context, windows, outputs, rule)
    assert sorted(texts(decoded)) == [",", "Paris", "not"]
    assert decoded.n_best[0]["text"] == "Paris"
    assert decoded.n_best[0]["start_logit"] == decoded.n_best[0]["end_logit"] == 3.0
    assert sum(entry["probability"] for entry in decoded.n_best) == pytest.approx(1)
    (best, *_) = rank_answers(context, windows[:1], outputs[:1], rule)
    assert (best.text, best.start) == ("Paris", 11)


def test_every_window_needs_its_output():
    with pytest.raises(ValueError, match="1 outputs for 2 windows"):
        decode(CONTEXT, [WINDOW, WINDOW], [plain({}, {})], PLAIN)
    with pytest.raises(ValueError, match="0 windows"):
        decode(CONTEXT, [], [], PLAIN)


# --- no answer ---


@pytest.mark.parametrize(
    ("threshold", "expected"), [(0.9, ""), (1.0, "Paris"), (1.1, "Paris"), (-2.75, ""), (math.inf, "Paris")]
)
def test_plain_head_answers_nothing_above_the_threshold_only(threshold, expected):
    """[CLS] scores 3 + 2, the best answer 2 + 2: odds of 1."""
    rule = DecodingRule(20, 30, True, threshold, joint_head=False)
    decoded = decode(CONTEXT, [WINDOW], [plain({4: 2}, {4: 2}, null=(3, 2))], rule)
    assert decoded.null_odds == 1.0 and decoded.prediction == expected
    empty, best, *_ = decoded.n_best
    assert (empty["text"], empty["start_logit"], empty["end_logit"]) == ("", 3.0, 2.0)
    assert empty["probability"] / best["probability"] == pytest.approx(math.e)


def test_plain_heads_null_score_is_the_least_of_the_windows():
    """One window that is sure of its answer speaks for the question."""
    first = plain({}, {}, null=(9, 9), length=9)
    second = plain({1: 2}, {3: 2}, null=(1, 0.5), length=8)
    rule = DecodingRule(20, 30, True, joint_head=False)
    decoded = decode(CONTEXT, overlapping_windows(), [first, second], rule)
    assert decoded.null_odds == 1.5 - 4 and decoded.prediction == "Paris, France"
    (empty,) = (entry for entry in decoded.n_best if entry["text"] == "")
    assert (empty["start_logit"], empty["end_logit"]) == (1.0, 0.5)


@pytest.mark.parametrize(("threshold", "expected"), [(-5.6, ""), (0.4, ""), (0.5, "Paris"), (0.6, "Paris")])
def test_joint_head_answers_nothing_where_its_classifier_says_so(threshold, expected):
    windows = overlapping_windows()
    outputs = [joint([(0, -3.0, {0: -1.0})], null=0.5), joint([(1, -0.5, {1: -0.25})], null=2.0)]
    decoded = decode(CONTEXT, windows, outputs, DecodingRule(20, 30, True, threshold))
    assert decoded.null_odds == 0.5 and decoded.prediction == expected
    (empty,) = (entry for entry in decoded.n_best if entry["text"] == "")
    assert empty["probability"] == pytest.approx(1 / (1 + math.exp(-0.5)))
    assert texts(decoded) == ["", "Paris", "The"]
    assert sum(entry["probability"] for entry in decoded.n_best) == pytest.approx(1)


@pytest.mark.parametrize("joint_head", [False, True])
@pytest.mark.parametrize("n_best_size", [1, 2, 3])
def test_the_list_holds_the_empty_text_and_an_answer_and_is_not_longer_than_asked(joint_head, n_best_size):
    rule = DecodingRule(n_best_size, 30, True, joint_head=joint_head)
    output = (
        joint([(1, -1.0, {1: -1.0, 2: -2.0}), (4, -2.0, {4: -1.0, 5: -2.0})], null=9.0)
        if joint_head
        else plain({1: 2, 4: 1}, {2: 2, 4: 1, 6: 1}, null=(20, 20))
    )
    decoded = decode(CONTEXT, [WINDOW], [output], rule)
    assert decoded.prediction == texts(decoded)[0] == ""
    assert len(decoded.n_best) == max(2, n_best_size) and all(texts(decoded)[1:])


def test_without_version_2_nothing_is_never_answered():
    decoded = decode(CONTEXT, [WINDOW], [plain({4: 2}, {4: 2}, null=(90, 90))], PLAIN)
    assert decoded.prediction == "Paris" and "" not in texts(decoded)
    decoded = decode(CONTEXT, [WINDOW], [joint([(4, -1.0, {4: -1.0})], null=90.0)], DecodingRule())
    assert decoded.prediction == "Paris" and texts(decoded) == ["Paris"]


@pytest.mark.parametrize(
    ("version_2", "joint_head", "null_odds"),
    [(False, False, None), (False, True, None), (True, False, -7.0), (True, True, -3.0)],
)
def test_an_empty_context_has_the_empty_answer(version_2, joint_head, null_odds):
    """Whatever the null odds: there is nothing else to say. The beam points at [CLS] and past the window."""
    output = (
        joint([(-3, -1.0, {-3: -1.0, 1: -2.0}), (9, -2.0, {9: -1.0, -3: -1.0})], null=-3.0)
        if joint_head
        else plain({}, {}, null=(-4, -3), length=4)
    )
    decoded = decode("", [view([])], [output], DecodingRule(20, 30, version_2, joint_head=joint_head))
    assert decoded.prediction == "" and decoded.null_odds == null_odds
    assert texts(decoded) == [""] and decoded.n_best[0]["probability"] == 1.0
    json.dumps(decoded.n_best, allow_nan=False)


# --- the joint head ---


def test_joint_head_takes_each_start_with_its_own_ends():
    """The best sum wins, not the best start; an end given another start is no end of this one."""
    output = joint([(0, -0.5, {2: -4.0, 3: -5.0}), (4, -1.0, {6: -0.5, 4: -1.0})])
    answers = rank_answers(CONTEXT, [WINDOW], [output], DecodingRule())
    assert [(answer.text, answer.score) for answer in answers] == [
        ("Paris, France", -1.5),
        ("Paris", -2.0),
        ("The  Seine flows", -4.5),
        ("The  Seine flows\nthrough", -5.5),
    ]
    assert (answers[0].start_logit, answers[0].end_logit) == (-1.0, -0.5)


def test_joint_head_drops_what_is_no_answer():
    """Ends before the start, too long, a start of another window, the question, [CLS], [SEP], padding."""
    output = joint(
        [
            (2, -1.0, {1: -1.0, 6: -1.0}),
            (4, -1.0, {4: -1.0, 5: -1.0}),
            (-1, -1.0, {0: -1.0, 1: -1.0}),
            (-3, -1.0, {-3: -1.0, 0: -1.0}),
            (6, -1.0, {7: -1.0, 30: -1.0}),
            (40, -1.0, {40: -1.0, 41: -1.0}),
            (-5, -1.0, {-5: -1.0, -4: -1.0}),
            (0, -5.0, {1: -1.0, 2: -np.inf}),
        ]
    )
    best = [True, True, True, True, False, True, True]
    answers = rank_answers(CONTEXT, [view(word_spans(CONTEXT, WORDS), best)], [output], DecodingRule(20, 4))
    assert [answer.text for answer in answers] == ["The  Seine"]


# --- any text ---


@pytest.mark.parametrize(
    ("context", "words", "answer"),
    [
        ("I 😀👩‍👩‍👧‍👦 love 🇫🇷 it", ["I", "😀", "👩‍👩‍👧‍👦", "love", "🇫🇷", "it"], "😀👩‍👩‍👧‍👦 love 🇫🇷"),
        ("東京は日本の首都。", list("東京は日本の首都。"), "京は日本"),
        (
            "Cafe\u0301 Zo\u0308e\u0301 ou\u0300",
            ["Cafe\u0301", "Zo\u0308e\u0301", "ou\u0300"],
            "Zo\u0308e\u0301",
        ),
        ("קהיר היא הבירה", ["קהיר", "היא", "הבירה"], "היא הבירה"),
        ("10\u00a0000\u00a0km² İ ﬁn", ["10", "000", "km²", "İ", "ﬁn"], "10\u00a0000\u00a0km² İ ﬁn"),
    ],
)
def test_offsets_are_characters_of_the_original_text(context, words, answer):
    spans = word_spans(context, words)
    first = next(n for n, (start, _) in enumerate(spans) if start == context.index(answer))
    last = next(n for n, (_, end) in enumerate(spans) if end == context.index(answer) + len(answer))
    output = plain({first: 5}, {last: 5}, length=len(words) + 4)
    assert decode(context, [view(spans)], [output], PLAIN).prediction == answer


def test_a_token_of_no_characters_is_no_answer():
    """Such as a control character that the tokenizer dropped."""
    window = view([(0, 0), (0, 1)])
    assert texts(decode("a", [window], [plain({0: 9}, {0: 9}, length=6)], PLAIN)) == ["a"]


# --- broken numbers ---


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", ["start", "end", "null"])
@pytest.mark.parametrize("joint_head", [False, True])
def test_broken_logits_do_not_decode(joint_head, place, value):
    number = {"start": -1.0, "end": -1.0, "null": -1.0} | {place: value}
    output = (
        joint([(2, number["start"], {2: number["end"]})], null=number["null"])
        if joint_head
        else plain({2: number["start"]}, {2: number["end"]}, null=(number["null"], 0.0))
    )
    with pytest.raises(ValueError, match="NaN or infinite"):
        decode(CONTEXT, [WINDOW], [output], DecodingRule(20, 30, True, joint_head=joint_head))


@pytest.mark.parametrize("never", [-1e30, -np.inf])
def test_masked_logits_do_no_harm(never):
    output = plain({4: 2}, {4: 2})
    output.start_logits[output.start_logits == LOW] = never
    decoded = decode(CONTEXT, [WINDOW], [output], PLAIN)
    assert decoded.prediction == "Paris"
    assert sum(entry["probability"] for entry in decoded.n_best) == pytest.approx(1)
    json.dumps(decoded.n_best, allow_nan=False)


# --- against all spans ---


def random_question(draw: np.random.RandomState):
    """A context of few distinct words, so that texts repeat, in three windows, with coarse logits."""
    words = draw.choice(["a", "bc", "d"], 12).tolist()
    context = " ".join(words)
    spans = word_spans(context, words)
    borders = [(0, 5), (3, 9), (6, 12)]
    owner = [draw.choice([n for n, (low, high) in enumerate(borders) if low <= w < high]) for w in range(12)]
    windows = [
        view(spans[low:high], [owner[word] == number for word in range(low, high)])
        for number, (low, high) in enumerate(borders)
    ]
    coarse = [draw.randint(-3, 4, (2, len(window.spans))).astype(np.float32) for window in windows]
    return context, windows, [PlainOutput(*logits) for logits in coarse]


def all_spans(context, windows, outputs, longest):
    """Every answer by definition: (score, text) in the fixed order."""
    found = []
    for number, (window, output) in enumerate(zip(windows, outputs, strict=True)):
        for start in range(len(window.spans)):
            for end in range(start, min(len(window.spans), start + longest)):
                if window.spans[start][0] < 0 or window.spans[end][0] < 0 or not window.best_context[start]:
                    continue
                score = float(output.start_logits[start]) + float(output.end_logits[end])
                text = context[window.spans[start][0] : window.spans[end][1]]
                found.append((-score, number, start, end, text))
    distinct = {}
    for score, *_, text in sorted(found):
        distinct.setdefault(text, -score)
    return list(distinct.items())


@pytest.mark.parametrize("seed", range(20))
def test_nothing_beats_the_list_among_all_spans(seed):
    context, windows, outputs = random_question(np.random.RandomState(seed))
    longest = 1 + seed % 5
    expected = all_spans(context, windows, outputs, longest)
    rule = DecodingRule(1000, longest, joint_head=False)
    answers = rank_answers(context, windows, outputs, rule)
    assert [(answer.text, answer.score) for answer in answers] == expected
    assert all(context[answer.start : answer.end] == answer.text for answer in answers)

    decoded = decode(context, windows, outputs, DecodingRule(1000, longest, True, 0.5, joint_head=False))
    null = min(float(output.start_logits[0] + output.end_logits[0]) for output in outputs)
    assert decoded.null_odds == null - expected[0][1]
    assert decoded.prediction == ("" if decoded.null_odds > 0.5 else expected[0][0])
    weights = {text: math.exp(score) for text, score in [*expected, ("", null)]}
    assert {entry["text"]: entry["probability"] for entry in decoded.n_best} == pytest.approx(
        {text: weight / sum(weights.values()) for text, weight in weights.items()}
    )


@pytest.mark.parametrize("seed", range(10))
def test_a_joint_head_that_knows_all_spans_decodes_as_the_plain_one(seed):
    """A beam of every token with every end, its log-probabilities the plain head's logits."""
    context, windows, outputs = random_question(np.random.RandomState(100 + seed))
    draw = np.random.RandomState(seed)
    beams = []
    for output in outputs:
        order, length = draw.permutation(len(output.start_logits)), len(output.start_logits)
        ends = np.stack([draw.permutation(length) for _ in range(length)])
        beams.append(JointOutput(output.start_logits[order], order, output.end_logits[ends], ends, 0.0))
    expected = rank_answers(context, windows, outputs, DecodingRule(1000, 4, joint_head=False))
    assert rank_answers(context, windows, beams, DecodingRule(1000, 4)) == expected
