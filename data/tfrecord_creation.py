"""Text shards -> TFRecord shards: the step `create_tfrecord_files`, one shard from one of text.

The TFRecords of training text are in train/, those of held-out text in test/, each with the manifest, the
token counts and the vocabulary that run_pretraining.py looks for, and a data card. How documents become
examples is for example_files.py.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import corpus
import disk_space
import files
import tfrecords
from command_line import UsageError
from data import data_card, step_folder
from data.executors import Backend
from data.units import Unit, read_records, run_units
from example_files import ExampleBuilder, ExampleStatistics
from tokenization import Vocabulary, load_vocabulary

_SIDES = ("train", "test")
# Bytes of TFRecords for a byte of text: a token of four characters has five bytes in its record.
_GROWTH = 1.5


@dataclass(frozen=True)
class Creation:
    """What decides on the examples beside the text.

    Attributes:
        dataset: name of the dataset, and of its folder.
        vocab_file: WordPiece vocabulary.
        do_lower_case: None follows the record beside the vocabulary.
        max_seq_length: tokens in an example.
        seed: seed of the segment lengths.
    """

    dataset: str
    vocab_file: str
    do_lower_case: bool | None
    max_seq_length: int
    seed: int


def create_tfrecords(
    sharded: Path, creation: Creation, folder: Path, backend: Backend, tolerate: int
) -> dict:
    """Have the TFRecords of sharded text in a folder; returns its manifest.

    Raises:
        UsageError: there is no sharded text, or the folder holds TFRecords of other settings or text.
        RunFailure: more units failed than is tolerated; all else is done.
    """
    manifest_path = sharded / step_folder.MANIFEST_NAME
    if not manifest_path.exists():
        raise UsageError(f"{sharded}: holds no text shards; run --action sharding first")
    text = files.read_json(manifest_path)
    vocabulary = load_vocabulary(creation.vocab_file, creation.do_lower_case)
    with step_folder.held(folder):
        ledger = {
            "step": "create_tfrecord_files",
            "settings": {
                "dataset": creation.dataset,
                "max_seq_length": creation.max_seq_length,
                "seed": creation.seed,
                "do_lower_case": vocabulary.do_lower_case,
                "strip_accents": vocabulary.strip_accents,
                "vocabulary_sha256": vocabulary.sha256,
            },
            "sources": [{key: shard[key] for key in ("name", "bytes", "sha256")} for shard in text["shards"]],
        }
        manifest = step_folder.begin(folder, ledger)
        if manifest is None:
            size = sum(shard["bytes"] for shard in text["shards"])
            disk_space.require(folder, int(_GROWTH * size), "the TFRecords")
            units = _plan(sharded, text, creation)
            set_aside = run_units(units, write_shard, folder, backend, "text to examples", scale=True)
            sides = _describe_sides(units, folder, ledger, text, vocabulary)
            manifest = ledger | {"faults": [], "set_aside": set_aside, "sides": sides}
            step_folder.finish(folder, manifest)
        else:
            print(f"{folder}: complete already, nothing to do", flush=True)
    step_folder.judge(folder, manifest, tolerate)
    return manifest


def write_shard(path: Path, text: str, name: str, creation: Creation) -> dict:
    """In a worker: the examples of one text shard.

    Raises:
        UsageError: the text has another size than when it was written.
    """
    statistics = _builder(creation).write(path, _blocks(text))
    return statistics.record() | {"bytes": path.stat().st_size, "sha256": files.sha256_of_file(path)}


def _blocks(text: str) -> Iterator[list[corpus.Document]]:
    return corpus.read_blocks(text, blanks_separate_docs=True)


@functools.lru_cache(maxsize=1)
def _builder(creation: Creation) -> ExampleBuilder:
    """Once in a worker: the vocabulary takes a while to load, and what the tokenizer has learnt is kept."""
    vocabulary = load_vocabulary(creation.vocab_file, creation.do_lower_case)
    return ExampleBuilder(vocabulary, creation.seed, creation.max_seq_length)


def _plan(sharded: Path, text: dict, creation: Creation) -> list[Unit]:
    units = []
    for side in _SIDES:
        shards = [shard for shard in text["shards"] if shard["name"].startswith(f"{side}/")]
        for number, shard in enumerate(shards):
            path = (sharded / shard["name"]).resolve()
            if not path.exists() or path.stat().st_size != shard["bytes"]:
                raise UsageError(f"{path}: is gone or changed; run --action sharding into a new folder")
            name = tfrecords.shard_name(number, len(shards))
            arguments = (str(path), shard["name"], creation)
            units.append(Unit(f"{side}-{number}", f"{side}/{name}", arguments, shard["bytes"]))
    return units


def _describe_sides(
    units: Sequence[Unit], folder: Path, ledger: dict, text: dict, vocabulary: Vocabulary
) -> dict:
    """Write what stands beside the shards of each side; returns the figures of each."""
    sides = {}
    for side in _SIDES:
        done = [
            (unit, record)
            for unit, record in read_records(folder, [u for u in units if u.result.startswith(f"{side}/")])
        ]
        if not done:
            continue
        statistics = ExampleStatistics.none(vocabulary.size, ledger["settings"]["max_seq_length"])
        for _, record in done:
            statistics.add(ExampleStatistics.of_record(record))
        sides[side] = statistics.figures(vocabulary.ids["[UNK]"])
        vocabulary.save(folder / side / tfrecords.VOCABULARY_NAME)
        tfrecords.write_array(folder / side / tfrecords.TOKEN_COUNTS_NAME, statistics.token_counts)
        files.write_json(
            folder / side / tfrecords.MANIFEST_NAME,
            ledger
            | {"vocabulary_sha256": vocabulary.sha256, "vocabulary_size": vocabulary.size, "part": side}
            | sides[side]
            | {
                "datasets": text["datasets"],
                "dropped": text["dropped"],
                "shards": [
                    {
                        "name": Path(unit.result).name,
                        "examples": record["examples"],
                        "bytes": record["bytes"],
                        "sha256": record["sha256"],
                    }
                    for unit, record in done
                ],
            },
        )
        data_card.write(folder / side)
        figures = sides[side]
        print(
            f"{folder / side}: {figures['examples']:,} examples of {ledger['settings']['max_seq_length']} "
            f"from {figures['documents']:,} documents, {figures['tokens']:,} tokens, "
            f"{figures['padding_share']:.1%} padding, {figures['unknown_share']:.2%} unknown, in {len(done)} "
            "shards",
            flush=True,
        )
    return sides
