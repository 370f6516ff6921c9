"""Files and folders of text -> documents: books, OpenWebText, a user's own text, saved datasets.

What a part is and how documents are told apart is said here; corpus.py finds and reads the files. Sentences
are split later, and nothing is left out of a document but what frames a book (books.py).
"""

import itertools
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import corpus
from command_line import UsageError
from corpus import Source, Text
from corpus_files import KINDS, is_damage, kind_of, printable
from data import books
from data.documents import Tally, TextDocument

BY_BLANK_LINE, BY_FILE = "blank_lines", "file"

_PART_BYTES = 16_000_000
_PART_FILES = 10_000
# What text and Parquet shrink to, and more in archives of several levels: a part takes as long as another.
_PACKED_WEIGHT = 3
# A longer document is cut between two lines, so that memory is bounded; few books are longer.
_DOCUMENT_CHARACTERS = 8_000_000
# Paragraphs are longer than this where they are not wrapped; Gutenberg's lines have up to 80.
_WRAPPED_CHARACTERS = 100
_WRAPPED_LINES = 2_000

_WINDOW_BYTES = 1 << 16
# Not before a byte-order mark: at the beginning of a part it would be taken for the file's own.
_DOCUMENT_START = {
    "txt": re.compile(rb"\n[ \t\r]*\n(?=[^\xef])"),
    "jsonl": re.compile(rb"\n(?=[^\xef])"),
}
_TEXT_ENDINGS = re.compile(r"(\.txt(\.\w+)?|\.xz)$", re.IGNORECASE)


@dataclass(frozen=True)
class TextPart:
    """A large file's piece, a file, or a run of small ones: what is read as one.

    Attributes:
        name: unique in its plan, fit for a file's name; the names sort in the order of the documents.
        sources: the files, in order; one with a span is a piece of it.
        text_column: the column of text in records.
        documents: `BY_BLANK_LINE` or `BY_FILE`, for text files; a record is a document.
        strict: whether a file that is left out stops.
    """

    name: str
    sources: tuple[Source, ...]
    text_column: str
    documents: str
    strict: bool

    @property
    def source(self) -> str:
        """Path of its first file."""
        return self.sources[0].path

    @property
    def stored_bytes(self) -> int:
        return sum(map(_stored_bytes, self.sources))


def plan(
    inputs: Sequence[str | Path],
    text_column: str = "text",
    documents: str = BY_BLANK_LINE,
    *,
    strict: bool = False,
    leave_out: Collection[str | Path] = (),
) -> list[TextPart]:
    """The parts of files and folders, of about 16 MB of text each; joined, they are the same for any cut.

    Large files are cut if they are plain .txt whose documents end at blank lines, plain .jsonl, or .parquet.

    Args:
        inputs: files and folders, in the order of the documents; what is named twice is read once.
        text_column: the column of text in records.
        documents: `BY_BLANK_LINE` or `BY_FILE`, for text files.
        strict: stop at a file that is left out by a rule.
        leave_out: files and folders that are no text though they may lie in an input.

    Raises:
        UsageError: an input is missing, cannot be read, or holds no text.
    """
    groups: list[list[Source]] = []
    room, files_left = 0, 0
    for source in _find(inputs, leave_out):
        pieces, weight = _pieces(source, documents)
        if len(pieces) > 1 or weight > room or not files_left:
            groups.extend([piece] for piece in pieces)
            room, files_left = (0, 0) if len(pieces) > 1 else (_PART_BYTES - weight, _PART_FILES - 1)
        else:
            groups[-1] += pieces
            room, files_left = room - weight, files_left - 1
    return [
        TextPart(f"{number:06}-{_label(group[0])}", tuple(group), text_column, documents, strict)
        for number, group in enumerate(groups)
    ]


def read(part: TextPart, tally: Tally) -> Iterator[TextDocument]:
    """A part's documents, in order; paragraphs are its lines.

    A text file by blank lines: each line is a paragraph. By files: lines of a paragraph that is wrapped are
    joined, and frames of Project Gutenberg's books left out. Memory is bounded by eight million characters (a
    longer document is cut), and by 64 MB of a record. A file, or piece of one, is looked through before the
    first document of it is given; what is not UTF-8 or otherwise unfit is named in `tally.skipped`, what is
    damaged in `tally.faults`, and no document comes of either.

    Raises:
        UsageError: a record is no JSON, or has no such column; something is left out, and the part is strict.
    """
    for source in part.sources:
        fault, skipped = corpus.find_faults(source, part.text_column)
        if fault is not None:
            _leave_out(_name(source), fault, part.strict, tally)
            continue
        for member in skipped:
            _leave_out(f"{_name(source)}/{member.name}", member.reason, part.strict, tally)
        source = replace(source, left_out=frozenset(member.position for member in skipped))
        for text in corpus.read_texts(source, part.text_column):
            yield from _documents(text, source, part.documents, tally)


def source_paths(part: TextPart) -> list[str]:
    """The files that a part is read from."""
    return [source.path for source in part.sources]


# ----------------------------------------------------------------------------------------------------- plan


