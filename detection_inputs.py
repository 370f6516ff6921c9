"""What a program tells replaced tokens with: a discriminator, and the generator that it was trained beside.

Found and checked from the flags without TensorFlow; replaced_tokens.py builds on it.
"""

from dataclasses import dataclass

import pretrained_models
from command_line import UsageError, require
from electra_weights import DISCRIMINATOR_HEAD
from huggingface_folders import CONFIG_NAME
from pretrained_models import NETWORKS, PretrainedModel
from squad_configuration import InferenceConfig
from tokenization import Vocabulary

_MAX_SEQ_LENGTH = 512
# [CLS], one token, [SEP].
_SHORTEST = 3


@dataclass(frozen=True)
class DetectionInputs:
    """Everything that a token's probability follows from, beside the text.

    Attributes:
        generator: for alternatives; None where there is none.
        max_seq_length: tokens in a window, [CLS] and [SEP] included.
    """

    discriminator: PretrainedModel
    generator: PretrainedModel | None
    max_seq_length: int

    @property
    def vocabulary(self) -> Vocabulary:
        return self.discriminator.vocabulary


def tells_tokens_apart(model: PretrainedModel) -> bool:
    """Whether the weights hold a discriminator's head."""
    return any(name.startswith(DISCRIMINATOR_HEAD) for name in model.tensors)


def open_detection(config: InferenceConfig, discriminator: PretrainedModel) -> DetectionInputs:
    """Find the generator that goes with a discriminator, and the length of windows that both can take.

    Raises:
        UsageError: --generator_model is no generator or of another vocabulary; a length that does not fit.
    """
    generator = _find_generator(config)
    networks = [network for network in (discriminator, generator) if network is not None]
    if generator is not None and generator.vocabulary is not None:
        if generator.vocabulary.sha256 != discriminator.vocabulary.sha256:
            raise UsageError(
                f"--generator_model {generator.source}: its vocabulary is not that of {discriminator.source}"
            )
    elif generator is not None and generator.config.vocab_size != discriminator.vocabulary.size:
        raise UsageError(
            f"--generator_model {generator.source}: its word table has {generator.config.vocab_size} rows, "
            f"the vocabulary {discriminator.vocabulary.size} pieces"
        )
    positions = min(network.config.max_position_embeddings for network in networks)
    length = min(_MAX_SEQ_LENGTH, positions) if config.max_seq_length is None else config.max_seq_length
    require(
        _SHORTEST <= length <= positions,
        "max_seq_length",
        length,
        f"must be from {_SHORTEST} to {positions}, the rows of the position table",
    )
    return DetectionInputs(discriminator, generator, length)


def _find_generator(config: InferenceConfig) -> PretrainedModel | None:
    """The one that --generator_model names; for a page without it the one that lies by the discriminator."""
    if config.generator_model:
        generator = _masked_lm_in(config.generator_model)
        if generator is None:
            raise UsageError(f"--generator_model {config.generator_model}: is no masked language model")
        return generator
    if not config.serve:
        return None
    name = config.init_checkpoint or config.electra_model
    source = pretrained_models.find_source(name, "electra_model")
    path = source.path.resolve()
    if source.kind == "hub" or (source.kind == "folder" and path.name != NETWORKS[0]):
        return None
    if source.kind in ("folder", "pair"):
        beside = (path if source.kind == "pair" else path.parent) / NETWORKS[1]
        return _masked_lm_in(str(beside)) if (beside / CONFIG_NAME).exists() else None
    return _masked_lm_in(name)


def _masked_lm_in(name: str) -> PretrainedModel | None:
    networks = pretrained_models.load_networks(name, "generator_model")
    return next((network for network in networks if network.is_masked_lm), None)
