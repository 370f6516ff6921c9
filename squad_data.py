"""SQuAD files -> questions: read article by article, checked, and never whole in memory.

The format is that of the official SQuAD 1.1 and 2.0 files: {"version", "data": [{"title", "paragraphs":
[{"context", "qas": [{"id", "question", "answers": [{"text", "answer_start"}], "is_impossible"}]}]}]}.
Windows of tokens are made of the questions by squad_features.py.
"""

import codecs
import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import ijson

from command_line import UsageError

# An answer lies 9 deep; what tools add may lie deeper.
_DEEPEST = 64
_NO_ARTICLES = "the file is not an object with a list 'data' of articles"

# Why a question is left out of training, by its number in a feature cache: append only.
FAULTS = (
    "",
    "no answer is given",
    "the answer is empty",
    "the answer does not stand at its answer_start, but elsewhere in the context",
    "the answer stands nowhere in the context",
    "no token is left of the answer when the vocabulary's normalisation has dropped characters",
)
NO_FAULT, FAULT_NONE_GIVEN, FAULT_EMPTY, FAULT_MISPLACED, FAULT_ABSENT, FAULT_NO_TOKEN = range(len(FAULTS))


@dataclass(frozen=True, slots=True)
class Question:
    """One question and what is known of its answer.

    Attributes:
        id: as in predictions.json.
        text, context: as in the file, but for lone surrogates, which no encoding can hold: each is one
            other character here.
        answers: the texts of the gold answers; the first is the one trained on.
        answer_start: character of the context at which the first answer begins; -1 if there is none.
        is_impossible: the context holds no answer (SQuAD 2.0).
        where: its place in the file, for messages.
    """

    id: str
    text: str
    context: str
    answers: list[str] = field(default_factory=list)
    answer_start: int = -1
    is_impossible: bool = False
    where: str = ""


def answer_fault(question: Question) -> int:
    """The number in FAULTS of what makes a question useless for training; nothing is mended by guessing."""
    if question.is_impossible:
        return NO_FAULT
    if not question.answers:
        return FAULT_NONE_GIVEN
    text, start = question.answers[0], question.answer_start
    if not text.strip():
        return FAULT_EMPTY
    if start >= 0 and question.context.startswith(text, start):
        return NO_FAULT
    return FAULT_MISPLACED if text in question.context else FAULT_ABSENT


def read_squad(path: str | Path, flag: str, version_2: bool) -> list[Question]:
    """All questions of a file, in its order; `iterate_questions` says what is checked."""
    return list(iterate_questions(path, flag, version_2))


def content_sha256(path: str | Path, flag: str) -> str:
    """Hexadecimal SHA-256 of what a SQuAD 1.1 file asks, and of what is right; not of how it is written.

    That of the questions by their ids, each a line of JSON: [id, question, context, answers, first answer's
    character]. Titles and the order count for nothing.

    Args:
        flag: the flag that named it, without dashes, for messages.

    Raises:
        UsageError: as by `iterate_questions`.
    """
    digest = hashlib.sha256()
    for question in sorted(iterate_questions(path, flag, version_2=False), key=lambda question: question.id):
        row = [question.id, question.text, question.context, question.answers, question.answer_start]
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


def iterate_questions(path: str | Path, flag: str, version_2: bool) -> Iterator[Question]:
    """The questions of a SQuAD file, in its order, when the whole file has been checked.

    Args:
        path: a SQuAD 1.1 or 2.0 file; answers may be absent from all of it (prediction only).
        flag: the flag that named it, without dashes, for messages.
        version_2: whether questions may have no answer.

    Raises:
        UsageError: not readable, not JSON, not SQuAD (names article and paragraph), an id that comes twice,
            no question at all, or a file of the other version of SQuAD.
    """
    survey = _survey(path, flag, version_2)
    for question in _questions(path, flag):
        if question.is_impossible is None:
            # SQuAD 2.0 as some tools write it, without the key; where no answer is given at all, none is
            # known to be absent.
            impossible = version_2 and survey.has_answers and not question.answers
        else:
            impossible = question.is_impossible
        known = {"answers": [], "answer_start": -1} if impossible else {}
        yield dataclasses.replace(question, is_impossible=impossible, **known)


@dataclass(slots=True)
class _Survey:
    """What only the whole file tells."""

    questions: int = 0
    has_answers: bool = False
    has_impossible_key: bool = False
    first_impossible: str = ""
    first_without_answer: str = ""


def _survey(path: str | Path, flag: str, version_2: bool) -> _Survey:
    source = f"--{flag} {path}"
    survey, seen = _Survey(), set()
    for question in _questions(path, flag):
        name = f"question {question.id!r} ({question.where})"
        if question.id in seen:
            raise UsageError(f"{source}: the id {question.id!r} comes twice (again in {question.where})")
        seen.add(question.id)
        survey.questions += 1
        survey.has_answers |= bool(question.answers)
        survey.has_impossible_key |= question.is_impossible is not None
        if question.is_impossible:
            survey.first_impossible = survey.first_impossible or name
        elif not question.answers:
            survey.first_without_answer = survey.first_without_answer or name
    if not survey.questions:
        raise UsageError(f"{source}: no question in it")
    without = survey.has_answers and survey.first_without_answer
    if not version_2 and (survey.first_impossible or without):
        raise UsageError(
            f"{source}: {survey.first_impossible or without} has no answer: this is SQuAD 2.0, which needs "
            "--version_2_with_negative"
        )
    if version_2 and survey.has_answers and not survey.has_impossible_key and not without:
        raise UsageError(
            f"{source}: no question says is_impossible: this is SQuAD 1.1, without --version_2_with_negative"
        )
    return survey


