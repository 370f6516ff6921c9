"""Data preparation, step by step, in NVIDIA's names: from a download to the TFRecords of pre-training.

    python data/dataPrep.py --action download --dataset wikicorpus_en
    python data/dataPrep.py --action text_formatting --dataset wikicorpus_en
    python data/dataPrep.py --action sharding --dataset wikicorpus_en
    python data/dataPrep.py --action create_tfrecord_files --dataset wikicorpus_en --max_seq_length 128
    python data/dataPrep.py --action text_formatting --dataset text --input_files my_texts/ --clean standard

Everything lies below DATA_PREP_WORKING_DIR (from the environment; default: data/ of this repository):
download/, formatted_one_article_per_line/, sharded_*/ and tfrecord_*/, in which scripts/run_pretraining.sh looks.
data/create_datasets_from_start.sh runs all steps. A step that was interrupted goes on where it was, and one
that is complete does nothing; the results do not depend on the number of processes.
"""

import os
import sys
from pathlib import Path

# Run by its path, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from command_line import UsageError, parse, run_program
from data import cleaning, dataset_downloads
from data.executors import Backend, backend_of
from data.sharding import Sharding, shard_text
from data.text_formatting import Formatting, format_text
from data.tfrecord_creation import Creation, create_tfrecords
from preparation_configuration import PreparationConfig
from tokenization import load_vocabulary

# Datasets that are made of others.
_MEMBERS = {"books_wiki_en_corpus": ("bookscorpus", "wikicorpus_en")}
_READERS = {"wikicorpus_en": "wikipedia", "bookscorpus": "text", "openwebtext": "text", "text": "text"}


def main() -> int:
    config = parse(PreparationConfig, description=__doc__)
    default = Path(__file__).resolve().parent
    working = Path(os.environ.get("DATA_PREP_WORKING_DIR") or default)
    if config.action == "download":
        _download(config, working)
        return 0
    if config.dataset not in (*_READERS, *_MEMBERS):
        raise UsageError(f"--dataset {config.dataset}: is for --action download alone")
    backend = backend_of(
        config.n_processes or len(os.sched_getaffinity(0)), config.max_memory_gb, config.dask_scheduler
    )
    steps = {"text_formatting": _format, "sharding": _shard, "create_tfrecord_files": _create_tfrecords}
    steps[config.action](config, working, backend)
    return 0


def _download(config: PreparationConfig, working: Path) -> None:
    if config.dataset == "text":
        raise UsageError(
            "--dataset text: there is nothing to download; --action text_formatting --input_files"
        )
    for dataset in _MEMBERS.get(config.dataset, (config.dataset,)):
        dataset_downloads.download_dataset(dataset, working / "download", mirror=config.mirror)


def _format(config: PreparationConfig, working: Path, backend: Backend) -> None:
    datasets = _MEMBERS.get(config.dataset, (config.dataset,))
    if config.input_files and len(datasets) > 1:
        raise UsageError(f"--input_files: --dataset {config.dataset} is {' and '.join(datasets)}: name one")
    for dataset in datasets:
        if config.input_files:
            inputs = [part.strip() for part in config.input_files.split(",") if part.strip()]
        elif dataset == "text":
            raise UsageError("--dataset text: --input_files says which files and folders")
        else:
            inputs = [str(working / "download" / dataset)]
            if not Path(inputs[0]).is_dir():
                raise UsageError(f"{inputs[0]}: no such folder; run --action download, or give --input_files")
        formatting = Formatting(
            dataset=dataset,
            reader=_READERS[dataset],
            origin=dataset_downloads.origin(dataset),
            text_column=config.text_column,
            blanks_separate_docs=config.blanks_separate_docs,
            strict=config.strict,
            clean=cleaning.parse_switches(config.clean),
            language=config.language,
            decontaminate_against=tuple((config.decontaminate_against or "").split(",")),
        )
        format_text(inputs, formatting, _formatted(working, dataset), backend, config.tolerate)


def _shard(config: PreparationConfig, working: Path, backend: Backend) -> None:
    sharding = Sharding(
        dataset=config.dataset,
        n_training_shards=config.n_training_shards,
        n_test_shards=config.n_test_shards,
        fraction_test_set=config.fraction_test_set,
        random_seed=config.random_seed,
        segmentation_method=config.segmentation_method,
        duplicates=tuple(sorted(cleaning.parse_switches(config.clean) & cleaning.GLOBAL)),
    )
    inputs = [_formatted(working, name) for name in _MEMBERS.get(config.dataset, (config.dataset,))]
    shard_text(inputs, sharding, _sharded(config, working), backend, config.tolerate)


def _create_tfrecords(config: PreparationConfig, working: Path, backend: Backend) -> None:
    vocab_file = str(Path(config.vocab_file or working / "vocab.txt").resolve())
    vocabulary = load_vocabulary(vocab_file, config.do_lower_case)
    creation = Creation(
        dataset=config.dataset,
        vocab_file=vocab_file,
        do_lower_case=config.do_lower_case,
        max_seq_length=config.max_seq_length,
        seed=config.random_seed,
    )
    name = (
        f"tfrecord_lower_case_{int(vocabulary.do_lower_case)}_seq_len_{config.max_seq_length}"
        f"_random_seed_{config.random_seed}"
    )
    create_tfrecords(
        _sharded(config, working), creation, working / name / config.dataset, backend, config.tolerate
    )


def _formatted(working: Path, dataset: str) -> Path:
    return working / "formatted_one_article_per_line" / dataset


def _sharded(config: PreparationConfig, working: Path) -> Path:
    name = (
        f"sharded_training_shards_{config.n_training_shards}_test_shards_{config.n_test_shards}"
        f"_fraction_{config.fraction_test_set:g}"
    )
    return working / name / config.dataset


if __name__ == "__main__":
    run_program(main)
