"""Text -> TFRecord shards of pre-training examples.

    python build_pretraining_dataset.py --corpus-dir text/ --vocab-file vocab.txt --output-dir shards_128/

Blocks of documents go to worker processes, which write each block's examples to a file of its own in
<output_dir>/.work; the blocks are then joined, in order, into the shards. So the output is the same bytes
for any number of processes, a killed run goes on with the blocks that are missing, and memory is bounded by
the blocks in flight.
"""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

import corpus
import disk_space
import example_builder
import files
import tfrecords
from command_line import UsageError, parse, run_program
from corpus import Document, Source, SourceInspection
from corpus_files import FAULTS
from data import data_card, step_folder
from dataset_configuration import DatasetConfig
from example_files import ExampleBuilder, ExampleStatistics, describe_figures
from tokenization import Vocabulary, load_vocabulary, options_path
from worker_processes import worker_pool

WORK_FOLDER = ".work"
# The two parts of the documents: the shards proper, and the held-out ones in a folder below.
PARTS = {"train": ".", "held_out": "held_out"}


def main() -> int:
    config = parse(DatasetConfig, description=__doc__)
    vocabulary = load_vocabulary(config.vocab_file, config.do_lower_case)
    others: Counter[str] = Counter()
    left_out = (config.vocab_file, options_path(config.vocab_file), config.output_dir)
    sources = corpus.find_sources(config.corpus_dir, left_out, others=others)
    corpus.tell_others(others)
    output = _make_folder(config.output_dir)
    with worker_pool(config.num_processes, _set_up_worker, (vocabulary, config)) as pool:
        inspections = _inspect(pool, sources, config)
        usable = _usable_sources(sources, inspections, config)
        ledger = _ledger(config, vocabulary, inspections)
        if _is_complete(output, ledger):
            print(f"{output}: complete already, nothing to do")
            return 0
        _check_output_folder(output, ledger)
        work = output / WORK_FOLDER
        with step_folder.held(output, f"--output_dir {output}"):
            work.mkdir(exist_ok=True)
            files.remove_leftovers(work)
            files.write_json(work / "ledger.json", ledger)
            checked = [found for found in inspections if found.fault is None]
            try:
                blocks = _build_blocks(pool, usable, checked, work, config)
            except _SourceChanged:
                # So that none of its blocks is taken for one of the text that was checked.
                files.remove_folder(work)
                raise
            if not any(_count(part, blocks) for part in PARTS):
                # So that the folder may be used again when there is text.
                files.remove_folder(work)
                raise UsageError(f"--corpus_dir {config.corpus_dir}: an empty corpus, no text to learn from")
            disk_space.require(output, _room_needed(blocks, _parts(ledger), output), "the shards")
            for part in _parts(ledger):
                _assemble(pool, part, blocks, output, ledger, vocabulary)
            files.remove_folder(work)
    return 0


# ------------------------------------------------------------------------------------------------ set-up


def _make_folder(output_dir: str) -> Path:
    """The output folder, made before the sources are read: a path that cannot be one is reported at once."""
    try:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output_dir {output_dir}: {error.strerror}") from None
    return Path(output_dir)


def _inspect(
    pool: ProcessPoolExecutor, sources: list[Source], config: DatasetConfig
) -> list[SourceInspection]:
    inspected = [pool.submit(corpus.inspect_source, source, config.text_column) for source in sources]
    # As they are done, so that a mistake in a small file need not wait for a large one before it.
    done = concurrent.futures.as_completed(inspected)
    for future in tqdm(done, total=len(sources), desc="checking sources", unit="file", disable=None):
        future.result()
    return [future.result() for future in inspected]


def _usable_sources(
    sources: list[Source], inspections: list[SourceInspection], config: DatasetConfig
) -> list[Source]:
    """The readable sources; the others are named and counted, or stop the run under --strict."""
    usable = corpus.usable_sources(sources, inspections, config.corpus_dir, config.strict)
    skipped = len(sources) - len(usable)
    if skipped:
        print(f"skipped {skipped} of {len(sources)} files")
    return usable


def _ledger(config: DatasetConfig, vocabulary: Vocabulary, inspections: list[SourceInspection]) -> dict:
    """All that decides on the output's bytes, as it goes into the manifest."""
    has_records = not all(corpus.is_text_file(found.name) for found in inspections)
    return {
        "settings": {
            "max_seq_length": config.max_seq_length,
            "num_out_files": config.num_out_files,
            "held_out_fraction": config.held_out_fraction,
            "seed": config.seed,
            "blanks_separate_docs": config.blanks_separate_docs,
            "do_lower_case": vocabulary.do_lower_case,
            "strip_accents": vocabulary.strip_accents,
            # Of no consequence, and not recorded, where all are text files.
            **({"text_column": config.text_column} if has_records else {}),
        },
        "vocabulary_sha256": vocabulary.sha256,
        "vocabulary_size": vocabulary.size,
        "sources": [
            {"name": found.name, "bytes": found.bytes, "sha256": found.sha256}
            for found in inspections
            if found.fault is None
        ],
        "skipped_sources": [
            {"name": name, "reason": reason} for found in inspections for name, reason in found.left_out()
        ],
    }


