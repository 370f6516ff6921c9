"""The same documents as text, records and archives give the same documents and shards; bad ones are named."""

import gzip
import hashlib
import io
import json
import lzma
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import zstandard
from corpus_forms import (
    DOCUMENTS,
    FLAT,
    FORMS,
    as_json_lines,
    as_parquet,
    as_tar,
    as_text,
    as_zip,
    openwebtext,
    text_files,
)

import corpus
import corpus_files
import corpus_records
from command_line import UsageError
from corpus import Source, find_sources, inspect_source, read_blocks
from corpus_files import kind_of
from tokenization import SPECIAL_PIECES, Vocabulary, load_vocabulary

ROOT = Path(__file__).parents[1]
BUILD = "build_pretraining_dataset.py"


def write(folder: Path, content: bytes, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def inspect(path: Path) -> corpus.SourceInspection:
    return inspect_source(Source(str(path), path.name))


def documents_of(path: Path, blanks_separate_docs: bool = True, **options) -> list[list[str]]:
    blocks = read_blocks(str(path), blanks_separate_docs, **options)
    return [corpus.as_sentences(document) for block in blocks for document in block]


def usable_documents(path: Path) -> list[list[str]]:
    """What a build takes of a source: all but the members that its inspection left out."""
    (source,) = corpus.usable_sources([Source(str(path), path.name)], [inspect(path)], "corpus", False)
    return documents_of(path, left_out=source.left_out)


# ----------------------------------------------------------------------------------------- the same documents


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_documents_that_were_written(name, tmp_path):
    path = write(tmp_path, FORMS[name](), name)
    found = inspect(path)
    assert (found.fault, found.skipped) == (None, ())
    assert found.bytes == path.stat().st_size
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert documents_of(path) == FLAT
    assert [source.name for source in find_sources(tmp_path)] == [name]


def test_text_file_in_an_archive_is_a_document_of_its_own(tmp_path):
    """OpenWebText's files are documents with blank lines between their paragraphs; records always are."""
    whole = [[line for document in file for line in document] for file in DOCUMENTS]
    for name in ("a.tar.gz", "openwebtext.tar.xz"):
        assert documents_of(write(tmp_path, FORMS[name](), name), blanks_separate_docs=False) == whole
    assert documents_of(write(tmp_path, as_json_lines(FLAT), "a.jsonl"), blanks_separate_docs=False) == FLAT


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("One here. Two there.\nA heading\n\nThree.", ["One here.", "Two there.", "A heading", "Three."]),
        ("One\r\ntwo\rthree", ["One", "two", "three"]),
        ("  Dr. Smith came.\t He left.  ", ["Dr. Smith came.", "He left."]),
        ("half \ud83d of a pair", ["half \ufffd of a pair"]),
        ("pair \U0001f600", ["pair \U0001f600"]),
    ],
)
def test_lines_of_a_record_are_split_into_sentences(text, lines, tmp_path):
    path = write(tmp_path, json.dumps({"text": text}).encode(), "a.jsonl")
    assert documents_of(path) == [lines]


def test_empty_record_is_no_document(tmp_path):
    records = [{"text": text} for text in ("", None, " \n\t\n", "One.", "")]
    content = b"\xef\xbb\xbf" + b"\n \n".join(json.dumps(record).encode() for record in records)
    assert documents_of(write(tmp_path, content, "a.jsonl")) == [["One."]]
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"text": [record["text"] for record in records]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert documents_of(tmp_path / "a.parquet") == [["One."]]
    assert documents_of(write(tmp_path, b"", "b.jsonl")) == []
    assert inspect(tmp_path / "b.jsonl").fault is None


def test_column_of_any_string_type_is_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for number, kind in enumerate(
        [pyarrow.string(), pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())]
    ):
        column = pyarrow.array(["One.", "Two.", "One."]).cast(kind)
        path = tmp_path / f"{number}.parquet"
        parquet.write_table(pyarrow.table({"content": column, "text": [1, 2, 3]}), path)
        assert documents_of(path, text_column="content") == [["One."], ["Two."], ["One."]]


