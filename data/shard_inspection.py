"""One shard, read from end to end: what is damaged in it, and what its examples add up to.

What a shard should be is for inspect_dataset.py to compare, from the manifest.
"""

import itertools
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import files
import tfrecords
from example_files import ExampleStatistics
from example_parsing import parse_examples
from tokenization import Vocabulary

_RECORDS_AT_ONCE = 256
# Of each kind, in each shard; where all records have the same fault, a few say it.
_MOST_NAMED = 10


@dataclass(frozen=True)
class ExampleForm:
    """What examples of one data set have in common.

    Attributes:
        max_seq_length: places in an example.
    """

    max_seq_length: int
    vocabulary_size: int
    cls_id: int
    sep_id: int

    @classmethod
    def of(cls, vocabulary: Vocabulary, max_seq_length: int) -> "ExampleForm":
        return cls(max_seq_length, vocabulary.size, vocabulary.cls_id, vocabulary.sep_id)


@dataclass
class ShardFindings:
    """What a read of a shard found.

    Attributes:
        records: number of records, the damaged ones included.
        faults: in words that name the record or the index.
        first_records: (number, payload) of the first whole records.
        statistics: of the well-formed examples, of no documents; None where the form is not known.
    """

    bytes: int
    sha256: str
    records: int = 0
    faults: list[str] = field(default_factory=list)
    first_records: list[tuple[int, bytes]] = field(default_factory=list)
    statistics: ExampleStatistics | None = None


def inspect_shard(path: str, form: ExampleForm | None, wanted_records: int = 0) -> ShardFindings:
    """Check each record's checksums, the index and, where the form is known, each example.

    Args:
        form: None checks records alone, as for shards of another tool.
        wanted_records: so many of the first whole records are handed back.
    """
    findings = ShardFindings(Path(path).stat().st_size, files.sha256_of_file(path))
    offsets = _find_records(path, findings)
    findings.records = len(offsets) - 1
    if form is not None:
        findings.statistics = ExampleStatistics.none(form.vocabulary_size, form.max_seq_length)
    damaged: dict[str, list[int]] = {}
    for numbers, payloads in _read_batches(path, offsets, damaged):
        missing = wanted_records - len(findings.first_records)
        findings.first_records += itertools.islice(zip(numbers, payloads, strict=True), missing)
        if form is not None:
            _check_examples(numbers, payloads, form, findings, damaged)
    for reason, records in damaged.items():
        findings.faults += [f"record {record} {reason}" for record in records[:_MOST_NAMED]]
        if len(records) > _MOST_NAMED:
            findings.faults.append(f"{len(records) - _MOST_NAMED:,} more records: each {reason}")
    return findings


def example_faults(arrays: dict[str, np.ndarray], form: ExampleForm) -> Iterator[tuple[str, np.ndarray]]:
    """Each way in which an example can be ill-formed, and which of a batch are: bool [batch].

    An example is [CLS] A [SEP] or [CLS] A [SEP] B [SEP], zeros behind it; input_mask is 1 on its tokens, and
    segment_ids 1 on B and its [SEP].
    """
    ids, mask, segments = (arrays[name] for name in tfrecords.FEATURES)
    inside = np.arange(ids.shape[1]) < mask.sum(axis=1)[:, None]
    yield "has an input_mask that is not ones, then zeros", (mask != inside).any(axis=1)
    yield "has padding that is not zero", ((ids != 0) | (segments != 0)).any(axis=1, where=~inside)
    outside = (ids < 0) | (ids >= form.vocabulary_size)
    yield f"has ids outside the vocabulary of {form.vocabulary_size}", outside.any(axis=1)
    is_step = np.diff(segments, axis=1, prepend=0) != 0
    rises = (is_step & inside).sum(axis=1)
    one_step_up = (rises == segments.max(axis=1)) & (rises <= 1) & (segments[:, 0] == 0)
    yield "has segment_ids that are not zeros, then ones", ~one_step_up
    is_first = np.arange(ids.shape[1]) == 0
    yield "has not [CLS] first, and there alone", (((ids == form.cls_id) & inside) != is_first).any(axis=1)
    next_is_inside = np.pad(inside[:, 1:], [(0, 0), (0, 1)])
    next_segment = np.pad(segments[:, 1:], [(0, 0), (0, 1)])
    ends_segment = inside & (~next_is_inside | (next_segment != segments))
    is_sep = (ids == form.sep_id) & inside
    yield "has not [SEP] at the end of each segment, and there alone", (is_sep != ends_segment).any(axis=1)


