"""Two commands in a row, with no path typed: create_datasets_from_start.sh and run_pretraining.sh."""

import hashlib
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from prepared_corpora import document, tree, vocabulary, write_texts
from test_hub_files import BOOKS, NEW, WEB, Hub
from training_runs import MODEL, ROOT, TRAINING
from web_site import Answer, FileSite, serving
from wikipedia_cases import page_xml, write_multistream

CREATE = ROOT / "data" / "create_datasets_from_start.sh"
DUMP = "enwiki-20261101-pages-articles-multistream.xml.bz2"
INDEX = "enwiki-20261101-pages-articles-multistream-index.txt.bz2"


def run(*command, working: Path, expect: int = 0, cwd: Path = ROOT, **environment) -> str:
    """Run a shell script; returns its output and errors."""
    clean = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "TF_CPP_MIN_LOG_LEVEL": "2"}
    settings = {"PYTHON": sys.executable, "DATA_PREP_WORKING_DIR": working, "no_proxy": "127.0.0.1,localhost"}
    settings |= environment
    done = subprocess.run(
        ["bash", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        env=clean | {name: str(value) for name, value in settings.items()},
    )
    assert done.returncode == expect, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def pretrain(working: Path, folder: Path, **environment) -> str:
    """Both phases of a tiny model by the launcher, which has to find the data by itself."""
    for phase in (1, 2):
        small = MODEL | TRAINING | {"max_position_embeddings": 512, "train_batch_size": 2}
        small |= {"num_train_steps": 2, "num_warmup_steps": 1, "max_seq_length": {1: 128, 2: 512}[phase]}
        (folder / f"phase{phase}.json").write_text(json.dumps(small))
    return run(
        ROOT / "scripts" / "run_pretraining.sh",
        working=working,
        RESULTS_DIR=folder / "results",
        CONFIG_P1=folder / "phase1.json",
        CONFIG_P2=folder / "phase2.json",
        **environment,
    )


@pytest.fixture
def wikipedia(tmp_path):
    """A site with a multistream dump of 60 articles, its index and the list of its checksums."""
    folder = tmp_path / "site"
    folder.mkdir()
    pages = [page_xml(f"Article {n}", document(n, "page").replace("\n", "\n\n")) for n in range(60)]
    write_multistream(folder / DUMP, pages, 10)
    files = {name: (folder / name).read_bytes() for name in (DUMP, INDEX)}
    sums = "".join(f"{hashlib.sha1(content).hexdigest()}  {name}\n" for name, content in files.items())
    with serving(FileSite()) as site:
        for run_name in ("20261101", "latest"):
            for name, content in files.items():
                site.contents[f"/enwiki/{run_name}/{name.replace('20261101', run_name)}"] = content
            site.contents[f"/enwiki/{run_name}/enwiki-{run_name}-sha1sums.txt"] = sums.encode()
        yield site


@pytest.mark.slow
def test_wikipedia_comes_from_its_site_to_the_second_phase(wikipedia, tmp_path):
    """From a mirror; the connection breaks in the middle of the dump. Run again, nothing is asked for."""
    vocab_file = vocabulary(tmp_path / "vocab.txt")
    wikipedia.faults[f"/enwiki/20261101/{DUMP}"] = [Answer(cut=1000)]
    working = tmp_path / "working"
    words = (CREATE, "wiki_only", "--", "--mirror", wikipedia.url)
    output = run(*words, working=working, VOCAB_FILE=vocab_file)
    assert "60 documents" in output and "done in" in output
    assert (working / "download/wikicorpus_en" / DUMP).exists()
    output = pretrain(working, tmp_path)
    for phase in ("ckpt-2", "ckpt-p2-2"):
        assert list((tmp_path / "results").rglob(phase)), output[-2000:]
    before, asked = tree(working), len(wikipedia.log)
    output = run(*words, working=working, VOCAB_FILE=vocab_file)
    assert output.count("complete already") == 4 and len(wikipedia.log) == asked
    assert tree(working) == before


def open_web_text(texts: list[str]) -> bytes:
    """A subset as the collection has it: a tar of xz-compressed tars of one text a file."""
    outer = io.BytesIO()
    with tarfile.open(fileobj=outer, mode="w") as tar:
        for number in range(0, len(texts), 20):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as pages:
                for index, text in enumerate(texts[number : number + 20]):
                    content = text.replace("\n", "\n\n").encode()
                    entry = tarfile.TarInfo(f"{number + index:07d}-{'0' * 32}.txt")
                    entry.size = len(content)
                    pages.addfile(entry, io.BytesIO(content))
            content = lzma.compress(inner.getvalue())
            entry = tarfile.TarInfo(f"openwebtext/urlsf_subset00-{number // 20 + 1}_data.xz")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return outer.getvalue()


@pytest.mark.slow
def test_open_web_text_and_the_vocabulary_come_from_the_hub(tmp_path):
    texts = [document(number) for number in range(60)]
    vocab_file = vocabulary(tmp_path / "vocab.txt")
    working = tmp_path / "working"
    with serving(FileSite()) as site:
        hub = Hub(site)
        hub.commit(WEB, NEW, {"subsets/urlsf_subset00.tar": open_web_text(texts)})
        hub.commit("google/electra-small-discriminator", NEW, {"vocab.txt": vocab_file.read_bytes()})
        run(CREATE, "owt", working=working, HF_ENDPOINT=site.url, HF_HOME=tmp_path / "home")
    manifest = json.loads((working / "formatted_one_article_per_line/openwebtext/manifest.json").read_text())
    assert manifest["documents"] == 60 and "OpenWebText" in manifest["origin"]["title"]
    assert (working / "vocab.txt").read_bytes() == vocab_file.read_bytes()
    card = next(working.glob("tfrecord_*_128_*/openwebtext/train/DATA_CARD.md")).read_text()
    assert "CC0" in card and "urlsf_subset00.tar" in card
    pretrain(working, tmp_path, PHASE=1)


@pytest.mark.slow
def test_books_and_wikipedia_are_trained_on_together(wikipedia, tmp_path):
    """One dataset where NVIDIA's launcher looks for it; a book that comes twice is there once."""
    books = [document(number, "book") for number in range(20)]
    table = pyarrow.table({"title": [f"Book {n}" for n in range(21)], "text": [*books, books[0]]})
    content = io.BytesIO()
    pyarrow.parquet.write_table(table, content)
    vocab_file = vocabulary(tmp_path / "vocab.txt")
    working = tmp_path / "working"
    with serving(FileSite()) as site:
        Hub(site).commit(BOOKS, NEW, {"data/train-00000-of-00001.parquet": content.getvalue()})
        words = ("wiki_books", "--", "--mirror", wikipedia.url, "--clean", "duplicates")
        hub = {"HF_ENDPOINT": site.url, "HF_HOME": tmp_path / "home"}
        run(CREATE, *words, working=working, VOCAB_FILE=vocab_file, **hub)
    folder = working / "tfrecord_lower_case_1_seq_len_128_random_seed_12345/books_wiki_en_corpus"
    manifest = json.loads((folder / "train/manifest.json").read_text())
    assert manifest["documents_dropped"] == {"duplicates": 1} and manifest["documents_kept"] == 20 + 60
    pretrain(working, tmp_path, PHASE=1)


@pytest.mark.slow
def test_own_text_with_a_vocabulary_of_its_own_comes_to_the_second_phase(tmp_path):
    """Named relative to where the command is given."""
    write_texts(tmp_path / "my texts", 3, 120)
    working = tmp_path / "working"
    run(CREATE, "own", "my texts", working=working, cwd=tmp_path, VOCAB_SIZE=120, N_PROCESSES=2)
    assert (working / "vocab.txt").read_text().startswith("[PAD]\n[UNK]\n")
    manifest = json.loads((working / "formatted_one_article_per_line/text/manifest.json").read_text())
    assert manifest["documents"] == 120
    pretrain(working, tmp_path)
    assert list((tmp_path / "results").rglob("ckpt-p2-2"))


@pytest.mark.slow
def test_a_cased_vocabulary_is_found_by_the_launcher_too(tmp_path):
    write_texts(tmp_path / "texts", 1, 60)
    working = tmp_path / "working"
    settings = {"VOCAB_SIZE": 120, "VOCAB_FLAGS": "--no-lower-case", "MAX_SEQ_LENGTHS": 128}
    run(CREATE, "own", tmp_path / "texts", working=working, **settings)
    assert [path.name for path in working.glob("tfrecord_*")] == [
        "tfrecord_lower_case_0_seq_len_128_random_seed_12345"
    ]
    pretrain(working, tmp_path, PHASE=1)


def test_several_prepared_datasets_are_told_apart_by_name(tmp_path):
    for dataset in ("openwebtext", "text"):
        for length in (128, 512):
            folder = f"tfrecord_lower_case_1_seq_len_{length}_random_seed_12345/{dataset}/train"
            (tmp_path / folder).mkdir(parents=True)
    script = ROOT / "scripts" / "run_pretraining.sh"
    output = run(script, working=tmp_path, expect=2, RESULTS_DIR=tmp_path / "results")
    assert "several prepared datasets, set DATASET" in output and "openwebtext/train" in output
    output = run(script, working=tmp_path, expect=2, RESULTS_DIR=tmp_path / "results", DATASET="text")
    assert "_seq_len_128_random_seed_12345/text/train/pretrain_data*: no such file" in output
    output = run(script, working=tmp_path, expect=2, RESULTS_DIR=tmp_path / "results", DATASET="news")
    assert "_seq_len_128_random_seed_12345/news/train/pretrain_data*: no such file" in output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["everything"], "'everything' is none of wiki_only, wiki_books, owt, own"),
        (["own"], "own: which files?"),
        (["own", "--"], "own: which files?"),
        (["wiki_only", "more"], "'more' is one too many"),
        (["own", "none"], "none: no such file or folder"),
    ],
)
def test_a_mistake_is_one_line_with_code_2(words, told, tmp_path):
    output = run(CREATE, *words, working=tmp_path, expect=2)
    assert told in output and "Traceback" not in output