def test_files_that_hold_no_text_are_not_taken_for_text():
    names = "a.json a.txt.lz4 a.parquet.gz a.zip.gz .a.jsonl a.md.xz xz .xz tar a.tar.gz.part jsonl .a.TXT"
    assert not [name for name in names.split() if kind_of(name)]


@pytest.mark.parametrize("name", FORMS)
def test_endings_are_known_in_capitals_too(name, tmp_path):
    path = write(tmp_path, FORMS[name](), name.upper())
    assert inspect(path).left_out() == []
    assert documents_of(path) == FLAT
    assert [source.name for source in find_sources(tmp_path)] == [name.upper()]
    assert kind_of(name.upper()) == kind_of(name)


def test_an_empty_file_of_text_is_no_damage_whatever_its_case(tmp_path):
    assert inspect(write(tmp_path, b"", "A.JSONL")).fault is None
    assert inspect(write(tmp_path, b"", "A.ZIP")).fault.startswith("damaged (")


def test_files_of_other_kinds_are_counted_by_their_endings(tmp_path):
    """Not those that are hidden, are left out, or lie in what is left out."""
    names = ["a.txt", "b.JSON", "c/d.json", "e.pdf", "notes", "c/f. Of two", "g.txt.lz4", "vocab.json"]
    for name in [*names, ".hidden", ".git/objects/h.py"]:
        write(tmp_path, b"Text.", name)
    write(tmp_path, b"Text.", "out/manifest.json")
    others = Counter()
    find_sources(tmp_path, [tmp_path / "out", tmp_path / "vocab.json"], others=others)
    assert others == {".json": 2, ".pdf": 1, ".lz4": 1, "": 2}


# ------------------------------------------------------------------------------------------- through programs


@pytest.fixture(scope="module")
def vocab_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    letters = sorted({letter for document in FLAT for line in document for letter in line if letter != " "})
    Vocabulary((*SPECIAL_PIECES, *letters, *(f"##{c}" for c in letters)), do_lower_case=False).save(path)
    return path


def build(run_program, vocab_file: Path, text: Path, output: Path, *more):
    words = ["--corpus-dir", text, "--vocab-file", vocab_file, "--output-dir", output]
    return run_program(BUILD, *words, "--max-seq-length", 64, "--num-out-files", 3, *more)


def shards_of(folder: Path) -> dict[str, str]:
    paths = sorted(folder.rglob("pretrain_data*"))
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


@pytest.fixture(scope="module")
def expected(vocab_file, tmp_path_factory, run_program) -> Path:
    """The shards of a tree of text files."""
    folder = tmp_path_factory.mktemp("text")
    for name, content in text_files().items():
        write(folder / "text", content, name)
    result = build(run_program, vocab_file, folder / "text", folder / "out", "--held-out-fraction", 0.2)
    assert result.returncode == 0, result.stderr
    return folder / "out"


