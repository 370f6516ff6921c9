"""Pre-trained weights by whatever name a user gives them: found, read, checked.

A name is a folder of Hugging Face's form (an export of ours is one), a folder of two in discriminator/ and
generator/, a training checkpoint or run of ours, a TensorFlow 1 checkpoint of Google's, or a model's name on
the Hugging Face hub. Whatever it is, the result is networks by themselves, with the encoder under `electra`.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import checkpointing
import electra_weights
import google_checkpoints
import huggingface_folders
from architecture import MODEL_SIZES, ElectraConfig
from checkpointing import CorruptCheckpoint
from command_line import UsageError
from electra_weights import CLASSIFIER, Tensors
from huggingface_folders import CONFIG_NAME
from tokenization import SPECIAL_PIECES, Vocabulary, load_vocabulary, options_path

NETWORKS = ("discriminator", "generator")
_VOCABULARY_NAME = "vocab.txt"
_TOKENIZER_NAME = "tokenizer.json"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FILES = [CONFIG_NAME, _VOCABULARY_NAME, _TOKENIZER_NAME, "tokenizer_config.json"]
_HUB_FILES += ["model*.safetensors", "model.safetensors.index.json"]
_HUB_PICKLES = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]


@dataclass(frozen=True)
class PretrainedModel:
    """One network's weights, which have been seen to be a whole encoder of this architecture.

    Attributes:
        source: where they come from, for messages.
        tensors: float32 by our names: electra/…, and a head's (discriminator_predictions/…,
            generator_predictions/…, qa_outputs/…, squad_head/…), and whatever else was there.
        vocabulary: None where none lies beside the weights. The word table has as many rows.
        settings: config.json as read; {} for weights that have none.
        flag: that named the source, without dashes, for messages.
        remarks: what the user should know, a sentence each.
    """

    source: str
    config: ElectraConfig
    tensors: Tensors
    vocabulary: Vocabulary | None
    settings: dict
    flag: str
    remarks: tuple[str, ...] = ()

    @property
    def is_masked_lm(self) -> bool:
        """Whether this is a generator, or another masked language model."""
        return any(name.startswith(electra_weights.MASKED_LM_HEAD) for name in self.tensors)

    def shown(self, name: str) -> str:
        """A weight's name as its source has it."""
        return electra_weights.huggingface_name(name) if self.settings else name


@dataclass(frozen=True)
class Source:
    """What a name stands for: `kind` is folder, pair, run, google or hub."""

    kind: str
    path: Path


def load_pretrained(name: str, flag: str) -> PretrainedModel:
    """One network to fine-tune or to ask: the discriminator where the source holds both.

    Args:
        name: see the top of this file.
        flag: the flag that gives the name, without dashes, for messages.

    Raises:
        UsageError: nothing there, or not the weights of an ELECTRA or BERT, or damaged, or incomplete.
    """
    return load_networks(name, flag)[0]


def load_model(
    electra_model: str, init_checkpoint: str = "", vocab_file: str = "", do_lower_case: bool | None = None
) -> PretrainedModel:
    """The weights that the flags name, with their vocabulary.

    Raises:
        UsageError: no such weights, no vocabulary, or not theirs.
    """
    if init_checkpoint:
        model = load_pretrained(init_checkpoint, "init_checkpoint")
    elif electra_model in MODEL_SIZES and not Path(electra_model).exists():
        model = _random_model(electra_model, vocab_file)
    else:
        model = load_pretrained(electra_model, "electra_model")
    vocabulary = model.vocabulary
    if vocab_file:
        vocabulary = load_vocabulary(vocab_file)
    if vocabulary is None:
        raise UsageError(f"--vocab_file: none given, and no vocabulary beside {model.source}")
    if vocabulary.size != model.config.vocab_size:
        raise UsageError(
            f"--vocab_file {vocab_file}: {vocabulary.size} pieces; the word table of {model.source} has "
            f"{model.config.vocab_size} rows"
        )
    if vocab_file and model.vocabulary is not None and model.vocabulary.sha256 != vocabulary.sha256:
        raise UsageError(f"--vocab_file {vocab_file}: is not the vocabulary of {model.source}")
    if vocab_file and model.vocabulary is not None and not options_path(vocab_file).exists():
        # A copy of the pieces alone: how their text is normalised is known from the weights' folder.
        vocabulary = model.vocabulary
    if do_lower_case is not None:
        vocabulary = dataclasses.replace(vocabulary, do_lower_case=do_lower_case)
    return dataclasses.replace(model, vocabulary=vocabulary)


