"""The networks compute what Hugging Face's ELECTRA computes with the same weights."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from memory_counts import peak_bytes

import electra_weights
import weight_conversion
from architecture import MODEL_SIZES, ElectraConfig
from modeling import DiscriminatorHead, Embeddings, Encoder, EncoderLayer, MaskedLmHead, dropout, gelu

torch = pytest.importorskip("torch", reason="PyTorch is the independent truth here")
transformers = pytest.importorskip("transformers", reason="Hugging Face is the independent truth here")

ARCHITECTURES = {
    "small": ElectraConfig(vocab_size=997, **MODEL_SIZES["small"]),
    "base-shaped": ElectraConfig(vocab_size=997, **(MODEL_SIZES["base"] | {"num_hidden_layers": 2})),
    "odd": ElectraConfig(101, 24, 36, 3, 3, 50, max_position_embeddings=40, type_vocab_size=3),
}
LENGTH = 33


def _inputs(config: ElectraConfig):
    random = np.random.RandomState(1)
    lengths = np.array([LENGTH, 20, 3])
    mask = (np.arange(LENGTH)[None, :] < lengths[:, None]).astype(np.int32)
    ids = random.randint(0, config.vocab_size, (3, LENGTH)).astype(np.int32)
    return ids, mask, random.randint(0, config.type_vocab_size, (3, LENGTH)).astype(np.int32)


def _randomize(variables) -> None:
    """Move every weight from its start, so that no bias or LayerNorm is the identity."""
    random = np.random.RandomState(2)
    for variable in variables:
        variable.value.assign(variable.value + random.normal(0, 0.03, variable.shape).astype(np.float32))


def _names(*layers) -> dict[str, np.ndarray]:
    return {v.path: v.value.numpy() for layer in layers for v in layer.trainable_variables}


def _hugging_face(architecture: str, config: ElectraConfig, tensors: dict, tmp_path):
    from tokenization import SPECIAL_PIECES, Vocabulary

    pieces = [*SPECIAL_PIECES, *(f"w{i}" for i in range(config.vocab_size - len(SPECIAL_PIECES)))]
    weight_conversion.write_folder(
        tmp_path / "model", architecture, config, tensors, Vocabulary(tuple(pieces))
    )
    model, info = getattr(transformers, architecture).from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    return model.eval()


def _forward(model, ids, mask, segments) -> np.ndarray:
    with torch.no_grad():
        return model(
            input_ids=torch.tensor(ids.astype(np.int64)),
            attention_mask=torch.tensor(mask),
            token_type_ids=torch.tensor(segments.astype(np.int64)),
        ).logits.numpy()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_discriminator_logits_equal_hugging_face(name, tmp_path):
    config = ARCHITECTURES[name]
    encoder, head = (
        Encoder(config, name="electra"),
        DiscriminatorHead(config, name="discriminator_predictions"),
    )
    encoder.build()
    head.build()
    _randomize(encoder.trainable_variables + head.trainable_variables)
    ids, mask, segments = _inputs(config)
    ours = (
        head(encoder(tf.constant(ids), tf.constant(mask), tf.constant(segments))).numpy().reshape(ids.shape)
    )
    tensors = electra_weights.to_huggingface(_names(encoder, head))
    theirs = _forward(_hugging_face("ElectraForPreTraining", config, tensors, tmp_path), ids, mask, segments)
    assert np.abs(theirs).max() > 0.01
    np.testing.assert_allclose(ours[mask > 0], theirs[mask > 0], atol=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_generator_logits_equal_hugging_face(name, tmp_path):
    """The generator uses the discriminator's embeddings and a head that is tied to its word table."""
    discriminator = ARCHITECTURES[name]
    config = discriminator.generator(0.5, 1.0)
    electra = Encoder(discriminator, name="electra")
    generator = Encoder(config, electra.embeddings, name="generator")
    head = MaskedLmHead(config, electra.embeddings, name="generator_predictions")
    for layer in (electra, generator, head):
        layer.build()
    _randomize(electra.trainable_variables + generator.trainable_variables + head.trainable_variables)
    ids, mask, segments = _inputs(config)
    hidden = generator(tf.constant(ids), tf.constant(mask), tf.constant(segments))
    ours = head(hidden).numpy().reshape(*ids.shape, -1)
    tensors = electra_weights.to_huggingface(
        electra_weights.generator_network(_names(electra, generator, head))
    )
    theirs = _forward(_hugging_face("ElectraForMaskedLM", config, tensors, tmp_path), ids, mask, segments)
    np.testing.assert_allclose(ours[mask > 0], theirs[mask > 0], atol=1e-4)


def test_padding_does_not_change_real_tokens():
    config = ARCHITECTURES["odd"]
    encoder = Encoder(config, name="electra")
    encoder.build()
    ids, mask, segments = _inputs(config)
    short = encoder(tf.constant(ids[1:2, :20]), tf.constant(mask[1:2, :20]), tf.constant(segments[1:2, :20]))
    long = encoder(tf.constant(ids[1:2]), tf.constant(mask[1:2]), tf.constant(segments[1:2]))
    np.testing.assert_allclose(short.numpy(), long.numpy()[:20], atol=1e-5)


