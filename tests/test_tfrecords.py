"""Shards are TFRecords that TensorFlow reads and writes too, and no damaged byte is taken for data."""

import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import tfrecords
from command_line import UsageError
from example_parsing import parse_examples
from tfrecords import (
    CorruptShard,
    Shards,
    ShardWriter,
    find_shards,
    frame_record,
    index_path,
    serialize_examples,
)

ROOT = Path(__file__).parents[1]
LENGTH = 16

# Ids of one, two and three bytes, the shortest and the longest example, one and two segments.
EXAMPLES = [
    ([101, 102], 2),
    ([101, 7592, 102], 3),
    ([101, 0, 1, 127, 128, 255, 102, 256, 16383, 16384, 102], 7),
    ([101, *range(30508, 30522), 102], 16),
    ([101, 5, 102, *range(200, 212), 102], 3),
]


@pytest.fixture(scope="module")
def tf():
    return pytest.importorskip("tensorflow")


def example_arrays(examples: list[tuple[list[int], int]], length: int = LENGTH) -> dict[str, np.ndarray]:
    """What the examples say, filled in by hand: int32 [count, length] by feature."""
    arrays = {name: np.zeros((len(examples), length), np.int32) for name in tfrecords.FEATURES}
    for row, (ids, first) in enumerate(examples):
        arrays["input_ids"][row, : len(ids)] = ids
        arrays["input_mask"][row, : len(ids)] = 1
        arrays["segment_ids"][row, first : len(ids)] = 1
    return arrays


def tensorflow_examples(tf, arrays: dict[str, np.ndarray]) -> list[bytes]:
    """The same examples as Google's and NVIDIA's toolkits write them."""

    def feature(row: np.ndarray):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=row.tolist()))

    return [
        tf.train.Example(
            features=tf.train.Features(feature={name: feature(arrays[name][row]) for name in arrays})
        ).SerializeToString()
        for row in range(len(arrays["input_ids"]))
    ]


def serialized(examples: list[tuple[list[int], int]]) -> list[bytes]:
    """The same by our own code."""
    tokens = np.array([token for ids, _ in examples for token in ids], np.int32)
    firsts = [first for _, first in examples]
    return list(serialize_examples(tokens, [len(ids) for ids, _ in examples], firsts, LENGTH))


def write_shard(path: Path, payloads: list[bytes]) -> Path:
    frames = [frame_record(payload) for payload in payloads]
    with ShardWriter(path) as shard:
        shard.write_frames(b"".join(frames), [len(frame) for frame in frames])
    return path


def numbered(shard: int, count: int) -> list[bytes]:
    """Payloads of different lengths that say which they are."""
    return [b"shard %d record %d" % (shard, record) + b"." * record for record in range(count)]


def frame_borders(payloads: list[bytes]) -> list[int]:
    """Where records begin: 8 bytes of length, 4 of checksum, the payload, 4 of checksum."""
    return np.cumsum([0] + [16 + len(payload) for payload in payloads]).tolist()


def opened(*paths: Path) -> Shards:
    return Shards([str(path) for path in paths], flag="pretrain_tfrecords")


def read_all(shards: Shards) -> list[bytes]:
    return [shards.read(number) for number in range(len(shards))]


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(bytes(content))


# -------------------------------------------------------------------------------------------- interchange


def test_tensorflow_reads_our_shards(tf, tmp_path):
    path = write_shard(tmp_path / "shard", serialized(EXAMPLES))
    schema = {name: tf.io.FixedLenFeature([LENGTH], tf.int64) for name in tfrecords.FEATURES}
    records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    parsed = tf.io.parse_example(records, schema)
    for name, expected in example_arrays(EXAMPLES).items():
        assert parsed[name].dtype == tf.int64
        assert np.array_equal(parsed[name].numpy(), expected), name


