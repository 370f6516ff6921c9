"""Sentences of film reviews: neutral ones left out, none on both sides, tables that run_tf_glue.py reads."""

import csv

import pytest
from test_package_files import member

from data import movie_reviews, package_files

LINES = [
    (f"{n}", rating, f'Sentence {n} is "good", é') for n in range(400) for rating in ("2.5", "-1.0", "0.99")
]


@pytest.fixture
def written(tmp_path, monkeypatch, capsys):
    content = "".join("\t".join(line) + "\r\n" for line in LINES).encode()
    (tmp_path / "rated.txt").write_bytes(content)
    file_set = package_files.FileSet("tiny-package==1.0", (member("tiny/rated.txt", content),))
    monkeypatch.setitem(package_files.FILE_SETS, "movie_reviews", file_set)
    monkeypatch.setattr("sys.argv", ["movie_reviews.py", "--output_dir", str(tmp_path)])
    assert movie_reviews.main() == 0
    rows = {}
    for name in ("train", "dev"):
        with open(tmp_path / f"{name}.tsv", encoding="utf-8", newline="") as table:
            rows[name] = list(csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE))
    return rows


def test_labels_are_the_signs_of_ratings_that_are_not_near_zero(written):
    rows = written["train"] + written["dev"]
    assert len(rows) == 800
    assert {(row["rating"], row["label"]) for row in rows} == {("2.5", "positive"), ("-1.0", "negative")}
    assert {row["sentence"] for row in rows} == {sentence for _, _, sentence in LINES}


def test_a_fifth_of_the_sentences_is_held_out_and_none_is_on_both_sides(written):
    sides = [{row["sentence"] for row in rows} for rows in written.values()]
    assert not sides[0] & sides[1]
    # 400 draws at .2: a deviation of 8.
    assert 50 < len(sides[1]) < 110
