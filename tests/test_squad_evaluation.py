"""EM and F1 are those of the official SQuAD evaluators, by their published rules, for any prediction file."""

import json
import math
import random

import pytest

from command_line import UsageError
from squad_evaluation import main
from squad_scores import evaluate, gold_answers, normalize, token_f1


def dataset_of(questions: dict[str, list[str]]) -> list[dict]:
    """Two articles of two paragraphs that hold the questions in order; SQuAD 2.0 marks are left out."""
    entries = [
        {"id": name, "question": "?", "answers": [{"text": text, "answer_start": 0} for text in texts]}
        for name, texts in questions.items()
    ]
    quarters = [entries[len(entries) * n // 4 : len(entries) * (n + 1) // 4] for n in range(4)]
    paragraphs = [{"context": "c", "qas": quarter} for quarter in quarters]
    return [
        {"title": "First", "paragraphs": paragraphs[:2]},
        {"title": "Second", "paragraphs": paragraphs[2:]},
    ]


def write(path, content) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


# --- normalisation ---


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("", ""),
        ("  \t\n ", ""),
        ("The", ""),
        ("the a An THE", ""),
        ("!?.,;:'\"()[]{}<>@#$%^&*-_=+/\\|`~", ""),
        ("The Norman  conquest\n of  England", "norman conquest of england"),
        ("theatre another bath", "theatre another bath"),  # articles inside words
        ("Anna and a man", "anna and man"),
        ("a-b", "ab"),  # punctuation goes first, so the article is inside a word by then
        ("the-end", "theend"),
        ("A.", ""),
        ("U.S.A.", "usa"),
        ("don't", "dont"),
        ("twenty-first", "twentyfirst"),
        ("$1,000.50", "100050"),
        ("50%", "50"),
        ("the_a", "thea"),
        ("“the” end", "“ ” end"),  # quotation marks outside ASCII stay and border words
        ("10—5", "10—5"),  # a dash outside ASCII is no punctuation either
        ("1\u00a0000\u2003km\u3000x", "1 000 km x"),  # white space of any kind
        ("a\u0301", "\u0301"),  # a combining accent borders a word: the article before it goes
        ("á", "á"),
        ("Île-de-France", "îledefrance"),
        ("ÀÉ ΣΑΣ", "àé σας"),
        ("İ", "i\u0307"),
        ("Straße", "straße"),
        ("東京。", "東京。"),
        ("😀 the 😀", "😀 😀"),
        ("an2 2a", "an2 2a"),
    ],
)
def test_normalisation(text, normalized):
    assert normalize(text) == normalized
    assert normalize(normalized) == normalized


# --- exact match and F1 ---


@pytest.mark.parametrize(
    ("gold", "prediction", "f1"),
    [
        ("norman", "norman", 1.0),
        ("norman", "saxon", 0.0),
        ("norman conquest", "norman", 2 / 3),  # precision 1, recall 1/2
        ("norman", "big norman conquest", 1 / 2),  # precision 1/3, recall 1
        ("x y z", "z y w", 2 / 3),  # order does not matter
        ("x x y", "x x x", 2 / 3),  # bags: two of three shared both ways
        ("x", "x x", 2 / 3),
        ("x", "", 0.0),
        ("", "x", 0.0),
    ],
)
def test_f1_of_two_texts(gold, prediction, f1):
    for empty_f1 in (0, 1):
        assert token_f1(gold, prediction, empty_f1) == pytest.approx(f1)
    assert (token_f1("", "", 0), token_f1("", "", 1)) == (0, 1)


QUESTIONS = {
    "exact": ["the Seine"],
    "second": ["Rouen", "Paris, France", "France"],
    "partial": ["Norman conquest of England"],
    "wrong": ["1066"],
    "missing": ["Rollo"],
    "of an article": ["The", "a"],
}
PREDICTIONS = {
    "exact": "Seine.",
    "second": "Paris France",
    "partial": "the conquest of England in 1066",
    "wrong": "911",
    "of an article": "an",
    "of another file": "x",
}