def _find_records(path: str, findings: ShardFindings) -> np.ndarray:
    """The offsets of a shard's records; what does not fit among shard and index goes to the findings."""
    offsets, break_off = tfrecords.scan_offsets(path)
    index_path = tfrecords.index_path(path)
    index = tfrecords.read_index(index_path) if index_path.exists() else None
    if index_path.exists() and index is None:
        findings.faults.append(f"its index {index_path.name} is damaged")
    if break_off is None:
        if index is not None and not np.array_equal(index, offsets):
            findings.faults.append(_index_fault(index_path.name, index, offsets))
        return offsets
    if index is not None and _goes_on(index, offsets, findings.bytes):
        # One record's length is damaged, which the checksums will tell; the index knows where others begin.
        return np.asarray(index)
    findings.faults.append(break_off)
    return offsets


def _goes_on(index: np.ndarray, offsets: np.ndarray, size: int) -> bool:
    """Whether an index agrees with the records that were found, and may be right about those behind."""
    agrees = np.array_equal(index[: len(offsets)], offsets)
    return agrees and len(index) > len(offsets) and index[-1] == size and bool((np.diff(index) > 0).all())


def _index_fault(name: str, index: np.ndarray, offsets: np.ndarray) -> str:
    if len(index) != len(offsets):
        return f"its index {name} has {len(index) - 1:,} records, the shard {len(offsets) - 1:,}"
    record = int(np.argmax(index != offsets))
    return f"its index {name} is damaged at record {record}: {index[record]}, not {offsets[record]}"


def _read_batches(
    path: str, offsets: np.ndarray, damaged: dict[str, list[int]]
) -> Iterator[tuple[list[int], list[bytes]]]:
    """Numbers and payloads of the whole records, in batches; the others go to `damaged`."""
    if len(offsets) == 1:
        return
    with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for first in range(0, len(offsets) - 1, _RECORDS_AT_ONCE):
            borders = offsets[first : first + _RECORDS_AT_ONCE + 1].tolist()
            numbers, payloads = [], []
            for number, (start, end) in enumerate(itertools.pairwise(borders), start=first):
                payload = tfrecords.unframe_record(data[start:end])
                if payload is None:
                    damaged.setdefault("is damaged (checksum)", []).append(number)
                else:
                    numbers.append(number)
                    payloads.append(payload)
            yield numbers, payloads


def _check_examples(
    numbers: list[int],
    payloads: list[bytes],
    form: ExampleForm,
    findings: ShardFindings,
    damaged: dict[str, list[int]],
) -> None:
    """Add well-formed examples to the sums, and name each other one by its first fault."""
    try:
        arrays = parse_examples(payloads, form.max_seq_length)
    except ValueError as error:
        if len(payloads) == 1:
            damaged.setdefault(f"is no example of {form.max_seq_length} tokens ({error})", []).append(
                *numbers
            )
            return
        for number, payload in zip(numbers, payloads, strict=True):
            _check_examples([number], [payload], form, findings, damaged)
        return
    well_formed = np.ones(len(payloads), bool)
    for reason, is_wrong in example_faults(arrays, form):
        rows = np.flatnonzero(is_wrong & well_formed)
        if len(rows):
            damaged.setdefault(reason, []).extend(numbers[row] for row in rows)
        well_formed &= ~is_wrong
    mask = arrays["input_mask"][well_formed] > 0
    ids = arrays["input_ids"][well_formed][mask]
    lengths = np.bincount(mask.sum(axis=1), minlength=form.max_seq_length + 1)
    findings.statistics.add(ExampleStatistics(0, lengths, np.bincount(ids, minlength=form.vocabulary_size)))
