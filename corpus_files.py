"""The files that a corpus may consist of: text and records, compressed or not, alone or in archives.

An archive is read as a stream, member after member: nothing is unpacked to disk, and memory is bounded
whatever the archive says of itself. What members hold is for corpus.py and corpus_records.py to read.
"""

import bz2
import gzip
import io
import lzma
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import zstandard

KINDS = ".txt, .jsonl, .parquet, .arrow, .tar or .zip"

# Of names in small letters.
_PACKED = re.compile(r".*\.(txt|jsonl|tar)(\.gz|\.bz2|\.zst|\.xz)?", re.DOTALL)
_WHOLE = re.compile(r".*\.(parquet|arrow|zip|tgz|txz)", re.DOTALL)
# OpenWebText's archive holds tars of this name.
_BARE_XZ = re.compile(r"[^.]+\.xz")
_READ_BYTES = 1 << 16
# Repetition shrinks to a 7,000th in xz, to a 40,000th in zstd; so few bytes stand for ten megabytes at most.
_XZ_READ_BYTES = 1 << 10
_ZSTD_READ_BYTES = 1 << 8
# In bzip2 it shrinks to a millionth, but that decompressor stops when asked to.
_BZIP2_TEXT_BYTES = 1 << 20
_FRAMES_BUFFER_BYTES = 1 << 20
# Text shrinks to a tenth, rarely to a hundredth; deflate can make a thousandth of nothing but repetition.
_MAX_EXPANSION = 200
_ALWAYS_ALLOWED_BYTES = 100_000_000
# Parquet and zip begin at their ends, so within an archive they are read from memory.
_MAX_SEEKABLE_MEMBER = 256_000_000
_MAX_TAR_HEADER = 10_000_000
_TAR_MAGIC = slice(257, 262)


class Refused(Exception):
    """A file that is whole but is not read; its message says why."""


# Reading raises one of these where a file is damaged, cut off or refused.
FAULTS = (
    OSError,
    EOFError,
    UnicodeDecodeError,
    NotImplementedError,  # zipfile's, for a compression or an encryption that it does not know
    zlib.error,
    lzma.LZMAError,
    zstandard.ZstdError,
    tarfile.TarError,
    zipfile.BadZipFile,
    Refused,
)


@dataclass(frozen=True)
class Member:
    """A file of text or records: a source itself, or a file within a source that is an archive.

    Attributes:
        position: number in the archive, two numbers for a file in a nested archive; () for a source.
        name: path within the archive, fit to be printed; "" for a source.
        kind: txt, jsonl, parquet or arrow.
        stream: its decompressed bytes.
        row_groups: the first and the one after the last that are wanted of a Parquet file; None for all.
    """

    position: tuple[int, ...]
    name: str
    kind: str
    stream: io.BufferedIOBase
    row_groups: tuple[int, int] | None = None


@dataclass(frozen=True)
class SkippedMember:
    """A file within an archive that is left out, and why."""

    position: tuple[int, ...]
    name: str
    reason: str


def kind_of(name: str) -> str | None:
    """txt, jsonl, parquet, arrow, tar, zip or xz (a tar or text, as its content says); None for others.

    By its ending, in small letters or capitals.
    """
    if name.startswith("."):
        return None
    name = name.lower()
    if match := _PACKED.fullmatch(name) or _WHOLE.fullmatch(name):
        return {"tgz": "tar", "txz": "tar"}.get(match[1], match[1])
    return "xz" if _BARE_XZ.fullmatch(name) else None


def fault_of(error: Exception) -> str:
    """Why a file is left out, for one of `FAULTS`."""
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    if isinstance(error, Refused):
        return str(error)
    system_error = getattr(error, "strerror", None)
    return f"unreadable ({system_error})" if system_error else f"damaged ({error})"


def is_damage(reason: str) -> bool:
    """Whether a file that is left out should have been read, rather than being left out by a rule."""
    return reason.startswith(("unreadable (", "damaged ("))


