"""Weights -> a network that answers: one made of a source's weights, and questions through it to answers.

Which weights and by which rules is found out in answering_inputs.py, without TensorFlow.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from answering_inputs import AnsweringInputs, make_question
from architecture import ElectraConfig
from command_line import RunFailure, UsageError
from pretrained_models import assign_weights
from question_answering import QuestionAnsweringModel
from squad_data import Question
from squad_decoding import Decoded
from squad_features import build_features
from squad_heads import Head
from squad_prediction import Predictor

_BLOCK_QUESTIONS = 256


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Attributes:
        id: of the question; "" where nobody gave it one.
        text: a piece of the context; "" for none.
        probability: of this text, in the n-best list.
        null_odds: how much more likely no answer is than the best one, a logit; None unless questions may
            have no answer.
        n_best: as in nbest_predictions.json.
        spans: where each of them stands in the context, [first character, the one after its last]; [0, 0]
            for no answer.
    """

    id: str | int
    text: str
    probability: float
    null_odds: float | None
    n_best: list[dict[str, str | float]]
    spans: list[list[int]]

    def as_json(self) -> dict:
        """The same as an object of JSON, with the text under "answer"."""
        return ({} if self.id == "" else {"id": self.id}) | {
            "answer": self.text,
            "probability": self.probability,
            "null_odds": self.null_odds,
            "n_best": self.n_best,
        }


class Answerer:
    """Answers questions about texts of any length.

    Args:
        inputs: weights and rules.
        batch_size: windows computed together.
        jit_compile: compile with XLA.

    Raises:
        UsageError: the weights are not those of such a network.
    """

    def __init__(self, inputs: AnsweringInputs, *, batch_size: int, jit_compile: bool = False):
        self._inputs = inputs
        self._predictor = Predictor(
            load_answering_model(inputs),
            inputs.decoding_rule,
            batch_size=batch_size,
            max_seq_length=inputs.feature_rule.max_seq_length,
            jit_compile=jit_compile,
        )

    def answers(self, questions: Iterable[Question]) -> Iterator[Answer]:
        """The answers, in the order of the questions, of which a block is in memory at a time.

        Raises:
            RunFailure: the network's outputs are not numbers.
        """
        questions = iter(questions)
        mistake = None
        while mistake is None:
            block = []
            try:
                block.extend(itertools.islice(questions, _BLOCK_QUESTIONS))
            except UsageError as error:
                # What came before a line that cannot be read is answered first.
                mistake = error
            if not block:
                break
            features = build_features(
                block, self._inputs.vocabulary, self._inputs.feature_rule, hide_progress=True
            )
            try:
                for question_id, decoded in self._predictor.answers(features, hide_progress=True):
                    yield _answer(question_id, decoded)
            except RunFailure as error:
                raise RunFailure(f"{self._inputs.model.source}: {error}") from None
        if mistake is not None:
            raise mistake

    def answer(self, question: str, context: str) -> Answer:
        """The answer to one question."""
        (answer,) = self.answers([make_question(question, context)])
        return answer


def build_model(
    architecture: ElectraConfig, head: Head, *, version_2: bool, beam_size: int
) -> QuestionAnsweringModel:
    """The network, without its weights."""
    return QuestionAnsweringModel(
        architecture, joint_head=head.joint, variant=head.variant, version_2=version_2, beam_size=beam_size
    )


def load_answering_model(inputs: AnsweringInputs) -> QuestionAnsweringModel:
    """The network with all its weights.

    Raises:
        UsageError: a weight is missing, or a shape differs.
    """
    model = build_model(
        inputs.model.config,
        inputs.head,
        version_2=inputs.decoding_rule.version_2,
        beam_size=inputs.beam_size,
    )
    model.build()
    missing, _ = assign_weights(model.named_variables(), inputs.model, inputs.head.prefix)
    if missing:
        raise UsageError(
            f"--{inputs.model.flag} {inputs.model.source}: lacks {len(missing)} weights of the head, "
            f"first {missing[0]}"
        )
    return model


def _answer(question_id: str | int, decoded: Decoded) -> Answer:
    text = decoded.prediction
    probability = next(entry["probability"] for entry in decoded.n_best if entry["text"] == text)
    return Answer(question_id, text, probability, decoded.null_odds, decoded.n_best, decoded.spans)