def load_networks(name: str, flag: str) -> list[PretrainedModel]:
    """Every network of a source, the discriminator first: one or two.

    Raises:
        UsageError: as for `load_pretrained`.
    """
    source = find_source(name, flag)
    if source.kind == "pair":
        return [network for path in _pair(source.path) for network in _read_folder(path, str(path), flag)]
    if source.kind == "hub":
        return list(_read_folder(_download(name, flag), name, flag))
    if source.kind == "folder":
        return list(_read_folder(source.path, name, flag))
    return list({"run": _read_run, "google": _read_google}[source.kind](source.path, flag))


def assign_weights(
    variables: Mapping, source: PretrainedModel, head_prefix: str
) -> tuple[list[str], list[str]]:
    """Give the variables of a network with a head the weights of its source.

    Args:
        variables: by our names.
        head_prefix: what the names of the head's begin with.

    Returns:
        Names of weights that the source lacks, all of the head, and of those that have no place here.

    Raises:
        UsageError: a weight of the encoder is missing, or a shape differs.
    """
    missing = [name for name in variables if name not in source.tensors]
    of_encoder = [name for name in missing if not name.startswith(head_prefix)]
    if of_encoder and source.tensors:
        raise UsageError(
            f"--{source.flag} {source.source}: lacks {len(of_encoder)} weights of the encoder, "
            f"first {of_encoder[0]}"
        )
    for name, variable in variables.items():
        if name not in source.tensors:
            continue
        tensor = source.tensors[name]
        if tuple(tensor.shape) != tuple(variable.shape):
            raise UsageError(
                f"--{source.flag} {source.source}: {name} is {tensor.shape}, not {tuple(variable.shape)}"
            )
        variable.assign(tensor)
    return missing, sorted(source.tensors.keys() - variables.keys())


def find_source(name: str, flag: str) -> Source:
    """What a name stands for, by the files that are there: nothing is read or downloaded.

    Raises:
        UsageError: nothing of the kinds that can be read.
    """
    path = Path(name)
    if path.is_dir():
        return _source_in(path, flag)
    prefix = path.with_name(re.sub(r"\.(index|data-\d+-of-\d+)$", "", path.name))
    if prefix.with_name(f"{prefix.name}.index").is_file():
        return Source("google", prefix)
    # A path whose folder is there is a mistyped path, not a name on the hub.
    if _HUB_NAME.fullmatch(name) and not path.exists() and not path.parent.is_dir():
        return Source("hub", path)
    raise UsageError(
        f"--{flag} {name}: no such folder, TensorFlow checkpoint or name on the hub (owner/model)"
    )


def _random_model(size: str, vocab_file: str) -> PretrainedModel:
    if not vocab_file:
        raise UsageError(f"--electra_model {size}: random weights need a --vocab_file")
    vocabulary = load_vocabulary(vocab_file)
    config = ElectraConfig(vocab_size=vocabulary.size, **MODEL_SIZES[size])
    return PretrainedModel(f"{size} (random weights)", config, {}, vocabulary, {}, "electra_model")


def _source_in(folder: Path, flag: str) -> Source:
    if _pair(folder):
        return Source("pair", folder)
    if (folder / CONFIG_NAME).exists():
        return Source("folder", folder)
    try:
        return Source("run", checkpointing.newest_path(folder))
    except UsageError:
        prefix = google_checkpoints.find_prefix(folder, flag)
    if prefix is None:
        raise UsageError(
            f"--{flag} {folder}: holds no {CONFIG_NAME}, no checkpoint of a run and no TensorFlow checkpoint"
        )
    return Source("google", prefix)


