"""Whatever is wrong with a folder of shards is found and named by file and record, and nothing else is."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from shard_folders import (
    CAT,
    CLS,
    EXAMPLES,
    LENGTH,
    MANIFEST,
    SEP,
    TEXTS,
    THE,
    VOCABULARY,
    flip_bit,
    read_manifest,
    serialized,
    shard_path,
    write_folder,
    write_manifest,
    write_shard,
)

from command_line import UsageError
from data import data_card
from data.inspect_dataset import InspectionConfig, find_folders, inspect_folder
from data.shard_inspection import ExampleForm, example_faults, inspect_shard
from tfrecords import frame_record, index_path

PROGRAM = "data/inspect_dataset.py"
FORM = ExampleForm.of(VOCABULARY, LENGTH)


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_folder(tmp_path / "shards")


def faults_of(folder: Path, **settings) -> list[str]:
    """What is found in a folder, its path left out."""
    found = inspect_folder(folder, InspectionConfig(folder=str(folder), **settings))
    return [fault.replace(f"{folder}/", "") for fault in found]


# ---------------------------------------------------------------------------------------------- nothing wrong


def test_whole_folder_passes_and_its_examples_are_printed(folder, run_program):
    data_card.write(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    result = run_program(PROGRAM, folder)
    assert result.returncode == 0 and result.stderr == ""
    first, second = shard_path(folder, 0), shard_path(folder, 1)
    assert result.stdout.splitlines() == [
        f"{folder}: 5 records in 3 shards, 28 tokens, 53.3% padding, 7.14% unknown; as manifest.json says",
        f"1. {first} record 0",
        f"   {TEXTS[0]}",
        f"2. {first} record 1",
        f"   {TEXTS[1]}",
        f"3. {second} record 0",
        f"   {TEXTS[2]}",
    ]
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_shards_of_the_builder_pass(language, run_program):
    """Both parts of both folders, found from their parent, by two processes as by one."""
    result = run_program(PROGRAM, language, "--examples", 1)
    assert result.returncode == 0, result.stdout + result.stderr
    for name in ("shards_32", "shards_32/held_out", "shards_64", "shards_64/held_out"):
        manifest = read_manifest(language / name)
        told = (
            f"{language / name}: {manifest['examples']:,} records in 3 shards, {manifest['tokens']:,} tokens"
        )
        assert told in result.stdout
    assert result.stdout.count("as manifest.json says") == 4
    assert run_program(PROGRAM, language, "--examples", 1, "--num_processes", 2).stdout == result.stdout


def test_missing_index_is_no_fault_and_is_not_written(folder):
    """Readers make it where it is absent; an inspection leaves the folder as it is."""
    index_path(shard_path(folder, 0)).unlink()
    assert faults_of(folder) == []
    assert not index_path(shard_path(folder, 0)).exists()


def test_manifest_of_an_earlier_version_is_compared_in_what_it_has(folder):
    manifest = read_manifest(folder)
    for name in ("length_histogram", "cut_off_tokens", "cut_off_share"):
        del manifest[name]
    write_manifest(folder, manifest)
    assert faults_of(folder) == []


# ------------------------------------------------------------------------------------------------ one bit


def test_every_flipped_bit_of_a_shard_is_named_by_its_record(folder):
    path = shard_path(folder, 1)
    second_record = int(np.load(index_path(path))[1])
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        flip_bit(path, bit)
        record = 0 if bit // 8 < second_record else 1
        assert inspect_shard(str(path), None).faults == [f"record {record} is damaged (checksum)"], bit
        path.write_bytes(whole)
    assert inspect_shard(str(path), FORM).faults == []


def test_flipped_bit_is_named_by_the_program(folder, run_program):
    path = shard_path(folder, 2)
    flip_bit(path, 8 * 40)
    result = run_program(PROGRAM, folder, "--examples", 0)
    assert result.returncode == 1
    assert result.stdout.splitlines() == [
        f"damaged: {path}: record 0 is damaged (checksum)",
        f"{folder}: 5 records in 3 shards, 25 tokens, 47.9% padding, 8.00% unknown; faults: 1",
    ]
    assert result.stderr == f"inspect_dataset.py: error: {folder}: 1 fault found, named above\n"


@pytest.mark.filterwarnings("ignore:Reading `.npy`", "ignore:Data type alias")
def test_every_flipped_bit_of_an_index_is_named(folder):
    """But for those of its header that NumPy reads to the same offsets."""
    path = shard_path(folder, 1)
    index = index_path(path)
    whole, offsets = index.read_bytes(), np.load(index)
    harmless = 0
    for bit in range(8 * len(whole)):
        flip_bit(index, bit)
        found = inspect_shard(str(path), None).faults
        if found:
            assert len(found) == 1 and found[0].startswith(f"its index {index.name} "), bit
        else:
            assert np.array_equal(np.load(index), offsets)
            harmless += 1
        index.write_bytes(whole)
    assert harmless < 10


@pytest.mark.filterwarnings("ignore:Reading `.npy`", "ignore:Data type alias")
@pytest.mark.parametrize("name", ["vocab.txt", "token_counts.npy", "manifest.json"])
def test_flipped_bits_of_what_lies_beside_are_named(name, folder, capsys):
    """The manifest by its checksum in the card; every eleventh bit, which takes each place in a byte."""
    data_card.write(folder)
    path = folder / name
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 11):
        flip_bit(path, bit)
        assert any(fault.startswith(f"{name}: ") for fault in faults_of(folder, examples=0)), bit
        path.write_bytes(whole)
    assert faults_of(folder) == []


# -------------------------------------------------------------------------------------------- other damage


def test_missing_shard_and_one_too_many_are_named(folder):
    shutil.copy(shard_path(folder, 0), folder / "more.tfrecord")
    shard_path(folder, 0).unlink()
    assert faults_of(folder) == [
        "pretrain_data.tfrecord-0-of-3: missing",
        "more.tfrecord: not in the manifest",
    ]


def test_swapped_shards_are_named_by_what_they_are(folder):
    """Together with their indices; without these, each index is another shard's as well."""
    first, third = shard_path(folder, 0), shard_path(folder, 2)
    for one, other in ((first, third), (index_path(first), index_path(third))):
        one.rename(folder / "aside")
        other.rename(one)
        (folder / "aside").rename(other)
    zero, two = faults_of(folder)
    assert zero.startswith("pretrain_data.tfrecord-0-of-3: 1 records in ")
    assert zero.endswith(" (it is pretrain_data.tfrecord-2-of-3 by its contents)")
    assert two.startswith("pretrain_data.tfrecord-2-of-3: 2 records in ")
    assert two.endswith(" (it is pretrain_data.tfrecord-0-of-3 by its contents)")
    index_path(first).rename(folder / "aside")
    index_path(third).rename(index_path(first))
    (folder / "aside").rename(index_path(third))
    assert faults_of(folder) == [
        "pretrain_data.tfrecord-0-of-3: its index offsets.pretrain_data.tfrecord-0-of-3.npy has 2 records, "
        "the shard 1",
        "pretrain_data.tfrecord-2-of-3: its index offsets.pretrain_data.tfrecord-2-of-3.npy has 1 records, "
        "the shard 2",
    ]


