"""data/dataPrep.py: from sources to TFRecords, the same bytes whatever the workers and the interruptions."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zstandard
from dask_clusters import DaskCluster
from prepared_corpora import (
    Preparation,
    document,
    dump,
    sentences,
    tree,
    vocabulary,
    write_dump,
    write_texts,
)
from training_runs import ROOT
from wikipedia_cases import towns, write_multistream

import disk_space
import files
import tfrecords
from command_line import UsageError
from data import dataPrep, deduplication, documents, sharding, text_formatting, text_sources
from data.documents import read_documents
from data.executors import LocalBackend

DOCUMENTS = 300
SETTINGS = {"n_training_shards": 6, "n_test_shards": 2, "fraction_test_set": 0.2}


def steps(preparation: Preparation, texts: Path, vocab_file: Path, **settings) -> str:
    """All steps on a user's own texts; returns all output."""
    output = preparation.run("text_formatting", "text", input_files=texts, **settings)
    output += preparation.run("sharding", "text", **SETTINGS, **settings)
    for length in (32, 64):
        output += preparation.run(
            "create_tfrecord_files",
            "text",
            vocab_file=vocab_file,
            max_seq_length=length,
            **SETTINGS,
            **settings,
        )
    return output


@pytest.fixture(scope="module")
def vocab_file(tmp_path_factory) -> Path:
    return vocabulary(tmp_path_factory.mktemp("vocabulary") / "vocab.txt")


@pytest.fixture(scope="module")
def own(tmp_path_factory, vocab_file) -> tuple[Preparation, list[str], Path]:
    """All steps on 300 documents in 5 files, by one process; the preparation, the documents, their folder."""
    folder = tmp_path_factory.mktemp("own")
    texts = write_texts(folder / "texts", 5, DOCUMENTS)
    preparation = Preparation(folder / "working")
    steps(preparation, folder / "texts", vocab_file, n_processes=1)
    return preparation, texts, folder / "texts"


def shards_of(preparation: Preparation, side: str) -> list[Path]:
    manifest = files.read_json(preparation.sharded("text") / "manifest.json")
    return [preparation.sharded("text") / s["name"] for s in manifest["shards"] if s["name"].startswith(side)]


def documents_of(shards: list[Path]) -> list[list[str]]:
    """The documents of text shards, as lists of lines."""
    return [part.splitlines() for shard in shards for part in shard.read_text().rstrip("\n").split("\n\n")]


def test_formatted_text_is_the_sources_documents_in_order(own):
    preparation, texts, _ = own
    folder = preparation.formatted("text")
    manifest = files.read_json(folder / "manifest.json")
    found = [d.text for part in manifest["parts"] for d in read_documents(folder / part["name"])]
    assert found == texts
    assert manifest["documents"] == DOCUMENTS and manifest["dropped"] == {}
    assert manifest["bytes"] == sum(len(text.encode()) for text in texts)


def test_shards_hold_every_document_once_one_sentence_a_line(own):
    preparation, texts, _ = own
    train, test = (documents_of(shards_of(preparation, side)) for side in ("train", "test"))
    assert sorted(train + test) == sorted(sentences(text) for text in texts)
    # Within four standard deviations of a fifth.
    assert abs(len(test) - DOCUMENTS / 5) < 4 * np.sqrt(DOCUMENTS * 0.2 * 0.8)
    in_order = [sentences(text) for text in texts]
    assert train == [document for document in in_order if document in train]


def test_shards_are_of_like_size(own):
    """As near to each other as the longest document allows."""
    preparation, texts, _ = own
    for side, count in (("train", 6), ("test", 2)):
        sizes = [path.stat().st_size for path in shards_of(preparation, side)]
        assert len(sizes) == count
        assert max(sizes) - min(sizes) <= 2 * max(len(text.encode()) for text in texts)


def test_shards_do_not_read_what_lies_before_them(tmp_path, monkeypatch):
    """Of 600 documents in one file, 20 shards read each once, and of the frame that they begin in what is
    before them; otherwise the time would grow with the square of an archive of millions."""
    monkeypatch.setattr(documents, "_FRAME_BYTES", 10_000)
    write_texts(tmp_path / "texts", 1, 600)
    (part,) = text_sources.plan([tmp_path / "texts"])
    folder = tmp_path / "formatted"
    folder.mkdir()
    record = text_formatting.format_part(
        folder / "a.jsonl.zst", part, text_formatting.Formatting("text", "text", {}), None
    )
    frames = text_formatting.load_index(folder / "a.jsonl.zst")["frame"]
    in_largest = max(np.unique(frames, return_counts=True)[1])
    assert record["documents"] == 600 and len(set(frames)) > 10
    plan = sharding.Sharding("text", 20, 5, 0.2, 1, "lines")
    monkeypatch.setattr(sharding, "_SMALLEST_SHARD_BYTES", 1_000)
    (tmp_path / "sharded/.units").mkdir(parents=True)
    nothing = np.zeros(0, deduplication.DUPLICATE)
    units = sharding._plan_shards([folder / "a.jsonl.zst"], nothing, plan, tmp_path / "sharded")
    assert len(units) == 25
    taken = []
    read = documents.read_documents
    monkeypatch.setattr(
        sharding, "read_documents", lambda *place: (taken.append(d) or d for d in read(*place))
    )
    written = 0
    for unit in units:
        written += sharding.write_shard(tmp_path / "shard.txt", *unit.arguments)["documents"]
    assert written == 600
    # Each document is met on its way to the training shards and to the test shards.
    assert len(taken) <= 2 * 600 + len(units) * in_largest


