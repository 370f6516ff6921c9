"""What every fine-tuning run reads and where it starts, found and checked before the network is built.

Weights, vocabulary and checkpoints; squad_inputs.py and glue_inputs.py add the task's data and its head.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import checkpointing
import weight_conversion
from architecture import ElectraConfig
from batching import BatchShape
from checkpointing import Checkpoint
from command_line import UsageError
from configuration import global_batch_of_flags, keep_global_batch_size
from finetuning_configuration import FineTuningConfig
from pretrained_models import PretrainedModel, load_model
from tokenization import Vocabulary, load_vocabulary
from workers import Workers

CHECKPOINT_PREFIX = "ckpt-"
# Settings that change what is being trained or the order of what it sees.
_MEANING = (
    "seed",
    "max_seq_length",
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "warmup_proportion",
    "weight_decay_rate",
    "layerwise_lr_decay",
)
# Of an architecture, what changes no prediction.
_ONLY_TRAINING = ("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range")


def open_model(config: FineTuningConfig) -> PretrainedModel:
    """The weights that a run's flags name, with the dropout that they ask for.

    Raises:
        UsageError: as `load_model`, or windows that are longer than the position table.
    """
    model = load_model(config.electra_model, config.init_checkpoint, config.vocab_file, config.do_lower_case)
    positions = model.config.max_position_embeddings
    if config.max_seq_length > positions:
        raise UsageError(
            f"--max_seq_length {config.max_seq_length}: is longer than the position table of {model.source} "
            f"({positions} rows)"
        )
    return dataclasses.replace(model, config=_with_dropout(model.config, config))


def check_output_dir(config: FineTuningConfig) -> None:
    """See that the folder can be one, and that a new training does not start in that of another.

    Raises:
        UsageError: a file of that name; a run that is there already; or something in the place of the model
            that training writes at its end.
    """
    if Path(config.output_dir).exists() and not Path(config.output_dir).is_dir():
        raise UsageError(f"--output_dir {config.output_dir}: is no folder")
    found = checkpointing.list_checkpoints(config.checkpoints_folder, CHECKPOINT_PREFIX)
    if found and config.do_train and not config.restore_checkpoint:
        raise UsageError(
            f"--output_dir {config.output_dir}: holds a run already ({found[-1][1].name}); give "
            "--restore_checkpoint to go on with it, or another folder"
        )
    if config.do_train:
        weight_conversion.check_replaceable(config.model_folder, "output_dir")


@dataclass(frozen=True)
class Start:
    """Where a run starts.

    Attributes:
        step: updates done already.
        checkpoint: to restore, on worker 0 alone; None for the pre-trained weights.
        batch_of_flags: the global batch that the flags would make with this number of workers.
    """

    step: int = 0
    checkpoint: Checkpoint | None = None
    batch_of_flags: int = 0


def find_start(
    config: FineTuningConfig,
    workers: Workers,
    *,
    meaning: Callable[[], Mapping[str, object]],
    predicting: Mapping[str, object],
    knows_task: bool,
) -> Start:
    """The training checkpoint to go on from; worker 0 alone reads it.

    A run of another number of workers than the checkpoint's keeps its global batch: config.global_batch_size
    is set to it.

    Args:
        meaning: what must be equal for a restart to go on with the same training, by name.
        predicting: what must be equal for a checkpoint's weights to predict what they were trained to.
        knows_task: whether the weights that the flags name can predict without any training.

    Raises:
        UsageError: none at that path, other settings than the checkpoint's.
    """
    checkpoint, of_flags = None, global_batch_of_flags(config, workers.size)

    def find() -> list:
        nonlocal checkpoint
        checkpoint = _find_checkpoint(config, knows_task)
        if checkpoint is None:
            return [0, 0]
        if not config.do_train:
            _check_predicting(checkpoint, predicting, allow_change=config.allow_config_change)
            return [checkpoint.step, 0]
        kept = checkpointing.kept_batch(checkpoint, workers.size, config.global_batch_size, of_flags)
        keep_global_batch_size(config, kept)
        checkpointing.check_meaning(checkpoint, dict(meaning()), allow_change=config.allow_config_change)
        return [checkpoint.step, kept]

    step, kept = workers.share(find)
    keep_global_batch_size(config, kept)
    return Start(step, checkpoint, of_flags)


def _find_checkpoint(config: FineTuningConfig, knows_task: bool) -> Checkpoint | None:
    folder, checkpoint = config.checkpoints_folder, None
    if config.restore_checkpoint == "latest":
        checkpoint = checkpointing.load_newest(folder, CHECKPOINT_PREFIX)
    elif config.restore_checkpoint:
        checkpoint = checkpointing.load_given(config.restore_checkpoint)
    if checkpoint is None and not config.do_train and not knows_task:
        raise UsageError(f"--restore_checkpoint: {folder} holds no checkpoint to predict with")
    return checkpoint


def batch_shape(config: FineTuningConfig, workers: Workers) -> BatchShape:
    """How an update's sequences are divided among micro-batches and workers."""
    return BatchShape(
        config.train_batch_size, config.accumulation_steps(workers.size), workers.size, workers.rank
    )


def shared_meaning(config: FineTuningConfig, model: PretrainedModel, workers: Workers) -> dict:
    """The part of a training's meaning that all tasks have, by name."""
    values = dataclasses.asdict(model.config)
    values["vocabulary_sha256"] = model.vocabulary.sha256
    values |= {name: getattr(config, name) for name in _MEANING}
    values["global_batch_size"] = batch_shape(config, workers).global_batch_size
    return values


def shared_predicting(model: PretrainedModel) -> dict:
    """The part of what a checkpoint's predictions rest on that all tasks have, by name."""
    values = dataclasses.asdict(model.config)
    for name in _ONLY_TRAINING:
        del values[name]
    return values | {"vocabulary_sha256": model.vocabulary.sha256} | _normalisation(model.vocabulary)


def _check_predicting(checkpoint: Checkpoint, now: Mapping, *, allow_change: bool) -> None:
    """See that what a checkpoint was trained on is what its weights are to predict.

    Raises:
        UsageError: names what differs, unless a change is allowed.
    """
    path = checkpoint.path / "vocab.txt"
    # How text is normalised stands beside the vocabulary alone.
    beside = _normalisation(load_vocabulary(path, flag="restore_checkpoint")) if path.exists() else {}
    checkpointing.check_meaning(checkpoint, dict(now), allow_change=allow_change, before_recorded=beside)


def _normalisation(vocabulary: Vocabulary) -> dict[str, bool]:
    """What becomes of a text before it is split, by name."""
    lower, strip = vocabulary.do_lower_case, vocabulary.strip_accents
    return {"do_lower_case": lower, "strip_accents": lower if strip is None else strip}


def _with_dropout(architecture: ElectraConfig, config: FineTuningConfig) -> ElectraConfig:
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    return dataclasses.replace(architecture, **given)
