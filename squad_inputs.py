"""What a SQuAD run reads and where it starts, found and checked before the network is built.

Weights, vocabulary, questions and checkpoints: every mistake in the flags that can be seen from files ends
here with one line.
"""

import dataclasses
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import checkpointing
from architecture import MODEL_SIZES, ElectraConfig
from batching import BatchShape
from checkpointing import Checkpoint
from command_line import UsageError
from configuration import keep_global_batch_size
from pretrained_models import PretrainedModel, load_pretrained
from squad_configuration import SquadConfig
from squad_data import iterate_questions
from squad_features import FeatureRule, Features, build_features, load_features
from tokenization import Vocabulary, load_vocabulary
from workers import Workers

CHECKPOINT_PREFIX = "ckpt-"
PLAIN_HEAD, JOINT_HEAD = "qa_outputs/", "squad_head/"
# Settings that change what is being trained or the order of what it sees.
_MEANING = (
    "seed",
    "joint_head",
    "joint_head_variant",
    "version_2_with_negative",
    "max_seq_length",
    "doc_stride",
    "max_query_length",
    "max_questions",
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "warmup_proportion",
    "weight_decay_rate",
    "layerwise_lr_decay",
)


@dataclass(frozen=True)
class Head:
    """Which head answers: joint or plain, and the joint one's form."""

    joint: bool
    variant: str

    @property
    def prefix(self) -> str:
        """What its weights' names begin with."""
        return JOINT_HEAD if self.joint else PLAIN_HEAD


@dataclass(frozen=True)
class SquadInputs:
    """Weights, vocabulary and questions; `training` and `prediction` only where they are asked for."""

    model: PretrainedModel
    head: Head
    vocabulary: Vocabulary
    training: Features | None
    prediction: Features | None

    def fingerprints(self) -> dict[str, str]:
        """Checksums of what was read, by flag."""
        read = {"electra_model": json.dumps(dataclasses.asdict(self.model.config))}
        for flag, features in (("train_file", self.training), ("predict_file", self.prediction)):
            if features is not None:
                read[flag] = features.fingerprint()
        return read


def open_inputs(config: SquadConfig) -> SquadInputs:
    """Find weights, vocabulary and questions and see that they fit together and to the flags.

    Raises:
        UsageError: something is missing or does not fit.
    """
    rule = FeatureRule(config.max_seq_length, config.doc_stride, config.max_query_length)
    model = load_model(config.electra_model, config.init_checkpoint, config.vocab_file, config.do_lower_case)
    model = dataclasses.replace(model, config=_with_dropout(model.config, config))
    positions = model.config.max_position_embeddings
    if config.max_seq_length > positions:
        raise UsageError(
            f"--max_seq_length {config.max_seq_length}: is longer than the position table of {model.source} "
            f"({positions} rows)"
        )
    head = choose_head(model, Head(config.joint_head, config.joint_head_variant), keep=not config.do_train)
    if not config.do_train and not config.restore_checkpoint and not has_head(model, head):
        raise UsageError(
            f"--do_predict: {model.source} has no head that answers questions; fine-tune with --do_train, or "
            "give --init_checkpoint"
        )
    return SquadInputs(
        model,
        head,
        model.vocabulary,
        _features(config, "train", rule, model.vocabulary) if config.do_train else None,
        _features(config, "dev", rule, model.vocabulary) if config.do_predict else None,
    )


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
    if do_lower_case is not None:
        vocabulary = dataclasses.replace(vocabulary, do_lower_case=do_lower_case)
    return dataclasses.replace(model, vocabulary=vocabulary)


def choose_head(model: PretrainedModel, wanted: Head, *, keep: bool) -> Head:
    """The head to build: with `keep` the one that the weights have, where they have one, else the wanted."""
    if not keep:
        return wanted
    if any(name.startswith(JOINT_HEAD) for name in model.tensors):
        # In XLNet's form alone is the end's hidden layer normalised.
        is_xlnet = f"{JOINT_HEAD}end_hidden/LayerNorm/gamma" in model.tensors
        return Head(True, "xlnet" if is_xlnet else "google")
    if any(name.startswith(PLAIN_HEAD) for name in model.tensors):
        return Head(False, wanted.variant)
    return wanted


def has_head(model: PretrainedModel, head: Head) -> bool:
    """Whether the weights hold this head."""
    return any(name.startswith(head.prefix) for name in model.tensors)