def test_shards_of_more_parts_than_files_may_be_open_are_planned(tmp_path, monkeypatch):
    """English Wikipedia has 2,000 parts, where the usual limit is 1,024."""
    parts = [tmp_path / f"{number:04}.jsonl.zst" for number in range(40)]
    for number, part in enumerate(parts):
        index = np.array([(number, 100, 0)] * number, text_formatting.INDEX_TYPE)
        np.save(text_formatting.index_path(part), index)
    (tmp_path / "sharded/.units").mkdir(parents=True)
    plan = sharding.Sharding("text", 1, 1, 0.0, 1, "lines")
    nothing = np.zeros(0, deduplication.DUPLICATE)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
    try:
        (unit,) = sharding._plan_shards(parts, nothing, plan, tmp_path / "sharded")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert unit.weight == 100 * sum(range(40))
    # The first part has no document.
    assert [piece.end - piece.begin for piece in unit.arguments[0]] == list(range(1, 40))


def test_a_file_of_documents_is_read_from_any_frame_and_tells_its_damage(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "_FRAME_BYTES", 5_000)
    written = [documents.TextDocument(f"{number}", document(number)) for number in range(100)]
    path = tmp_path / "a.jsonl.zst"
    with documents.DocumentFile(path) as target:
        frames = [target.write(each) for each in written]
    assert list(read_documents(path)) == written and len(set(frames)) > 5
    for frame in set(frames):
        assert list(read_documents(path, frame)) == written[frames.index(frame) :]
    # The format's own program reads it, too.
    assert subprocess.run(["zstd", "-tq", path]).returncode == 0 if shutil.which("zstd") else True
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    with pytest.raises(zstandard.ZstdError):
        list(read_documents(path))


def test_tfrecords_are_those_of_build_pretraining_dataset_on_the_shards(own, vocab_file, tmp_path):
    """The program that reads a folder of text makes the same examples of the text shards."""
    preparation, _, _ = own
    for length in (32, 64):
        subprocess.run(
            [
                sys.executable,
                str(ROOT / "build_pretraining_dataset.py"),
                f"--corpus-dir={preparation.sharded('text') / 'train'}",
                f"--vocab-file={vocab_file}",
                f"--output-dir={tmp_path / str(length)}",
                f"--max-seq-length={length}",
                "--num-out-files=6",
                "--seed=12345",
            ],
            check=True,
        )
        folder = preparation.tfrecords("text", length) / "train"
        ours = tfrecords.Shards(tfrecords.find_shards(str(folder), "x"), flag="x")
        theirs = tfrecords.Shards(tfrecords.find_shards(str(tmp_path / str(length)), "x"), flag="x")
        assert len(ours) == len(theirs) > DOCUMENTS / 2
        assert all(ours.read(number) == theirs.read(number) for number in range(len(ours)))
        manifest, other = (tfrecords.read_manifest(f) for f in (folder, tmp_path / str(length)))
        for name in (
            "documents",
            "examples",
            "tokens",
            "cut_off_share",
            "padding_share",
            "unknown_share",
            "vocabulary_sha256",
        ):
            assert manifest[name] == other[name], name


def test_every_output_folder_has_a_manifest_and_a_card(own):
    preparation, _, texts = own
    for length in (32, 64):
        for side in ("train", "test"):
            folder = preparation.tfrecords("text", length) / side
            manifest, card = files.read_json(folder / "manifest.json"), (folder / "DATA_CARD.md").read_text()
            assert f"{manifest['tokens']:,}" in card and f"{manifest['examples']:,}" in card
            assert all(path.name in card for path in texts.iterdir())


def test_steps_that_are_complete_do_nothing(own, vocab_file):
    preparation, _, texts = own
    before = tree(preparation.working)
    output = steps(preparation, texts, vocab_file, n_processes=2)
    assert output.count("complete already, nothing to do") == 4
    assert tree(preparation.working) == before


