"""Labels for whole sequences and for their tokens: an encoder with a head, its loss, what is predicted.

As in pretraining.py, a micro-batch gives its share of the update's loss, divided by the number of labels of
the whole update.
"""

import keras
import tensorflow as tf

from architecture import ElectraConfig
from modeling import Encoder, SequenceHead, TokenHead


class _LabelModel(keras.layers.Layer):
    """An ELECTRA encoder `electra` under a head `classifier`."""

    def __init__(self, config: ElectraConfig, head: keras.layers.Layer, name: str):
        super().__init__(name=name, autocast=False)
        self.electra = Encoder(config, name="electra")
        self.head = head

    def build(self, input_shape=None):
        self.electra.build()
        self.head.build()

    def named_variables(self) -> dict[str, tf.Variable]:
        """Every weight by its name: electra/… and classifier/…."""
        prefix = f"{self.name}/"
        return {variable.path.removeprefix(prefix): variable.value for variable in self.trainable_variables}

    def _hidden(self, batch, dropout_seed) -> tf.Tensor:
        """[batch * length, hidden size]."""
        return self.electra(batch["input_ids"], batch["input_mask"], batch["segment_ids"], dropout_seed)


class SequenceModel(_LabelModel):
    """One of several labels, or a number, for a sequence.

    Args:
        config: the encoder's architecture.
        labels: their number; 0 for regression.
    """

    def __init__(self, config: ElectraConfig, labels: int):
        super().__init__(config, SequenceHead(config, labels or 1, name="classifier"), "sequence_model")
        self._is_regression = labels == 0

    def call(self, batch, normalizers, dropout_seed=None):
        """The loss of a micro-batch and its metric sums.

        Args:
            batch: input_ids, input_mask, segment_ids, int32 [batch, length]; labels [batch], int32, for
                regression float32.
            normalizers: "labels", float32: how many the whole update has.
            dropout_seed: int32 [2], or None for no dropout.

        Returns:
            loss: float32 scalar, this micro-batch's part of the mean over sequences of the cross-entropy, or
                of the squared error.
            sums: float64 scalars by name, to be added over micro-batches and workers.
        """
        outputs, labels = self._outputs(batch, dropout_seed), batch["labels"]
        sums = {"labels": _total(tf.ones_like(labels))}
        if self._is_regression:
            losses = tf.square(outputs[:, 0] - labels)
        else:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=outputs)
            sums["right"] = _total(tf.equal(_best(outputs), labels))
        sums["loss"] = _total(losses)
        return tf.reduce_sum(losses) / normalizers["labels"], sums

    def predict(self, batch) -> tf.Tensor:
        """float32 [batch, labels], the logits; [batch, 1], the number, for regression."""
        return self._outputs(batch, None)

    def _outputs(self, batch, dropout_seed) -> tf.Tensor:
        shape = tf.shape(batch["input_ids"])
        hidden = self._hidden(batch, dropout_seed)
        return self.head(tf.gather(hidden, tf.range(shape[0]) * shape[1]), dropout_seed)


class TokenModel(_LabelModel):
    """One of several labels for each token.

    Args:
        config: the encoder's architecture.
        labels: their number.
    """

    def __init__(self, config: ElectraConfig, labels: int):
        super().__init__(config, TokenHead(config, labels, name="classifier"), "token_model")

    def call(self, batch, normalizers, dropout_seed=None):
        """As SequenceModel's, with labels [batch, length] that are negative where a token has none; the loss
        is a mean over those that have one."""
        logits, labels = self._logits(batch, dropout_seed), tf.reshape(batch["labels"], [-1])
        has_label = labels >= 0
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tf.maximum(labels, 0), logits=logits)
        losses *= tf.cast(has_label, tf.float32)
        sums = {
            "labels": _total(has_label),
            "right": _total(has_label & tf.equal(_best(logits), labels)),
            "loss": _total(losses),
        }
        return tf.reduce_sum(losses) / normalizers["labels"], sums

    def predict(self, batch) -> tf.Tensor:
        """float32 [batch, length, labels], the logits."""
        shape = tf.shape(batch["input_ids"])
        return tf.reshape(self._logits(batch, None), [shape[0], shape[1], self.head.units])

    def _logits(self, batch, dropout_seed) -> tf.Tensor:
        return self.head(self._hidden(batch, dropout_seed), dropout_seed)


def _best(logits: tf.Tensor) -> tf.Tensor:
    return tf.argmax(logits, axis=-1, output_type=tf.int32)


def _total(values: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(values, tf.float64))
