"""The shard format: TFRecord files of tf.train.Example, an offset index beside each, and the manifest.

A record holds three int64 lists of one fixed length: input_ids, input_mask, segment_ids. Shards of Google's
and NVIDIA's toolkits have the same form and are read too. What is masked is not in the record: it is drawn
at training time.

What a record says is example_parsing.py's to decode. The index of a shard `NAME` is `offsets.NAME.npy`:
int64, one more entry than records, the last being the file's size.
"""

import bisect
import collections
import contextlib
import functools
import glob
import hashlib
import io
import json
import mmap
import os
import resource
import struct
import typing
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import crc32c
import numpy as np

import files
from command_line import UsageError

MANIFEST_NAME = "manifest.json"
TOKEN_COUNTS_NAME = "token_counts.npy"
VOCABULARY_NAME = "vocab.txt"
TOKENIZER_OPTIONS_NAME = "tokenizer_config.json"
DATA_CARD_NAME = "DATA_CARD.md"
LENGTH_HISTOGRAM_NAME = "length_histogram.png"
FEATURES = ("input_ids", "input_mask", "segment_ids")

_LENGTH_AND_CHECKSUM = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_HEADER_BYTES = _LENGTH_AND_CHECKSUM.size
_FRAME_BYTES = _HEADER_BYTES + _CHECKSUM.size
_INDEX_PREFIX = "offsets."
_LENGTHS_PREFIX = "lengths."
_BESIDE_SHARDS = (
    MANIFEST_NAME,
    TOKEN_COUNTS_NAME,
    VOCABULARY_NAME,
    TOKENIZER_OPTIONS_NAME,
    DATA_CARD_NAME,
    LENGTH_HISTOGRAM_NAME,
)
# A corrupt length must not make the reader ask for gigabytes.
_MAX_RECORD_BYTES = 1 << 26


class CorruptShard(UsageError):
    """A shard that is cut off, has a damaged record, or holds something else than examples."""


def masked_crc32c(data: bytes) -> int:
    """TFRecord's checksum: CRC-32C, rotated right by 15 bits, plus a constant."""
    crc = crc32c.crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame_record(payload: bytes) -> bytes:
    """A record as it stands in the file: length, its checksum, payload, its checksum."""
    return b"".join((_frame_header(len(payload)), payload, _CHECKSUM.pack(masked_crc32c(payload))))


def unframe_record(frame: bytes) -> bytes | None:
    """The payload of a record as it stands in the file; None where a length or checksum does not fit."""
    payload = frame[_HEADER_BYTES : -_CHECKSUM.size]
    return payload if frame_record(payload) == frame else None


def serialize_examples(
    tokens: np.ndarray, lengths: Sequence[int], first_lengths: Sequence[int], max_seq_length: int
) -> Iterator[bytes]:
    """Examples as tf.train.Example in protocol buffers' wire format, padded with zeros to `max_seq_length`.

    Args:
        tokens: ids of all examples, one after another, each [CLS] A [SEP] (B [SEP]); int32.
        lengths: tokens of each example.
        first_lengths: tokens of segment 0 of each, its [CLS] and [SEP] included.
    """
    varints, widths = _varints(tokens)
    ends = np.concatenate(([0], np.cumsum(widths)))[np.cumsum(lengths, dtype=np.int64)].tolist()
    zeros, ones = b"\x00" * max_seq_length, b"\x01" * max_seq_length
    begin = 0
    for end, length, first_length in zip(ends, lengths, first_lengths, strict=True):
        padding = zeros[length:]
        input_ids = varints[begin:end] + padding
        payload = b"".join(
            (
                _feature_header("input_ids", len(input_ids)),
                input_ids,
                _feature_header("input_mask", max_seq_length),
                ones[:length],
                padding,
                _feature_header("segment_ids", max_seq_length),
                zeros[:first_length],
                ones[first_length:length],
                padding,
            )
        )
        yield _field_header(1, len(payload)) + payload
        begin = end


