"""The same text gives the same documents in every packing, faults are named, and memory is bounded."""

import bz2
import gzip
import hashlib
import lzma
import os
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import zstandard

import corpus
from command_line import UsageError
from corpus import Source, find_sources, inspect_source, read_blocks
from corpus_files import open_binary

ROOT = Path(__file__).parents[1]
TEXT = (
    "First line.\nSecond line, née à Łódź.\n\n\n  Another document.  \n\t\nThird 東京\nlast without its end"
)
DOCUMENTS = [
    ["First line.", "Second line, née à Łódź."],
    ["Another document."],
    ["Third 東京", "last without its end"],
]


def with_checksum(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


PACKINGS = {
    ".txt": bytes,
    ".txt.gz": gzip.compress,
    ".txt.bz2": bz2.compress,
    ".txt.zst": with_checksum,
    ".txt.xz": lzma.compress,
}


def source_of(path: Path) -> Source:
    return Source(str(path), path.name)


def write(folder: Path, content: bytes | str, name: str = "file.txt") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def documents_of(path: Path, blanks_separate_docs: bool = True) -> list[list[str]]:
    return [document for block in read_blocks(str(path), blanks_separate_docs) for document in block]


def names_of(folder: Path, **options) -> list[str]:
    return [source.name for source in find_sources(folder, **options)]


# --------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("suffix", PACKINGS)
def test_every_packing_gives_the_same_documents(suffix, tmp_path):
    path = write(tmp_path, PACKINGS[suffix](TEXT.encode()), f"file{suffix}")
    assert documents_of(path) == DOCUMENTS
    assert documents_of(path, blanks_separate_docs=False) == [
        [line for document in DOCUMENTS for line in document]
    ]
    found = inspect_source(source_of(path))
    assert found.fault is None and found.bytes == path.stat().st_size
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("suffix", [".txt.gz", ".txt.bz2", ".txt.zst", ".txt.xz"])
def test_archives_joined_end_to_end_are_read_to_the_end(suffix, tmp_path):
    """As pbzip2, pigz and `cat a.gz b.gz` make them; a character may be split between two."""
    content = TEXT.encode() * 50
    half = content.index("ł".upper().encode()) + 1
    path = write(
        tmp_path, b"".join(map(PACKINGS[suffix], (content[:half], content[half:], b""))), "a" + suffix
    )
    assert inspect_source(source_of(path)).fault is None
    with open_binary(str(path)) as stream:
        assert stream.read() == content


@pytest.mark.parametrize("suffix", PACKINGS)
@pytest.mark.parametrize("start", ["\ufeff", ""])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_byte_order_mark_and_line_ends_leave_no_trace(suffix, start, end, tmp_path):
    path = write(tmp_path, PACKINGS[suffix]((start + TEXT.replace("\n", end)).encode()), f"file{suffix}")
    assert inspect_source(source_of(path)).fault is None
    assert documents_of(path) == DOCUMENTS


def test_only_line_ends_end_lines(tmp_path):
    """A vertical tab, a form feed or Unicode's line separator stands within a line, as it does for `wc`."""
    line = "one\x0btwo\x0cthree\x1cfour\x85five\u2028six\u2029seven\x00eight"
    assert documents_of(write(tmp_path, f"{line}\nnext\n")) == [[line, "next"]]


@pytest.mark.parametrize("content", ["", "\n", " \n\t\n\u00a0\n\r\n", "\ufeff"])
def test_file_of_blanks_has_no_documents(content, tmp_path):
    path = write(tmp_path, content)
    assert documents_of(path) == [] == documents_of(path, blanks_separate_docs=False)
    assert inspect_source(source_of(path)).fault is None


# ------------------------------------------------------------------------------------------ unreadable files


def test_text_that_is_not_utf8_is_reported(tmp_path):
    latin1 = "une phrase française\n".encode("latin-1")
    for content in (latin1, b"fine\n" * 300_000 + latin1, b"cut" + "é".encode()[:1], b"\xed\xa0\x80"):
        assert inspect_source(source_of(write(tmp_path, content))).fault == "not UTF-8"
    utf16 = write(tmp_path, "text".encode("utf-16"))
    assert inspect_source(source_of(utf16)).fault == "not UTF-8"
    packed = write(tmp_path, gzip.compress(latin1), "a.txt.gz")
    assert inspect_source(source_of(packed)).fault == "not UTF-8"


@pytest.mark.parametrize("suffix", [".txt.gz", ".txt.bz2", ".txt.zst", ".txt.xz"])
def test_every_cut_of_an_archive_is_reported(suffix, tmp_path):
    whole = PACKINGS[suffix](TEXT.encode() * 20)
    for size in range(len(whole)):
        path = write(tmp_path, whole[:size], f"file{suffix}")
        fault = inspect_source(source_of(path)).fault
        assert fault is not None and fault.startswith(("damaged (", "not UTF-8")), size


@pytest.mark.parametrize("suffix", [".txt.gz", ".txt.bz2", ".txt.zst", ".txt.xz"])
def test_flipped_byte_of_an_archive_is_reported_or_harmless(suffix, tmp_path):
    """Some bytes of a header say nothing about the text (gzip's time stamp); no other flip goes unnoticed."""
    draw = random.Random(0)
    content = " ".join(f"{draw.getrandbits(20):x}" for _ in range(200)).encode()
    whole = PACKINGS[suffix](content)
    reported = 0
    for position in range(len(whole)):
        flipped = whole[:position] + bytes([whole[position] ^ 0x21]) + whole[position + 1 :]
        path = write(tmp_path, flipped, f"file{suffix}")
        if inspect_source(source_of(path)).fault is None:
            with open_binary(str(path)) as stream:
                assert stream.read() == content, position
        else:
            reported += 1
    assert reported > 0.95 * len(whole)


@pytest.mark.parametrize("suffix", [".txt.gz", ".txt.bz2", ".txt.zst", ".txt.xz"])
def test_damage_where_a_following_archive_begins_is_reported(suffix, tmp_path):
    """It is not taken for the end of the file: what comes behind it would be lost without a word."""
    first, following = PACKINGS[suffix](TEXT.encode()), bytearray(PACKINGS[suffix](TEXT.encode()))
    following[0] ^= 0x21
    path = write(tmp_path, first + bytes(following), f"file{suffix}")
    assert inspect_source(source_of(path)).fault.startswith("damaged (")


def test_a_few_bytes_of_bzip2_that_stand_for_much_text_take_little_memory(tmp_path):
    path = write(tmp_path, bz2.compress(bytes(200_000_000)), "zeros.txt.bz2")
    assert path.stat().st_size < 1_000
    tracemalloc.start()
    with open_binary(str(path)) as stream:
        size = 0
        while text := stream.read(1 << 16):
            size += len(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == 200_000_000 and peak < 10_000_000


@pytest.mark.parametrize("suffix", [".txt.gz", ".txt.bz2", ".txt.zst", ".txt.xz"])
def test_plain_text_named_as_an_archive_is_reported(suffix, tmp_path):
    for content in (TEXT, ""):
        assert inspect_source(source_of(write(tmp_path, content, f"a{suffix}"))).fault.startswith("damaged (")


def test_dangling_link_is_reported_and_a_pipe_is_not_waited_for(tmp_path):
    write(tmp_path, "text")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    (tmp_path / "self.txt").symlink_to("self.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    faults = {source.name: inspect_source(source).fault for source in find_sources(tmp_path)}
    assert faults == {
        "file.txt": None,
        "gone.txt": "unreadable (No such file or directory)",
        "self.txt": "unreadable (Too many levels of symbolic links)",
    }


# ------------------------------------------------------------------------------------------- finding sources


def test_sources_are_all_text_files_in_the_order_of_their_names(tmp_path):
    wanted = ["a.txt", "b/c.txt.gz", "b/d/e.txt.zst", "b.txt.bz2", "Z.txt", "é.txt"]
    for name in [*wanted, "notes.md", "a.md.xz", "a.txt~", ".hidden.txt", "b/.x.txt", "txt"]:
        write(tmp_path, "x", name)
    (tmp_path / "folder.txt").mkdir()
    assert names_of(tmp_path) == sorted(wanted)
    assert [Path(source.path).read_text() for source in find_sources(tmp_path)] == ["x"] * len(wanted)


def test_linked_folders_are_followed_once_and_loops_end(tmp_path):
    write(tmp_path, "x", "outside/o.txt")
    write(tmp_path, "x", "corpus/m/a.txt")
    (tmp_path / "corpus" / "m" / "up").symlink_to(tmp_path / "corpus")
    (tmp_path / "corpus" / "m" / "self").symlink_to(".")
    (tmp_path / "corpus" / "far").symlink_to(tmp_path / "outside")
    (tmp_path / "corpus" / "far too").symlink_to(tmp_path / "outside")
    assert names_of(tmp_path / "corpus") == ["far/o.txt", "m/a.txt"]


def test_folder_with_two_names_goes_by_the_same_one_on_every_file_system(tmp_path, monkeypatch):
    write(tmp_path, "x", "b/a.txt")
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "c").symlink_to("b")
    scandir = os.scandir

    class Reversed:
        """The entries of a folder, in the opposite of the order that the system gives."""

        def __init__(self, path):
            with scandir(path) as entries:
                self._entries = iter(list(entries)[::-1])

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def __iter__(self):
            return self._entries

        def __next__(self):
            return next(self._entries)

    names = names_of(tmp_path)
    monkeypatch.setattr(os, "scandir", Reversed)
    assert names_of(tmp_path) == names == ["a/a.txt"]


def test_vocabulary_and_results_within_the_corpus_are_left_out(tmp_path):
    for name in ("a.txt", "vocab.txt", "shards/vocab.txt", "shards/held_out/vocab.txt", "shards 2/b.txt"):
        write(tmp_path, "x", name)
    left_out = (tmp_path / "vocab.txt", f"{tmp_path}/shards 2/../shards/")
    assert names_of(tmp_path, leave_out=left_out) == ["a.txt", "shards 2/b.txt"]


def test_name_that_is_not_utf8_can_be_printed_and_its_file_read(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    with open(path, "wb") as stream:
        stream.write(b"text")
    (source,) = find_sources(tmp_path)
    assert source.name == "caf\\xe9.txt" and source.name.encode()
    assert documents_of(source.path) == [["text"]]


def test_corpus_without_text_is_named(tmp_path):
    with pytest.raises(UsageError, match=f"--corpus_dir {tmp_path}/none: no such folder"):
        find_sources(tmp_path / "none")
    write(tmp_path, "x", "notes.md")
    with pytest.raises(UsageError, match=rf"--corpus_dir {tmp_path}: holds no \.txt"):
        find_sources(tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        find_sources(tmp_path / "notes.md")


def test_files_by_globs_come_once_each_and_others_are_named(tmp_path):
    for name in ("b.txt", "a.txt", "c.jsonl", "notes.md"):
        write(tmp_path, "x", name)
    (tmp_path / "folder.txt").mkdir()
    patterns = f"{tmp_path}/[abc].txt, {tmp_path}/c.jsonl,,{tmp_path}/a.txt"
    found = corpus.find_files(patterns, "held_out_files")
    assert [Path(source.path).name for source in found] == ["a.txt", "b.txt", "c.jsonl"]
    assert corpus.find_files("", "held_out_files") == []
    with pytest.raises(UsageError, match=rf"--held_out_files {tmp_path}/none\*: no such file"):
        corpus.find_files(f"{tmp_path}/none*", "held_out_files")
    for name in ("notes.md", "folder.txt"):
        with pytest.raises(UsageError, match=rf"--held_out_files {tmp_path}/{name}: no \.txt, .*file"):
            corpus.find_files(f"{tmp_path}/{name}", "held_out_files")


# -------------------------------------------------------------------------------------- long lines, documents


def small_bounds(monkeypatch, line: int = 50, block: int = 10_000) -> None:
    monkeypatch.setattr(corpus, "_MAX_LINE_CHARACTERS", line)
    monkeypatch.setattr(corpus, "_BLOCK_SIZE", block)


def test_long_line_comes_in_parts_that_lose_and_cut_no_word(tmp_path, monkeypatch):
    small_bounds(monkeypatch)
    draw = random.Random(1)
    for _ in range(200):
        words = ["w" * draw.randint(1, 40) for _ in range(draw.randint(1, 60))]
        path = write(tmp_path, " ".join(words) + draw.choice(["", "\n"]))
        (parts,) = documents_of(path)
        assert " ".join(parts).split() == words
        assert max(map(len, parts)) < 100


def test_long_line_without_spaces_comes_in_parts_as_long_as_the_bound(tmp_path, monkeypatch):
    small_bounds(monkeypatch)
    text = "東" * 120 + "\nnext\n"
    assert documents_of(write(tmp_path, text)) == [["東" * 50, "東" * 50, "東" * 20, "next"]]


@pytest.mark.parametrize("length", range(45, 110))
@pytest.mark.parametrize("line", ["x", "ab ", "a  ", " "])
def test_end_of_a_part_is_no_blank_line(length, line, tmp_path, monkeypatch):
    """A line as long as the bound, or with a run of spaces there, does not end its document."""
    small_bounds(monkeypatch)
    long_line = "y" + (line * 110)[:length] + "z"
    path = write(tmp_path, f"before\n{long_line}\nafter\n")
    (document,) = documents_of(path)
    assert document[0] == "before" and document[-1] == "after"
    assert "".join(document[1:-1]).replace(" ", "") == long_line.replace(" ", "")


def test_blocks_are_bounded_and_keep_every_line_in_its_place(tmp_path, monkeypatch):
    """A document longer than a block is cut between lines; short lines fill a block too."""
    small_bounds(monkeypatch, line=1000)
    draw = random.Random(2)
    texts = [
        [f"{d} {n} " + "x" * draw.randint(0, 200) for n in range(draw.randint(1, 300))] for d in range(30)
    ]
    path = write(tmp_path, "\n\n".join("\n".join(lines) for lines in texts))
    blocks = list(read_blocks(str(path), True))
    lines = [line for block in blocks for document in block for line in document]
    assert lines == [line.strip() for document in texts for line in document]
    sizes = [sum(len(line) + 60 for document in block for line in document) for block in blocks]
    assert max(sizes) < 2 * (10_000 + 300) and min(sizes[:-1]) >= 10_000
    for block in blocks:
        for document in block:
            assert len({line.split()[0] for line in document}) == 1, "no document is joined to another"
    whole = list(read_blocks(str(path), False))
    assert [line for block in whole for document in block for line in document] == lines


@pytest.mark.parametrize(
    ("name", "unit", "count"),
    [
        ("one line.txt", "word ", 40_000_000),
        ("one word.txt", "x", 200_000_000),
        ("one document.txt", "a line of text, as there are many\n", 6_000_000),
        ("short lines.txt", "ab\n", 10_000_000),
        ("one line.txt.zst", "word ", 40_000_000),
    ],
)
@pytest.mark.slow
def test_memory_is_bounded_whatever_the_file(name, unit, count, tmp_path):
    """200 MB of one line or one document, or lines that would fill 600 MB, take a process far less."""
    path, chunk = tmp_path / name, (unit * (count // 100)).encode()
    with zstandard.open(path, "wb") if name.endswith(".zst") else path.open("wb") as stream:
        for _ in range(100):
            stream.write(chunk)
    # ru_maxrss would begin with what this process holds.
    program = (
        "import sys, corpus\n"
        "def peak():\n"
        "    with open('/proc/self/status') as status:\n"
        "        return next(int(line.split()[1]) for line in status if line.startswith('VmHWM'))\n"
        "before = peak()\n"
        "assert corpus.inspect_source(corpus.Source(sys.argv[1], 'x')).fault is None\n"
        "characters = sum(len(l) for b in corpus.read_blocks(sys.argv[1], True) for d in b for l in d)\n"
        "print(characters, peak() - before)\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    path.unlink()
    assert result.returncode == 0, result.stderr
    characters, kilobytes = map(int, result.stdout.split())
    assert 0.99 * count * len(unit.strip()) < characters <= count * len(unit)
    assert kilobytes < 80_000
