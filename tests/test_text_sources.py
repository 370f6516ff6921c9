"""Text of any packing becomes the same documents, however it is cut into parts; bad input is named."""

import contextlib
import gzip
import itertools
import json
import os
import pickle
import random
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import zstandard
from corpus_forms import DOCUMENTS, FLAT, FORMS, as_arrow, as_json_lines, as_tar, as_text, as_zip

import corpus
from command_line import UsageError
from corpus import Source, inspect_source
from data import text_sources
from data.documents import DocumentFile, Tally, TextDocument
from data.text_sources import BY_BLANK_LINE, BY_FILE, plan, read
from sentences import split_sentences

ROOT = Path(__file__).parents[1]


def write(folder: Path, content: bytes | str, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def documents_of(*inputs: Path, tally: Tally | None = None, **options) -> list[TextDocument]:
    return [document for part in plan(inputs, **options) for document in read(part, tally or Tally())]


def texts_of(*inputs: Path, **options) -> list[str]:
    return [document.text for document in documents_of(*inputs, **options)]


def sentences_of(text: str) -> list[str]:
    return [sentence for paragraph in text.split("\n") for sentence in split_sentences(paragraph)]


def small_parts(monkeypatch, size: int) -> None:
    monkeypatch.setattr(text_sources, "_PART_BYTES", size)


# ------------------------------------------------------------------------------------------------- documents


@pytest.mark.parametrize("documents", [BY_BLANK_LINE, BY_FILE])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_sentences_that_corpus_gives(name, documents, tmp_path):
    path = write(tmp_path, FORMS[name](), name)
    blocks = corpus.read_blocks(str(path), documents == BY_BLANK_LINE)
    expected = [corpus.as_sentences(document) for block in blocks for document in block]
    assert [sentences_of(text) for text in texts_of(path, documents=documents)] == expected
    if documents == BY_BLANK_LINE:
        assert expected == FLAT
    assert [sentence for document in expected for sentence in document] == [s for d in FLAT for s in d]


def test_what_documents_were_written_to_is_read_again(tmp_path):
    documents = [
        TextDocument("One", "A b.\nC d."),
        TextDocument("", "E f."),
        TextDocument("ő", "\u6771\u4eac"),
    ]
    with DocumentFile(tmp_path / "a.jsonl.zst") as file:
        for document in documents:
            file.write(document)
    assert documents_of(tmp_path / "a.jsonl.zst") == documents


def test_title_is_the_records_or_the_files(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [("A", "x"), (None, "y"), ("", "z"), ("B", "")]
    expected = [("A", "x"), ("", "y"), ("", "z")]
    json_lines = "".join(json.dumps({"text": text, "title": title}) + "\n" for title, text in rows)
    assert documents_of(write(tmp_path, json_lines, "a.jsonl")) == expected
    assert documents_of(write(tmp_path, '{"text": "x", "title": 1}', "b.jsonl")) == [("", "x")]
    table = pyarrow.table({"title": [title for title, _ in rows], "text": [text for _, text in rows]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert documents_of(tmp_path / "a.parquet") == expected
    with pyarrow.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    assert documents_of(tmp_path / "a.arrow") == expected
    assert documents_of(tmp_path / "a.arrow", text_column="title") == [("", "A"), ("", "B")]
    parquet.write_table(pyarrow.table({"title": [7], "text": ["x"]}), tmp_path / "b.parquet")
    assert documents_of(tmp_path / "b.parquet") == [("", "x")]
    write(tmp_path / "books", "x", "The Lamp.txt")
    write(tmp_path / "books", gzip.compress(b"x"), "Mr. Pim.txt.gz")
    write(tmp_path / "books", as_tar({"deep/no. 1.txt": b"x", "deep/2.jsonl": b'{"text": "y"}'}), "b.tar")
    titles = ["Mr. Pim", "The Lamp", "no. 1", ""]
    assert [document.title for document in documents_of(tmp_path / "books", documents=BY_FILE)] == titles
    assert {document.title for document in documents_of(tmp_path / "books")} == {""}


LONG = " ".join(["This line is a paragraph of its own."] * 3)


@pytest.mark.parametrize(
    ("text", "paragraphs"),
    [
        ("One\ntwo three\nfour.\n\nFive.\n\n\nSix\nseven.", ["One two three four.", "Five.", "Six seven."]),
        ("Two\r\nlines.\r\n\r\nMore.\r\n", ["Two lines.", "More."]),
        ("a well-\nknown word", ["a well-known word"]),
        ("he said--\nand stopped", ["he said--and stopped"]),
        ("a dash -\nand more", ["a dash - and more"]),
        ("  indented\n  lines  ", ["indented lines"]),
        (f"{LONG}\nA short one.\n{LONG}\n\nWrapped\nhere.", [LONG, "A short one.", LONG, "Wrapped here."]),
        (f"A short one.\n{LONG}", ["A short one.", LONG]),
        ("", []),
    ],
)
def test_wrapped_lines_are_joined_where_a_file_is_a_document(text, paragraphs, tmp_path):
    path = write(tmp_path, text, "a.txt")
    assert texts_of(path, documents=BY_FILE) == (["\n".join(paragraphs)] if paragraphs else [])


def test_lines_are_paragraphs_where_blank_lines_end_documents(tmp_path):
    path = write(tmp_path, "One\ntwo.\n \t\n\nThree.", "a.txt")
    assert texts_of(path) == ["One\ntwo.", "Three."]


def test_frame_of_a_book_is_left_out_and_counted(tmp_path):
    start = "*** START OF THE PROJECT GUTENBERG EBOOK THE LAMP ***"
    text = f"Title: The Lamp\n\n{start}\n\nIt was\nlate.\n\nEnd of Project Gutenberg's The Lamp\n\nMore."
    path, tally = write(tmp_path, text, "l.txt"), Tally()
    assert documents_of(path, documents=BY_FILE, tally=tally) == [("l", "It was late.")]
    frame = len(text.replace("\n", "")) - len("It waslate.")
    assert dict(tally.removed) == {"Project Gutenberg's front and back matter": frame}


def test_document_beyond_the_bound_is_cut_between_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(text_sources, "_DOCUMENT_CHARACTERS", 5_000)
    lines = [f"{number} " + "word " * 25 for number in range(300)]
    for name, content in (("a.txt", "\n".join(lines)), ("a.jsonl", json.dumps({"text": "\n".join(lines)}))):
        for documents in (BY_FILE, BY_BLANK_LINE):
            texts = texts_of(write(tmp_path, content, name), documents=documents)
            assert max(map(len, texts)) < 5_200 and len(texts) > 5
            assert "\n".join(texts).split("\n") == [line.strip() for line in lines]


# ----------------------------------------------------------------------------------------------------- parts


def pieces_of(parts) -> list[Source]:
    return [source for part in parts for source in part.sources if source.span]


def odd_texts() -> list[str]:
    """Files of documents between blank lines of many kinds, with line ends and marks that mislead."""
    draw = random.Random(11)
    blanks = ["\n", "\n\n", " \n", "\t \n", "\u00a0\n", "\n \n\n\n", "\u3000\n\n"]
    files = []
    for end in ("\n", "\r\n", "\r", "\n"):
        text = draw.choice(["", "\ufeff", "\n\n", " \n"])
        for number in range(400):
            lines = [f"{number} {'né ' * draw.randint(0, 20)}{line}" for line in range(draw.randint(1, 5))]
            if draw.random() < 0.1:
                lines[0] = "\ufeff" + lines[0]
            text += "\n".join(lines) + "\n" + draw.choice(blanks)
        files.append(text.replace("\n", end))
    return files


@pytest.mark.parametrize("number", range(4))
def test_text_is_the_same_documents_however_it_is_cut(number, tmp_path, monkeypatch):
    text = odd_texts()[number]
    path = write(tmp_path, text, "a.txt")
    lines = [
        line.strip()
        for line in text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    ]
    expected = [d.strip("\n") for d in re.split(r"\n\n+", "\n".join(lines).strip("\n"))]
    assert texts_of(path) == expected and len(expected) == 400
    for size in (100, 333, 1_000, 7_000, 20_000):
        small_parts(monkeypatch, size)
        parts = plan([path])
        assert number == 2 or len(pieces_of(parts)) > 1, "a file without a line feed is not cut"
        assert texts_of(path) == expected
        # By files, a file is one document.
        assert len(plan([path], documents=BY_FILE)) == 1


@pytest.mark.parametrize("window", [80, 200, 1 << 16])
def test_json_lines_are_the_same_documents_however_they_are_cut(window, tmp_path, monkeypatch):
    monkeypatch.setattr(text_sources, "_WINDOW_BYTES", window)
    draw = random.Random(12)
    texts = [f"{number} {'né ' * draw.randint(0, 300)}end" for number in range(300)]
    content = "".join(
        json.dumps({"text": text}, ensure_ascii=number % 2 == 0) + draw.choice(["\n", "\r\n", "\n\n \n"])
        for number, text in enumerate(texts)
    )
    path = write(tmp_path, "\ufeff" + content, "a.jsonl")
    for size in (50, 500, 5_000, 50_000):
        small_parts(monkeypatch, size)
        parts = plan([path])
        assert len(parts) > 3
        assert texts_of(path) == texts
        # Each can be read without those before it.
        backwards = [list(read(part, Tally())) for part in reversed(parts)]
        assert [document.text for piece in reversed(backwards) for document in piece] == texts


def test_parquet_is_cut_between_row_groups(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = [f"{number} {random.Random(number).random()}" for number in range(1_000)]
    parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet", row_group_size=64)
    assert len(plan([tmp_path])) == 1
    for size in (1_000, 5_000):
        small_parts(monkeypatch, size)
        assert len(pieces_of(plan([tmp_path]))) > 2
        assert texts_of(tmp_path) == texts
    whole = (tmp_path / "a.parquet").read_bytes()
    write(tmp_path, whole[:-100], "a.parquet")
    tally = Tally()
    assert texts_of(tmp_path, tally=tally) == []
    (fault,) = tally.faults
    assert fault.startswith(f"{tmp_path}/a.parquet: damaged (")


def test_part_is_one_piece_one_file_or_many_small_files(tmp_path, monkeypatch):
    """None is larger than it need be, and no two that could be one are two."""
    for number in range(200):
        write(tmp_path, "word " * (number % 7 + 1), f"small/{number:03}.txt")
    write(tmp_path, "word\n\n" * 2_000, "large.txt")
    write(tmp_path, b"x" * 5_000, "one line.txt")
    small_parts(monkeypatch, 1_000)
    parts = plan([tmp_path])
    names = [source.name for part in parts for source in part.sources]
    assert names == sorted(names) and len(set(names)) == 202
    assert names.count("large.txt") >= 8 and names.count("one line.txt") == 1
    small = [part for part in parts if part.sources[0].name.startswith("small/")]
    sizes = [sum(os.path.getsize(source.path) for source in part.sources) for part in small]
    assert max(sizes) <= 1_000 and all(one + other > 1_000 for one, other in itertools.pairwise(sizes))
    part_names = [part.name for part in parts]
    assert part_names == sorted(set(part_names))
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in part_names)
    assert pickle.loads(pickle.dumps(parts)) == parts == plan([tmp_path])
    monkeypatch.setattr(text_sources, "_PART_FILES", 10)
    assert max(len(part.sources) for part in plan([tmp_path])) == 10


def test_title_of_a_file_whose_name_is_no_text_is_the_same_named_or_found(tmp_path):
    """A title goes into files of UTF-8, which the bytes of such a name do not fit."""
    named = os.fsdecode(os.fsencode(tmp_path / "texts") + b"/caf\xe9.txt")
    (tmp_path / "texts").mkdir()
    Path(named).write_text("Words.\n")
    (found,) = documents_of(tmp_path / "texts", documents=BY_FILE)
    assert documents_of(Path(named), documents=BY_FILE) == [found]
    assert found.title.encode() == b"caf\\xe9"


def test_file_that_is_named_twice_is_read_once(tmp_path):
    path = write(tmp_path, "One.", "deep/a.txt")
    write(tmp_path, "Two.", "b.txt")
    (tmp_path / "link").symlink_to("deep")
    assert texts_of(path, tmp_path, tmp_path / "deep", tmp_path / "link") == ["One.", "Two."]
    assert texts_of(tmp_path, leave_out=[tmp_path / "deep"]) == ["Two."]


# -------------------------------------------------------------------------------------------- saved datasets


def save_dataset(folder: Path, texts: list[str], shards: int = 1) -> Path:
    """As `datasets.Dataset.save_to_disk` does."""
    names = [f"data-{number:05}-of-{shards:05}.arrow" for number in range(shards)]
    for number, name in enumerate(names):
        here = texts[len(texts) * number // shards : len(texts) * (number + 1) // shards]
        write(folder, as_arrow([[text] for text in here]), name)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_split": None}
    write(folder, json.dumps(state), "state.json")
    write(
        folder, json.dumps({"features": {"text": {"dtype": "string", "_type": "Value"}}}), "dataset_info.json"
    )
    return folder


TEXTS = [f"Text {number}." for number in range(50)]


def test_saved_dataset_is_read_without_what_its_library_keeps_beside_it(tmp_path):
    save_dataset(tmp_path / "saved", TEXTS, shards=3)
    write(tmp_path / "saved", as_arrow([["Twice."]]), "cache-0123456789abcdef.arrow")
    write(tmp_path / "saved", as_arrow([["Twice."]]), "cache/tmp.arrow")
    assert texts_of(tmp_path) == texts_of(tmp_path / "saved") == TEXTS
    assert [source.name for source in corpus.find_sources(tmp_path / "saved")] == [
        f"data-0000{number}-of-00003.arrow" for number in range(3)
    ]


def test_missing_shard_of_a_saved_dataset_is_named(tmp_path):
    save_dataset(tmp_path, TEXTS, shards=5)
    (tmp_path / "data-00001-of-00005.arrow").unlink()
    tally = Tally()
    assert texts_of(tmp_path, tally=tally) == TEXTS[:10] + TEXTS[20:]
    assert tally.faults == [f"{tmp_path}/data-00001-of-00005.arrow: unreadable (No such file or directory)"]


def test_training_split_alone_is_read_unless_another_is_named(tmp_path, capsys):
    for number, split in enumerate(("train", "test", "validation")):
        save_dataset(tmp_path / "dict" / split, TEXTS[number : number + 1])
    write(tmp_path / "dict", json.dumps({"splits": ["train", "test", "validation"]}), "dataset_dict.json")
    write(tmp_path / "dict", as_arrow([["Other."]]), "other.arrow")
    assert texts_of(tmp_path) == TEXTS[:1]
    told = capsys.readouterr().out
    assert f"skipped {tmp_path}/dict/test: not the split train\n" in told and "validation" in told
    assert texts_of(tmp_path / "dict" / "test") == TEXTS[1:2]
    write(tmp_path / "dict", json.dumps({"splits": ["all", "test"]}), "dataset_dict.json")
    with pytest.raises(
        UsageError, match=r"of the splits all, test, none of them train; name the folder of one"
    ):
        plan([tmp_path])


@pytest.mark.parametrize(
    "state",
    [
        "",
        "{}",
        "[]",
        '{"_data_files": 7}',
        '{"_data_files": [{}]}',
        '{"_data_files": [{"filename": "../a.arrow"}]}',
    ],
)
def test_description_of_a_saved_dataset_that_makes_no_sense_is_named(state, tmp_path):
    write(tmp_path, as_arrow([["Outside."]]), "a.arrow")
    save_dataset(tmp_path / "saved", TEXTS)
    write(tmp_path / "saved", state, "state.json")
    with pytest.raises(UsageError, match=f"{tmp_path}/saved/state.json: "):
        plan([tmp_path / "saved"])


def test_arrow_file_with_an_index_is_read_too(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"text": pyarrow.array(TEXTS).dictionary_encode()})
    with pyarrow.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    assert texts_of(tmp_path) == TEXTS


def test_every_cut_of_an_arrow_file_is_reported(tmp_path):
    """Also between two batches, where Arrow itself sees nothing amiss."""
    pyarrow = pytest.importorskip("pyarrow")
    whole = as_arrow([[text] for text in TEXTS])
    short = 0
    for size in range(len(whole)):
        path = write(tmp_path, whole[:size], "a.arrow")
        assert inspect_source(Source(str(path), "a")).fault.startswith("damaged ("), size
        with contextlib.suppress(pyarrow.ArrowException, OSError):
            short += pyarrow.ipc.open_stream(whole[:size]).read_all().num_rows < len(TEXTS)
    assert short > 1


def test_flipped_byte_of_an_arrow_file_raises_nothing_that_is_no_fault(tmp_path):
    pytest.importorskip("pyarrow")
    whole, draw = as_arrow([[text] for text in TEXTS]), random.Random(4)
    faults = 0
    for _ in range(400):
        position = draw.randrange(len(whole))
        flipped = whole[:position] + bytes([whole[position] ^ draw.randrange(1, 256)]) + whole[position + 1 :]
        path = write(tmp_path, flipped, "a.arrow")
        try:
            faults += inspect_source(Source(str(path), "a")).fault is not None
        except UsageError:
            # The name or the type of its column.
            faults += 1
    assert faults > 40


def test_column_of_an_arrow_file_is_named_where_it_is_not_there(tmp_path):
    path = write(tmp_path, as_arrow([["x"]]), "a.arrow")
    with pytest.raises(UsageError, match=r"a.arrow: no column 'body'; it has 'id', 'text' \(--text_column\)"):
        documents_of(path, text_column="body")
    with pytest.raises(UsageError, match=r"a.arrow: column 'id' is int64, no text \(--text_column\)"):
        documents_of(path, text_column="id")


# ------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("size", [16_000_000, 100, 1_000])
@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"body": "x"}', r"no 'text' among 'body' \(--text_column\)"),
        ('{"text": 1}', r"'text' is no text \(--text_column\)"),
        ("[1]", "not a JSON object"),
        ("{", r"not JSON \("),
    ],
)
def test_bad_line_of_json_is_named_by_its_number_in_the_file(line, told, size, tmp_path, monkeypatch):
    small_parts(monkeypatch, size)
    lines = [json.dumps({"text": f"Text {number}."}) for number in range(500)]
    lines[77] = ""
    lines[432] = line
    path = write(tmp_path, "\n".join(lines), "a.jsonl")
    with pytest.raises(UsageError, match=rf"^{path}: line 433: {told}"):
        documents_of(path)


def test_text_that_is_not_utf8_is_skipped_by_name_and_strict_stops(tmp_path):
    latin1 = "Une phrase française.".encode("latin-1")
    write(tmp_path, "One.", "a.txt")
    write(tmp_path, b"Fine.\n\n" + latin1, "b.txt")
    write(tmp_path, as_zip({"c.txt": latin1, "d.txt": b"Two."}), "c.zip")
    write(tmp_path, '{"text": "fran\u00e7ais"}'.encode("latin-1"), "d.jsonl")
    tally = Tally()
    assert texts_of(tmp_path, tally=tally) == ["One.", "Two."]
    assert tally == Tally(
        skipped=[
            (f"{tmp_path}/b.txt", "not UTF-8"),
            (f"{tmp_path}/c.zip/c.txt", "not UTF-8"),
            (f"{tmp_path}/d.jsonl", "not UTF-8"),
        ]
    )
    with pytest.raises(UsageError, match=f"--strict: {tmp_path}/b.txt: not UTF-8"):
        documents_of(tmp_path, strict=True)


def test_piece_that_is_not_utf8_is_skipped_and_the_others_are_read(tmp_path, monkeypatch):
    small_parts(monkeypatch, 1_000)
    texts = [f"Text {number}." for number in range(300)]
    content = "\n\n".join(texts).encode().replace(b"Text 150.", b"Text \xe9.")
    path = write(tmp_path, content, "a.txt")
    tally = Tally()
    kept = texts_of(path, tally=tally)
    ((name, reason),) = tally.skipped
    start, end = map(int, re.fullmatch(rf"{path} \(bytes (\d+) to (\d+)\)", name).groups())
    assert reason == "not UTF-8" and start < content.index(b"\xe9") < end
    assert kept == (content[:start] + content[end:]).decode().split("\n\n")


def test_damaged_file_is_a_fault_and_costs_no_other(tmp_path):
    whole = gzip.compress(as_text(DOCUMENTS[0]))
    write(tmp_path, whole[: len(whole) // 2], "a.txt.gz")
    write(tmp_path, "Fine.", "b.txt")
    (tmp_path / "c.txt").symlink_to("nowhere")
    tally = Tally()
    assert texts_of(tmp_path, tally=tally) == ["Fine."]
    damaged, dangling = tally.faults
    assert damaged.startswith(f"{tmp_path}/a.txt.gz: damaged (")
    assert dangling == f"{tmp_path}/c.txt: unreadable (No such file or directory)"
    assert not tally.skipped


def test_archive_that_writes_outside_or_links_is_read_without_that(tmp_path):
    link = tarfile.TarInfo("link.txt")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    files = {"../up.txt": b"Secret.", "/root.txt": b"Secret.", "a.txt": b"Text."}
    path = write(tmp_path, gzip.compress(as_tar(files, link)), "a.tar.gz")
    tally = Tally()
    assert texts_of(path, tally=tally) == ["Text."]
    assert dict(tally.skipped) == {
        f"{path}/../up.txt": "a name outside",
        f"{path}//root.txt": "a name outside",
        f"{path}/link.txt": "a link",
    }
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tar.gz"], "nothing is unpacked"


def test_archive_that_expands_beyond_measure_is_refused(tmp_path):
    path = write(tmp_path, zstandard.compress(b"Text.\n\n" * 30_000_000), "a.tar.zst")
    write(tmp_path, zstandard.compress(as_tar({"a.txt": bytes(150_000_000)})), "a.tar.zst")
    tally = Tally()
    assert texts_of(path, tally=tally) == []
    assert tally.skipped == [(str(path), "refused (more than 200 times its size when unpacked)")]


def test_loops_of_links_end(tmp_path):
    write(tmp_path, "One.", "in/a.txt")
    (tmp_path / "in" / "up").symlink_to("..")
    (tmp_path / "in" / "self").symlink_to("self")
    (tmp_path / "in" / "b.txt").symlink_to("b.txt")
    tally = Tally()
    assert texts_of(tmp_path, tally=tally) == ["One."]
    assert tally.faults == [f"{tmp_path}/in/b.txt: unreadable (Too many levels of symbolic links)"]
    with pytest.raises(UsageError, match=r"self: no such file or folder"):
        plan([tmp_path / "in" / "self"])


def test_input_that_cannot_be_is_named_with_its_flag(tmp_path):
    with pytest.raises(UsageError, match=f"--input_files {tmp_path}/none: no such file or folder"):
        plan([tmp_path / "none"])
    with pytest.raises(
        UsageError, match=rf"--input_files {tmp_path}: holds no \.txt, \.jsonl, \.parquet, \.arrow"
    ):
        plan([tmp_path])
    with pytest.raises(UsageError, match=rf"--input_files {tmp_path}/a.pdf: is no \.txt"):
        plan([write(tmp_path, "x", "a.pdf")])


# ---------------------------------------------------------------------------------------------------- memory

# What the process itself has held at most, in kB: ru_maxrss begins with what the one that started it held.
PEAK = """
import sys
from data.documents import Tally
from data.text_sources import plan, read
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
if sys.argv[1].endswith(("parquet", "arrow")): import pyarrow.parquet
before = peak()
parts = plan([sys.argv[1]], documents=sys.argv[2])
characters = sum(len(document.text) for part in parts for document in read(part, Tally()))
print(characters, peak() - before)
"""


def characters_and_memory(path: Path, documents: str) -> tuple[int, int]:
    command = [sys.executable, "-c", PEAK, str(path), documents]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    characters, kilobytes = map(int, result.stdout.split())
    return characters, kilobytes


@pytest.mark.parametrize("documents", [BY_BLANK_LINE, BY_FILE])
@pytest.mark.parametrize("unit", ["word ", "x"])
def test_one_line_of_any_length_is_read_in_bounded_memory(unit, documents, tmp_path):
    chunk = unit.encode() * (2_000_000 // len(unit))
    with open(tmp_path / "a.txt", "wb") as stream:
        for _ in range(100):
            stream.write(chunk)
    characters, kilobytes = characters_and_memory(tmp_path / "a.txt", documents)
    os.unlink(tmp_path / "a.txt")
    # A line feed between two of its parts, or two documents, stands for a space, if there was one.
    assert 199_990_000 < characters < 200_010_000
    assert kilobytes < 60_000


@pytest.mark.parametrize("name", ["a.arrow", "a.jsonl"])
@pytest.mark.slow
def test_many_records_are_read_in_bounded_memory(name, tmp_path):
    """100 MB in batches of a thousand records, as `datasets` writes them."""
    draw = random.Random(6)
    texts = [[" ".join(f"{draw.getrandbits(60):x}" for _ in range(60))] for _ in range(100_000)]
    write(tmp_path, as_arrow(texts, batch_rows=1_000) if name == "a.arrow" else as_json_lines(texts), name)
    characters, kilobytes = characters_and_memory(tmp_path / name, BY_BLANK_LINE)
    os.unlink(tmp_path / name)
    assert characters == sum(len(text) for (text,) in texts) > 90_000_000
    assert kilobytes < 40_000


def test_files_of_other_kinds_are_told_once_for_all_inputs(tmp_path, capsys):
    for name in ("one/a.txt", "one/b.pdf", "two/C.TXT", "two/d.json", "two/e.PDF", "two/.f.json"):
        write(tmp_path, "Text.", name)
    assert texts_of(tmp_path / "one", tmp_path / "two") == ["Text.", "Text."]
    told = "3 files of other kinds are not read: .pdf 2, .json 1\n"
    assert capsys.readouterr().out == told


def test_a_large_file_is_cut_whatever_the_case_of_its_ending(tmp_path, monkeypatch):
    small_parts(monkeypatch, 100)
    for name in ("a.txt", "A.TXT"):
        content = "\n\n".join(f"Document {number} has these words." for number in range(20))
        path = write(tmp_path / name, content, name)
        assert len(plan([path])) == 5
        assert texts_of(path) == content.split("\n\n")
