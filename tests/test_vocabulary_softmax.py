"""One softmax gives the losses, gradients, predictions and samples that separate computations give."""

import numpy as np
import pytest
import tensorflow as tf

from vocabulary_softmax import BLOCK, padded_logits, sample_by_inverse_cdf, sample_from, softmax_losses


def _random(*shape, seed=0):
    return np.random.RandomState(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("vocabulary", [5, 128, 300])
def test_padded_logits_are_the_product_and_padding_has_no_probability(vocabulary):
    states, table, bias = _random(9, 6), _random(vocabulary, 6, seed=1), _random(vocabulary, seed=2)
    logits = padded_logits(*map(tf.constant, (states, table, bias)))
    assert logits.shape[1] % BLOCK == 0
    np.testing.assert_allclose(logits[:, :vocabulary], states @ table.T + bias, atol=1e-5)
    assert (tf.nn.softmax(logits / 100.0)[:, vocabulary:].numpy() == 0).all()


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16, tf.float16])
def test_gradients_of_padded_logits_are_finite_and_the_products(dtype):
    states, table, bias = (
        tf.constant(value, dtype) for value in (_random(9, 6), _random(130, 6, seed=1), _random(130, seed=2))
    )
    targets = tf.range(9)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([states, table, bias])
        ours = tf.reduce_sum(softmax_losses(padded_logits(states, table, bias), targets)[0])
        logits = tf.cast(tf.matmul(states, table, transpose_b=True) + bias, tf.float32)
        theirs = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits))
    for value in (states, table, bias):
        expected = tf.cast(tape.gradient(theirs, value), tf.float32)
        atol = 1e-5 if dtype == tf.float32 else 0.05
        np.testing.assert_allclose(tf.cast(tape.gradient(ours, value), tf.float32), expected, atol=atol)


def test_losses_and_predictions_are_tensorflows_at_any_scale():
    """Where a target's probability is too small for float32 as well."""
    targets = np.arange(40, dtype=np.int32)
    for scale in (0.01, 1.0, 100.0, 1e4):
        logits = tf.constant(_random(40, 256) * scale)
        weights = tf.constant(_random(40, seed=3))
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(logits)
            losses, probabilities, predictions = softmax_losses(logits, tf.constant(targets))
            expected = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
            ours, theirs = tf.reduce_sum(losses * weights), tf.reduce_sum(expected * weights)
        np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(tape.gradient(ours, logits), tape.gradient(theirs, logits), atol=1e-6)
        assert (predictions.numpy() == logits.numpy().argmax(axis=1)).all()
        np.testing.assert_allclose(probabilities, tf.nn.softmax(logits), atol=1e-7)


def test_samples_from_probabilities_are_those_from_logits():
    logits, uniforms = _random(500, 384), np.random.RandomState(1).uniform(size=500).astype(np.float32)
    drawn = sample_from(tf.nn.softmax(logits), tf.constant(uniforms)).numpy()
    assert (drawn == sample_by_inverse_cdf(tf.constant(logits), tf.constant(uniforms)).numpy()).all()
    assert len(set(drawn)) > 100