def test_version_1_counts_all_questions_and_takes_the_best_gold_answer():
    """partial: 3 of 5 predicted and of 4 gold tokens, F1 2 x 3 / 9. A text of articles matches exactly, but
    has no token to score F1 with. The missing one scores 0."""
    scores = evaluate(dataset_of(QUESTIONS), PREDICTIONS, None, version_2=False)
    assert scores == pytest.approx({"exact_match": 100 * 3 / 6, "f1": 100 * (1 + 1 + 2 / 3) / 6})


def test_version_1_takes_f1_from_another_gold_answer_than_exact_match():
    scores = evaluate(dataset_of({"q": ["x", "y z w"]}), {"q": "y z"}, None, version_2=False)
    assert scores == pytest.approx({"exact_match": 0.0, "f1": 80.0})


NO_ANSWER = {"none, said": [], "none, denied": [], "none, article": [], "none, missing": []}
PREDICTIONS_2 = PREDICTIONS | {"none, said": "", "none, denied": "Rouen", "none, article": "the"}


def test_version_2_leaves_out_missing_predictions_and_knows_no_answer():
    """Gold answers of which nothing is left count as none, but the question as answerable; an article alone
    is as good as the empty prediction."""
    scores = evaluate(dataset_of(QUESTIONS | NO_ANSWER), PREDICTIONS_2, None, version_2=True)
    expected = {
        "exact": 100 * 5 / 8,
        "f1": 100 * (5 + 2 / 3) / 8,
        "total": 8,
        "HasAns_exact": 100 * 3 / 5,
        "HasAns_f1": 100 * (3 + 2 / 3) / 5,
        "HasAns_total": 5,
        "NoAns_exact": 100 * 2 / 3,
        "NoAns_f1": 100 * 2 / 3,
        "NoAns_total": 3,
    }
    assert scores == pytest.approx(expected) and list(scores) == list(expected)


def test_version_2_drops_gold_answers_of_which_nothing_is_left():
    golds = {"some": ["the", "Seine"], "all": ["the", "..."]}
    scores = evaluate(dataset_of(golds), {"some": "", "all": ""}, None, version_2=True)
    assert (scores["exact"], scores["f1"], scores["HasAns_total"]) == (50.0, 50.0, 2)
    assert "NoAns_total" not in scores
    scores = evaluate(dataset_of({"none": []}), {"none": "x"}, None, version_2=True)
    assert scores == {"exact": 0, "f1": 0, "total": 1, "NoAns_exact": 0, "NoAns_f1": 0, "NoAns_total": 1}


# --- thresholds ---


@pytest.mark.parametrize(
    ("threshold", "exact", "f1"),
    [
        (1.0, 2, 2 + 2 / 3),  # none is above: as predicted
        (0.9, 3, 3 + 2 / 3),  # the false answer to "none" is withdrawn
        (0.5, 3, 3 + 2 / 3),  # not above 0.5 itself
        (0.4, 3, 3),  # the half right one too
        (-1.0, 2, 2),  # all are: the two without an answer are right
    ],
)
def test_a_threshold_turns_predictions_into_no_answer(threshold, exact, f1):
    golds = {"right": ["x"], "partial": ["x y"], "none": [], "none, said": []}
    predictions = {"right": "x", "partial": "x", "none": "x", "none, said": ""}
    na_probs = {"right": 0.1, "partial": 0.5, "none": 1.0, "none, said": 0.2, "of another file": 7.0}
    scores = evaluate(dataset_of(golds), predictions, na_probs, True, threshold)
    assert (scores["exact"], scores["f1"]) == pytest.approx((25 * exact, 25 * f1))
    assert scores["best_exact"] == 75 and scores["best_exact_thresh"] == 0.1
    assert scores["best_f1"] == pytest.approx(25 * (3 + 2 / 3)) and scores["best_f1_thresh"] == 0.5


def test_without_na_probs_every_question_has_0():
    golds, predictions = {"right": ["x"], "none": []}, {"right": "x", "none": "x"}
    assert evaluate(dataset_of(golds), predictions, None, True, -0.5)["exact"] == 50
    assert evaluate(dataset_of(golds), predictions, None, True, 0.0)["HasAns_exact"] == 100


