"""Text corpora: a folder tree of text files, records and archives of them, read as blocks of documents.

A line of a text file is a line of a document; a blank line or the file's end ends the document. A record is
a document, whatever blank lines are in it, and its lines are split into sentences. Memory is bounded by one
block, whatever the size of a file, a document or a line, and by one record.
"""

import codecs
import dataclasses
import glob
import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from command_line import UsageError
from corpus_files import (
    FAULTS,
    KINDS,
    Member,
    SkippedMember,
    count_lines,
    fault_of,
    kind_of,
    open_members,
    printable,
)
from corpus_records import TextRecord, read_records
from saved_datasets import entries_with_text
from sentences import split_sentences

_BLOCK_SIZE = 2_000_000
# What a line takes in memory beside its characters; counted too, so that blocks of short lines are no larger.
_LINE_OVERHEAD = 60
_MAX_LINE_CHARACTERS = 200_000
_READ_BYTES = 1 << 20
# What is longer, or has a space, is a part of the name.
_ENDING = re.compile(r"\.\w{1,10}")
_MOST_ENDINGS = 10

Document = list[str]


class Record(list[str]):
    """A document out of a record: its lines are paragraphs, which `as_sentences` splits."""


# With slots, for a folder may have millions.
@dataclass(frozen=True, slots=True)
class Source:
    """A file of the corpus: where it is, and its name relative to the corpus, fit to be printed.

    Attributes:
        left_out: positions of an archive's members that are not read.
        span: the part of it that is read, as `corpus_files.open_members` takes it; None for all.
    """

    path: str
    name: str
    left_out: frozenset[tuple[int, ...]] = frozenset()
    span: tuple[int, int] | None = None


class Text(NamedTuple):
    """A file of text or a record: a file's name within its archive (or ""), a record's title (or ""), and
    the lines, stripped; one longer than the bound comes in parts that end at a space."""

    name: str
    title: str
    is_record: bool
    lines: Iterator[str]


@dataclass(frozen=True)
class SourceInspection:
    """What a whole read of a source found: its size and SHA-256 as stored, and why it is unreadable.

    Attributes:
        modified: when it was last changed before it was read, in nanoseconds.
        skipped: an archive's members that are no plain files or are unreadable.
    """

    name: str
    bytes: int
    sha256: str
    modified: int
    fault: str | None
    skipped: tuple[SkippedMember, ...] = ()

    def left_out(self) -> list[tuple[str, str]]:
        """Name and reason of all that is not read: the source, or members of it."""
        if self.fault is not None:
            return [(self.name, self.fault)]
        return [(f"{self.name}/{member.name}", member.reason) for member in self.skipped]


def find_sources(
    corpus_dir: str | Path,
    leave_out: Collection[str | Path] = (),
    flag: str = "corpus_dir",
    others: Counter[str] | None = None,
) -> list[Source]:
    """The files with text below a folder, sorted by name; linked folders are followed once.

    Args:
        leave_out: files and folders that are no text of the corpus though they may lie in it, such as the
            vocabulary and the results.
        flag: which one names the folder, for messages.
        others: takes the numbers of files of other kinds by their endings, "" for none; those that are hidden
            or in a hidden folder are not counted.

    Raises:
        UsageError: the folder is missing, holds a folder that cannot be read, or holds no such file.
    """
    root = Path(corpus_dir)
    if not root.is_dir():
        raise UsageError(f"--{flag} {corpus_dir}: no such folder")

    def stop_at_folder(error: OSError) -> None:
        raise UsageError(f"--{flag} {error.filename}: {error.strerror}")

    sources, visited = [], set()
    left_out = {os.path.realpath(path) for path in leave_out}
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=stop_at_folder):
        real = os.path.realpath(folder)
        if real in visited or real in left_out:
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:], names = entries_with_text(folder, subfolders, names)
        # The same order on every file system, so that a folder with two names always goes by the same one.
        subfolders.sort()
        is_hidden = any(part.startswith(".") for part in Path(folder).relative_to(root).parts)
        for name in names:
            is_other = kind_of(name) is None
            if is_other and (others is None or is_hidden or name.startswith(".")):
                continue
            path = Path(folder, name)
            if left_out and os.path.realpath(path) in left_out:
                continue
            if is_other:
                ending = path.suffix.lower()
                others[ending if _ENDING.fullmatch(ending) else ""] += 1
                continue
            # A dangling link is a source too, so that it is reported; pipes and sockets are none.
            if path.is_file() or not path.exists():
                relative_name = path.relative_to(root).as_posix()
                sources.append(
                    Source(str(path), os.fsencode(relative_name).decode("utf-8", "backslashreplace"))
                )
    if not sources:
        raise UsageError(f"--{flag} {corpus_dir}: holds no {KINDS} file")
    return sorted(sources, key=lambda source: source.name)


