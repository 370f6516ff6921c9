"""A Hugging Face folder of one network, read: config.json, architecture, weights by our names.

The weights are safetensors, in one file or in shards, or else a pytorch_model.bin, of which PyTorch reads
the tensors alone: no pickle is executed. The vocabulary is read in pretrained_models.py, and such folders
are written in weight_conversion.py.
"""

import pickle
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes  # noqa: F401  (with it NumPy, and so safetensors, knows bfloat16)
from safetensors import SafetensorError
from safetensors.numpy import load_file

import electra_weights
import files
from architecture import ElectraConfig
from command_line import UsageError
from electra_weights import Tensors

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
PICKLED_WEIGHTS_NAME = "pytorch_model.bin"

# What every network here is built as; another value in config.json would give other numbers.
_FIXED_SETTINGS = {"hidden_act": "gelu", "position_embedding_type": "absolute"}


@dataclass(frozen=True)
class HuggingFaceFolder:
    """What a folder holds; the weights are float32 and by our names."""

    config: ElectraConfig
    tensors: Tensors
    settings: dict


def read_folder(folder: Path, flag: str) -> HuggingFaceFolder:
    """Read a folder of an ELECTRA or a BERT, with any head.

    Args:
        flag: the flag that named it, without dashes, for messages.

    Raises:
        UsageError: a file is missing, damaged or of another kind of network, or holds more than weights.
    """
    where = f"--{flag} {folder}"
    settings = read_json_object(where, folder / CONFIG_NAME)
    if settings.get("model_type") not in ("electra", "bert"):
        raise UsageError(f"{where}: model_type {settings.get('model_type')!r} is neither electra nor bert")
    for name, value in _FIXED_SETTINGS.items():
        if settings.get(name, value) != value:
            raise UsageError(f"{where}: {name} {settings[name]!r} is not supported, only {value!r}")
    # Before the sizes are looked at: a folder without weights is the more likely mistake.
    tensors = _read_weights(where, folder)
    try:
        tensors = electra_weights.from_huggingface(tensors)
        config = ElectraConfig.from_huggingface(settings)
    except (ValueError, UsageError) as error:
        raise UsageError(f"{where}: {error}") from None
    except TypeError:
        raise UsageError(f"{where}: {CONFIG_NAME} has a size that is no number") from None
    return HuggingFaceFolder(config, tensors, settings)


def read_json_object(where: str, path: Path) -> dict:
    try:
        content = files.read_json(path)
    except FileNotFoundError:
        raise UsageError(f"{where}: holds no {path.name}") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{where}: {path.name} cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise UsageError(f"{where}: {path.name} is not a JSON object")
    return content


# ----------------------------------------------------------------------------------------------- weights


def _read_weights(where: str, folder: Path) -> Tensors:
    """Tensors by the names in the files, safetensors before pickles, one file before shards."""
    for name, read in ((WEIGHTS_NAME, _read_safetensors), (PICKLED_WEIGHTS_NAME, _read_pickled)):
        if (folder / name).exists():
            return read(where, folder / name)
        index = folder / f"{name}.index.json"
        if index.exists():
            tensors: Tensors = {}
            for shard in _shards(where, index):
                tensors |= read(where, shard)
            return tensors
    raise UsageError(f"{where}: holds no {WEIGHTS_NAME} and no {PICKLED_WEIGHTS_NAME}")


def _shards(where: str, index: Path) -> list[Path]:
    places = read_json_object(where, index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise UsageError(f"{where}: {index.name} has no weight_map")
    shards = sorted(set(places.values()))
    for name in shards:
        # An index from elsewhere must not lead to files outside its folder.
        if Path(name).name != name:
            raise UsageError(f"{where}: {index.name} names {name!r}, which is outside the folder")
        if not (index.parent / name).exists():
            raise UsageError(f"{where}: {name}, which {index.name} names, is not there")
    return [index.parent / name for name in shards]


def _read_safetensors(where: str, path: Path) -> Tensors:
    try:
        return load_file(path)
    except (SafetensorError, OSError, TypeError) as error:
        raise UsageError(f"{where}: {path.name} is damaged ({error})") from None


def _read_pickled(where: str, path: Path) -> Tensors:
    try:
        import torch
    except ImportError:
        raise UsageError(
            f"{where}: {path.name} can be read only where PyTorch is installed (pip install torch); "
            f"{WEIGHTS_NAME} needs nothing"
        ) from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UsageError(f"{where}: {path.name} holds more than weights, or is damaged: refused") from None
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{where}: {path.name} is damaged ({reason})") from None
    if not isinstance(state, dict) or not all(torch.is_tensor(tensor) for tensor in state.values()):
        raise UsageError(f"{where}: {path.name} holds no table of weights")
    try:
        # NumPy has no bfloat16 of PyTorch's, and a parameter as it was trained still records its gradient.
        return {
            name: (tensor.float() if tensor.is_floating_point() else tensor).detach().numpy()
            for name, tensor in state.items()
        }
    except (RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{where}: {path.name} holds a tensor that is no plain array ({reason})") from None