def random_case(seed: int):
    """Questions with 0 to 3 gold answers of a few words, predictions of the same words, numbers of which some
    are equal, and in every second case none is below 0, as no probability is."""
    draw = random.Random(seed)

    def text() -> str:
        return " ".join(draw.choice(["the", "x", "y", "Z.", "w-v", "é"]) for _ in range(draw.randint(1, 4)))

    names = [f"q{number}" for number in range(40)]
    golds = {name: [text() for _ in range(draw.choice([0, 0, 1, 2, 3]))] for name in names}
    predictions = {
        name: draw.choice(["", text(), (golds[name] or [text()])[0]]) for name in draw.sample(names, 35)
    }
    lowest = -500 * (seed % 2)
    numbers = {name: draw.randint(lowest, lowest + draw.choice([20, 1000])) / 64 for name in names}
    return golds, predictions, numbers


@pytest.mark.parametrize("seed", range(20))
def test_the_best_threshold_is_the_best_of_all_and_gives_its_score(seed):
    """Tried one by one, below every number first."""
    golds, predictions, na_probs = random_case(seed)
    dataset = dataset_of(golds)
    scores = evaluate(dataset, predictions, na_probs, True)
    for key in ("exact", "f1"):

        def reached(threshold: float, key: str = key) -> float:
            return evaluate(dataset, predictions, na_probs, True, threshold)[key]

        best = max(map(reached, [-100.0, *(na_probs[name] for name in predictions)]))
        assert scores[f"best_{key}"] == pytest.approx(best)
        assert reached(scores[f"best_{key}_thresh"]) == pytest.approx(best)


@pytest.mark.parametrize(
    ("lowest", "threshold"),
    [
        (0.25, 0.0),  # a probability: the official 0 answers nothing
        (0.0, -1.0),
        (-0.5, -1.5),
        (-7, -14),
        (-1e300, -2e300),
    ],
)
def test_where_answering_nothing_is_best_the_threshold_says_so(lowest, threshold):
    dataset, predictions = dataset_of({"none": [], "also none": []}), {"none": "x", "also none": "y"}
    na_probs = {"none": 3.0, "also none": lowest}
    scores = evaluate(dataset, predictions, na_probs, True, math.inf)
    assert (scores["exact"], scores["best_exact"], scores["best_f1"]) == (0, 100, 100)
    assert scores["best_exact_thresh"] == scores["best_f1_thresh"] == threshold
    assert evaluate(dataset, predictions, na_probs, True, threshold)["exact"] == 100


def test_a_question_that_no_threshold_leaves_unanswered_counts_as_answered():
    """Nothing lies below -inf, such as the log odds of a probability of 0."""
    dataset, numbers = dataset_of({"none": [], "right": ["x"]}), {"none": -math.inf, "right": 1.0}
    scores = evaluate(dataset, {"none": "x", "right": "y"}, numbers, True)
    assert (scores["best_exact"], scores["best_exact_thresh"]) == (0, -math.inf)


def test_the_search_takes_an_article_for_no_answer_as_the_scores_do():
    scores = evaluate(
        dataset_of({"none": [], "right": ["x"]}), {"none": "a", "right": "x"}, {"none": 0, "right": 1}, True
    )
    assert scores["exact"] == 100 and (scores["best_exact"], scores["best_exact_thresh"]) == (100, 1)


def test_questions_of_equal_numbers_are_answered_together():
    """No threshold lies between them."""
    golds, predictions = {"right": ["x"], "none": []}, {"right": "x", "none": "x"}
    for order in (("right", "none"), ("none", "right")):
        scores = evaluate(dataset_of(golds), predictions, dict.fromkeys(order, 0.5), True)
        assert (scores["best_exact"], scores["best_exact_thresh"]) == (50.0, 0.0)


@pytest.mark.parametrize("used", [-9.0, 0.0, 2.0, 9.0])
def test_best_thresholds_do_not_depend_on_the_one_that_made_the_predictions(used):
    """2 is best: it answers both that can be, and not the one that cannot."""
    golds = {"right": ["x"], "high": ["y z"], "none": [], "of nothing": ["x"]}
    texts = {"right": "x", "high": "y z", "none": "w", "of nothing": ""}
    null_odds = {"right": -3.0, "high": 2.0, "none": 5.0, "of nothing": 7.0}
    predictions = {name: "" if null_odds[name] > used else text for name, text in texts.items()}
    dataset = dataset_of(golds)
    scores = evaluate(dataset, predictions, null_odds, True, math.inf, texts)
    best = {name: value for name, value in scores.items() if name.startswith("best_")}
    assert best == {"best_exact": 75, "best_exact_thresh": 2, "best_f1": 75, "best_f1_thresh": 2}
    # The other scores are the written predictions'.
    plain = evaluate(dataset, predictions, None, True)
    assert scores == plain | best
    assert plain["exact"] == {-9.0: 25, 0.0: 50, 2.0: 75, 9.0: 50}[used]