def test_other_settings_and_changed_sources_are_refused_by_name(own, vocab_file, tmp_path):
    preparation, _, texts = own
    output = preparation.run("text_formatting", "text", expect=2, input_files=texts, clean="control")
    assert "clean was [], is now ['control']" in output.splitlines()[-1]
    output = preparation.run("sharding", "text", expect=2, **SETTINGS, segmentation_method="lines")
    assert "segmentation_method was sentencex, is now lines" in output
    changed = tmp_path / "texts"
    changed.mkdir()
    for path in texts.iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    (changed / "text_002.txt").write_text("Other words.\n")
    output = preparation.run("text_formatting", "text", expect=2, input_files=changed)
    assert "text_002.txt has changed, 1 such" in output
    wrong = vocabulary(tmp_path / "vocab.txt")
    wrong.write_text(wrong.read_text() + "##zz\n")
    output = preparation.run(
        "create_tfrecord_files", "text", expect=2, vocab_file=wrong, max_seq_length=32, **SETTINGS
    )
    assert "vocabulary_sha256 was" in output


def test_a_changed_evaluation_file_is_refused_by_name(tmp_path):
    write_texts(tmp_path / "texts", 1, 3)
    evaluation = tmp_path / "questions.txt"
    evaluation.write_text(document(1))
    preparation = Preparation(tmp_path / "working")
    settings = {"input_files": tmp_path / "texts", "decontaminate_against": evaluation}
    output = preparation.run("text_formatting", "text", **settings)
    assert "left out 1 evaluation" in output
    evaluation.write_text(document(2))
    output = preparation.run("text_formatting", "text", expect=2, **settings)
    assert "evaluation file questions.txt was " in output.splitlines()[-1]


def test_workers_get_absolute_paths(tmp_path, monkeypatch):
    """Those of a cluster were started in other folders."""
    write_texts(tmp_path / "texts", 1, 1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_PREP_WORKING_DIR", "working")
    given = []
    monkeypatch.setattr(dataPrep, "format_text", lambda *arguments: given.append(arguments))
    flags = ["--action=text_formatting", "--dataset=text", "--input_files=texts, other"]
    monkeypatch.setattr(sys, "argv", ["dataPrep.py", *flags, "--decontaminate_against=dev.json"])
    dataPrep.main()
    ((inputs, formatting, folder, *_),) = given
    assert inputs == (str(tmp_path / "texts"), str(tmp_path / "other"))
    assert formatting.decontaminate_against == (str(tmp_path / "dev.json"),)
    assert folder == tmp_path / "working/formatted_one_article_per_line/text"


@pytest.fixture
def places(tmp_path, monkeypatch):
    """What --input_files names, by what is in a folder: places("a, b", names in the folder)."""
    monkeypatch.chdir(tmp_path)

    def named(words: str, *there: str) -> list[str]:
        for name in there:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).touch()
        return [os.path.relpath(path) for path in dataPrep._paths(words, "input_files")]

    return named


@pytest.mark.parametrize(
    ("words", "there", "expected"),
    [
        ("a, b", [], ["a", "b"]),
        ("a,b", ["a", "a,b"], ["a,b"]),
        ("a, b, c", ["a", "b", "a, b, c"], ["a, b, c"]),
        ("my, texts/a, b.txt, c", ["my, texts/a, b.txt"], ["my, texts/a, b.txt", "c"]),
        ("my, texts/a.txt,my, texts/b.txt", ["my/x", "my, texts/a.txt", "my, texts/b.txt"], None),
        (" a,b , c", [" a,b "], [" a,b ", "c"]),
        (",a,,b,", ["a,,b"], ["a,,b"]),
        (",a,, b,", [], ["a", "b"]),
    ],
)
def test_a_name_with_commas_is_told_by_its_being_there(places, words, there, expected):
    assert places(words, *there) == (expected or there[1:])


def test_a_list_of_thousands_is_divided_by_a_few_looks_at_each(places, monkeypatch):
    """With folders and without, the time does not grow with the square of their number."""
    looks = []
    for name in ("lexists", "isdir"):
        look = getattr(os.path, name)
        monkeypatch.setattr(os.path, name, lambda path, look=look: looks.append(path) or look(path))
    for folder, most in (("", 40), ("texts/", 10)):
        looks.clear()
        names = [f"{folder}file number {number}.txt" for number in range(3000)]
        assert places(", ".join(names), *names[:5]) == names
        assert len(looks) < most * len(names)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\0"])
