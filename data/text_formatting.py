"""Sources -> documents: the step `text_formatting`.

Each part of a source becomes a file of documents, `formatted_one_article_per_line/<dataset>/<part>.jsonl.zst`
(documents.py), cleaned as asked, with an array beside it that tells of each document a key, which follows
from its text alone, the bytes of its text, and where in the file its frame begins. How sources are read and
texts are cleaned is for their own modules.
"""

import array
import functools
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import disk_space
import files
import tfrecords
from command_line import UsageError
from corpus_files import printable
from data import cleaning, decontamination, step_folder, text_sources, wikipedia_extraction
from data.documents import SUFFIX, DocumentFile, Tally
from data.executors import Backend
from data.step_folder import SourceFile
from data.units import UNITS_FOLDER, Unit, read_records, run_units, weight_left

INDEX_TYPE = np.dtype([("key", "<u8"), ("bytes", "<u8"), ("frame", "<u8")])
READERS = {"wikipedia": wikipedia_extraction, "text": text_sources}
_EVALUATION_NAME = "evaluation"
# Bytes of documents for a byte of a source, which may be compressed, and for one that is plain text.
_EXPANSION_COMPRESSED, _EXPANSION_PLAIN = 1.5, 0.5


@dataclass(frozen=True)
class Formatting:
    """What decides on a dataset's documents beside its sources.

    Attributes:
        dataset: name of the dataset, and of its folder.
        reader: one of `READERS`.
        origin: title, licence and address of the dataset, for people.
        text_column: column of the text in records.
        documents: how text files are divided, as text_sources.py has it.
        strict: whether a file that would be left out stops the step.
        clean: names of the cleaners (cleaning.py).
        language: what the cleaner `language` keeps.
        decontaminate_against: files with which no document may share text.
        leave_out: files and folders that are no sources though they may lie in an input.
    """

    dataset: str
    reader: str
    origin: dict
    text_column: str = "text"
    documents: str = text_sources.BY_BLANK_LINE
    strict: bool = False
    clean: frozenset[str] = frozenset()
    language: str = "en"
    decontaminate_against: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()

    def settings(self) -> dict:
        """All of it that decides on the documents, as it goes into the manifest.

        Raises:
            UsageError: an evaluation file cannot be read.
        """
        settings = {"dataset": self.dataset, "clean": sorted(self.clean)}
        if "language" in self.clean:
            settings["language"] = self.language
        for source in _named(self.decontaminate_against) if self.decontaminate_against else ():
            try:
                settings[f"evaluation file {source.name}"] = files.sha256_of_file(source.path)
            except OSError as error:
                raise UsageError(f"--{decontamination.FLAG} {source.path}: {error.strerror}") from None
        if self.reader == "text":
            settings |= {
                "text_column": self.text_column,
                "documents": self.documents,
                "strict": self.strict,
            }
        return settings


def format_text(
    inputs: Sequence[str], formatting: Formatting, folder: Path, backend: Backend, tolerate: int
) -> dict:
    """Have all documents of a dataset in a folder; returns its manifest.

    Raises:
        UsageError: an input is none, or the folder holds the documents of other settings or sources.
        RunFailure: more is damaged than is tolerated; all else is done.
    """
    reader = READERS[formatting.reader]
    settings = formatting.settings()
    with step_folder.held(folder):
        parts = reader.plan(inputs, **_reader_settings(formatting))
        paths = list(dict.fromkeys(path for part in parts for path in reader.source_paths(part)))
        sources = _named(paths)
        ledger = {
            "step": "text_formatting",
            "settings": settings,
            "sources": step_folder.identify(sources, folder, backend),
        }
        manifest = step_folder.begin(folder, ledger)
        if manifest is None:
            evaluation = _save_evaluation(formatting, folder)
            units = [
                Unit(part.name, f"{part.name}{SUFFIX}", (part, formatting, evaluation), part.stored_bytes)
                for part in parts
            ]
            left = weight_left(units, folder) / max(1, sum(unit.weight for unit in units))
            disk_space.require(folder, int(left * _estimate(paths)), "the formatted text")
            set_aside = run_units(units, format_part, folder, backend, "text to documents", scale=True)
            step_folder.require_unchanged(sources, folder)
            manifest = _manifest(ledger, formatting, units, folder, set_aside)
            step_folder.finish(folder, manifest)
            print(f"{folder}: {_summary(manifest)}", flush=True)
        else:
            step_folder.require_results(folder, {p["name"]: p["stored_bytes"] for p in manifest["parts"]})
            print(f"{folder}: complete already, nothing to do", flush=True)
    step_folder.judge(folder, manifest, tolerate)
    return manifest


def index_path(part: Path) -> Path:
    """Where the index of a file of documents is."""
    return part.with_name(f"index.{part.name}.npy")


