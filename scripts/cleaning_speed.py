"""What cleaning costs: each cleaner's MB of text a second of CPU time; time and memory of finding duplicates.

    python scripts/cleaning_speed.py --corpus_dir text --decontaminate_against squad/dev-v1.1.json \\
        --described_documents 1_000_000

Prints a JSON object. The text is cleaned in this one process; a cleaner's time is the least of three rounds.
Duplicates are found among random descriptions, whose length makes no difference there: one in 20 says
the same as an earlier one, and one in 20 nearly so.
"""

import dataclasses
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

# Run by its path, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from command_line import UsageError, option, parse, require, run_program
from corpus import find_sources, read_blocks
from data.cleaning import Cleaner
from data.decontamination import build_evaluation_index
from data.deduplication import SIGNATURE_SLOTS, describe, find_duplicates
from data.documents import Tally, TextDocument

_ROUNDS = 3
_PART_DOCUMENTS = 10_000
_SHARE = 20
_CHANGED_SLOTS = 8


@dataclasses.dataclass
class SpeedConfig:
    """Settings of this program."""

    corpus_dir: str = option(
        dataclasses.MISSING, "folder of text files, documents apart by blank lines", group="speed"
    )
    decontaminate_against: str = option("", "evaluation file (default: not measured)", group="speed")
    described_documents: int = option(200_000, "documents among which duplicates are found", group="speed")

    def __post_init__(self):
        least = 2 * _PART_DOCUMENTS
        require(
            self.described_documents >= least,
            "described_documents",
            self.described_documents,
            f"must be at least {least}",
        )


def main() -> int:
    config = parse(SpeedConfig, description=__doc__)
    documents = [
        TextDocument("", "\n".join(lines))
        for source in find_sources(config.corpus_dir)
        for block in read_blocks(source.path, blanks_separate_docs=True)
        for lines in block
    ]
    megabytes = sum(len(document.text.encode("utf-8")) for document in documents) / 1e6
    if not megabytes:
        raise UsageError(f"--corpus_dir {config.corpus_dir}: holds no text")
    speeds = {}
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder, "index.npy")
        names = ["unicode", "control", "short", "language"]
        if config.decontaminate_against:
            build_evaluation_index(index, [config.decontaminate_against])
            names.append("evaluation")
        for name in names:
            cleaner = Cleaner(frozenset({name}), evaluation_index=index)
            speeds[name] = megabytes / _seconds(lambda cleaner=cleaner: _clean(cleaner, documents))
        for name, near in (("duplicates", False), ("near_duplicates", True)):
            speeds[name] = megabytes / _seconds(lambda near=near: list(describe(documents, near)))
        found = _find(Path(folder), config.described_documents)
    print(
        json.dumps({"text_megabytes": megabytes, "megabytes_per_second": speeds, "finding": found}, indent=2)
    )
    return 0


def _clean(cleaner: Cleaner, documents: list[TextDocument]) -> None:
    tally = Tally()
    for document in documents:
        cleaner.clean(document, tally)


def _seconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(_ROUNDS):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def _find(folder: Path, count: int) -> dict[str, float]:
    paths = _write_random_descriptions(folder, count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    counts = find_duplicates(folder / "duplicates.npy", paths, exact=True, near=True)
    seconds = time.process_time() - started
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return counts | {"cpu_seconds": seconds, "more_megabytes_of_memory": grown * 1024 / 1e6}


def _write_random_descriptions(folder: Path, count: int) -> list[Path]:
    draws = np.random.default_rng(1)
    type_of_description = np.dtype([("text", "<u8"), ("signature", "<u4", SIGNATURE_SLOTS)])
    paths, copies = [], None
    for begin in range(0, count, _PART_DOCUMENTS):
        rows = np.zeros(min(_PART_DOCUMENTS, count - begin), type_of_description)
        rows["text"] = draws.integers(0, 2**64, len(rows), dtype=np.uint64)
        rows["signature"] = draws.integers(0, 2**32, rows["signature"].shape, dtype=np.uint32)
        share = len(rows) // _SHARE
        if copies is None:
            copies = rows.copy()
        else:
            rows["text"][:share] = copies["text"][:share]
            changed = rows["signature"][share : 2 * share, :_CHANGED_SLOTS].copy()
            rows["signature"][share : 2 * share] = copies["signature"][share : 2 * share]
            rows["signature"][share : 2 * share, :_CHANGED_SLOTS] = changed
        paths.append(folder / f"{begin:012d}.npy")
        with open(paths[-1], "wb") as stream:
            np.save(stream, rows)
    return paths


if __name__ == "__main__":
    run_program(main)
