"""The masked-LM head's softmax over the vocabulary: computed once, for the losses, their gradient, the
predictions and the samples. It is the largest tensor of a step, so every pass over it counts.
"""

import tensorflow as tf

from fused_operations import chain, with_gradient

# Entries that are summed before the cumulative sum runs over them; the vocabulary is padded to a multiple.
BLOCK = 128
# The logit of padding: its probability is 0 for any temperature to 100, and float16 holds it.
_PADDING_LOGIT = -30000.0


def padded_logits(states: tf.Tensor, table: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """float32 [rows, padded vocabulary]: states table^T + bias, the bias as one more column of the product.

    Args:
        states: [rows, width]. table: [vocabulary, width]. bias: [vocabulary].
    """
    padding = -table.shape[0] % BLOCK
    columns = tf.concat([table, tf.cast(bias, table.dtype)[:, None]], axis=1)
    padding_rows = tf.pad(
        tf.fill([padding, 1], tf.constant(_PADDING_LOGIT, table.dtype)), [[0, 0], [table.shape[1], 0]]
    )
    states = tf.concat([states, tf.ones_like(states[:, :1])], axis=1)
    logits = tf.matmul(states, tf.concat([columns, padding_rows], axis=0), transpose_b=True)
    return tf.cast(logits, tf.float32)


def softmax_losses(logits: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Cross-entropies, and what else follows from the softmax.

    Args:
        logits: float32 [rows, entries]. targets: int32 [rows].

    Returns:
        losses: float32 [rows], in nats.
        probabilities: float32 [rows, entries], without a gradient.
        predictions: int32 [rows], the likeliest entries.
    """

    @with_gradient
    def outputs(logits):
        probabilities = tf.nn.softmax(logits)
        predictions = tf.argmax(logits, axis=1, output_type=tf.int32)
        # log(sum(exp(z))) = z - log p for any entry; at the likeliest, p cannot be too small for float32.
        log_total = _at(logits, predictions) - tf.math.log(_at(probabilities, predictions))
        losses = log_total - _at(logits, targets)

        def gradient(of_losses, of_probabilities, of_predictions):
            return _of_logits(probabilities, targets, of_losses)

        return (losses, probabilities, predictions), gradient

    losses, probabilities, predictions = outputs(logits)
    return losses, tf.stop_gradient(probabilities), predictions


def _at(rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    return tf.gather(rows, columns, batch_dims=1)


@chain
def _of_logits(probabilities, targets, of_losses):
    is_target = tf.range(probabilities.shape[1])[None, :] == targets[:, None]
    return (probabilities - tf.cast(is_target, tf.float32)) * of_losses[:, None]


def sample_by_inverse_cdf(logits: tf.Tensor, uniforms: tf.Tensor) -> tf.Tensor:
    """Draw from softmax(logits), float32 [draws, entries], as `sample_from` does from probabilities."""
    padding = -logits.shape[1] % BLOCK
    return sample_from(tf.pad(tf.nn.softmax(logits), [[0, 0], [0, padding]]), uniforms)


def sample_from(probabilities: tf.Tensor, uniforms: tf.Tensor) -> tf.Tensor:
    """Draw entries by one uniform number each: the first entry whose cumulative sum exceeds it.

    Blocks of entries are summed first, so the cumulative sums are short: quicker, and with less rounding,
    than one over the whole vocabulary. An entry of probability zero is never drawn.

    Args:
        probabilities: float32 [draws, entries], each row's sum 1 but for rounding; entries a multiple of 128.
        uniforms: float32 [draws] in [0, 1).

    Returns:
        int32 [draws].
    """
    blocks = tf.reshape(probabilities, [-1, probabilities.shape[1] // BLOCK, BLOCK])
    block_ends = tf.cumsum(tf.reduce_sum(blocks, axis=2), axis=1)
    targets = _below_total(uniforms * block_ends[:, -1], block_ends)
    block = _first_exceeding(block_ends, targets)
    block_starts = tf.pad(block_ends[:, :-1], [[0, 0], [1, 0]])
    ends = tf.cumsum(tf.gather(blocks, block, batch_dims=1), axis=1)
    targets = _below_total(targets - tf.gather(block_starts, block, batch_dims=1), ends)
    return block * BLOCK + _first_exceeding(ends, targets)


def _below_total(targets: tf.Tensor, ends: tf.Tensor) -> tf.Tensor:
    """Keep rounding from lifting a target to the total, which no entry exceeds."""
    return tf.clip_by_value(targets, 0.0, ends[:, -1] * (1 - 2**-22))


def _first_exceeding(ends: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(ends <= targets[:, None], tf.int32), axis=1)