def iterate_contexts(path: str | Path, flag: str) -> Iterator[str]:
    """The contexts of a SQuAD file of either version, in its order; its questions are not looked at.

    Args:
        flag: the flag that named it, without dashes, for messages.

    Raises:
        UsageError: not readable, not JSON, not SQuAD (names article and paragraph).
    """
    with _named_faults(path, flag), open(path, "rb") as stream:
        for paragraph, place in _paragraphs(stream):
            yield _member(paragraph, "context", str, place)


def _questions(path: str | Path, flag: str) -> Iterator[Question]:
    """The questions as the file has them: `is_impossible` is None without that key."""
    with _named_faults(path, flag), open(path, "rb") as stream:
        for paragraph, place in _paragraphs(stream):
            context = _member(paragraph, "context", str, place)
            for entry in _member(paragraph, "qas", list, place):
                yield _question(entry, context, place)


@contextlib.contextmanager
def _named_faults(path: str | Path, flag: str) -> Iterator[None]:
    """What reading a file raises becomes a UsageError that names flag and file."""
    source = f"--{flag} {path}"
    try:
        yield
    except OSError as error:
        raise UsageError(f"{source}: {error.strerror or error}") from None
    except _NotSquad as error:
        raise UsageError(f"{source}: not SQuAD format: {error}") from None
    except ijson.JSONError as error:
        # The parser's first line says what is wrong; a drawing of the place follows it.
        message = error.args[0] if error.args else ""
        message = message.decode("utf-8", "replace") if isinstance(message, bytes) else str(message)
        raise UsageError(f"{source}: not JSON ({message.splitlines()[0].strip(' .')})") from None


class _NotSquad(Exception):
    """Says what is missing, and where."""


def _paragraphs(stream: BinaryIO) -> Iterator[tuple[object, str]]:
    """The paragraphs of all articles, each with its place in the file."""
    # Some editors put a byte order mark first.
    if stream.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
        stream.seek(0)
    for article_number, article in enumerate(_articles(stream), 1):
        where = f"article {article_number}"
        paragraphs = _member(article, "paragraphs", list, where)
        if title := article.get("title"):
            where += f" {title!r}"
        for number, paragraph in enumerate(paragraphs, 1):
            yield paragraph, f"{where}, paragraph {number}"


def _question(entry: object, context: str, where: str) -> Question:
    answers = entry.get("answers") if isinstance(entry, dict) else None
    texts, starts = [], []
    if answers is not None:
        for answer in _member(entry, "answers", list, where):
            texts.append(_member(answer, "text", str, where))
            starts.append(_member(answer, "answer_start", int, where))
    return Question(
        id=_member(entry, "id", str, where),
        text=_member(entry, "question", str, where),
        context=context,
        answers=texts,
        answer_start=starts[0] if starts else -1,
        is_impossible=_member(entry, "is_impossible", bool, where) if "is_impossible" in entry else None,
        where=where,
    )


def _member(thing: object, name: str, kind: type, where: str):
    if not isinstance(thing, dict):
        raise _NotSquad(f"{where}: {type(thing).__name__} where an object with {name!r} is wanted")
    if name not in thing:
        raise _NotSquad(f"{where}: no {name!r}")
    if type(thing[name]) is not kind:
        raise _NotSquad(f"{where}: {name!r} is of type {type(thing[name]).__name__}, not {kind.__name__}")
    return thing[name]


def _articles(stream: BinaryIO) -> Iterator[object]:
    """The elements of the top-level object's list "data", one at a time."""
    start = stream.tell()
    first = stream.read(64).lstrip()[:1]
    stream.seek(start)
    if first == b"[":
        raise _NotSquad(_NO_ARTICLES)
    found = False
    for article in ijson.items(ijson.parse(_shallow_events(stream)), "data.item"):
        found = True
        yield article
    if not found:
        raise _NotSquad(_NO_ARTICLES)


def _shallow_events(stream: BinaryIO) -> Iterator[tuple[str, object]]:
    """The parser's events, up to where no SQuAD file goes: it writes out the path to each of them, so that
    some bytes of brackets would take all memory."""
    depth = 0
    for event in ijson.basic_parse(stream, use_float=True):
        kind = event[0]
        if kind in ("start_map", "start_array"):
            depth += 1
            if depth > _DEEPEST:
                raise _NotSquad(f"objects and lists lie more than {_DEEPEST} deep in each other")
        elif kind in ("end_map", "end_array"):
            depth -= 1
        yield event
