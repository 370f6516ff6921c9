"""What a program answers with: weights with a head, their vocabulary, and the rules of windows and answers.

Found and checked from the flags without TensorFlow; question_answerer.py and saved_model.py build on it.
"""

from dataclasses import dataclass

from command_line import UsageError
from pretrained_models import PretrainedModel, load_model
from squad_configuration import AnsweringConfig
from squad_data import Question
from squad_decoding import DecodingRule
from squad_features import FeatureRule
from squad_heads import Head, choose_head, has_head
from tokenization import Vocabulary, encodable

_MAX_SEQ_LENGTH = 384


@dataclass(frozen=True)
class AnsweringInputs:
    """Everything that an answer follows from, beside the question."""

    model: PretrainedModel
    head: Head
    feature_rule: FeatureRule
    decoding_rule: DecodingRule
    beam_size: int

    @property
    def vocabulary(self) -> Vocabulary:
        return self.model.vocabulary


def open_answering(config: AnsweringConfig, model: PretrainedModel | None = None) -> AnsweringInputs:
    """Load what the flags name and see that it can answer.

    Args:
        model: the weights, where they are loaded already.

    Raises:
        UsageError: no such weights, no head or another one than is asked for, lengths that do not fit.
    """
    model = model or load_named(config)
    head = choose_head(model, Head(True, "google"), keep=True)
    if not has_head(model, head):
        raise UsageError(
            f"--{model.flag} {model.source}: has no head that answers questions; fine-tune it with "
            "run_tf_squad.py"
        )
    if config.joint_head not in (None, head.joint):
        kind = "joint" if head.joint else "plain"
        raise UsageError(f"--joint_head {config.joint_head}: the head of {model.source} is the {kind} one")
    positions = model.config.max_position_embeddings
    length = config.max_seq_length
    if length is None:
        length = min(_MAX_SEQ_LENGTH, positions)
    if length > positions:
        raise UsageError(
            f"--max_seq_length {length}: is longer than the position table of {model.source} "
            f"({positions} rows)"
        )
    version_2 = config.version_2_with_negative
    if version_2 is None:
        recorded = model.settings.get("squad_head")
        version_2 = isinstance(recorded, dict) and recorded.get("version_2_with_negative") is True
    return AnsweringInputs(
        model,
        head,
        FeatureRule(length, config.doc_stride, config.max_query_length),
        DecodingRule(
            n_best_size=config.n_best_size,
            max_answer_length=config.max_answer_length,
            version_2=version_2,
            null_score_diff_threshold=config.null_score_diff_threshold,
            joint_head=head.joint,
        ),
        config.beam_size,
    )


def load_named(config: AnsweringConfig) -> PretrainedModel:
    """The weights that the flags name, with their vocabulary.

    Raises:
        UsageError: no such weights, no vocabulary, or not theirs.
    """
    return load_model(config.electra_model, config.init_checkpoint, config.vocab_file, config.do_lower_case)


def make_question(text: str, context: str, id: str | int = "") -> Question:
    """A question that anybody may have typed: what no encoding can hold is replaced, as in SQuAD files."""
    return Question(id=id, text=encodable(text), context=encodable(context))