def _is_complete(output: Path, ledger: dict) -> bool:
    manifest = tfrecords.read_manifest(output)
    if manifest is None:
        return False
    _check_same(output, manifest, ledger)
    if (output / WORK_FOLDER).exists():
        return False
    for part in _parts(ledger):
        _check_shards(output, PARTS[part], ledger)
    # A run that was killed while it cleaned up left something. The folder may be read-only, or in use by now.
    if any(output.glob(".*")):
        with contextlib.suppress(OSError), files.lock_folder(output):
            files.remove_leftovers(output)
    return True


def _parts(ledger: dict) -> Sequence[str]:
    return tuple(PARTS) if ledger["settings"]["held_out_fraction"] else ("train",)


def _check_shards(output: Path, part_folder: str, ledger: dict) -> None:
    """Stop where a part of a finished folder is not as it was written."""
    folder = output / part_folder
    manifest = tfrecords.read_manifest(folder)
    if manifest is None:
        gone = [folder / tfrecords.MANIFEST_NAME]
    else:
        _check_same(folder, manifest, ledger)
        sizes = {folder / shard["name"]: shard["bytes"] for shard in manifest["shards"]}
        gone = [path for path, size in sizes.items() if not path.exists() or path.stat().st_size != size]
    if gone:
        name = gone[0].relative_to(output)
        raise UsageError(f"--output_dir {output}: {name} is gone or changed; give a new folder")


def _check_output_folder(output: Path, ledger: dict) -> None:
    """Refuse to mix two settings, or our shards with somebody else's, in one folder."""
    recorded = output / WORK_FOLDER / "ledger.json"
    if recorded.exists():
        _check_same(output, files.read_json(recorded), ledger)
        print(f"{output}: going on where an earlier run was stopped")
    elif any(output.glob("*tfrecord*")):
        raise UsageError(f"--output_dir {output}: holds shards without a manifest; give a new folder")


def _check_same(output: Path, recorded: dict, ledger: dict) -> None:
    step_folder.check_same(f"--output_dir {output}", recorded, ledger)
    if recorded["vocabulary_sha256"] != ledger["vocabulary_sha256"]:
        raise UsageError(f"--output_dir {output}: holds data of another vocabulary; give a new folder")


# ------------------------------------------------------------------------------------- blocks (in workers)

_worker_builder: ExampleBuilder
_worker_held_out_fraction: float


def _set_up_worker(vocabulary: Vocabulary, config: DatasetConfig) -> None:
    global _worker_builder, _worker_held_out_fraction
    _worker_builder = ExampleBuilder(vocabulary, config.seed, config.max_seq_length)
    _worker_held_out_fraction = config.held_out_fraction


def _build_block(block: list[Document], path: str) -> None:
    """Write a block's examples, part by part, and its statistics; the statistics come last."""
    documents = {part: [] for part in PARTS}
    for document in map(corpus.as_sentences, block):
        documents[_part(document)].append(document)
    statistics = {
        part: _worker_builder.write(f"{path}.{part}", [members]).record()
        for part, members in documents.items()
    }
    files.write_json(f"{path}.json", statistics)


def _part(document: Document) -> str:
    if not _worker_held_out_fraction:
        return "train"
    key = example_builder.document_key(_worker_builder.seed, document)
    return "held_out" if example_builder.is_held_out(key, _worker_held_out_fraction) else "train"


# ------------------------------------------------------------------------------------- blocks (in the parent)


def _build_blocks(
    pool: ProcessPoolExecutor,
    sources: list[Source],
    checked: list[SourceInspection],
    work: Path,
    config: DatasetConfig,
) -> list[str]:
    """Have every block built that is not there yet; returns the blocks' paths in the order of the text.

    Raises:
        _SourceChanged: a source is not as it was when it was checked.
    """
    paths: list[str] = []
    running: set[Future] = set()
    total = sum(found.bytes for found in checked)
    with tqdm(total=total, desc="text to examples", unit="B", unit_scale=True, disable=None) as bar:
        for source, found in zip(sources, checked, strict=True):
            for block in _read_blocks(source, config):
                paths.append(str(work / f"block-{len(paths):07d}"))
                if os.path.exists(f"{paths[-1]}.json"):
                    continue
                if len(running) > 2 * config.num_processes:
                    running = _wait_for_one(running)
                running.add(pool.submit(_build_block, block, paths[-1]))
            bar.update(found.bytes)
        while running:
            running = _wait_for_one(running)
    for source, found in zip(sources, checked, strict=True):
        if not corpus.is_unchanged(source, found):
            raise _SourceChanged(source, config)
    return paths


