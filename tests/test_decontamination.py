"""A document that holds 13 words in a row of an evaluation passage is found, and no other."""

import json
import random
import re
from pathlib import Path

import pytest

from command_line import UsageError
from data.decontamination import EvaluationIndex, build_evaluation_index

PASSAGE = (
    "Alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november oscar papa "
    "quebec romeo sierra tango uniform victor whiskey xray yankee zulu."
)
WORDS = PASSAGE.rstrip(".").split()


def index_of(folder: Path, *texts: str) -> EvaluationIndex:
    paths = [folder / f"evaluation_{number}.txt" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text, encoding="utf-8")
    build_evaluation_index(folder / "index.npy", paths)
    return EvaluationIndex.load(folder / "index.npy")


def squad(*contexts: str) -> str:
    paragraphs = [{"context": context, "qas": []} for context in contexts]
    return json.dumps({"version": "1.1", "data": [{"title": "T", "paragraphs": paragraphs}]})


def contexts(path: Path) -> list[str]:
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    return [paragraph["context"] for article in articles for paragraph in article["paragraphs"]]


def test_thirteen_words_in_a_row_are_found_and_twelve_are_not(tmp_path):
    index = index_of(tmp_path, PASSAGE)
    for begin in range(len(WORDS) - 12):
        assert index.overlaps("So it begins: " + " ".join(WORDS[begin : begin + 13]) + " and ends.")
        assert not index.overlaps("So it begins: " + " ".join(WORDS[begin : begin + 12]) + " and ends.")


def test_the_words_must_stand_in_a_row_and_in_order(tmp_path):
    index = index_of(tmp_path, PASSAGE)
    assert index.overlaps(PASSAGE)
    assert not index.overlaps(" ".join(WORDS[::-1]))
    for place in (5, 12, 20):
        assert not index.overlaps(" ".join([*WORDS[place - 5 : place], "word", *WORDS[place : place + 8]]))
        assert not index.overlaps(" ".join([*WORDS[place - 5 : place], *WORDS[place + 1 : place + 6]]))


@pytest.mark.parametrize(
    "disguise",
    [
        str.upper,
        lambda text: text.replace(" ", "\n"),
        lambda text: text.replace(" ", "\u00a0\u2013 "),
        lambda text: re.sub(r"(\w+)", r"“\1”,", text),
        lambda text: re.sub(r"(\w+)", r"_\1_", text),
        lambda text: "".join(chr(ord(c) + 0xFEE0) if c.isalpha() else c for c in text),
    ],
    ids=["case", "lines", "dashes", "quotes", "emphasis", "full width"],
)
def test_case_punctuation_and_width_hide_nothing(tmp_path, disguise):
    assert index_of(tmp_path, PASSAGE).overlaps(disguise(PASSAGE))


def test_passages_of_eight_to_twelve_words_are_found_whole(tmp_path):
    index = index_of(tmp_path, " ".join(WORDS[:8]) + ".\n\n" + " ".join(WORDS[10:22]))
    assert index.overlaps("He said: " + " ".join(WORDS[:8]) + ", and left.")
    assert not index.overlaps(" ".join(WORDS[:7]) + " and " + WORDS[7])
    assert index.overlaps(" ".join(WORDS[10:22]))
    assert not index.overlaps(" ".join(WORDS[10:21]))


def test_shorter_passages_are_counted_and_not_looked_for(tmp_path):
    (tmp_path / "a.txt").write_text(" ".join(WORDS[:7]) + "\n\n" + " ".join(WORDS))
    counts = build_evaluation_index(tmp_path / "index.npy", [tmp_path / "a.txt"])
    assert counts == {"passages": 2, "too_short": 1, "ngrams": 26 - 12}
    assert not EvaluationIndex.load(tmp_path / "index.npy").overlaps(" ".join(WORDS[:7]))


def test_a_passage_of_a_text_file_ends_at_a_blank_line(tmp_path):
    lines = [" ".join(WORDS[:6]), " ".join(WORDS[6:13])]
    assert index_of(tmp_path, "\n".join(lines)).overlaps(" ".join(WORDS[:13]))
    with pytest.raises(UsageError, match="no passage of 8 words"):
        index_of(tmp_path, "\n \n".join(lines))


