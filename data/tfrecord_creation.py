"""Text shards -> TFRecord shards: the step `create_tfrecord_files`, one shard from one of text.

The TFRecords of training text are in train/, those of held-out text in test/, each with the manifest, the
token counts and the vocabulary that run_pretraining.py looks for, and a data card. How documents become
examples is for example_files.py.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import disk_space
import files
import tfrecords
from command_line import UsageError
from data import data_card, step_folder
from data.executors import Backend
from data.units import Unit, read_records, run_units, weight_left
from example_files import ExampleStatistics, describe_figures, write_text_file
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
            units = _plan(sharded, text, creation, _identity(vocabulary))
            disk_space.require(folder, int(_GROWTH * weight_left(units, folder)), "the TFRecords")
            set_aside = run_units(units, write_shard, folder, backend, "text to examples", scale=True)
            sides = _describe_sides(units, folder, ledger, text, vocabulary)
            manifest = ledger | {"faults": [], "set_aside": set_aside, "sides": sides}
            step_folder.finish(folder, manifest)
        else:
            for side in manifest["sides"]:
                shards = files.read_json(folder / side / tfrecords.MANIFEST_NAME)["shards"]
                step_folder.require_results(folder / side, {s["name"]: s["bytes"] for s in shards})
            print(f"{folder}: complete already, nothing to do", flush=True)
    step_folder.judge(folder, manifest, tolerate)
    return manifest


def write_shard(path: Path, text: str, creation: Creation, identity: tuple) -> dict:
    """In a worker: the examples of one text shard.

    Raises:
        UsageError: the vocabulary is not the one of this identity any more.
    """
    vocabulary = _vocabulary(creation.vocab_file, creation.do_lower_case, identity)
    record = write_text_file(path, text, vocabulary, creation.seed, creation.max_seq_length)
    return record | {"bytes": path.stat().st_size, "sha256": files.sha256_of_file(path)}


@functools.lru_cache(maxsize=1)
def _vocabulary(vocab_file: str, do_lower_case: bool | None, identity: tuple) -> Vocabulary:
    """Once in a worker: it is large to send, and takes a while to read.

    Workers of a cluster outlive a step, and the file may be another one at the next.
    """
    vocabulary = load_vocabulary(vocab_file, do_lower_case)
    if _identity(vocabulary) != identity:
        raise UsageError(f"--vocab_file {vocab_file}: has changed while it was used; run the command again")
    return vocabulary


def _identity(vocabulary: Vocabulary) -> tuple[str, bool, bool | None]:
    """All of a vocabulary that the examples follow from."""
    return vocabulary.sha256, vocabulary.do_lower_case, vocabulary.strip_accents


def _plan(sharded: Path, text: dict, creation: Creation, identity: tuple) -> list[Unit]:
    step_folder.require_results(sharded, {shard["name"]: shard["bytes"] for shard in text["shards"]})
    units = []
    for side in _SIDES:
        shards = [shard for shard in text["shards"] if shard["name"].startswith(f"{side}/")]
        for number, shard in enumerate(shards):
            path = (sharded / shard["name"]).resolve()
            name = tfrecords.shard_name(number, len(shards))
            arguments = (str(path), creation, identity)
            units.append(Unit(f"{side}-{number}", f"{side}/{name}", arguments, shard["bytes"]))
    return units


def _describe_sides(
    units: Sequence[Unit], folder: Path, ledger: dict, text: dict, vocabulary: Vocabulary
) -> dict:
    """Write what stands beside the shards of each side; returns the figures of each."""
    sides = {}
    for side in _SIDES:
        done = list(read_records(folder, [unit for unit in units if unit.result.startswith(f"{side}/")]))
        if not done:
            continue
        statistics = ExampleStatistics.none(vocabulary.size, ledger["settings"]["max_seq_length"])
        for _, record in done:
            statistics.add(ExampleStatistics.of_record(record))
        figures = sides[side] = statistics.figures(vocabulary.ids["[UNK]"])
        vocabulary.save(folder / side / tfrecords.VOCABULARY_NAME)
        tfrecords.write_array(folder / side / tfrecords.TOKEN_COUNTS_NAME, statistics.token_counts)
        manifest = _side_manifest(ledger, text, vocabulary) | figures
        manifest["part"] = {"test": "held_out"}.get(side, side)
        manifest["shards"] = [
            {"name": Path(unit.result).name} | {key: record[key] for key in ("examples", "bytes", "sha256")}
            for unit, record in done
        ]
        files.write_json(folder / side / tfrecords.MANIFEST_NAME, manifest)
        data_card.write(folder / side)
        told = describe_figures(figures, ledger["settings"]["max_seq_length"], len(done))
        print(f"{folder / side}: {told}", flush=True)
    return sides


def _side_manifest(ledger: dict, text: dict, vocabulary: Vocabulary) -> dict:
    """What both sides' manifests say: where the text is from, and what became of it on its way."""
    datasets = text["datasets"]
    return {
        "title": " and ".join(dataset["origin"]["title"] for dataset in datasets),
        "settings": {name: value for name, value in ledger["settings"].items() if name != "vocabulary_sha256"}
        | {f"sharding: {name}": value for name, value in text["settings"].items() if name != "dataset"}
        | {
            f"{dataset['settings']['dataset']}: {name}": value
            for dataset in datasets
            for name, value in dataset["settings"].items()
            if name != "dataset"
        },
        "vocabulary_sha256": vocabulary.sha256,
        "vocabulary_size": vocabulary.size,
        "sources": [
            source | {"licence": dataset["origin"]["licence"], "origin": dataset["origin"]["url"]}
            for dataset in datasets
            for source in dataset["sources"]
        ],
        "skipped_sources": [skipped for dataset in datasets for skipped in dataset["skipped_sources"]],
        "faults": [fault for dataset in datasets for fault in dataset["faults"]],
        "documents_kept": text["documents"],
        "documents_dropped": text["dropped"],
        "documents_changed": text["changed"],
        "text_shards": ledger["sources"],
    }
