"""Atomic and durable file operations: a file or folder is complete under its final name, or absent.

Every program writes its results through this module, so that a process killed at any instant leaves
either the old state or the new one, and never half a file that looks whole.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)

_CHUNK_BYTES = 1 << 20
# The names that `temporary_path` and `_doomed_path` give: .<name>.<process>.tmp and .deleted.
_LEFTOVER = re.compile(r"\..+\.\d+\.(tmp|deleted)")


def sha256_of_file(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in chunks."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def flush_to_disk(path: str | Path) -> None:
    """fsync a file or a folder, so that a power cut after this call cannot undo it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot fsync a folder; the rename itself is atomic there as well.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def temporary_path(path: str | Path) -> Path:
    """A hidden name beside `path` that only this process uses; finish it with `publish`."""
    path = Path(path)
    return path.with_name(f".{path.name}.{_process_number()}.tmp")


def publish(temporary: str | Path, path: str | Path) -> None:
    """Flush a finished file or folder and give it its final name in one step."""
    temporary, path = Path(temporary), Path(path)
    _flush_all(temporary)
    os.replace(temporary, path)
    flush_to_disk(path.parent)


def replace_folder(temporary: str | Path, path: str | Path) -> None:
    """`publish` a finished folder over an earlier one, which keeps its name until the new one is flushed.

    The names change hands by two renames in a row; where they fail, the earlier folder has its name again.
    """
    temporary, path = Path(temporary), Path(path)
    doomed = _doomed_path(path)
    _flush_all(temporary)
    try:
        if path.exists():
            os.replace(path, doomed)
        os.replace(temporary, path)
    except BaseException:  # a signal's too
        if doomed.exists() and not path.exists():
            os.replace(doomed, path)
        raise
    flush_to_disk(path.parent)
    shutil.rmtree(doomed, ignore_errors=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a whole file atomically."""
    temporary = temporary_path(path)
    try:
        temporary.write_bytes(content)
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, content: str) -> None:
    """Write a whole UTF-8 text file atomically."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: str | Path, content: dict | list) -> None:
    """Write JSON atomically, indented and with a final newline, so that people can read it."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path):
    """Parse a UTF-8 JSON file, with a byte order mark or without."""
    return json.loads(Path(path).read_text(encoding="utf-8-sig"))


def remove_folder(path: str | Path) -> None:
    """Delete a folder so that a kill in the middle leaves nothing under its own name."""
    path = Path(path)
    if not path.exists():
        return
    doomed = _doomed_path(path)
    os.replace(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(folder: str | Path) -> None:
    """Delete the temporary and half-deleted entries that killed processes left in a folder."""
    for entry in Path(folder).glob(".*"):
        if not _LEFTOVER.fullmatch(entry.name):
            continue
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


@contextlib.contextmanager
def lock_folder(folder: str | Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder for this process: `lock` on its file .lock."""
    with lock(Path(folder) / ".lock", wait=wait):
        yield


@contextlib.contextmanager
def lock(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a name for this process, as a file meanwhile; the system releases it however the process ends.

    Args:
        wait: until it is free.

    Raises:
        BlockingIOError: another process holds it (its message names the process).
    """
    with contextlib.ExitStack() as stack:
        while True:
            stream = stack.enter_context(open(path, "a+"))
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                stream.seek(0)
                raise BlockingIOError(f"in use by process {stream.read().strip() or 'unknown'}") from None
            except OSError as error:
                # Lustre without its option flock, NFS without its lock daemon.
                if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                    raise
                print(
                    f"warning: {path.parent}: this file system has no locks ({error.strerror}); nothing but "
                    "this run may use the folder now",
                    file=sys.stderr,
                )
            if path.exists() and os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                break
            # The holder removed the file between our opening and locking it: what we hold has no name.
        stream.truncate(0)
        stream.write(f"{os.getpid()} on {os.uname().nodename}")
        stream.flush()
        try:
            yield
        finally:
            # While it is still held: whoever locks the file later finds that it has no name any more.
            path.unlink(missing_ok=True)


def _flush_all(temporary: Path) -> None:
    if temporary.is_dir():
        for entry in sorted(temporary.rglob("*")):
            flush_to_disk(entry)
    flush_to_disk(temporary)


def _doomed_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{_process_number()}.deleted")


def _process_number() -> int:
    """Of this process alone among all machines that may share a file system."""
    return zlib.crc32(os.uname().nodename.encode()) << 32 | os.getpid()
