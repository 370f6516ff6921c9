"""Check folders of TFRecord shards against their manifests, and print their first examples decoded.

    python data/inspect_dataset.py shards_128/ --examples 3 --show_masks

Takes one folder or a parent of several. Every byte of every shard is read: presence, size, SHA-256, each
record's checksums, the index, each example's form; tokens, shares, lengths and token counts are counted anew
and compared. Each fault is printed with its file and record. Shards without a manifest (another tool's) have
their records' checksums checked. Exit code 0 without a fault, 1 with any, 2 for a mistake in the flags.
"""

import contextlib
import itertools
import os
import sys
from collections.abc import Callable
from dataclasses import MISSING, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

# Run by its path, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import files
import tfrecords
from command_line import RunFailure, UsageError, option, parse, require, require_at_least, run_program
from configuration import PretrainingConfig, max_predictions
from data import data_card
from data.shard_inspection import ExampleForm, ShardFindings, inspect_shard
from example_files import ExampleStatistics
from example_parsing import example_length, parse_examples
from masking import MaskingRule, describe_masked, mask_batch, mask_keys
from tokenization import Vocabulary, load_vocabulary
from worker_processes import worker_pool


@dataclass
class InspectionConfig:
    """Settings of data/inspect_dataset.py."""

    folder: str = option(
        MISSING, "folder of shards, or one with such folders in it", group="data", positional=True
    )
    vocab_file: str = option(
        "", "vocabulary to decode with; default the vocab.txt beside the shards", group="data"
    )
    num_processes: int = option(1, "worker processes, each with a shard", group="work")
    examples: int = option(3, "first examples of each folder to print", group="printed")
    show_masks: bool = option(
        False,
        "print them masked as in training, picks in brackets; each place in a run has other masks",
        group="printed",
    )
    seed: int = option(PretrainingConfig.seed, "seed of these masks, that of the training", group="printed")
    mask_prob: float = option(
        PretrainingConfig.mask_prob, "share of the tokens that are picked", group="printed"
    )

    def __post_init__(self):
        require_at_least(1, self, "num_processes")
        require_at_least(0, self, "examples")
        require(0.0 < self.mask_prob < 1.0, "mask_prob", self.mask_prob, "must be in (0, 1)")


@dataclass
class Folder:
    """A folder of shards while it is checked.

    Attributes:
        manifest: None where there is none, or none that can be read.
        vocabulary: None where there is none, or not the manifest's.
        paths: of the shards that are there.
        faults: lines that are printed and counted, each of which names a file.
    """

    path: Path
    manifest: dict | None
    vocabulary: Vocabulary | None
    paths: list[str]
    faults: list[str]

    @property
    def form(self) -> ExampleForm | None:
        """What its examples should be like, where that is known."""
        if self.manifest is None or self.vocabulary is None:
            return None
        return ExampleForm.of(self.vocabulary, self.manifest["settings"]["max_seq_length"])


def main() -> int:
    config = parse(InspectionConfig, description=__doc__)
    folders = find_folders(config.folder)
    faults = 0
    with contextlib.ExitStack() as stack:
        run = map
        if config.num_processes > 1:
            run = stack.enter_context(worker_pool(config.num_processes)).map
        for path in folders:
            step = _read_step(path)
            faults += len(
                inspect_folder(path, config, run) if step is None else inspect_step(path, step, run)
            )
    if faults:
        raise RunFailure(f"{config.folder}: {faults} fault{'s' if faults > 1 else ''} found, named above")
    return 0


def find_folders(root: str) -> list[Path]:
    """The folders with shards or a manifest, from `root` down, hidden ones left out.

    Raises:
        UsageError: there is none.
    """
    if not Path(root).is_dir():
        raise UsageError(f"folder {root}: no such folder")
    found = []
    for name, subfolders, names in os.walk(root):
        subfolders[:] = sorted(subfolder for subfolder in subfolders if not subfolder.startswith("."))
        if tfrecords.MANIFEST_NAME in names or tfrecords.shards_in(name):
            found.append(Path(name))
    if not found:
        raise UsageError(f"folder {root}: holds no shards and no {tfrecords.MANIFEST_NAME}")
    return found


def inspect_folder(path: Path, config: InspectionConfig, run: Callable = map) -> list[str]:
    """Check one folder, print what was found, and return the faults.

    Args:
        run: `map`, or that of a pool of processes.
    """
    folder = _open_folder(path, config)
    findings = _read_shards(folder, config, run)
    if folder.manifest is not None:
        _compare_shards(folder, findings)
    totals = _add_up(folder, findings)
    # Where something is damaged already, other sums are no news.
    if totals is not None and not folder.faults:
        _compare_totals(folder, totals)
    for fault in folder.faults:
        print(f"damaged: {fault}")
    print(f"{path}: {_describe(folder, findings, totals)}")
    _print_examples(folder, findings, config)
    return folder.faults


