"""Google's TensorFlow 1 checkpoints are read as the networks that they are."""

import numpy as np
import pytest
import tensorflow as tf
from electra_cases import VOCABULARY_SIZE, tiny_config
from weight_cases import (
    GENERATOR_SIZES,
    KERNEL,
    SIZES,
    VOCABULARY,
    assert_same_outputs,
    google_tensors,
    huggingface,
    huggingface_pair,
    write_google_checkpoint,
)

import pretrained_models
import weight_conversion
from command_line import UsageError
from pretraining import PretrainingModel

pytest.importorskip("torch", reason="PyTorch is the independent truth here")
pytest.importorskip("transformers", reason="Hugging Face is the independent truth here")


def _load(name, flag="electra_model"):
    return pretrained_models.load_pretrained(str(name), flag)


def _joint(discriminator, generator) -> dict[str, np.ndarray]:
    return google_tensors(generator, "generator") | google_tensors(discriminator)


@pytest.mark.parametrize(
    "sizes",
    [{}, {"embedding_size": 32}, {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 1}],
    ids=["projected embeddings", "no projection", "heads of 64"],
)
def test_a_discriminator_has_hugging_faces_logits_and_its_sizes(tmp_path, sizes):
    model = huggingface("ElectraForPreTraining", **sizes)
    network = _load(write_google_checkpoint(tmp_path / "electra_small", google_tensors(model)))
    assert_same_outputs(network, model, "discriminator")
    for name, value in (SIZES | {"embedding_size": 24} | sizes).items():
        assert getattr(network.config, name) == value, name
    assert network.settings == {} and network.vocabulary is None and not network.remarks
    left_behind = [name for name in network.tensors if "adam" in name or "step" in name or "temp" in name]
    assert not left_behind


def test_a_joint_checkpoint_holds_both_networks(tmp_path):
    discriminator, generator = huggingface_pair()
    prefix = write_google_checkpoint(tmp_path / "joint", _joint(discriminator, generator))
    ours, theirs = pretrained_models.load_networks(str(prefix), "input")
    assert not ours.is_masked_lm and theirs.is_masked_lm
    assert_same_outputs(ours, discriminator, "discriminator")
    assert_same_outputs(theirs, generator, "masked_lm")
    assert theirs.config.hidden_size == GENERATOR_SIZES["hidden_size"]
    assert not any(name.startswith("generator") for name in ours.tensors)
    np.testing.assert_array_equal(_load(prefix).tensors[KERNEL], ours.tensors[KERNEL])


def test_a_generator_with_embeddings_of_its_own_keeps_them(tmp_path):
    discriminator = huggingface("ElectraForPreTraining")
    own = huggingface("ElectraForMaskedLM", seed=5, **GENERATOR_SIZES)
    tensors = google_tensors(own, "generator") | google_tensors(discriminator)
    tensors |= {
        name.replace("electra/embeddings/", "generator/embeddings/"): value
        for name, value in google_tensors(own).items()
        if name.startswith("electra/embeddings/")
    }
    prefix = write_google_checkpoint(tmp_path / "untied", tensors)
    networks = pretrained_models.load_networks(str(prefix), "input")
    assert_same_outputs(networks[0], discriminator, "discriminator")
    assert_same_outputs(networks[1], own, "masked_lm")


def test_a_joint_checkpoint_starts_both_networks_of_a_run(tmp_path):
    discriminator, generator = huggingface_pair(num_attention_heads=1)
    prefix = write_google_checkpoint(tmp_path / "joint", _joint(discriminator, generator))
    model = PretrainingModel(tiny_config(num_attention_heads=1), VOCABULARY_SIZE)
    model.build()
    variables = model.named_variables()
    initial = weight_conversion.read_initial_weights(
        str(prefix),
        {name: tuple(variable.shape) for name, variable in variables.items()},
        model.discriminator_config,
        model.generator_config,
        VOCABULARY,
    )
    assert initial.tensors.keys() == variables.keys()
    assert not initial.missing and not initial.unused and not initial.remarks


# ------------------------------------------------------------------------------------------ vocabularies


