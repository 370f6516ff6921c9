"""The pre-training objective: generator, sampling, replaced-token detection, losses and metrics.

The model gives, for one micro-batch, its share of the update's loss and the sums that the metrics are made
of. A loss is divided by the number of picks or tokens of the *whole update*, so k micro-batches add up to
exactly the loss of one batch k times as large. What is picked and the samples' random numbers come with the
batch (masking.py).
"""

import keras
import numpy as np
import tensorflow as tf

from configuration import PretrainingConfig
from modeling import DiscriminatorHead, Encoder, MaskedLmHead
from vocabulary_softmax import sample_by_inverse_cdf, sample_from, softmax_losses

_EPSILON = 1e-6
# The AUC is read off a histogram of the logits: bins this fine change it by less than 1e-3.
_HISTOGRAM_BINS = 2048
_HISTOGRAM_LIMIT = 12.0


class PretrainingModel(keras.layers.Layer):
    """Generator and discriminator, trained together (Clark et al. 2020, section 2).

    The discriminator's encoder is `electra`. The objective's options replace the generator: by the same
    encoder (`untied_generator` off), by uniform samples, or, with `electra_objective` off, the
    discriminator by plain masked language modelling of `electra`.
    """

    def __init__(self, config: PretrainingConfig, vocabulary_size: int):
        # Not autocast: the batch's random numbers and counts must stay float32 in mixed precision.
        super().__init__(name="pretraining", autocast=False)
        self._config = config
        self.discriminator_config = config.discriminator(vocabulary_size)
        self.generator_config = config.generator(vocabulary_size)
        self.electra = Encoder(self.discriminator_config, name="electra")
        self.discriminator_head = None
        self.generator = None
        self.masked_lm_head = None
        if config.electra_objective:
            self.discriminator_head = DiscriminatorHead(
                self.discriminator_config, name="discriminator_predictions"
            )
        if config.electra_objective and config.untied_generator and not config.uniform_generator:
            shared = None if config.untied_generator_embeddings else self.electra.embeddings
            self.generator = Encoder(self.generator_config, shared, name="generator")
        for encoder in (self.electra, self.masked_lm_encoder):
            encoder.recompute = config.recompute
        if not config.uniform_generator:
            head_encoder = self.masked_lm_encoder
            self.masked_lm_head = MaskedLmHead(
                head_encoder.config, head_encoder.embeddings, name="generator_predictions"
            )

    @property
    def masked_lm_encoder(self) -> Encoder:
        """The encoder under the masked-LM head: the generator's own, else the discriminator's."""
        return self.electra if self.generator is None else self.generator

    def build(self, input_shape=None):
        for part in (self.electra, self.discriminator_head, self.generator, self.masked_lm_head):
            if part is not None:
                part.build()

    def named_variables(self) -> dict[str, tf.Variable]:
        """Every weight by its name in Google's checkpoints (electra/…, generator/…, …_predictions/…)."""
        prefix = f"{self.name}/"
        return {variable.path.removeprefix(prefix): variable.value for variable in self.trainable_variables}

    def call(self, batch, normalizers, dropout_seed=None, per_sequence=False):
        """The sum of `loss_parts`: the loss of a micro-batch and its metric sums."""
        loss, sums = tf.constant(0.0), {}
        for part, part_sums in self.loss_parts(batch, normalizers, dropout_seed, per_sequence):
            loss += part
            sums |= part_sums
        return loss, sums

    def loss_parts(self, batch, normalizers, dropout_seed=None, per_sequence=False):
        """The generator's part of a micro-batch's loss, then the discriminator's, with their metric sums.

        No gradient goes from one to the other, as none passes the samples.

        Args:
            batch: what masking.mask_batch or packed_data.pack_batch returns, as tensors.
            normalizers: "picks" and "tokens", float32: how many the whole update has.
            dropout_seed: int32 [2], or None for no dropout.
            per_sequence: give the sums of each sequence, [batch, …], in place of the micro-batch's.

        Yields:
            loss: float32 scalar, the micro-batch's share of gen_weight * sum(w * nll) / (sum(w) + 1e-6), then
                of disc_weight * sum(mask * bce) / (sum(mask) + 1e-6).
            sums: float64 tensors by name, to be added over micro-batches and workers (see `metrics`).
        """
        total = _SumsOfEach(batch) if per_sequence else _SumsOfAll()
        with tf.name_scope("metrics"):
            sums = _count_sums(batch, total)
        generator_logits = probabilities = None
        if self.masked_lm_head is not None:
            generator_logits = self._masked_lm_logits(batch, dropout_seed)
            with tf.name_scope("losses"):
                targets = tf.reshape(batch["masked_lm_ids"], [-1])
                pick_losses, probabilities, predictions = softmax_losses(generator_logits, targets)
                weights = tf.reshape(batch["masked_lm_weights"], [-1])
                pick_loss = tf.reduce_sum(weights * pick_losses) / (normalizers["picks"] + _EPSILON)
            with tf.name_scope("metrics"):
                sums |= _masked_lm_sums(batch, predictions, pick_losses, weights, total)
        if self.discriminator_head is not None:
            # Before anything is yielded, so that probabilities need not be kept for it.
            with tf.name_scope("sampling"):
                samples = self._sample(batch, generator_logits, probabilities)
                corrupted = _put_samples(batch, samples)
        if self.masked_lm_head is not None:
            yield self._config.gen_weight * pick_loss, sums
            sums = {}
        if self.discriminator_head is not None:
            hidden = self._encode(self.electra, corrupted, batch, dropout_seed)
            logits = self.discriminator_head(hidden)
            with tf.name_scope("losses"):
                replaced = tf.reshape(tf.cast(corrupted != batch["input_ids"], tf.float32), [-1])
                token_weights = tf.reshape(tf.cast(batch["input_mask"], tf.float32), [-1])
                token_losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=replaced, logits=logits)
                token_loss = tf.reduce_sum(token_weights * token_losses) / (normalizers["tokens"] + _EPSILON)
            with tf.name_scope("metrics"):
                sums |= _sample_sums(batch, samples, total)
                sums |= _discriminator_sums(logits, token_losses, replaced, token_weights, total)
            yield self._config.disc_weight * token_loss, sums

    def _masked_lm_logits(self, batch, dropout_seed) -> tf.Tensor:
        """float32 [batch * picks, padded vocabulary]: the head sees the picked positions alone."""
        # Another seed than the discriminator's, for the case that both are one encoder.
        seed = None if dropout_seed is None else tf.bitwise.invert(dropout_seed)
        hidden = self._encode(self.masked_lm_encoder, batch["masked_input_ids"], batch, seed)
        return self.masked_lm_head.padded_logits(tf.gather(hidden, _flat_positions(batch)))

    def _encode(self, encoder: Encoder, input_ids, batch, dropout_seed) -> tf.Tensor:
        return encoder(
            input_ids,
            batch["input_mask"],
            batch["segment_ids"],
            dropout_seed,
            position_ids=batch.get("position_ids"),
            example_numbers=batch.get("example_numbers"),
        )

    def _sample(self, batch, logits: tf.Tensor | None, probabilities: tf.Tensor | None) -> tf.Tensor:
        """int32 [batch * picks]: a token for each pick."""
        uniforms = tf.reshape(batch["sample_uniforms"], [-1])
        if logits is None:
            vocabulary_size = self.discriminator_config.vocab_size
            return tf.minimum(tf.cast(uniforms * float(vocabulary_size), tf.int32), vocabulary_size - 1)
        if self._config.temperature == 1 and not self._config.disallow_correct:
            return sample_from(probabilities, uniforms)
        logits = tf.stop_gradient(logits) / self._config.temperature
        if self._config.disallow_correct:
            rows = tf.range(tf.shape(logits)[0])
            originals = tf.stack([rows, tf.reshape(batch["masked_lm_ids"], [-1])], axis=1)
            logits = tf.tensor_scatter_nd_update(logits, originals, tf.fill(tf.shape(rows), logits.dtype.min))
        return sample_by_inverse_cdf(logits, uniforms)