def printable(name: str) -> str:
    """A name out of an archive or a folder, with what cannot be printed escaped."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def open_binary(path: str) -> io.BufferedIOBase:
    """A file's decompressed bytes; reading raises one of `FAULTS` where it is damaged or cut off."""
    return _decompressed(path, path)


def count_lines(path: str, end: int) -> int:
    """How many lines of a file end before an offset in bytes."""
    lines = 0
    with _range(path, 0, end) as stream:
        while chunk := stream.read(_READ_BYTES):
            lines += chunk.count(b"\n")
    return lines


def open_members(
    path: str,
    left_out: Collection[tuple[int, ...]] = (),
    skipped: Callable[[SkippedMember], None] = lambda member: None,
    span: tuple[int, int] | None = None,
) -> Iterator[Member]:
    """The files of text and records that a source consists of, in its order; each is read before the next.

    Args:
        left_out: positions of members that are not wanted.
        skipped: called for each member that is no plain file, lies outside, or is an archive that is damaged.
        span: first and the one after the last of the bytes (.txt, .jsonl) or row groups (.parquet) that are
            wanted of a source that is neither compressed nor an archive; None for all.

    Raises:
        one of `FAULTS`: the archive is damaged, expands beyond measure, or holds nothing to read.
    """
    kind = kind_of(os.path.basename(path))
    if kind not in ("tar", "zip", "xz"):
        row_groups = span if kind == "parquet" else None
        in_bytes = span is not None and row_groups is None
        with _range(path, *span) if in_bytes else open_binary(path) as stream:
            yield Member((), "", kind or "txt", stream, row_groups)
        return
    budget = _Budget(os.path.getsize(path))
    empty = not left_out

    def report(member: SkippedMember) -> None:
        nonlocal empty
        empty = False
        skipped(member)

    with open_binary(path) if kind == "zip" else _Counted(open_binary(path), budget) as stream:
        if kind == "xz" and not _begins_a_tar(stream):
            yield Member((), "", "txt", stream)
            return
        for member in _walk(kind, stream, budget, (), "", left_out, report):
            empty = False
            yield member
    if empty:
        raise Refused(f"holds no {KINDS} file")


# ------------------------------------------------------------------------------------------------- archives


class _Budget:
    """How many bytes an archive of a given size may become, over all levels of unpacking."""

    def __init__(self, size: int):
        self._left = max(_ALWAYS_ALLOWED_BYTES, _MAX_EXPANSION * size)

    def spend(self, count: int) -> None:
        self._left -= count
        self.check()

    def check(self) -> None:
        if self._left < 0:
            raise Refused(f"refused (more than {_MAX_EXPANSION} times its size when unpacked)")


class _CountedBytes(io.RawIOBase):
    def __init__(self, stream: io.BufferedIOBase, budget: _Budget):
        self._stream = stream
        self._budget = budget
        self._error: Exception | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        if self._error:
            raise self._error
        try:
            data = self._stream.read(len(buffer))
            self._budget.spend(len(data))
        except FAULTS as error:
            self._error = error
            raise
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Counted(io.BufferedReader):
    """Unpacked bytes, counted; once reading has failed, it fails for ever."""

    def __init__(self, stream: io.BufferedIOBase, budget: _Budget):
        super().__init__(_CountedBytes(stream, budget), _READ_BYTES)


class _Forwards:
    """A stream as tarfile wants it: skips, never goes back, reads no header that memory may not hold."""

    def __init__(self, stream: io.BufferedIOBase):
        self._stream = stream
        self._position = 0
        # Read already, by `skip_zeros`.
        self._ahead = b""

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        if position < self._position:
            raise tarfile.StreamError("a member that begins within another one")
        while self._position < position:
            if not self.read(min(_READ_BYTES, position - self._position)):
                raise tarfile.ReadError("unexpected end of data")

    def read(self, count: int) -> bytes:
        if count > _MAX_TAR_HEADER:
            raise tarfile.ReadError(f"a header of {count:,} bytes")
        data, self._ahead = self._ahead[:count], self._ahead[count:]
        if len(data) < count:
            data += self._stream.read(count - len(data))
        self._position += len(data)
        return data

    def skip_zeros(self) -> bool:
        """Go on to the next block that is not all zeros; False where the stream ends before one."""
        while chunk := self._ahead or self._stream.read(_READ_BYTES):
            zeros = len(chunk) - len(chunk.lstrip(b"\0"))
            if zeros < len(chunk):
                zeros -= zeros % tarfile.BLOCKSIZE
            self._position += zeros
            self._ahead = chunk[zeros:]
            if self._ahead:
                return True
        return False


