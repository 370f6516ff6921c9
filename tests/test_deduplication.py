"""Of documents that say the same the first is kept, over all parts; judged by sets and by all pairs."""

import errno
import itertools
import os
import random
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import files
from data import deduplication, word_ngrams
from data.deduplication import (
    describe,
    describe_part,
    find_duplicates,
    load_duplicates,
    write_descriptions,
)
from data.documents import DocumentFile, TextDocument
from data.word_ngrams import WordHasher

ROOT = Path(__file__).parents[1]
SLOTS = 128
# Four fifths of the slots.
LEAST_EQUAL = 103


def random_words(draws: random.Random, count: int) -> list[str]:
    return [f"w{draws.randrange(50_000)}" for _ in range(count)]


def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[begin : begin + 5]) for begin in range(len(words) - 4)}


def jaccard(first: str, second: str) -> float:
    """Of the sets of word 5-grams, by sets."""
    one, other = shingles(first), shingles(second)
    return len(one & other) / len(one | other)


def signatures(*texts: str) -> np.ndarray:
    documents = (TextDocument("", text) for text in texts)
    return np.concatenate([block["signature"] for block in describe(documents, near=True)])


def write_parts(folder: Path, parts: list[list[str]], near: bool = True) -> list[Path]:
    paths = [folder / f"part_{number}.npy" for number in range(len(parts))]
    for path, texts in zip(paths, parts, strict=True):
        write_descriptions(path, (TextDocument("", text) for text in texts), near)
    return paths


def decide(folder: Path, parts: list[list[str]], exact: bool = True, near: bool = True) -> list[dict]:
    """What is dropped of each part."""
    paths = write_parts(folder, parts, near)
    find_duplicates(folder / "duplicates.npy", paths, exact, near)
    return [duplicates_of_part(folder / "duplicates.npy", number) for number in range(len(parts))]


def duplicates_of_part(path: Path, part: int) -> dict[int, tuple[str, int, int]]:
    """The rows of a part that are dropped: the reason, and part and row of the document that is kept."""
    return {
        row: ("near_duplicates" if near else "duplicates", kept_part, kept_row)
        for of_part, row, kept_part, kept_row, near in load_duplicates(path).tolist()
        if of_part == part
    }


# --------------------------------------------------------------------------------------------- descriptions


def test_signatures_estimate_the_jaccard_similarity_of_word_5_grams():
    """400 pairs of texts of 20 to 2,000 words, up to a fifth of them changed here and there.

    The standard error of one estimate is sqrt(J(1-J)/128).
    """
    draws = random.Random(1)
    truths, estimates = [], []
    for _ in range(400):
        words = random_words(draws, round(20 * 100 ** draws.random()))
        share = draws.random() / 5
        changed = [random_words(draws, 1)[0] if draws.random() < share else word for word in words]
        first, second = " ".join(words), " ".join(changed)
        one, other = signatures(first, second)
        truths.append(jaccard(first, second))
        estimates.append(np.mean(one == other))
    truths, errors = np.array(truths), np.array(estimates) - truths
    deviations = np.sqrt(truths * (1 - truths) / SLOTS)
    assert (np.abs(errors) <= 4.5 * deviations + 1e-9).all()
    assert abs(errors.mean()) < 3 * deviations.mean() / np.sqrt(len(errors))


def test_a_document_is_described_by_itself_alone():
    """Whatever stands before and after it: nothing, others, or more than a block of them."""
    draws = random.Random(2)
    texts = [" ".join(random_words(draws, draws.randrange(60))) for _ in range(2500)]
    together = signatures(*texts)
    assert len(together) == 2500
    for row in (0, 1, 1023, 1024, 2499):
        assert (signatures(texts[row])[0] == together[row]).all()


def test_words_are_remembered_in_bounded_memory(monkeypatch):
    monkeypatch.setattr(word_ngrams, "_MAX_CACHED_WORDS", 1000)
    hasher = WordHasher()
    texts = [
        " ".join(f"w{number}" for number in range(begin, begin + 500)) for begin in range(0, 50_000, 250)
    ]
    tracemalloc.start()
    hashes = [hasher.hash_words(text) for text in texts]
    held = tracemalloc.get_traced_memory()[0] - sum(array.nbytes for array in hashes)
    tracemalloc.stop()
    assert held < 1e6
    assert all((one[250:] == other[:250]).all() for one, other in itertools.pairwise(hashes))