def test_our_frames_are_tensorflows_bytes(tf, tmp_path):
    payloads = [b"", b"x", os.urandom(1000), *numbered(0, 5)]
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for payload in payloads:
            writer.write(payload)
    write_shard(tmp_path / "ours", payloads)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_shards_that_tensorflow_wrote_are_read_without_an_index(tf, tmp_path):
    """The index is made by a scan and kept; the second time it is used."""
    expected = example_arrays(EXAMPLES)
    payloads = tensorflow_examples(tf, expected)
    path = tmp_path / "pretrain_data.tfrecord-0-of-1"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for payload in payloads:
            writer.write(payload)
    for _ in range(2):
        shards = opened(path)
        assert read_all(shards) == payloads
        parsed = parse_examples(read_all(shards), LENGTH)
        for name in tfrecords.FEATURES:
            assert parsed[name].dtype == np.int32 and np.array_equal(parsed[name], expected[name])
        assert np.load(index_path(path)).tolist() == frame_borders(payloads)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "offsets.pretrain_data.tfrecord-0-of-1.npy",
        "pretrain_data.tfrecord-0-of-1",
    ]


def test_shards_in_a_read_only_folder_are_scanned_once(tmp_path, monkeypatch):
    payloads = numbered(0, 20)
    paths = [write_shard(tmp_path / f"shard-{number}", payloads) for number in range(5)]
    for path in paths:
        index_path(path).unlink()
    scans, scan = [], tfrecords.scan_offsets

    def refuse(*_):
        raise OSError(30, "Read-only file system")

    def count_scans(shard, *arguments):
        scans.append(str(shard))
        return scan(shard, *arguments)

    monkeypatch.setattr(tfrecords.files, "write_bytes", refuse)
    monkeypatch.setattr(tfrecords, "scan_offsets", count_scans)
    shards = opened(*paths)
    # Too few open files for all shards, so that each is opened again and again.
    shards._max_open = 2
    order = np.random.RandomState(0).permutation(100)
    assert [shards.read(int(number)) for number in order] == [payloads[number % 20] for number in order]
    assert sorted(scans) == [str(path) for path in paths]
    assert not list(tmp_path.glob("offsets*")) and not list(tmp_path.glob(".*"))


# ------------------------------------------------------------------------------------------------- damage


def test_every_flipped_byte_of_a_record_is_found_and_named(tmp_path):
    """Length, both checksums and payload; the records beside it are still read."""
    payloads = numbered(0, 3)
    path = write_shard(tmp_path / "shard", payloads)
    whole = path.read_bytes()
    start, end = frame_borders(payloads)[1:3]
    for position in range(start, end):
        flip(path, position)
        shards = opened(path)
        assert (shards.read(0), shards.read(2)) == (payloads[0], payloads[2])
        with pytest.raises(CorruptShard) as caught:
            shards.read(1)
        assert str(caught.value) == f"--pretrain_tfrecords {path}: record 1 is damaged (checksum)"
        path.write_bytes(whole)
    assert opened(path).read(1) == payloads[1]


def test_flipped_byte_of_a_length_stops_the_scan(tmp_path):
    payloads = numbered(0, 3)
    path = write_shard(tmp_path / "shard", payloads)
    index_path(path).unlink()
    whole = path.read_bytes()
    for position in range(frame_borders(payloads)[1], frame_borders(payloads)[1] + 12):
        flip(path, position)
        with pytest.raises(CorruptShard, match=f"--pretrain_tfrecords {path}: no TFRecord at record 1"):
            opened(path)
        assert not index_path(path).exists()
        path.write_bytes(whole)


@pytest.mark.parametrize("indexed", [True, False])
def test_every_cut_within_a_record_is_found(indexed, tmp_path):
    payloads = numbered(0, 3)
    path = write_shard(tmp_path / "shard", payloads)
    if not indexed:
        index_path(path).unlink()
    whole, borders = path.read_bytes(), frame_borders(payloads)
    for size in set(range(borders[1] + 1, borders[3])) - {borders[2]}:
        path.write_bytes(whole[:size])
        record = 1 if size < borders[2] else 2
        with pytest.raises(CorruptShard) as caught:
            opened(path)
        told = "cut off" if indexed else f"cut off in record {record}"
        assert str(path) in str(caught.value) and told in str(caught.value)


def test_cut_between_records_and_added_records_are_found_by_the_index(tmp_path):
    payloads = numbered(0, 3)
    path = write_shard(tmp_path / "shard", payloads)
    whole = path.read_bytes()
    for content in (whole[: frame_borders(payloads)[2]], b"", whole + frame_record(b"more")):
        path.write_bytes(content)
        with pytest.raises(CorruptShard, match=rf"{path}: {len(content)} bytes where .* says {len(whole)}"):
            opened(path)