def test_names_come_from_a_file_one_a_line_or_as_find_print0_has_them(places, end, tmp_path):
    names = ["a, b.txt", "texts/c.txt", " d.txt"]
    if end == "\0":
        names += ["line\nend.txt", os.fsdecode(b"caf\xe9.txt")]
    (tmp_path / "list").write_bytes(os.fsencode(end.join(names) + end))
    assert places("@list") == names


def test_a_list_of_names_that_is_none_is_one_line(places, tmp_path):
    with pytest.raises(UsageError, match="--input_files @gone: No such file or directory"):
        places("@gone")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(UsageError, match="--input_files '@empty': names no file"):
        places("@empty")


def test_formatting_says_which_cleaners_wait_for_sharding(tmp_path):
    write_texts(tmp_path / "texts", 1, 3)
    preparation = Preparation(tmp_path / "working")
    output = preparation.run("text_formatting", "text", input_files=tmp_path / "texts", clean="duplicates")
    assert "--clean duplicates: duplicates wait for --action sharding with the same flag" in output


@pytest.mark.slow
def test_a_complete_step_misses_what_was_taken_from_its_folder(own, vocab_file, tmp_path):
    """No manifest claims what is not there: not to a run of the same step, nor to the next step."""
    preparation, _, texts = own
    shutil.copytree(preparation.working, tmp_path / "working")
    copy = Preparation(tmp_path / "working")
    tfrecord_settings = SETTINGS | {"vocab_file": vocab_file, "max_seq_length": 32}
    for action, settings, result in [
        ("create_tfrecord_files", tfrecord_settings, "tfrecord_*_32_*/text/test/*-1-of-2"),
        ("create_tfrecord_files", tfrecord_settings, "sharded_*/text/train/text_training_3.txt"),
        ("sharding", SETTINGS, "sharded_*/text/train/text_training_3.txt"),
        ("sharding", SETTINGS, "formatted_*/text/000002*.zst"),
        ("text_formatting", {"input_files": texts}, "formatted_*/text/000002*.zst"),
    ]:
        for path in copy.working.glob(result):
            path.write_bytes(path.read_bytes()[:-1])
        output = copy.run(action, "text", expect=2, **settings)
        assert "is gone or changed" in output.splitlines()[-1]


def test_a_run_goes_on_with_the_room_for_the_descriptions_that_are_missing(tmp_path, monkeypatch):
    """Of 20 and 30 documents in two parts: 520 bytes for each, and 576 to compare them."""
    parts = []
    for number, count in enumerate((20, 30)):
        parts.append(tmp_path / f"{number}{documents.SUFFIX}")
        with documents.DocumentFile(parts[-1]) as target:
            for each in range(count):
                target.write(documents.TextDocument("", document(100 * number + each)))
        tfrecords.write_array(
            text_formatting.index_path(parts[-1]), np.zeros(count, text_formatting.INDEX_TYPE)
        )
    folder = tmp_path / "sharded"
    plan = sharding.Sharding("text", 1, 1, 0.0, 1, "lines", ("near_duplicates",))
    asked = []
    monkeypatch.setattr(disk_space, "require", lambda folder, needed, purpose: asked.append(needed))

    def find() -> np.ndarray:
        return sharding._find_duplicates(parts, plan, folder, LocalBackend(1))

    monkeypatch.setattr(deduplication, "find_duplicates", lambda *_: 1 / 0)
    for gone in ([], ["000001.npy"], []):
        for name in gone:
            (folder / ".units/descriptions" / name).unlink()
        with pytest.raises(ZeroDivisionError):
            find()
    assert asked == [50 * (520 + 576), 30 * 520 + 50 * 576, 50 * 576]
    monkeypatch.undo()
    found = find()
    shutil.rmtree(folder / ".units/descriptions")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 0))
    assert find().tolist() == found.tolist()


@pytest.mark.slow
def test_file_names_of_any_kind_are_read(tmp_path):
    """Commas, spaces, line ends, and bytes that are no UTF-8; a list may have files with commas in it."""
    texts = tmp_path / "my, texts"
    write_texts(texts, 3, 9)
    (texts / "text_000.txt").rename(texts / "a, b.txt")
    (texts / "text_001.txt").rename(texts / "line\nend.txt")
    os.rename(texts / "text_002.txt", os.fsencode(texts) + b"/caf\xe9.txt")
    preparation = Preparation(tmp_path / "working")
    preparation.run("text_formatting", "text", input_files=texts)
    manifest = files.read_json(preparation.formatted("text") / "manifest.json")
    assert manifest["documents"] == 9
    assert {source["name"] for source in manifest["sources"]} == {
        "a, b.txt",
        "line\\nend.txt",
        "caf\\xe9.txt",
    }
    listed = Preparation(tmp_path / "listed")
    paths = f"{texts}/a, b.txt, {texts}/line\nend.txt"
    listed.run("text_formatting", "text", input_files=paths)
    assert len(files.read_json(listed.formatted("text") / "manifest.json")["sources"]) == 2


