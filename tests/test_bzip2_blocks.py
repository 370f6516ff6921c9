"""bzip2 block by block gives what bzip2 gives, and damage costs its block only."""

import bz2
import random
import tracemalloc
from pathlib import Path

import pytest
from wikipedia_cases import EXCERPT

from data import bzip2_blocks
from data.bzip2_blocks import read_blocks

# bzip2 -1 puts so many characters into a block, where none stands four times in a row.
BLOCK_CHARACTERS = 99_981
BLOCKS = 8


def random_text(length: int, seed: int = 1) -> bytes:
    """Letters and digits, none of them four times in a row."""
    text = bytearray(random.Random(seed).randbytes(length // 2 + 1).hex().encode()[:length])
    text[::4] = b"\n" * len(text[::4])
    return bytes(text)


@pytest.fixture(scope="module")
def text() -> bytes:
    return random_text(BLOCKS * BLOCK_CHARACTERS)


@pytest.fixture(scope="module")
def compressed(text) -> bytes:
    return bz2.compress(text, compresslevel=1)


@pytest.fixture
def read(tmp_path):
    """The blocks of a file that holds these bytes."""

    def read(content: bytes, begin: int = 0) -> list[bzip2_blocks.Block]:
        path = tmp_path / "file.bz2"
        path.write_bytes(content)
        return list(read_blocks(path, begin))

    return read


def block_texts(text: bytes) -> list[bytes]:
    return [text[begin : begin + BLOCK_CHARACTERS] for begin in range(0, len(text), BLOCK_CHARACTERS)]


def test_blocks_are_what_bzip2_divides_a_text_into(read, text, compressed):
    blocks = read(compressed)
    assert [block.text for block in blocks] == block_texts(text)
    assert [block.is_last for block in blocks] == [False] * (BLOCKS - 1) + [True]
    assert not any(block.fault for block in blocks)


@pytest.mark.parametrize("level", [1, 9])
@pytest.mark.parametrize("length", [1, 2, 3, 5, 30, 1000, 250_000])
def test_streams_of_any_length_follow_each_other(read, length, level):
    """However the bits of their ends fall."""
    texts = [random_text(length + number) for number in range(9)]
    blocks = read(b"".join(bz2.compress(text, level) for text in texts))
    assert b"".join(block.text for block in blocks) == b"".join(texts)
    assert not any(block.fault for block in blocks)


def test_the_real_excerpt_reads_as_bzip2_reads_it(shared_data):
    path = shared_data / EXCERPT
    with bz2.open(path) as stream:
        assert b"".join(block.text for block in read_blocks(path)) == stream.read()


def test_reading_may_begin_at_any_byte(read, compressed):
    """And gives the blocks that begin there or behind."""
    blocks = read(compressed)
    begins = [block.begin for block in blocks]
    for begin in [1, 4, 5, *(begin + step for begin in begins[1:] for step in (-1, 0, 1)), len(compressed)]:
        assert read(compressed, begin) == [block for block in blocks if block.begin >= begin]


@pytest.mark.parametrize("window", [7, 100, 1000])
def test_no_block_is_missed_or_doubled_where_reads_meet(read, monkeypatch, window):
    content = b"".join(bz2.compress(random_text(500, seed)) for seed in range(20))
    blocks = read(content)
    monkeypatch.setattr(bzip2_blocks, "_WINDOW_BYTES", window)
    assert read(content) == blocks
    assert len(blocks) == 20


@pytest.mark.parametrize("number", [0, 3, BLOCKS - 1])
def test_a_flipped_bit_costs_its_block_and_names_it(read, text, compressed, number):
    begins = [block.begin for block in read(compressed)] + [len(compressed)]
    draws = random.Random(number)
    # Behind the magic and before the next one; bzip2 does not look at the last bits of its tables.
    for _ in range(5):
        damaged = bytearray(compressed)
        damaged[draws.randrange(begins[number] + 7, begins[number + 1] - 20)] ^= 1 << draws.randrange(8)
        blocks = read(bytes(damaged))
        expected = block_texts(text)
        expected[number] = b""
        assert [block.text for block in blocks] == expected
        faults = [block.fault for block in blocks if block.fault]
        assert faults == [f"the bzip2 block at byte {begins[number]:,} is damaged"]


def test_overwritten_bytes_cost_the_blocks_that_they_reach(read, text, compressed):
    """Also where they hide that a block begins, and where none before it is damaged."""
    begins = [block.begin for block in read(compressed)]
    within = compressed[: begins[2] + 1000] + bytes(begins[4] - begins[2]) + compressed[begins[4] + 1000 :]
    blocks = read(within)
    assert b"".join(block.text for block in blocks) == b"".join(block_texts(text)[:2] + block_texts(text)[5:])
    assert [block.fault for block in blocks if block.fault] == [
        f"the bzip2 block at byte {begins[2]:,} is damaged"
    ]
    between = compressed[: begins[2] + 1] + bytes(5) + compressed[begins[2] + 6 :]
    blocks = read(between)
    assert b"".join(block.text for block in blocks) == b"".join(block_texts(text)[:2] + block_texts(text)[3:])
    (fault,) = [block.fault for block in blocks if block.fault]
    assert fault.startswith("bytes ")
    assert fault.endswith(f" to {begins[3]:,} are damaged")


def test_a_damaged_beginning_of_the_file_is_named(read, text, compressed):
    blocks = read(bytes(10) + compressed[10:])
    assert [block.text for block in blocks] == [b"", *block_texts(text)[1:]]
    assert blocks[0].fault == f"bytes 0 to {blocks[1].begin:,} are damaged"


def test_of_a_file_that_is_cut_off_every_whole_block_is_there(read, text, compressed):
    begins = [block.begin for block in read(compressed)]
    # The last bits of a block may be in the byte in which the next one begins.
    cuts = {3: 0, 4: 0, 12: 0, begins[1] - 5: 0, begins[1] + 1: 1, begins[1] + 10: 1, begins[3] + 5000: 3}
    for cut, whole in cuts.items():
        blocks = read(compressed[:cut])
        assert b"".join(block.text for block in blocks) == b"".join(block_texts(text)[:whole])
        assert [block.is_last for block in blocks] == [False] * (len(blocks) - 1) + [True]
        assert not any(block.fault for block in blocks)


def test_bits_that_look_like_a_beginning_by_chance_do_no_harm(read, compressed, monkeypatch):
    blocks = read(compressed)
    real = bzip2_blocks._block_starts
    monkeypatch.setattr(
        bzip2_blocks,
        "_block_starts",
        lambda stream, begin: iter(
            sorted([*real(stream, begin), 8 * blocks[2].begin + 9000, 8 * blocks[7].begin + 80])
        ),
    )
    assert read(compressed) == blocks


def test_memory_does_not_grow_with_the_file(tmp_path: Path):
    (tmp_path / "file.bz2").write_bytes(bz2.compress(random_text(400_000), 1) * 30)
    tracemalloc.start()
    assert sum(len(block.text) for block in read_blocks(tmp_path / "file.bz2")) == 30 * 400_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000