@pytest.mark.parametrize(
    ("text", "words"),
    [("हिन्दी भाषा", 2), ("မြန်မာ ဘာသာ", 2), ("שָׁלוֹם עוֹלָם", 2), ("İstanbul'da", 2), ("a_b ́ c", 3)],
    ids=["Hindi", "Burmese", "Hebrew with vowels", "Turkish", "a mark by itself"],
)
def test_vowel_signs_are_part_of_their_words(text, words):
    assert len(WordHasher().hash_words(text)) == words


def test_another_process_describes_alike(tmp_path):
    texts = ["The quick brown fox jumps over the lazy dog.", "Ärger", "", "日本 語"]
    program = (
        "import sys; from data.deduplication import write_descriptions\n"
        "from data.documents import TextDocument\n"
        f"write_descriptions(sys.argv[1], [TextDocument('', text) for text in {texts!r}], True)"
    )
    for name, seed, kernel in (("a", "1", {}), ("b", "2", {"RENSA_FORCE_KERNEL": "scalar"})):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path), **kernel}
        subprocess.run(
            [sys.executable, "-c", program, tmp_path / name], cwd=ROOT, env=environment, check=True
        )
    (here,) = write_parts(tmp_path, [texts])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == here.read_bytes()


def test_a_file_of_documents_is_described(tmp_path):
    with DocumentFile(tmp_path / "part.jsonl.zst") as stream:
        for text in ("one", "two\nthree"):
            stream.write(TextDocument("title", text))
    assert describe_part(tmp_path / "file.npy", tmp_path / "part.jsonl.zst", True) == {"documents": 2}
    (expected,) = write_parts(tmp_path, [["one", "two\nthree"]])
    assert (tmp_path / "file.npy").read_bytes() == expected.read_bytes()


def test_descriptions_are_whole_or_absent(tmp_path):
    def failing():
        yield TextDocument("", "one")
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        write_descriptions(tmp_path / "part.npy", failing(), near=True)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_from_other_failures(tmp_path):
    """The step that is run stops at it, rather than trying again."""
    os.symlink("/dev/full", files.temporary_path(tmp_path / "part.npy"))
    with pytest.raises(OSError) as error:
        write_descriptions(tmp_path / "part.npy", [TextDocument("", "One, two, three.")], near=True)
    assert error.value.errno == errno.ENOSPC


# ----------------------------------------------------------------------------------------- exact duplicates


def test_the_first_of_equal_texts_is_kept_over_all_parts(tmp_path):
    parts = [["one", "two", "one"], [], ["three", "two"], ["two", "four", "one"]]
    assert decide(tmp_path, parts, near=False) == [
        {2: ("duplicates", 0, 0)},
        {},
        {1: ("duplicates", 0, 1)},
        {0: ("duplicates", 0, 1), 2: ("duplicates", 0, 0)},
    ]


def test_case_and_white_space_make_no_other_text(tmp_path):
    parts = [["A Town.\nIt is old.", "a town. it  is OLD.", "A town! It is old.", "A townit is old."]]
    assert decide(tmp_path, parts, near=False) == [{1: ("duplicates", 0, 0)}]


def test_the_two_kinds_are_switched_and_counted_apart(tmp_path):
    text = " ".join(random_words(random.Random(3), 200))
    paths = write_parts(tmp_path, [[text, text, text + " end"]])
    result = tmp_path / "duplicates.npy"
    count = {"documents": 3, "duplicates": 1, "near_duplicates": 1}
    assert find_duplicates(result, paths, exact=True, near=True) == count
    count = {"documents": 3, "duplicates": 1, "near_duplicates": 0}
    assert find_duplicates(result, paths, exact=True, near=False) == count
    count = {"documents": 3, "duplicates": 0, "near_duplicates": 2}
    assert find_duplicates(result, paths, exact=False, near=True) == count


def test_nothing_beside_the_result_is_left(tmp_path):
    (path,) = write_parts(tmp_path, [["one", "one", "one two three four five six"]])
    find_duplicates(tmp_path / "duplicates.npy", [path], exact=True, near=True)
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name, "duplicates.npy"}


