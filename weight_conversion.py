"""Networks out as Hugging Face folders, and networks of any source in, as the start of a pre-training run.

A folder is config.json, model.safetensors, vocab.txt and tokenizer_config.json. Sources are found and read
in pretrained_models.py; names and layouts are in electra_weights.py.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import electra_weights
import files
import pretrained_models
from architecture import ElectraConfig
from command_line import UsageError
from electra_weights import (
    DISCRIMINATOR_HEAD,
    MASKED_LM_HEAD,
    PLAIN_SPAN_HEAD,
    SEQUENCE_HEAD,
    TOKEN_HEAD,
    Tensors,
)
from huggingface_folders import CONFIG_NAME, WEIGHTS_NAME
from pretrained_models import PretrainedModel
from tokenization import Vocabulary

# Hugging Face's class of a network with a head. Ours of the joint span head is nobody's: its encoder loads.
_ARCHITECTURES = {
    DISCRIMINATOR_HEAD: "ElectraForPreTraining",
    MASKED_LM_HEAD: "ElectraForMaskedLM",
    PLAIN_SPAN_HEAD: "ElectraForQuestionAnswering",
    SEQUENCE_HEAD: "ElectraForSequenceClassification",
    TOKEN_HEAD: "ElectraForTokenClassification",
}
MODEL_CARD_NAME = "README.md"
# All that a folder of ours holds; the last two are what Vocabulary.save writes.
_WRITTEN = (CONFIG_NAME, WEIGHTS_NAME, MODEL_CARD_NAME, "vocab.txt", "tokenizer_config.json")
_EXPORTED = (
    *electra_weights.ENCODER_PREFIXES,
    *_ARCHITECTURES,
    electra_weights.JOINT_SPAN_HEAD,
    electra_weights.CLASSIFIER,
)
# What config.json says of a head, ours of the joint span head and Hugging Face's of classifiers.
_HEAD_SETTINGS = ("squad_head", "id2label", "label2id", "problem_type")
_FLAG = "init_weights"


@dataclass
class InitialWeights:
    """Weights read for a new run, by our names, and what did not match.

    Attributes:
        missing: variables of the run that the source has no weights for; they stay random.
        unused: weights of the source that the run has no place for.
        remarks: what the user should know, a sentence each.
    """

    tensors: Tensors
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


# --------------------------------------------------------------------------------------------------- out


def architecture_name(names: Mapping[str, object]) -> str:
    """Hugging Face's class of a network with weights of these names of ours."""
    for head, architecture in _ARCHITECTURES.items():
        if any(name.startswith(head) for name in names):
            return architecture
    return "ElectraModel"


def write_folder(
    folder: str | Path,
    architecture: str,
    config: ElectraConfig,
    tensors: Tensors,
    vocabulary: Vocabulary,
    *,
    head_settings: Mapping[str, object] | None = None,
    model_card: str = "",
    flag: str = "output_dir",
) -> None:
    """Write a Hugging Face folder, complete or not at all; an earlier export there is replaced.

    Args:
        architecture: Hugging Face's class of the network.
        tensors: under Hugging Face's names and in its layout.
        head_settings: further entries of config.json.
        model_card: text of README.md; without it there is none.
        flag: names the output folder in messages, without dashes.

    Raises:
        UsageError: as `check_replaceable`.
    """
    folder = Path(folder)
    check_replaceable(folder, flag)
    settings = dataclasses.asdict(config) | {
        "architectures": [architecture],
        "model_type": "electra",
        "hidden_act": "gelu",
        "pad_token_id": vocabulary.pad_id,
        "tie_word_embeddings": True,
    }
    settings |= head_settings or {}
    temporary = files.temporary_path(folder)
    files.remove_folder(temporary)
    try:
        temporary.mkdir(parents=True)
        save_file(tensors, temporary / WEIGHTS_NAME, metadata={"format": "pt"})
        files.write_json(temporary / CONFIG_NAME, settings)
        vocabulary.save(temporary / "vocab.txt")
        if model_card:
            files.write_text(temporary / MODEL_CARD_NAME, model_card)
        files.replace_folder(temporary, folder)
    finally:
        files.remove_folder(temporary)