def test_length_of_gigabytes_reserves_no_memory(tmp_path):
    length = struct.pack("<Q", 1 << 40)
    path = tmp_path / "shard"
    path.write_bytes(length + struct.pack("<I", tfrecords.masked_crc32c(length)) + b"x" * 100)
    tracemalloc.start()
    with pytest.raises(CorruptShard, match="no TFRecord at record 0"):
        opened(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_file_of_another_kind_is_no_shard(tmp_path):
    (tmp_path / "notes").write_text("These are notes, not examples.")
    with pytest.raises(CorruptShard, match="notes: no TFRecord at record 0"):
        opened(tmp_path / "notes")


@pytest.mark.parametrize(
    "content",
    [b"", b"not an array", pickle.dumps([0, 1, 2]), b"\x93NUMPY\x01\x00v\x00{'descr'"],
    ids=["empty", "text", "pickle", "half a header"],
)
def test_damaged_index_is_named(content, tmp_path):
    path = write_shard(tmp_path / "shard", numbered(0, 3))
    index_path(path).write_bytes(content)
    with pytest.raises(CorruptShard, match=r"shard: its index offsets\.shard\.npy is damaged; delete it"):
        opened(path)


@pytest.mark.parametrize(
    "array", [np.zeros(0, np.int64), np.zeros((2, 2), np.int64), np.array([0.5, 2.0]), np.array(7)]
)
def test_index_that_is_no_list_of_offsets_is_named(array, tmp_path):
    path = write_shard(tmp_path / "shard", numbered(0, 3))
    np.save(index_path(path), array)
    with pytest.raises(CorruptShard, match="is damaged; delete it"):
        opened(path)


def test_index_cut_short_or_of_another_shard_gives_no_data(tmp_path):
    payloads = numbered(0, 3)
    path = write_shard(tmp_path / "shard", payloads)
    whole = index_path(path).read_bytes()
    index_path(path).write_bytes(whole[:-8])
    with pytest.raises(CorruptShard, match="is damaged; delete it"):
        opened(path)
    size = path.stat().st_size
    for offsets in ([0, 5, 50, size], [0, size - 3, size - 2, size], [-20, 900, 10**9, size]):
        np.save(index_path(path), np.array(offsets, np.int64))
        shards = opened(path)
        for record in range(3):
            with pytest.raises(CorruptShard, match=f"record {record} is damaged"):
                shards.read(record)


# ------------------------------------------------------------------------------------------ finding shards


def test_globs_are_read_in_the_natural_order_of_their_numbers(tmp_path):
    for number in (0, 1, 2, 9, 10, 11, 100):
        write_shard(tmp_path / f"pretrain_data.tfrecord-{number}-of-101", numbered(number, 1))
    found = find_shards(f"{tmp_path}/pretrain_data*", "pretrain_tfrecords")
    assert [Path(path).name for path in found] == [
        f"pretrain_data.tfrecord-{number}-of-101" for number in (0, 1, 2, 9, 10, 11, 100)
    ]
    assert found == find_shards(str(tmp_path), "pretrain_tfrecords"), "a folder stands for its shards"
    assert found == find_shards(f"{tmp_path}/", "pretrain_tfrecords")


def test_digits_of_every_script_are_ordered(tmp_path):
    for name in ("x.tfrecord²", "x.tfrecord٣"):
        write_shard(tmp_path / name, numbered(0, 1))
    assert len(find_shards(f"{tmp_path}/x*", "f")) == 2


def test_what_lies_beside_the_shards_is_never_taken_for_one(tmp_path):
    """Whatever the glob: indices, manifest, counts, vocabulary, options, card, folders, temporary files."""
    for number in range(3):
        write_shard(tmp_path / f"pretrain_data.tfrecord-{number}-of-3", numbered(number, 1))
    for name in (
        "manifest.json",
        "token_counts.npy",
        "vocab.txt",
        "tokenizer_config.json",
        "DATA_CARD.md",
        "length_histogram.png",
        ".x.tfrecord.1.tmp",
    ):
        (tmp_path / name).write_text("x")
    (tmp_path / "held_out.tfrecord").mkdir()
    for pattern in ("*", "*tfrecord*", "pretrain_data*", "*.tfrecord-*", ""):
        found = find_shards(f"{tmp_path}/{pattern}", "pretrain_tfrecords")
        assert [Path(path).name[-6:] for path in found] == ["0-of-3", "1-of-3", "2-of-3"], pattern
    assert not tfrecords.any_shard(f"{tmp_path}/manifest*, {tmp_path}/none*")
    assert tfrecords.any_shard(f"{tmp_path}/manifest*, {tmp_path}/*0-of-3")


def test_glob_that_matches_folders_stands_for_their_shards(tmp_path):
    """As docs/data.md names the test sets of all prepared datasets; but not for a folder beside shards."""
    paths = []
    for dataset in ("books", "wiki10", "wiki2"):
        (tmp_path / f"data/{dataset}/test").mkdir(parents=True)
        for number in (0, 9, 10):
            path = tmp_path / f"data/{dataset}/test/pretrain_data.tfrecord-{number}-of-11"
            paths.append(str(write_shard(path, numbered(number, 1))))
        (tmp_path / f"data/{dataset}/test/manifest.json").write_text("x")
    assert find_shards(f"{tmp_path}/data/*/test", "eval_tfrecords") == paths
    assert tfrecords.any_shard(f"{tmp_path}/data/*/test")
    beside = write_shard(tmp_path / "data/wiki2/pretrain_data.tfrecord-0-of-1", numbered(0, 1))
    assert find_shards(f"{tmp_path}/data/wiki2/*", "pretrain_tfrecords") == [str(beside)]
    with pytest.raises(UsageError, match="no such file"):
        find_shards(f"{tmp_path}/da*", "eval_tfrecords")


def test_glob_named_k_times_is_read_k_times(tmp_path):
    for name in ("wiki-0", "wiki-1", "books-0"):
        write_shard(tmp_path / name, [name.encode()] * 2)
    wiki, books = f"{tmp_path}/wiki*", f"{tmp_path}/books*"
    shards = Shards(find_shards(f"{wiki},{books}, {wiki},{wiki}", "f"), flag="f")
    read = read_all(shards)
    assert len(shards) == 14
    assert read.count(b"wiki-0") == read.count(b"wiki-1") == 6 and read.count(b"books-0") == 2
    assert [shards.locate(number)[1] for number in range(14)] == [0, 1] * 7
    assert Path(shards.locate(4)[0]).name == "books-0" and Path(shards.locate(13)[0]).name == "wiki-1"


def test_folder_named_with_brackets_is_itself(tmp_path):
    folder = tmp_path / "run[1]"
    folder.mkdir()
    path = write_shard(folder / "a.tfrecord", numbered(0, 1))
    assert find_shards(str(folder), "f") == [str(path)] == find_shards(str(path), "f")


def test_glob_that_matches_nothing_is_named(tmp_path):
    write_shard(tmp_path / "shard", numbered(0, 1))
    with pytest.raises(UsageError, match=rf"--pretrain_tfrecords {tmp_path}/none\*: no such file"):
        find_shards(f"{tmp_path}/shard,{tmp_path}/none*", "pretrain_tfrecords")
    with pytest.raises(UsageError, match="--eval_tfrecords ' , ': names no file"):
        find_shards(" , ", "eval_tfrecords")


def test_empty_shards_hold_nothing_and_hurt_nothing(tmp_path):
    paths = [
        write_shard(tmp_path / f"shard-{number}", numbered(number, count))
        for number, count in enumerate([0, 2, 0, 0, 1, 0])
    ]
    shards = opened(*paths)
    assert read_all(shards) == numbered(1, 2) + numbered(4, 1)
    assert [shards.locate(number) for number in range(3)] == [
        (str(paths[1]), 0),
        (str(paths[1]), 1),
        (str(paths[4]), 0),
    ]
    assert shards.first_examples() == {str(paths[1]): 0, str(paths[4]): 2}
    index_path(paths[0]).unlink()
    assert len(opened(*paths)) == 3
    with pytest.raises(UsageError, match="--pretrain_tfrecords: the 2 shards hold no record"):
        opened(paths[0], paths[2])


@pytest.mark.parametrize("limits", [(150, 150), (150, 4096)])
def test_more_shards_than_the_system_lets_open(limits, tmp_path):
    """Under a hard limit of 150 files 400 shards are read at random; a soft limit is raised."""
    for number in range(400):
        write_shard(tmp_path / f"shard-{number}", numbered(number, 2))
    program = (
        "import resource, sys\n"
        "import numpy as np\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, {limits})\n"
        "from tfrecords import Shards, find_shards\n"
        "shards = Shards(find_shards(sys.argv[1], 'f'), flag='f')\n"
        "for example in np.random.RandomState(0).permutation(800).tolist():\n"
        "    shard, record = divmod(example, 2)\n"
        "    assert shards.read(example) == b'shard %d record %d' % (shard, record) + b'.' * record\n"
        "print(len(shards), resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
    )
    command = [sys.executable, "-c", program, f"{tmp_path}/shard-*"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    count, soft = map(int, result.stdout.split())
    assert count == 800 and soft == (150 if limits[1] == 150 else 928)


@pytest.mark.parametrize("limits", [(200, 4096), (300, 300)])
def test_all_sets_of_a_process_together_stay_below_the_limit_of_open_files(limits, tmp_path, monkeypatch):
    """Training and held-out shards, and a set that is opened when all of both are."""
    monkeypatch.setattr(tfrecords.files, "flush_to_disk", lambda path: None)
    for number in range(300):
        write_shard(tmp_path / f"{number // 100}-{number % 100}", numbered(number, 2))
    program = (
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, {limits})\n"
        "from tfrecords import Shards, find_shards\n"
        "def read_all(group):\n"
        "    for number in range(200):\n"
        "        said = b'shard %d record %d' % (100 * group + number // 2, number % 2)\n"
        "        assert sets[group].read(number).startswith(said)\n"
        "sets = [Shards(find_shards(f'{sys.argv[1]}/{group}-*', 'f'), flag='f') for group in (0, 1)]\n"
        "read_all(0), read_all(1)\n"
        "sets.append(Shards(find_shards(f'{sys.argv[1]}/2-*', 'f'), flag='f'))\n"
        "read_all(2), read_all(0), read_all(1)\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    # Two files a shard, and 128 for all else.
    assert int(result.stdout) == (300 if limits[1] == 300 else 728)


# ------------------------------------------------------------------------------------------------- writing


def test_shard_that_fails_half_way_is_absent(tmp_path):
    with pytest.raises(RuntimeError), ShardWriter(tmp_path / "shard") as shard:
        shard.write_frames(frame_record(b"x"), [17])
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full here")
def test_shard_that_finds_the_disk_full_leaves_nothing_behind(tmp_path, monkeypatch):
    """Closing the file fails once more then; its remains, which take space, must go all the same."""
    (tmp_path / "temporary").symlink_to("/dev/full")
    monkeypatch.setattr(tfrecords.files, "temporary_path", lambda path: tmp_path / "temporary")
    for size in (1, 10_000_000):
        with pytest.raises(OSError, match="No space left"), ShardWriter(tmp_path / "shard") as shard:
            shard.write_frames(b"x" * size, [size])
        assert list(tmp_path.iterdir()) == []
        (tmp_path / "temporary").symlink_to("/dev/full")


def test_index_is_written_before_its_shard(tmp_path, monkeypatch):
    """A program that is killed between the two leaves no shard that could be taken for a finished one."""
    order, publish = [], tfrecords.files.publish
    monkeypatch.setattr(
        tfrecords.files, "publish", lambda old, new: (order.append(Path(new).name), publish(old, new))
    )
    write_shard(tmp_path / "shard", numbered(0, 2))
    assert order == ["offsets.shard.npy", "shard"]
    assert np.load(tmp_path / "offsets.shard.npy").tolist() == frame_borders(numbered(0, 2))


def test_fingerprint_follows_what_is_read_and_not_where_it_lies(tmp_path):
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        for number in range(2):
            write_shard(tmp_path / folder / f"shard-{number}", numbered(0, 2 + number))

    def fingerprint(folder: str, *numbers: int) -> str:
        return opened(*(tmp_path / folder / f"shard-{number}" for number in numbers)).fingerprint()

    assert fingerprint("here", 0, 1) == fingerprint("there", 0, 1)
    assert len({fingerprint("here", *numbers) for numbers in [(0, 1), (1, 0), (0,), (0, 0, 1)]}) == 4
