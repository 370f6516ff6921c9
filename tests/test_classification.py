"""Heads for sequences and tokens, their losses and their exports against Hugging Face."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from glue_cases import CONFIG, VOCABULARY
from squad_cases import random_tensors, random_windows

import pretrained_models
import weight_conversion
from classification import SequenceModel, TokenModel
from glue_inputs import LabelScale

torch = pytest.importorskip("torch", reason="PyTorch is the independent truth here")
transformers = pytest.importorskip("transformers", reason="Hugging Face is the independent truth here")

NORMALIZERS = {"labels": np.float32(3)}
WORDS = ("bad", "good", "so so")


def _build(model):
    model.build()
    variables = model.named_variables()
    for name, tensor in random_tensors({n: v.shape for n, v in variables.items()}).items():
        # Heads with weights as large as a trained one's.
        variables[name].assign(tensor * (1 if name.startswith("electra/") else 8))
    return model


def _tensors(model) -> dict[str, np.ndarray]:
    return {name: variable.numpy() for name, variable in model.named_variables().items()}


def _theirs(kind: str, folder, batch, labels):
    model, info = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    with torch.no_grad():
        output = model.eval()(
            input_ids=torch.tensor(batch["input_ids"].astype(np.int64)),
            attention_mask=torch.tensor(batch["input_mask"]),
            token_type_ids=torch.tensor(batch["segment_ids"].astype(np.int64)),
            labels=torch.tensor(labels),
        )
    return model, output.logits.numpy(), float(output.loss)


def test_labels_of_sequences_equal_hugging_face(tmp_path):
    model, batch = _build(SequenceModel(CONFIG, 3)), random_windows(CONFIG)
    weight_conversion.write_classifier(
        tmp_path / "m", CONFIG, _tensors(model), VOCABULARY, WORDS, "single_label_classification"
    )
    labels = np.array([2, 0, 1])
    kind = "ElectraForSequenceClassification"
    theirs, logits, loss = _theirs(kind, tmp_path / "m", batch, labels)
    assert theirs.config.id2label == dict(enumerate(WORDS)) and theirs.config.architectures == [kind]
    assert theirs.config.problem_type == "single_label_classification"
    assert np.abs(logits).max() > 0.1
    np.testing.assert_allclose(model.predict(batch), logits, atol=1e-4)
    ours, sums = model(batch | {"labels": np.int32(labels)}, NORMALIZERS)
    assert float(ours) == pytest.approx(loss, abs=1e-4) and float(sums["labels"]) == 3
    assert float(sums["right"]) == (logits.argmax(-1) == labels).sum()


def test_regression_equals_hugging_face_and_its_export_is_in_the_labels_unit(tmp_path):
    model, batch = _build(SequenceModel(CONFIG, 0)), random_windows(CONFIG)
    scale = LabelScale(mean=50.0, deviation=20.0)
    weight_conversion.write_classifier(
        tmp_path / "m", CONFIG, scale.into_head(_tensors(model)), VOCABULARY, ("score",), "regression"
    )
    labels = np.float32([30, 50, 90])
    kind = "ElectraForSequenceClassification"
    theirs, logits, loss = _theirs(kind, tmp_path / "m", batch, labels)
    assert theirs.config.num_labels == 1
    np.testing.assert_allclose(model.predict(batch) * 20 + 50, logits, rtol=1e-5)
    ours, sums = model(batch | {"labels": np.float32((labels - 50) / 20)}, NORMALIZERS)
    assert float(ours) * 20**2 == pytest.approx(loss, rel=1e-4) and "right" not in sums
    back = scale.out_of_head(pretrained_models.load_pretrained(str(tmp_path / "m"), "f").tensors)
    for name, tensor in _tensors(model).items():
        np.testing.assert_allclose(back[name], tensor, atol=1e-5)


def test_labels_of_tokens_equal_hugging_face(tmp_path):
    model, batch = _build(TokenModel(CONFIG, 3)), random_windows(CONFIG)
    weight_conversion.write_classifier(tmp_path / "m", CONFIG, _tensors(model), VOCABULARY, WORDS, None)
    random = np.random.RandomState(0)
    labels = np.where(batch["context_mask"] == 1, random.randint(0, 3, batch["input_ids"].shape), -1)
    # Hugging Face leaves out labels of -100.
    theirs, logits, loss = _theirs(
        "ElectraForTokenClassification", tmp_path / "m", batch, np.where(labels < 0, -100, labels)
    )
    assert theirs.config.id2label == dict(enumerate(WORDS))
    np.testing.assert_allclose(model.predict(batch), logits, atol=1e-4)
    count = np.float32((labels >= 0).sum())
    ours, sums = model(batch | {"labels": np.int32(labels)}, {"labels": count})
    assert float(ours) == pytest.approx(loss, abs=1e-4) and float(sums["labels"]) == count
    assert float(sums["right"]) == ((logits.argmax(-1) == labels) & (labels >= 0)).sum()


def test_padding_changes_no_output():
    model, batch = _build(SequenceModel(CONFIG, 2)), random_windows(CONFIG)
    padded = {name: np.pad(values, ((0, 0), (0, 7))) for name, values in batch.items() if values.ndim == 2}
    np.testing.assert_allclose(model.predict(batch), model.predict(padded), atol=1e-5)


@pytest.mark.parametrize("build", [lambda c: SequenceModel(c, 2), lambda c: TokenModel(c, 2)])
def test_heads_drop_out_as_hugging_faces_do_and_only_in_training(build):
    """With dropout in the encoder off, the hidden state is the same, and what differs is the head's doing."""
    config = dataclasses.replace(CONFIG, attention_probs_dropout_prob=0.0)
    model = _build(build(config))
    hidden = tf.constant(np.random.RandomState(0).normal(0, 1, (400, 24)).astype(np.float32))
    once, again = (model.head(hidden, np.int32([1, 2])).numpy() for _ in range(2))
    other, plain = model.head(hidden, np.int32([1, 3])).numpy(), model.head(hidden, None).numpy()
    np.testing.assert_array_equal(once, again)
    assert np.abs(once - other).max() > 1e-3 and np.abs(once - plain).max() > 1e-3


def test_a_converted_classifier_keeps_its_labels(tmp_path):
    model = _build(SequenceModel(CONFIG, 3))
    weight_conversion.write_classifier(
        tmp_path / "m", CONFIG, _tensors(model), VOCABULARY, WORDS, "single_label_classification"
    )
    network = pretrained_models.load_pretrained(str(tmp_path / "m"), "input")
    assert not weight_conversion.write_network(tmp_path / "again", network, "output")
    for name in ("config.json", "model.safetensors", "vocab.txt"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "m" / name).read_bytes()
