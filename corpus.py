"""Text corpora: a folder tree of plain or compressed text files, read as blocks of documents.

Memory is bounded by one block, whatever the size of a file, a document or a line.
"""

import bz2
import codecs
import gzip
import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard

from command_line import UsageError

SUFFIXES = (".txt", ".txt.gz", ".txt.bz2", ".txt.zst")

_BLOCK_CHARACTERS = 2_000_000
_MAX_LINE_CHARACTERS = 200_000
_READ_BYTES = 1 << 20

Document = list[str]


@dataclass(frozen=True)
class Source:
    """A text file of the corpus: where it is, and its name relative to the corpus."""

    path: str
    name: str


@dataclass(frozen=True)
class SourceInspection:
    """What a whole read of a source found: its size and SHA-256 as stored, and why it is unreadable."""

    name: str
    bytes: int
    sha256: str
    fault: str | None


def find_sources(corpus_dir: str | Path) -> list[Source]:
    """The text files below a folder, sorted by name; linked folders are followed once.

    Raises:
        UsageError: the folder is missing or holds no text file.
    """
    root = Path(corpus_dir)
    if not root.is_dir():
        raise UsageError(f"--corpus_dir {corpus_dir}: no such folder")
    sources, visited = [], set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        for name in names:
            if name.endswith(SUFFIXES) and not name.startswith("."):
                path = Path(folder, name)
                sources.append(Source(str(path), path.relative_to(root).as_posix()))
    if not sources:
        raise UsageError(f"--corpus_dir {corpus_dir}: holds no {', '.join(SUFFIXES)} file")
    return sorted(sources, key=lambda source: source.name)


def inspect_source(source: Source) -> SourceInspection:
    """Read a source once, to hash it and to see that all of it decompresses and is UTF-8."""
    digest, size = hashlib.sha256(), 0
    with open(source.path, "rb") as stream:
        while chunk := stream.read(_READ_BYTES):
            digest.update(chunk)
            size += len(chunk)
    fault = None
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with open_binary(source.path) as stream:
            while chunk := stream.read(_READ_BYTES):
                decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        fault = "not UTF-8"
    except (OSError, EOFError, zstandard.ZstdError) as error:
        fault = f"damaged ({error})"
    return SourceInspection(source.name, size, digest.hexdigest(), fault)


def open_binary(path: str) -> io.BufferedIOBase:
    """A source's decompressed bytes."""
    if path.endswith(".gz"):
        return gzip.open(path, "rb")
    if path.endswith(".bz2"):
        return bz2.open(path, "rb")
    if path.endswith(".zst"):
        return io.BufferedReader(
            zstandard.ZstdDecompressor().stream_reader(
                open(path, "rb"), read_across_frames=True, closefd=True
            ),
            _READ_BYTES,
        )
    return open(path, "rb")


def read_lines(path: str) -> Iterator[str]:
    """A source's lines, stripped; one longer than the bound comes in parts that end at a space."""
    rest = ""
    with io.TextIOWrapper(open_binary(path), encoding="utf-8-sig") as stream:
        while chunk := stream.readline(_MAX_LINE_CHARACTERS):
            text, rest = rest + chunk, ""
            if not chunk.endswith("\n") and len(chunk) == _MAX_LINE_CHARACTERS:
                cut = text.rfind(" ")
                if cut > 0:
                    text, rest = text[:cut], text[cut + 1 :]
            yield text.strip()
    if rest:
        yield rest.strip()


def read_blocks(path: str, blanks_separate_docs: bool) -> Iterator[list[Document]]:
    """A source's documents, in blocks of about two million characters.

    A document is a list of lines without the blank ones. One that is longer than a block is cut between two
    lines, and its parts count as documents.
    """
    block: list[Document] = []
    document: Document = []
    block_characters = document_characters = 0
    for line in read_lines(path):
        if line:
            document.append(line)
            document_characters += len(line)
        ends_document = (not line and blanks_separate_docs) or document_characters >= _BLOCK_CHARACTERS
        if document and ends_document:
            block.append(document)
            block_characters += document_characters
            document, document_characters = [], 0
            if block_characters >= _BLOCK_CHARACTERS:
                yield block
                block, block_characters = [], 0
    if document:
        block.append(document)
    if block:
        yield block