@pytest.mark.parametrize("recompute", [False, True])
def test_layers_are_traced_once_and_compute_what_each_does_by_itself(recompute, monkeypatch):
    """Output and gradients are those of the layers one by one, each with its weights and dropout."""
    config = dataclasses.replace(ARCHITECTURES["odd"], num_hidden_layers=5)
    encoder = Encoder(config, name="electra")
    encoder.build()
    _randomize(encoder.trainable_variables)
    encoder.recompute = recompute
    variables = [variable.value for variable in encoder.trainable_variables]
    inputs = [tf.constant(part) for part in _inputs(config)]
    calls = []
    of_layer = EncoderLayer.call

    def counted(*inputs, **options):
        calls.append(1)
        return of_layer(*inputs, **options)

    monkeypatch.setattr(EncoderLayer, "call", counted)

    def gradient():
        with tf.GradientTape() as tape:
            hidden = encoder(*inputs, tf.constant([1, 2]))
            # A plain sum of what LayerNorm gives out has no gradient.
            loss = tf.reduce_sum(tf.square(hidden - 1) * tf.cumsum(tf.ones_like(hidden) / 100))
        return hidden, tape.gradient(loss, variables)

    in_graph = tf.function(gradient, autograph=False)()
    assert len(calls) == 1
    one_by_one = gradient()
    assert len(calls) > 5
    for ours, theirs in zip(tf.nest.flatten(in_graph), tf.nest.flatten(one_by_one), strict=True):
        np.testing.assert_allclose(tf.convert_to_tensor(ours), tf.convert_to_tensor(theirs), atol=1e-4)


def test_recomputing_keeps_only_the_inputs_of_layers():
    """Of six layers all but one's activations are gone, which are ten times their inputs and more."""
    settings = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 2}
    config = dataclasses.replace(ARCHITECTURES["odd"], **settings, num_hidden_layers=6)
    encoder = Encoder(config, name="electra")
    encoder.build()
    ids = tf.ones([128, 40], tf.int32)

    def gradient():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(encoder(ids, ids, ids, tf.constant([1, 2])))
        return tape.gradient(loss, [variable.value for variable in encoder.trainable_variables])

    peaks = []
    for recompute in (False, True):
        encoder.recompute = recompute
        peaks.append(peak_bytes(tf.function(gradient, autograph=False)))
    assert peaks[1] < peaks[0] / 2


def test_parameter_counts_are_the_papers():
    """13.5 M, 109 M and 335 M parameters of the discriminator (reference: table of sizes)."""
    for size, millions in {"small": 13.5, "base": 109.5, "large": 335.0}.items():
        config = ElectraConfig(vocab_size=30522, **MODEL_SIZES[size])
        # One layer is built and the others counted from it: building large would take gigabytes.
        shallow = ElectraConfig(vocab_size=30522, **(MODEL_SIZES[size] | {"num_hidden_layers": 1}))
        encoder, head = Encoder(shallow, name="electra"), DiscriminatorHead(shallow, name="head")
        encoder.build()
        head.build()
        sizes = {
            v.path: int(np.prod(v.shape)) for v in encoder.trainable_variables + head.trainable_variables
        }
        layer = sum(size for path, size in sizes.items() if "/layer_0/" in path)
        total = sum(sizes.values()) + (config.num_hidden_layers - 1) * layer
        assert abs(total / 1e6 - millions) < 0.6


def test_generator_shares_all_four_embedding_weights():
    """Word, position and type tables and the embedding LayerNorm exist once."""
    electra = Encoder(ARCHITECTURES["odd"], name="electra")
    generator = Encoder(ARCHITECTURES["odd"].generator(0.5, 1.0), electra.embeddings, name="generator")
    electra.build()
    generator.build()
    own = {v.path for v in generator.trainable_variables} - {v.path for v in electra.trainable_variables}
    assert own and not any("/embeddings/" in path for path in own)


def test_gelu_is_the_exact_error_function():
    from math import erf, sqrt

    values = np.linspace(-4, 4, 41).astype(np.float32)
    exact = [x * 0.5 * (1 + erf(x / sqrt(2))) for x in values]
    np.testing.assert_allclose(gelu(tf.constant(values)).numpy(), exact, atol=1e-6)


def test_dropout_keeps_the_mean_and_drops_its_share():
    inputs = tf.ones([1001, 1000])
    outputs = dropout(inputs, 0.1, tf.constant([1, 2]), 3).numpy()
    dropped = (outputs == 0).mean()
    # 5 standard deviations of a binomial share over a million draws.
    assert abs(dropped - 0.1) < 5 * np.sqrt(0.1 * 0.9 / 1e6)
    np.testing.assert_allclose(outputs[outputs > 0], 1 / 0.9, rtol=1e-4)


def test_dropout_differs_by_seed_and_by_place_and_repeats():
    inputs = tf.ones([64, 64])
    first = dropout(inputs, 0.5, tf.constant([1, 2]), 3).numpy()
    assert (first == dropout(inputs, 0.5, tf.constant([1, 2]), 3).numpy()).all()
    for other in (dropout(inputs, 0.5, tf.constant([1, 3]), 3), dropout(inputs, 0.5, tf.constant([1, 2]), 4)):
        agreement = (other.numpy() == first).mean()
        assert 0.4 < agreement < 0.6


def test_every_place_of_the_model_has_a_dropout_of_its_own():
    config = ARCHITECTURES["odd"]
    electra = Encoder(config, name="electra")
    generator = Encoder(config.generator(0.5, 1.0), electra.embeddings, name="generator")
    electra.build()
    generator.build()
    salts = [
        layer.salt
        for network in (electra, generator)
        for layer in network._flatten_layers()
        if hasattr(layer, "salt")
    ]
    embeddings = [layer for layer in electra._flatten_layers() if isinstance(layer, Embeddings)]
    assert len(embeddings) == 1
    # Three places in each layer of both networks, and the shared embeddings, met twice.
    assert len(salts) == 2 * 3 * config.num_hidden_layers + 2
    assert len(set(salts)) == len(salts) - 1