def tell_others(others: Counter[str]) -> None:
    """Print how many files of other kinds `find_sources` has met, if any, by their endings."""
    if not others:
        return
    shown = others.most_common(_MOST_ENDINGS)
    words = [f"{printable(ending) or 'without an ending'} {count:,}" for ending, count in shown]
    if len(others) > len(shown):
        words.append(f"more {others.total() - sum(count for _, count in shown):,}")
    print(f"{others.total():,} files of other kinds are not read: {', '.join(words)}", flush=True)


def find_files(patterns: str, flag: str) -> list[Source]:
    """The files of comma-separated globs, in their order; each file once.

    Raises:
        UsageError: a glob matches nothing, or a file of another kind.
    """
    paths: list[str] = []
    for pattern in filter(None, (part.strip() for part in patterns.split(","))):
        matches = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern))
        if not matches:
            raise UsageError(f"--{flag} {pattern}: no such file")
        paths += matches
    for path in paths:
        if kind_of(os.path.basename(path)) is None or not os.path.isfile(path):
            raise UsageError(f"--{flag} {path}: no {KINDS} file")
    return [Source(path, printable(path)) for path in dict.fromkeys(paths)]


def is_text_file(name: str) -> bool:
    """Whether a source, by its name, holds no records."""
    return kind_of(os.path.basename(name)) == "txt"


def inspect_source(source: Source, text_column: str = "text") -> SourceInspection:
    """Read a source to its end, to hash it and to see that all of it decompresses and is UTF-8.

    Raises:
        UsageError: a record is no JSON, or has no such column.
    """
    digest, size, modified = hashlib.sha256(), 0, 0
    try:
        with open(source.path, "rb") as stream:
            modified = os.fstat(stream.fileno()).st_mtime_ns
            while chunk := stream.read(_READ_BYTES):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        return SourceInspection(source.name, size, digest.hexdigest(), modified, fault_of(error))
    faults = find_faults(source, text_column)
    return SourceInspection(source.name, size, digest.hexdigest(), modified, *faults)


def is_unchanged(source: Source, inspection: SourceInspection) -> bool:
    """Whether a source is still the file that was inspected, by its size and time."""
    try:
        status = os.stat(source.path)
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (inspection.bytes, inspection.modified)


def find_faults(source: Source, text_column: str = "text") -> tuple[str | None, tuple[SkippedMember, ...]]:
    """Why a source is not read, or None, and the members of it that are not, as a whole read of it shows.

    Raises:
        UsageError: a record is no JSON, or has no such column.
    """
    skipped: list[SkippedMember] = []
    try:
        if os.path.getsize(source.path) == 0 and not source.path.lower().endswith((".txt", ".jsonl")):
            raise EOFError("an empty file is no archive")
        for member in open_members(source.path, skipped=skipped.append, span=source.span):
            try:
                _read_to_the_end(member, text_column, source)
            except FAULTS as error:
                if not member.name:
                    raise
                skipped.append(SkippedMember(member.position, member.name, fault_of(error)))
    except FAULTS as error:
        return fault_of(error), tuple(skipped)
    return None, tuple(skipped)


def usable_sources(
    sources: list[Source], inspections: list[SourceInspection], corpus_dir: str, strict: bool
) -> list[Source]:
    """The readable sources, without the unreadable members of archives; what is left out is printed.

    Raises:
        UsageError: something would be left out, and `strict` forbids it.
    """
    usable = []
    for source, inspection in zip(sources, inspections, strict=True):
        for name, reason in inspection.left_out():
            if strict:
                raise UsageError(f"--strict: {os.path.join(corpus_dir, name)}: {reason}")
            print(f"skipped {os.path.join(corpus_dir, name)}: {reason}")
        if inspection.fault is None:
            left_out = frozenset(member.position for member in inspection.skipped)
            usable.append(dataclasses.replace(source, left_out=left_out))
    return usable


