"""A SavedModel that answers questions -> its model card, README.md in the form of the Hugging Face hub.

What was exported and how it is asked, then the card of the weights that it was made from, as it lies beside
them; where none does, what the weights themselves say, and that the rest is not recorded.
"""

from collections.abc import Mapping

import model_card
from answering_inputs import AnsweringInputs
from markdown_text import code, table

# Of weights that have none.
_UNKNOWN = "license: unknown\npipeline_tag: question-answering\ntags:\n- electra\n- question-answering"
_TEXTS = "strings [n]"


def render(inputs: AnsweringInputs, batch_size: int, versions: Mapping[str, str]) -> str:
    """The card.

    Args:
        batch_size: windows computed together at the most.
        versions: of the packages that the graph needs, by name.
    """
    front, card = model_card.card_beside(inputs.model.source)
    front = front or _UNKNOWN
    # What follows is of no use to the library that loads the weights.
    front = "\n".join(line for line in front.split("\n") if not line.startswith("library_name:"))
    sections = [
        f"---\n{front}\n---",
        "# ELECTRA that answers questions, as a TensorFlow SavedModel",
        _introduction(inputs.model.source),
        _exported(inputs, batch_size, versions),
        _signature(inputs.decoding_rule.version_2),
        *(_of_weights(card) if card else _not_recorded(inputs)),
    ]
    return "\n\n".join(sections) + "\n"


def _introduction(source: str) -> str:
    return f"""Answers questions about a text with a piece of it: strings in, strings out. Made by
`export_saved_model.py` from {code(source)}.

```python
import tensorflow as tf
import tensorflow_text

answer = tf.saved_model.load("this folder").signatures["serving_default"]
answer(question=tf.constant(["..."]), context=tf.constant(["..."]))
```"""


def _exported(inputs: AnsweringInputs, batch_size: int, versions: Mapping[str, str]) -> str:
    rule, decoding = inputs.feature_rule, inputs.decoding_rule
    settings = {
        "precision": "float32",
        "head": "joint" if inputs.head.joint else "plain",
        "max_seq_length": rule.max_seq_length,
        "doc_stride": rule.doc_stride,
        "max_query_length": rule.max_query_length,
        "max_answer_length": decoding.max_answer_length,
        "n_best_size": decoding.n_best_size,
        "version_2_with_negative": decoding.version_2,
        "null_score_diff_threshold": decoding.null_score_diff_threshold,
        "batch_size": batch_size,
    }
    rows = [(code(name), code(str(value))) for name, value in (settings | dict(versions)).items()]
    return f"## What was exported\n\n{table(('', ''), rows)}"


def _signature(may_have_no_answer: bool) -> str:
    rows = [
        (code("question"), "in", f"{_TEXTS}, UTF-8"),
        (code("context"), "in", f"{_TEXTS}, the text that each is about"),
        (code("answer"), "out", f'{_TEXTS}; "" for none'),
        (code("probability"), "out", "float32 [n], the answer's in the n-best list"),
        (code("n_best_text"), "out", "strings [n, k], best first"),
        (code("n_best_probability"), "out", "float32 [n, k]"),
    ]
    if may_have_no_answer:
        rows.append((code("null_odds"), "out", "float32 [n]; above the threshold there is no answer"))
    return f"## Signature\n\n`serving_default`:\n\n{table(('name', '', 'holds'), rows)}"


def _of_weights(card: str) -> list[str]:
    return [
        "## Weights\n\nTheir own card follows; what it says of loading is of the folder that it lies in.",
        card.strip(),
    ]


def _not_recorded(inputs: AnsweringInputs) -> list[str]:
    return [
        model_card.architecture_table(inputs.model.config, inputs.model.tensors),
        model_card.NOT_RECORDED,
        "## Intended use\n\nTo answer questions about a text with a piece of it. It may repeat the mistakes\n"
        "and prejudices of the texts that it learned from, and what it says is not checked for truth.",
        model_card.LICENCE_NOT_RECORDED,
    ]
