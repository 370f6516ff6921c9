"""The benchmark of data preparation prints medians and ratios of what it timed, of one and the same work."""

import os
import random
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from prepared_corpora import write_dump
from text_cases import CASES, NASTY_TEXTS, PIECES, random_texts

from tokenization import Vocabulary, build_tokenizer

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "scripts"))

from data_speed import repeat_text  # noqa: E402
from plain_wordpiece import PlainTokenizer  # noqa: E402


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[Path, Path]:
    """A text file and a vocabulary."""
    folder = tmp_path_factory.mktemp("corpus")
    Vocabulary(PIECES).save(folder / "vocab.txt")
    draw = random.Random(2)
    words = ["the", "quick", "brown", "fox", "naïve", "café", "jump", "中文", "can't", "13,", "(un)affable"]
    documents = ["\n".join(" ".join(draw.choices(words, k=12)) for _ in range(10)) for _ in range(40)]
    (folder / "text.txt").write_text("\n\n".join(documents), encoding="utf-8")
    return folder / "text.txt", folder / "vocab.txt"


def benchmark(*arguments) -> subprocess.CompletedProcess:
    command = ["bash", str(ROOT / "scripts" / "benchmark_data.sh"), *map(str, arguments)]
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_table_has_medians_and_their_ratios_to_the_library(corpus):
    text, vocab_file = corpus
    result = benchmark("--text", text, "--vocab-file", vocab_file, "--megabytes", 0.2, "--max_seq_length", 32)
    assert result.returncode == 0, result.stderr
    title, head, *rows, last = result.stdout.splitlines()
    assert re.fullmatch(r"text to TFRecords: 0\.2 MB in [\d,]+ lines to examples of 32, medians of 3", title)
    assert head.split() == ["MB/s", "ratio", "of", "all", "rounds"]
    names, numbers = zip(*(re.split(r"\s{2,}", row, maxsplit=1) for row in rows), strict=True)
    assert names[0].startswith("tokenizers library alone (encode")
    assert list(names[1:]) == [
        "text to TFRecords",
        "text to TFRecords, its words met before",
        "text to TFRecords in plain Python",
    ]
    medians = []
    for row in numbers:
        median, ratio, *rounds = map(float, row.split())
        medians.append(median)
        assert len(rounds) == 3 and median == statistics.median(rounds) > 0
        assert ratio == pytest.approx(median / medians[0], rel=0.05, abs=0.02)
    assert last == "our shard and that of plain Python are the same bytes"


def test_the_reader_is_measured_to_updates_that_are_ready(corpus):
    text, vocab_file = corpus
    flags = ["--max_seq_length", 32, "--reader_batch", 8]
    result = benchmark("--text", text, "--vocab-file", vocab_file, *flags)
    assert result.returncode == 0, result.stderr
    title, head, *rows, last = result.stdout.splitlines()[-6:]
    updates = int(re.fullmatch(r"TFRecords to updates: (\d+) of 8 examples of 32, medians of 3", title)[1])
    assert updates > 10 and last == f"{8 * updates:,} examples, each once"
    assert head.split() == ["ex./s", "ratio", "of", "all", "rounds"]
    names, numbers = zip(*(re.split(r"\s{2,}", row, maxsplit=1) for row in rows), strict=True)
    assert list(names) == [
        "records and their checksums",
        "records to arrays",
        "shuffled, masked, ready for the step",
    ]
    for row in numbers:
        median, _, *rounds = map(float, row.split())
        assert len(rounds) == 3 and median == statistics.median(rounds) > 0


def test_repeated_text_has_documents_of_different_names_up_to_the_size():
    text = "one\ntwo\n\nthree\n\n\n\nfour é\n"
    pieces = list(repeat_text(text, 1000))
    size = len("".join(pieces).encode())
    assert 1000 <= size < 1000 + max(len(piece.encode()) for piece in pieces)
    names, bodies = zip(*(piece.split("\n", 1) for piece in pieces), strict=True)
    assert len(set(names)) == len(names) > 20
    assert [body.strip() for body in bodies[:4]] == ["one\ntwo", "three", "four é", "one\ntwo"]
    assert all(piece.endswith("\n\n") and "\n\n" not in piece[:-2] for piece in pieces)


@pytest.mark.parametrize(("do_lower_case", "strip_accents"), CASES)
def test_plain_python_gives_the_librarys_ids(do_lower_case, strip_accents):
    """So that the comparison is one of the same work; characters newer than Python's tables are left out."""
    vocabulary = Vocabulary(PIECES, do_lower_case, strip_accents)
    plain, tokenizer = PlainTokenizer(vocabulary), build_tokenizer(vocabulary)
    texts = NASTY_TEXTS + [text for text in random_texts(40) if text.isprintable()]
    for text in texts:
        assert plain(text) == tokenizer.encode(text, add_special_tokens=False).ids, repr(text)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"--text": "none.txt"}, "--text none.txt: No such file or directory"),
        ({"--vocab_file": "none.txt"}, "--vocab_file none.txt: No such file or directory"),
        ({"--rounds": 0}, "--rounds 0: must be at least 1"),
        ({"--megabytes": -1}, "--megabytes -1"),
        ({"--max_seq_length": 7}, "--max_seq_length 7: must be at least 8"),
        ({"--reader_batch": -1}, "--reader_batch -1: must not be negative"),
        ({"--reader_batch": 99_999}, "--reader_batch 99999: the text makes"),
        ({"--n_processes": 0}, "--n_processes 0: must be at least 1"),
        ({"--chain_megabytes": "10,x"}, "--chain_megabytes 10,x: are not whole numbers"),
        ({"--dump": "none.bz2"}, "--dump none.bz2: no such file"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(changes, told, corpus):
    words = {"--text": corpus[0], "--vocab_file": corpus[1]} | changes
    result = benchmark(*(f"{flag}={value}" for flag, value in words.items()))
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("data_speed.py: error: ") and told in line


def test_text_without_words_is_named(corpus, tmp_path):
    for content, told in ((b"\n \n", "holds no text"), (b"\xe9\xe9", "not UTF-8")):
        (tmp_path / "text.txt").write_bytes(content)
        result = benchmark("--text", tmp_path / "text.txt", "--vocab_file", corpus[1])
        assert result.returncode == 2 and told in result.stderr


def test_help_says_how_to_run_it():
    result = benchmark("--help")
    assert result.returncode == 0 and "bash scripts/benchmark_data.sh --text" in result.stdout


@pytest.mark.slow
def test_extraction_and_the_whole_chain_are_measured_too(corpus, tmp_path):
    text, vocab_file = corpus
    articles = write_dump(tmp_path / "wiki.xml.bz2", 25)
    flags = ["--dump", tmp_path / "wiki.xml.bz2", "--chain_megabytes", "1,2", "--rounds", 1]
    result = benchmark("--text", text, "--vocab_file", vocab_file, *flags)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert f"{len(articles)} articles" in lines
    rows = [[float(number) for number in line.split()] for line in lines[-2:]]
    for (size, *seconds, total, rate, cpu_seconds, megabytes), expected in zip(rows, (1, 2), strict=True):
        assert size == pytest.approx(expected, rel=0.05) and len(seconds) == 4
        assert total == pytest.approx(sum(seconds), abs=0.3) and rate == pytest.approx(size / total, abs=0.02)
        assert cpu_seconds > 1 and 50 < megabytes < 500