def _pair(folder: Path) -> list[Path]:
    return [folder / network for network in NETWORKS if (folder / network / CONFIG_NAME).exists()]


# ----------------------------------------------------------------------------------------------- readers


def _read_folder(folder: Path, name: str, flag: str) -> Iterator[PretrainedModel]:
    read = huggingface_folders.read_folder(folder, flag)
    vocabulary = _vocabulary_in(folder, flag)
    network = PretrainedModel(name, read.config, read.tensors, vocabulary, read.settings, flag)
    yield _checked(_without_foreign_head(network))


def _without_foreign_head(network: PretrainedModel) -> PretrainedModel:
    """Cut a head of one layer that has the name of ELECTRA's head for tokens and is another one.

    BERT's for sequences and ELECTRA's for multiple choice are such; what the weights are for, only
    config.json says.
    """
    head = [name for name in network.tensors if re.fullmatch(f"{CLASSIFIER}(kernel|bias)", name)]
    kinds = network.settings.get("architectures") or []
    # Exports of old versions of transformers name no class; a BERT of theirs may have either head.
    is_of_tokens = any(str(kind).endswith("ForTokenClassification") for kind in kinds)
    if not head or is_of_tokens or (not kinds and network.settings["model_type"] == "electra"):
        return network
    kind = ", ".join(map(str, kinds)) or "a BERT of unknown kind"
    return dataclasses.replace(
        network,
        tensors={name: tensor for name, tensor in network.tensors.items() if name not in head},
        remarks=(*network.remarks, f"the classifier of {kind} is none of ELECTRA's heads and is left out"),
    )


def _read_run(path: Path, flag: str) -> Iterator[PretrainedModel]:
    try:
        checkpoint = checkpointing.load(path)
    except CorruptCheckpoint as error:
        raise UsageError(f"--{flag} {error}") from None
    configs = {network: checkpoint.state.get(network) for network in NETWORKS}
    if configs["discriminator"] is None:
        raise UsageError(f"--{flag} {path}: a checkpoint that records no architecture")
    if not any(tensor.startswith("generator/encoder/") for tensor in checkpoint.model):
        configs["generator"] = configs["discriminator"]
    vocabulary = _vocabulary_in(path, flag)
    for network, tensors in _networks(checkpoint.model).items():
        config = ElectraConfig(**configs[network])
        yield _checked(PretrainedModel(str(path), config, tensors, vocabulary, {}, flag))


def _read_google(prefix: Path, flag: str) -> Iterator[PretrainedModel]:
    model = google_checkpoints.read_checkpoint(prefix, flag)
    vocabulary = _vocabulary_in(prefix.parent, flag)
    for tensors in _networks(model).values():
        try:
            config = google_checkpoints.infer_config(tensors)
        except (ValueError, UsageError) as error:
            raise UsageError(f"--{flag} {prefix}: {error}") from None
        yield _checked(PretrainedModel(str(prefix), config, tensors, vocabulary, {}, flag))


def _networks(model: Tensors) -> dict[str, Tensors]:
    """The networks of a joint model; what belongs to neither is the discriminator's, for others to name."""
    generator = electra_weights.generator_network(model)
    of_generator = ("generator/", electra_weights.MASKED_LM_HEAD)
    discriminator = {name: tensor for name, tensor in model.items() if not name.startswith(of_generator)}
    if generator and not any(name.startswith("electra/encoder/") for name in discriminator):
        return {"generator": generator}
    networks = {"discriminator": discriminator, "generator": generator}
    return {network: tensors for network, tensors in networks.items() if tensors}


