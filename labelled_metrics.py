"""How good predictions are: GLUE's metrics by scikit-learn and SciPy, spans of tags as CoNLL counts them."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

CLASSIFICATION_METRICS = ("accuracy", "f1_macro", "matthews_correlation")
REGRESSION_METRICS = ("pearson", "spearman", "mean_squared_error", "mean_absolute_error")
TAGGING_METRICS = ("f1", "precision", "recall", "accuracy")
_OUTSIDE = "O"
# IOB, IOBES, BILOU and BMES: what begins a span, what goes on with one, and what is a span's last word.
_BEGINNING, _CONTINUING, _CLOSING = ("B", "S", "U"), ("I", "M", "E", "L"), ("E", "L", "S", "U")


def score(metrics: Sequence[str], gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """The named metrics of predicted labels or numbers.

    f1 is that of label 1, the positive one of two. A correlation with what never changes is undefined, and 0
    here, as scikit-learn has it for Matthews'.

    Args:
        gold, predicted: numbers of labels, or real numbers, [examples]; at least one.
    """
    import scipy.stats
    from sklearn import metrics as sklearn_metrics

    functions = {
        "accuracy": sklearn_metrics.accuracy_score,
        "f1": lambda gold, predicted: sklearn_metrics.f1_score(gold, predicted, zero_division=0.0),
        "f1_macro": lambda gold, predicted: sklearn_metrics.f1_score(
            gold, predicted, average="macro", zero_division=0.0
        ),
        "matthews_correlation": sklearn_metrics.matthews_corrcoef,
        "pearson": lambda gold, predicted: _correlation(scipy.stats.pearsonr, gold, predicted),
        "spearman": lambda gold, predicted: _correlation(scipy.stats.spearmanr, gold, predicted),
        "mean_squared_error": sklearn_metrics.mean_squared_error,
        "mean_absolute_error": sklearn_metrics.mean_absolute_error,
    }
    return {name: float(functions[name](gold, predicted)) for name in metrics}


def _correlation(function: Callable, gold: np.ndarray, predicted: np.ndarray) -> float:
    if len(gold) < 2 or np.ptp(gold) == 0 or np.ptp(predicted) == 0:
        return 0.0
    return function(gold, predicted).statistic


def score_tags(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """Accuracy over words, and, where the tags are those of spans, precision, recall and F1 of whole spans.

    Args:
        gold, predicted: the tags of each sentence.
    """
    pairs = [
        pair for ours, theirs in zip(gold, predicted, strict=True) for pair in zip(ours, theirs, strict=True)
    ]
    accuracy = sum(one == other for one, other in pairs) / len(pairs)
    if not any(is_span_tag(tag) for tags in gold for tag in tags):
        return {"accuracy": accuracy}
    wanted = {(number, *span) for number, tags in enumerate(gold) for span in spans(tags)}
    found = {(number, *span) for number, tags in enumerate(predicted) for span in spans(tags)}
    right = len(wanted & found)
    precision = right / len(found) if found else 0.0
    recall = right / len(wanted) if wanted else 0.0
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return {"f1": f1, "precision": precision, "recall": recall, "accuracy": accuracy}


def is_span_tag(tag: str) -> bool:
    """Whether a tag is one of a span's: B-TYPE, I-TYPE, E-TYPE, S-TYPE, ..."""
    prefix, hyphen, _ = tag.partition("-")
    return bool(hyphen) and prefix in (*_BEGINNING, *_CONTINUING)


def spans(tags: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """(first word, word after the last, type) of each span in a sentence's tags, as conlleval counts them.

    A span begins with B, and also with an I that follows no span of its type (so IOB1's spans are found too).
    M is as I; E and L are too, but the span ends with them; S and U are a span of one word.
    """
    first, kind = 0, None
    for place, tag in enumerate([*tags, _OUTSIDE]):
        prefix, _, own = tag.partition("-")
        inside = prefix in _CONTINUING and own == kind
        if kind is not None and not inside:
            yield first, place, kind
            kind = None
        if prefix in (*_BEGINNING, *_CONTINUING) and not inside:
            first, kind = place, own
        if prefix in _CLOSING:
            yield first, place + 1, kind
            kind = None
