"""Extractive question answering: an encoder with a span head, its loss, and what a prediction is made from.

As in pretraining.py, a micro-batch gives its share of the update's loss, divided by the number of windows of
the whole update. Decoding the outputs into text is squad_decoding.py's.
"""

import keras
import tensorflow as tf

from architecture import ElectraConfig
from modeling import Encoder, JointSpanHead

# Of the answerability's loss beside the span's (Google's ELECTRA, finetune/qa).
_ANSWERABLE_WEIGHT = 0.5
# Added to the logits of tokens that no answer can start or end at.
_MASKED_LOGIT = -1e4


class QuestionAnsweringModel(keras.layers.Layer):
    """An ELECTRA encoder `electra` under a plain span head `qa_outputs` or a joint one, `squad_head`.

    Args:
        config: the encoder's architecture.
        joint_head: start, then end given the start; else both by one dense layer.
        variant: of the joint head, google or xlnet.
        version_2: questions may have no answer, so the joint head learns answerability.
        beam_size: starts, and ends for each, that the joint head's prediction keeps.
    """

    def __init__(
        self, config: ElectraConfig, *, joint_head: bool, variant: str, version_2: bool, beam_size: int
    ):
        super().__init__(name="question_answering", autocast=False)
        self._is_joint, self._variant = joint_head, variant
        self._version_2, self._beam_size = version_2, beam_size
        self.electra = Encoder(config, name="electra")
        if joint_head:
            self.head = JointSpanHead(config, variant, answerable=version_2, name="squad_head")
        else:
            initializer = keras.initializers.TruncatedNormal(stddev=config.initializer_range)
            self.head = keras.layers.Dense(2, kernel_initializer=initializer, name="qa_outputs")

    def build(self, input_shape=None):
        self.electra.build()
        self.head.build((None, self.electra.config.hidden_size))

    def named_variables(self) -> dict[str, tf.Variable]:
        """Every weight by its name: electra/…, and qa_outputs/… or squad_head/…."""
        prefix = f"{self.name}/"
        return {variable.path.removeprefix(prefix): variable.value for variable in self.trainable_variables}

    def call(self, batch, normalizers, dropout_seed=None):
        """The loss of a micro-batch and its metric sums.

        Args:
            batch: input_ids, input_mask, segment_ids, context_mask, int32 [batch, length]; start_positions,
                end_positions, is_impossible, int32 [batch]. Positions without an answer are 0, [CLS].
            normalizers: "windows", float32: how many the whole update has.
            dropout_seed: int32 [2], or None for no dropout.

        Returns:
            loss: float32 scalar, this micro-batch's part of the mean over windows of
                (nll(start) + nll(end)) / 2, and with the joint head on SQuAD 2.0 .5 * bce(no answer).
            sums: float64 tensors by name, to be added over micro-batches and workers.
        """
        hidden = self._hidden(batch, dropout_seed)
        starts, ends = batch["start_positions"], batch["end_positions"]
        if self._is_joint:
            start_logits = self._masked(self.head.start_logits(hidden), batch["context_mask"])
            gold = tf.gather(hidden, starts, batch_dims=1)
            end_logits = self.head.end_logits(hidden, gold[:, None])[:, 0]
            end_logits = self._masked(end_logits, batch["context_mask"])
        else:
            # As everywhere with this head, every token may be chosen; but padding is none.
            start_logits, end_logits = (
                self._masked(logits, batch["input_mask"]) for logits in self._plain_logits(hidden)
            )
        span_losses = (_nll(start_logits, starts) + _nll(end_logits, ends)) / 2
        losses = span_losses
        sums = {"windows": _total(tf.ones_like(starts)), "span_loss": _total(span_losses)}
        if self._is_joint and self._version_2:
            state = gold if self._variant == "xlnet" else self._expected_start(hidden, start_logits)
            no_answer = tf.cast(batch["is_impossible"], tf.float32)
            answerable_losses = tf.nn.sigmoid_cross_entropy_with_logits(
                labels=no_answer, logits=self.head.null_logit(hidden, state)
            )
            losses += _ANSWERABLE_WEIGHT * answerable_losses
            sums["answerable_loss"] = _total(answerable_losses)
        sums["loss"] = _total(losses)
        return tf.reduce_sum(losses) / normalizers["windows"], sums

    def predict(self, batch) -> dict[str, tf.Tensor]:
        """What squad_decoding.py makes answers of.

        Args:
            batch: as for `call`; no labels are needed.

        Returns:
            Plain head: start_logits and end_logits, float32 [batch, length].
            Joint head: the best starts, start_log_probs and start_index [batch, beam], for each its best
            ends, end_log_probs and end_index [batch, beam, beam], and in version 2 null_logit [batch].
        """
        hidden = self._hidden(batch, None)
        if not self._is_joint:
            start_logits, end_logits = self._plain_logits(hidden)
            return {"start_logits": start_logits, "end_logits": end_logits}
        start_logits = self._masked(self.head.start_logits(hidden), batch["context_mask"])
        beam = tf.minimum(self._beam_size, tf.shape(start_logits)[1])
        start_log_probs, start_index = tf.math.top_k(tf.nn.log_softmax(start_logits), beam)
        states = tf.gather(hidden, start_index, batch_dims=1)
        end_logits = self.head.end_logits(hidden, states)
        end_logits = self._masked(end_logits, batch["context_mask"][:, None])
        end_log_probs, end_index = tf.math.top_k(tf.nn.log_softmax(end_logits), beam)
        output = {
            "start_log_probs": start_log_probs,
            "start_index": start_index,
            "end_log_probs": end_log_probs,
            "end_index": end_index,
        }
        if self._version_2:
            state = self._expected_start(hidden, start_logits)
            output["null_logit"] = self.head.null_logit(hidden, state)
        return output

    def _hidden(self, batch, dropout_seed) -> tf.Tensor:
        """[batch, length, hidden size]."""
        ids = batch["input_ids"]
        hidden = self.electra(ids, batch["input_mask"], batch["segment_ids"], dropout_seed)
        return tf.reshape(hidden, [-1, tf.shape(ids)[1], self.electra.config.hidden_size])

    def _plain_logits(self, hidden) -> tuple[tf.Tensor, tf.Tensor]:
        logits = tf.cast(self.head(hidden), tf.float32)
        return logits[:, :, 0], logits[:, :, 1]

    def _masked(self, logits, mask):
        return logits + _MASKED_LOGIT * (1 - tf.cast(mask, tf.float32))

    def _expected_start(self, hidden, start_logits):
        """[batch, hidden size]: the hidden states, weighted by the start's probabilities."""
        weights = tf.cast(tf.nn.softmax(start_logits), hidden.dtype)
        return tf.squeeze(tf.matmul(weights[:, None], hidden), 1)


def _nll(logits: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=positions, logits=logits)


def _total(values: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(values, tf.float64))
