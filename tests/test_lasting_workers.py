"""Workers that outlive a step, as a cluster's do: nothing that they remember is of an earlier step."""

import contextlib
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import pytest
from prepared_corpora import document, tree, vocabulary, write_texts

from command_line import UsageError
from data import text_formatting, tfrecord_creation
from data.documents import read_documents
from data.executors import LocalBackend
from data.sharding import Sharding, shard_text
from data.text_formatting import Formatting, format_text
from data.tfrecord_creation import Creation, create_tfrecords
from tokenization import Vocabulary, load_vocabulary


class LastingWorker(LocalBackend):
    """This process as the only worker of every step."""

    @contextlib.contextmanager
    def open(self, folder: Path) -> Executor:
        with ThreadPoolExecutor(1) as pool:
            yield pool


@pytest.fixture
def worker() -> LastingWorker:
    tfrecord_creation._vocabulary.cache_clear()
    text_formatting._cleaner.cache_clear()
    return LastingWorker(1)


def sharded_texts(folder: Path, worker: LastingWorker) -> Path:
    write_texts(folder / "texts", 1, 20)
    formatting = Formatting("text", "text", {"title": "texts", "licence": "none", "url": ""})
    format_text([str(folder / "texts")], formatting, folder / "formatted", worker, 0)
    sharding = Sharding("text", 2, 1, 0.2, 1, "lines")
    shard_text([folder / "formatted"], sharding, folder / "sharded", worker, 0)
    return folder / "sharded"


@pytest.mark.parametrize("change", ["pieces", "casing"])
def test_a_vocabulary_that_was_made_again_gives_the_new_ids(tmp_path, worker, change):
    sharded = sharded_texts(tmp_path, worker)
    vocab_file = vocabulary(tmp_path / "vocab.txt")
    creation = Creation("text", str(vocab_file), None, 32, 1)
    create_tfrecords(sharded, creation, tmp_path / "first", worker, 0)
    old = load_vocabulary(vocab_file)
    if change == "pieces":
        Vocabulary((*old.pieces[:5], *reversed(old.pieces[5:]))).save(vocab_file)
    else:
        Vocabulary(old.pieces, do_lower_case=False).save(vocab_file)
    create_tfrecords(sharded, creation, tmp_path / "second", worker, 0)
    create_tfrecords(sharded, creation, tmp_path / "by_new_processes", LocalBackend(1), 0)
    assert tree(tmp_path / "second") == tree(tmp_path / "by_new_processes")


def test_a_vocabulary_that_changes_while_a_step_runs_stops_it(tmp_path, worker):
    vocab_file = vocabulary(tmp_path / "vocab.txt")
    identity = tfrecord_creation._identity(load_vocabulary(vocab_file))
    Vocabulary((*load_vocabulary(vocab_file).pieces, "##zz")).save(vocab_file)
    creation = Creation("text", str(vocab_file), None, 32, 1)
    with pytest.raises(UsageError, match="has changed while it was used"):
        tfrecord_creation.write_shard(tmp_path / "shard", str(tmp_path / "text"), creation, identity)


def test_another_evaluation_file_drops_what_it_shares(tmp_path, worker):
    """In the same folder, emptied between the runs."""
    texts = write_texts(tmp_path / "texts", 1, 4)
    for number in (1, 2):
        (tmp_path / "evaluation.txt").write_text(document(number))
        formatting = Formatting(
            "text",
            "text",
            {},
            clean=frozenset({"evaluation"}),
            decontaminate_against=(str(tmp_path / "evaluation.txt"),),
        )
        manifest = format_text([str(tmp_path / "texts")], formatting, tmp_path / "formatted", worker, 0)
        kept = [
            document.text
            for part in manifest["parts"]
            for document in read_documents(tmp_path / "formatted" / part["name"])
        ]
        assert kept == texts[:number] + texts[number + 1 :]
        (tmp_path / "formatted").rename(tmp_path / f"formatted_{number}")