def test_other_data_of_the_same_size_is_named(folder):
    """As from a build with another seed: whole records, well-formed, of as many bytes."""
    path = shard_path(folder, 2)
    write_shard(path, [serialized([CLS, THE, SEP], 3)])
    (fault,) = faults_of(folder)
    assert fault.startswith("pretrain_data.tfrecord-2-of-3: its SHA-256 is ")
    assert fault.endswith(", not the manifest's")


@pytest.mark.parametrize("indexed", [True, False])
def test_cut_off_shard_is_named_and_its_whole_records_are_read(indexed, folder):
    path = shard_path(folder, 0)
    path.write_bytes(path.read_bytes()[:-3])
    if not indexed:
        index_path(path).unlink()
    assert faults_of(folder) == [f"{path.name}: cut off in record 1"]
    findings = inspect_shard(str(path), FORM, 5)
    assert findings.records == 1 and [number for number, _ in findings.first_records] == [0]
    path.write_bytes(b"")
    assert faults_of(folder)[0].startswith(f"{path.name}: ")


def test_damaged_length_without_an_index_stops_at_its_record(folder):
    path = shard_path(folder, 0)
    start = int(np.load(index_path(path))[1])
    index_path(path).unlink()
    flip_bit(path, 8 * start)
    assert inspect_shard(str(path), FORM).faults == ["no TFRecord at record 1"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"settings": {}}', '{"shards": 1}', "\xff"])
def test_file_that_is_no_manifest_is_named(content, folder):
    (folder / "manifest.json").write_bytes(content.encode("latin-1"))
    (fault,) = faults_of(folder)
    assert fault.startswith("manifest.json: not a manifest (")


@pytest.mark.parametrize(
    ("name", "lie"),
    [
        ("examples", 6),
        ("tokens", 29),
        ("padding_share", 0.5),
        ("unknown_share", 0.0),
        ("vocabulary_size", 11),
        ("length_histogram", {"3": 3, "7": 1, "11": 1}),
    ],
)
def test_manifest_that_lies_is_named_with_the_truth(name, lie, folder):
    write_manifest(folder, read_manifest(folder) | {name: lie})
    assert faults_of(folder) == [f"manifest.json: {name} is {lie}, the shards' is {MANIFEST[name]}"]


