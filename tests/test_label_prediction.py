"""Labels are predicted from numbers alone, on whichever worker the others would come from."""

import numpy as np
import pytest
import tensorflow as tf

from command_line import RunFailure
from label_prediction import LabelPredictor
from labelled_data import Example, Sentence
from labelled_features import build_features, build_tagged_features
from stop_signal import EvaluationStopped
from tokenization import SPECIAL_PIECES, Vocabulary
from workers import ALONE, Workers

VOCABULARY = Vocabulary((*SPECIAL_PIECES, "a", "b"))
TEXTS = build_features(
    [Example(str(n), text, None, "0", n + 2) for n, text in enumerate(["a", "b", "a a"])],
    VOCABULARY,
    16,
    lambda example: 0,
    dtype=np.int32,
    source="dev.tsv",
    hide_progress=True,
)
SENTENCES = build_tagged_features(
    [Sentence("0", ["a", "a"], ["O", "O"], 4)],
    VOCABULARY,
    16,
    lambda sentence, place: 0,
    source="dev.conll",
    hide_progress=True,
)


class Broken:
    """A network whose output is not finite where the first token, or a token, is the given piece."""

    def __init__(self, piece: str, value: float, by_token: bool = False):
        self._id, self._value, self._by_token = VOCABULARY.ids[piece], value, by_token

    def predict(self, batch):
        ids = batch["input_ids"] if self._by_token else batch["input_ids"][:, 1]
        outputs = tf.where(ids == self._id, self._value, 1.0)
        return tf.stack([outputs, tf.zeros_like(outputs)], axis=-1)


class OtherFails(Workers):
    """Worker 0 of two, whose other one fails where they agree."""

    def gather(self, item):
        return [item, [False, "a failure"]]


def _predictor(network, workers: Workers = ALONE) -> LabelPredictor:
    return LabelPredictor(network, batch_size=2, max_seq_length=16, workers=workers)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("predict", ["numbers", "values"])
def test_an_output_that_is_not_finite_is_named_by_its_line(value, predict):
    with pytest.raises(RunFailure, match=r"^dev.tsv, lines 3: the network's output is not finite"):
        getattr(_predictor(Broken("b", value)), predict)(TEXTS, hide_progress=True)


def test_of_words_only_the_outputs_that_count_are_looked_at():
    beside = _predictor(Broken("[SEP]", np.nan, by_token=True))
    assert beside.numbers(SENTENCES, hide_progress=True).tolist() == [0, 0]
    with pytest.raises(RunFailure, match=r"^dev.conll, lines 4: "):
        _predictor(Broken("a", np.nan, by_token=True)).numbers(SENTENCES, hide_progress=True)


def test_a_failure_of_another_worker_ends_this_one():
    with pytest.raises(RunFailure, match=r"^worker 1: a failure$"):
        _predictor(Broken("[MASK]", 0.0), OtherFails(0, 2)).numbers(TEXTS, hide_progress=True)


def test_the_prediction_may_be_ended_before_each_batch():
    """Three texts in batches of two: the second is never computed."""
    predictor, asked = _predictor(Broken("[MASK]", 0.0)), []

    def end_at_the_second():
        asked.append(predictor.clock.sequences)
        if len(asked) == 2:
            raise EvaluationStopped

    with pytest.raises(EvaluationStopped):
        predictor.numbers(TEXTS, hide_progress=True, check_stop=end_at_the_second)
    assert asked == [0, 2]