def check_replaceable(
    folder: str | Path, flag: str, *, kind: str = "exported model", written: Sequence[str] = _WRITTEN
) -> None:
    """See that nothing is lost with a folder that an export is to replace.

    Args:
        flag: names the folder in the message, without dashes.
        kind: what the export is, for the message.
        written: patterns of all that it writes, relative to the folder; the first is what it is known by.

    Raises:
        UsageError: the folder holds something, and no export, or more than one; or somebody works in it.
    """
    folder = Path(folder)
    if Path.cwd().is_relative_to(folder.resolve()):
        raise UsageError(
            f"--{flag} {folder}: the working directory cannot be replaced, nor one above it; name another "
            "folder"
        )
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / written[0]).exists()):
        raise UsageError(f"--{flag} {folder}: is there already and is no {kind}")
    # A checkpoint of another program's training lies in such a folder beside much that cannot be made again.
    names = (entry.relative_to(folder).as_posix() for entry in folder.rglob("*"))
    others = [name for name in names if not any(fnmatchcase(name, pattern) for pattern in written)]
    if others:
        raise UsageError(
            f"--{flag} {folder}: is not replaced, because it holds {min(others)!r}, which no export writes"
        )


def write_question_answering(
    folder: str | Path,
    config: ElectraConfig,
    model: Mapping[str, np.ndarray],
    vocabulary: Vocabulary,
    head_settings: dict,
    model_card: str = "",
) -> None:
    """Write a fine-tuned encoder with its span head: the plain one as Hugging Face's, the joint one as ours.

    Args:
        model: variables by our names, electra/… and qa_outputs/… or squad_head/….
        head_settings: kept in config.json under `squad_head`.
        model_card: text of README.md.

    Raises:
        UsageError: as `write_folder`.
    """
    write_folder(
        folder,
        architecture_name(model),
        config,
        electra_weights.to_huggingface(model),
        vocabulary,
        head_settings={"squad_head": head_settings},
        model_card=model_card,
    )


def write_classifier(
    folder: str | Path,
    config: ElectraConfig,
    model: Mapping[str, np.ndarray],
    vocabulary: Vocabulary,
    labels: Sequence[str],
    problem_type: str | None,
    model_card: str = "",
) -> None:
    """Write a fine-tuned encoder that labels sequences or tokens, as Hugging Face's.

    Args:
        model: variables by our names, electra/… and classifier/….
        labels: words in the order of the outputs.
        problem_type: Hugging Face's, single_label_classification or regression; None for tokens.
        model_card: text of README.md.

    Raises:
        UsageError: as `write_folder`.
    """
    settings: dict[str, object] = {
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }
    if problem_type is not None:
        settings["problem_type"] = problem_type
    write_folder(
        folder,
        architecture_name(model),
        config,
        electra_weights.to_huggingface(model),
        vocabulary,
        head_settings=settings,
        model_card=model_card,
    )


def write_network(folder: str | Path, network: PretrainedModel, flag: str, model_card: str = "") -> list[str]:
    """Write a network that was read from anywhere; returns the names of weights that are left out.

    Raises:
        UsageError: it has no vocabulary, or the folder holds something else.
    """
    if network.vocabulary is None:
        raise UsageError(
            f"--{network.flag} {network.source}: has no vocab.txt, which an exported folder needs; put it "
            "there"
        )
    kept = {name: tensor for name, tensor in network.tensors.items() if name.startswith(_EXPORTED)}
    has_head = any(not name.startswith(electra_weights.ENCODER_PREFIXES) for name in kept)
    settings = network.settings if has_head else {}
    write_folder(
        folder,
        architecture_name(kept),
        network.config,
        electra_weights.to_huggingface(kept),
        network.vocabulary,
        head_settings={name: settings[name] for name in _HEAD_SETTINGS if name in settings},
        model_card=model_card,
        flag=flag,
    )
    return sorted(network.shown(name) for name in network.tensors.keys() - kept.keys())


# ---------------------------------------------------------------------------------------------------- in


def read_initial_weights(
    name: str,
    variables: Mapping[str, tuple[int, ...]],
    discriminator: ElectraConfig,
    generator: ElectraConfig,
    vocabulary: Vocabulary,
) -> InitialWeights:
    """Weights to start a pre-training run from.

    Args:
        name: of any source that pretrained_models.py reads. A discriminator and a generator go to the run's;
            a BERT's encoder and embeddings start both networks.
        variables: the run's variables and their shapes.
        discriminator, generator: the run's architectures.

    Raises:
        UsageError: no such source, another vocabulary, an architecture or a shape that differs.
    """
    result = InitialWeights({})
    for network in pretrained_models.load_networks(name, _FLAG):
        _check_vocabulary(network, vocabulary)
        result.remarks += network.remarks
        _add_network(network, variables, discriminator, generator, result)
    result.missing = sorted(variables.keys() - result.tensors.keys())
    _remark_on_missing_network(result, variables)
    return result


