"""Names, layouts and shapes of ELECTRA's weights, and the networks that a joint model is made of.

Our names are those of Google's checkpoints (electra/encoder/layer_0/attention/self/query/kernel); Hugging
Face's follow from them by rule: dots for slashes, PyTorch's words, kernels transposed. A network by itself
has its encoder under `electra`, whichever network it is; in a joint model the generator's is `generator`.
Files are read elsewhere (huggingface_folders.py, google_checkpoints.py, pretrained_models.py).
"""

import re
from collections.abc import Mapping

import numpy as np

from architecture import ElectraConfig

Tensors = dict[str, np.ndarray]

WORD_TABLE = "electra/embeddings/word_embeddings"
OUTPUT_BIAS = "generator_predictions/output_bias"
ENCODER_PREFIXES = ("electra/embeddings/", "electra/embeddings_project/", "electra/encoder/")
DISCRIMINATOR_HEAD = "discriminator_predictions/"
MASKED_LM_HEAD = "generator_predictions/"
PLAIN_SPAN_HEAD = "qa_outputs/"
JOINT_SPAN_HEAD = "squad_head/"
# Of whole sequences and of tokens: Hugging Face has one name for both.
CLASSIFIER = "classifier/"
SEQUENCE_HEAD = "classifier/dense/"
TOKEN_HEAD = "classifier/kernel"

# In Hugging Face's ELECTRA the output table is the word table, stored again by some versions.
_OUTPUT_TABLE = "generator_lm_head.weight"
_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")


# ------------------------------------------------------------------------------------------------- names


def huggingface_name(name: str) -> str:
    """Hugging Face's name of one of our weights in its own network (both encoders are `electra` there)."""
    if name == OUTPUT_BIAS:
        return "generator_lm_head.bias"
    dotted = re.sub(r"\blayer_(\d+)", r"layer.\1", re.sub(r"^generator/", "electra/", name)).replace("/", ".")
    dotted = re.sub(r"\.(kernel|gamma)$", ".weight", dotted)
    dotted = re.sub(r"\.beta$", ".bias", dotted)
    return f"{dotted}.weight" if dotted.endswith("_embeddings") else dotted


def our_name(name: str) -> str:
    """Our name of a weight of a Hugging Face ELECTRA or BERT, headless or not.

    Embeddings, projection and encoder come under `electra`, whatever they stand under there.
    """
    if name == "generator_lm_head.bias":
        return OUTPUT_BIAS
    name = re.sub(r"^bert\.", "electra.", name)
    if name.startswith(("embeddings.", "encoder.", "embeddings_project.")):
        name = f"electra.{name}"
    module, _, leaf = name.rpartition(".")
    path = re.sub(r"\blayer\.(\d+)", r"layer_\1", module).replace(".", "/")
    if leaf == "weight" and path.endswith("_embeddings"):
        return path
    if module.endswith("LayerNorm"):
        leaf = {"weight": "gamma", "bias": "beta"}.get(leaf, leaf)
    elif leaf == "weight":
        leaf = "kernel"
    return f"{path}/{leaf}" if path else leaf


def other_layout(name: str, tensor: np.ndarray) -> np.ndarray:
    """A weight, by our name, from our layout to Hugging Face's or back: there kernels are [out, in]."""
    return np.ascontiguousarray(tensor.T) if name.endswith("/kernel") else tensor


def to_huggingface(model: Mapping[str, np.ndarray]) -> Tensors:
    """One network's weights under Hugging Face's names and in its layout."""
    return {huggingface_name(name): other_layout(name, tensor) for name, tensor in model.items()}


def from_huggingface(tensors: Mapping[str, np.ndarray]) -> Tensors:
    """One network's weights, float32, by our names; what is no weight is left out.

    Raises:
        ValueError: the masked language model's output table is not the word table, as it is in ELECTRA.
    """
    model = {}
    for name, tensor in tensors.items():
        if name != _OUTPUT_TABLE and not name.endswith(_BUFFERS):
            ours = our_name(name)
            model[ours] = other_layout(ours, tensor).astype(np.float32, copy=False)
    output_table = tensors.get(_OUTPUT_TABLE)
    if output_table is not None and not np.array_equal(output_table, model.get(WORD_TABLE)):
        raise ValueError(f"{_OUTPUT_TABLE} is not the word table, as it must be in an ELECTRA")
    return model


# -------------------------------------------------------------------------------------------- networks


def generator_network(model: Mapping[str, np.ndarray]) -> Tensors:
    """The masked language model of a joint model, by the names of a network by itself.

    Its encoder is the generator's, or `electra` in a model whose generator is the discriminator's encoder;
    embeddings that it shares are taken in. Without its head there is no such network: nothing.
    """
    prefixes = ("generator/", MASKED_LM_HEAD)
    own = {name: tensor for name, tensor in model.items() if name.startswith(prefixes)}
    if not any(name.startswith(MASKED_LM_HEAD) for name in own):
        return {}
    if not any(name.startswith("generator/encoder/") for name in own):
        own |= {name: tensor for name, tensor in model.items() if name.startswith("electra/")}
    elif not any(name.startswith("generator/embeddings/") for name in own):
        own |= {name: tensor for name, tensor in model.items() if name.startswith("electra/embeddings/")}
    return {re.sub("^generator/", "electra/", name): tensor for name, tensor in own.items()}


def encoder_shapes(config: ElectraConfig) -> dict[str, tuple[int, ...]]:
    """Every weight of an encoder by our name, and its shape (kernels as [in, out])."""
    hidden, width = config.hidden_size, config.embedding_size
    shapes: dict[str, tuple[int, ...]] = {
        WORD_TABLE: (config.vocab_size, width),
        "electra/embeddings/position_embeddings": (config.max_position_embeddings, width),
        "electra/embeddings/token_type_embeddings": (config.type_vocab_size, width),
    }
    shapes |= _norm("electra/embeddings", width)
    if width != hidden:
        shapes |= _dense("electra/embeddings_project", width, hidden)
    for number in range(config.num_hidden_layers):
        layer = f"electra/encoder/layer_{number}"
        for projection in ("query", "key", "value"):
            shapes |= _dense(f"{layer}/attention/self/{projection}", hidden, hidden)
        shapes |= _dense(f"{layer}/attention/output/dense", hidden, hidden)
        shapes |= _norm(f"{layer}/attention/output", hidden)
        shapes |= _dense(f"{layer}/intermediate/dense", hidden, config.intermediate_size)
        shapes |= _dense(f"{layer}/output/dense", config.intermediate_size, hidden)
        shapes |= _norm(f"{layer}/output", hidden)
    return shapes


def _dense(path: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{path}/kernel": (inputs, outputs), f"{path}/bias": (outputs,)}


def _norm(path: str, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{path}/LayerNorm/gamma": (size,), f"{path}/LayerNorm/beta": (size,)}