@pytest.mark.slow
def test_a_working_folder_among_the_sources_is_no_source(own, vocab_file, tmp_path):
    """Not its results, nor the vocabulary in it; a second run finds the same sources."""
    write_texts(tmp_path / "texts", 2, 40)
    preparation = Preparation(tmp_path)
    shutil.copy(vocab_file, tmp_path / "vocab.txt")
    preparation.run("text_formatting", "text", input_files=tmp_path)
    preparation.run("sharding", "text")
    preparation.run("create_tfrecord_files", "text", max_seq_length=32)
    output = preparation.run("text_formatting", "text", input_files=tmp_path)
    assert "complete already" in output
    manifest = files.read_json(preparation.formatted("text") / "manifest.json")
    assert [source["name"] for source in manifest["sources"]] == ["text_000.txt", "text_001.txt"]


@pytest.mark.parametrize(
    ("action", "dataset", "settings", "told"),
    [
        ("text_formatting", "text", {}, "--input_files says which"),
        ("text_formatting", "text", {"input_files": "/none"}, "/none: no such file"),
        ("text_formatting", "text", {"input_files": " , "}, "--input_files ' , ': names no file"),
        (
            "text_formatting",
            "text",
            {"input_files": ROOT / "tests", "decontaminate_against": ","},
            "--decontaminate_against ',': names no file",
        ),
        ("text_formatting", "wikicorpus_en", {}, "run --action download, or give --input_files"),
        ("text_formatting", "squad", {}, "is for --action download alone"),
        ("sharding", "bookscorpus", {}, "run --action text_formatting first"),
        ("create_tfrecord_files", "text", {"vocab_file": "/none"}, "--vocab_file /none: No such file"),
        ("download", "text", {}, "--dataset text: your own text is not downloaded"),
        ("text_formatting", "glue", {}, "is for --action download alone"),
        (
            "text_formatting",
            "text",
            {"input_files": "a.txt", "clean": "soap"},
            "--clean soap: 'soap' is none",
        ),
        (
            "text_formatting",
            "text",
            {"input_files": "a.txt", "clean": "evaluation"},
            "evaluation needs --dec",
        ),
        ("sharding", "text", {"clean": "soap"}, "--clean soap: 'soap' is none"),
        ("sharding", "text", {"fraction_test_set": 1.0}, "--fraction_test_set 1.0: must be in"),
        ("text_formatting", "text", {"tolerate": -1}, "--tolerate -1: must not be negative"),
        ("text_formatting", "all", {}, "is for --action download alone"),
        ("text_formatting", "text", {"max_memory_gb": 0.1}, "--max_memory_gb 0.1: must be 0 or at least"),
        (
            "text_formatting",
            "text",
            {"input_files": ROOT / "tests", "decontaminate_against": "/none.json"},
            "--decontaminate_against /none.json: No such file",
        ),
        ("sharding", "newspapers", {}, "--dataset newspapers: is none of"),
        ("publish", "text", {}, "invalid choice"),
    ],
)
def test_a_mistake_is_one_line_with_code_2(tmp_path, action, dataset, settings, told):
    output = Preparation(tmp_path).run(action, dataset, expect=2, **settings)
    assert told in output.splitlines()[-1] and "Traceback" not in output


def test_a_json_line_without_the_column_is_named_by_file_and_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "Good."}\n{"body": "Bad."}\n')
    output = Preparation(tmp_path / "working").run(
        "text_formatting", "text", expect=2, input_files=tmp_path / "a.jsonl"
    )
    assert "a.jsonl: line 2: no 'text' among 'body'" in output.splitlines()[-1]


def test_a_file_that_cannot_be_read_is_a_named_fault_and_the_others_are_read(tmp_path):
    texts = write_texts(tmp_path / "texts", 2, 10)
    (tmp_path / "texts/gone.txt").symlink_to(tmp_path / "nowhere.txt")
    (tmp_path / "texts/self.txt").symlink_to("self.txt")
    preparation = Preparation(tmp_path / "working")
    output = preparation.run("text_formatting", "text", expect=1, input_files=tmp_path / "texts")
    assert "texts/gone.txt: unreadable (No such file or directory)" in output
    assert "texts/self.txt: unreadable (Too many levels of symbolic links)" in output
    manifest = files.read_json(preparation.formatted("text") / "manifest.json")
    found = [
        d for part in manifest["parts"] for d in read_documents(preparation.formatted("text") / part["name"])
    ]
    assert [document.text for document in found] == texts
    assert [source["name"] for source in manifest["sources"]] == ["text_000.txt", "text_001.txt"]
    again = preparation.run("text_formatting", "text", input_files=tmp_path / "texts", tolerate=2)
    assert "complete already" in again