def _flat_positions(batch) -> tf.Tensor:
    """int32 [batch * picks]: the picks' rows in hidden states of [batch * length]."""
    count, length = tf.shape(batch["input_ids"])[0], tf.shape(batch["input_ids"])[1]
    return tf.reshape(batch["masked_lm_positions"] + (tf.range(count) * length)[:, None], [-1])


def _put_samples(batch, samples: tf.Tensor) -> tf.Tensor:
    """int32 [batch, length]: the original text with the samples at the picked positions."""
    is_pick = tf.reshape(batch["masked_lm_weights"], [-1]) > 0
    # Where there is no pick the position is 0, and its own token is written there again.
    values = tf.where(is_pick, samples, tf.reshape(batch["masked_lm_ids"], [-1]))
    flat = tf.reshape(batch["input_ids"], [-1])
    flat = tf.tensor_scatter_nd_update(flat, _flat_positions(batch)[:, None], values)
    return tf.reshape(flat, tf.shape(batch["input_ids"]))


# ------------------------------------------------------------------------------------------- metric sums


class _SumsOfAll:
    """Sums over a micro-batch."""

    def __call__(self, values: tf.Tensor) -> tf.Tensor:
        """Float64 scalar from [batch, …] or [batch * entries]."""
        return tf.reduce_sum(tf.cast(values, tf.float64))

    def histogram(self, weights: tf.Tensor, bins: tf.Tensor) -> tf.Tensor:
        """[bins, kinds] from [tokens, kinds] and the bin of each token."""
        return tf.math.unsorted_segment_sum(weights, bins, _HISTOGRAM_BINS)