# --- what can be scored ---


def test_an_impossible_question_needs_no_list_of_answers_in_version_2():
    """Only one that says so: where nothing is said, nobody knows whether it has an answer."""
    dataset = dataset_of({"some": ["x"], "none": []})
    entry = dataset[1]["paragraphs"][1]["qas"][0]
    assert entry.pop("answers") == []
    for version_2, mark in ((True, {}), (True, {"is_impossible": False}), (False, {"is_impossible": True})):
        entry.update(mark)
        with pytest.raises(ValueError, match="question 'none' has no list of answers"):
            gold_answers(dataset, version_2)
    entry["is_impossible"] = True
    assert gold_answers(dataset, version_2=True) == {"some": ["x"], "none": []}


# --- the program ---


def test_gold_answers_as_predictions_score_100(shared_data, run_program, tmp_path):
    """Every question of the real files, with each question's last gold answer."""
    for name, keys in (("dev-v1.1.json", ["exact_match", "f1"]), ("dev-v2.0.json", ["exact", "f1"])):
        path = shared_data / "squad" / name
        golds = gold_answers(json.loads(path.read_text(encoding="utf-8"))["data"], version_2=True)
        predictions = {question: texts[-1] if texts else "" for question, texts in golds.items()}
        result = run_program("squad_evaluation.py", path, write(tmp_path / "predictions.json", predictions))
        assert result.returncode == 0 and result.stderr == ""
        scores = json.loads(result.stdout)
        assert [scores[key] for key in keys] == [100.0, 100.0]
        assert scores.get("total", len(golds)) == len(golds) > 100


def test_the_program_names_missing_predictions_and_prints_json_only(run_program, tmp_path):
    predictions = write(tmp_path / "predictions.json", PREDICTIONS_2)
    first = write(tmp_path / "first.json", {"version": "1.1", "data": dataset_of(QUESTIONS)})
    result = run_program("squad_evaluation.py", first, predictions)
    assert result.returncode == 0
    assert result.stderr == "Unanswered question missing will receive score 0.\n"
    assert json.loads(result.stdout) == evaluate(dataset_of(QUESTIONS), PREDICTIONS, None, False)

    both = QUESTIONS | NO_ANSWER
    second = write(tmp_path / "second.json", {"version": "v2.0", "data": dataset_of(both)})
    na_probs = {name: number / 4 for number, name in enumerate(both)}
    result = run_program(
        "squad_evaluation.py",
        second,
        predictions,
        "--na-prob-file",
        write(tmp_path / "null_odds.json", na_probs),
        "--na-prob-thresh=1.5",
    )
    assert result.returncode == 0
    assert result.stderr.splitlines() == [
        "Missing prediction for missing",
        "Missing prediction for none, missing",
    ]
    expected = evaluate(dataset_of(both), PREDICTIONS_2, na_probs, True, 1.5)
    assert json.loads(result.stdout) == expected
    assert list(expected)[-4:] == ["best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh"]


def test_the_rules_are_those_of_the_data_unless_told(run_program, tmp_path):
    predictions = write(tmp_path / "predictions.json", {"q": "x"})
    out = tmp_path / "scores.json"

    def keys(content, *flags) -> set[str]:
        arguments = (write(tmp_path / "data.json", content), predictions, "--out-file", out, *flags)
        result = run_program("squad_evaluation.py", *arguments)
        assert (result.returncode, result.stdout) == (0, ""), result.stderr
        return set(json.loads(out.read_text()))

    plain, marked = dataset_of({"q": ["x"]}), dataset_of({"q": ["x"]})
    marked[1]["paragraphs"][1]["qas"][0]["is_impossible"] = False
    one, two = {"exact_match", "f1"}, {"exact", "f1", "total", "HasAns_exact", "HasAns_f1", "HasAns_total"}
    assert keys({"version": "1.1", "data": plain}) == one == keys({"data": plain})
    assert keys({"version": "v2.0", "data": plain}) == two == keys({"data": marked})
    assert keys({"version": "1.1", "data": plain}, "--squad_version", "2.0") == two
    assert keys({"version": "v2.0", "data": marked}, "--squad_version", "1.1") == one


