"""Weights of other toolkits in, and ours out as Hugging Face folders.

Our weights carry the names of Google's checkpoints; Hugging Face's names follow from them by rule: dots for
slashes, kernels transposed. A folder is config.json, model.safetensors, vocab.txt, tokenizer_config.json.
No pickle is read.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

import files
from architecture import ElectraConfig
from command_line import UsageError
from tokenization import Vocabulary, load_vocabulary

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"

Tensors = dict[str, np.ndarray]

# Two networks in one model: where each keeps its encoder and its head.
_DISCRIMINATOR_PREFIXES = ("electra/", "discriminator_predictions/")
_MASKED_LM_PREFIXES = ("generator/", "generator_predictions/")
_OUTPUT_BIAS = "generator_predictions/output_bias"
# Tied to the word table, and buffers that older versions of transformers stored.
_NOT_WEIGHTS = (
    "generator_lm_head.weight",
    "electra.embeddings.position_ids",
    "electra.embeddings.token_type_ids",
)


@dataclass
class InitialWeights:
    """Weights read for a new run, by our names, and what did not match.

    Attributes:
        missing: variables of the run that the folder has no weights for; they stay random.
        unused: weights of the folder that the run has no place for.
        remarks: what the user should know, a sentence each.
    """

    tensors: Tensors
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


# ------------------------------------------------------------------------------------------------- names


def huggingface_name(name: str) -> str:
    """Hugging Face's name of one of our weights in its own network (both encoders are `electra` there)."""
    if name == _OUTPUT_BIAS:
        return "generator_lm_head.bias"
    dotted = re.sub(r"\blayer_(\d+)", r"layer.\1", re.sub(r"^generator/", "electra/", name)).replace("/", ".")
    dotted = re.sub(r"\.(kernel|gamma)$", ".weight", dotted)
    dotted = re.sub(r"\.beta$", ".bias", dotted)
    return f"{dotted}.weight" if dotted.endswith("_embeddings") else dotted


def to_huggingface(name: str, tensor: np.ndarray) -> np.ndarray:
    """A weight in Hugging Face's layout: PyTorch keeps kernels as [out, in]."""
    return np.ascontiguousarray(tensor.T) if name.endswith("/kernel") else tensor


# --------------------------------------------------------------------------------------------------- out


def discriminator_tensors(model: Mapping[str, np.ndarray]) -> Tensors:
    """The discriminator's weights under Hugging Face's names."""
    return {
        huggingface_name(name): to_huggingface(name, tensor)
        for name, tensor in model.items()
        if name.startswith(_DISCRIMINATOR_PREFIXES)
    }


def generator_tensors(model: Mapping[str, np.ndarray]) -> Tensors:
    """The masked language model's weights under Hugging Face's names.

    Its encoder is the generator's, or `electra` in a model whose generator is the discriminator's encoder;
    embeddings that it shares are copied in. The output table is tied to the word table and not stored.
    """
    own = {name: tensor for name, tensor in model.items() if name.startswith(_MASKED_LM_PREFIXES)}
    if not any(name.startswith("generator/encoder/") for name in own):
        own |= {name: tensor for name, tensor in model.items() if name.startswith("electra/")}
    elif not any(name.startswith("generator/embeddings/") for name in own):
        own |= {name: tensor for name, tensor in model.items() if name.startswith("electra/embeddings/")}
    return {huggingface_name(name): to_huggingface(name, tensor) for name, tensor in own.items()}