def _download(name: str, flag: str) -> Path:
    """The folder of a model's files in the hub's cache, brought there if they are not there yet.

    HF_HUB_OFFLINE, HF_ENDPOINT and HF_HOME mean what they mean to huggingface_hub.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UsageError(f"--{flag} {name}: no such folder; names on the hub need huggingface_hub") from None
    try:
        folder = Path(snapshot_download(name, allow_patterns=_HUB_FILES))
        if not any(folder.glob("model*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=_HUB_FILES + _HUB_PICKLES))
    except Exception as error:  # the library passes on the errors of the HTTP library that it is built on
        reason = " ".join(str(error).split())
        raise UsageError(
            f"--{flag} {name}: no such folder, and not on the hub or not within reach "
            f"({type(error).__name__}: {reason})"
        ) from None
    return folder


# ---------------------------------------------------------------------------------------------- checking


def _checked(network: PretrainedModel) -> PretrainedModel:
    """The network without rows of padding in its word table, once its encoder is seen to be whole."""
    where = f"--{network.flag} {network.source}"
    shapes = electra_weights.encoder_shapes(network.config)
    for name, shape in shapes.items():
        if name in network.tensors and network.tensors[name].shape != shape:
            raise UsageError(
                f"{where}: {network.shown(name)} is {network.tensors[name].shape} in our layout, "
                f"where the architecture has {shape}"
            )
    missing = [network.shown(name) for name in shapes if name not in network.tensors]
    if missing:
        raise UsageError(f"{where}: lacks {len(missing)} weights of the encoder, first {missing[0]}")
    return _without_padding(network, where)


def _without_padding(network: PretrainedModel, where: str) -> PretrainedModel:
    """Cut the rows of the word table that no piece stands for; NVIDIA pads it to a multiple of 8 or 64."""
    if network.vocabulary is None or network.vocabulary.size == network.config.vocab_size:
        return network
    pieces, rows = network.vocabulary.size, network.config.vocab_size
    if pieces > rows:
        raise UsageError(f"{where}: its vocabulary has {pieces} pieces, its word table {rows} rows")
    tables = (electra_weights.WORD_TABLE, electra_weights.OUTPUT_BIAS)
    cut = {name: network.tensors[name][:pieces] for name in tables if name in network.tensors}
    return dataclasses.replace(
        network,
        config=dataclasses.replace(network.config, vocab_size=pieces),
        tensors=network.tensors | cut,
        remarks=(
            *network.remarks,
            f"word table cut from {rows} rows to the {pieces} pieces of the vocabulary",
        ),
    )


# -------------------------------------------------------------------------------------------- vocabulary


def _vocabulary_in(folder: Path, flag: str) -> Vocabulary | None:
    """From vocab.txt, else from tokenizer.json, which alone is there since version 5 of transformers."""
    path = folder / _VOCABULARY_NAME
    if not path.exists():
        tokenizer = folder / _TOKENIZER_NAME
        return _vocabulary_of_tokenizer(tokenizer, flag) if tokenizer.exists() else None
    vocabulary = load_vocabulary(path, flag=flag)
    if options_path(path).exists():
        return vocabulary
    # Google's releases have no record of casing; pieces with capital letters tell.
    cased = any(piece != piece.lower() for piece in vocabulary.pieces if not piece.startswith("["))
    return dataclasses.replace(vocabulary, do_lower_case=not cased)


def _vocabulary_of_tokenizer(path: Path, flag: str) -> Vocabulary:
    where = f"--{flag} {path.parent}"
    content = huggingface_folders.read_json_object(where, path)
    model, normalizer = content.get("model") or {}, content.get("normalizer") or {}
    ids = model.get("vocab")
    if model.get("type") != "WordPiece" or not isinstance(ids, dict):
        raise UsageError(f"{where}: {path.name} holds no WordPiece vocabulary")
    pieces = sorted(ids, key=ids.get)
    missing = [piece for piece in SPECIAL_PIECES if piece not in ids]
    if missing or [ids[piece] for piece in pieces] != list(range(len(pieces))):
        raise UsageError(f"{where}: {path.name} lacks {', '.join(missing) or 'some ids'}")
    return Vocabulary(
        tuple(pieces),
        do_lower_case=bool(normalizer.get("lowercase", True)),
        strip_accents=normalizer.get("strip_accents"),
    )