def test_manifest_that_lies_of_a_shard_or_of_the_casing_is_named(folder):
    manifest = read_manifest(folder)
    manifest["shards"][1]["examples"] = 3
    manifest["settings"]["do_lower_case"] = False
    write_manifest(folder, manifest)
    size = shard_path(folder, 1).stat().st_size
    assert faults_of(folder) == [
        "tokenizer_config.json: do_lower_case is True, the manifest's False",
        f"pretrain_data.tfrecord-1-of-3: 2 records in {size} bytes, where the manifest says 3 in {size}",
    ]


def test_manifest_changed_behind_its_card_is_named(folder):
    data_card.write(folder)
    write_manifest(folder, read_manifest(folder) | {"documents": 5})
    assert faults_of(folder) == ["manifest.json: not the one that DATA_CARD.md was written from"]
    data_card.write(folder)
    assert faults_of(folder) == []


def test_missing_vocabulary_and_counts_are_named(folder):
    (folder / "token_counts.npy").unlink()
    assert faults_of(folder) == ["token_counts.npy: missing"]
    (folder / "vocab.txt").unlink()
    assert faults_of(folder) == ["vocab.txt: missing"]


# ---------------------------------------------------------------------------------------- ill-formed examples


def arrays_of(ids: list[int], mask: list[int], segments: list[int]) -> dict[str, np.ndarray]:
    rows = {"input_ids": ids, "input_mask": mask, "segment_ids": segments}
    return {name: np.array([row], np.int32) for name, row in rows.items()}


def test_well_formed_examples_have_no_fault():
    for ids, first in (example for examples in EXAMPLES for example in examples):
        padding = [0] * (LENGTH - len(ids))
        mask = [1] * len(ids) + padding
        segments = [0] * first + [1] * (len(ids) - first) + padding
        for reason, is_wrong in example_faults(arrays_of(ids + padding, mask, segments), FORM):
            assert not is_wrong.any(), reason


@pytest.mark.parametrize(
    ("ids", "mask", "segments", "told"),
    [
        ([CLS, CAT, SEP, 0], [1, 1, 0, 1], [0, 0, 0, 0], "input_mask that is not ones, then zeros"),
        ([CLS, CAT, SEP, 0], [1, 1, 2, 0], [0, 0, 0, 0], "input_mask that is not ones, then zeros"),
        ([CLS, CAT, SEP, CAT], [1, 1, 1, 0], [0, 0, 0, 0], "padding that is not zero"),
        ([CLS, CAT, SEP, 0], [1, 1, 1, 0], [0, 0, 0, 1], "padding that is not zero"),
        ([CLS, 10, SEP, 0], [1, 1, 1, 0], [0, 0, 0, 0], "ids outside the vocabulary of 10"),
        ([CLS, -1, SEP, 0], [1, 1, 1, 0], [0, 0, 0, 0], "ids outside the vocabulary of 10"),
        ([CLS, SEP, CAT, SEP], [1, 1, 1, 1], [0, 0, 1, 0], "segment_ids that are not zeros, then ones"),
        ([CLS, SEP, CAT, SEP], [1, 1, 1, 1], [0, 0, 2, 2], "segment_ids that are not zeros, then ones"),
        ([CLS, SEP, CAT, SEP], [1, 1, 1, 1], [0, 0, -1, 0], "segment_ids that are not zeros, then ones"),
        ([CLS, CAT, CAT, SEP], [1, 1, 1, 1], [1, 1, 1, 1], "segment_ids that are not zeros, then ones"),
        ([CAT, CAT, SEP, 0], [1, 1, 1, 0], [0, 0, 0, 0], "not [CLS] first, and there alone"),
        ([CLS, CLS, SEP, 0], [1, 1, 1, 0], [0, 0, 0, 0], "not [CLS] first, and there alone"),
        ([0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], "not [CLS] first, and there alone"),
        ([CLS, CAT, CAT, 0], [1, 1, 1, 0], [0, 0, 0, 0], "not [SEP] at the end of each segment"),
        ([CLS, SEP, SEP, 0], [1, 1, 1, 0], [0, 0, 0, 0], "not [SEP] at the end of each segment"),
        ([CLS, SEP, CAT, SEP], [1, 1, 1, 1], [0, 1, 1, 1], "not [SEP] at the end of each segment"),
    ],
)
def test_ill_formed_example_is_named(ids, mask, segments, told):
    reasons = [
        reason for reason, is_wrong in example_faults(arrays_of(ids, mask, segments), FORM) if is_wrong[0]
    ]
    assert any(told in reason for reason in reasons), reasons


