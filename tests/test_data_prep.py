"""data/dataPrep.py: from sources to TFRecords, the same bytes whatever the workers and the interruptions."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from prepared_corpora import Preparation, dump, sentences, tree, vocabulary, write_dump, write_texts
from test_units import dask_cluster
from training_runs import ROOT

import files
import tfrecords
from data.documents import read_documents

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


@pytest.mark.parametrize(
    ("action", "dataset", "settings", "told"),
    [
        ("text_formatting", "text", {}, "--input_files says which"),
        ("text_formatting", "text", {"input_files": "/none"}, "/none: no such file"),
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


def test_latin_1_files_are_counted_and_skipped_by_name(tmp_path):
    write_texts(tmp_path / "texts", 1, 3)
    (tmp_path / "texts/latin.txt").write_bytes("Caf\xe9 au lait.\n".encode("latin-1"))
    preparation = Preparation(tmp_path / "working")
    preparation.run("text_formatting", "text", input_files=tmp_path / "texts")
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
    with dask_cluster(2, tmp_path) as (address, workers):
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
