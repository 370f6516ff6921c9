"""Small SQuAD files, and a vocabulary whose words are single letters, for the tests of the SQuAD modules."""

import json
import string
from pathlib import Path

from squad_data import Question
from tokenization import SPECIAL_PIECES, Vocabulary

# [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4, a 5, b 6, … z 30.
LETTERS = Vocabulary((*SPECIAL_PIECES, *string.ascii_lowercase))
CLS, SEP, A = 2, 3, 5


def question(text: str, context: str, answer: str | None = None, *, id: str = "q", start: int | None = None):
    """A Question whose answer, if any, stands at its first place in the context, or at `start`."""
    if answer is None:
        return Question(id=id, text=text, context=context)
    start = context.index(answer) if start is None else start
    return Question(id=id, text=text, context=context, answers=[answer], answer_start=start)


def entry(id: str, *answers: tuple[str, int], **more) -> dict:
    """One question of a SQuAD file: answers as (text, answer_start)."""
    texts = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": id, "question": f"Question {id}?", "answers": texts, **more}


def write_squad(path: Path, *paragraphs: tuple[str, list[dict]], version: str = "1.1") -> Path:
    """A SQuAD file of one article, with (context, questions) of each paragraph."""
    listed = [{"context": context, "qas": entries} for context, entries in paragraphs]
    content = {"version": version, "data": [{"title": "Title", "paragraphs": listed}]}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
