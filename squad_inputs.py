"""What a SQuAD run reads and where it starts, found and checked before the network is built.

Questions and head are this task's; weights, vocabulary and checkpoints are found in finetuning_inputs.py.
"""

import dataclasses
import itertools
import json
from dataclasses import dataclass

import finetuning_inputs
from command_line import UsageError
from finetuning_inputs import Start
from pretrained_models import PretrainedModel
from squad_configuration import SquadConfig
from squad_data import iterate_questions
from squad_features import FeatureRule, Features, build_features, load_features
from tokenization import Vocabulary
from workers import Workers

PLAIN_HEAD, JOINT_HEAD = "qa_outputs/", "squad_head/"
# This task's settings that change what is being trained or the order of what it sees.
_MEANING = (
    "joint_head",
    "joint_head_variant",
    "version_2_with_negative",
    "doc_stride",
    "max_query_length",
    "max_questions",
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
    model = finetuning_inputs.open_model(config)
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


def find_start(config: SquadConfig, inputs: SquadInputs, workers: Workers) -> Start:
    """The training checkpoint to go on from, as finetuning_inputs.find_start."""
    return finetuning_inputs.find_start(
        config,
        workers,
        meaning=lambda: meaning(config, inputs, workers),
        knows_task=has_head(inputs.model, inputs.head),
    )


def meaning(config: SquadConfig, inputs: SquadInputs, workers: Workers) -> dict:
    """What must be equal for a restart to go on with the same training, by name."""
    values = finetuning_inputs.shared_meaning(config, inputs.model, workers)
    values |= {name: getattr(config, name) for name in _MEANING}
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