@pytest.mark.parametrize(
    ("name", "processes"),
    [("a.jsonl", 1), ("a.parquet", 2), ("mixed.tar.gz", 1), ("a.zip", 2), ("openwebtext.tar.xz", 3)],
)
def test_every_form_gives_the_same_shards_for_any_number_of_processes(
    name, processes, expected, vocab_file, tmp_path, run_program
):
    path = write(tmp_path / "text", FORMS[name](), name)
    more = ["--held-out-fraction", 0.2, "--num-processes", processes]
    result = build(run_program, vocab_file, path.parent, tmp_path / "out", *more)
    assert result.returncode == 0, result.stderr
    assert shards_of(tmp_path / "out") == shards_of(expected) and len(shards_of(expected)) == 6
    manifest, of_text = (
        json.loads((folder / "manifest.json").read_text()) for folder in (tmp_path / "out", expected)
    )
    assert manifest["sources"] == [
        {
            "name": name,
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
    ]
    assert manifest["settings"] == of_text["settings"] | {"text_column": "text"}
    assert "text_column" not in of_text["settings"], "folders of text files stay as they were"
    again = build(run_program, vocab_file, path.parent, tmp_path / "out", "--held-out-fraction", 0.2)
    assert "nothing to do" in again.stdout


def test_programs_say_once_what_of_a_folder_they_do_not_read(vocab_file, tmp_path, run_program):
    """Nothing of hidden files, the vocabulary and what lies beside it, and their own results."""
    text = tmp_path / "text"
    for name in ["A.TXT", "b.json", "c.json", "d.pdf", ".git/e.py"]:
        write(text, as_text(FLAT), name)
    Vocabulary(load_vocabulary(str(vocab_file)).pieces, do_lower_case=False).save(text / "vocab.txt")
    told = "3 files of other kinds are not read: .json 2, .pdf 1\n"
    result = build(run_program, text / "vocab.txt", text, text / "out", "--num-processes", 2)
    assert result.returncode == 0, result.stderr
    assert (result.stdout + result.stderr).count("other kinds") == 1 and told in result.stdout
    assert [source["name"] for source in json.loads((text / "out/manifest.json").read_text())["sources"]] == [
        "A.TXT"
    ]
    shutil.rmtree(text / "out")
    result = run_program(
        "build_vocabulary.py", "--corpus-dir", text, "--vocab-size", 200, "--output", text / "vocab.txt"
    )
    assert result.returncode == 0 and result.stdout.count(told) == 1, result.stdout + result.stderr
    for name in ("b.json", "c.json", "d.pdf"):
        (text / name).unlink()
    result = build(run_program, text / "vocab.txt", text, text / "out")
    assert result.returncode == 0 and "other kinds" not in result.stdout


def test_vocabulary_is_the_same_from_every_form(tmp_path, run_program):
    vocabularies = set()
    forms = {
        "a.txt": as_text(FLAT),
        "b.jsonl": as_json_lines(FLAT, "content"),
        "c.tar": as_tar({**text_files(), "latin.txt": b"\xe9"}),
        "openwebtext.tar.xz": openwebtext(),
    }
    for name, content in forms.items():
        path = write(tmp_path / name / "text", content, name)
        words = ["--corpus-dir", path.parent, "--vocab-size", 200, "--output", tmp_path / name / "v.txt"]
        result = run_program("build_vocabulary.py", *words, "--text-column", "content")
        assert result.returncode == 0, result.stderr
        vocabularies.add((tmp_path / name / "v.txt").read_bytes())
    assert len(vocabularies) == 1


def test_other_column_is_another_setting(vocab_file, tmp_path, run_program):
    record = json.dumps({"text": "One here.", "title": "Two there."}).encode()
    text = write(tmp_path / "text", record, "a.jsonl").parent
    assert build(run_program, vocab_file, text, tmp_path / "out").returncode == 0
    result = build(run_program, vocab_file, text, tmp_path / "out", "--text-column", "title")
    assert result.returncode == 2 and "text_column was text, is now title" in result.stderr


@pytest.mark.slow
def test_killed_build_of_an_archive_goes_on_to_the_same_bytes(vocab_file, tmp_path, run_program):
    """Records of several blocks, a link and a member that is not UTF-8; the second run has another number of
    processes."""
    draw = random.Random(7)
    words = [word for line in FLAT[0] for word in line.split()]
    texts = [[f"{' '.join(draw.choices(words, k=400))}." for _ in range(5)] for _ in range(700)]
    files = {
        "a.jsonl": as_json_lines(texts[:300]),
        "latin.txt": b"\xe9",
        "b.jsonl": as_json_lines(texts[300:]),
    }
    content = gzip.compress(as_tar(files, odd_member("a.txt", tarfile.SYMTYPE, "b.txt")), 1)
    text = write(tmp_path / "text", content, "a.tar.gz").parent
    assert build(run_program, vocab_file, text, tmp_path / "whole").returncode == 0
    words = ["--corpus-dir", text, "--vocab-file", vocab_file, "--output-dir", tmp_path / "out"]
    words += ["--max-seq-length", 64, "--num-out-files", 3]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / BUILD), *map(str, words)], stdout=subprocess.DEVNULL
    )
    while not (done := list((tmp_path / "out").glob(".work/block-*.json"))) and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -9 and done, "the build is too fast to be killed; the test needs more text"
    result = build(run_program, vocab_file, text, tmp_path / "out", "--num-processes", 2)
    assert "going on where an earlier run was stopped" in result.stdout, result.stderr
    whole, out = (
        {path.name: path.read_bytes() for path in folder.iterdir()}
        for folder in (tmp_path / "whole", tmp_path / "out")
    )
    assert out == whole
    skipped = json.loads(whole["manifest.json"])["skipped_sources"]
    assert [entry["name"] for entry in skipped] == ["a.tar.gz/a.txt", "a.tar.gz/latin.txt"]