class ShardWriter:
    """Writes framed records to a shard and its index, both complete or absent.

    Use as a context manager; leaving it by an exception discards the shard.
    """

    def __init__(self, path: str | Path):
        self._path = Path(path)
        self._temporary = files.temporary_path(path)
        self._lengths = [np.zeros(1, np.int64)]

    def __enter__(self) -> "ShardWriter":
        self._stream = open(self._temporary, "wb", buffering=1 << 20)
        return self

    def write_frames(self, frames: bytes, lengths: Sequence[int]) -> None:
        """Append records that are framed already: their joined bytes, and the length of each frame."""
        self._stream.write(frames)
        self._lengths.append(np.asarray(lengths, np.int64))

    def __exit__(self, error_type, error, traceback) -> None:
        try:
            self._stream.close()
            if error_type is None:
                write_array(index_path(self._path), np.cumsum(np.concatenate(self._lengths)))
                files.publish(self._temporary, self._path)
        finally:
            self._temporary.unlink(missing_ok=True)


def index_path(shard: str | Path) -> Path:
    """The offset index of a shard; its name keeps it out of globs such as pretrain_data*."""
    shard = Path(shard)
    return shard.with_name(f"{_INDEX_PREFIX}{shard.name}.npy")


def lengths_path(shard: str | Path) -> Path:
    """Where the tokens of each of a shard's examples are kept (example_lengths.py)."""
    shard = Path(shard)
    return shard.with_name(f"{_LENGTHS_PREFIX}{shard.name}.npy")


def find_shards(patterns: str, flag: str) -> list[str]:
    """Files of comma-separated globs, sorted within each; a glob named twice gives its files twice.

    A folder stands for the shards in it, one among a glob's matches only where none of them is a shard: a
    folder beside training shards may hold the held-out ones. `flag` is named when a glob matches nothing.
    """
    shards: list[str] = []
    for pattern in _split_patterns(patterns):
        matches = _matches(pattern)
        if not matches:
            raise UsageError(f"--{flag} {pattern}: no such file")
        shards.extend(matches)
    if not shards:
        raise UsageError(f"--{flag} {patterns!r}: names no file")
    return shards


def any_shard(patterns: str) -> bool:
    """Whether comma-separated globs match any shard."""
    return any(_matches(pattern) for pattern in _split_patterns(patterns))


def shards_in(folder: str | Path) -> list[str]:
    """The shards in a folder, in the natural order of their numbers."""
    return _only_shards(glob.glob(f"{glob.escape(str(folder))}/*tfrecord*"))


def shard_name(number: int, count: int) -> str:
    """NVIDIA's name of a shard."""
    return f"pretrain_data.tfrecord-{number}-of-{count}"


