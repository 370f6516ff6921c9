"""SQuAD files -> questions: read article by article, checked, and never whole in memory.

The format is that of the official SQuAD 1.1 and 2.0 files: {"version", "data": [{"title", "paragraphs":
[{"context", "qas": [{"id", "question", "answers": [{"text", "answer_start"}], "is_impossible"}]}]}]}.
Windows of tokens are made of the questions by squad_features.py.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from command_line import UsageError

_CHUNK_CHARACTERS = 1 << 18
_JSON_SPACE = " \t\n\r"
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

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
        text, context: as in the file, but for lone surrogates, which no encoding can hold: U+FFFD.
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
        yield Question(
            id=question.id,
            text=_LONE_SURROGATE.sub("\ufffd", question.text),
            context=_LONE_SURROGATE.sub("\ufffd", question.context),
            answers=[] if impossible else [_LONE_SURROGATE.sub("\ufffd", text) for text in question.answers],
            answer_start=-1 if impossible else question.answer_start,
            is_impossible=impossible,
            where=question.where,
        )


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


def _questions(path: str | Path, flag: str) -> Iterator[Question]:
    """The questions as the file has them: `is_impossible` is None without that key."""
    source = f"--{flag} {path}"
    try:
        # utf-8-sig: some editors put a byte order mark first.
        with open(path, encoding="utf-8-sig") as stream:
            for number, article in enumerate(_articles(_JsonStream(stream)), 1):
                yield from _questions_of_article(article, number)
    except OSError as error:
        raise UsageError(f"{source}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{source}: not UTF-8") from None
    except _NotSquad as error:
        raise UsageError(f"{source}: not SQuAD format: {error}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{source}: not JSON ({error})") from None


class _NotSquad(Exception):
    """Says what is missing, and where."""


def _questions_of_article(article: object, number: int) -> Iterator[Question]:
    where = f"article {number}"
    paragraphs = _member(article, "paragraphs", list, where)
    if title := article.get("title"):
        where += f" {title!r}"
    for number, paragraph in enumerate(paragraphs, 1):
        place = f"{where}, paragraph {number}"
        context = _member(paragraph, "context", str, place)
        for entry in _member(paragraph, "qas", list, place):
            yield _question(entry, context, place)


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


def _articles(text: "_JsonStream") -> Iterator[object]:
    """The elements of the top-level object's list "data", one at a time."""
    if text.peek() != "{":
        text.value()
        raise _NotSquad("the file is not an object with 'data'")
    found = False
    for _ in text.elements("{", "}"):
        name = text.value()
        text.expect(":")
        if name != "data":
            text.value()
            continue
        found = True
        if text.peek() != "[":
            raise _NotSquad("'data' is not a list")
        for _ in text.elements("[", "]"):
            yield text.value()
    if text.peek():
        raise ValueError(f"more text after the end, at character {text.position}")
    if not found:
        raise _NotSquad("the file is not an object with 'data'")


class _JsonStream:
    """JSON read value by value; of the text, only the value being read is held."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._decoder = json.JSONDecoder()
        self._buffer, self._at, self._before, self._ended = "", 0, 0, False

    @property
    def position(self) -> int:
        """Characters read so far."""
        return self._before + self._at

    def peek(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            while self._at < len(self._buffer) and self._buffer[self._at] in _JSON_SPACE:
                self._at += 1
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if self._ended:
                return ""
            self._fill()

    def expect(self, *marks: str) -> str:
        """Read one of some punctuation marks."""
        mark = self.peek()
        if mark not in marks:
            raise ValueError(f"{' or '.join(marks)} expected at character {self.position}")
        self._at += 1
        return mark

    def value(self) -> object:
        """Read one value.

        Raises:
            ValueError: it is not JSON.
        """
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                if self._ended:
                    raise ValueError(f"{error.msg} at character {self._before + error.pos}") from None
            else:
                # A number that ends with the buffer may go on after it.
                if end < len(self._buffer) or self._ended:
                    self._at = end
                    return value
            self._fill()

    def elements(self, opening: str, closing: str) -> Iterator[None]:
        """Come to each element of a list or object in turn; the caller reads it."""
        self.expect(opening)
        if self.peek() == closing:
            self.expect(closing)
            return
        mark = ","
        while mark == ",":
            yield
            mark = self.expect(",", closing)

    def _fill(self) -> None:
        # Twice as much each time, so that a long value is not scanned from its start too often.
        chunk = self._stream.read(max(_CHUNK_CHARACTERS, len(self._buffer) - self._at))
        self._before += self._at
        self._buffer, self._at, self._ended = self._buffer[self._at :] + chunk, 0, not chunk