def _find(inputs: Sequence[str | Path], leave_out: Collection[str | Path]) -> Iterator[Source]:
    seen: set[str] = set()
    others: Counter[str] = Counter()
    for path in map(os.fspath, inputs):
        if os.path.isdir(path):
            found = corpus.find_sources(path, leave_out, flag="input_files", others=others)
        elif not os.path.exists(path):
            raise UsageError(f"--input_files {path}: no such file or folder")
        elif kind_of(os.path.basename(path)) is None:
            raise UsageError(f"--input_files {path}: is no {KINDS} file")
        else:
            found = [Source(path, printable(os.path.basename(path)))]
        for source in found:
            # Of several inputs one may lie in another; realpath takes longer than all the rest.
            real = os.path.realpath(source.path) if len(inputs) > 1 else source.path
            if real not in seen:
                seen.add(real)
                yield source
    corpus.tell_others(others)


def _stored_bytes(source: Source) -> int:
    if source.span is not None and kind_of(os.path.basename(source.path)) != "parquet":
        return source.span[1] - source.span[0]
    try:
        return os.path.getsize(source.path)
    except OSError:
        # Who reads it names it.
        return 0


def _pieces(source: Source, documents: str) -> tuple[list[Source], int]:
    """The pieces that a file is cut into, and its weight in bytes of plain text, about."""
    kind = kind_of(os.path.basename(source.path))
    is_plain = source.path.lower().endswith((".txt", ".jsonl", ".arrow"))
    try:
        size = os.path.getsize(source.path)
    except OSError:
        # Who reads it names it.
        size = 0
    weight = size if is_plain else _PACKED_WEIGHT * size
    bounds: list[int] = []
    if weight > _PART_BYTES and kind == "parquet":
        bounds = _row_group_bounds(source.path)
    elif weight > _PART_BYTES and is_plain and (kind == "jsonl" or (kind == "txt" and documents != BY_FILE)):
        bounds = _byte_bounds(source.path, size, _DOCUMENT_START[kind])
    if len(bounds) <= 2:
        return [source], weight
    return [replace(source, span=span) for span in itertools.pairwise(bounds)], weight


def _byte_bounds(path: str, size: int, document_start: re.Pattern[bytes]) -> list[int]:
    bounds = [0]
    with open(path, "rb") as stream:
        while bounds[-1] + 1.5 * _PART_BYTES < size:
            position = bounds[-1] + _PART_BYTES
            while True:
                stream.seek(position)
                window = stream.read(_WINDOW_BYTES)
                match = document_start.search(window)
                if match or len(window) < _WINDOW_BYTES:
                    break
                # A beginning on the seam of two windows is passed over; the next one does as well.
                position += _WINDOW_BYTES
            if not match:
                break
            bounds.append(position + match.end())
    return [*bounds, size]


def _row_group_bounds(path: str) -> list[int]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            sizes = [
                table.metadata.row_group(number).total_byte_size for number in range(table.num_row_groups)
            ]
    except (pyarrow.ArrowException, OSError):
        # Who reads it names it.
        return []
    bounds, weight = [0], 0
    for number, size in enumerate(sizes):
        if weight and weight + size > _PART_BYTES:
            bounds.append(number)
            weight = 0
        weight += size
    return [*bounds, len(sizes)]


def _label(source: Source) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", source.name)[-60:].lstrip(".")


# ----------------------------------------------------------------------------------------------------- read


def _leave_out(name: str, reason: str, strict: bool, tally: Tally) -> None:
    if is_damage(reason):
        tally.faults.append(f"{name}: {reason}")
    elif strict:
        raise UsageError(f"--strict: {name}: {reason}")
    else:
        tally.skipped.append((name, reason))


def _name(source: Source) -> str:
    name = printable(source.path)
    if source.span is None:
        return name
    unit = "row groups" if kind_of(os.path.basename(source.path)) == "parquet" else "bytes"
    return f"{name} ({unit} {source.span[0]} to {source.span[1]})"


def _documents(text: Text, source: Source, documents: str, tally: Tally) -> Iterator[TextDocument]:
    title, lines = text.title, text.lines
    if documents == BY_FILE and not text.is_record:
        title = _TEXT_ENDINGS.sub("", os.path.basename(text.name or source.name))
        lines = _unwrapped(books.body(lines, tally))
    blanks_end_it = documents == BY_BLANK_LINE and not text.is_record
    for paragraphs, _ in corpus.group_lines(lines, blanks_end_it, _DOCUMENT_CHARACTERS):
        yield TextDocument(title, "\n".join(paragraphs))


def _unwrapped(lines: Iterable[str]) -> Iterator[str]:
    """Paragraphs: a run of lines that are all short is one that was wrapped, any other line is one itself."""
    run: list[str] = []
    is_wrapped = True
    for line in itertools.chain(lines, [""]):
        if line:
            run.append(line)
            is_wrapped = is_wrapped and len(line) <= _WRAPPED_CHARACTERS
        if not is_wrapped or len(run) >= _WRAPPED_LINES or not line:
            if is_wrapped and run:
                yield _joined(run)
            else:
                yield from run
            run = []
        if not line:
            is_wrapped = True


def _joined(lines: list[str]) -> str:
    """Lines as one; a hyphen or a dash at the end of a line is followed by no space."""
    joints = ("" if line.endswith("-") and not line.endswith(" -") else " " for line in lines)
    return "".join(itertools.chain(*zip(lines, joints, strict=True))).strip()
