"""Text corpora: a folder tree of plain or compressed text files, read as blocks of documents.

Memory is bounded by one block, whatever the size of a file, a document or a line.
"""

import bz2
import codecs
import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard

from command_line import UsageError

SUFFIXES = (".txt", ".txt.gz", ".txt.bz2", ".txt.zst")

_BLOCK_SIZE = 2_000_000
# What a line takes in memory beside its characters; counted too, so that blocks of short lines are no larger.
_LINE_OVERHEAD = 60
_MAX_LINE_CHARACTERS = 200_000
_READ_BYTES = 1 << 20
# Repetitive text may shrink to a ten-thousandth; what so few bytes stand for fits in memory all the same.
_ZSTD_READ_BYTES = 1 << 10
_FAULTS = (OSError, EOFError, zlib.error, zstandard.ZstdError)

Document = list[str]


@dataclass(frozen=True)
class Source:
    """A text file of the corpus: where it is, and its name relative to the corpus, fit to be printed."""

    path: str
    name: str


@dataclass(frozen=True)
class SourceInspection:
    """What a whole read of a source found: its size and SHA-256 as stored, and why it is unreadable."""

    name: str
    bytes: int
    sha256: str
    fault: str | None


def find_sources(corpus_dir: str | Path, leave_out: Collection[str | Path] = ()) -> list[Source]:
    """The text files below a folder, sorted by name; linked folders are followed once.

    Args:
        leave_out: files and folders that are no text of the corpus though they may lie in it, such as the
            vocabulary and the results.

    Raises:
        UsageError: the folder is missing, holds a folder that cannot be read, or holds no text file.
    """
    root = Path(corpus_dir)
    if not root.is_dir():
        raise UsageError(f"--corpus_dir {corpus_dir}: no such folder")
    sources, visited = [], set()
    left_out = {os.path.realpath(path) for path in leave_out}
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=_stop_at_folder):
        real = os.path.realpath(folder)
        if real in visited or real in left_out:
            subfolders.clear()
            continue
        visited.add(real)
        # The same order on every file system, so that a folder with two names always goes by the same one.
        subfolders.sort()
        for name in names:
            path = Path(folder, name)
            if not name.endswith(SUFFIXES) or name.startswith(".") or os.path.realpath(path) in left_out:
                continue
            # A dangling link is a source too, so that it is reported; pipes and sockets are none.
            if path.is_file() or not path.exists():
                relative_name = path.relative_to(root).as_posix()
                sources.append(
                    Source(str(path), os.fsencode(relative_name).decode("utf-8", "backslashreplace"))
                )
    if not sources:
        raise UsageError(f"--corpus_dir {corpus_dir}: holds no {', '.join(SUFFIXES)} file")
    return sorted(sources, key=lambda source: source.name)


def inspect_source(source: Source) -> SourceInspection:
    """Read a source to its end, to hash it and to see that all of it decompresses and is UTF-8."""
    digest, size, fault = hashlib.sha256(), 0, None
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with open(source.path, "rb") as stream:
            while chunk := stream.read(_READ_BYTES):
                digest.update(chunk)
                size += len(chunk)
        if size == 0 and not source.path.endswith(".txt"):
            raise EOFError("an empty file is no archive")
        with open_binary(source.path) as stream:
            while chunk := stream.read(_READ_BYTES):
                decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        fault = "not UTF-8"
    except _FAULTS as error:
        system_error = getattr(error, "strerror", None)
        fault = f"unreadable ({system_error})" if system_error else f"damaged ({error})"
    return SourceInspection(source.name, size, digest.hexdigest(), fault)


def open_binary(path: str) -> io.BufferedIOBase:
    """A source's decompressed bytes; reading raises an error where the file is damaged or cut off."""
    if path.endswith(".gz"):
        return gzip.open(path, "rb")
    if path.endswith(".bz2"):
        return bz2.open(path, "rb")
    if path.endswith(".zst"):
        return io.BufferedReader(_ZstdStream(open(path, "rb")), _READ_BYTES)
    return open(path, "rb")


def read_lines(path: str) -> Iterator[str]:
    """A source's lines, stripped; one longer than the bound comes in parts that end at a space."""
    rest, within_line = "", False
    with io.TextIOWrapper(open_binary(path), encoding="utf-8-sig") as stream:
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


def read_blocks(path: str, blanks_separate_docs: bool) -> Iterator[list[Document]]:
    """A source's documents, in blocks of about two million characters, a line counting 60 more than it has.

    A document is a list of lines without the blank ones. One that is longer than a block is cut between two
    lines, and its parts count as documents.
    """
    block: list[Document] = []
    document: Document = []
    block_size = document_size = 0
    for line in read_lines(path):
        if line:
            document.append(line)
            document_size += len(line) + _LINE_OVERHEAD
        ends_document = (not line and blanks_separate_docs) or document_size >= _BLOCK_SIZE
        if document and ends_document:
            block.append(document)
            block_size += document_size
            document, document_size = [], 0
            if block_size >= _BLOCK_SIZE:
                yield block
                block, block_size = [], 0
    if document:
        block.append(document)
    if block:
        yield block


class _ZstdStream(io.RawIOBase):
    """The text of a .zst file, frame after frame; unlike the library's reader it notices a missing end."""

    def __init__(self, stream: io.BufferedReader):
        self._stream = stream
        self._frame = None
        self._compressed = b""
        self._text = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._text:
            self._compressed = self._compressed or self._stream.read(_ZSTD_READ_BYTES)
            if not self._compressed:
                if self._frame is not None:
                    raise EOFError("compressed file ended before the end of its last frame")
                return 0
            self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
            self._text = memoryview(self._frame.decompress(self._compressed))
            self._compressed = self._frame.unused_data
            if self._frame.eof:
                self._frame = None
        count = min(len(buffer), len(self._text))
        buffer[:count], self._text = self._text[:count], self._text[count:]
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


def _stop_at_folder(error: OSError) -> None:
    raise UsageError(f"--corpus_dir {error.filename}: {error.strerror}")
