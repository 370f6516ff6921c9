"""Predicted answers -> the scores of SQuAD's official evaluators, under the same keys.

Two answers match exactly when their normalised texts are equal; F1 compares their normalised tokens as bags.
A question scores the best of its gold answers. Knows nothing about models or files: it takes what JSON holds.
"""

import itertools
import math
import re
import string
from collections import Counter
from collections.abc import Iterator

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def evaluate(
    dataset: list,
    predictions: dict[str, str],
    na_probs: dict[str, float] | None,
    version_2: bool,
    na_prob_threshold: float = 1.0,
    best_texts: dict[str, str] | None = None,
) -> dict[str, float | int]:
    """Scores in percent, equal to those of the official evaluators of SQuAD 1.1 and 2.0.

    The best thresholds and their scores differ from the official ones where no threshold could reach those:
    `_best_threshold` says where.

    Args:
        dataset: the list under "data" of a SQuAD file.
        predictions: question id -> text; "" means unanswerable. Ids outside the dataset are ignored.
        na_probs: question id -> any number that grows with the belief in "unanswerable", for each question
            with a prediction; version 2 only.
        version_2: the rules of SQuAD 2.0.
        na_prob_threshold: a question whose number is above counts as predicted "" (version 2).
        best_texts: question id -> what it is answered where it is answered at all, for each question with a
            prediction: the best thresholds are searched with these. Default the predictions; where a
            threshold has made some of those "", no higher one can be found to be better.

    Returns:
        1.1: exact_match and f1 over all questions, a missing prediction scoring 0. 2.0: exact, f1 and total
        over the questions that have a prediction, the same under HasAns_ and NoAns_ for those with and
        without gold answers, and with na_probs the best_exact and best_f1 that a threshold on them could
        reach, with the thresholds.

    Raises:
        ValueError: data that is not SQuAD (the message names article and paragraph), or nothing to average.
        KeyError: na_probs or best_texts lack a question that has a prediction.
    """
    golds = gold_answers(dataset, version_2)
    answered = {question: predictions[question] for question in golds if question in predictions}
    if version_2:
        return _evaluate_version_2(golds, answered, na_probs, na_prob_threshold, best_texts)
    exact, f1 = _best_over_golds(golds, answered, empty_f1=0)
    return {
        "exact_match": 100.0 * sum(exact.values()) / len(golds),
        "f1": 100.0 * sum(f1.values()) / len(golds),
    }


def only_answered(dataset: list, predictions: dict) -> list:
    """The part of a data set that predictions are of, where only some of it was asked."""
    return [
        article
        | {
            "paragraphs": [
                paragraph | {"qas": [entry for entry in paragraph["qas"] if entry["id"] in predictions]}
                for paragraph in article["paragraphs"]
            ]
        }
        for article in dataset
    ]


