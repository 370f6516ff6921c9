"""Documents on their way through data preparation: what a source gives, and what was left out of it.

A source's module plans its parts (`plan`), which can be read independently of each other, and reads one
(`read`); whoever runs the parts is not known here.
"""

import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import zstandard

import files

SUFFIX = ".jsonl.zst"
_COMPRESSION_LEVEL = 3
_FRAME_BYTES = 1 << 20
_READ_BYTES = 1 << 20


class TextDocument(NamedTuple):
    """An article, a book or a record: its paragraphs in order, one a line, none of them blank."""

    title: str
    text: str


@dataclass
class Tally:
    """What did not become a document, or not as it was.

    Attributes:
        dropped: documents left out, by reason.
        changed: documents of which something was repaired or removed, by the cleaner's name.
        skipped: (name, reason) of files that are left out whole, by a rule.
        removed: characters left out of documents that stay, by reason.
        faults: what is damaged, each in words that name it; they make a step end non-zero unless tolerated.
    """

    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    removed: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


class DocumentFile:
    """Writes documents as compressed JSON lines, `{"title": …, "text": …}`.

    The lines are in frames of a megabyte or one document, each with a checksum, so that reading may begin at
    any of them. The file is complete under its name or absent. Use as a context manager; leaving it by an
    exception discards the file.

    Attributes:
        documents: how many have been written.
        bytes: of their texts in UTF-8.
    """

    def __init__(self, path: str | Path):
        self.documents = self.bytes = 0
        self._path = Path(path)
        self._temporary = files.temporary_path(path)
        self._compressor = zstandard.ZstdCompressor(level=_COMPRESSION_LEVEL, write_checksum=True)
        self._frame = bytearray()

    def __enter__(self) -> "DocumentFile":
        self._stream = open(self._temporary, "wb")
        return self

    def write(self, document: TextDocument) -> int:
        """Append a document; returns the byte of the file at which the frame that holds it begins."""
        frame_begin = self._stream.tell()
        self._frame += json.dumps(document._asdict(), ensure_ascii=False).encode("utf-8") + b"\n"
        self.documents += 1
        self.bytes += len(document.text.encode("utf-8"))
        if len(self._frame) >= _FRAME_BYTES:
            self._end_frame()
        return frame_begin

    def _end_frame(self) -> None:
        self._stream.write(self._compressor.compress(self._frame))
        self._frame.clear()

    def __exit__(self, error_type, error, traceback) -> None:
        try:
            with self._stream:
                # A file without documents is one frame of nothing.
                if error_type is None and (self._frame or not self.documents):
                    self._end_frame()
            if error_type is None:
                files.publish(self._temporary, self._path)
        finally:
            self._temporary.unlink(missing_ok=True)


def read_documents(path: str | Path, frame_begin: int = 0) -> Iterator[TextDocument]:
    """The documents of a file that `DocumentFile` wrote, in order, from a frame on.

    Raises:
        zstandard.ZstdError: a frame is damaged.
    """
    with open(path, "rb") as stored:
        stored.seek(frame_begin)
        stream = zstandard.ZstdDecompressor().stream_reader(stored, read_across_frames=True)
        for line in io.BufferedReader(stream, _READ_BYTES):
            yield TextDocument(**json.loads(line))