def test_without_a_vocabulary_it_is_said_how_to_have_one(tmp_path):
    """The hub is out of reach."""
    write_texts(tmp_path / "texts", 1, 5)
    unreachable = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": 1}
    output = run(CREATE, "own", tmp_path / "texts", working=tmp_path, expect=2, **unreachable)
    assert "there is no vocabulary: VOCAB_FILE=FILE names one, VOCAB_SIZE=30522 trains one" in output


def test_a_vocabulary_of_books_and_wikipedia_is_made_of_these_two_alone(tmp_path):
    """By a stand-in for Python that does nothing, and lists the text of a vocabulary."""
    python = tmp_path / "python"
    listing = 'echo "text of the vocabulary: $(cat "$3"/*/*)"'
    python.write_text(f"#!/bin/bash\n[[ $1 != build_vocabulary.py ]] || {{ {listing} && exit 1; }}\n")
    python.chmod(0o755)
    for dataset in ("bookscorpus", "openwebtext", "text", "wikicorpus_en"):
        folder = tmp_path / "working/formatted_one_article_per_line" / dataset
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text(dataset)
    settings = {"PYTHON": python, "VOCAB_SIZE": 99, "TMPDIR": tmp_path}
    output = run(CREATE, "wiki_books", working=tmp_path / "working", expect=1, **settings)
    assert "text of the vocabulary: bookscorpuswikicorpus_en\n" in output
    assert not list(tmp_path.glob("tmp.*"))


