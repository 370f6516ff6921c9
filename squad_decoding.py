"""What the heads say of a question's windows -> its n-best answers and the decision that it has none.

An answer is always a piece of the original context, whitespace and case kept. NumPy and plain Python only.
How windows are cut lives elsewhere, and how answers are scored against gold ones in squad_scores.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class DecodingRule:
    """How answers are chosen.

    Attributes:
        n_best_size: texts in the n-best list; also the starts and the ends of a window that the plain head's
            spans are made of.
        max_answer_length: tokens of the longest answer.
        version_2: whether a question may have no answer (SQuAD 2.0).
        null_score_diff_threshold: the answer is "" where the null odds are above.
        joint_head: outputs are `JointOutput`, else `PlainOutput`.
    """

    n_best_size: int = 20
    max_answer_length: int = 30
    version_2: bool = False
    null_score_diff_threshold: float = 0.0
    joint_head: bool = True


@dataclass(frozen=True)
class WindowView:
    """What decoding knows of a window of L tokens.

    Attributes:
        spans: int [L, 2], each token's first character in the context and the one after its last; (-1, -1)
            for [CLS], the question, [SEP] and padding.
        best_context: bool [L], whether no other window shows the token more of its surroundings. Only there
            may an answer start: elsewhere it could be the remainder of one that the window cuts off.
    """

    spans: np.ndarray
    best_context: np.ndarray


@dataclass(frozen=True)
class PlainOutput:
    """Independent logits, float32 [L or more]; position 0 is [CLS], what lies past L is not looked at."""

    start_logits: np.ndarray
    end_logits: np.ndarray


@dataclass(frozen=True)
class JointOutput:
    """A beam of starts and the best ends given each of them.

    Attributes:
        start_log_probs: float32 [beam].
        start_index: int [beam], tokens; one that is not of the context is passed over.
        end_log_probs: float32 [beam, ends].
        end_index: int [beam, ends].
        null_logit: the answerability classifier's logit; positive means impossible. Not looked at outside
            version 2.
    """

    start_log_probs: np.ndarray
    start_index: np.ndarray
    end_log_probs: np.ndarray
    end_index: np.ndarray
    null_logit: float = 0.0


@dataclass(frozen=True)
class Candidate:
    """An answer: `text` is characters `start` to `end` (exclusive) of the context; score sums the logits."""

    text: str
    start: int
    end: int
    start_logit: float
    end_logit: float
    score: float


@dataclass(frozen=True)
class Decoded:
    """A question's answer.

    Attributes:
        prediction: the answer; "" for none.
        n_best: the best distinct texts, best first, each a dictionary of text, probability, start_logit and
            end_logit; in version 2 the empty text is among them.
        null_odds: how much more likely no answer is than the best one, a logit; None outside version 2.
        spans: where each of the n-best texts stands, [first character, the one after its last]; [0, 0] for
            the empty text.
    """

    prediction: str
    n_best: list[dict[str, str | float]]
    null_odds: float | None
    spans: list[list[int]]

    @property
    def best_text(self) -> str:
        """The best answer that is one, whatever the null odds say; "" where the context holds none."""
        return next((entry["text"] for entry in self.n_best if entry["text"]), "")


# Token spans of one window: first token, last token and the logits of both, arrays of equal length.
_Spans = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def decode(
    context: str,
    windows: Sequence[WindowView],
    outputs: Sequence[PlainOutput] | Sequence[JointOutput],
    rule: DecodingRule,
) -> Decoded:
    """The answer to one question from all windows of its context.

    Plain head (Google's BERT): the null score of a window is what [CLS] gets as start and as end, that of the
    question the least of its windows', and the null odds are it minus the best answer's score. Joint head
    (Google's ELECTRA): the null odds are the least null logit. In the n-best list of the plain head the empty
    text has its null score; in that of the joint head it has the probability sigmoid(null odds).

    Raises:
        ValueError: no windows, not one output for each, or a logit that is NaN or infinitely high.
    """
    answers = rank_answers(context, windows, outputs, rule)
    best = answers[0] if answers else Candidate("", 0, 0, 0.0, 0.0, 0.0)
    if not rule.version_2:
        return _decoded(best.text, answers or [best], None)
    # The empty text takes the place of the last one, but never that of the only one.
    answers = answers[: max(1, rule.n_best_size - 1)]
    if rule.joint_head:
        null_odds = min(_finite(output.null_logit) for output in outputs)
        score = null_odds + (_log_sum_exp([answer.score for answer in answers]) if answers else 0.0)
        null = Candidate("", 0, 0, null_odds, 0.0, score)
    else:
        null = min((_plain_null(output) for output in outputs), key=lambda candidate: candidate.score)
        null_odds = null.score - best.score
    is_null = null_odds > rule.null_score_diff_threshold
    # A stable sort: on equal scores the text stays before the empty one, as the threshold 0 decides it.
    ranking = sorted([*answers, null], key=lambda candidate: -candidate.score)
    return _decoded("" if is_null else best.text, ranking, null_odds)


def rank_answers(
    context: str,
    windows: Sequence[WindowView],
    outputs: Sequence[PlainOutput] | Sequence[JointOutput],
    rule: DecodingRule,
) -> list[Candidate]:
    """The best `n_best_size` answers of distinct texts, best first; empty where the context holds none.

    An answer goes from a context token that has its best context in this window to the same or a later one,
    at most `max_answer_length` tokens. Of equal scores the earlier window comes first, then the earlier
    start, then the shorter answer.

    Raises:
        ValueError: as `decode`.
    """
    if not windows or len(windows) != len(outputs):
        raise ValueError(f"{len(outputs)} outputs for {len(windows)} windows: one for each is needed")
    if rule.joint_head:
        return _distinct(context, windows, [_joint_spans(output) for output in outputs], rule)

    def plain(limit: int | None) -> list[Candidate]:
        spans = [_plain_spans(*pair, limit) for pair in zip(windows, outputs, strict=True)]
        return _distinct(context, windows, spans, rule)

    # A model that has learned little may put all its best starts behind all its best ends, or too far before
    # them; there is still an answer to give.
    return plain(rule.n_best_size) or plain(limit=None)


def _plain_spans(view: WindowView, output: PlainOutput, limit: int | None) -> _Spans:
    """Every pair of one of the `limit` best starts and one of the `limit` best ends."""
    length = len(view.spans)
    start_logits, end_logits = (
        _checked(logits[:length]) for logits in (output.start_logits, output.end_logits)
    )
    is_context = view.spans[:, 0] >= 0
    starts = _highest(start_logits, is_context & view.best_context, limit)
    ends = _highest(end_logits, is_context, limit)
    start, end = np.repeat(starts, len(ends)), np.tile(ends, len(starts))
    return start, end, start_logits[start], end_logits[end]


def _joint_spans(output: JointOutput) -> _Spans:
    """Every start of the beam with each of its own ends, context tokens or not."""
    shape = output.end_index.shape
    start = np.broadcast_to(output.start_index[:, None], shape).ravel()
    start_logits = np.broadcast_to(_checked(output.start_log_probs)[:, None], shape).ravel()
    return start, output.end_index.ravel(), start_logits, _checked(output.end_log_probs).ravel()


def _distinct(
    context: str, windows: Sequence[WindowView], spans: list[_Spans], rule: DecodingRule
) -> list[Candidate]:
    """The answers among the spans, ranked, each text once, at most `n_best_size` of them."""
    allowed = [_allowed(view, *of_window, rule) for view, of_window in zip(windows, spans, strict=True)]
    number = np.repeat(np.arange(len(windows)), [len(start) for start, *_ in allowed])
    start, end, start_logits, end_logits = (np.concatenate(parts) for parts in zip(*allowed, strict=True))
    scores = start_logits + end_logits
    found: dict[str, Candidate] = {}
    for place in np.lexsort((end, start, number, -scores)):
        character_spans = windows[number[place]].spans
        first, last = int(character_spans[start[place], 0]), int(character_spans[end[place], 1])
        text = context[first:last]
        if text and text not in found:
            logits = float(start_logits[place]), float(end_logits[place])
            found[text] = Candidate(text, first, last, *logits, float(scores[place]))
            if len(found) == rule.n_best_size:
                break
    return list(found.values())


def _allowed(view: WindowView, start, end, start_logits, end_logits, rule: DecodingRule) -> _Spans:
    """Those of a window's spans that are answers, where the heads do not rule them out altogether (-inf)."""
    length = len(view.spans)
    is_inside = (start >= 0) & (end < length) & (start <= end) & (end - start < rule.max_answer_length)
    keep = is_inside & np.isfinite(start_logits + end_logits)
    start, end, start_logits, end_logits = (part[keep] for part in (start, end, start_logits, end_logits))
    is_context = view.spans[:, 0] >= 0
    keep = is_context[start] & is_context[end] & view.best_context[start]
    return start[keep], end[keep], start_logits[keep], end_logits[keep]


def _highest(logits: np.ndarray, is_allowed: np.ndarray, limit: int | None) -> np.ndarray:
    """The allowed positions of the highest logits, highest first; of equal ones the earlier."""
    positions = np.flatnonzero(is_allowed)
    return positions[np.argsort(-logits[positions], kind="stable")[:limit]]


def _plain_null(output: PlainOutput) -> Candidate:
    start_logit, end_logit = _finite(output.start_logits[0]), _finite(output.end_logits[0])
    return Candidate("", 0, 0, start_logit, end_logit, start_logit + end_logit)


def _decoded(prediction: str, ranking: list[Candidate], null_odds: float | None) -> Decoded:
    spans = [[candidate.start, candidate.end] for candidate in ranking]
    return Decoded(prediction, _n_best(ranking), null_odds, spans)


def _n_best(candidates: list[Candidate]) -> list[dict[str, str | float]]:
    """NVIDIA's entries, with the softmax over the scores."""
    scores = np.array([candidate.score for candidate in candidates])
    probabilities = np.exp(scores - _log_sum_exp(scores))
    return [
        {
            "text": candidate.text,
            "probability": float(probability),
            "start_logit": candidate.start_logit,
            "end_logit": candidate.end_logit,
        }
        for candidate, probability in zip(candidates, probabilities, strict=True)
    ]


def _log_sum_exp(scores: Sequence[float]) -> float:
    scores = np.asarray(scores)
    return float(scores.max() + np.log(np.exp(scores - scores.max()).sum()))


def _checked(logits: np.ndarray) -> np.ndarray:
    """The logits as float64, in which the sum of two float32 numbers is exact and ties are true ones."""
    logits = np.asarray(logits, np.float64)
    # -inf says "never" and is dealt with; a comparison with NaN is false.
    if not (logits < np.inf).all():
        raise ValueError("a logit is NaN or infinite: the model's weights or precision are broken")
    return logits


def _finite(logit: float) -> float:
    if not np.isfinite(logit):
        raise ValueError("the logit of no answer is NaN or infinite: the weights or precision are broken")
    return float(logit)