def test_contexts_of_squad_files_are_passages(tmp_path):
    path = tmp_path / "dev.json"
    path.write_text(squad("Something else entirely.", PASSAGE))
    counts = build_evaluation_index(tmp_path / "index.npy", [path])
    assert counts == {"passages": 2, "too_short": 1, "ngrams": 14}
    assert EvaluationIndex.load(tmp_path / "index.npy").overlaps(PASSAGE)


def test_the_index_follows_from_the_passages_alone(tmp_path):
    """Whatever the order of the files, and however often a passage comes."""
    (tmp_path / "a.txt").write_text(PASSAGE)
    (tmp_path / "b.json").write_text(squad("One two three four five six seven eight.", PASSAGE))
    build_evaluation_index(tmp_path / "one.npy", [tmp_path / "a.txt", tmp_path / "b.json"])
    build_evaluation_index(tmp_path / "other.npy", [tmp_path / "b.json", tmp_path / "a.txt"])
    build_evaluation_index(tmp_path / "third.npy", [tmp_path / "b.json"])
    assert (tmp_path / "one.npy").read_bytes() == (tmp_path / "other.npy").read_bytes()
    assert (tmp_path / "one.npy").read_bytes() == (tmp_path / "third.npy").read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("absent.txt", None, "No such file or directory"),
        ("absent.json", None, "No such file or directory"),
        ("latin.txt", b"caf\xe9 " * 20, "not UTF-8"),
        ("cut.json", squad(PASSAGE)[:-20].encode(), "not JSON"),
        ("list.json", b"[1, 2]", "not SQuAD format"),
        ("other.json", b'{"data": [{"paragraphs": [{"qas": []}]}]}', "article 1, paragraph 1: no 'context'"),
        ("empty.txt", b"", "no passage of 8 words or more in it"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, name, content, told):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=f"^--decontaminate_against {re.escape(str(path))}: .*{told}"):
        build_evaluation_index(tmp_path / "index.npy", [path])
    assert not (tmp_path / "index.npy").exists()


def test_a_folder_is_named(tmp_path):
    with pytest.raises(UsageError, match=f"--decontaminate_against {tmp_path}: Is a directory"):
        build_evaluation_index(tmp_path / "index.npy", [tmp_path])


def ngrams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.lower())
    return {tuple(words[begin : begin + 13]) for begin in range(len(words) - 12)}


def test_real_contexts_are_found_in_real_articles_where_sets_find_them(shared_data, tmp_path):
    """XQuAD's contexts in WikiText's articles: planted in every seventh, or there by themselves."""
    evaluation = shared_data / "squad/dev-v1.1.json"
    passages = contexts(evaluation)
    counts = build_evaluation_index(tmp_path / "index.npy", [evaluation])
    index = EvaluationIndex.load(tmp_path / "index.npy")
    expected = set().union(*map(ngrams, passages))
    assert counts == {"passages": len(passages), "too_short": 0, "ngrams": len(expected)}

    draws = random.Random(1)
    text = (shared_data / "wikipedia/wikitext-2-valid.txt").read_text(encoding="utf-8")
    articles = [article for article in re.split(r"(?m)^ = [^=]+ = $", text) if article.strip()]
    assert len(articles) > 50
    found = planted = 0
    for number, article in enumerate(articles):
        if number % 7 == 0:
            passage = draws.choice(passages).split()
            begin = draws.randrange(len(passage) - 20)
            words = article.split()
            place = draws.randrange(len(words))
            article = " ".join(words[:place] + passage[begin : begin + 20] + words[place:])
            planted += 1
        assert index.overlaps(article) == (not ngrams(article).isdisjoint(expected))
        found += index.overlaps(article)
    assert found >= planted


def test_every_passage_is_found_whole(shared_data, tmp_path):
    evaluation = shared_data / "squad/train-v1.1.json"
    build_evaluation_index(tmp_path / "index.npy", [evaluation])
    index = EvaluationIndex.load(tmp_path / "index.npy")
    assert all(map(index.overlaps, contexts(evaluation)))
    assert not any(map(index.overlaps, contexts(shared_data / "squad/dev-v1.1.json")))