def test_a_padded_word_table_is_cut_to_the_vocabulary_with_a_remark(tmp_path):
    discriminator, generator = huggingface_pair(vocab_size=VOCABULARY_SIZE + 13)
    write_google_checkpoint(tmp_path / "padded", _joint(discriminator, generator))
    whole = pretrained_models.load_networks(str(tmp_path), "input")
    VOCABULARY.save(tmp_path / "vocab.txt")
    for network, uncut in zip(pretrained_models.load_networks(str(tmp_path), "input"), whole, strict=True):
        assert (network.config.vocab_size, uncut.config.vocab_size) == (VOCABULARY_SIZE, 224)
        assert any("224 rows to the 211 pieces" in remark for remark in network.remarks)
        for name, tensor in uncut.tensors.items():
            rows = VOCABULARY_SIZE if tensor.shape[0] == VOCABULARY_SIZE + 13 else None
            np.testing.assert_array_equal(network.tensors[name], tensor[:rows])


def test_a_word_table_with_fewer_rows_than_pieces_stops(tmp_path):
    write_google_checkpoint(
        tmp_path / "m", google_tensors(huggingface("ElectraForPreTraining", vocab_size=200))
    )
    VOCABULARY.save(tmp_path / "vocab.txt")
    with pytest.raises(UsageError, match="vocabulary has 211 pieces, its word table 200 rows"):
        _load(tmp_path)


def test_casing_without_a_record_follows_the_pieces(tmp_path):
    pieces = list(VOCABULARY.pieces)
    write_google_checkpoint(tmp_path / "m", google_tensors(huggingface("ElectraForPreTraining")))
    for last, lower_cased in (("paris", True), ("Paris", False)):
        pieces[-1] = last
        (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
        assert _load(tmp_path).vocabulary.do_lower_case is lower_cased


# ------------------------------------------------------------------------------------------- finding them


def test_a_folder_stands_for_its_one_checkpoint_or_the_recorded_newest(tmp_path):
    models = [huggingface("ElectraForPreTraining", seed=seed, num_hidden_layers=1) for seed in (1, 2)]
    kernel = "electra/encoder/layer_0/output/dense/kernel"
    values = [google_tensors(model)[kernel] for model in models]
    write_google_checkpoint(tmp_path / "model.ckpt-100", google_tensors(models[0]), training=False)
    for name in (tmp_path, tmp_path / "model.ckpt-100", tmp_path / "model.ckpt-100.index"):
        np.testing.assert_array_equal(_load(name).tensors[kernel], values[0])
    write_google_checkpoint(tmp_path / "model.ckpt-99", google_tensors(models[1]), training=False)
    with pytest.raises(UsageError, match=r"several TensorFlow checkpoints \(model.ckpt-100, model.ckpt-99\)"):
        _load(tmp_path)
    record = 'model_checkpoint_path: "/elsewhere/run/model.ckpt-99"\nall_model_checkpoint_paths: "x"\n'
    (tmp_path / "checkpoint").write_text(record)
    np.testing.assert_array_equal(_load(tmp_path).tensors[kernel], values[1])


def test_damaged_and_foreign_checkpoints_stop_with_a_reason(tmp_path):
    prefix = write_google_checkpoint(tmp_path / "cut", google_tensors(huggingface("ElectraForPreTraining")))
    (data,) = tmp_path.glob("cut.data-*")
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(UsageError, match=r"--electra_model .*cut: damaged or incomplete"):
        _load(prefix)
    data.unlink()
    with pytest.raises(UsageError, match=r"--electra_model .*cut: damaged or incomplete"):
        _load(prefix)
    (tmp_path / "cut.index").write_bytes(b"nothing of the kind")
    with pytest.raises(UsageError, match=r"--electra_model .*cut: damaged or incomplete"):
        _load(prefix)
    # TensorFlow 2 writes files of the same names.
    tf.train.Checkpoint(word_embeddings=tf.Variable([1.0])).write(str(tmp_path / "other"))
    with pytest.raises(UsageError, match="not Google's ELECTRA"):
        _load(tmp_path / "other")


def test_a_checkpoint_without_a_weight_of_its_encoder_stops_and_names_it(tmp_path):
    tensors = google_tensors(huggingface("ElectraForPreTraining"))
    del tensors["electra/encoder/layer_0/attention/self/key/bias"]
    write_google_checkpoint(tmp_path / "m", tensors, training=False)
    with pytest.raises(UsageError, match="lacks 1 weights of the encoder, first electra/encoder/layer_0/att"):
        _load(tmp_path)
    del tensors["electra/embeddings/position_embeddings"]
    write_google_checkpoint(tmp_path / "m", tensors, training=False)
    with pytest.raises(UsageError, match="lacks electra/embeddings/position_embeddings"):
        _load(tmp_path)