class _SumsOfEach:
    """Sums over each sequence of a batch; the same calls, one axis more."""

    def __init__(self, batch):
        self._count = batch["input_ids"].shape[0]

    def __call__(self, values: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.cast(tf.reshape(values, [self._count, -1]), tf.float64), axis=1)

    def histogram(self, weights: tf.Tensor, bins: tf.Tensor) -> tf.Tensor:
        first_bins = tf.range(self._count)[:, None] * _HISTOGRAM_BINS
        of_sequences = tf.reshape(tf.reshape(bins, [self._count, -1]) + first_bins, [-1])
        sums = tf.math.unsorted_segment_sum(weights, of_sequences, self._count * _HISTOGRAM_BINS)
        return tf.reshape(sums, [self._count, _HISTOGRAM_BINS, weights.shape[1]])


def _count_sums(batch, total) -> dict[str, tf.Tensor]:
    # Packed sequences hold several examples each, and those are counted.
    numbers = batch.get("example_numbers", batch["input_mask"])
    return {
        "sequences": total(tf.reduce_max(numbers, axis=1)),
        "tokens": total(batch["input_mask"]),
        "picks": total(batch["masked_lm_weights"]),
    }


def _masked_lm_sums(batch, predictions, losses, weights, total) -> dict[str, tf.Tensor]:
    correct = tf.cast(predictions == tf.reshape(batch["masked_lm_ids"], [-1]), tf.float32)
    is_mask = tf.reshape(batch["masked_lm_is_mask"], [-1])
    return {
        "masked_lm_loss": total(weights * losses),
        "masked_lm_correct": total(weights * correct),
        "mask_tokens": total(is_mask),
        "mask_token_loss": total(is_mask * losses),
        "mask_token_correct": total(is_mask * correct),
    }


def _sample_sums(batch, samples, total) -> dict[str, tf.Tensor]:
    unchanged = tf.cast(samples == tf.reshape(batch["masked_lm_ids"], [-1]), tf.float32)
    return {"sampled_correct": total(tf.reshape(batch["masked_lm_weights"], [-1]) * unchanged)}