def _read_blocks(source: Source, config: DatasetConfig) -> Iterator[list[Document]]:
    """The blocks of a source in which a check found no fault."""
    try:
        yield from corpus.read_blocks(
            source.path, config.blanks_separate_docs, config.text_column, source.left_out
        )
    except FAULTS:
        raise _SourceChanged(source, config) from None


class _SourceChanged(UsageError):
    """A source is not the file any more that was checked, and that the manifest would name."""

    def __init__(self, source: Source, config: DatasetConfig):
        super().__init__(
            f"--corpus_dir {config.corpus_dir}: {source.name} has changed while it was read; run the "
            "command again"
        )


def _wait_for_one(running: set[Future]) -> set[Future]:
    done, waiting = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
    for future in done:
        future.result()
    return waiting


def _count(part: str, blocks: list[str]) -> int:
    return sum(len(tfrecords.load_index(f"{path}.{part}", "output_dir")) - 1 for path in blocks)


# -------------------------------------------------------------------------------------------------- shards


@dataclasses.dataclass(frozen=True)
class _Slice:
    """Records [first, last) of a block file."""

    path: str
    first: int
    last: int


def _room_needed(blocks: list[str], parts: Sequence[str], output: Path) -> int:
    """Bytes that the shards take beside the blocks, but for those that an earlier run has written of them."""
    paths = [Path(f"{block}.{part}") for part in parts for block in blocks]
    written = [path for part in parts for path in (output / PARTS[part]).glob("*tfrecord*")]
    needed = sum(path.stat().st_size + tfrecords.index_path(path).stat().st_size for path in paths)
    return needed - sum(path.stat().st_size for path in written)


def _assemble(
    pool: ProcessPoolExecutor,
    part: str,
    blocks: list[str],
    output: Path,
    ledger: dict,
    vocabulary: Vocabulary,
) -> None:
    """Join a part's blocks into its shards and write what stands beside them; the manifest comes last."""
    folder = output / PARTS[part]
    folder.mkdir(exist_ok=True)
    files.remove_leftovers(folder)
    examples: list[int] = []
    statistics = ExampleStatistics.none(vocabulary.size, ledger["settings"]["max_seq_length"])
    for path in blocks:
        of_block = ExampleStatistics.of_record(files.read_json(f"{path}.json")[part])
        examples.append(of_block.examples)
        statistics.add(of_block)
    shard_count = max(1, min(ledger["settings"]["num_out_files"], sum(examples)))
    plans = _plan_shards(blocks, part, examples, shard_count)
    paths = [str(folder / tfrecords.shard_name(number, shard_count)) for number in range(shard_count)]
    written = pool.map(_write_shard, paths, plans)
    shards = list(tqdm(written, total=len(paths), desc=f"{part} shards", unit="shard", disable=None))

    vocabulary.save(folder / tfrecords.VOCABULARY_NAME)
    tfrecords.write_array(folder / tfrecords.TOKEN_COUNTS_NAME, statistics.token_counts)
    figures = statistics.figures(vocabulary.ids["[UNK]"])
    manifest = {
        **ledger,
        "part": part,
        **figures,
        "shards": [
            {"name": Path(path).name, "examples": count, "bytes": os.path.getsize(path), "sha256": sha256}
            for path, (count, sha256) in zip(paths, shards, strict=True)
        ],
    }
    files.write_json(folder / tfrecords.MANIFEST_NAME, manifest)
    data_card.write(folder)
    print(f"{folder}: {describe_figures(figures, ledger['settings']['max_seq_length'], shard_count)}")


def _plan_shards(blocks: list[str], part: str, examples: list[int], shard_count: int) -> list[list[_Slice]]:
    """Divide all records, in order, into shards whose sizes differ by one at most."""
    starts = np.cumsum([0, *examples])
    borders = [int(starts[-1]) * number // shard_count for number in range(shard_count + 1)]
    plans: list[list[_Slice]] = []
    for first, last in itertools.pairwise(borders):
        plan = []
        block = max(0, int(np.searchsorted(starts, first, side="right")) - 1)
        while block < len(blocks) and starts[block] < last:
            begin, end = max(first, int(starts[block])), min(last, int(starts[block + 1]))
            if begin < end:
                base = int(starts[block])
                plan.append(_Slice(f"{blocks[block]}.{part}", begin - base, end - base))
            block += 1
        plans.append(plan)
    return plans


def _write_shard(path: str, plan: list[_Slice]) -> tuple[int, str]:
    """Write one shard from slices of block files; returns its number of records and its SHA-256."""
    records = 0
    with tfrecords.ShardWriter(path) as shard:
        for piece in plan:
            offsets = np.asarray(tfrecords.load_index(piece.path, "output_dir")[piece.first : piece.last + 1])
            with open(piece.path, "rb") as stream:
                stream.seek(int(offsets[0]))
                frames = stream.read(int(offsets[-1] - offsets[0]))
            shard.write_frames(frames, np.diff(offsets).tolist())
            records += piece.last - piece.first
    return records, files.sha256_of_file(path)


if __name__ == "__main__":
    run_program(main)