class _Tar(tarfile.TarFile):
    """One tar of a stream. It remembers no members, and takes a damaged header for no end."""

    def next(self) -> tarfile.TarInfo | None:
        if self.firstmember is not None:
            member, self.firstmember = self.firstmember, None
            return member
        try:
            self.fileobj.seek(self.offset)
            return self.tarinfo.fromtarfile(self)
        except tarfile.EOFHeaderError:
            return None
        except (ValueError, OverflowError, struct.error) as error:
            raise tarfile.ReadError(str(error)) from None


@dataclass(frozen=True)
class _Entry:
    name: str
    oddity: str | None
    open: Callable[[], io.BufferedIOBase]


def _tar_entries(stream: io.BufferedIOBase) -> Iterator[_Entry]:
    """The entries of a tar and of those that follow it, as where `cat` has joined them."""
    forwards = _Forwards(stream)
    with _Tar(fileobj=forwards) as tar:
        yield from _entries_of(tar)
    # To the very end, so that a checksum there of what the tar is compressed in is seen to be right.
    while forwards.skip_zeros():
        try:
            tar = _Tar(fileobj=forwards)
        except tarfile.TarError as error:
            raise tarfile.ReadError(f"what follows its end is no tar: {error}") from None
        with tar:
            yield from _entries_of(tar)


def _entries_of(tar: _Tar) -> Iterator[_Entry]:
    while (info := tar.next()) is not None:
        if info.isdir():
            continue
        oddity = None if info.isreg() else "a link" if info.issym() or info.islnk() else "a device"
        yield _Entry(info.name, oddity, lambda info=info: tar.extractfile(info))


def _zip_entries(stream: io.BufferedIOBase) -> Iterator[_Entry]:
    try:
        archive = zipfile.ZipFile(stream)
    except (ValueError, OverflowError, struct.error) as error:
        raise zipfile.BadZipFile(str(error)) from None
    with archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            mode = info.external_attr >> 16
            oddity = "a link" if stat.S_ISLNK(mode) else "encrypted" if info.flag_bits & 1 else None
            yield _Entry(info.filename, oddity, lambda info=info: archive.open(info))


def _walk(
    kind: str,
    stream: io.BufferedIOBase,
    budget: _Budget,
    position: tuple[int, ...],
    prefix: str,
    left_out: Collection[tuple[int, ...]],
    skipped: Callable[[SkippedMember], None],
) -> Iterator[Member]:
    entries = _zip_entries(stream) if kind == "zip" else _tar_entries(stream)
    for number, entry in enumerate(entries):
        here, name = (*position, number), prefix + printable(entry.name)
        path = PurePosixPath(entry.name.replace("\\", "/"))
        oddity = entry.oddity or ("a name outside" if path.is_absolute() or ".." in path.parts else None)
        inner = kind_of(path.name)
        if here in left_out or (not oddity and inner is None):
            continue
        try:
            if oddity:
                raise Refused(oddity)
            content = _Counted(_decompressed(entry.open(), entry.name), budget)
            if inner == "xz":
                inner = "tar" if _begins_a_tar(content) else "txt"
            if inner in ("tar", "zip") and position:
                raise Refused("an archive within an archive within an archive")
            if inner in ("parquet", "zip"):
                content = _in_memory(content)
            if inner in ("tar", "zip"):
                yield from _walk(inner, content, budget, here, f"{name}/", left_out, skipped)
            else:
                yield Member(here, name, inner, content)
        except FAULTS as error:
            skipped(SkippedMember(here, name, fault_of(error)))
        # A fault of the member alone is the member's. Too large a size is the archive's, and so is a fault of
        # its own stream, which fails again at the next member.
        budget.check()