def _discriminator_sums(logits, losses, replaced, token_weights, total) -> dict[str, tf.Tensor]:
    predicted = tf.cast(logits > 0, tf.float32)
    scaled = (logits + _HISTOGRAM_LIMIT) * (_HISTOGRAM_BINS / (2 * _HISTOGRAM_LIMIT))
    bins = tf.cast(tf.clip_by_value(scaled, 0.0, _HISTOGRAM_BINS - 1.0), tf.int32)
    weights = tf.cast(
        tf.stack([token_weights * replaced, token_weights * (1 - replaced)], axis=1), tf.float64
    )
    return {
        "disc_loss": total(token_weights * losses),
        "disc_correct": total(token_weights * tf.cast(predicted == replaced, tf.float32)),
        "disc_replaced": total(token_weights * replaced),
        "disc_predicted": total(token_weights * predicted),
        "disc_true_positive": total(token_weights * predicted * replaced),
        "disc_histogram": total.histogram(weights, bins),
    }


def metrics(sums: dict[str, np.ndarray], config: PretrainingConfig) -> dict[str, float]:
    """The logged metrics from sums over any number of micro-batches and workers, in NVIDIA's names.

    Keys that contain "accuracy" are in percent, losses in nats, the others shares between 0 and 1.
    `disc_majority_accuracy` is the accuracy of calling every token original (or every one replaced).
    """
    values: dict[str, float] = {"total_loss": 0.0}
    if "masked_lm_loss" in sums:
        values["masked_lm_accuracy"] = 100 * _ratio(sums["masked_lm_correct"], sums["picks"])
        values["masked_lm_loss"] = _ratio(sums["masked_lm_loss"], sums["picks"])
        values["total_loss"] += config.gen_weight * values["masked_lm_loss"]
    if "disc_loss" in sums:
        values["sampled_masked_lm_accuracy"] = 100 * _ratio(sums["sampled_correct"], sums["picks"])
        values["disc_loss"] = _ratio(sums["disc_loss"], sums["tokens"])
        values["disc_auc"] = area_under_curve(sums["disc_histogram"])
        values["disc_accuracy"] = 100 * _ratio(sums["disc_correct"], sums["tokens"])
        values["disc_precision"] = _ratio(sums["disc_true_positive"], sums["disc_predicted"])
        values["disc_recall"] = _ratio(sums["disc_true_positive"], sums["disc_replaced"])
        replaced = _ratio(sums["disc_replaced"], sums["tokens"])
        values["disc_majority_accuracy"] = 100 * max(replaced, 1 - replaced)
        values["total_loss"] += config.disc_weight * values["disc_loss"]
    return values


def held_out_metrics(sums: dict[str, np.ndarray], config: PretrainingConfig) -> dict[str, float]:
    """`metrics`, and what held-out text is judged by.

    `masked_lm_loss_masked_only` leaves out the 15 % of the picks that kept their token, where copying is
    enough; `unigram_cross_entropy` is the loss of a model that knows word frequencies alone, on the same
    tokens.
    """
    values = metrics(sums, config)
    if "masked_lm_loss" in sums:
        values["masked_lm_loss_masked_only"] = _ratio(sums["mask_token_loss"], sums["mask_tokens"])
        values["masked_lm_accuracy_masked_only"] = 100 * _ratio(
            sums["mask_token_correct"], sums["mask_tokens"]
        )
        values["unigram_cross_entropy"] = _ratio(sums["unigram_loss"], sums["mask_tokens"])
    return values | {"tokens": float(sums["tokens"]), "sequences": float(sums["sequences"])}


def area_under_curve(histogram: np.ndarray) -> float:
    """ROC AUC from counts by score: the share of (replaced, original) pairs in the right order.

    Args:
        histogram: [bins, 2], the weights of replaced and of original tokens, by rising logit. Pairs within
            a bin count one half. Without both kinds the area is undefined, and 0.5 is returned.
    """
    replaced, original = histogram[:, 0], histogram[:, 1]
    pairs = replaced.sum() * original.sum()
    if pairs == 0:
        return 0.5
    original_below = np.cumsum(original) - original
    return float((replaced * (original_below + original / 2)).sum() / pairs)


def _ratio(numerator, denominator) -> float:
    return float(numerator) / float(denominator) if denominator else 0.0