def test_latin_1_files_are_counted_and_skipped_by_name(tmp_path):
    write_texts(tmp_path / "texts", 1, 3)
    (tmp_path / "texts/latin.txt").write_bytes("Caf\xe9 au lait.\n".encode("latin-1"))
    preparation = Preparation(tmp_path / "working")
    output = preparation.run("text_formatting", "text", input_files=tmp_path / "texts")
    assert "latin.txt (not UTF-8), 1 in all" in output
    manifest = files.read_json(preparation.formatted("text") / "manifest.json")
    assert manifest["documents"] == 3
    (skipped,) = manifest["skipped_sources"]
    assert "latin.txt" in skipped["name"] and "UTF-8" in skipped["reason"]
    strict = Preparation(tmp_path / "strict")
    output = strict.run("text_formatting", "text", expect=2, input_files=tmp_path / "texts", strict=True)
    assert "latin.txt" in output.splitlines()[-1]


def test_two_runs_in_one_folder_at_once_are_told_apart(tmp_path):
    write_texts(tmp_path / "texts", 1, 3)
    preparation = Preparation(tmp_path / "working")
    folder = preparation.formatted("text")
    folder.mkdir(parents=True)
    with files.lock_folder(folder):
        output = preparation.run("text_formatting", "text", expect=2, input_files=tmp_path / "texts")
    assert f"in use by process {os.getpid()} on " in output.splitlines()[-1]


