"""Chains compute what the formulas say, forward and backward, compiled or not, and dropout is dropout."""

import re

import numpy as np
import pytest
import tensorflow as tf
from memory_counts import peak_bytes

import fused_operations
from fused_operations import (
    Normalized,
    attention,
    dropout,
    dropout_seeds,
    feed_forward,
    gelu_of_sum,
    residual_layer_norm,
    split_heads,
)

ROWS, WIDTH = 24, 16
RATE = 0.25


@pytest.fixture(params=[False, True], ids=["plain", "compiled"], autouse=True)
def chains(request):
    fused_operations.compile_chains(request.param)
    yield
    fused_operations.compile_chains(False)


def _random(*shape, seed=0, dtype=tf.float32):
    return tf.constant(np.random.RandomState(seed).normal(size=shape).astype(np.float32), dtype)


def _with_gradients(function, *inputs):
    """Outputs and the gradients of a fixed weighting of them, in one graph as in training."""

    def call(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = function(*inputs)
            loss = tf.reduce_sum(tf.cast(outputs, tf.float32) * _random(*outputs.shape, seed=99))
        return outputs, tape.gradient(loss, list(inputs))

    return tf.function(call, autograph=False)(*inputs)


def _assert_equal(ours, theirs, atol):
    (outputs, gradients), (expected_outputs, expected_gradients) = ours, theirs
    np.testing.assert_allclose(tf.cast(outputs, tf.float32), expected_outputs, atol=atol)
    for gradient, expected in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(tf.cast(gradient, tf.float32), expected, atol=4 * atol)


def _mask(shape, seed):
    """The factors that dropout has there, from what it does to ones."""
    return dropout(tf.ones(shape), RATE, seed)


def _layer_norm(inputs, gamma, beta):
    mean, variance = tf.nn.moments(inputs, [1], keepdims=True)
    return (inputs - mean) / tf.sqrt(variance + 1e-12) * gamma + beta


@pytest.mark.parametrize(("dtype", "atol"), [(tf.float32, 2e-6), (tf.bfloat16, 4e-2)], ids=["f32", "bf16"])
def test_gelu_and_its_gradient_are_tensorflows(dtype, atol):
    inputs = _random(ROWS, WIDTH), _random(WIDTH, seed=1)
    theirs = _with_gradients(lambda x, b: tf.nn.gelu(x + b, approximate=False), *inputs)
    ours = _with_gradients(gelu_of_sum, *(tf.cast(value, dtype) for value in inputs))
    assert ours[0].dtype == dtype
    _assert_equal(ours, theirs, 2e-6 if dtype == tf.float32 else 4e-2 * 4)


@pytest.mark.parametrize(
    ("columns", "dtype", "atol"),
    [(20, tf.float32, 2e-5), (1024, tf.float32, 3e-4), (20, tf.bfloat16, 0.5)],
    ids=["f32", "f32-spare", "bf16"],
)
def test_a_feed_forward_and_its_gradient_are_tensorflows(columns, dtype, atol):
    """Where chains are compiled, 1,024 columns get some of zeros beside them, which change nothing."""
    gamma, beta = _random(WIDTH, seed=3), _random(WIDTH, seed=4)
    normal = _random(ROWS, WIDTH)
    inputs = (
        normal * gamma + beta,
        0.3 * _random(WIDTH, columns, seed=5),
        _random(columns, seed=1),
        _random(columns, 8, seed=2),
    )
    theirs = _with_gradients(lambda x, k, b, o: tf.nn.gelu(x @ k + b, approximate=False) @ o, *inputs)

    def fed_forward(outputs, *weights):
        return feed_forward(Normalized(outputs, tf.cast(normal, dtype), gamma, beta), *weights)

    ours = _with_gradients(fed_forward, *(tf.cast(value, dtype) for value in inputs))
    assert ours[0].dtype == dtype
    _assert_equal(ours, theirs, atol)


@pytest.mark.parametrize(("width", "columns"), [(512, 64), (64, 512)])
def test_a_layer_keeps_for_its_gradient_no_more_than_it_says(width, columns):
    """LayerNorm's normal values and the inner products, neither LayerNorm's outputs nor gelu's values."""
    rows, layers = 1024, 24
    weights = (_random(width, columns, seed=1), _random(columns, seed=2), _random(columns, width, seed=3))

    def network(states, *weights):
        products, zeros, ones = tf.zeros_like(states), tf.zeros([width]), tf.ones([width])
        for _ in range(layers):
            normalized = residual_layer_norm(
                products, zeros, states, ones, zeros, epsilon=1e-12, rate=0.0, seed=None
            )
            states, products = normalized.outputs, feed_forward(normalized, *weights)
        return products

    used = peak_bytes(lambda: _with_gradients(network, _random(rows, width), *weights))
    kept = 4 * rows * (width + columns) * layers
    # And some tensors of the layer at work. LayerNorm's outputs, where it is wide, else gelu's values would
    # nearly double it.
    assert kept < used < 1.5 * kept


def test_what_a_gradient_computes_again_is_not_kept_under_xla():
    """In the code that XLA makes, no product of the backward pass takes what one of the forward pass took."""
    normal, one = _random(256, 64), tf.ones([64])
    inputs = _random(64, 128, seed=3), _random(128, seed=1), _random(128, 4, seed=2)

    def layers(*weights):
        scaled = (Normalized(normal * scale, normal, scale * one, 0 * one) for scale in (1.0, 2.0, 3.0))
        return sum(feed_forward(states, *weights) for states in scaled) ** 2

    compiled = tf.function(lambda *inputs: _with_gradients(layers, *inputs), jit_compile=True)
    code = compiled.experimental_get_compiler_ir(*inputs)(stage="optimized_hlo")
    forward, backward = (
        re.findall(rf"f32\[{rows},4\]\S* dot\(f32\[256,128\]\S* (%[\w.]+),", code) for rows in (256, 128)
    )
    assert len(forward) == len(backward) == 3 and not set(forward) & set(backward)


def test_what_is_computed_again_is_the_same():
    for upstream in ([2.0], [-3.0], [0.0], [np.inf], [-np.inf]):
        for small in (tf.constant([1.5, -2.0]), tf.constant([3, 2**32 - 1], tf.uint32)):
            again = fused_operations._after(tf.constant([upstream]), small)
            assert np.array_equal(again, small) and again.dtype == small.dtype


@pytest.mark.parametrize("with_dropout", [False, True])
def test_residual_layer_norm_and_its_gradient_are_the_formulas(with_dropout):
    seed = dropout_seeds(tf.constant([3, 4]), [5])[0] if with_dropout else None
    mask = _mask([ROWS, WIDTH], seed) if with_dropout else 1.0
    inputs = (
        _random(ROWS, WIDTH),
        _random(WIDTH, seed=1),
        _random(ROWS, WIDTH, seed=2),
        _random(WIDTH, seed=3),
        _random(WIDTH, seed=4),
    )
    ours = _with_gradients(
        lambda *values: residual_layer_norm(*values, epsilon=1e-12, rate=RATE, seed=seed).outputs, *inputs
    )
    theirs = _with_gradients(lambda x, b, r, g, s: _layer_norm((x + b) * mask + r, g, s), *inputs)
    _assert_equal(ours, theirs, 1e-5)


def test_residual_layer_norm_takes_a_gradient_of_some_rows():
    inputs = _random(ROWS, WIDTH), tf.zeros([WIDTH]), _random(ROWS, WIDTH, seed=2)
    rows, ones, zeros = tf.constant([3, 5, 3]), tf.ones([WIDTH]), tf.zeros([WIDTH])
    ours = _with_gradients(
        lambda *values: tf.gather(
            residual_layer_norm(*values, ones, zeros, epsilon=1e-12, rate=0.0, seed=None).outputs, rows
        ),
        *inputs,
    )
    theirs = _with_gradients(lambda x, b, r: tf.gather(_layer_norm(x + b + r, ones, zeros), rows), *inputs)
    _assert_equal(ours, theirs, 1e-5)


@pytest.mark.parametrize("with_dropout", [False, True])
@pytest.mark.parametrize("bias_rows", [1, 7])
def test_attention_and_its_gradient_are_the_formula(with_dropout, bias_rows):
    batch, heads, length, size = 2, 3, 7, 4
    seed = dropout_seeds(tf.constant([3, 4]), [5])[0] if with_dropout else None
    mask = _mask([batch, heads, length, length], seed) if with_dropout else 1.0
    inputs = [_random(batch, heads, length, size, seed=number) for number in range(3)]
    bias = tf.where(_random(batch, 1, bias_rows, length, seed=8) > 1, -10000.0, 0.0)
    ours = _with_gradients(lambda *values: attention(*values, bias, rate=RATE, seed=seed), *inputs)

    def formula(query, key, value):
        scores = tf.einsum("bhqd,bhkd->bhqk", query, key) + bias
        context = tf.einsum("bhqk,bhkd->bqhd", tf.nn.softmax(scores) * mask, value)
        return tf.reshape(context, [batch * length, heads * size])

    _assert_equal(ours, _with_gradients(formula, *inputs), 1e-5)


def test_heads_are_split_and_merged_as_by_reshape_and_transpose():
    inputs = _random(ROWS, WIDTH), _random(WIDTH, seed=1)
    ours = _with_gradients(lambda x, b: split_heads(x, b, batch=4, length=6, heads=2, scale=0.5), *inputs)
    theirs = _with_gradients(
        lambda x, b: tf.transpose(tf.reshape((x + b) * 0.5, [4, 6, 2, 8]), [0, 2, 1, 3]), *inputs
    )
    _assert_equal(ours, theirs, 1e-6)


def test_one_graph_serves_several_lengths():
    """As fine-tuning has it: the chains are compiled anew for a shape, and each gives its own results."""

    @tf.function(input_signature=[tf.TensorSpec([None, WIDTH])], autograph=False)
    def call(inputs):
        return gelu_of_sum(
            dropout(inputs, RATE, dropout_seeds(tf.constant([1, 2]), [3])[0]), tf.zeros([WIDTH])
        )

    for rows in (5, 8, 5):
        inputs = _random(rows, WIDTH)
        mask = _mask([rows, WIDTH], dropout_seeds(tf.constant([1, 2]), [3])[0])
        expected = tf.nn.gelu(inputs * mask, approximate=False)
        np.testing.assert_allclose(call(inputs), expected, atol=2e-6)


# ---------------------------------------------------------------------------------------------- dropout


def _dropped_places(count: int, seed, rate: float = RATE) -> np.ndarray:
    return dropout(tf.ones([count]), rate, seed).numpy() == 0


def test_dropout_keeps_the_mean_and_drops_its_share():
    count = 200_000
    for rate in (0.1, 0.5):
        outputs = dropout(tf.ones([count]), rate, dropout_seeds(tf.constant([1, 2]), [3])[0]).numpy()
        # Four standard deviations of a binomial share.
        assert abs((outputs == 0).mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / count)
        np.testing.assert_allclose(outputs[outputs > 0], 1 / (1 - rate), rtol=1e-5)


def test_dropout_of_other_updates_and_places_is_independent():
    """Correlations of masks across updates, places in the model and neighbouring entries are chance."""
    count = 100_000
    seeds = [([1, 2], 3), ([1, 3], 3), ([2, 2], 3), ([1, 2], 4), ([2, 1], 3), ([-5, 2**31 - 1], 3)]
    masks = [_dropped_places(count, dropout_seeds(tf.constant(seed), [salt])[0]) for seed, salt in seeds]
    masks = [mask.astype(np.float64) - mask.mean() for mask in masks]
    variance = RATE * (1 - RATE)
    for number, mask in enumerate(masks):
        for other in masks[:number]:
            assert abs((mask * other).mean()) < 5 * variance / np.sqrt(count)
        for lag in (1, 2, 64, 128, 256, 1024, 4096):
            assert abs((mask[lag:] * mask[:-lag]).mean()) < 5 * variance / np.sqrt(count - lag)


def test_dropout_without_a_seed_or_a_rate_is_the_identity():
    inputs = _random(ROWS, WIDTH)
    assert dropout_seeds(None, [3]) == [None]
    assert dropout(inputs, RATE, None) is inputs
    assert dropout(inputs, 0.0, tf.constant([1, 2], tf.uint32)) is inputs