DATA = {"version": "1.1", "data": dataset_of(QUESTIONS)}
DATA_2 = {"version": "v2.0", "data": dataset_of(QUESTIONS | NO_ANSWER)}


def broken(change) -> dict:
    content = json.loads(json.dumps(DATA))
    change(content["data"][1]["paragraphs"][0])
    return content


@pytest.mark.parametrize(
    ("data", "predictions", "na_probs", "message"),
    [
        ("{", {}, None, "data_file .*: not JSON"),
        ("[" * 100_000, {}, None, "data_file .*: is nested too deeply"),
        ([], {}, None, "data_file .*: a JSON object"),
        ({"version": "1.1"}, {}, None, "data_file .*: not SQuAD: its data is no list of articles"),
        ({"data": []}, {}, None, "data_file .*: holds no questions"),
        ({"data": [{"title": "T"}]}, {}, None, "not SQuAD: article 1 'T' has no list of paragraphs"),
        (
            broken(lambda p: p.pop("qas")),
            {},
            None,
            "article 2 'Second', paragraph 1 has no list of questions",
        ),
        (
            broken(lambda p: p["qas"][0].pop("id")),
            {},
            None,
            "article 2 'Second', paragraph 1: .* without an id",
        ),
        (
            broken(lambda p: p["qas"][0].pop("answers")),
            {},
            None,
            "article 2 'Second', paragraph 1: question 'wrong' has no list of answers",
        ),
        (
            broken(lambda p: p["qas"][0].update(answers=[])),
            {},
            None,
            "question 'wrong' has no gold answer, which only SQuAD 2.0 allows",
        ),
        (broken(lambda p: p["qas"].append(p["qas"][0])), {}, None, "question 'wrong' occurs twice"),
        (DATA, "]", None, "predictions_file .*: not JSON"),
        (DATA, ["x"], None, "predictions_file .*: a JSON object of question ids and texts"),
        (DATA, {"wrong": 1066}, None, "predictions_file .*: the prediction for 'wrong' is no text"),
        (DATA, {"wrong": "x"}, {"wrong": 0.5}, "--na_prob_file .*: is of no use by the rules of SQuAD 1.1"),
        (DATA_2, {"wrong": "x"}, {"wrong": "0.5"}, "--na_prob_file .*: the value for 'wrong' is no number"),
        (DATA_2, {"wrong": "x"}, '{"wrong": NaN}', "--na_prob_file .*: the value for 'wrong' is no number"),
        (DATA_2, {"wrong": "x"}, {"exact": 0.5}, "--na_prob_file .*: has no number for 'wrong'"),
        (DATA_2, {"of another file": "x"}, None, "data_file .*: none of its questions has a prediction"),
    ],
)
def test_bad_input_is_refused_in_one_line(data, predictions, na_probs, message, monkeypatch, tmp_path):
    arguments = [write(tmp_path / "data.json", data), write(tmp_path / "predictions.json", predictions)]
    if na_probs is not None:
        arguments += ["--na_prob_file", write(tmp_path / "null_odds.json", na_probs)]
    monkeypatch.setattr("sys.argv", ["squad_evaluation.py", *arguments])
    with pytest.raises(UsageError, match=message):
        main()


def test_bad_flags_are_refused_in_one_line(usage_error, tmp_path):
    data, predictions = write(tmp_path / "data.json", DATA), write(tmp_path / "predictions.json", {})
    program = "squad_evaluation.py"
    assert "data_file" in usage_error(program)
    assert "No such file" in usage_error(program, data, tmp_path / "absent.json")
    assert "--out_file" in usage_error(
        program, data, predictions, "--out-file", tmp_path / "absent" / "x.json"
    )
    assert "--na_prob_thresh nan" in usage_error(program, data, predictions, "--na-prob-thresh", "nan")