def inspect_step(path: Path, manifest: dict, run: Callable = map) -> list[str]:
    """Compare the text files of a step of data preparation with its manifest, and return the faults."""
    # Folders of TFRecords below a step's have manifests of their own.
    entries = manifest.get("parts", manifest.get("shards", []))
    paths = [path / entry["name"] for entry in entries]
    faults = [f"{name}: missing" for name in paths if not name.is_file()]
    there = [(name, entry) for name, entry in zip(paths, entries, strict=True) if name.is_file()]
    sums = run(files.sha256_of_file, [name for name, _ in there])
    sums = tqdm(sums, total=len(there), desc=path.name, unit="file", disable=None)
    for (name, entry), found in zip(there, sums, strict=True):
        if found != entry["sha256"]:
            faults.append(f"{name}: SHA-256 {entry['sha256']} is expected, {found} found")
    for fault in faults:
        print(f"damaged: {fault}")
    if entries:
        print(
            f"{path}: {len(entries)} files of {manifest['step']}" + f"; faults: {len(faults)}" * bool(faults)
        )
    return faults


def _read_step(path: Path) -> dict | None:
    """The manifest of a step of data preparation; None for a folder of shards."""
    try:
        manifest = files.read_json(path / tfrecords.MANIFEST_NAME)
    except (FileNotFoundError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and "step" in manifest else None


# -------------------------------------------------------------------------------- what lies beside the shards


def _open_folder(path: Path, config: InspectionConfig) -> Folder:
    folder = Folder(path, None, None, tfrecords.shards_in(path), [])
    manifest_path = path / tfrecords.MANIFEST_NAME
    if manifest_path.exists():
        try:
            folder.manifest = tfrecords.read_manifest(path)
        except UsageError as error:
            folder.faults.append(str(error))
        card_path = path / tfrecords.DATA_CARD_NAME
        card = card_path.read_text(encoding="utf-8", errors="replace") if card_path.exists() else ""
        recorded = data_card.manifest_checksum(card)
        if recorded not in (None, files.sha256_of_file(manifest_path)):
            folder.faults.append(f"{manifest_path}: not the one that {card_path.name} was written from")
    folder.vocabulary = _find_vocabulary(folder, config)
    return folder


def _find_vocabulary(folder: Folder, config: InspectionConfig) -> Vocabulary | None:
    beside = folder.path / tfrecords.VOCABULARY_NAME
    recorded = None if folder.manifest is None else folder.manifest["vocabulary_sha256"]
    if config.vocab_file:
        vocabulary = load_vocabulary(config.vocab_file)
        if recorded not in (None, vocabulary.sha256):
            raise UsageError(
                f"--vocab_file {config.vocab_file}: {folder.path} was built with another vocabulary"
            )
        return vocabulary
    if not beside.exists():
        if recorded is not None:
            folder.faults.append(f"{beside}: missing")
        return None
    try:
        vocabulary = load_vocabulary(beside)
    except UsageError as error:
        folder.faults.append(str(error).removeprefix("--vocab_file "))
        return None
    if recorded not in (None, vocabulary.sha256):
        folder.faults.append(f"{beside}: not the vocabulary that the manifest names")
        return None
    if folder.manifest is not None:
        options = vocabulary.tokenizer_config()
        for name in ("do_lower_case", "strip_accents"):
            built_with = folder.manifest["settings"].get(name, options[name])
            if built_with != options[name]:
                beside = beside.with_name(tfrecords.TOKENIZER_OPTIONS_NAME)
                folder.faults.append(f"{beside}: {name} is {options[name]}, the manifest's {built_with}")
    return vocabulary


# ----------------------------------------------------------------------------------------------------- shards


def _read_shards(folder: Folder, config: InspectionConfig, run: Callable) -> dict[str, ShardFindings]:
    """What each shard holds, by its name; a progress bar counts the bytes."""
    findings = {}
    sizes = [os.path.getsize(path) for path in folder.paths]
    found_in = run(
        inspect_shard, folder.paths, itertools.repeat(folder.form), itertools.repeat(config.examples)
    )
    with tqdm(total=sum(sizes), desc=str(folder.path), unit="B", unit_scale=True, disable=None) as bar:
        for path, size, found in zip(folder.paths, sizes, found_in, strict=True):
            findings[Path(path).name] = found
            folder.faults += [f"{path}: {fault}" for fault in found.faults]
            bar.update(size)
    return findings


def _compare_shards(folder: Folder, findings: dict[str, ShardFindings]) -> None:
    """Presence, size, number of records and checksum; of a shard with a fault already no more is said."""
    recorded = {shard["name"]: shard for shard in folder.manifest["shards"]}
    names = {shard["sha256"]: name for name, shard in recorded.items()}
    for name, shard in recorded.items():
        path, found = folder.path / name, findings.get(name)
        if found is None:
            folder.faults.append(f"{path}: missing")
            continue
        whose = names.get(found.sha256, name)
        told = f" (it is {whose} by its contents)" if whose != name else ""
        if found.faults:
            continue
        if (found.bytes, found.records) != (shard["bytes"], shard["examples"]):
            folder.faults.append(
                f"{path}: {found.records:,} records in {found.bytes:,} bytes, where the manifest says "
                f"{shard['examples']:,} in {shard['bytes']:,}{told}"
            )
        elif found.sha256 != shard["sha256"]:
            folder.faults.append(f"{path}: its SHA-256 is {found.sha256}, not the manifest's{told}")
    for name in sorted(findings.keys() - recorded.keys()):
        folder.faults.append(f"{folder.path / name}: not in the manifest")


def _add_up(folder: Folder, findings: dict[str, ShardFindings]) -> ExampleStatistics | None:
    if folder.form is None or not findings:
        return None
    totals = ExampleStatistics.none(folder.form.vocabulary_size, folder.form.max_seq_length)
    for found in findings.values():
        totals.add(found.statistics)
    return totals


def _figures(folder: Folder, totals: ExampleStatistics) -> dict:
    """The manifest's figures counted anew, but for what examples do not tell: of how much text they are."""
    figures = totals.figures(folder.vocabulary.ids["[UNK]"])
    for name in ("documents", "cut_off_tokens", "cut_off_share"):
        del figures[name]
    return figures


def _compare_totals(folder: Folder, totals: ExampleStatistics) -> None:
    path = folder.path / tfrecords.MANIFEST_NAME
    for name, value in ({"vocabulary_size": folder.vocabulary.size} | _figures(folder, totals)).items():
        # Manifests of earlier versions have no histogram.
        recorded = folder.manifest.get(name, value)
        if recorded != value:
            folder.faults.append(f"{path}: {name} is {recorded}, the shards' is {value}")
    path = folder.path / tfrecords.TOKEN_COUNTS_NAME
    if not path.exists():
        folder.faults.append(f"{path}: missing")
    elif (recorded := tfrecords.read_array(path)) is None:
        folder.faults.append(f"{path}: damaged")
    elif not np.array_equal(recorded, totals.token_counts):
        folder.faults.append(f"{path}: not the counts of the shards' tokens")


# -------------------------------------------------------------------------------------------- what is printed


def _describe(folder: Folder, findings: dict[str, ShardFindings], totals: ExampleStatistics | None) -> str:
    shards = f"{len(findings)} shard{'' if len(findings) == 1 else 's'}"
    text = f"{sum(found.records for found in findings.values()):,} records in {shards}"
    if totals is not None:
        figures = _figures(folder, totals)
        text += (
            f", {figures['tokens']:,} tokens, {figures['padding_share']:.1%} padding, "
            f"{figures['unknown_share']:.2%} unknown"
        )
    if folder.faults:
        return f"{text}; faults: {len(folder.faults)}"
    if folder.manifest is None:
        return f"{text}; no {tfrecords.MANIFEST_NAME}, so that the records' checksums alone were checked"
    return f"{text}; as {tfrecords.MANIFEST_NAME} says"


def _print_examples(folder: Folder, findings: dict[str, ShardFindings], config: InspectionConfig) -> None:
    records = ((name, *record) for name, found in findings.items() for record in found.first_records)
    for position, (name, number, payload) in enumerate(itertools.islice(records, config.examples)):
        print(f"{position + 1}. {folder.path / name} record {number}")
        print(f"   {_decode(payload, position, folder.vocabulary, config)}")


def _decode(payload: bytes, position: int, vocabulary: Vocabulary | None, config: InspectionConfig) -> str:
    """An example as text, masked where asked for; without a vocabulary its ids."""
    length = example_length(payload)
    if length is None:
        return "not decoded: it has no input_ids"
    try:
        example = parse_examples([payload], length)
    except ValueError as error:
        return f"not decoded: {error}"
    ids = example["input_ids"][0][example["input_mask"][0] > 0]
    if vocabulary is None or not ((ids >= 0) & (ids < vocabulary.size)).all():
        return f"ids {' '.join(map(str, ids))}"
    if not config.show_masks:
        return vocabulary.text(ids)
    rule = MaskingRule.of(vocabulary, config.mask_prob, max_predictions(config.mask_prob, length))
    batch = mask_batch(example, mask_keys(config.seed, np.array([position])), rule)
    return describe_masked(batch, 0, vocabulary)


if __name__ == "__main__":
    run_program(main)