def read_texts(source: Source, text_column: str = "text") -> Iterator[Text]:
    """Each file and each record of a source, in order; each is read before the next."""
    for member in open_members(source.path, source.left_out, span=source.span):
        if member.kind == "txt":
            with io.TextIOWrapper(member.stream, encoding="utf-8-sig") as stream:
                yield Text(member.name, "", False, _stripped_lines(stream))
        else:
            for title, text in _records(member, text_column, source):
                # As in a file, \r\n and \r end lines as well.
                yield Text(member.name, title, True, _stripped_lines(io.StringIO(text, newline=None)))


def _stripped_lines(stream: io.TextIOBase) -> Iterator[str]:
    rest, within_line = "", False
    while chunk := stream.readline(_MAX_LINE_CHARACTERS):
        text, rest = rest + chunk, ""
        goes_on = not chunk.endswith("\n") and len(chunk) == _MAX_LINE_CHARACTERS
        if goes_on and (cut := text.rfind(" ")) > 0:
            text, rest = text[:cut], text[cut + 1 :]
        line = text.strip()
        # An empty part of a longer line is no blank line.
        if line or not (goes_on or within_line):
            yield line
        within_line = goes_on
    if rest:
        yield rest.strip()


def read_blocks(
    path: str,
    blanks_separate_docs: bool,
    text_column: str = "text",
    left_out: Collection[tuple[int, ...]] = (),
) -> Iterator[list[Document]]:
    """A source's documents, in blocks of about two million characters, a line counting 60 more than it has.

    A document is a list of lines without the blank ones. One that is longer than a block is cut between two
    lines, and its parts count as documents.
    """
    block: list[Document] = []
    block_size = 0
    for document, size in _documents(path, blanks_separate_docs, text_column, left_out):
        block.append(document)
        block_size += size
        if block_size >= _BLOCK_SIZE:
            yield block
            block, block_size = [], 0
    if block:
        yield block


def as_sentences(document: Document) -> Document:
    """The document as examples are made from it; apart from reading, for it takes ten times as long."""
    if isinstance(document, Record):
        return [sentence for paragraph in document for sentence in split_sentences(paragraph)]
    return document


def _documents(
    path: str, blanks_separate_docs: bool, text_column: str, left_out: Collection[tuple[int, ...]]
) -> Iterator[tuple[Document, int]]:
    for text in read_texts(Source(path, path, frozenset(left_out)), text_column):
        new_document = Record if text.is_record else list
        blanks_end_it = blanks_separate_docs and not text.is_record
        for lines, size in group_lines(text.lines, blanks_end_it, _BLOCK_SIZE):
            yield new_document(lines), size


def group_lines(lines: Iterable[str], blanks_end_it: bool, most: int) -> Iterator[tuple[list[str], int]]:
    """Documents as lists of lines without the blank ones, and their sizes; one of more than `most` is cut.

    Args:
        blanks_end_it: whether a blank line ends a document; otherwise all lines are one.
        most: characters, a line counting 60 more than it has.
    """
    document, size = [], 0
    for line in lines:
        if line:
            document.append(line)
            size += len(line) + _LINE_OVERHEAD
        if document and (size >= most or (not line and blanks_end_it)):
            yield document, size
            document, size = [], 0
    if document:
        yield document, size


def _read_to_the_end(member: Member, text_column: str, source: Source) -> None:
    if member.kind == "txt":
        decoder = codecs.getincrementaldecoder("utf-8")()
        while chunk := member.stream.read(_READ_BYTES):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
    else:
        for _ in _records(member, text_column, source):
            pass


def _records(member: Member, text_column: str, source: Source) -> Iterator[TextRecord]:
    label = printable(f"{source.path}/{member.name}" if member.name else source.path)
    return read_records(
        member, text_column, label, lambda: count_lines(source.path, source.span[0]) if source.span else 0
    )