class Shards:
    """Random access to the records of a list of shards, through memory maps.

    A shard that is named k times counts k times. At most as many files are open as the system allows, of all
    sets of the process together.

    Args:
        known: records and bytes of each shard, as another process found them (`sizes`); None looks.
    """

    # Those of this process: its open files are divided among them.
    _all: typing.ClassVar["weakref.WeakSet[Shards]"] = weakref.WeakSet()

    def __init__(
        self, paths: Sequence[str], *, flag: str, known: Mapping[str, tuple[int, int]] | None = None
    ):
        self.paths = list(paths)
        self._flag = flag
        # Offsets that had to be scanned for and could not be written beside their shard (a read-only folder).
        self._scanned: dict[str, np.ndarray] = {}
        self.sizes = known or {path: self._look(path) for path in dict.fromkeys(self.paths)}
        self._starts = np.cumsum([0] + [self.sizes[path][0] for path in self.paths])
        if self._starts[-1] == 0:
            raise UsageError(f"--{flag}: the {len(self.paths)} shards hold no record")
        self._open: collections.OrderedDict[str, tuple[mmap.mmap, np.ndarray]] = collections.OrderedDict()
        self._all.add(self)
        self._divide_open_files()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def fingerprint(self) -> str:
        """SHA-256 of the shards' names, sizes and order: of what a run reads, wherever it lies."""
        described = [[Path(path).name, self.sizes[path][1]] for path in self.paths]
        return hashlib.sha256(json.dumps(described).encode("utf-8")).hexdigest()

    def first_examples(self) -> dict[str, int]:
        """The number of the first example of each shard that holds any."""
        firsts: dict[str, int] = {}
        for number, path in enumerate(self.paths):
            if self._starts[number] < self._starts[number + 1]:
                firsts.setdefault(path, int(self._starts[number]))
        return firsts

    def locate(self, example: int) -> tuple[str, int]:
        """The shard and the record number in it of an example."""
        number = bisect.bisect_right(self._starts, example) - 1
        return self.paths[number], int(example - self._starts[number])

    def read(self, example: int) -> bytes:
        """An example's payload, its checksums verified.

        Raises:
            CorruptShard: names the shard and the record.
        """
        path, record = self.locate(example)
        data, offsets = self._mapped(path)
        payload = unframe_record(data[int(offsets[record]) : int(offsets[record + 1])])
        if payload is None:
            raise CorruptShard(f"--{self._flag} {path}: record {record} is damaged (checksum)")
        return payload

    def _look(self, path: str) -> tuple[int, int]:
        offsets = load_index(path, self._flag)
        if not index_path(path).exists():
            self._scanned[path] = offsets
        return len(offsets) - 1, int(offsets[-1])

    def _mapped(self, path: str) -> tuple[mmap.mmap, np.ndarray]:
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        self._close_all_but(self._max_open - 1)
        with open(path, "rb") as stream:
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        offsets = self._scanned[path] if path in self._scanned else load_index(path, self._flag)
        self._open[path] = (data, offsets)
        return self._open[path]

    def _close_all_but(self, count: int) -> None:
        """Keep the `count` shards open that were read last."""
        while len(self._open) > count:
            self._open.popitem(last=False)

    @classmethod
    def _divide_open_files(cls) -> None:
        """Give each set its part of the open files, by the number of its shards; each needs two."""
        wanted = sum(len(shards.sizes) for shards in cls._all)
        allowed = _raise_open_file_limit(2 * wanted) // 2
        for shards in cls._all:
            shards._max_open = max(1, allowed * len(shards.sizes) // wanted)
            shards._close_all_but(shards._max_open)


def load_index(shard: str | Path, flag: str) -> np.ndarray:
    """A shard's offsets, int64 [records + 1], from the index beside it or, where that is absent, by a scan.

    Raises:
        CorruptShard: the shard is shorter or longer than its index says, or its records do not join up.
    """
    path, size = index_path(shard), Path(shard).stat().st_size
    if path.exists():
        offsets = read_index(path)
        if offsets is None:
            raise CorruptShard(f"--{flag} {shard}: its index {path.name} is damaged; delete it")
        if offsets[-1] != size:
            raise CorruptShard(
                f"--{flag} {shard}: {size} bytes where {path.name} says {offsets[-1]}: cut off, or rewritten "
                "by another tool (then delete that index)"
            )
        return offsets
    offsets, fault = scan_offsets(shard)
    if fault:
        raise CorruptShard(f"--{flag} {shard}: {fault}")
    # The folder may be read-only; the scan is then repeated by the next run.
    with contextlib.suppress(OSError):
        write_array(path, offsets)
    return offsets


def read_index(path: str | Path) -> np.ndarray | None:
    """The offsets in an index file, memory-mapped; None where it holds no such thing."""
    offsets = read_array(path, mmap_mode="r")
    if offsets is None or offsets.dtype != np.int64 or offsets.ndim != 1 or len(offsets) == 0:
        return None
    return offsets


def read_array(path: str | Path, mmap_mode: str | None = None) -> np.ndarray | None:
    """The array in a .npy file; None where the file is damaged.

    Raises:
        OSError: the file cannot be opened.
    """
    try:
        return np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except OSError:
        raise
    except Exception:  # NumPy lets through whatever its parsers of the header raise
        return None


def scan_offsets(shard: str | Path) -> tuple[np.ndarray, str | None]:
    """A shard's offsets by a walk from record to record, int64 [records + 1], without a look at the payloads.

    The second value says where the walk broke off, None at the file's end; the offsets are those up to there.
    """
    size, offsets, fault = Path(shard).stat().st_size, [0], None
    with open(shard, "rb") as stream:
        while fault is None and (start := offsets[-1]) < size:
            stream.seek(start)
            header = stream.read(_HEADER_BYTES)
            if len(header) < _HEADER_BYTES:
                fault = "cut off in"
                break
            length, checksum = _LENGTH_AND_CHECKSUM.unpack(header)
            end = start + _FRAME_BYTES + length
            if checksum != masked_crc32c(header[:8]) or length > _MAX_RECORD_BYTES:
                fault = "no TFRecord at"
            elif end > size:
                fault = "cut off in"
            else:
                offsets.append(end)
    return np.array(offsets, np.int64), fault and f"{fault} record {len(offsets) - 1}"


def write_array(path: str | Path, array: np.ndarray) -> None:
    """Write a .npy file atomically."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    files.write_bytes(path, content.getbuffer())


def read_manifest(folder: str | Path) -> dict | None:
    """A data folder's manifest, None where there is none (shards of another tool).

    Raises:
        UsageError: it is damaged, or is none of shards.
    """
    path = Path(folder) / MANIFEST_NAME
    if not path.exists():
        return None
    try:
        manifest = files.read_json(path)
        _check_manifest(manifest)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: not a manifest ({error!r})") from None
    return manifest


def _check_manifest(manifest: dict) -> None:
    """See that a manifest has all that programs use without a further look.

    Raises:
        ValueError, KeyError, TypeError: it has not.
    """
    numbers = [manifest["settings"]["max_seq_length"]]
    texts = [manifest["vocabulary_sha256"]]
    for shard in manifest["shards"]:
        numbers += [shard["examples"], shard["bytes"]]
        texts += [shard["name"], shard["sha256"]]
    if not all(isinstance(number, int) for number in numbers) or numbers[0] < 1:
        raise ValueError("a length or a count is no number")
    if len(texts) == 1:
        raise ValueError("it names no shards")
    texts += [source[key] for source in manifest["sources"] for key in ("name", "sha256")]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a name or a checksum is no text")


def _split_patterns(patterns: str) -> list[str]:
    return [part.strip() for part in patterns.split(",") if part.strip()]


def _matches(pattern: str) -> list[str]:
    if Path(pattern).is_dir():
        return shards_in(pattern)
    if Path(pattern).exists():
        return _only_shards([pattern])
    found = glob.glob(pattern)
    in_folders = [shard for path in found if os.path.isdir(path) for shard in shards_in(path)]
    return _only_shards(found) or _only_shards(in_folders)


def _only_shards(names: list[str]) -> list[str]:
    return sorted((name for name in names if _is_shard(name)), key=_natural_order)


def _is_shard(name: str) -> bool:
    base = Path(name).name
    is_beside = base in _BESIDE_SHARDS or base.startswith((_INDEX_PREFIX, _LENGTHS_PREFIX))
    return Path(name).is_file() and not is_beside


def _natural_order(name: str) -> list:
    """Sort key by which shard 10 comes after shard 9."""
    digits = "".join(character if character.isdecimal() else " " for character in Path(name).name)
    return [Path(name).parent.as_posix(), [int(number) for number in digits.split()], name]


def _raise_open_file_limit(wanted: int) -> int:
    """Files that may be kept open for shards, after asking the system for enough."""
    reserve = 128
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 1 << 20
    if soft != resource.RLIM_INFINITY and soft < wanted + reserve:
        soft = min(hard, wanted + reserve)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return max(2, min(wanted, (soft if soft > 0 else hard) - reserve))


@functools.lru_cache(maxsize=4096)
def _frame_header(length: int) -> bytes:
    encoded = struct.pack("<Q", length)
    return encoded + _CHECKSUM.pack(masked_crc32c(encoded))


def _varints(values: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Non-negative integers as protocol buffers' varints, joined, and the bytes that each takes."""
    columns = max(1, -(-int(values.max(initial=0)).bit_length() // 7))
    encoded = np.empty((len(values), columns), np.uint8)
    used = np.ones((len(values), columns), bool)
    widths = np.ones(len(values), np.int64)
    for column in range(columns):
        goes_on = values >> 7 * (column + 1) > 0
        encoded[:, column] = values >> 7 * column & 0x7F | goes_on * np.uint8(0x80)
        used[:, column + 1 :] = goes_on[:, None]
        widths += goes_on
    return encoded[used].tobytes(), widths


def _varint(value: int) -> bytes:
    return _varints(np.array([value]))[0]


@functools.lru_cache(maxsize=8192)
def _feature_header(name: str, size: int) -> bytes:
    """What stands before the `size` bytes of a feature's integers: its name, and the messages around them."""
    key = _field_header(1, len(name)) + name.encode()
    values = _field_header(1, size)
    int64_list = _field_header(3, len(values) + size) + values
    feature = _field_header(2, len(int64_list) + size) + int64_list
    return _field_header(1, len(key) + len(feature) + size) + key + feature


@functools.lru_cache(maxsize=8192)
def _field_header(number: int, size: int) -> bytes:
    """What stands before the `size` bytes of a length-delimited field (wire type 2)."""
    return _varint(number << 3 | 2) + _varint(size)
