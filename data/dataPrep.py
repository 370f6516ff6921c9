"""Data preparation, step by step, in NVIDIA's names: from a download to the TFRecords of pre-training.

    python data/dataPrep.py --action download --dataset wikicorpus_en
    python data/dataPrep.py --action text_formatting --dataset wikicorpus_en
    python data/dataPrep.py --action sharding --dataset wikicorpus_en
    python data/dataPrep.py --action create_tfrecord_files --dataset wikicorpus_en --max_seq_length 128
    python data/dataPrep.py --action text_formatting --dataset text --input_files my_texts/ --clean standard

Everything lies below DATA_PREP_WORKING_DIR (from the environment; default: data/ of this repository):
download/, formatted_one_article_per_line/, sharded_*/ and tfrecord_*/, where scripts/run_pretraining.sh finds
it. data/create_datasets_from_start.sh runs all steps. A step that was interrupted goes on where it was, and
one that is complete does nothing; the results do not depend on the number of processes.
"""

import os
import sys
from dataclasses import asdict
from pathlib import Path

# Run by its path, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from command_line import UsageError, parse, run_program
from data import cleaning, dataset_downloads, dataset_names, decontamination, downloads, text_sources
from data.executors import Backend, backend_of
from data.sharding import Sharding, shard_text
from data.text_formatting import Formatting, format_text
from data.tfrecord_creation import Creation, create_tfrecords
from preparation_configuration import PreparationConfig
from tokenization import load_vocabulary, options_path

_OWN = "text"
_VOCABULARY = "vocabulary"
_OWN_ORIGIN = {"title": "text of your own", "licence": "not recorded", "url": ""}
# Cleaners that look at all documents at once, in sharding; the others look at one, in text_formatting.
_GLOBAL = frozenset({"duplicates", "near_duplicates"})
_TEXTS = (_OWN, "bookscorpus", "openwebtext")
# Linux's NAME_MAX, in bytes.
_LONGEST_NAME = 255


def main() -> int:
    config = parse(PreparationConfig, description=__doc__)
    default = Path(__file__).resolve().parent
    # Dask's workers were started in a folder of their own.
    working = Path(os.environ.get("DATA_PREP_WORKING_DIR") or default).absolute()
    if config.action == "download":
        _download(config, working)
        return 0
    for name in _members(config.dataset):
        if name not in _TEXTS and not dataset_names.wikipedia_of(name):
            raise UsageError(f"--dataset {config.dataset}: is for --action download alone")
    backend = backend_of(
        config.n_processes or len(os.sched_getaffinity(0)), config.max_memory_gb, config.dask_scheduler
    )
    steps = {"text_formatting": _format, "sharding": _shard, "create_tfrecord_files": _create_tfrecords}
    steps[config.action](config, working, backend)
    return 0


def _members(dataset: str) -> tuple[str, ...]:
    return (_OWN,) if dataset == _OWN else dataset_names.members(dataset)


def _download(config: PreparationConfig, working: Path) -> None:
    if config.mirror:
        downloads.require_web_address(config.mirror, "mirror")
    if config.dataset == _VOCABULARY:
        print(dataset_downloads.download_vocabulary(working), flush=True)
        return
    for path in dataset_downloads.download_dataset(config.dataset, working, config.mirror):
        print(path, flush=True)


