"""Optimizers against NumPy versions in float64, schedules against values worked by hand."""

import numpy as np
import pytest
import tensorflow as tf

import fused_operations
from optimization import (
    AdamW,
    Lamb,
    is_bias_or_layer_norm,
    polynomial_decay_after_warmup,
    polynomial_decay_times_warmup,
)

SHAPES = {
    "electra/embeddings/word_embeddings": (7, 3),
    "electra/encoder/layer_0/output/dense/kernel": (3, 5),
    "electra/encoder/layer_0/output/dense/bias": (5,),
    "electra/encoder/layer_0/output/LayerNorm/gamma": (5,),
    "generator_predictions/output_bias": (7,),
}
NOT_DECAYED = {name for name in SHAPES if name.endswith("bias") or "LayerNorm" in name}
STEPS = 6


def _numpy_run(kind, start, gradients, rates, b1, b2, decay, bias_correction=True, skip_adaptive=False):
    weights = {name: value.astype(np.float64) for name, value in start.items()}
    m = {name: np.zeros_like(value) for name, value in weights.items()}
    v = {name: np.zeros_like(value) for name, value in weights.items()}
    for t, (step_gradients, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        for name, gradient in step_gradients.items():
            gradient = gradient.astype(np.float64)
            m[name] = b1 * m[name] + (1 - b1) * gradient
            v[name] = b2 * v[name] + (1 - b2) * gradient**2
            m_hat = m[name] / (1 - b1**t) if bias_correction else m[name]
            v_hat = v[name] / (1 - b2**t) if bias_correction else v[name]
            update = m_hat / (np.sqrt(v_hat) + 1e-6)
            if name not in NOT_DECAYED:
                update = update + decay * weights[name]
            trust = 1.0
            if kind == "lamb" and not (skip_adaptive and name in NOT_DECAYED):
                norms = np.linalg.norm(weights[name]), np.linalg.norm(update)
                trust = norms[0] / norms[1] if norms[0] > 0 and norms[1] > 0 else 1.0
            weights[name] = weights[name] - rate * trust * update
    return weights


def _case(seed=0):
    random = np.random.RandomState(seed)
    start = {name: random.normal(0, 1, shape).astype(np.float32) for name, shape in SHAPES.items()}
    start["generator_predictions/output_bias"][:] = 0  # |w| = 0: trust must be 1
    gradients = [
        {name: random.normal(0, 10.0**-i, shape).astype(np.float32) for name, shape in SHAPES.items()}
        for i in range(STEPS)
    ]
    return start, gradients, [0.0, 0.01, 0.05, 0.02, 0.01, 0.001]


def _our_run(make, start, gradients, rates):
    variables = {name: tf.Variable(value) for name, value in start.items()}
    optimizer = make(variables)
    apply = tf.function(optimizer.apply)
    for step_gradients, rate in zip(gradients, rates, strict=True):
        apply({name: tf.constant(value) for name, value in step_gradients.items()}, tf.constant(rate))
    return {name: variable.numpy() for name, variable in variables.items()}, optimizer


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.878, 0.974)])
@pytest.mark.parametrize("bias_correction", [True, False])
def test_adamw_equals_numpy(betas, bias_correction):
    start, gradients, rates = _case()
    ours, _ = _our_run(
        lambda variables: AdamW(
            variables,
            beta_1=betas[0],
            beta_2=betas[1],
            weight_decay_rate=0.01,
            bias_correction=bias_correction,
        ),
        start,
        gradients,
        rates,
    )
    truth = _numpy_run("adam", start, gradients, rates, *betas, 0.01, bias_correction=bias_correction)
    for name in SHAPES:
        np.testing.assert_allclose(ours[name], truth[name], rtol=2e-5, atol=5e-6, err_msg=name)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("skip_adaptive", [True, False])