# ------------------------------------------------------------------------------------------------ bad records


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"{'text': 1}", "not JSON (Expecting property name"),
        (b'{"text": "cut', "not JSON (Unterminated string"),
        (b"[" * 100_000, "not JSON ("),
        (b'["text"]', "not a JSON object"),
        (b'{"body": "x", "id": 3}', "no 'text' among 'body', 'id' (--text_column)"),
        (b"{}", "no 'text' among no keys (--text_column)"),
        (b'{"text": ["x"]}', "'text' is no text (--text_column)"),
    ],
)
def test_line_without_a_text_is_named_by_file_and_number(line, told, tmp_path):
    content = b'{"text": "One."}\n\n' + line + b"\n" + b'{"text": "Two."}\n'
    path = write(tmp_path, content, "a.jsonl")
    with pytest.raises(UsageError) as caught:
        inspect(path)
    assert str(caught.value).startswith(f"{path}: line 3: {told}")
    archive = write(tmp_path, as_zip({"in/b.jsonl": content}), "a.zip")
    with pytest.raises(UsageError) as caught:
        inspect(archive)
    assert str(caught.value).startswith(f"{archive}/in/b.jsonl: line 3: {told}")


def test_bad_line_stops_both_programs_in_one_line(vocab_file, tmp_path, usage_error):
    path = write(tmp_path / "text", b'{"text": "One."}\n{"body": "x"}\n', "a.jsonl")
    told = f"{path}: line 2: no 'text' among 'body' (--text_column)"
    words = ["--corpus-dir", path.parent, "--vocab-file", vocab_file, "--output-dir", tmp_path / "out"]
    assert usage_error(BUILD, *words).endswith(told)
    words = ["--corpus-dir", path.parent, "--output", tmp_path / "v.txt"]
    assert usage_error("build_vocabulary.py", *words).endswith(told)
    assert not list((tmp_path / "out").iterdir())


def test_parquet_without_the_column_is_named_with_those_that_it_has(vocab_file, tmp_path, usage_error):
    path = write(tmp_path / "text", as_parquet(FLAT, "body"), "a.parquet")
    words = ["--corpus-dir", path.parent, "--vocab-file", vocab_file, "--output-dir", tmp_path / "out"]
    assert usage_error(BUILD, *words).endswith(
        f"{path}: no column 'text'; it has 'id', 'body' (--text_column)"
    )
    assert usage_error(BUILD, *words, "--text-column", "id").endswith(
        f"{path}: column 'id' is int64, no text (--text_column)"
    )


def test_record_that_memory_may_not_hold_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_records, "_MAX_RECORD_BYTES", 100)
    path = write(tmp_path, json.dumps({"text": "x" * 80}).encode() + b"\n", "a.jsonl")
    assert inspect(path).fault is None and len(path.read_bytes()) < 100
    path = write(tmp_path, json.dumps({"text": "x" * 100}).encode() + b"\n", "a.jsonl")
    with pytest.raises(UsageError, match="line 1: longer than 100 bytes"):
        inspect(path)


def test_records_that_are_not_utf8_are_reported_as_text_is(tmp_path):
    path = write(tmp_path, '{"text": "français"}'.encode("latin-1"), "a.jsonl")
    assert inspect(path).fault == "not UTF-8"
    content = as_parquet([["letters"]], compression="none", use_dictionary=False, write_statistics=False)
    assert content.count(b"letters") == 1
    path = write(tmp_path, content.replace(b"letters", b"\xe9etters"), "a.parquet")
    assert inspect(path).fault == "not UTF-8"


