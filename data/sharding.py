"""Documents -> text shards: the step `sharding`.

The documents of one or more datasets, in order and without those that repeat an earlier one (where that is
asked for), become text files of like size: one sentence a line, a blank line between documents. A document is
of the training or of the test shards by a draw from its text and the seed, so that equal texts are never on
both sides.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import disk_space
import files
import tfrecords
from command_line import UsageError
from data import deduplication, step_folder
from data.documents import read_documents
from data.executors import Backend
from data.sentences import split_sentences
from data.text_formatting import load_index
from data.units import UNITS_FOLDER, Unit, read_records, run_units
from keyed_random import derive_key, draw_uniforms

# Each shard reads its part of the documents from the beginning, so that many tiny ones would take long.
_SMALLEST_SHARD_BYTES = 250_000
_DROPPED = -1
_SIDES = ("train", "test")
_FILE_WORDS = {"train": "training", "test": "test"}
_GROWTH = 1.1


@dataclass(frozen=True)
class Sharding:
    """What decides on the shards beside the documents.

    Attributes:
        dataset: name of the shards, and of their folder.
        n_training_shards, n_test_shards: at most so many of each kind.
        fraction_test_set: share of the documents that the test shards get.
        random_seed: seed of that choice.
        segmentation_method: sentencex, or lines, which leaves a paragraph on one line.
        duplicates: names of deduplication's cleaners.
    """

    dataset: str
    n_training_shards: int
    n_test_shards: int
    fraction_test_set: float
    random_seed: int
    segmentation_method: str
    duplicates: tuple[str, ...] = ()


@dataclass(frozen=True)
class Piece:
    """A file of documents, and the array that says which shard each of them belongs to."""

    documents: str
    assignment: str


def shard_text(
    inputs: Sequence[Path], sharding: Sharding, folder: Path, backend: Backend, tolerate: int
) -> dict:
    """Have the shards of formatted datasets in a folder; returns its manifest.

    Raises:
        UsageError: an input is not formatted, or the folder holds shards of other settings or documents.
        RunFailure: more units failed than is tolerated; all else is done.
    """
    formatted = [_read_formatted(path) for path in inputs]
    parts = [
        path / part["name"]
        for path, manifest in zip(inputs, formatted, strict=True)
        for part in manifest["parts"]
    ]
    with step_folder.held(folder):
        ledger = {
            "step": "sharding",
            "settings": asdict(sharding) | {"duplicates": list(sharding.duplicates)},
            "sources": [
                {
                    "name": f"{path.name}/{part['name']}",
                    "bytes": part["stored_bytes"],
                    "sha256": part["sha256"],
                }
                for path, manifest in zip(inputs, formatted, strict=True)
                for part in manifest["parts"]
            ],
        }
        manifest = step_folder.begin(folder, ledger)
        if manifest is None:
            size = sum(manifest["bytes"] for manifest in formatted)
            disk_space.require(folder, int(_GROWTH * size), "the sharded text")
            dropped = _find_duplicates(parts, sharding, folder, backend)
            units = _plan_shards(parts, dropped, sharding, folder)
            set_aside = run_units(units, write_shard, folder, backend, "documents to shards", scale=True)
            manifest = _manifest(ledger, formatted, units, dropped, folder, set_aside)
            step_folder.finish(folder, manifest)
            print(f"{folder}: {_summary(manifest)}", flush=True)
        else:
            print(f"{folder}: complete already, nothing to do", flush=True)
    step_folder.judge(folder, manifest, tolerate)
    return manifest


def write_shard(path: Path, pieces: Sequence[Piece], number: int, segmentation_method: str) -> dict:
    """In a worker: the documents of one shard, out of the files that hold them."""
    documents = lines = 0
    temporary = files.temporary_path(path)
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as target:
            for text in _texts(pieces, number):
                target.write("\n" * (documents > 0))
                for paragraph in text.split("\n"):
                    sentences = [paragraph] if segmentation_method == "lines" else split_sentences(paragraph)
                    lines += len(sentences)
                    target.writelines(f"{sentence}\n" for sentence in sentences)
                documents += 1
        files.publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return {
        "documents": documents,
        "lines": lines,
        "bytes": path.stat().st_size,
        "sha256": files.sha256_of_file(path),
    }


def _texts(pieces: Sequence[Piece], number: int):
    for piece in pieces:
        assignment = np.load(piece.assignment, mmap_mode="r", allow_pickle=False)
        wanted = np.flatnonzero(assignment == number)
        rows = set(wanted.tolist())
        for row, document in enumerate(read_documents(piece.documents)):
            if row in rows:
                yield document.text
            if row == wanted[-1]:
                break


def _read_formatted(path: Path) -> dict:
    manifest_path = path / step_folder.MANIFEST_NAME
    if not manifest_path.exists():
        raise UsageError(f"{path}: holds no formatted text; run --action text_formatting first")
    return files.read_json(manifest_path)


def _find_duplicates(
    parts: Sequence[Path], sharding: Sharding, folder: Path, backend: Backend
) -> list[dict[int, str]]:
    """Of each part, the rows to drop, and the reason."""
    if not sharding.duplicates:
        return [{} for _ in parts]
    work = folder / UNITS_FOLDER / "descriptions"
    near = "near_duplicates" in sharding.duplicates
    units = [
        Unit(f"{number:06d}", f"{number:06d}.npy", (str(part.resolve()), near))
        for number, part in enumerate(parts)
    ]
    for name, error in run_units(units, deduplication.describe_part, work, backend, "descriptions").items():
        raise UsageError(f"{parts[int(name)]}: cannot be read ({error}); format the text anew")
    result = work.with_name("duplicates.npy")
    if not result.exists():
        print(f"{folder}: looking for documents that come twice", flush=True)
        deduplication.find_duplicates(
            result, [work / unit.result for unit in units], "duplicates" in sharding.duplicates, near
        )
    return [
        {row: reason for row, (reason, *_) in deduplication.duplicates_of_part(result, number).items()}
        for number in range(len(parts))
    ]


def _plan_shards(
    parts: Sequence[Path], dropped: Sequence[dict[int, str]], sharding: Sharding, folder: Path
) -> list[Unit]:
    """Divide the documents, in order, into shards of about the same number of bytes."""
    indexes = [load_index(part) for part in parts]
    sizes = np.concatenate([index["bytes"] for index in indexes]).astype(np.int64)
    keys = np.concatenate([index["key"] for index in indexes])
    starts = np.cumsum([0, *map(len, indexes)])
    is_kept = np.ones(len(sizes), bool)
    for start, rows in zip(starts, dropped, strict=False):
        is_kept[start + np.fromiter(rows, np.int64, len(rows))] = False
    is_test = draw_uniforms(keys ^ np.uint64(derive_key(sharding.random_seed, "test set")), 0)
    is_test = is_test < sharding.fraction_test_set
    assignment = np.full(len(sizes), _DROPPED, np.int64)
    counts = {}
    for side, is_of_side, most in (
        ("train", is_kept & ~is_test, sharding.n_training_shards),
        ("test", is_kept & is_test, sharding.n_test_shards),
    ):
        rows = np.flatnonzero(is_of_side)
        counts[side] = 0
        if len(rows):
            total = int(sizes[rows].sum())
            count = min(most, len(rows), max(1, total // _SMALLEST_SHARD_BYTES))
            middles = np.cumsum(sizes[rows]) - (sizes[rows] + 1) // 2
            # A document that is larger than a shard leaves numbers without documents, which are closed up.
            numbers, shards = np.unique(middles * count // total, return_inverse=True)
            assignment[rows] = shards + sum(counts.values())
            counts[side] = len(numbers)
    if not counts["train"]:
        raise UsageError(f"{folder}: no documents to learn from are left")
    return _shard_units(parts, assignment, starts, sizes, counts, sharding, folder)


def _shard_units(
    parts: Sequence[Path],
    assignment: np.ndarray,
    starts: np.ndarray,
    sizes: np.ndarray,
    counts: dict[str, int],
    sharding: Sharding,
    folder: Path,
) -> list[Unit]:
    work = folder.resolve() / UNITS_FOLDER
    pieces: dict[int, list[Piece]] = defaultdict(list)
    for number, part in enumerate(parts):
        of_part = assignment[starts[number] : starts[number + 1]]
        path = work / f"assignment-{number:06d}.npy"
        tfrecords.write_array(path, of_part)
        for shard in np.unique(of_part[of_part != _DROPPED]).tolist():
            pieces[shard].append(Piece(str(part.resolve()), str(path)))
    weights = np.bincount(assignment[assignment != _DROPPED], weights=sizes[assignment != _DROPPED])
    units = []
    for side in _SIDES:
        for number in range(counts[side]):
            shard = len(units)
            name = f"{sharding.dataset}_{_FILE_WORDS[side]}_{number}"
            arguments = (tuple(pieces[shard]), shard, sharding.segmentation_method)
            units.append(Unit(name, f"{side}/{name}.txt", arguments, int(weights[shard])))
    return units


def _manifest(
    ledger: dict,
    formatted: Sequence[dict],
    units: Sequence[Unit],
    dropped: Sequence[dict[int, str]],
    folder: Path,
    set_aside: dict[str, str],
) -> dict:
    changed: Counter[str] = Counter()
    reasons: Counter[str] = Counter(reason for rows in dropped for reason in rows.values())
    for manifest in formatted:
        reasons.update(manifest["dropped"])
        changed.update(manifest["changed"])
    shards = [{"name": unit.result} | record for unit, record in read_records(folder, units)]
    return ledger | {
        "datasets": [
            {
                "settings": manifest["settings"],
                "origin": manifest["origin"],
                "sources": manifest["sources"],
                "documents": manifest["documents"],
                "dropped": manifest["dropped"],
                "skipped_sources": manifest["skipped_sources"],
                "faults": manifest["faults"] + [f"{n}: {e}" for n, e in manifest["set_aside"].items()],
            }
            for manifest in formatted
        ],
        "documents": sum(shard["documents"] for shard in shards),
        "dropped": dict(sorted(reasons.items())),
        "changed": dict(sorted(changed.items())),
        "faults": [],
        "set_aside": set_aside,
        "shards": shards,
    }


def _summary(manifest: dict) -> str:
    sides = {side: [s for s in manifest["shards"] if s["name"].startswith(f"{side}/")] for side in _SIDES}
    words = [
        f"{sum(shard['documents'] for shard in shards):,} documents and "
        f"{sum(shard['lines'] for shard in shards):,} lines in {len(shards)} {_FILE_WORDS[side]} shards"
        for side, shards in sides.items()
        if shards
    ]
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in manifest["dropped"].items())
    return "; ".join(words) + "; left out " * bool(dropped) + dropped
