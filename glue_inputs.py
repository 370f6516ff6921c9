"""What a run of run_tf_glue.py reads and where it starts, found and checked before the network is built.

Task, labels, examples and head are found here; weights, vocabulary and checkpoints in finetuning_inputs.py.
"""

import dataclasses
import functools
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

import finetuning_inputs
from command_line import UsageError, abridged
from electra_weights import CLASSIFIER, SEQUENCE_HEAD, TOKEN_HEAD
from finetuning_inputs import Start
from glue_configuration import GlueConfig
from glue_tasks import (
    CLASSIFICATION,
    REGRESSION,
    TAGGING,
    DataFile,
    GlueTask,
    Task,
    find_files,
    find_task,
    given_file,
)
from labelled_data import Columns, Example, Sentence, read_examples, read_sentences
from labelled_features import NO_LABEL, LabelledFeatures, build_features, build_tagged_features
from labelled_metrics import CLASSIFICATION_METRICS, REGRESSION_METRICS, TAGGING_METRICS
from pretrained_models import PretrainedModel
from workers import Workers

_OUTPUT_KERNEL, _OUTPUT_BIAS = "classifier/out_proj/kernel", "classifier/out_proj/bias"
_GENERIC_LABEL = re.compile(r"LABEL_\d+")
_METRICS = {
    CLASSIFICATION: CLASSIFICATION_METRICS,
    REGRESSION: REGRESSION_METRICS,
    TAGGING: TAGGING_METRICS,
}