def _format(config: PreparationConfig, working: Path, backend: Backend) -> None:
    datasets = _members(config.dataset)
    if config.input_files and len(datasets) > 1:
        raise UsageError(f"--input_files: --dataset {config.dataset} is {' and '.join(datasets)}: name one")
    for dataset in datasets:
        if config.input_files:
            inputs = _paths(config.input_files, "input_files")
        elif dataset == _OWN:
            raise UsageError(f"--dataset {dataset}: --input_files says which files and folders")
        else:
            inputs = (str(dataset_downloads.folder_of(dataset, working)),)
            if not Path(inputs[0]).is_dir():
                raise UsageError(f"{inputs[0]}: no such folder; run --action download, or give --input_files")
        against = ()
        if config.decontaminate_against:
            against = _paths(config.decontaminate_against, decontamination.FLAG)
        clean = cleaning.parse_switches(config.clean, bool(against))
        if waiting := sorted(clean & _GLOBAL):
            names = " and ".join(waiting)
            print(
                f"--clean {config.clean}: {names} wait for --action sharding with the same flag", flush=True
            )
        by_file = dataset in ("bookscorpus", "openwebtext") or not config.blanks_separate_docs
        formatting = Formatting(
            dataset=dataset,
            reader="text" if dataset in _TEXTS else "wikipedia",
            origin=_OWN_ORIGIN if dataset == _OWN else asdict(dataset_names.origin(dataset)),
            text_column=config.text_column,
            documents=text_sources.BY_FILE if by_file else text_sources.BY_BLANK_LINE,
            strict=config.strict,
            clean=clean - _GLOBAL,
            language=config.language,
            decontaminate_against=against,
            leave_out=_results(config, working),
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
        duplicates=tuple(sorted(cleaning.parse_switches(config.clean, True) & _GLOBAL)),
    )
    inputs = [_formatted(working, name) for name in _members(config.dataset)]
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


def _paths(list_of_files: str, flag: str) -> tuple[str, ...]:
    """The absolute paths of a list with commas, or of the file that @FILE names.

    Raises:
        UsageError: there are none, or the file cannot be read.
    """
    if list_of_files.startswith("@"):
        paths = _names_in(list_of_files[1:], flag)
    else:
        paths = _divided(list_of_files.split(","))
    if not any(paths):
        raise UsageError(f"--{flag} {list_of_files!r}: names no file")
    return tuple(os.path.abspath(path) for path in paths if path)


def _names_in(path: str, flag: str) -> list[str]:
    """The names in a file: one a line, or ended by zeros, which names with line ends need."""
    try:
        content = os.fsdecode(Path(path).read_bytes())
    except OSError as error:
        raise UsageError(f"--{flag} @{path}: {error.strerror}") from None
    return content.split("\0") if "\0" in content else content.replace("\r\n", "\n").split("\n")


def _divided(words: list[str]) -> list[str]:
    """The paths that words between commas make; one that has commas itself is told by its being there."""
    paths, begin = [], 0
    while begin < len(words):
        path, count = _longest_path(words, begin)
        paths.append(path)
        begin += count
    return paths


def _longest_path(words: list[str], begin: int) -> tuple[str, int]:
    """The path of the most words, from `begin` on, that make one that is there, else of one; their number."""
    joined = words[begin]
    longest = (joined if os.path.lexists(joined) else joined.strip()), 1
    for end in range(begin + 1, len(words)):
        # Looks are saved, as a list may have thousands: what follows can but make the last name longer.
        if not any(map(_may_go_on, {joined, joined.lstrip()})):
            break
        joined = f"{joined},{words[end]}"
        there = [path for path in dict.fromkeys((joined, joined.strip())) if os.path.lexists(path)]
        if there:
            longest = there[0], end + 1 - begin
    return longest


def _may_go_on(path: str) -> bool:
    """Whether a path that begins so may be there, by its folder and the length of its last name."""
    folder, name = os.path.split(path)
    return len(os.fsencode(name)) <= _LONGEST_NAME and (not folder or os.path.isdir(folder))


def _results(config: PreparationConfig, working: Path) -> tuple[str, ...]:
    """What is no text, though it may lie in a folder that is read."""
    paths = [_formatted(working, config.dataset).parent]
    paths += [path for pattern in ("sharded_*", "tfrecord_*") for path in sorted(working.glob(pattern))]
    vocab_file = Path(config.vocab_file or working / "vocab.txt")
    paths += [vocab_file, options_path(vocab_file)]
    folders = (dataset_downloads.folder_of(name, working) for name in _members(config.dataset))
    paths += [folder / dataset_downloads.RECORD_NAME for folder in folders]
    return tuple(map(str, paths))


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