# --------------------------------------------------------------------------------------------------- archives


def odd_member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_links_devices_and_names_outside_are_left_out_and_named(vocab_file, tmp_path, run_program):
    odd = [
        odd_member("soft.txt", tarfile.SYMTYPE, "/etc/passwd"),
        odd_member("hard.txt", tarfile.LNKTYPE, "a.txt"),
        odd_member("pipe.txt", tarfile.FIFOTYPE),
        odd_member("null.txt", tarfile.CHRTYPE),
        odd_member("folder.txt", tarfile.DIRTYPE),
    ]
    files = {"../up.txt": b"Secret.", "/root.txt": b"Secret.", "a/../b.txt": b"Secret.", "a.txt": b"Text."}
    files["latin.txt"] = b"\xe9"
    path = write(tmp_path / "text", gzip.compress(as_tar(files, *odd)), "a.tar.gz")
    links = {
        "a.tar.gz/latin.txt": "not UTF-8",
        "a.tar.gz/soft.txt": "a link",
        "a.tar.gz/hard.txt": "a link",
        "a.tar.gz/pipe.txt": "a device",
        "a.tar.gz/null.txt": "a device",
        "a.tar.gz/../up.txt": "a name outside",
        "a.tar.gz//root.txt": "a name outside",
        "a.tar.gz/a/../b.txt": "a name outside",
    }
    assert dict(inspect(path).left_out()) == links
    assert usable_documents(path) == [["Text."]]
    result = build(run_program, vocab_file, path.parent, tmp_path / "out")
    assert result.returncode == 0, result.stderr
    for name, reason in links.items():
        assert f"skipped {path.parent}/{name}: {reason}\n" in result.stdout
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {entry["name"]: entry["reason"] for entry in manifest["skipped_sources"]} == links
    strict = build(run_program, vocab_file, path.parent, tmp_path / "strict", "--strict")
    assert strict.returncode == 2 and f"--strict: {path}/soft.txt: a link" in strict.stderr