@dataclass(frozen=True)
class LabelScale:
    """Regression is trained on (label - mean) / deviation, so that it does not depend on the labels' unit."""

    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def of(cls, labels: np.ndarray) -> "LabelScale":
        return cls(float(np.mean(labels)), float(np.std(labels)) or 1.0)

    def into_head(self, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The weights of a network whose output is the label itself."""
        return tensors | {
            _OUTPUT_KERNEL: np.float32(tensors[_OUTPUT_KERNEL] * self.deviation),
            _OUTPUT_BIAS: np.float32(tensors[_OUTPUT_BIAS] * self.deviation + self.mean),
        }

    def out_of_head(self, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The reverse of `into_head`."""
        return tensors | {
            _OUTPUT_KERNEL: np.float32(tensors[_OUTPUT_KERNEL] / self.deviation),
            _OUTPUT_BIAS: np.float32((tensors[_OUTPUT_BIAS] - self.mean) / self.deviation),
        }


@dataclass(frozen=True)
class DataSet:
    """The examples of a file that is to be predicted."""

    file: DataFile
    features: LabelledFeatures


@dataclass(frozen=True)
class GlueInputs:
    """Weights, task and examples; `training` is None and the other lists empty where they are not asked for.

    Attributes:
        task: with its labels known, but for regression.
        training_file: where `training` comes from.
    """

    model: PretrainedModel
    task: Task
    scale: LabelScale
    training: LabelledFeatures | None
    evaluation: list[DataSet]
    test: list[DataSet]
    training_file: DataFile | None

    @property
    def has_head(self) -> bool:
        """Whether the weights hold this task's head."""
        return any(name.startswith(CLASSIFIER) for name in self.model.tensors)

    @functools.cached_property
    def training_fingerprint(self) -> str:
        """SHA-256 of what is trained on: tokens, labels."""
        return _fingerprint([self.training])

    def fingerprints(self) -> dict[str, str]:
        """Checksums of what was read, by flag."""
        read = {"electra_model": json.dumps(dataclasses.asdict(self.model.config))}
        if self.training is not None:
            read["train_file"] = self.training_fingerprint
        for flag, sets in (("eval_file", self.evaluation), ("test_file", self.test)):
            read[flag] = _fingerprint([data.features for data in sets])
        return read


def open_inputs(config: GlueConfig) -> GlueInputs:
    """Find weights, task and examples and see that they fit together and to the flags.

    What the recipe says and no flag does is put into `config`.

    Raises:
        UsageError: something is missing or does not fit.
    """
    model = finetuning_inputs.open_model(config)
    glue_task = find_task(config.task) if config.task else None
    task = glue_task.task if glue_task else _own_task(config)
    wanted = {"train": config.do_train, "eval": config.do_eval, "test": config.do_predict}
    data = {
        which: _files(config, glue_task, which) if is_wanted else [] for which, is_wanted in wanted.items()
    }
    if task.kind != REGRESSION and task.labels is None:
        task = _with_own_labels(config, task, model, data["train"])
    _apply_recipe(config, task, model.config.hidden_size)
    model = _with_fitting_head(model, task, config)

    def features(file: DataFile, which: str) -> LabelledFeatures:
        return _features(config, task, model, file, which)

    training, training_file, scale = None, None, LabelScale()
    if config.do_train:
        (training_file,) = data["train"]
        training = features(training_file, "train")
        if task.kind == REGRESSION:
            scale = LabelScale.of(training.labels)
            training.labels = np.float32((training.labels - scale.mean) / scale.deviation)
            if _OUTPUT_KERNEL in model.tensors and model.settings:
                model = dataclasses.replace(model, tensors=scale.out_of_head(model.tensors))
    return GlueInputs(
        model,
        task,
        scale,
        training,
        [DataSet(file, features(file, "eval")) for file in data["eval"]],
        [DataSet(file, features(file, "test")) for file in data["test"]],
        training_file,
    )


def find_start(config: GlueConfig, inputs: GlueInputs, workers: Workers) -> Start:
    """The training checkpoint to go on from, as finetuning_inputs.find_start."""
    return finetuning_inputs.find_start(
        config,
        workers,
        meaning=lambda: meaning(config, inputs, workers),
        predicting=finetuning_inputs.shared_predicting(inputs.model) | _task_meaning(inputs),
        knows_task=inputs.has_head,
    )


def meaning(config: GlueConfig, inputs: GlueInputs, workers: Workers) -> dict:
    """What must be equal for a restart to go on with the same training, by name."""
    values = finetuning_inputs.shared_meaning(config, inputs.model, workers)
    return values | {
        **_task_meaning(inputs),
        "label_scale": list(dataclasses.astuple(inputs.scale)),
        "training_examples": len(inputs.training),
        "training_data": inputs.training_fingerprint,
    }


def _task_meaning(inputs: GlueInputs) -> dict:
    """What the outputs stand for."""
    return {"task": inputs.task.name, "labels": list(inputs.task.labels or ())}


# -------------------------------------------------------------------------------------------------- task


def _own_task(config: GlueConfig) -> Task:
    return Task(config.task_type, config.task_type, None, _METRICS[config.task_type])


def _files(config: GlueConfig, glue_task: GlueTask | None, which: str) -> list[DataFile]:
    flag = f"{which}_file"
    path = getattr(config, flag)
    if glue_task is not None and not path:
        return find_files(glue_task, config.data_dir, which)
    if glue_task is not None:
        file = given_file(glue_task, path, flag)
        return [dataclasses.replace(file, columns=_with_flags(file.columns, config))]
    is_tagging = config.task_type == TAGGING
    columns = _with_flags(Columns("" if is_tagging else "text", label="" if is_tagging else "label"), config)
    return [DataFile((path,), flag, columns)]


def _with_flags(columns: Columns, config: GlueConfig) -> Columns:
    given = {
        "text": config.text_column,
        "text_pair": config.text_pair_column,
        "label": config.label_column,
        "id": config.id_column,
    }
    return dataclasses.replace(columns, **{name: value for name, value in given.items() if value})


def _with_own_labels(
    config: GlueConfig, task: Task, model: PretrainedModel, training: list[DataFile]
) -> Task:
    """The task with the labels of the training file, numbers in their order and words in the alphabet's;
    without one with those that the fine-tuned weights record."""
    if not training and config.train_file:
        training = _files(config, None, "train")
    if not training:
        labels = _recorded_labels(model)
        if labels is None:
            raise UsageError(
                f"--{model.flag} {model.source}: records no labels; give the model/ folder of a fine-tuned "
                "run, or the --train_file whose labels these are"
            )
        # LABEL_0, LABEL_1, … are no names that a file would have: numbers stand for them.
        return dataclasses.replace(task, labels=labels, is_numbered=_are_generic(labels))
    (file,) = training
    if task.kind == TAGGING:
        found = {tag for sentence in _sentences(file, labelled=True) for tag in sentence.tags}
    else:
        found = {example.label for example in _examples(file, labelled=True)}
    if len(found) < 2:
        raise UsageError(f"--{file.flag} {file.paths[0]}: has one label alone, {next(iter(found))!r}")
    in_order = sorted(
        found, key=lambda label: (0, int(label), label) if _is_integer(label) else (1, 0, label)
    )
    return dataclasses.replace(task, labels=tuple(in_order))


def _is_integer(label: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]+", label) is not None


def _apply_recipe(config: GlueConfig, task: Task, hidden_size: int) -> None:
    if config.num_train_epochs is None:
        config.num_train_epochs = task.num_train_epochs
    if config.learning_rate is None:
        config.learning_rate = 3e-4 if hidden_size < 512 else 1e-4 if hidden_size < 1024 else 5e-5
    if config.layerwise_lr_decay is None:
        config.layerwise_lr_decay = 0.8 if hidden_size < 1024 else 0.9


# -------------------------------------------------------------------------------------------------- head


def _with_fitting_head(model: PretrainedModel, task: Task, config: GlueConfig) -> PretrainedModel:
    """The weights without a head of another task, which training begins anew and predicting cannot do with.

    Raises:
        UsageError: nothing is trained, and there is no head to predict with.
    """
    misfit = _misfit(model, task)
    if misfit is None:
        is_checkpoint = not model.settings and not config.do_train
        if is_checkpoint and task.kind == REGRESSION:
            raise UsageError(
                f"--{model.flag} {model.source}: does not record the labels' scale; give the run's model/ "
                "folder as --electra_model, or --restore_checkpoint"
            )
        return model
    if config.do_train:
        other = [name for name in model.tensors if name.startswith(CLASSIFIER)]
        if not other:
            return model
        return dataclasses.replace(
            model,
            tensors={name: tensor for name, tensor in model.tensors.items() if name not in other},
            remarks=(*model.remarks, f"{misfit}: a new head is trained"),
        )
    if config.restore_checkpoint:
        return model
    raise UsageError(f"--{model.flag} {model.source}: {misfit}; fine-tune with --do_train")


def _misfit(model: PretrainedModel, task: Task) -> str | None:
    """Why the head of the weights is not the task's; None where it is."""
    outputs = len(task.labels) if task.labels else 1
    head = TOKEN_HEAD if task.kind == TAGGING else SEQUENCE_HEAD
    bias = f"{CLASSIFIER}bias" if task.kind == TAGGING else _OUTPUT_BIAS
    if not any(name.startswith(head) for name in model.tensors) or bias not in model.tensors:
        return f"it has no head for {task.kind}"
    found = len(model.tensors[bias])
    if found != outputs:
        return f"its head has {found} outputs, and {task.name} has {outputs}"
    labels = _recorded_labels(model)
    is_named = labels is not None and not _are_generic(labels)
    if is_named and task.labels and labels != task.labels:
        return f"its labels are {', '.join(labels)}, and those of {task.name} {', '.join(task.labels)}"
    return None


def _recorded_labels(model: PretrainedModel) -> tuple[str, ...] | None:
    """The labels that config.json names, in the order of the outputs."""
    recorded = model.settings.get("id2label")
    if not isinstance(recorded, dict) or not recorded:
        return None
    labels = [recorded.get(str(number)) for number in range(len(recorded))]
    return tuple(labels) if all(isinstance(label, str) for label in labels) else None


def _are_generic(labels: tuple[str, ...]) -> bool:
    return all(_GENERIC_LABEL.fullmatch(label) for label in labels)


# -------------------------------------------------------------------------------------------------- data


def _features(
    config: GlueConfig, task: Task, model: PretrainedModel, file: DataFile, which: str
) -> LabelledFeatures:
    labelled, length = which != "test", config.max_seq_length
    hide = True if config.disable_progress_bar else None
    source = file.paths[0]
    if task.kind == TAGGING:
        label_of = _tag_numbers(task, file, labelled)
        sentences = _sentences(file, labelled)
        return build_tagged_features(
            sentences, model.vocabulary, length, label_of, source=source, hide_progress=hide
        )
    if task.kind == REGRESSION:
        label_of, dtype = _real_numbers(task, file, labelled), np.float64
    else:
        label_of, dtype = _label_numbers(task, file, labelled), np.int32
    return build_features(
        _examples(file, labelled),
        model.vocabulary,
        length,
        label_of,
        dtype=dtype,
        source=source,
        both_orders=which == "train" and task.both_orders and config.both_orders,
        hide_progress=hide,
    )


def _examples(file: DataFile, labelled: bool) -> Iterator[Example]:
    number = 0
    for path in file.paths:
        # A test's row that is left out would shift the numbers of those after it in a submission.
        broken = [] if file.is_benchmarks and labelled else None
        for example in read_examples(
            path, file.flag, file.columns, labelled=labelled, broken=broken, first_number=number
        ):
            number += 1
            yield example
        if broken:
            print(
                f"note: {path}: {len(broken)} rows have another number of columns and are left out, first "
                f"in line {broken[0]}"
            )


def _sentences(file: DataFile, labelled: bool) -> Iterator[Sentence]:
    for path in file.paths:
        yield from read_sentences(path, file.flag, file.columns, labelled=labelled)


def _label_numbers(task: Task, file: DataFile, labelled: bool) -> Callable[[Example], int]:
    numbers = task.label_numbers()

    def number(example: Example) -> int:
        if example.label in numbers:
            return numbers[example.label]
        # The hub's way to say that a test's label is not published.
        if not labelled and example.label in (None, "-1"):
            return NO_LABEL
        raise UsageError(
            f"--{file.flag} {file.paths[0]}, line {example.line}: the label {example.label!r} is none of "
            f"{abridged(task.labels, 12)}"
        )

    return number


def _real_numbers(task: Task, file: DataFile, labelled: bool) -> Callable[[Example], float]:
    def number(example: Example) -> float:
        # The hub's way to say that a test's label is not published.
        unpublished = ("-1", "-1.0") if task.is_numbered and not labelled else ()
        if example.label is None or example.label in unpublished:
            return math.nan
        try:
            # Python's own notation for long numbers is nobody else's.
            value = math.nan if "_" in example.label else float(example.label)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) and labelled:
            raise UsageError(
                f"--{file.flag} {file.paths[0]}, line {example.line}: the label {example.label!r} is not a "
                "number"
            )
        return value

    return number


def _tag_numbers(task: Task, file: DataFile, labelled: bool) -> Callable[[Sentence, int], int]:
    numbers = {tag: number for number, tag in enumerate(task.labels)}

    def number(sentence: Sentence, place: int) -> int:
        if sentence.tags is None:
            return NO_LABEL
        tag = sentence.tags[place]
        if tag not in numbers and labelled:
            raise UsageError(
                f"--{file.flag} {file.paths[0]}, in the sentence of line {sentence.line}: the tag {tag!r} is "
                f"none of {abridged(task.labels, 12)}"
            )
        return numbers.get(tag, NO_LABEL)

    return number


def _fingerprint(parts: list[LabelledFeatures]) -> str:
    digest = hashlib.sha256()
    for features in parts:
        for array in features.arrays_to_check():
            digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()
