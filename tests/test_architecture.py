"""The sizes are the paper's and the reference systems', and Hugging Face's configurations are read."""

import dataclasses
import json

import pytest

from architecture import MODEL_SIZES, ElectraConfig
from command_line import UsageError

# layers, hidden, heads, feed-forward, embedding: Clark et al. 2020, table 6; google-research/electra.
PAPER = {
    "small": (12, 256, 4, 1024, 128),
    "base": (12, 768, 12, 3072, 768),
    "large": (24, 1024, 16, 4096, 1024),
}


def preset(size: str, **changes) -> ElectraConfig:
    return ElectraConfig(**({"vocab_size": 30522} | MODEL_SIZES[size] | changes))


def encoder(config: ElectraConfig) -> tuple[int, int, int, int]:
    return (
        config.num_hidden_layers,
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
    )


def test_presets_are_the_papers():
    assert set(MODEL_SIZES) == set(PAPER)
    for size, expected in PAPER.items():
        config = preset(size)
        assert (*encoder(config), config.embedding_size) == expected
        assert (config.max_position_embeddings, config.type_vocab_size) == (512, 2)
        assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.1, 0.1)
        assert (config.layer_norm_eps, config.initializer_range) == (1e-12, 0.02)


@pytest.mark.parametrize(
    ("size", "width", "expected"),
    [
        ("small", 1 / 4, (12, 64, 1, 256)),
        ("base", 1 / 3, (12, 256, 4, 1024)),
        ("large", 1 / 4, (24, 256, 4, 1024)),
        ("base", 1 / 4, (12, 192, 3, 768)),
        # Google's released small++: the generator is as wide as the discriminator and keeps its four heads.
        ("small", 1.0, (12, 256, 4, 1024)),
        ("base", 1.0, (12, 768, 12, 3072)),
    ],
)
def test_generator_is_as_wide_as_in_the_reference_systems(size, width, expected):
    discriminator = preset(size)
    generator = discriminator.generator(width, 1.0)
    assert encoder(generator) == expected
    assert generator.embedding_size == discriminator.embedding_size
    assert generator.vocab_size == discriminator.vocab_size


def test_generator_as_wide_as_the_discriminator_has_its_heads_and_feed_forward():
    """So that the weights of one network fit both, whatever its shape."""
    discriminator = preset("small", num_attention_heads=8, intermediate_size=512)
    assert discriminator.generator(1.0, 1.0) == discriminator


@pytest.mark.parametrize(("depth", "layers"), [(1.0, 12), (0.5, 6), (0.25, 3), (0.01, 1), (1.5, 18)])
def test_generator_depth_is_a_share_of_the_layers_and_never_zero(depth, layers):
    assert preset("base").generator(1 / 3, depth).num_hidden_layers == layers


def test_generator_of_any_width_has_heads_that_divide_it():
    for hidden_size in (64, 100, 130, 256, 312, 768, 1024):
        for thousandths in range(1, 1500, 7):
            config = preset("base", hidden_size=hidden_size, num_attention_heads=1)
            generator = config.generator(thousandths / 1000, 1.0)
            assert generator.hidden_size % generator.num_attention_heads == 0
            assert generator.hidden_size >= round(hidden_size * (thousandths / 1000))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"hidden_size": 100, "num_attention_heads": 3},
            "--hidden_size 100: must be divisible by .*_heads 3",
        ),
        ({"hidden_size": 0}, "--hidden_size 0: must be at least 1"),
        ({"num_attention_heads": 0}, "--num_attention_heads 0: must be at least 1"),
        ({"num_hidden_layers": -1}, "--num_hidden_layers -1: must be at least 1"),
        ({"vocab_size": 0}, "--vocab_size 0: must be at least 1"),
        ({"max_position_embeddings": 0}, "--max_position_embeddings 0: must be at least 1"),
        ({"hidden_dropout_prob": 1.0}, r"--hidden_dropout_prob 1.0: must be in \[0, 1\)"),
        ({"attention_probs_dropout_prob": -0.1}, "--attention_probs_dropout_prob -0.1"),
        ({"hidden_dropout_prob": float("nan")}, "--hidden_dropout_prob nan"),
    ],
)
def test_impossible_size_is_named(changes, told):
    with pytest.raises(UsageError, match=told):
        preset("base", **changes)


@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_hugging_faces_configuration_comes_back_unchanged(size, tmp_path):
    """Through a config.json that transformers wrote from our values."""
    transformers = pytest.importorskip("transformers")
    config = preset(size, vocab_size=1234, hidden_dropout_prob=0.2, max_position_embeddings=256)
    transformers.ElectraConfig(**dataclasses.asdict(config)).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    assert ElectraConfig.from_huggingface(settings) == config


def test_hugging_faces_defaults_are_the_small_size(tmp_path):
    """transformers.ElectraConfig() is google/electra-small-discriminator."""
    transformers = pytest.importorskip("transformers")
    transformers.ElectraConfig().save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    assert ElectraConfig.from_huggingface(settings) == preset("small")


def test_berts_embeddings_are_as_wide_as_its_hidden_states(tmp_path):
    transformers = pytest.importorskip("transformers")
    transformers.BertConfig(hidden_size=384, num_attention_heads=6, intermediate_size=512).save_pretrained(
        tmp_path
    )
    settings = json.loads((tmp_path / "config.json").read_text())
    config = ElectraConfig.from_huggingface(settings)
    assert (config.embedding_size, *encoder(config)) == (384, 12, 384, 6, 512)


def test_other_networks_configuration_is_refused_with_what_it_lacks():
    with pytest.raises(UsageError, match=r"lacks .*hidden_size.*intermediate_size"):
        ElectraConfig.from_huggingface({"model_type": "gpt2", "n_embd": 768, "vocab_size": 50257})