def check_output_dir(config: SquadConfig) -> None:
    """See that the folder can be one, and that a new training does not start in that of another.

    Raises:
        UsageError: a file of that name, or a run that is there already.
    """
    if Path(config.output_dir).exists() and not Path(config.output_dir).is_dir():
        raise UsageError(f"--output_dir {config.output_dir}: is no folder")
    found = checkpointing.list_checkpoints(config.checkpoints_folder, CHECKPOINT_PREFIX)
    if found and config.do_train and not config.restore_checkpoint:
        raise UsageError(
            f"--output_dir {config.output_dir}: holds a run already ({found[-1][1].name}); give "
            "--restore_checkpoint to go on with it, or another folder"
        )


@dataclass(frozen=True)
class Start:
    """Where a run starts.

    Attributes:
        step: updates done already.
        checkpoint: to restore, on worker 0 alone; None for the pre-trained weights.
    """

    step: int = 0
    checkpoint: Checkpoint | None = None


def find_start(config: SquadConfig, inputs: SquadInputs, workers: Workers) -> Start:
    """The training checkpoint to go on from; worker 0 alone reads it.

    A run of another number of workers than the checkpoint's keeps its global batch: config.global_batch_size
    is set to it.

    Raises:
        UsageError: none at that path, other settings than the checkpoint's.
    """
    checkpoint = None

    def find() -> list:
        nonlocal checkpoint
        checkpoint = _find_checkpoint(config, inputs)
        if checkpoint is None:
            return [0, 0]
        if not config.do_train:
            return [checkpoint.step, 0]
        kept = checkpointing.other_layout_batch(checkpoint, workers.size, config.global_batch_size)
        keep_global_batch_size(config, kept)
        now = meaning(config, inputs, workers)
        checkpointing.check_meaning(checkpoint, now, allow_change=config.allow_config_change)
        return [checkpoint.step, kept]

    step, kept = workers.share(find)
    keep_global_batch_size(config, kept)
    return Start(step, checkpoint)


def _find_checkpoint(config: SquadConfig, inputs: SquadInputs) -> Checkpoint | None:
    folder, checkpoint = config.checkpoints_folder, None
    if config.restore_checkpoint == "latest":
        checkpoint = checkpointing.load_newest(folder, CHECKPOINT_PREFIX)
    elif config.restore_checkpoint:
        checkpoint = checkpointing.load_given(config.restore_checkpoint)
    if checkpoint is None and not config.do_train and not has_head(inputs.model, inputs.head):
        raise UsageError(f"--restore_checkpoint: {folder} holds no checkpoint to predict with")
    return checkpoint


def batch_shape(config: SquadConfig, workers: Workers) -> BatchShape:
    """How an update's windows are divided among micro-batches and workers."""
    return BatchShape(
        config.train_batch_size, config.accumulation_steps(workers.size), workers.size, workers.rank
    )


def meaning(config: SquadConfig, inputs: SquadInputs, workers: Workers) -> dict:
    """What must be equal for a restart to go on with the same training, by name."""
    values = dataclasses.asdict(inputs.model.config)
    values["vocabulary_sha256"] = inputs.vocabulary.sha256
    values |= {name: getattr(config, name) for name in _MEANING}
    values["global_batch_size"] = batch_shape(config, workers).global_batch_size
    values["training_windows"] = len(inputs.training)
    return values


def _features(config: SquadConfig, which: str, rule: FeatureRule, vocabulary: Vocabulary) -> Features:
    path = config.data_file(which)
    given = {"train": config.train_file, "dev": config.predict_file}[which]
    flag = {"train": "train_file", "dev": "predict_file"}[which] if given else "data_dir"
    version_2 = config.version_2_with_negative
    if config.max_questions:
        questions = itertools.islice(iterate_questions(path, flag, version_2), config.max_questions)
        features = build_features(questions, vocabulary, rule)
    else:
        cache = config.cache_dir or f"{config.output_dir}/cache"
        features = load_features(path, flag, vocabulary, rule, version_2, cache, config.skip_cache)
    if which == "train" and features.num_unusable:
        print(
            f"{path}: {features.num_unusable} questions cannot be trained on (--verbose_logging lists them)"
        )
        if config.verbose_logging:
            for question, reason in features.unusable():
                print(f"  {question}: {reason}")
    return features


def _random_model(size: str, vocab_file: str) -> PretrainedModel:
    if not vocab_file:
        raise UsageError(f"--electra_model {size}: random weights need a --vocab_file")
    vocabulary = load_vocabulary(vocab_file)
    config = ElectraConfig(vocab_size=vocabulary.size, **MODEL_SIZES[size])
    return PretrainedModel(f"{size} (random weights)", config, {}, vocabulary, {})


def _with_dropout(architecture: ElectraConfig, config: SquadConfig) -> ElectraConfig:
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    return dataclasses.replace(architecture, **given)
