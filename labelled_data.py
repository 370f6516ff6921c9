"""Files of labelled texts -> examples: tables with named columns, and words with their tags.

Tables are .tsv (fields as they stand, no quoting), .csv (quoted as in RFC 4180), .jsonl and .parquet. Tagged
words may also lie in columns, one word a line and a blank line after each sentence, as in CoNLL's shared
tasks. Every fault is named by file and line; what the labels mean is found out in glue_inputs.py.
"""

import csv
import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from command_line import UsageError
from tokenization import encodable

_DOCUMENT_MARK = "-DOCSTART-"
# No cell is longer: csv's own limit of 131,072 characters is less than a long document.
_LARGEST_CELL = 2**31 - 1
# Other spaces, such as U+00A0, may be part of a word.
_WORD_OR_TAG = re.compile(r"[^ \t]+")


@dataclass(frozen=True)
class Columns:
    """The names of a table's columns; "" for one that is not there.

    Attributes:
        header: names of all columns, for a file whose first line holds none.
    """

    text: str
    text_pair: str = ""
    label: str = ""
    id: str = ""
    header: tuple[str, ...] = ()

    def with_header(self, header: tuple[str, ...]) -> "Columns":
        return dataclasses.replace(self, header=header)


@dataclass(frozen=True, slots=True)
class Example:
    """A text, or two, with its label; `line` is where it stands in its file, from 1."""

    id: str
    text: str
    text_pair: str | None
    label: str | None
    line: int


@dataclass(frozen=True, slots=True)
class Sentence:
    """Words and their tags; no tags where none are known."""

    id: str
    words: list[str]
    tags: list[str] | None
    line: int


def read_examples(
    path: str,
    flag: str,
    columns: Columns,
    *,
    labelled: bool,
    broken: list[int] | None = None,
    first_number: int = 0,
) -> Iterator[Example]:
    """The examples of a table, in its order.

    Args:
        flag: the flag that named it, without dashes, for messages.
        labelled: whether each needs a label.
        first_number: of the first example, which its id is where no column holds one.
        broken: receives the lines of rows that have not as many columns as the others, which are left out
            then; None has them refused.

    Raises:
        UsageError: not readable, not of its format, a column that is not there, a cell that holds none; or no
            example at all.
    """
    number = -1
    for number, (line, row) in enumerate(_rows(path, flag, columns.header, broken)):
        where = f"--{flag} {path}, line {line}"
        pair = _text(row, columns.text_pair, where) if columns.text_pair else None
        label = _label(row, columns.label, where) if columns.label in row or labelled else None
        if label is None and labelled:
            raise UsageError(f"{where}: the column {columns.label!r} holds no label")
        identifier = _name(row, columns.id, where) if columns.id else str(first_number + number)
        yield Example(identifier, _text(row, columns.text, where), pair, label, line)
    if number < 0:
        raise UsageError(f"--{flag} {path}: no example in it")


def read_sentences(path: str, flag: str, columns: Columns, *, labelled: bool) -> Iterator[Sentence]:
    """The sentences of a file of tagged words, in its order.

    A .jsonl or .parquet file has lists of words and of tags in its columns; any other one has a word and its
    tag in each line: the first column and the last, or those of the numbers that `columns` has. Where no tags
    are needed their column may be absent.

    Raises:
        UsageError: as `read_examples`.
    """
    is_table = Path(path).suffix in (".jsonl", ".json", ".parquet")
    found = False
    for sentence in (_table_sentences if is_table else _column_sentences)(path, flag, columns, labelled):
        found = True
        yield sentence
    if not found:
        raise UsageError(f"--{flag} {path}: no sentence in it")


# ------------------------------------------------------------------------------------------------ tables

Row = dict[str, object]


def _rows(
    path: str, flag: str, header: tuple[str, ...], broken: list[int] | None = None
) -> Iterator[tuple[int, Row]]:
    """(line, cells by column) of each row."""
    suffix = Path(path).suffix
    if suffix == ".parquet":
        yield from _parquet_rows(path, flag)
    elif suffix in (".jsonl", ".json"):
        yield from _json_rows(path, flag)
    elif suffix in (".csv", ".tsv", ".txt"):
        split = _split_quoted if suffix == ".csv" else _split_at_tabs
        yield from _separated_rows(path, flag, header, split, broken)
    else:
        raise UsageError(f"--{flag} {path}: is no .tsv, .csv, .jsonl or .parquet file")


