"""Google's TensorFlow 1 checkpoints of ELECTRA, read: a prefix with .index and .data files.

Their names are ours but for one layer. They hold no configuration: sizes follow from the shapes.
"""

import re
from pathlib import Path

import numpy as np

from architecture import ElectraConfig
from command_line import UsageError
from electra_weights import WORD_TABLE, Tensors

# Width of an attention head in every size of Google's.
_HEAD_SIZE = 64
_LAYER = re.compile(r"(?:electra|generator)/encoder/layer_(\d+)/")
# An optimizer's slots and counters, and the sampling temperature, which is a setting.
_NOT_WEIGHTS = re.compile(r"(.*/)?(adam_m|adam_v|global_step|temperature)")


def find_prefix(folder: Path, flag: str) -> Path | None:
    """The prefix of a folder's one checkpoint, or of its newest by its `checkpoint` file; None without one.

    Raises:
        UsageError: several, and nothing that says which.
    """
    prefixes = sorted(path.with_suffix("") for path in folder.glob("*.index"))
    if len(prefixes) < 2:
        return prefixes[0] if prefixes else None
    record = folder / "checkpoint"
    if record.is_file():
        newest = re.search(
            r'^model_checkpoint_path: "(.*)"', record.read_text("utf-8", "replace"), re.MULTILINE
        )
        # The recorded path is that of the machine it was written on.
        if newest and folder / Path(newest.group(1)).name in prefixes:
            return folder / Path(newest.group(1)).name
    names = ", ".join(prefix.name for prefix in prefixes)
    raise UsageError(f"--{flag} {folder}: holds several TensorFlow checkpoints ({names}); name one of them")


def read_checkpoint(prefix: Path, flag: str) -> Tensors:
    """All weights of a checkpoint by our names, float32.

    Raises:
        UsageError: it is damaged, or not of Google's ELECTRA.
    """
    where = f"--{flag} {prefix}"
    # Seconds to load, and needed for these checkpoints only.
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = reader.get_variable_to_shape_map()
        names = sorted(name for name in shapes if not _NOT_WEIGHTS.fullmatch(name))
        tensors = {name: reader.get_tensor(name) for name in names if WORD_TABLE in shapes}
    except (tf.errors.OpError, ValueError, RuntimeError, LookupError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{where}: damaged or incomplete TensorFlow checkpoint ({reason})") from None
    if not tensors:
        raise UsageError(f"{where}: a TensorFlow checkpoint, but not Google's ELECTRA (no {WORD_TABLE})")
    return {_our_name(name): np.asarray(tensor, np.float32) for name, tensor in tensors.items()}


def infer_config(network: Tensors) -> ElectraConfig:
    """The architecture of one network, whose encoder is under `electra`, from the shapes of its weights.

    The number of heads leaves no trace in the shapes: heads of 64 are taken, as in all of Google's sizes, and
    one head below that.

    Raises:
        ValueError: a weight that the sizes follow from is missing.
        UsageError: a hidden size that heads of 64 do not divide.
    """
    layers = {int(match.group(1)) for name in network if (match := _LAYER.match(name))}
    intermediate = "electra/encoder/layer_0/intermediate/dense/kernel"
    positions, types = (f"electra/embeddings/{kind}_embeddings" for kind in ("position", "token_type"))
    missing = [name for name in (WORD_TABLE, positions, types, intermediate) if name not in network]
    if missing:
        raise ValueError(f"lacks {missing[0]}")
    hidden_size, intermediate_size = network[intermediate].shape
    vocab_size, embedding_size = network[WORD_TABLE].shape
    return ElectraConfig(
        vocab_size=vocab_size,
        embedding_size=embedding_size,
        hidden_size=hidden_size,
        num_hidden_layers=max(layers) + 1,
        num_attention_heads=max(1, hidden_size // _HEAD_SIZE),
        intermediate_size=intermediate_size,
        max_position_embeddings=network[positions].shape[0],
        type_vocab_size=network[types].shape[0],
    )


def _our_name(name: str) -> str:
    return name.replace("discriminator_predictions/dense_1/", "discriminator_predictions/dense_prediction/")