def test_links_and_encrypted_members_of_a_zip_are_left_out_and_named(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("link.txt")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("../up.txt", "Secret.")
        archive.writestr("a.txt", "Text.")
        archive.writestr("locked.txt", "Secret.")
        archive.infolist()[-1].flag_bits |= 1
    assert dict(inspect(path).left_out()) == {
        "a.zip/link.txt": "a link",
        "a.zip/../up.txt": "a name outside",
        "a.zip/locked.txt": "encrypted",
    }
    assert usable_documents(path) == [["Text."]]


def test_name_that_would_write_to_the_terminal_is_escaped(tmp_path):
    path = write(tmp_path, as_tar({"a\n\x1b[2J.txt": b"\xff", "b.txt": b"Text."}), "a.tar")
    assert inspect(path).left_out() == [("a.tar/a\\n\\x1b[2J.txt", "not UTF-8")]


@pytest.mark.parametrize("pack", [as_tar, as_zip])
def test_bad_member_is_left_out_and_the_others_are_read(pack, tmp_path):
    """Found by its place, so that a good one of the same name is read; a damaged archive within is one."""
    good = as_text(DOCUMENTS[0])
    files = {
        "latin.txt": b"caf\xe9\n",
        "0.txt": good,
        "cut.txt.gz": gzip.compress(good)[:-3],
        "inner.tar.gz": gzip.compress(as_tar({"x.txt": b"Lost.", "y.txt": good}), mtime=0)[:-40],
        "nothing.tar.xz": b"",
        "inner.zip": as_zip({"1.txt": as_text(DOCUMENTS[1]), "latin.txt": b"\xe9", "deep.tar": as_tar({})}),
        "2.txt": as_text(DOCUMENTS[2]),
    }
    path = write(tmp_path, pack(files), "a.tar" if pack is as_tar else "a.zip")
    reasons = dict(inspect(path).left_out())
    prefix = path.name
    assert reasons.pop(f"{prefix}/latin.txt") == reasons.pop(f"{prefix}/inner.zip/latin.txt") == "not UTF-8"
    assert "archive within" in reasons.pop(f"{prefix}/inner.zip/deep.tar")
    assert set(reasons) == {f"{prefix}/{name}" for name in ("cut.txt.gz", "inner.tar.gz", "nothing.tar.xz")}
    assert all(reason.startswith("damaged (") for reason in reasons.values())
    assert usable_documents(path) == DOCUMENTS[0] + DOCUMENTS[1] + DOCUMENTS[2]


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.zst", "a.tar.xz", "a.zip", "a.parquet"])
def test_cut_archive_is_reported_wherever_it_is_cut(name, tmp_path):
    """But for the zeros that fill up a tar after its end."""
    whole = FORMS[name]()
    size = len(whole.rstrip(b"\0")) if name == "a.tar" else len(whole)
    draw = random.Random(3)
    for cut in [0, 1, 511, 512, size - 1, *(draw.randrange(size) for _ in range(60))]:
        assert (inspect(write(tmp_path, whole[:cut], name)).fault or "").startswith("damaged ("), cut


@pytest.mark.parametrize(
    "name", ["a.tar.gz", "a.tar.xz", "a.zip", "a.tar", "openwebtext.tar.xz", "a.parquet"]
)
def test_flipped_byte_never_gives_other_documents_of_a_checked_archive(name, tmp_path):
    """Nothing is raised that is no fault; where a checksum covers the text, it is whole or left out."""
    whole, draw = FORMS[name](), random.Random(4)
    checked = name not in ("a.tar", "a.parquet")
    known = {tuple(document) for document in FLAT}
    faults = 0
    for _ in range(150):
        position = draw.randrange(len(whole))
        flipped = whole[:position] + bytes([whole[position] ^ draw.randrange(1, 256)]) + whole[position + 1 :]
        path = write(tmp_path, flipped, name)
        try:
            found = inspect(path)
        except UsageError:
            assert name == "a.parquet", "the name of its column"
            continue
        faults += bool(found.left_out())
        if found.fault is None and checked:
            assert {tuple(document) for document in usable_documents(path)} <= known
    assert faults > (75 if checked else 0)


def test_end_of_what_a_tar_is_compressed_in_is_looked_at(tmp_path):
    """The checksum comes after the tar's own end, and here after a read that ended just there."""
    content = random.Random(8).randbytes(160_000).hex().encode()
    tar = as_tar({"a.txt": content})
    assert len(tar) % corpus_files._READ_BYTES == 0
    whole = gzip.compress(tar)
    assert inspect(write(tmp_path, whole, "a.tar.gz")).fault is None
    for end in (whole[-4:-1], b""):
        assert inspect(write(tmp_path, whole[:-4] + end, "a.tar.gz")).fault.startswith("damaged (")


def test_archive_whose_reading_failed_once_is_never_trusted_again(tmp_path, monkeypatch):
    """What follows the damage might look whole."""

    class FailsOnce(io.BytesIO):
        failed = False

        def read(self, size: int = -1) -> bytes:
            if self.tell() and not self.failed:
                self.failed = True
                raise EOFError("once")
            return super().read(size)

    content = as_tar({"a.txt": b"Text.\n" * 50_000, "b.txt": b"Text."})
    path = write(tmp_path, content, "a.tar")
    assert inspect(path).left_out() == []
    monkeypatch.setattr(corpus_files, "open_binary", lambda path: FailsOnce(content))
    assert inspect(path).fault == "damaged (once)"


def test_xz_may_be_joined_and_filled_up_with_zeros(tmp_path):
    parts = [lzma.compress(as_text([document]) + b"\n\n") for document in FLAT]
    path = write(tmp_path, (b"\0" * 2048).join(parts) + b"\0" * 4, "a.txt.xz")
    assert inspect(path).fault is None and documents_of(path) == FLAT
    assert inspect(write(tmp_path, parts[0] + b"more", "a.txt.xz")).fault.startswith("damaged (")


def test_tar_with_a_damaged_header_in_its_midst_is_no_short_tar(tmp_path):
    """Python's own reader takes it for the end."""
    whole = bytearray(as_tar(text_files()))
    second = whole.index(b"folder/1.txt")
    whole[second] ^= 1
    path = write(tmp_path, bytes(whole), "a.tar")
    with tarfile.open(path) as tar:
        assert tar.getnames() == ["folder/0.txt"]
    assert inspect(path).fault.startswith("damaged (")


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_tars_that_are_joined_are_read_to_the_last(name, tmp_path):
    """As `cat` joins them, one without a member among them; a global header is that of its own tar alone."""
    tars = [as_tar({f"{number}.txt": as_text(file)}) for number, file in enumerate(DOCUMENTS)]
    named = io.BytesIO()
    with tarfile.open(fileobj=named, mode="w", pax_headers={"path": "same.md"}) as tar:
        tar.addfile(tarfile.TarInfo("a.txt"))
    content = b"".join([tars[0], as_tar({}), named.getvalue(), *tars[1:]])
    path = write(tmp_path, gzip.compress(content) if name.endswith(".gz") else content, name)
    assert inspect(path).left_out() == []
    assert documents_of(path) == FLAT
    # Zeros may fill up what they lie on, as a tape.
    assert inspect(write(tmp_path, content + bytes(70_001), "b.tar")).left_out() == []
    assert documents_of(tmp_path / "b.tar") == FLAT


def test_a_member_left_out_of_a_joined_tar_is_left_out_by_its_own_place(tmp_path):
    content = as_tar({"a.txt": b"One."}) + as_tar({"a.txt": b"\xe9", "b.txt": b"Two."})
    path = write(tmp_path, content, "a.tar")
    assert inspect(path).left_out() == [("a.tar/a.txt", "not UTF-8")]
    assert usable_documents(path) == [["One."], ["Two."]]


@pytest.mark.parametrize("more", [b"more", b"x" * 512, as_tar({"b.txt": b"Text."})[:700], bytes(100) + b"x"])
def test_what_follows_the_end_of_a_tar_and_is_none_is_a_fault(more, tmp_path):
    path = write(tmp_path, as_tar({"a.txt": b"Text."}) + more, "a.tar")
    assert inspect(path).fault.startswith("damaged (")


def test_tar_whose_header_fills_memory_or_goes_back_is_damaged(tmp_path):
    """An attribute of a terabyte; a size below zero, after which a reader that seeks goes round for ever."""
    attribute = odd_member("a.txt", tarfile.XHDTYPE)
    attribute.size = 1 << 40
    path = write(tmp_path, attribute.tobuf(tarfile.GNU_FORMAT), "a.tar")
    assert inspect(path).fault == "damaged (a header of 1,099,511,627,776 bytes)"
    back = tarfile.TarInfo("a.txt")
    back.size = -1024
    path = write(tmp_path, back.tobuf(tarfile.GNU_FORMAT) + as_tar({"b.txt": b"Text."}), "a.tar")
    assert inspect(path).fault == "damaged (a member that begins within another one)"


def test_archive_without_text_is_named(tmp_path):
    for name, content in (("a.tar", as_tar({"a.md": b"x"})), ("a.zip", as_zip({}))):
        assert inspect(write(tmp_path, content, name)).fault.startswith("holds no .txt, .jsonl")
    assert inspect(write(tmp_path, b"", "a.zip")).fault.startswith("damaged (")


def test_parquet_in_an_archive_is_held_in_memory_to_a_bound(tmp_path, monkeypatch):
    path = write(tmp_path, as_tar({"a.parquet": as_parquet(FLAT), "b.txt": b"Text."}), "a.tar")
    monkeypatch.setattr(corpus_files, "_MAX_SEEKABLE_MEMBER", 1000)
    ((name, reason),) = inspect(path).left_out()
    assert name == "a.tar/a.parquet" and reason == "refused (larger than 1,000 bytes, within an archive)"


# ------------------------------------------------------------------------------------------- bombs and memory

BOMB = 150_000_000
# What the process itself has held at most: ru_maxrss begins with what the process that started it held.
PEAK = """
import sys, corpus
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
"""


def zipped_spaces() -> bytes:
    return as_zip({"a.txt": b"ab\n" * (BOMB // 3)})


def nested_spaces() -> bytes:
    return as_zip({"a.txt": b"Text.", "b.tar.xz": lzma.compress(as_tar({"a.txt": b" " * BOMB}), preset=0)})


def sparse_tar() -> bytes:
    """GNU tar's sparse file: a header alone that stands for 2 GB of zeros."""
    info = tarfile.TarInfo("a.txt")
    info.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.name": "a.txt",
        "GNU.sparse.size": "2000000000",
        "GNU.sparse.numblocks": "1",
        "GNU.sparse.map": "2000000000,0",
    }
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info)
    return stream.getvalue()


def skipped_member() -> bytes:
    """What is not read, because it is no text, is unpacked all the same to come to what follows it."""
    return zstandard.compress(as_tar({"a.bin": bytes(BOMB), "b.txt": b"Text."}))


@pytest.mark.parametrize(
    ("name", "bomb"),
    [
        ("a.zip", zipped_spaces),
        ("b.zip", nested_spaces),
        ("a.tar", sparse_tar),
        ("a.tar.zst", skipped_member),
    ],
)
def test_archive_that_expands_beyond_measure_is_refused_in_little_memory(name, bomb, tmp_path):
    path = write(tmp_path, bomb(), name)
    assert path.stat().st_size < 200_000
    program = (
        "before = peak()\n"
        "found = corpus.inspect_source(corpus.Source(sys.argv[1], 'x'))\n"
        "print(peak() - before, found.fault)\n"
    )
    result = run_python(program, path)
    kilobytes, fault = result.split(maxsplit=1)
    assert fault == "refused (more than 200 times its size when unpacked)\n"
    assert int(kilobytes) < 60_000


def run_python(program: str, *arguments) -> str:
    command = [sys.executable, "-c", PEAK + program, *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_long_text_in_an_archive_is_no_bomb(tmp_path):
    """Real text shrinks less than 200 times, and a small archive may hold what it likes up to 100 MB."""
    path = write(tmp_path, as_zip({"a.txt": b"ab\n" * 10_000_000}), "a.zip")
    assert path.stat().st_size < 30_000_000 / 200
    assert inspect(path).fault is None


@pytest.mark.parametrize("name", ["a.jsonl", "a.tar.gz", "a.parquet"])
def test_memory_is_bounded_whatever_the_size(name, tmp_path):
    """60 or 120 MB of records of 4 kB, read twice, take a process far less than the text."""
    draw = random.Random(6)
    texts = [" ".join(f"{draw.getrandbits(60):x}" for _ in range(256)) + "." for _ in range(200)]
    # Arrow itself takes 30 MB, however large the file.
    path, repeats, most = tmp_path / name, 75, 40_000
    if name == "a.jsonl":
        with open(path, "wb") as stream:
            for _ in range(repeats):
                stream.write(as_json_lines([[text] for text in texts]))
    elif name == "a.tar.gz":
        part = as_json_lines([[text] for text in texts])
        files = {f"{number}.jsonl": part for number in range(repeats)}
        path.write_bytes(gzip.compress(as_tar(files), 1))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        repeats, most = 150, 80_000
        table = pyarrow.table({"text": [f"{number} {text}" for number in range(repeats) for text in texts]})
        parquet.write_table(table, path, use_dictionary=False)
        assert parquet.ParquetFile(path).num_row_groups == 1, "one group holds it all"
    program = (
        "if sys.argv[1].endswith('parquet'): import pyarrow.parquet\n"
        "before = peak()\n"
        "assert not corpus.inspect_source(corpus.Source(sys.argv[1], 'x')).left_out()\n"
        "blocks = corpus.read_blocks(sys.argv[1], True)\n"
        "characters = sum(len(l) for b in blocks for d in map(corpus.as_sentences, b) for l in d)\n"
        "print(characters, peak() - before)\n"
    )
    characters, kilobytes = map(int, run_python(program, path).split())
    os.unlink(path)
    assert characters >= repeats * sum(map(len, texts)) > 55_000_000
    assert kilobytes < most