def test_lamb_equals_numpy(skip_adaptive, compiled, request):
    fused_operations.compile_chains(compiled)
    request.addfinalizer(lambda: fused_operations.compile_chains(False))
    start, gradients, rates = _case(1)
    ours, _ = _our_run(
        lambda variables: Lamb(
            variables, beta_1=0.878, beta_2=0.974, weight_decay_rate=0.01, skip_adaptive=skip_adaptive
        ),
        start,
        gradients,
        rates,
    )
    truth = _numpy_run("lamb", start, gradients, rates, 0.878, 0.974, 0.01, skip_adaptive=skip_adaptive)
    for name in SHAPES:
        np.testing.assert_allclose(ours[name], truth[name], rtol=2e-5, atol=5e-6, err_msg=name)


@pytest.mark.parametrize("optimizer", [AdamW, Lamb])
def test_an_update_that_is_not_applied_leaves_everything_as_it_is(optimizer):
    """The first one too, when there are no moments yet."""
    start, gradients, _ = _case()
    variables = {name: tf.Variable(value) for name, value in start.items()}
    subject = optimizer(variables, beta_1=0.9, beta_2=0.99, weight_decay_rate=0.01)
    state = variables | subject.named_variables()
    apply = tf.function(subject.apply)
    for applied in (False, True, False):
        before = {name: variable.numpy() for name, variable in state.items()}
        values = gradients[0] if applied else {name: np.zeros_like(v) for name, v in gradients[0].items()}
        gradient = {name: tf.constant(value) for name, value in values.items()}
        apply(gradient, tf.constant(0.1), tf.constant(applied))
        unchanged = {name for name, variable in state.items() if np.array_equal(variable, before[name])}
        assert unchanged == (set() if applied else set(state))


def test_skip_adaptive_changes_only_biases_and_layer_norm():
    start, gradients, rates = _case(2)
    runs = [
        _our_run(
            lambda variables, skip=skip: Lamb(
                variables, beta_1=0.9, beta_2=0.99, weight_decay_rate=0.01, skip_adaptive=skip
            ),
            start,
            gradients,
            rates,
        )[0]
        for skip in (True, False)
    ]
    changed = {name for name in SHAPES if not np.array_equal(runs[0][name], runs[1][name])}
    assert changed == NOT_DECAYED


def test_weight_decay_spares_biases_and_layer_norm():
    assert {name for name in SHAPES if is_bias_or_layer_norm(name)} == NOT_DECAYED


def test_a_checkpoint_holds_both_moments_and_the_count():
    start, gradients, rates = _case()
    _, optimizer = _our_run(
        lambda variables: AdamW(variables, beta_1=0.9, beta_2=0.999, weight_decay_rate=0.0),
        start,
        gradients,
        rates,
    )
    state = optimizer.named_variables()
    assert set(state) == {"iterations", *(f"m/{n}" for n in SHAPES), *(f"v/{n}" for n in SHAPES)}
    assert int(state["iterations"]) == STEPS


def test_nvidia_schedule_by_hand():
    """6e-3, 2,000 of warm-up, 10,000 in all, square root decay."""
    rate = polynomial_decay_after_warmup(6e-3, 10_000, 2_000, 0.5, 0.0)
    assert rate(0) == 0.0
    assert rate(1000) == pytest.approx(3e-3)
    assert rate(2000) == pytest.approx(6e-3)
    assert rate(6000) == pytest.approx(6e-3 * np.sqrt(0.5))
    assert rate(9999) == pytest.approx(6e-3 * np.sqrt(1 / 8000))
    assert rate(10_000) == 0.0


def test_google_schedule_by_hand():
    """5e-4, linear decay over all 1,000,000 updates, times the warm-up over 10,000."""
    rate = polynomial_decay_times_warmup(5e-4, 1_000_000, 10_000, 1.0, 0.0)
    assert rate(0) == 0.0
    assert rate(5_000) == pytest.approx(5e-4 * 0.995 * 0.5)
    assert rate(10_000) == pytest.approx(5e-4 * 0.99)
    assert rate(500_000) == pytest.approx(2.5e-4)


def test_schedules_end_at_end_lr_and_may_have_no_warmup():
    for make in (polynomial_decay_after_warmup, polynomial_decay_times_warmup):
        rate = make(1e-3, 100, 0, 1.0, 1e-4)
        assert rate(0) == pytest.approx(1e-3)
        assert rate(50) == pytest.approx(5.5e-4)
        assert rate(100) == pytest.approx(1e-4) and rate(200) == pytest.approx(1e-4)