def normalize(text: str) -> str:
    """Lower-cased, without ASCII punctuation, then without the words a, an, the; single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def token_f1(gold: str, prediction: str, empty_f1: float) -> float:
    """Harmonic mean of precision and recall over the bags of tokens of two normalised texts, 0 to 1.

    Args:
        empty_f1: the score of two empty texts: 0 by the rules of SQuAD 1.1, 1 by those of 2.0.
    """
    gold_tokens, predicted_tokens = gold.split(), prediction.split()
    if not gold_tokens and not predicted_tokens:
        return empty_f1
    shared = (Counter(gold_tokens) & Counter(predicted_tokens)).total()
    if shared == 0:
        return 0.0
    precision, recall = shared / len(predicted_tokens), shared / len(gold_tokens)
    return 2 * precision * recall / (precision + recall)


def gold_answers(dataset: list, version_2: bool) -> dict[str, list[str]]:
    """The texts of each question's gold answers by its id, in the order of the data.

    Raises:
        ValueError: data that is not SQuAD, an id that occurs twice, no questions; in version 1.1 also a
            question without an answer. In version 2 one that is marked as impossible needs no list of them.
    """
    golds: dict[str, list[str]] = {}
    for where, question in questions_in(dataset):
        answers = question.get("answers")
        if answers is None and version_2 and question.get("is_impossible") is True:
            answers = []
        if not isinstance(question.get("id"), str):
            raise ValueError(f"{where}: a question without an id")
        name = f"{where}: question {question['id']!r}"
        if question["id"] in golds:
            raise ValueError(f"{name} occurs twice")
        if not _is_list_of_objects(answers) or not all(isinstance(a.get("text"), str) for a in answers):
            raise ValueError(f"{name} has no list of answers with texts")
        if not answers and not version_2:
            raise ValueError(f"{name} has no gold answer, which only SQuAD 2.0 allows")
        golds[question["id"]] = [answer["text"] for answer in answers]
    if not golds:
        raise ValueError("holds no questions")
    return golds


def _evaluate_version_2(golds, answered, na_probs, threshold: float, best_texts) -> dict[str, float | int]:
    if not answered:
        raise ValueError("none of its questions has a prediction")
    # A gold answer of which nothing is left, such as "the", cannot be asked for.
    texts = {question: list(filter(normalize, golds[question])) or [""] for question in answered}
    raw_exact, raw_f1 = _best_over_golds(texts, answered, empty_f1=1)
    has_answer = {question: bool(golds[question]) for question in answered}
    numbers = dict.fromkeys(answered, 0.0) if na_probs is None else na_probs
    exact, f1 = (
        {
            question: float(not has_answer[question]) if numbers[question] > threshold else score
            for question, score in raw.items()
        }
        for raw in (raw_exact, raw_f1)
    )
    result = _averages(exact, f1, list(answered), "")
    for prefix, wanted in (("HasAns_", True), ("NoAns_", False)):
        chosen = [question for question in answered if has_answer[question] == wanted]
        if chosen:
            result |= _averages(exact, f1, chosen, prefix)
    if na_probs is not None:
        if best_texts is not None:
            searched = {question: best_texts[question] for question in answered}
            raw_exact, raw_f1 = _best_over_golds(texts, searched, empty_f1=1)
        for name, raw in (("best_exact", raw_exact), ("best_f1", raw_f1)):
            best, best_threshold = _best_threshold(raw, na_probs, has_answer)
            result |= {name: best, f"{name}_thresh": best_threshold}
    return result


def _best_over_golds(golds, answered, empty_f1: float) -> tuple[dict[str, float], dict[str, float]]:
    """Exact match (0 or 1) and F1 of each question that has a prediction."""
    exact, f1 = {}, {}
    for question, text in answered.items():
        prediction = normalize(text)
        normalized = [normalize(gold) for gold in golds[question]]
        exact[question] = int(prediction in normalized)
        f1[question] = max(token_f1(gold, prediction, empty_f1) for gold in normalized)
    return exact, f1


def _averages(exact, f1, questions: list[str], prefix: str) -> dict[str, float | int]:
    total = len(questions)
    return {
        f"{prefix}exact": 100.0 * sum(exact[question] for question in questions) / total,
        f"{prefix}f1": 100.0 * sum(f1[question] for question in questions) / total,
        f"{prefix}total": total,
    }


def _best_threshold(scores, na_probs, has_answer) -> tuple[float, float]:
    """The best score in percent when only questions up to a threshold are answered, and that threshold.

    The official search, which starts from answering nothing and answers more and more questions, in three
    places made to give what the threshold gives: questions of equal numbers are answered together; an answer
    of which normalisation leaves nothing, such as "the", counts as none here too; and answering nothing has
    the official threshold 0 only where that lies below all numbers, as it does below probabilities.
    """
    order = sorted(scores, key=na_probs.get)
    lowest = na_probs[order[0]]
    # Far enough below for the rounding of another run.
    threshold = 0.0 if lowest > 0 else min(lowest - 1, 2 * lowest)
    current = sum(not has_answer[question] for question in scores)
    # Nothing lies below -inf: a question of that number is always answered.
    best = current if threshold < lowest else -math.inf
    for number, questions in itertools.groupby(order, key=na_probs.get):
        current += sum(scores[question] - (not has_answer[question]) for question in questions)
        if current > best:
            best, threshold = current, number
    return 100.0 * best / len(scores), threshold


def questions_in(dataset: list) -> Iterator[tuple[str, dict]]:
    """Each question of a data set with the place of its paragraph.

    Raises:
        ValueError: data that is not SQuAD.
    """
    if not _is_list_of_objects(dataset):
        raise ValueError("not SQuAD: its data is no list of articles")
    for article_number, article in enumerate(dataset, start=1):
        title = f" {article['title']!r}" if "title" in article else ""
        place = f"article {article_number}{title}"
        if not _is_list_of_objects(article.get("paragraphs")):
            raise ValueError(f"not SQuAD: {place} has no list of paragraphs")
        for paragraph_number, paragraph in enumerate(article["paragraphs"], start=1):
            where = f"{place}, paragraph {paragraph_number}"
            if not _is_list_of_objects(paragraph.get("qas")):
                raise ValueError(f"not SQuAD: {where} has no list of questions (qas)")
            for question in paragraph["qas"]:
                yield where, question


def _is_list_of_objects(value) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)