def write_folder(
    folder: str | Path, architecture: str, config: ElectraConfig, tensors: Tensors, vocabulary: Vocabulary
) -> None:
    """Write a Hugging Face folder, complete or not at all; an earlier export there is replaced.

    Raises:
        UsageError: the folder exists and is no export.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / CONFIG_NAME).exists():
        raise UsageError(f"--output_dir {folder.parent}: {folder.name} in it is no exported model")
    settings = dataclasses.asdict(config) | {
        "architectures": [architecture],
        "model_type": "electra",
        "hidden_act": "gelu",
        "pad_token_id": vocabulary.pad_id,
        "tie_word_embeddings": True,
    }
    temporary = files.temporary_path(folder)
    files.remove_folder(temporary)
    try:
        temporary.mkdir(parents=True)
        save_file(tensors, temporary / WEIGHTS_NAME, metadata={"format": "pt"})
        files.write_json(temporary / CONFIG_NAME, settings)
        vocabulary.save(temporary / "vocab.txt")
        files.remove_folder(folder)
        files.publish(temporary, folder)
    finally:
        files.remove_folder(temporary)


# ---------------------------------------------------------------------------------------------------- in


def read_initial_weights(
    folder: str,
    variables: Mapping[str, tuple[int, ...]],
    discriminator: ElectraConfig,
    generator: ElectraConfig,
    vocabulary: Vocabulary,
) -> InitialWeights:
    """Weights to start a pre-training run from.

    Args:
        folder: of Hugging Face's form: an ELECTRA discriminator or generator, a folder that holds both in
            discriminator/ and generator/, or a BERT, whose encoder and embeddings start both networks.
        variables: the run's variables and their shapes.
        discriminator, generator: the run's architectures.

    Raises:
        UsageError: no such folder, another vocabulary, an architecture or a shape that differs.
    """
    parts = [Path(folder, name) for name in ("discriminator", "generator")]
    folders = [part for part in parts if (part / CONFIG_NAME).exists()] or [Path(folder)]
    result = InitialWeights({})
    for part in folders:
        _read_part(part, variables, discriminator, generator, vocabulary, result)
    result.missing = sorted(variables.keys() - result.tensors.keys())
    _remark_on_missing_network(result, variables)
    return result


def _read_part(
    folder: Path,
    variables: Mapping[str, tuple[int, ...]],
    discriminator: ElectraConfig,
    generator: ElectraConfig,
    vocabulary: Vocabulary,
    result: InitialWeights,
) -> None:
    """Add one folder's weights to `result`."""
    flag = f"--init_weights {folder}"
    settings, tensors = _read_folder(folder)
    _check_vocabulary(folder, vocabulary)
    has_generator = any(name.startswith("generator_") for name in variables)
    is_bert = settings.get("model_type") == "bert"
    is_generator = any(name.startswith("generator_") for name in tensors)
    config = ElectraConfig.from_huggingface(settings)
    wanted: list[str] = []
    if is_bert or not is_generator:
        _check_architecture(flag, config, discriminator)
        wanted += [name for name in variables if name.startswith(_DISCRIMINATOR_PREFIXES)]
    if is_generator:
        _check_architecture(flag, config, generator, "generator")
        wanted += [
            name for name in variables if name.startswith((*_MASKED_LM_PREFIXES, "electra/embeddings/"))
        ]
    elif is_bert and has_generator:
        if _differences(config, generator):
            result.remarks.append("the generator is narrower than these weights and starts from random ones")
        else:
            wanted += [name for name in variables if name.startswith(_MASKED_LM_PREFIXES)]
    used = set()
    for name in wanted:
        source = huggingface_name(name)
        if source not in tensors:
            continue
        used.add(source)
        tensor = to_huggingface(name, tensors[source])
        if tuple(tensor.shape) != tuple(variables[name]):
            raise UsageError(
                f"{flag}: {source} is {tensor.shape}, the run's {name} is {tuple(variables[name])}"
            )
        if name in result.tensors and not np.array_equal(result.tensors[name], tensor):
            result.remarks.append(
                f"{folder.name}'s {source} differs from the discriminator's, which is taken"
            )
            continue
        result.tensors[name] = tensor.astype(np.float32)
    result.unused += sorted(f"{folder.name}: {name}" for name in tensors.keys() - used)


def _read_folder(folder: Path) -> tuple[dict, Tensors]:
    """config.json, and the tensors under Hugging Face's ELECTRA names."""
    flag = f"--init_weights {folder}"
    if not folder.is_dir():
        raise UsageError(f"{flag}: no such folder")
    if not (folder / CONFIG_NAME).exists():
        raise UsageError(f"{flag}: holds no {CONFIG_NAME}")
    settings = files.read_json(folder / CONFIG_NAME)
    if settings.get("model_type") not in ("electra", "bert"):
        raise UsageError(f"{flag}: model_type {settings.get('model_type')!r} is neither electra nor bert")
    if not (folder / WEIGHTS_NAME).exists():
        raise UsageError(f"{flag}: holds no {WEIGHTS_NAME}")
    try:
        tensors = load_file(folder / WEIGHTS_NAME)
    except SafetensorError as error:
        raise UsageError(f"{flag}: {WEIGHTS_NAME} is damaged ({error})") from None
    named = {_canonical_name(name): tensor for name, tensor in tensors.items()}
    return settings, {name: tensor for name, tensor in named.items() if name not in _NOT_WEIGHTS}


def _canonical_name(name: str) -> str:
    """Hugging Face's ELECTRA name of a weight of BERT, of a headless model or of an old BERT."""
    name = re.sub(r"^bert\.", "electra.", name)
    if name.startswith(("embeddings.", "encoder.", "embeddings_project.")):
        name = f"electra.{name}"
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _check_vocabulary(folder: Path, vocabulary: Vocabulary) -> None:
    path = folder / "vocab.txt"
    if path.exists() and load_vocabulary(path).sha256 != vocabulary.sha256:
        raise UsageError(f"--init_weights {folder}: its vocab.txt is not the vocabulary of the training data")


def _differences(config: ElectraConfig, run: ElectraConfig) -> list[str]:
    """Fields that decide on shapes or on what the weights mean, and differ."""
    names = ("vocab_size", "embedding_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    names += ("intermediate_size", "max_position_embeddings", "type_vocab_size")
    return [name for name in names if getattr(config, name) != getattr(run, name)]


def _check_architecture(flag: str, config: ElectraConfig, run: ElectraConfig, network: str = "") -> None:
    differing = _differences(config, run)
    if differing:
        weights = ", ".join(f"{name} {getattr(config, name)}" for name in differing)
        ours = ", ".join(str(getattr(run, name)) for name in differing)
        raise UsageError(
            f"{flag}: these weights have {weights}; this run's {network} has {ours}".replace("  ", " ")
        )


def _remark_on_missing_network(result: InitialWeights, variables: Iterable[str]) -> None:
    for network, prefix in (("discriminator's", "electra/encoder/"), ("generator's", "generator/encoder/")):
        expected = [name for name in variables if name.startswith(prefix)]
        if expected and not any(name in result.tensors for name in expected):
            result.remarks.append(f"no weights for the {network} encoder: it starts from random ones")