Lines = Iterator[tuple[int, list[str]]]


def _separated_rows(
    path: str,
    flag: str,
    header: tuple[str, ...],
    split: Callable[[TextIO], Lines],
    broken: list[int] | None,
) -> Iterator[tuple[int, Row]]:
    names = list(header)
    for line, cells in _with_faults_named(path, flag, split):
        where = f"--{flag} {path}, line {line}"
        if not names:
            names = cells
            if len(set(names)) < len(names):
                raise UsageError(f"{where}: a column's name comes twice in the header: {', '.join(names)}")
        elif len(cells) == len(names):
            yield line, dict(zip(names, cells, strict=True))
        elif cells and broken is None:
            raise UsageError(f"{where}: has {len(cells)} columns, and {len(names)} are expected")
        elif cells:
            broken.append(line)


def _split_at_tabs(stream: TextIO) -> Lines:
    # Quotes mean nothing here: in GLUE's files texts begin with one that nothing closes.
    for number, line in enumerate(stream, 1):
        line = line.rstrip("\r\n")
        yield number, line.split("\t") if line else []


def _split_quoted(stream: TextIO) -> Lines:
    csv.field_size_limit(_LARGEST_CELL)
    reader = csv.reader(stream, strict=True)
    first = 1
    for cells in reader:
        yield first, cells
        first = reader.line_num + 1


def _with_faults_named(path: str, flag: str, split: Callable[[TextIO], Lines]) -> Lines:
    line = 0
    try:
        # Line ends as they stand: a carriage return may be part of a quoted cell or of a text.
        with open(path, encoding="utf-8-sig", newline="" if path.endswith(".csv") else "\n") as stream:
            for line, cells in split(stream):
                yield line, cells
    except OSError as error:
        raise UsageError(f"--{flag} {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--{flag} {path}: is not UTF-8, some lines after line {line}") from None
    except csv.Error as error:
        raise UsageError(f"--{flag} {path}, after line {line}: is not CSV ({error})") from None


def _json_rows(path: str, flag: str) -> Iterator[tuple[int, Row]]:
    for line, (text,) in _with_faults_named(path, flag, _whole_lines):
        if not text.strip():
            continue
        where = f"--{flag} {path}, line {line}"
        try:
            row = json.loads(text)
        except ValueError as error:
            raise UsageError(f"{where}: is not JSON ({error})") from None
        except RecursionError:
            raise UsageError(f"{where}: is nested too deeply") from None
        if not isinstance(row, dict):
            raise UsageError(f"{where}: is a JSON {type(row).__name__}, and an object is expected")
        yield line, row


def _whole_lines(stream: TextIO) -> Lines:
    for number, line in enumerate(stream, 1):
        yield number, [line]


def _parquet_rows(path: str, flag: str) -> Iterator[tuple[int, Row]]:
    import pyarrow
    import pyarrow.parquet

    line = 0
    try:
        with open(path, "rb") as stream, pyarrow.parquet.ParquetFile(stream) as file:
            for batch in file.iter_batches():
                for row in _batch_rows(batch, line, f"--{flag} {path}"):
                    line += 1
                    yield line, row
    except OSError as error:
        raise UsageError(f"--{flag} {path}: {error.strerror or error}") from None
    except pyarrow.ArrowException as error:
        raise UsageError(f"--{flag} {path}: is not Parquet ({error})") from None


def _batch_rows(batch, before: int, source: str) -> list[Row]:
    """The rows of an Arrow batch that `before` other rows precede.

    Raises:
        UsageError: a text is not UTF-8, which nothing that writes Parquet need check.
    """
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        for number in range(len(batch)):
            try:
                batch.slice(number, 1).to_pylist()
            except UnicodeDecodeError:
                raise UsageError(f"{source}, line {before + number + 1}: is not UTF-8") from None
        raise


def _cell(row: Row, column: str, where: str) -> object:
    if column not in row:
        raise UsageError(f"{where}: no column {column!r}, only {', '.join(map(str, row))}")
    return row[column]


