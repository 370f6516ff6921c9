"""Documents -> text shards: the step `sharding`.

The documents of one or more datasets, in order and without those that repeat an earlier one (where that is
asked for), become text files of like size: one sentence a line, a blank line between documents. A document is
of the training or of the test shards by a draw from its text and the seed, so that equal texts are never on
both sides.
"""

import bisect
from collections import Counter
from collections.abc import Iterator, Sequence
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
from data.text_formatting import load_index
from data.units import UNITS_FOLDER, Unit, read_records, run_units, weight_left
from keyed_random import derive_key, draw_uniforms
from sentences import split_sentences

# Each shard begins to read at a frame of a megabyte, so that many tiny ones would take long.
_SMALLEST_SHARD_BYTES = 250_000
_DROPPED = -1
_SIDES = ("train", "test")
_FILE_WORDS = {"train": "training", "test": "test"}
_GROWTH = 1.1
# The numbers of all documents that are kept, int64, shard by shard, ascending in each.
_ORDER_NAME = "order.npy"


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
    """Those documents of a file that belong to one shard.

    Attributes:
        documents: the file.
        first: number of its first document among those of all files.
        begin, end: where in the order of all documents (`_ORDER_NAME`) the piece's are.
    """

    documents: str
    first: int
    begin: int
    end: int


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
            dropped = _find_duplicates(parts, sharding, folder, backend)
            units = _plan_shards(parts, dropped, sharding, folder)
            disk_space.require(folder, int(_GROWTH * weight_left(units, folder)), "the sharded text")
            set_aside = run_units(units, write_shard, folder, backend, "documents to shards", scale=True)
            manifest = _manifest(ledger, formatted, units, dropped, folder, set_aside)
            step_folder.finish(folder, manifest)
            print(f"{folder}: {_summary(manifest)}", flush=True)
        else:
            step_folder.require_results(folder, {s["name"]: s["bytes"] for s in manifest["shards"]})
            print(f"{folder}: complete already, nothing to do", flush=True)
    step_folder.judge(folder, manifest, tolerate)
    return manifest


def write_shard(path: Path, pieces: Sequence[Piece], order: str, segmentation_method: str) -> dict:
    """In a worker: the documents of one shard, out of the files that hold them.

    Raises:
        ValueError: a file holds fewer documents than its index says.
    """
    documents = lines = 0
    temporary = files.temporary_path(path)
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as target:
            for text in _texts(pieces, order):
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


def _texts(pieces: Sequence[Piece], order: str) -> Iterator[str]:
    numbers = np.load(order, mmap_mode="r", allow_pickle=False)
    for piece in pieces:
        rows = numbers[piece.begin : piece.end] - piece.first
        frames = load_index(Path(piece.documents))["frame"]
        # bisect looks at a few entries, where NumPy would first copy the field of all documents.
        frame = int(frames[rows[0]])
        documents = enumerate(read_documents(piece.documents, frame), bisect.bisect_left(frames, frame))
        for row in rows:
            text = next((document.text for number, document in documents if number == row), None)
            if text is None:
                raise ValueError(f"{piece.documents} ends before document {row}")
            yield text


def _read_formatted(path: Path) -> dict:
    manifest_path = path / step_folder.MANIFEST_NAME
    if not manifest_path.exists():
        raise UsageError(f"{path}: holds no formatted text; run --action text_formatting first")
    manifest = files.read_json(manifest_path)
    step_folder.require_results(path, {part["name"]: part["stored_bytes"] for part in manifest["parts"]})
    return manifest


def _find_duplicates(parts: Sequence[Path], sharding: Sharding, folder: Path, backend: Backend) -> np.ndarray:
    """The documents to drop, as deduplication.py has them."""
    if not sharding.duplicates:
        return np.zeros(0, deduplication.DUPLICATE)
    work = folder / UNITS_FOLDER / "descriptions"
    result = work.with_name("duplicates.npy")
    if not result.exists():
        near = "near_duplicates" in sharding.duplicates
        documents = [len(load_index(part)) for part in parts]
        units = [
            Unit(
                f"{number:06d}",
                f"{number:06d}.npy",
                (str(part.resolve()), near),
                count * deduplication.description_bytes(near),
            )
            for number, (part, count) in enumerate(zip(parts, documents, strict=True))
        ]
        needed = weight_left(units, work) + sum(documents) * deduplication.scratch_bytes(near)
        disk_space.require(folder, needed, "the descriptions of documents")
        set_aside = run_units(units, deduplication.describe_part, work, backend, "descriptions", scale=True)
        for name, error in set_aside.items():
            raise UsageError(f"{parts[int(name)]}: cannot be read ({error}); format the text anew")
        print(f"{folder}: looking for documents that come twice", flush=True)
        deduplication.find_duplicates(
            result, [work / unit.result for unit in units], "duplicates" in sharding.duplicates, near
        )
    return deduplication.load_duplicates(result)


def _plan_shards(parts: Sequence[Path], dropped: np.ndarray, sharding: Sharding, folder: Path) -> list[Unit]:
    """Divide the documents, in order, into shards of about the same number of bytes."""
    # Copied part by part: a memory map is an open file, and Wikipedia has thousands of parts.
    columns = [(index["bytes"].copy(), index["key"].copy()) for index in map(load_index, parts)]
    sizes = np.concatenate([part_sizes for part_sizes, _ in columns]).astype(np.int64)
    keys = np.concatenate([part_keys for _, part_keys in columns])
    starts = np.cumsum([0, *(len(part_keys) for _, part_keys in columns)])
    is_kept = np.ones(len(sizes), bool)
    is_kept[starts[dropped["part"]] + dropped["row"]] = False
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
    paths = [str(part.resolve()) for part in parts]
    order = np.argsort(assignment, kind="stable")[np.count_nonzero(assignment == _DROPPED) :]
    order_path = folder.resolve() / UNITS_FOLDER / _ORDER_NAME
    tfrecords.write_array(order_path, order)
    ends = np.cumsum(np.bincount(assignment[order]))
    units = []
    for side in _SIDES:
        for number in range(counts[side]):
            end = int(ends[len(units)])
            begin = int(ends[len(units) - 1]) if units else 0
            pieces = _pieces(paths, starts, order[begin:end], begin)
            name = f"{sharding.dataset}_{_FILE_WORDS[side]}_{number}"
            arguments = (pieces, str(order_path), sharding.segmentation_method)
            units.append(Unit(name, f"{side}/{name}.txt", arguments, int(sizes[order[begin:end]].sum())))
    return units


def _pieces(paths: Sequence[str], starts: np.ndarray, documents: np.ndarray, begin: int) -> tuple[Piece, ...]:
    """The pieces of a shard, of ascending numbers of documents that begin at `begin` in the order of all."""
    first, last = np.searchsorted(starts, documents[[0, -1]], side="right") - 1
    borders = begin + np.searchsorted(documents, starts[first : last + 2])
    return tuple(
        Piece(paths[part], int(starts[part]), int(start), int(end))
        for part, start, end in zip(range(first, last + 1), borders[:-1], borders[1:], strict=True)
        if start < end
    )


def _manifest(
    ledger: dict,
    formatted: Sequence[dict],
    units: Sequence[Unit],
    dropped: np.ndarray,
    folder: Path,
    set_aside: dict[str, str],
) -> dict:
    changed: Counter[str] = Counter()
    near = int(np.count_nonzero(dropped["near"]))
    # Added, so that a reason without a document is none.
    reasons = Counter() + Counter(duplicates=len(dropped) - near, near_duplicates=near)
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