def _add_network(
    network: PretrainedModel,
    variables: Mapping[str, tuple[int, ...]],
    discriminator: ElectraConfig,
    generator: ElectraConfig,
    result: InitialWeights,
) -> None:
    """Add one network's weights to `result`."""
    label = Path(network.source).name
    own_encoder = any(name.startswith("generator/encoder/") for name in variables)
    places: dict[str, str] = {}
    if network.is_masked_lm:
        _check_architecture(network, generator if own_encoder else discriminator, "generator")
        places = _masked_lm_places(variables)
    else:
        _check_architecture(network, discriminator, "discriminator")
        places = {name: name for name in variables if name.startswith(("electra/", DISCRIMINATOR_HEAD))}
    if network.settings.get("model_type") == "bert" and own_encoder:
        if _differences(network.config, generator):
            result.remarks.append("the generator is narrower than these weights and starts from random ones")
        else:
            places |= _masked_lm_places(variables)
    used, kept = set(), []
    for name, source in places.items():
        if source not in network.tensors:
            continue
        used.add(source)
        tensor = network.tensors[source]
        if tensor.shape != tuple(variables[name]):
            raise UsageError(
                f"--{_FLAG} {network.source}: {network.shown(source)} is {tensor.shape}, "
                f"the run's {name} is {tuple(variables[name])}"
            )
        if name not in result.tensors:
            result.tensors[name] = tensor
        elif not np.array_equal(result.tensors[name], tensor):
            kept.append(network.shown(source))
    if kept:
        result.remarks.append(
            f"{len(kept)} weights of {label} that both networks share differ from the discriminator's, which "
            f"are taken; first {kept[0]}"
        )
    unused = network.tensors.keys() - used
    result.unused += sorted(f"{label}: {network.shown(name)}" for name in unused)


def _masked_lm_places(variables: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """The run's variables that a masked language model gives values to, and its names of them.

    Its embeddings go to the discriminator's too where the run's networks share them.
    """
    places = {name: name for name in variables if name.startswith(MASKED_LM_HEAD)}
    for part in ("embeddings/", "embeddings_project/", "encoder/"):
        own = [name for name in variables if name.startswith(f"generator/{part}")]
        shared = [name for name in variables if name.startswith(f"electra/{part}")]
        places |= {name: name.replace("generator/", "electra/", 1) for name in own or shared}
    return places


def _check_vocabulary(network: PretrainedModel, vocabulary: Vocabulary) -> None:
    if network.vocabulary is not None and network.vocabulary.sha256 != vocabulary.sha256:
        raise UsageError(
            f"--{_FLAG} {network.source}: its vocab.txt is not the vocabulary of the training data"
        )


def _differences(config: ElectraConfig, run: ElectraConfig) -> list[str]:
    """Fields that decide on shapes or on what the weights mean, and differ."""
    names = ("vocab_size", "embedding_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    names += ("intermediate_size", "max_position_embeddings", "type_vocab_size")
    return [name for name in names if getattr(config, name) != getattr(run, name)]


def _check_architecture(network: PretrainedModel, run: ElectraConfig, part: str) -> None:
    differing = _differences(network.config, run)
    if differing:
        weights = ", ".join(f"{name} {getattr(network.config, name)}" for name in differing)
        ours = ", ".join(str(getattr(run, name)) for name in differing)
        raise UsageError(
            f"--{_FLAG} {network.source}: these weights have {weights}; this run's {part} has {ours}"
        )


def _remark_on_missing_network(result: InitialWeights, variables: Mapping[str, tuple[int, ...]]) -> None:
    consequences = {
        "electra/encoder/": "no weights for the discriminator's encoder: it starts from random ones, and "
        "meets a trained generator's replacements, which are hard to tell, from the first update",
        "generator/encoder/": "no weights for the generator's encoder: it starts from random ones, its "
        "replacements are easy to tell at first, and the discriminator loses some of what it knows until the "
        "generator has caught up",
    }
    for prefix, consequence in consequences.items():
        expected = [name for name in variables if name.startswith(prefix)]
        if expected and not any(name in result.tensors for name in expected):
            result.remarks.append(consequence)