def test_ill_formed_record_is_named_once_and_many_are_counted(folder):
    """25 records without [SEP], one of another length, one that is no example: 10 of the first are named."""
    payloads = [serialized([CLS, CAT, THE], 3)] * 25
    payloads += [serialized([CLS, SEP], 2, LENGTH - 1), b"text", serialized([CLS, CAT, SEP], 3)]
    path = shard_path(folder, 0)
    write_shard(path, payloads)
    findings = inspect_shard(str(path), FORM)
    reason = "has not [SEP] at the end of each segment, and there alone"
    assert findings.faults == [
        *(f"record {number} {reason}" for number in range(10)),
        f"15 more records: each {reason}",
        f"record 25 is no example of {LENGTH} tokens (it has 11 input_ids, not 12)",
        f"record 26 is no example of {LENGTH} tokens (it is no tf.train.Example)",
    ]
    assert findings.statistics.token_counts.sum() == 3
    assert np.flatnonzero(findings.statistics.length_histogram).tolist() == [3]


# -------------------------------------------------------------------------------- masks, parents, other tools


def test_masks_are_shown_as_the_training_draws_them(folder, run_program):
    """Of n tokens round(.15 n), at least one, and 12 places have room for int(.155 x 12) = 1 pick."""

    def shown(*flags) -> list[str]:
        words = ["--show_masks", "--examples", 5, *flags]
        return [line.strip() for line in run_program(PROGRAM, folder, *words).stdout.splitlines()[2::2]]

    texts = shown()
    assert len(texts) == 5
    for text, plain in zip(texts, TEXTS, strict=False):
        assert len(re.findall(r"\[(MASK|KEPT) ", text)) == 1
        assert re.sub(r"\[(?:MASK|KEPT) ([^]]*)\]", r"\1", text).replace(" ##", "") == plain
    assert texts == shown() and texts != shown("--seed", 7)
    assert len(re.findall(r"\[(MASK|KEPT) ", shown("--mask_prob", 0.5)[0])) == 4, "of 7 tokens"


def test_one_damaged_folder_among_several_is_named(tmp_path, run_program):
    for name in ("128", "512", ".work"):
        write_folder(tmp_path / "all" / name)
    (tmp_path / "all" / "empty").mkdir()
    flip_bit(shard_path(tmp_path / "all" / "512", 0), 500)
    flip_bit(shard_path(tmp_path / "all" / ".work", 0), 500)
    result = run_program(PROGRAM, tmp_path / "all", "--examples", 0)
    assert result.returncode == 1
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == [
        f"{tmp_path}/all/128",
        "damaged",
        f"{tmp_path}/all/512",
    ]
    assert result.stderr.endswith(f"{tmp_path}/all: 1 fault found, named above\n")


def test_shards_of_another_tool_have_their_checksums_checked(tmp_path, run_program):
    """Of other forms than ours, without anything beside them."""
    path = tmp_path / "theirs.tfrecord"
    payloads = [serialized([THE, CAT], 2, 3), b"", b"anything"]
    path.write_bytes(b"".join(map(frame_record, payloads)))
    VOCABULARY.save(tmp_path / "pieces.txt")
    result = run_program(PROGRAM, tmp_path, "--vocab_file", tmp_path / "pieces.txt")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        f"{tmp_path}: 3 records in 1 shard; no manifest.json, so that the records' checksums alone were "
        "checked",
        f"1. {path} record 0",
        "   the cat",
        f"2. {path} record 1",
        "   not decoded: it has no input_ids",
        f"3. {path} record 2",
        "   not decoded: it has no input_ids",
    ]
    assert f"ids {THE} {CAT}\n" in run_program(PROGRAM, tmp_path, "--examples", 1).stdout
    flip_bit(path, 8 * (len(frame_record(payloads[0])) + 13))
    result = run_program(PROGRAM, tmp_path, "--examples", 0)
    assert result.returncode == 1 and f"damaged: {path}: record 1 is damaged (checksum)\n" in result.stdout


def test_mistakes_are_named(folder, tmp_path, usage_error):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.txt").write_text("\n".join([*VOCABULARY.pieces[:5], "dog"]))
    with pytest.raises(UsageError, match="none: no such folder"):
        find_folders(str(tmp_path / "none"))
    with pytest.raises(UsageError, match=r"empty: holds no shards and no manifest\.json"):
        find_folders(str(tmp_path / "empty"))
    with pytest.raises(UsageError, match="shards was built with another vocabulary"):
        faults_of(folder, vocab_file=str(tmp_path / "other.txt"))
    for setting in ({"num_processes": 0}, {"examples": -1}, {"mask_prob": 1.0}):
        with pytest.raises(UsageError, match=f"--{next(iter(setting))}"):
            InspectionConfig(folder="x", **setting)
    line = usage_error(PROGRAM, tmp_path / "none")
    assert line == f"inspect_dataset.py: error: folder {tmp_path}/none: no such folder"
