"""The folder of a step's results: one run at a time, one set of settings and sources, and what came of it.

<folder>/.units/ledger.json says from the start what decides on the results; manifest.json, at the end, says
the same and what there is. A folder of other settings or sources is refused by their names.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

import files
from command_line import RunFailure, UsageError
from data.executors import Backend
from data.units import UNITS_FOLDER

MANIFEST_NAME = "manifest.json"
_LEDGER_NAME = "ledger.json"
# A cache of checksums, which stays.
_SOURCES_NAME = ".sources.json"
_MIXED = "give a new folder, or delete this one"


@dataclass(frozen=True)
class SourceFile:
    """A file that a step reads: its path, and its name in ledgers and messages."""

    path: str
    name: str


@contextlib.contextmanager
def held(folder: Path, place: str | None = None) -> Iterator[None]:
    """Hold a folder, which is made where it is absent.

    Args:
        place: the folder's name in messages; its path if None.

    Raises:
        UsageError: another run holds it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with files.lock_folder(folder):
            yield
    except BlockingIOError as error:
        raise UsageError(f"{place or folder}: {error}") from None


def begin(folder: Path, ledger: dict) -> dict | None:
    """The manifest of a folder that is complete; None after its ledger has been written or found the same.

    Raises:
        UsageError: the folder holds the results of other settings or sources.
    """
    files.remove_leftovers(folder)
    manifest_path, ledger_path = folder / MANIFEST_NAME, folder / UNITS_FOLDER / _LEDGER_NAME
    if manifest_path.exists():
        manifest = files.read_json(manifest_path)
        check_same(str(folder), manifest, ledger)
        if not manifest["set_aside"]:
            return manifest
    if ledger_path.exists():
        check_same(str(folder), files.read_json(ledger_path), ledger)
        print(f"{folder}: going on where an earlier run was stopped", flush=True)
    ledger_path.parent.mkdir(exist_ok=True)
    files.write_json(ledger_path, ledger)
    return None


def check_same(place: str, recorded: dict, ledger: dict) -> None:
    """Refuse to mix settings or sources, which a ledger has under `settings` and `sources`.

    Raises:
        UsageError: names the first that differs.
    """
    for name in dict.fromkeys([*recorded["settings"], *ledger["settings"]]):
        before, now = recorded["settings"].get(name), ledger["settings"].get(name)
        if before != now:
            raise UsageError(
                f"{place}: holds data of other settings: {name} was {before}, is now {now}; {_MIXED}"
            )
    before = {source["name"]: source["sha256"] for source in recorded["sources"]}
    now = {source["name"]: source["sha256"] for source in ledger["sources"]}
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if changed:
        kind = "is new" if changed[0] not in before else "is gone" if changed[0] not in now else "has changed"
        raise UsageError(
            f"{place}: holds data of other sources: {changed[0]} {kind}, {len(changed)} such files in "
            f"all; {_MIXED}"
        )


def finish(folder: Path, manifest: dict) -> None:
    """Write the manifest. Where units were set aside, records are kept for a run that tries them again."""
    files.write_json(folder / MANIFEST_NAME, manifest)
    if not manifest["set_aside"]:
        files.remove_folder(folder / UNITS_FOLDER)


def judge(folder: Path, manifest: dict, tolerate: int) -> None:
    """End a step as its manifest says.

    Raises:
        RunFailure: more units were set aside, or more of the sources is damaged, than is tolerated.
    """
    faults = [f"{name}: {error}" for name, error in manifest["set_aside"].items()] + manifest["faults"]
    for fault in faults:
        print(f"{folder}: {fault}", flush=True)
    if len(faults) > tolerate:
        raise RunFailure(
            f"{folder}: {len(faults)} faults, of which --tolerate allows {tolerate}; all else is done: "
            f"{faults[0]}"
        )


def identify(sources: Sequence[SourceFile], folder: Path, backend: Backend) -> list[dict]:
    """Name, bytes and SHA-256 of each source; hashed again only if its size or time is another than before.

    Raises:
        UsageError: a source cannot be read.
    """
    path = folder / _SOURCES_NAME
    known = {}
    with contextlib.suppress(FileNotFoundError):
        known = files.read_json(path)
    stamps = {source.name: _stamp(source) for source in sources}
    fresh = [source for source in sources if known.get(source.name, {}).get("stamp") != stamps[source.name]]
    if fresh:
        with backend.open(folder) as pool:
            hashes = pool.map(files.sha256_of_file, [source.path for source in fresh])
            hashes = tqdm(hashes, total=len(fresh), desc="checksums", unit="file", disable=None)
            for source, sha256 in zip(fresh, hashes, strict=True):
                known[source.name] = {"stamp": stamps[source.name], "sha256": sha256}
        files.write_json(path, known)
    return [
        {"name": source.name, "bytes": stamps[source.name][0], "sha256": known[source.name]["sha256"]}
        for source in sources
    ]


def _stamp(source: SourceFile) -> list[int]:
    try:
        status = os.stat(source.path)
    except OSError as error:
        raise UsageError(f"{source.path}: {error.strerror}") from None
    return [status.st_size, status.st_mtime_ns]