def load_index(part: Path) -> np.ndarray:
    """`INDEX_TYPE` [documents], memory-mapped."""
    return np.load(index_path(part), mmap_mode="r", allow_pickle=False)


def format_part(path: Path, part, formatting: Formatting, evaluation: str | None) -> dict:
    """In a worker: the documents of one part; returns what became of them."""
    # Three numbers a document, as in the index: an archive of millions is one part.
    tally, entries = Tally(), array.array("Q")
    cleaner = _cleaner(formatting.clean, formatting.language, evaluation)
    with DocumentFile(path) as target:
        for document in READERS[formatting.reader].read(part, tally):
            document = cleaner.clean(document, tally)
            if document is None:
                continue
            frame = target.write(document)
            text = document.text.encode("utf-8")
            key = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
            entries.extend((key, len(text), frame))
    tfrecords.write_array(index_path(path), np.array(entries, "<u8").view(INDEX_TYPE))
    return {
        "documents": target.documents,
        "bytes": target.bytes,
        "dropped": dict(sorted(tally.dropped.items())),
        "changed": dict(sorted(tally.changed.items())),
        "removed": dict(sorted(tally.removed.items())),
        "skipped": tally.skipped,
        "faults": tally.faults,
        "stored_bytes": path.stat().st_size,
        "sha256": files.sha256_of_file(path),
    }


@functools.lru_cache(maxsize=1)
def _cleaner(names: frozenset[str], language: str, evaluation: str | None) -> cleaning.Cleaner:
    """Once in a worker: models and indexes take a while to load."""
    return cleaning.Cleaner(names, language, evaluation_index=evaluation)


def _reader_settings(formatting: Formatting) -> dict:
    if formatting.reader != "text":
        return {}
    return {
        "text_column": formatting.text_column,
        "documents": formatting.documents,
        "strict": formatting.strict,
        "leave_out": formatting.leave_out,
    }


def _named(paths: Sequence[str]) -> list[SourceFile]:
    """Sources by names relative to the folder that all are in, so that they stay the same when it moves."""
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    return [SourceFile(path, printable(os.path.relpath(os.path.abspath(path), folder))) for path in paths]


def _save_evaluation(formatting: Formatting, folder: Path) -> str | None:
    if not formatting.decontaminate_against:
        return None
    path = (folder / UNITS_FOLDER / f"{_EVALUATION_NAME}.npy").resolve()
    decontamination.build_evaluation_index(path, formatting.decontaminate_against)
    # By its name workers know it, and those of a cluster outlive a step.
    return str(path.rename(path.with_stem(f"{_EVALUATION_NAME}-{files.sha256_of_file(path)}")))


def _estimate(paths: Sequence[str]) -> int:
    plain = (".txt", ".jsonl", ".xml")
    return int(
        sum(
            os.path.getsize(path)
            * (_EXPANSION_PLAIN if path.lower().endswith(plain) else _EXPANSION_COMPRESSED)
            for path in paths
            if os.path.exists(path)
        )
    )


def _manifest(
    ledger: dict, formatting: Formatting, units: Sequence[Unit], folder: Path, set_aside: dict[str, str]
) -> dict:
    dropped: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    removed: Counter[str] = Counter()
    parts, skipped, faults = [], [], []
    for unit, record in read_records(folder, units):
        dropped.update(record["dropped"])
        changed.update(record["changed"])
        removed.update(record["removed"])
        skipped += [{"name": name, "reason": reason} for name, reason in record["skipped"]]
        faults += record["faults"]
        parts.append(
            {
                "name": unit.result,
                "documents": record["documents"],
                "bytes": record["bytes"],
                "stored_bytes": record["stored_bytes"],
                "sha256": record["sha256"],
            }
        )
    return ledger | {
        "origin": formatting.origin,
        "documents": sum(part["documents"] for part in parts),
        "bytes": sum(part["bytes"] for part in parts),
        "dropped": dict(sorted(dropped.items())),
        "changed": dict(sorted(changed.items())),
        "removed_characters": dict(sorted(removed.items())),
        "skipped_sources": skipped,
        "faults": faults,
        "set_aside": set_aside,
        "parts": parts,
    }


def _summary(manifest: dict) -> str:
    words = f"{manifest['documents']:,} documents, {manifest['bytes'] / 1e6:,.1f} MB of text"
    if manifest["dropped"]:
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in manifest["dropped"].items())
        words += f"; left out {dropped}"
    if skipped := manifest["skipped_sources"]:
        words += (
            f"; not read {skipped[0]['name']} ({skipped[0]['reason']}), {len(skipped):,} in all, which "
            f"{step_folder.MANIFEST_NAME} names"
        )
    return words
