"""Sequences -> labels: batches of like length through the network, divided among the workers."""

import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from classification import SequenceModel, TokenModel
from command_line import RunFailure
from labelled_features import LabelledFeatures, TaggedFeatures
from length_batches import bucket_lengths, bucketed_batches
from prediction_speed import PredictionClock
from workers import ALONE, Workers

_INPUTS = ("input_ids", "input_mask", "segment_ids")


class LabelPredictor:
    """Predicts the labels of features.

    Args:
        model: built, with its weights.
        batch_size: sequences in a batch.
        max_seq_length: of the longest sequence.
        workers: who divide the batches among them.

    Attributes:
        clock: sequences and batches, counted and timed.
        seconds: that all of it took.
    """

    def __init__(
        self,
        model: SequenceModel | TokenModel,
        *,
        batch_size: int,
        max_seq_length: int,
        jit_compile: bool = False,
        workers: Workers = ALONE,
    ):
        self._workers, self._batch_size = workers, batch_size
        self._buckets, self._fills_batches = bucket_lengths(max_seq_length), jit_compile
        # Without XLA one trace serves every length; with it each length is compiled once.
        signature = {name: tf.TensorSpec([None, None], tf.int32) for name in _INPUTS}
        self._predict = tf.function(
            model.predict, input_signature=[signature], jit_compile=jit_compile, autograph=False
        )
        self.clock = PredictionClock(workers)
        self.seconds = 0.0

    def numbers(
        self,
        features: LabelledFeatures,
        *,
        hide_progress: bool | None = None,
        check_stop: Callable[[], None] = lambda: None,
    ) -> np.ndarray:
        """The label's number of each sequence, or of each word of tagged ones: int64, on every worker.

        Args:
            hide_progress: None shows the bar at a terminal alone.
            check_stop: called before each batch; what it raises ends the prediction.

        Raises:
            RunFailure: an output is not finite, on whichever worker.
        """
        outputs = self._outputs(features, _best_labels, hide_progress, check_stop)
        return np.concatenate([np.asarray(outputs[number], np.int64) for number in range(len(features))])

    def values(
        self,
        features: LabelledFeatures,
        *,
        hide_progress: bool | None = None,
        check_stop: Callable[[], None] = lambda: None,
    ) -> np.ndarray:
        """The number that regression gives each sequence: float64, on every worker; raises as `numbers`."""
        outputs = self._outputs(features, lambda output: output[:1].tolist(), hide_progress, check_stop)
        return np.concatenate([outputs[number] for number in range(len(features))])

    def _outputs(self, features, make, hide_progress, check_stop) -> dict[int, list]:
        started = time.monotonic()
        own = self._workers.agree(lambda: self._own_outputs(features, make, hide_progress, check_stop))
        parts = self._workers.gather(list(own.items()))
        self.seconds += time.monotonic() - started
        return {number: output for part in parts for number, output in part}

    def _own_outputs(self, features, make, hide_progress, check_stop) -> dict[int, list]:
        """What `make` makes of the outputs of this worker's sequences, by their numbers."""
        batches = bucketed_batches(
            features.lengths, self._batch_size, self._buckets, filled=self._fills_batches
        )
        own: dict[int, list] = {}
        with tqdm(total=len(batches), desc="predicting", unit="batch", disable=hide_progress) as bar:
            for length, numbers in batches[self._workers.rank :: self._workers.size]:
                check_stop()
                batch = features.batch(numbers, length)

                def compute(batch=batch) -> np.ndarray:
                    return self._predict({name: batch[name] for name in _INPUTS}).numpy()

                outputs = self.clock.time(length, len(np.unique(numbers)), compute)
                for number, output in zip(numbers, outputs, strict=True):
                    if isinstance(features, TaggedFeatures):
                        output = output[features.word_places(int(number))]
                    # The largest of NaNs is the first, which would be scored like any label.
                    if not np.isfinite(output).all():
                        raise RunFailure(
                            f"{features.describe(np.array([number]))}: the network's output is not finite: "
                            "its weights or the precision are broken"
                        )
                    own[int(number)] = make(output)
                bar.update(self._workers.size)
        return own


def _best_labels(output: np.ndarray) -> list[int]:
    return np.atleast_1d(output.argmax(axis=-1)).tolist()