def test_a_folder_without_a_document_is_one_line(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("\n\n\n")
    preparation = Preparation(tmp_path / "working")
    preparation.run("text_formatting", "text", input_files=tmp_path / "texts")
    output = preparation.run("sharding", "text", expect=2)
    assert "no documents to learn from" in output.splitlines()[-1]


# --------------------------------------------------------------------------------------------- Wikipedia


def test_a_dump_becomes_its_articles(tmp_path):
    articles = write_dump(tmp_path / "wiki.xml.bz2", 30)
    preparation = Preparation(tmp_path / "working")
    preparation.run("text_formatting", "wikicorpus_en", input_files=tmp_path / "wiki.xml.bz2")
    folder = preparation.formatted("wikicorpus_en")
    manifest = files.read_json(folder / "manifest.json")
    found = [d for part in manifest["parts"] for d in read_documents(folder / part["name"])]
    assert [d.title for d in found] == [f"page {number}" for number in range(30)]
    assert [sentences(d.text) for d in found] == [sentences(text) for text in articles]
    assert manifest["origin"]["licence"]


def test_a_dump_whose_index_comes_or_goes_is_refused_by_name(tmp_path):
    """Which pages a part has follows from the index: parts of two plans may miss pages, or share them."""
    name = "enwiki-multistream-index.txt.bz2"
    write_multistream(tmp_path / "enwiki-multistream.xml.bz2", towns(20), 5)
    preparation = Preparation(tmp_path / "working")
    preparation.run("text_formatting", "wikicorpus_en", input_files=tmp_path)
    manifest = files.read_json(preparation.formatted("wikicorpus_en") / "manifest.json")
    assert [source["name"] for source in manifest["sources"]] == ["enwiki-multistream.xml.bz2", name]
    (tmp_path / name).rename(tmp_path / "aside")
    output = preparation.run("text_formatting", "wikicorpus_en", expect=2, input_files=tmp_path)
    assert f"holds data of other sources: {name} is gone" in output.splitlines()[-1]
    without = Preparation(tmp_path / "without")
    without.run("text_formatting", "wikicorpus_en", input_files=tmp_path)
    (tmp_path / "aside").rename(tmp_path / name)
    output = without.run("text_formatting", "wikicorpus_en", expect=2, input_files=tmp_path)
    assert f"{name} is new" in output.splitlines()[-1]


def test_damage_is_named_and_the_rest_kept_and_tolerated_only_when_asked(tmp_path):
    """A dump that is cut off: all articles before the cut are there, and the code is not zero."""
    content = dump(40)
    (tmp_path / "wiki.xml").write_bytes(content[: len(content) * 3 // 4])
    preparation = Preparation(tmp_path / "working")
    output = preparation.run("text_formatting", "wikicorpus_en", expect=1, input_files=tmp_path / "wiki.xml")
    assert "wiki.xml" in output.splitlines()[-1] and "--tolerate allows 0" in output.splitlines()[-1]
    manifest = files.read_json(preparation.formatted("wikicorpus_en") / "manifest.json")
    whole = content[: len(content) * 3 // 4].count(b"</page>")
    assert manifest["documents"] == whole and len(manifest["faults"]) == 1
    arguments = {"input_files": tmp_path / "wiki.xml"}
    output = preparation.run("text_formatting", "wikicorpus_en", expect=1, **arguments)
    assert "complete already" in output
    preparation.run("text_formatting", "wikicorpus_en", **arguments, tolerate=1)


def test_books_and_wikipedia_are_one_dataset_without_what_comes_twice(tmp_path):
    """A book is a file; the tenth repeats the first, and is left out of what both datasets are made to."""
    write_dump(tmp_path / "wiki.xml.bz2", 40)
    books = write_texts(tmp_path / "books", 9, 9)
    (tmp_path / "books/text_009.txt").write_text((tmp_path / "books/text_000.txt").read_text())
    preparation = Preparation(tmp_path / "working")
    preparation.run("text_formatting", "bookscorpus", input_files=tmp_path / "books")
    preparation.run("text_formatting", "wikicorpus_en", input_files=tmp_path / "wiki.xml.bz2")
    preparation.run("sharding", "books_wiki_en_corpus", clean="duplicates", fraction_test_set=0)
    manifest = files.read_json(preparation.sharded("books_wiki_en_corpus") / "manifest.json")
    assert manifest["dropped"] == {"duplicates": 1}
    assert manifest["documents"] == 9 + 40
    shards = [preparation.sharded("books_wiki_en_corpus") / shard["name"] for shard in manifest["shards"]]
    assert documents_of(shards)[:9] == [sentences(book) for book in books]
    assert {d["settings"]["dataset"] for d in manifest["datasets"]} == {"bookscorpus", "wikicorpus_en"}


GERMAN = (
    "Der Fluss entspringt in den Bergen im Norden des Landes und mündet nach vielen Kilometern in das Meer. "
    "An seinen Ufern liegen mehrere kleine Städte, in denen seit Jahrhunderten Papier hergestellt wird. "
    "Im Winter friert er oft zu, und die Kinder laufen dann auf dem Eis von einem Dorf zum anderen."
)
ENGLISH = [
    "The old harbour lies below the castle, and from its walls the fishermen can be seen at work at dawn. "
    "Most of the boats are painted blue, for reasons which nobody in the village remembers today. "
    "In autumn the nets are dried along the quay, and the smell of tar goes up as far as the market square.",
    "Bread is baked twice a week in the common oven, which stands behind the church and belongs to all. "
    "Whoever arrives first lights the fire, and whoever leaves last sweeps the floor and closes the door. "
    "On feast days there is a sweet loaf with raisins for each of the children who helped to carry wood.",
    "The railway was built in three years by workers who came from the valleys on the other side. "
    "Two of its bridges are still the originals, while the third was replaced after the flood of one spring. "
    "Trains still stop at every village on the way, if somebody on the platform raises a hand in time.",
]
PASSAGE = (
    "A passage of an evaluation file that has a good many more words than the thirteen which have to agree."
)


def test_cleaning_is_counted_by_reason_on_the_card_across_sources(tmp_path, vocab_file):
    """One document for each cleaner, over two datasets; three are left, one of them repaired."""
    near = ENGLISH[0].replace("today", "now")
    contaminated = f"{ENGLISH[1]} {PASSAGE.upper()} {ENGLISH[2]}"
    broken = ENGLISH[1].replace("which stands", "a caf\u00c3\u00a9, which\u200b stands")
    documents = [ENGLISH[0], GERMAN, "Too short.", broken, contaminated, ENGLISH[2]]
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("\n\n".join(documents))
    (tmp_path / "texts/b.txt").write_text("\n\n".join([near, ENGLISH[2]]))
    (tmp_path / "evaluation.txt").write_text(PASSAGE)
    preparation = Preparation(tmp_path / "working")
    clean = {"clean": "standard", "decontaminate_against": tmp_path / "evaluation.txt"}
    preparation.run("text_formatting", "text", input_files=tmp_path / "texts", **clean)
    formatted = files.read_json(preparation.formatted("text") / "manifest.json")
    assert formatted["dropped"] == {"evaluation": 1, "language": 1, "short": 1}
    assert formatted["changed"] == {"control": 1, "unicode": 1}
    preparation.run("sharding", "text", fraction_test_set=0, **clean)
    (shard,) = (preparation.sharded("text") / "train").glob("*.txt")
    kept = [" ".join(document) for document in documents_of([shard])]
    assert kept == [ENGLISH[0], broken.replace("\u00c3\u00a9", "\u00e9").replace("\u200b", ""), ENGLISH[2]]
    preparation.run(
        "create_tfrecord_files", "text", vocab_file=vocab_file, max_seq_length=32, fraction_test_set=0
    )
    folder = preparation.tfrecords("text", 32) / "train"
    manifest, card = files.read_json(folder / "manifest.json"), (folder / "DATA_CARD.md").read_text()
    expected = {"duplicates": 1, "evaluation": 1, "language": 1, "near_duplicates": 1, "short": 1}
    assert manifest["documents_dropped"] == expected and manifest["documents_kept"] == 3
    assert all(f"dropped: {reason} | 1 |" in card.replace("\\_", "_") for reason in expected)


# ------------------------------------------------------------------- any number of workers, interruptions


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_number_of_processes(own, vocab_file, tmp_path):
    preparation, _, texts = own
    steps(Preparation(tmp_path / "working"), texts, vocab_file, n_processes=3)
    assert tree(tmp_path / "working") == tree(preparation.working)


@pytest.mark.slow
def test_the_bytes_are_the_same_after_kills_anywhere(own, vocab_file, tmp_path):
    """Each step is killed by SIGKILL twice, each time after another unit or so, and then gets through."""
    preparation, _, texts = own
    killed = Preparation(tmp_path / "working")
    tfrecord_settings = SETTINGS | {"vocab_file": vocab_file, "max_seq_length": 32}
    for action, folder, settings in [
        ("text_formatting", "formatted_*", {"input_files": texts}),
        ("sharding", "sharded_*", SETTINGS),
        ("create_tfrecord_files", "tfrecord_*_32_*", tfrecord_settings),
        ("create_tfrecord_files", "tfrecord_*_64_*", tfrecord_settings | {"max_seq_length": 64}),
    ]:
        for wanted in (2, 4):
            process = killed.start(action, "text", n_processes=2, **settings)
            while process.poll() is None:
                if len(list(killed.working.glob(f"{folder}/text/.units/*.json"))) > wanted:
                    os.killpg(process.pid, signal.SIGKILL)
                time.sleep(0.002)
            assert process.returncode == -signal.SIGKILL
        killed.run(action, "text", n_processes=2, **settings)
    assert tree(killed.working) == tree(preparation.working)


@pytest.mark.slow
def test_the_bytes_are_the_same_on_a_dask_cluster_that_loses_a_worker(own, vocab_file, tmp_path):
    preparation, _, texts = own
    with DaskCluster(tmp_path / "dask", 2) as cluster:
        address, workers = cluster.address, cluster.workers
        prepared = Preparation(tmp_path / "working")
        process = prepared.start("text_formatting", "text", input_files=texts, dask_scheduler=address)
        units = prepared.formatted("text") / ".units"
        while process.poll() is None and len(list(units.glob("*.json"))) < 2:
            time.sleep(0.01)
        workers[0].kill()
        assert process.wait(120) == 0
        steps(prepared, texts, vocab_file, dask_scheduler=address)
        assert workers[0].poll() is not None and workers[1].poll() is None
    assert tree(tmp_path / "working") == tree(preparation.working)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
@pytest.mark.parametrize(
    ("size", "told"), [("64k", "bytes do not fit into"), ("120k", "no space left on the device")]
)
def test_a_full_disk_is_one_line_whether_foreseen_or_not(own, tmp_path, size, told):
    _, _, texts = own
    probe = ["unshare", "--mount", "true"]
    if subprocess.run(probe, capture_output=True).returncode != 0:
        pytest.skip("no right to mount a small file system")
    small = tmp_path / "small"
    small.mkdir()
    program = Preparation(small)
    command = " ".join(program.command("text_formatting", "text", input_files=texts, n_processes=1))
    script = (
        f"mount -t tmpfs -o size={size} none {small} && export DATA_PREP_WORKING_DIR={small} && {command}"
    )
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert told in line


def test_the_whole_working_folder_is_as_its_manifests_say_and_a_flipped_bit_is_found(own, tmp_path):
    preparation, _, _ = own
    working = tmp_path / "working"
    shutil.copytree(preparation.working, working)
    inspect = [sys.executable, str(ROOT / "data/inspect_dataset.py"), str(working), "--examples=1"]
    done = subprocess.run(inspect, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" records in ") == 4 and "files of text_formatting" in done.stdout
    assert done.stdout.count("[CLS]") == 4
    shard = next(working.glob("tfrecord_*_32_*/text/train/pretrain_data*"))
    text = next(working.glob("sharded_*/text/test/*.txt"))
    part = next(working.glob("formatted_*/text/*.zst"))
    for path in (shard, text, part):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    done = subprocess.run(inspect, capture_output=True, text=True)
    assert done.returncode == 1
    for path in (shard, text, part):
        assert f"damaged: {path}" in done.stdout


def test_manifests_are_json_that_people_can_read(own):
    preparation, _, _ = own
    for path in preparation.working.rglob("manifest.json"):
        content = path.read_text()
        assert json.loads(content) and content.count("\n") > 10
