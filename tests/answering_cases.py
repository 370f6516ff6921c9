"""Tiny models that answer: random weights, but heads whose best answers are far from the next best."""

import random
from pathlib import Path

import numpy as np

import electra_weights
import weight_conversion
from answering_inputs import AnsweringInputs, open_answering
from architecture import ElectraConfig
from question_answerer import Answerer
from question_answering import QuestionAnsweringModel
from squad_configuration import AnsweringConfig
from tokenization import SPECIAL_PIECES, Vocabulary

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,?'-"
# Every word of these characters comes to pieces, of one or two letters each.
PIECES = [*LETTERS, *(f"##{letter}" for letter in LETTERS), "th", "##th", "an", "##an", "in", "##in", "漢"]
VOCABULARY = Vocabulary((*SPECIAL_PIECES, *PIECES))


def write_answering_model(
    folder: Path,
    *,
    joint_head: bool = False,
    version_2: bool = False,
    variant: str = "google",
    vocabulary: Vocabulary = VOCABULARY,
    positions: int = 64,
    seed: int = 0,
) -> Path:
    """A folder as run_tf_squad.py leaves it."""
    config = ElectraConfig(vocabulary.size, 16, 24, 1, 2, 32, max_position_embeddings=positions)
    model = QuestionAnsweringModel(
        config, joint_head=joint_head, variant=variant, version_2=version_2, beam_size=4
    )
    model.build()
    draw = np.random.RandomState(seed)
    tensors = {}
    for name, variable in model.named_variables().items():
        is_scale = name.endswith("gamma")
        # Embeddings that differ, so that tokens do, and a head that makes much of it.
        wide = 10 if name.startswith(("squad_head", "qa_outputs")) or "embeddings" in name else 1
        tensor = draw.normal(0, 0.1 if is_scale else 0.1 * wide, variable.shape) + is_scale
        tensors[name] = tensor.astype(np.float32)
    weight_conversion.write_folder(
        folder,
        weight_conversion.architecture_name(tensors),
        config,
        electra_weights.to_huggingface(tensors),
        vocabulary,
        head_settings={
            "squad_head": {
                "joint_head": joint_head,
                "variant": variant,
                "version_2_with_negative": version_2,
            }
        },
    )
    return folder


def open_model(folder: Path, **settings) -> AnsweringInputs:
    """A model with windows of its own length, much overlapping."""
    return open_answering(
        AnsweringConfig(**{"electra_model": str(folder), "doc_stride": 16, "max_query_length": 12} | settings)
    )


def answerer(folder: Path, **settings) -> Answerer:
    return Answerer(open_model(folder, **settings), batch_size=4)


def made_up_questions(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """(question, context) of made-up words; contexts of no to several windows."""
    draw = random.Random(seed)

    def words(number: int) -> str:
        return " ".join("".join(draw.choices(LETTERS, k=draw.randint(1, 6))) for _ in range(number))

    return [(words(draw.randint(1, 6)), words(draw.choice([0, 3, 10, 40]))) for _ in range(count)]