def _in_memory(stream: io.BufferedIOBase) -> io.BytesIO:
    content = stream.read(_MAX_SEEKABLE_MEMBER + 1)
    if len(content) > _MAX_SEEKABLE_MEMBER:
        raise Refused(f"refused (larger than {_MAX_SEEKABLE_MEMBER:,} bytes, within an archive)")
    return io.BytesIO(content)


def _begins_a_tar(stream: io.BufferedReader) -> bool:
    return stream.peek(512)[_TAR_MAGIC] == b"ustar"


# ---------------------------------------------------------------------------------------------- compression


def _decompressed(file: str | io.BufferedIOBase, name: str) -> io.BufferedIOBase:
    """The bytes of a path or a stream, decompressed as its name says."""
    name = name.lower()
    if name.endswith((".gz", ".tgz")):
        return gzip.open(file, "rb")
    if name.endswith(".bz2"):
        frames = _FrameStream(_opened(file), _READ_BYTES, bz2.BZ2Decompressor, most=_BZIP2_TEXT_BYTES)
    elif name.endswith(".zst"):
        frames = _FrameStream(
            _opened(file), _ZSTD_READ_BYTES, lambda: zstandard.ZstdDecompressor().decompressobj()
        )
    elif name.endswith((".xz", ".txz")):
        frames = _FrameStream(
            _opened(file), _XZ_READ_BYTES, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ), b"\0"
        )
    else:
        return _opened(file)
    return io.BufferedReader(frames, _FRAMES_BUFFER_BYTES)


def _opened(file: str | io.BufferedIOBase) -> io.BufferedIOBase:
    return open(file, "rb") if isinstance(file, str) else file


def _range(path: str, start: int, end: int) -> io.BufferedReader:
    """The bytes of a file from one offset to another, as if they were all of it."""
    return io.BufferedReader(_RangeBytes(path, start, end), _READ_BYTES)


class _RangeBytes(io.RawIOBase):
    def __init__(self, path: str, start: int, end: int):
        self._file = io.FileIO(path)
        self._file.seek(start)
        self._left = end - start

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        count = self._file.readinto(memoryview(buffer)[: self._left])
        self._left -= count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _FrameStream(io.RawIOBase):
    """The text of a .bz2, .zst or .xz file, frame after frame; unlike the libraries' readers it notices a
    missing end, and takes a damaged frame for no end.

    Args:
        padding: the byte that may stand between frames.
        most: bytes of text that a frame gives at a time, where it can stop; 0 for all that it can.
    """

    def __init__(
        self,
        stream: io.BufferedIOBase,
        read_bytes: int,
        new_frame: Callable,
        padding: bytes = b"",
        most: int = 0,
    ):
        self._stream = stream
        self._read_bytes = read_bytes
        self._new_frame = new_frame
        self._padding = padding
        self._most = (most,) if most else ()
        self._frame = None
        self._started = False
        self._compressed = b""
        self._text = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._text and self._advance():
            pass
        count = min(len(buffer), len(self._text))
        buffer[:count], self._text = self._text[:count], self._text[count:]
        return count

    def _advance(self) -> bool:
        """Decompress one step further, which may give no text yet; False at the end of the file."""
        frame_has_more = self._most and self._frame is not None and not self._frame.needs_input
        if not self._compressed and not frame_has_more:
            self._compressed = self._stream.read(self._read_bytes)
            if not self._compressed:
                if self._frame is not None:
                    raise EOFError("compressed file ended before the end of its last frame")
                return False
        if self._frame is None and self._started and self._padding:
            # Zeros may fill up a file, or the room between two frames.
            self._compressed = self._compressed.lstrip(self._padding)
            if not self._compressed:
                return True
        self._frame = self._frame or self._new_frame()
        self._started = True
        self._text = memoryview(self._frame.decompress(self._compressed, *self._most))
        self._compressed = self._frame.unused_data
        if self._frame.eof:
            self._frame = None
        return True

    def close(self) -> None:
        self._stream.close()
        super().close()