def _text(row: Row, column: str, where: str) -> str:
    text = _cell(row, column, where)
    if not isinstance(text, str):
        raise UsageError(f"{where}: the column {column!r} holds no text but {text!r}")
    # As in SQuAD files: JSON may hold half of a surrogate pair, which no tokenizer takes.
    return encodable(text)


def _name(row: Row, column: str, where: str) -> str:
    """A word or number that identifies something."""
    name = str(_cell(row, column, where))
    _check_encodable([name], column, where)
    return name


def _check_encodable(names: Iterable[str], column: str, where: str) -> None:
    """See that names can be written as they stand: with a mark instead, two of them could become one."""
    for name in names:
        if encodable(name) != name:
            raise UsageError(f"{where}: the column {column!r} holds {name!r}, which no file can hold")


def _label(row: Row, column: str, where: str) -> str | None:
    """A label as a word: JSON and Parquet have numbers too. None where the cell is empty."""
    label = _cell(row, column, where)
    # NaN is how pandas writes a cell that is empty.
    if label is None or label == "" or (isinstance(label, float) and math.isnan(label)):
        return None
    if isinstance(label, bool) or not isinstance(label, str | int | float):
        raise UsageError(f"{where}: the column {column!r} holds {label!r}, which is no word and no number")
    return _name(row, column, where)


# -------------------------------------------------------------------------------------------------- tags


def _table_sentences(path: str, flag: str, columns: Columns, labelled: bool) -> Iterator[Sentence]:
    words_column, tags_column = columns.text or "tokens", columns.label or "tags"
    for number, (line, row) in enumerate(_rows(path, flag, ())):
        where = f"--{flag} {path}, line {line}"
        words = [encodable(word) for word in _list(row, words_column, where)]
        tags = _list(row, tags_column, where) if tags_column in row or labelled else None
        if tags is not None and len(tags) != len(words):
            raise UsageError(f"{where}: {len(words)} words and {len(tags)} tags")
        _check_encodable(tags or (), tags_column, where)
        if words:
            identifier = _name(row, columns.id, where) if columns.id else str(number)
            yield Sentence(identifier, words, tags, line)


def _list(row: Row, column: str, where: str) -> list[str]:
    cells = _cell(row, column, where)
    if not isinstance(cells, list) or not all(isinstance(cell, str) for cell in cells):
        raise UsageError(f"{where}: the column {column!r} holds no list of words")
    return cells


def _column_sentences(path: str, flag: str, columns: Columns, labelled: bool) -> Iterator[Sentence]:
    if columns.id:
        raise UsageError(f"--id_column {columns.id}: {path} has a word in each line, and no ids")
    word_place, tag_place = _place(columns.text, "text_column", 1), _place(columns.label, "label_column", -1)
    needed = [("text_column", word_place)] + ([("label_column", tag_place)] if labelled else [])
    number, words, tags, first_line, width = 0, [], [], 0, 0
    for line, (text,) in _with_faults_named(path, flag, _whole_lines):
        cells = _WORD_OR_TAG.findall(text.rstrip("\r\n"))
        if not cells or cells[0] == _DOCUMENT_MARK:
            if words:
                yield Sentence(str(number), words, tags or None, first_line)
                number += 1
            words, tags = [], []
            continue
        where = f"--{flag} {path}, line {line}"
        if not words:
            first_line = line
        width = width or len(cells)
        if len(cells) != width:
            raise UsageError(f"{where}: has {len(cells)} columns, and the lines before it have {width}")
        if width == 1 and labelled:
            raise UsageError(f"{where}: has one column, where a word and its tag are expected")
        for name, place in needed:
            if place >= width:
                raise UsageError(f"--{name} {place + 1}: {path} has {width} columns")
        if labelled and word_place == tag_place % width:
            raise UsageError(f"{where}: words and tags would both be column {word_place + 1}")
        words.append(cells[word_place])
        if width > max(tag_place, 1):
            tags.append(cells[tag_place])
    if words:
        yield Sentence(str(number), words, tags or None, first_line)


def _place(column: str, flag: str, default: int) -> int:
    """A column's place, from 0, by its number from 1; -1 is the last one."""
    if not column:
        return default - 1 if default > 0 else default
    if not column.isdecimal() or int(column) < 1:
        raise UsageError(f"--{flag} {column}: columns of words and tags have numbers, from 1")
    return int(column) - 1
