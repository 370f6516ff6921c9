"""Floating-point operations of a training step by part, from the architecture and the batch alone.

Counted as for the model FLOPs utilization of Chowdhery et al. 2022 (PaLM, section 4.1 and appendix B): matrix
products only, a multiplication and an addition being two operations; the backward pass costs two products for
each of the forward pass. So LayerNorm, softmax, dropout, sampling and the optimizer count nothing, nor does
what is computed a second time to save memory. Padding counts: it is computed.

How fast a machine could do them is machine_ceiling.py's.
"""

from architecture import ElectraConfig
from configuration import PretrainingConfig

# Forward, the gradient of the inputs, the gradient of the weights.
_PASSES = 3


def pretraining_flops(
    config: PretrainingConfig, vocabulary_size: int, sequences: int, length: int, picks: int | None = None
) -> dict[str, int]:
    """Operations of forward and backward pass of one micro-batch, by part.

    Args:
        sequences, length: the batch's shape; the length counts padding.
        picks: places for picks in a sequence; those of an example by default.

    Returns:
        attention, feed_forward and embeddings of the discriminator's encoder, generator (its whole encoder),
        heads. With `untied_generator` off the discriminator's encoder runs twice.
    """
    tokens = sequences * length
    picks = sequences * (min(config.max_predictions(), length) if picks is None else picks)
    discriminator, generator = config.discriminator(vocabulary_size), config.generator(vocabulary_size)
    encoder = encoder_flops(discriminator, sequences, length)
    parts = {name: count // _PASSES for name, count in encoder.items()} | {"generator": 0, "heads": 0}
    has_own_generator = config.untied_generator and config.electra_objective and not config.uniform_generator
    if has_own_generator:
        parts["generator"] = sum(encoder_flops(generator, sequences, length).values()) // _PASSES
    elif config.electra_objective and not config.uniform_generator:
        parts["generator"] = sum(parts.values())
    if not config.uniform_generator:
        under_head = generator if has_own_generator else discriminator
        parts["heads"] += _product(picks, under_head.hidden_size, under_head.embedding_size)
        parts["heads"] += _product(picks, under_head.embedding_size, vocabulary_size)
    if config.electra_objective:
        width = discriminator.hidden_size
        parts["heads"] += _product(tokens, width, width) + _product(tokens, width, 1)
    return {name: _PASSES * count for name, count in parts.items()}


def encoder_flops(config: ElectraConfig, sequences: int, length: int) -> dict[str, int]:
    """Operations of forward and backward pass of an encoder: embeddings, attention, feed_forward."""
    tokens, width, layers = sequences * length, config.hidden_size, config.num_hidden_layers
    projects = config.embedding_size != width
    projections = 4 * _product(tokens, width, width)
    # Scores and weighted sums; over all heads the inner or outer size adds up to the width.
    products = 2 * _product(tokens, width, length)
    feed_forward = 2 * _product(tokens, width, config.intermediate_size)
    return {
        "embeddings": _PASSES * projects * _product(tokens, config.embedding_size, width),
        "attention": _PASSES * layers * (projections + products),
        "feed_forward": _PASSES * layers * feed_forward,
    }


def _product(rows: int, inner: int, columns: int) -> int:
    return 2 * rows * inner * columns