@pytest.mark.parametrize("near", [False, True])
def test_no_more_disk_is_taken_than_is_said(near, tmp_path, monkeypatch):
    """Of documents that all share bands: descriptions, and at the end of the work what lies beside them."""
    texts = [TextDocument("", f"{'the same words again and again ' * 20}{number}") for number in range(2000)]
    path, taken = tmp_path / "0.npy", []
    deduplication.write_descriptions(path, texts, near)
    remove = shutil.rmtree

    def measure(folder, **options):
        taken.append(sum(entry.stat().st_size for entry in Path(folder).glob("*")))
        remove(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", measure)
    deduplication.find_duplicates(tmp_path / "result.npy", [path], not near, near)
    taken.append((tmp_path / "result.npy").stat().st_size)
    headers = 3 * 128
    described, compared = deduplication.description_bytes(near), deduplication.scratch_bytes(near)
    assert len(texts) * described <= path.stat().st_size <= len(texts) * described + headers
    assert 0.9 * len(texts) * compared * near <= max(taken) <= len(texts) * compared + headers


@pytest.mark.parametrize("parts", [[], [[]], [[], [""], ["—", "one"]]])
def test_there_may_be_little_to_compare(tmp_path, parts):
    dropped = decide(tmp_path, parts)
    assert len(dropped) == len(parts)
    assert sum(map(len, dropped)) == 0


# ------------------------------------------------------------------------------------------ near duplicates


def test_near_duplicates_are_those_that_sets_find(tmp_path):
    """200 texts with copies of which some words were changed, shuffled into three parts; truth: all pairs."""
    draws = random.Random(4)
    texts = []
    for _ in range(200):
        words = random_words(draws, draws.randrange(300, 500))
        texts.append(" ".join(words))
        for changes in draws.choices([0, 1, 2, 30, 60], k=draws.randrange(3)):
            copy = list(words)
            for place in draws.sample(range(len(words)), changes):
                copy[place] = "changed"
            texts.append(" ".join(copy))
    draws.shuffle(texts)
    sets = [shingles(text) for text in texts]
    similar = {
        (a, b): len(sets[a] & sets[b]) / len(sets[a] | sets[b])
        for a, b in itertools.combinations(range(len(texts)), 2)
        if not sets[a].isdisjoint(sets[b])
    }
    # Far enough from the threshold that the estimate, with a standard error of .035 or less, is sure.
    assert not [similarity for similarity in similar.values() if 0.65 < similarity < 0.87]
    truth, kept = {}, []
    for number in range(len(texts)):
        likes = [other for other in kept if similar.get((other, number), 0) >= 0.8]
        if likes:
            truth[number] = likes[0]
        else:
            kept.append(number)
    assert len(truth) > 60

    begins = [0, 100, 101, len(texts)]
    dropped = decide(tmp_path, [texts[a:b] for a, b in itertools.pairwise(begins)])
    found = {
        begins[part] + row: begins[kept_part] + kept_row
        for part, rows in enumerate(dropped)
        for row, (_, kept_part, kept_row) in rows.items()
    }
    assert found == truth


def test_texts_without_a_word_are_alike_only_if_they_are_the_same(tmp_path):
    parts = [["🙂🙂", "— … —", "*** ***"], ["🎉 !", "***\n***", "🙂🙂"]]
    assert decide(tmp_path, parts, exact=False) == [
        {},
        {1: ("near_duplicates", 0, 2), 2: ("near_duplicates", 0, 0)},
    ]


def test_a_chain_of_small_differences_drops_only_what_a_kept_document_is_like(tmp_path):
    """Each is like the next (.85), none like the one after that (.72): every second one is kept."""
    draws = random.Random(5)
    words = random_words(draws, 2000)
    texts = []
    for step in range(6):
        texts.append(" ".join(words))
        words[step * 200 : step * 200 + 160] = random_words(draws, 160)
    assert all(0.83 < jaccard(a, b) < 0.87 for a, b in itertools.pairwise(texts))
    assert all(jaccard(a, b) < 0.75 for a, b in zip(texts, texts[2:], strict=False))
    assert decide(tmp_path, [texts]) == [{number: ("near_duplicates", 0, number - 1) for number in (1, 3, 5)}]


def test_a_copy_of_a_dropped_document_names_the_one_that_is_kept(tmp_path):
    text = " ".join(random_words(random.Random(6), 300))
    parts = [[text], [text + " end", text + " END"], [text.upper()]]
    assert decide(tmp_path, parts) == [
        {},
        {0: ("near_duplicates", 0, 0), 1: ("duplicates", 0, 0)},
        {0: ("duplicates", 0, 0)},
    ]


def write_signatures(folder: Path, rows: np.ndarray, begins: list[int]) -> list[Path]:
    described = np.zeros(len(rows), [("text", "<u8"), ("signature", "<u4", SLOTS)])
    described["text"], described["signature"] = np.arange(len(rows)), rows
    paths = []
    for part, (begin, end) in enumerate(itertools.pairwise(begins)):
        paths.append(folder / f"part_{part}.npy")
        with open(paths[-1], "wb") as stream:
            for block in np.array_split(described[begin:end], 3):
                np.save(stream, block)
    return paths


def families(draws: np.random.Generator, count: int) -> np.ndarray:
    """Signatures of relatives: each a descendant of an earlier one, some slots of which were drawn anew."""
    rows = draws.integers(0, 2**32, (count, SLOTS), dtype=np.uint32)
    for row in range(5, count):
        inherited = draws.random(SLOTS) >= draws.choice([0.02, 0.08, 0.15, 0.25])
        rows[row, inherited] = rows[draws.integers(max(0, row - 30), row), inherited]
    return draws.permutation(rows)


def dropped_by_all_pairs(rows: np.ndarray) -> dict[int, list[int]]:
    """The dropped rows, and for each the kept ones before it that it is like, going through all in order."""
    kept, dropped = [], {}
    for number, row in enumerate(rows):
        equal = rows[kept] == row
        same_band = equal.reshape(-1, 16, 8).all(axis=2).any(axis=1)
        likes = np.flatnonzero(same_band & (equal.sum(axis=1) >= LEAST_EQUAL))
        if len(likes):
            dropped[number] = [kept[like] for like in likes]
        else:
            kept.append(number)
    return dropped


@pytest.mark.parametrize("seed", range(10))
def test_what_is_kept_is_what_going_through_all_pairs_in_order_keeps(tmp_path, seed):
    draws = np.random.default_rng(seed)
    rows = families(draws, 400)
    begins = [0, *sorted(draws.integers(0, 400, 4).tolist()), 400]
    find_duplicates(tmp_path / "duplicates.npy", write_signatures(tmp_path, rows, begins), True, True)
    found = {
        begins[part] + row: begins[kept_part] + kept_row
        for part in range(5)
        for row, (_, kept_part, kept_row) in duplicates_of_part(tmp_path / "duplicates.npy", part).items()
    }
    truth = dropped_by_all_pairs(rows)
    assert 100 < len(truth) < 390
    assert found.keys() == truth.keys()
    assert all(kept in truth[row] for row, kept in found.items())


def test_very_many_of_one_template_are_compared_with_a_bounded_number(tmp_path, monkeypatch):
    """What is dropped then is still like one that is kept."""
    monkeypatch.setattr(deduplication, "_MAX_COMPARISONS", 3)
    draws = np.random.default_rng(7)
    template = draws.integers(0, 2**32, SLOTS, dtype=np.uint32)
    rows = draws.integers(0, 2**32, (2000, SLOTS), dtype=np.uint32)
    rows = np.where(draws.random((2000, SLOTS)) < 0.89, template, rows)
    paths = write_signatures(tmp_path, rows, [0, 2000])
    find_duplicates(tmp_path / "duplicates.npy", paths, exact=True, near=True)
    dropped = duplicates_of_part(tmp_path / "duplicates.npy", 0)
    assert dropped
    for row, (_, _, kept_row) in dropped.items():
        assert kept_row < row
        assert kept_row not in dropped
        assert (rows[row] == rows[kept_row]).sum() >= LEAST_EQUAL


def test_copies_by_the_thousand_leave_one(tmp_path):
    rows = np.tile(np.arange(SLOTS, dtype=np.uint32), (20_000, 1))
    paths = write_signatures(tmp_path, rows, [0, 5, 20_000])
    counts = find_duplicates(tmp_path / "duplicates.npy", paths, exact=True, near=True)
    assert counts == {"documents": 20_000, "duplicates": 0, "near_duplicates": 19_999}


def test_memory_is_a_hundred_bytes_a_document(tmp_path):
    """Of 520 that describe it: 100,000 documents, a tenth of them near copies."""
    draws = np.random.default_rng(8)
    rows = draws.integers(0, 2**32, (100_000, SLOTS), dtype=np.uint32)
    rows[90_000:] = rows[:10_000]
    rows[90_000:, 5] = 0
    paths = write_signatures(tmp_path, rows, list(range(0, 100_001, 5000)))
    del rows
    tracemalloc.start()
    counts = find_duplicates(tmp_path / "duplicates.npy", paths, exact=True, near=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counts["near_duplicates"] == 10_000
    # The 25 MB are blocks of fixed size.
    assert peak < 25e6 + 100_000 * 100