# A stand-in for Python that does nothing but write down its words, and make a vocabulary unless FAILS.
RECORDER = """#!/bin/bash
echo "$*" >> "$RECORD"
[[ $1 != build_vocabulary.py ]] || { [[ -z ${FAILS:-} ]] && echo pieces > "$7"; }
"""


@pytest.fixture
def record(tmp_path):
    """Run the script with the recorder; returns its output and the words of each call of Python."""
    (tmp_path / "python").write_text(RECORDER)
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "texts").mkdir()

    def start(*words, expect: int = 0, cwd: Path = ROOT, **environment) -> tuple[str, list[str]]:
        calls = tmp_path / "calls"
        calls.write_text("")
        settings = {"PYTHON": tmp_path / "python", "RECORD": calls} | environment
        output = run(CREATE, *words, working=tmp_path, expect=expect, cwd=cwd, **settings)
        return output, calls.read_text().splitlines()

    return start


def trained(calls: list[str]) -> int:
    return sum(call.startswith("build_vocabulary.py") for call in calls)


def test_a_vocabulary_that_is_there_is_not_taken_for_one_of_the_size_that_is_asked_for(record, tmp_path):
    words = ("own", tmp_path / "texts")
    (tmp_path / "vocab.txt").write_text("somebody's")
    output, calls = record(*words, expect=2, VOCAB_SIZE=99)
    assert f"VOCAB_SIZE 99: {tmp_path}/vocab.txt is there" in output and not calls
    assert len(output.splitlines()) == 1 and (tmp_path / "vocab.txt").read_text() == "somebody's"
    (tmp_path / "vocab.txt").unlink()
    assert trained(record(*words, expect=1, VOCAB_SIZE=99, FAILS=1)[1]) == 1
    assert trained(record(*words, VOCAB_SIZE=99)[1]) == 1
    # Started again, it has its vocabulary already; for another one there is no room.
    assert trained(record(*words, VOCAB_SIZE=99)[1]) == 0
    for other in ({"VOCAB_SIZE": 98}, {"VOCAB_SIZE": 99, "VOCAB_FLAGS": "--no-lower-case"}):
        assert record(*words, expect=2, **other)[1] == []
    assert trained(record(*words)[1]) == 0


