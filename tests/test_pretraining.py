"""The objective against a NumPy version of it, and the sampler against the distribution it samples."""

import math

import numpy as np
import pytest
import tensorflow as tf
from electra_cases import (
    CLS,
    MASK,
    SEP,
    VOCABULARY_SIZE,
    masked_batch,
    normalizers,
    tiny_config,
)

from pretraining import PretrainingModel, area_under_curve, held_out_metrics, metrics, sample_by_inverse_cdf


def _model(**changes) -> PretrainingModel:
    tf.keras.utils.set_random_seed(3)
    model = PretrainingModel(tiny_config(**changes), VOCABULARY_SIZE)
    model.build()
    random = np.random.RandomState(4)
    for variable in model.named_variables().values():
        variable.assign_add(random.normal(0, 0.2, variable.shape).astype(np.float32))
    return model


def _run(model, batch):
    tensors = {name: tf.constant(value) for name, value in batch.items()}
    loss, sums = model(tensors, normalizers(batch))
    return float(loss), {name: value.numpy() for name, value in sums.items()}


def _softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _numpy_objective(model, batch, temperature=1.0, disallow_correct=False, uniform=False):
    """Loss and counts, in float64 and with plain loops, from the networks' own logits."""
    ids, mask, segments = (batch[name] for name in ("input_ids", "input_mask", "segment_ids"))
    count, length = ids.shape
    corrupted, nlls, weights, right, sampled_right = ids.copy(), [], [], 0, 0
    if not uniform:
        hidden = model.masked_lm_encoder(
            tf.constant(batch["masked_input_ids"]), tf.constant(mask), tf.constant(segments)
        )
        all_logits = model.masked_lm_head(hidden).numpy().astype(np.float64).reshape(count, length, -1)
    for row in range(count):
        for pick in range(batch["masked_lm_positions"].shape[1]):
            if not batch["masked_lm_weights"][row, pick]:
                continue
            position, uniform_number = (
                batch["masked_lm_positions"][row, pick],
                batch["sample_uniforms"][row, pick],
            )
            original = ids[row, position]
            if uniform:
                sample = int(uniform_number * VOCABULARY_SIZE)
            else:
                logits = all_logits[row, position]
                nlls.append(-math.log(_softmax(logits)[original]))
                weights.append(1.0)
                right += int(logits.argmax() == original)
                scaled = logits / temperature
                if disallow_correct:
                    scaled[original] = -np.inf
                sample = int(np.searchsorted(np.cumsum(_softmax(scaled)), uniform_number, side="right"))
            corrupted[row, position] = sample
            sampled_right += int(sample == original)
    hidden = model.electra(tf.constant(corrupted), tf.constant(mask), tf.constant(segments))
    logits = model.discriminator_head(hidden).numpy().astype(np.float64).reshape(count, length)
    labels = (corrupted != ids).astype(np.float64)
    probability = 1 / (1 + np.exp(-logits))
    bce = -(labels * np.log(probability) + (1 - labels) * np.log(1 - probability))
    rtd = (mask * bce).sum() / (mask.sum() + 1e-6)
    mlm = float(np.sum(nlls) / (np.sum(weights) + 1e-6)) if nlls else 0.0
    return {
        "mlm": mlm,
        "rtd": rtd,
        "right": right,
        "sampled_right": sampled_right,
        "labels": labels,
        "logits": logits,
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 2.0},
        {"disallow_correct": True},
        {"uniform_generator": True},
        {"untied_generator": False},
        {"untied_generator_embeddings": True},
    ],
    ids=str,
)
def test_losses_equal_a_numpy_version(options):
    model, batch = _model(**options), masked_batch(6)
    loss, sums = _run(model, batch)
    truth = _numpy_objective(
        model,
        batch,
        temperature=options.get("temperature", 1.0),
        disallow_correct=options.get("disallow_correct", False),
        uniform=options.get("uniform_generator", False),
    )
    values = metrics(sums, tiny_config(**options))
    np.testing.assert_allclose(loss, truth["mlm"] + 50 * truth["rtd"], rtol=1e-5)
    np.testing.assert_allclose(values["total_loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(values["disc_loss"], truth["rtd"], rtol=1e-5)
    assert sums["sampled_correct"] == truth["sampled_right"]
    if not options.get("uniform_generator"):
        np.testing.assert_allclose(values["masked_lm_loss"], truth["mlm"], rtol=1e-5)
        assert sums["masked_lm_correct"] == truth["right"]
    if options.get("disallow_correct"):
        assert truth["sampled_right"] == 0


def test_weights_of_the_losses_are_used():
    batch = masked_batch(4)
    model = _model(disc_weight=7.0, gen_weight=3.0)
    loss, _ = _run(model, batch)
    truth = _numpy_objective(model, batch)
    np.testing.assert_allclose(loss, 3 * truth["mlm"] + 7 * truth["rtd"], rtol=1e-5)


def test_classification_metrics_equal_scikit_learn():
    """Accuracy, precision, recall and AUC over the real tokens alone."""
    sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the independent truth")
    model, batch = _model(), masked_batch(12)
    _, sums = _run(model, batch)
    truth, values = _numpy_objective(model, batch), metrics(sums, tiny_config())
    real = batch["input_mask"] > 0
    labels, logits = truth["labels"][real], truth["logits"][real]
    predicted = logits > 0
    assert 0 < predicted.sum() < len(predicted)
    np.testing.assert_allclose(
        values["disc_accuracy"], 100 * sklearn_metrics.accuracy_score(labels, predicted)
    )
    np.testing.assert_allclose(values["disc_precision"], sklearn_metrics.precision_score(labels, predicted))
    np.testing.assert_allclose(values["disc_recall"], sklearn_metrics.recall_score(labels, predicted))
    np.testing.assert_allclose(values["disc_auc"], sklearn_metrics.roc_auc_score(labels, logits), atol=2e-3)


def test_area_under_curve_of_a_hand_worked_case():
    """Scores 1 2 3 for replaced, 0 2 for original: of 6 pairs 3 and 1 right, 1 tie, so 4.5 / 6."""
    histogram = np.array([[0, 1], [1, 0], [1, 1], [1, 0]], np.float64)
    assert area_under_curve(histogram) == pytest.approx(4.5 / 6)
    assert area_under_curve(np.zeros((4, 2))) == 0.5


def test_metrics_of_two_batches_are_sums_over_sums():
    """A batch with few tokens must not weigh as much as one with many."""
    model = _model()
    one, two = masked_batch(2, seed=1), masked_batch(9, seed=2, padded=False)
    sums = [_run(model, batch)[1] for batch in (one, two)]
    together = metrics({name: sums[0][name] + sums[1][name] for name in sums[0]}, tiny_config())
    joined = {name: np.concatenate([one[name], two[name]]) for name in one}
    direct = metrics(_run(model, joined)[1], tiny_config())
    assert together.keys() == direct.keys()
    for name, value in direct.items():
        assert together[name] == pytest.approx(value, rel=1e-5), name


@pytest.mark.parametrize("options", [{}, {"uniform_generator": True}, {"electra_objective": False}], ids=str)
def test_sums_of_each_sequence_are_those_of_batches_of_one(options):
    model, batch = _model(**options), masked_batch(5)
    tensors = {name: tf.constant(value) for name, value in batch.items()}
    _, of_each = model(tensors, normalizers(batch), per_sequence=True)
    for row in range(5):
        _, alone = _run(model, {name: value[row : row + 1] for name, value in batch.items()})
        assert alone.keys() == of_each.keys()
        for name, value in alone.items():
            if name != "disc_histogram":
                np.testing.assert_allclose(of_each[name][row], value, rtol=1e-4, atol=1e-5, err_msg=name)
    _, together = _run(model, batch)
    for name, value in together.items():
        np.testing.assert_allclose(of_each[name].numpy().sum(axis=0), value, rtol=1e-6, err_msg=name)


def test_held_out_metrics_leave_out_kept_picks_and_know_the_majority():
    model, batch = _model(), masked_batch(16)
    _, sums = _run(model, batch)
    values = held_out_metrics(sums | {"unigram_loss": np.float64(12.5)}, tiny_config())
    is_mask = batch["masked_lm_is_mask"].sum()
    assert 0 < is_mask < batch["masked_lm_weights"].sum()
    assert values["unigram_cross_entropy"] == pytest.approx(12.5 / is_mask)
    labels = _numpy_objective(model, batch)["labels"]
    share = labels.sum() / batch["input_mask"].sum()
    assert values["disc_majority_accuracy"] == pytest.approx(100 * max(share, 1 - share))
    assert values["tokens"] == batch["input_mask"].sum() and values["sequences"] == 16


def test_no_gradient_flows_through_sampling():
    """With the masked-LM loss weighted 0, nothing of the generator moves but what it shares."""
    model, batch = _model(gen_weight=0.0, untied_generator_embeddings=True), masked_batch(4)
    variables = model.named_variables()
    tensors = {name: tf.constant(value) for name, value in batch.items()}
    with tf.GradientTape() as tape:
        loss, _ = model(tensors, normalizers(batch))
    gradients = tape.gradient(loss, variables)
    for name, gradient in gradients.items():
        size = 0.0 if gradient is None else float(tf.norm(tf.convert_to_tensor(gradient)))
        if name.startswith("generator"):
            assert size == 0.0, name
        elif name == "electra/encoder/layer_0/intermediate/dense/kernel":
            assert size > 0.0


def test_masked_lm_alone_trains_the_encoder_without_a_generator():
    model, batch = _model(electra_objective=False), masked_batch(4)
    names = model.named_variables()
    assert not any(name.startswith(("generator/", "discriminator_predictions/")) for name in names)
    loss, sums = _run(model, batch)
    values = metrics(sums, tiny_config(electra_objective=False))
    assert loss == pytest.approx(values["masked_lm_loss"], rel=1e-5)
    assert "disc_loss" not in values


def test_untied_generator_off_has_one_encoder():
    names = _model(untied_generator=False).named_variables()
    assert not any(name.startswith("generator/") for name in names)
    assert any(name.startswith("generator_predictions/") for name in names)


def test_discriminator_sees_samples_at_picks_and_the_text_elsewhere():
    from pretraining import _put_samples

    batch = masked_batch(8)
    samples = np.arange(batch["masked_lm_ids"].size, dtype=np.int32) + 1000
    tensors = {name: tf.constant(value) for name, value in batch.items()}
    corrupted = _put_samples(tensors, tf.constant(samples)).numpy()
    expected = batch["input_ids"].copy()
    picks = batch["masked_lm_positions"].shape[1]
    for row in range(8):
        for pick in range(picks):
            if batch["masked_lm_weights"][row, pick]:
                expected[row, batch["masked_lm_positions"][row, pick]] = samples[row * picks + pick]
    np.testing.assert_array_equal(corrupted, expected)
    assert (corrupted[:, 0] == CLS).all() and not (corrupted == MASK).any()
    assert (corrupted == SEP).sum() == (batch["input_ids"] == SEP).sum()


# ------------------------------------------------------------------------------------------------ sampling


def test_samples_follow_the_softmax():
    """Chi-square of 40,000 draws over 300 entries stays under its 99.99 % bound."""
    random = np.random.RandomState(0)
    logits = random.normal(0, 1.5, 300).astype(np.float32)
    uniforms = random.random_sample(40_000).astype(np.float32)
    draws = sample_by_inverse_cdf(
        tf.tile(tf.constant(logits)[None], [40_000, 1]), tf.constant(uniforms)
    ).numpy()
    expected = _softmax(logits.astype(np.float64)) * 40_000
    observed = np.bincount(draws, minlength=300)
    chi_square = ((observed - expected) ** 2 / expected).sum()
    # Mean 299 and variance 2 * 299 of a chi-square with 299 degrees of freedom, plus 4 deviations.
    assert chi_square < 299 + 4 * math.sqrt(2 * 299)


@pytest.mark.parametrize("entries", [5, 128, 129, 1000, 30522])
def test_samples_equal_a_float64_inverse_cdf(entries):
    random = np.random.RandomState(entries)
    logits = random.normal(0, 3, (200, entries)).astype(np.float32)
    uniforms = random.random_sample(200).astype(np.float32)
    draws = sample_by_inverse_cdf(tf.constant(logits), tf.constant(uniforms)).numpy()
    ends = np.cumsum(_softmax(logits.astype(np.float64)), axis=1)
    starts = np.pad(ends[:, :-1], [(0, 0), (1, 0)])
    rows = np.arange(200)
    # The drawn entry's interval must hold the number, up to float32 rounding of the cumulative sum.
    assert (starts[rows, draws] <= uniforms + 1e-5).all() and (ends[rows, draws] >= uniforms - 1e-5).all()


def test_entries_of_probability_zero_are_never_drawn():
    """Also at the ends of the unit interval and of the vocabulary, where rounding could slip over."""
    largest = np.float32(1 - 2**-24)
    for size in (3, 128, 200, 300):
        for allowed in (0, size // 2, size - 1):
            logits = np.full((2, size), np.finfo(np.float32).min, np.float32)
            logits[:, allowed] = 5.0
            draws = sample_by_inverse_cdf(tf.constant(logits), tf.constant([0.0, largest])).numpy()
            assert (draws == allowed).all()
