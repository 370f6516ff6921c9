"""The folder of a step's results: one run at a time, one set of settings and sources, and what came of it.

<folder>/.units/ledger.json says from the start what decides on the results; manifest.json, at the end, says
the same and what there is. A folder of other settings or sources is refused by their names.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
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
        UsageError: another run holds it, or it cannot be made or written to.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(files.lock_folder(folder))
        except OSError as error:
            # One that is in use says so in its own words.
            raise UsageError(f"{place or folder}: {error.strerror or error}") from None
        yield


def begin(folder: Path, ledger: dict) -> dict | None:
    """The manifest of a folder that is complete; None after its ledger has been written or found the same.

    Raises:
        UsageError: the folder holds the results of other settings or sources.
    """
    units_folder, manifest_path = folder / UNITS_FOLDER, folder / MANIFEST_NAME
    files.remove_leftovers(folder)
    if manifest_path.exists():
        manifest = files.read_json(manifest_path)
        check_same(str(folder), manifest, ledger)
        if not manifest["set_aside"]:
            # A run that was killed at its very end did not come to this.
            files.remove_folder(units_folder)
            return manifest
    ledger_path = units_folder / _LEDGER_NAME
    if not _has_results(folder):
        # A run that met a user's mistake before anything was done does not bind the next one.
        files.remove_folder(units_folder)
    elif ledger_path.exists():
        check_same(str(folder), files.read_json(ledger_path), ledger)
        print(f"{folder}: going on where an earlier run was stopped", flush=True)
    else:
        raise UsageError(f"{folder}: holds files of which nothing tells what they are; {_MIXED}")
    units_folder.mkdir(exist_ok=True)
    files.remove_leftovers(units_folder)
    files.write_json(ledger_path, ledger)
    return None


def _has_results(folder: Path) -> bool:
    """Whether there are results, or records of what is done already."""
    results = (path for entry in folder.glob("[!.]*") for path in (entry, *entry.rglob("*")))
    records = (path for path in (folder / UNITS_FOLDER).rglob("*.json") if path.name != _LEDGER_NAME)
    return any(path.is_file() for path in results) or any(records)


def require_results(folder: Path, sizes: Mapping[str, int]) -> None:
    """Stop where a result that a manifest names is not there as it was written, by its size in bytes.

    Raises:
        UsageError: names the first.
    """
    for name, size in sizes.items():
        path = folder / name
        if not path.exists() or path.stat().st_size != size:
            raise UsageError(f"{path}: is gone or changed; delete {folder} to have all of it made again")


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

    One that cannot be read has none of these: whoever reads it for its text names it among the faults.

    Raises:
        WorkerDied: a process that hashes.
    """
    path = folder / _SOURCES_NAME
    before = {}
    with contextlib.suppress(FileNotFoundError):
        before = files.read_json(path)
    stamps = {source.name: stamp for source in sources if (stamp := _stamp(source))}
    known = {
        name: before[name] for name, stamp in stamps.items() if before.get(name, {}).get("stamp") == stamp
    }
    fresh = [source for source in sources if source.name in stamps and source.name not in known]
    if fresh:
        with backend.open(folder) as pool:
            hashes = pool.map(_checksum, [source.path for source in fresh])
            hashes = tqdm(hashes, total=len(fresh), desc="checksums", unit="file", disable=None)
            for source, sha256 in zip(fresh, hashes, strict=True):
                if sha256:
                    known[source.name] = {"stamp": stamps[source.name], "sha256": sha256}
    if known != before:
        files.write_json(path, known)
    return [
        {"name": source.name, "bytes": stamps[source.name][0], "sha256": known[source.name]["sha256"]}
        for source in sources
        if source.name in known
    ]


def require_unchanged(sources: Sequence[SourceFile], folder: Path) -> None:
    """Stop where a source is another one than `identify` found, as it may have changed while it was read.

    Raises:
        UsageError: names the first.
    """
    known = files.read_json(folder / _SOURCES_NAME)
    for source in sources:
        if source.name in known and _stamp(source) != known[source.name]["stamp"]:
            raise UsageError(f"{source.path}: has changed while it was read; delete {folder} and begin again")


def _checksum(path: str) -> str | None:
    """In a worker: the SHA-256 of a file; None where it cannot be read."""
    try:
        return files.sha256_of_file(path)
    except OSError:
        return None


def _stamp(source: SourceFile) -> list[int] | None:
    try:
        status = os.stat(source.path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]