def test_a_vocabulary_in_the_folder_of_text_is_no_text(record, tmp_path):
    vocab_file = vocabulary(tmp_path / "texts/pieces.txt")
    _, calls = record("own", tmp_path / "texts", VOCAB_FILE=vocab_file)
    (formatting,) = (call for call in calls if "--action text_formatting" in call)
    # What dataPrep.py leaves out of its --input_files.
    assert f"--vocab_file {vocab_file}" in formatting


def test_paths_are_those_of_the_folder_where_the_command_is_given(record, tmp_path):
    """VOCAB_FILE and DATA_PREP_WORKING_DIR as the files that are named."""
    vocabulary(tmp_path / "pieces.txt")
    _, calls = record(
        "own", "texts", cwd=tmp_path, VOCAB_FILE="pieces.txt", DATA_PREP_WORKING_DIR="my working"
    )
    assert all(f"--vocab_file {tmp_path}/pieces.txt" in call for call in calls if "sharding" not in call)
    assert len(calls) == 4
    (tmp_path / "my working").mkdir()
    (tmp_path / "my working/vocab.txt").write_text("somebody's")
    output, _ = record(
        "own", "texts", cwd=tmp_path, expect=2, VOCAB_SIZE=99, DATA_PREP_WORKING_DIR="my working"
    )
    assert f"VOCAB_SIZE 99: {tmp_path}/my working/vocab.txt is there" in output
    output, _ = record("own", "texts", cwd=tmp_path, DATA_PREP_WORKING_DIR="my working")
    assert f"next: DATA_PREP_WORKING_DIR='{tmp_path}/my working' bash scripts/run_pretraining.sh" in output


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"VOCAB_FILE": "none.txt"}, "VOCAB_FILE none.txt: no such file"),
        ({"VOCAB_FILE": "texts"}, "VOCAB_FILE texts: no such file"),
        ({"MAX_SEQ_LENGTHS": "128,512"}, "MAX_SEQ_LENGTHS '128,512': '128,512' is no number from 8"),
        ({"MAX_SEQ_LENGTHS": "128 4"}, "MAX_SEQ_LENGTHS '128 4': '4' is no number from 8"),
        ({"MAX_SEQ_LENGTHS": "128 *"}, "MAX_SEQ_LENGTHS '128 *': '*' is no number from 8"),
        ({"MAX_SEQ_LENGTHS": " "}, "MAX_SEQ_LENGTHS ' ': names no length"),
    ],
)
def test_what_the_last_step_needs_is_looked_at_before_the_first(settings, told, record, tmp_path):
    output, calls = record("own", "texts", cwd=tmp_path, expect=2, **settings)
    assert told in output and len(output.splitlines()) == 1
    assert calls == []


def test_a_vocabulary_that_is_yet_to_be_made_may_be_absent(record, tmp_path):
    _, calls = record("own", "texts", cwd=tmp_path, VOCAB_FILE="made.txt", VOCAB_SIZE=99)
    assert trained(calls) == 1 and (tmp_path / "made.txt").exists()


def test_thousands_of_files_may_be_named(record, tmp_path):
    """More than one argument of a program may hold; their list is gone at the end."""
    names = [f"texts/file number {number}, {'x' * 60}.txt" for number in range(3000)] + [
        "texts/line\nend.txt"
    ]
    listing = tmp_path / "listing"
    script = RECORDER + f'for word in "$@"; do [[ $word != @* ]] || cp "${{word#@}}" "{listing}"; done\n'
    (tmp_path / "python").write_text(script)
    _, calls = record("own", *names, cwd=tmp_path, VOCAB_SIZE=99, TMPDIR=tmp_path)
    assert len(calls) == 5
    assert listing.read_bytes().split(b"\0") == [*(f"{tmp_path}/{name}".encode() for name in names), b""]
    assert not list(tmp_path.glob("tmp.*"))


def test_help_explains(tmp_path):
    output = run("create_datasets_from_start.sh", "--help", working=tmp_path, cwd=CREATE.parent)
    assert "own my_texts/" in output and "DATA_PREP_WORKING_DIR" in output
