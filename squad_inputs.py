"""What a SQuAD run reads and where it starts, found and checked before the network is built.

Questions and head are this task's; weights, vocabulary and checkpoints are found in finetuning_inputs.py.
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import finetuning_inputs
import squad_scores
from command_line import UsageError
from finetuning_inputs import Start
from pretrained_models import PretrainedModel
from squad_configuration import SquadConfig
from squad_data import iterate_questions
from squad_features import FeatureRule, Features, build_features, load_features
from squad_heads import Head, choose_head, has_head
from tokenization import Vocabulary
from workers import Workers

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
class SquadInputs:
    """Weights, vocabulary and questions; `training` and `prediction` only where they are asked for."""

    model: PretrainedModel
    head: Head
    vocabulary: Vocabulary
    training: Features | None
    prediction: Features | None

    @functools.cached_property
    def training_fingerprint(self) -> str:
        """SHA-256 of the tokens that are trained on."""
        return self.training.fingerprint()

    @functools.cached_property
    def label_fingerprint(self) -> str:
        """SHA-256 of the answers that are trained on."""
        return self.training.label_fingerprint()

    def fingerprints(self) -> dict[str, str]:
        """Checksums of what was read, by flag."""
        read = {"electra_model": json.dumps(dataclasses.asdict(self.model.config))}
        if self.training is not None:
            read["train_file"] = self.training_fingerprint + self.label_fingerprint
        if self.prediction is not None:
            read["predict_file"] = self.prediction.fingerprint()
        return read


def open_inputs(config: SquadConfig) -> SquadInputs:
    """Find weights, vocabulary and questions and see that they fit together and to the flags.

    Raises:
        UsageError: something is missing or does not fit.
    """
    if config.do_eval:
        _check_golds(config)
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


def gold_articles(config: SquadConfig, asked: Collection[str]) -> list:
    """The articles of the predict file; with --max_questions only the questions of these ids in them."""
    path = Path(config.data_file("dev"))
    articles = json.loads(path.read_text(encoding="utf-8-sig"))["data"]
    return squad_scores.only_answered(articles, asked) if config.max_questions else articles


def find_start(config: SquadConfig, inputs: SquadInputs, workers: Workers) -> Start:
    """The training checkpoint to go on from, as finetuning_inputs.find_start."""
    head = {"joint_head": inputs.head.joint}
    if inputs.head.joint:
        head["joint_head_variant"] = inputs.head.variant
    return finetuning_inputs.find_start(
        config,
        workers,
        meaning=lambda: meaning(config, inputs, workers),
        predicting=finetuning_inputs.shared_predicting(inputs.model) | head,
        knows_task=has_head(inputs.model, inputs.head),
    )


def meaning(config: SquadConfig, inputs: SquadInputs, workers: Workers) -> dict:
    """What must be equal for a restart to go on with the same training, by name."""
    values = finetuning_inputs.shared_meaning(config, inputs.model, workers)
    values |= {name: getattr(config, name) for name in _MEANING}
    return values | {
        "training_windows": len(inputs.training),
        "training_data": inputs.training_fingerprint,
        "training_labels": inputs.label_fingerprint,
    }


def _source(config: SquadConfig, which: str) -> tuple[str, str]:
    """A file of questions, and the flag that named it, without dashes."""
    given = {"train": config.train_file, "dev": config.predict_file}[which]
    flag = {"train": "train_file", "dev": "predict_file"}[which] if given else "data_dir"
    return config.data_file(which), flag


def _check_golds(config: SquadConfig) -> None:
    """See that the answers can be scored, before anything is trained to give them."""
    path, flag = _source(config, "dev")
    version_2 = config.version_2_with_negative
    # Whatever else is wrong with the file has a message of its own.
    questions = itertools.islice(iterate_questions(path, flag, version_2), config.max_questions or None)
    asked = {question.id for question in questions}
    try:
        squad_scores.gold_answers(gold_articles(config, asked), version_2)
    except ValueError as error:
        raise UsageError(f"--{flag} {path}: --do_eval cannot score it: {error}") from None


def _features(config: SquadConfig, which: str, rule: FeatureRule, vocabulary: Vocabulary) -> Features:
    path, flag = _source(config, which)
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
