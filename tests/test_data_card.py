"""The card says what the manifest says, is Markdown whatever stands in it, and is the same each time."""

import html
import io
import re
import shutil
from pathlib import Path

import matplotlib
import matplotlib.image
import numpy as np
import pytest
from shard_folders import MANIFEST, TEXTS, flip_bit, read_manifest, shard_path, write_folder

import files
from data import data_card
from tfrecords import CorruptShard

SOURCES = [
    {
        "name": "a|b `c`.txt",
        "bytes": 1000,
        "sha256": "12" * 32,
        "licence": "CC BY-SA 4.0",
        "origin": "a_b*c*",
    },
    {"name": "plain.txt", "bytes": 2_000_000, "sha256": "34" * 32},
]


def card_of(folder: Path) -> str:
    data_card.write(folder)
    return (folder / "DATA_CARD.md").read_text(encoding="utf-8")


def section(card: str, title: str) -> str:
    """A section's text, up to the next one."""
    return re.search(rf"^## {title}$(.*?)(?=^## |\Z)", card, re.MULTILINE | re.DOTALL)[1]


def rendered_tables(text: str) -> list[list[list[str]]]:
    """The cells of each table by another Markdown reader, as plain text."""
    markdown = pytest.importorskip("markdown")
    page = markdown.markdown(text, extensions=["tables"])
    tables = []
    for table in re.findall(r"<table>.*?</table>", page, re.DOTALL):
        rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
        cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
        tables.append([[html.unescape(re.sub(r"<[^>]+>", "", cell)) for cell in row] for row in cells])
    return tables


def test_card_says_what_was_worked_out_by_hand(tmp_path):
    card = card_of(write_folder(tmp_path / "shards"))
    assert card.startswith("# Pre-training examples: sequences of 12\n")
    summary = dict(rendered_tables(card.split("\n## ")[0])[0])
    assert summary["documents"] == "4"
    assert summary["examples"] == "5 of up to 12 tokens"
    assert summary["tokens"] == "28 with [CLS] and [SEP], 5.6 an example"
    assert summary["cut off"] == "4 further tokens, 20.0 % of the text, had no room in an example"
    assert summary["unknown tokens"] == "7.143 % of the tokens are [UNK]"
    assert summary["vocabulary"] == "10 WordPiece pieces; text lower-cased, accents dropped"
    padding, lengths = rendered_tables(section(card, "Lengths and padding"))
    assert padding[1] == ["12", "5", "28", "53.3 %"]
    assert [row[:3] for row in lengths] == [["tokens", "examples", "share"], ["1-12", "5", "100.0 %"]]
    settings = dict(rendered_tables(section(card, "Settings"))[0])
    assert settings["max_seq_length"] == "12" and settings["strip_accents"] == "None"
    assert settings["vocabulary_sha256"] == MANIFEST["vocabulary_sha256"]
    assert "3 shards" in section(card, "Files")


def test_first_three_examples_are_decoded(tmp_path):
    """The third stands in the second shard."""
    card = card_of(write_folder(tmp_path / "shards"))
    shown = re.findall(r"^    (.*)$", section(card, "The first examples, decoded"), re.MULTILINE)
    assert shown == TEXTS


def test_longer_examples_are_wrapped_at_spaces(language, tmp_path):
    shutil.copytree(language / "shards_64", tmp_path / "shards")
    shown = section(card_of(tmp_path / "shards"), "The first examples, decoded")
    examples = [re.sub(r"\s+", " ", text).strip() for text in re.split(r"Example \d:", shown)[1:]]
    assert len(examples) == 3 and all(len(line) <= 104 for line in shown.splitlines())
    text = " ".join((language / "text" / "language.txt").read_text().split())
    for example in examples:
        assert example.startswith("[CLS] ") and example.endswith(" [SEP]")
        # Where a line of the document ended the example's segment, [SEP] stands.
        for segment in example.removeprefix("[CLS] ").removesuffix(" [SEP]").split(" [SEP] "):
            assert segment in text


def test_sources_have_licence_origin_and_checksum(tmp_path):
    card = card_of(write_folder(tmp_path / "shards", sources=SOURCES))
    assert "2 files, 2,001,000 bytes as stored." in card
    (table,) = rendered_tables(section(card, "Sources"))
    assert table == [
        ["file", "bytes", "licence", "origin", "SHA-256"],
        ["a|b `c`.txt", "1,000", "CC BY-SA 4.0", "a_b*c*", "12" * 32],
        ["plain.txt", "2,000,000", "not recorded", "not recorded", "34" * 32],
    ]


def test_documents_dropped_are_listed_by_reason(tmp_path):
    dropped = {"shorter than 200 characters": 30, "<b> & | _x_": 1234}
    skipped = [{"name": "latin.txt", "reason": "not UTF-8"}]
    changes = {"documents_kept": 5000, "documents_dropped": dropped, "skipped_sources": skipped}
    card = card_of(write_folder(tmp_path / "shards", **changes))
    documents, files_skipped = rendered_tables(section(card, "Documents kept and dropped"))
    assert documents == [
        ["", "documents"],
        ["kept", "5,000"],
        ["dropped: <b> & | _x_", "1,234"],
        ["dropped: shorter than 200 characters", "30"],
        ["in all", "6,264"],
    ]
    assert files_skipped == [["file", "reason"], ["latin.txt", "not UTF-8"]]
    plain = section(card_of(write_folder(tmp_path / "plain")), "Documents kept and dropped")
    assert "4 documents kept; how many were dropped is not recorded." in plain
    assert "No file was skipped." in plain


def test_of_thousands_of_sources_the_first_are_listed_and_the_rest_counted(tmp_path):
    sources = [{"name": f"{number}.txt", "bytes": 10, "sha256": "ab" * 32} for number in range(5000)]
    card = card_of(write_folder(tmp_path / "shards", sources=sources))
    assert "5,000 files, 50,000 bytes" in card and "and 4,950 more, in `manifest.json`" in card
    assert len(card) < 20_000


def test_title_and_held_out_part_are_said(tmp_path):
    card = card_of(write_folder(tmp_path / "shards", title="English Wikipedia", part="held_out"))
    assert card.startswith("# English Wikipedia: sequences of 12\n\nDocuments that were held out")


def test_same_data_give_the_same_bytes_anywhere(tmp_path, monkeypatch):
    """In another folder, on another day, under a user's own style of plots."""
    written = []
    for number, name in enumerate(("one", "two/three")):
        folder = write_folder(tmp_path / name)
        if number:
            monkeypatch.setitem(matplotlib.rcParams, "font.size", 20)
            monkeypatch.setitem(matplotlib.rcParams, "axes.facecolor", "red")
            monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
        data_card.write(folder)
        written.append([(folder / name).read_bytes() for name in ("DATA_CARD.md", "length_histogram.png")])
    assert written[0] == written[1]
    assert b"matplotlib" not in written[0][1].lower() and b"tEXt" not in written[0][1]
    assert matplotlib.rcParams["font.size"] == 20, "the user's style is as it was"


def test_picture_has_bars_as_high_as_the_counts(tmp_path):
    """Read back from its pixels: heights of the blue runs, in proportion to the tallest. Lengths 1 to 16 are
    one bin, of 100 examples; then come 50, 0, 25 and 75."""
    settings = MANIFEST["settings"] | {"max_seq_length": 80}
    lengths = {"1": 60, "16": 40, "17": 50, "64": 25, "65": 70, "80": 5}
    folder = write_folder(tmp_path / "shards", settings=settings, length_histogram=lengths)
    picture = data_card.draw_histogram(read_manifest(folder))
    pixels = matplotlib.image.imread(io.BytesIO(picture), format="png")[..., :3]
    is_bar = (np.abs(pixels - np.array([31, 119, 180]) / 255) < 0.02).all(axis=2)
    heights = is_bar.sum(axis=0)
    columns = np.flatnonzero(heights)
    runs = np.split(heights[columns], np.flatnonzero(np.diff(columns) > 1) + 1)
    tallest = [int(np.median(run)) for run in runs]
    assert len(tallest) == 4, "a bin without examples has no bar"
    assert np.allclose(np.array(tallest) / tallest[0], [1, 0.5, 0.25, 0.75], atol=0.02)


def test_earlier_manifest_without_a_histogram_has_a_card(tmp_path):
    folder = write_folder(tmp_path / "shards")
    manifest = read_manifest(folder)
    del manifest["length_histogram"]
    files.write_json(folder / "manifest.json", manifest)
    card = card_of(folder)
    assert len(rendered_tables(section(card, "Lengths and padding"))) == 1
    assert not (folder / "length_histogram.png").exists() and "length_histogram" not in card


def test_earlier_manifest_that_does_not_tell_what_was_cut_off_has_a_card(tmp_path):
    folder = write_folder(tmp_path / "shards")
    manifest = read_manifest(folder)
    del manifest["cut_off_tokens"], manifest["cut_off_share"]
    files.write_json(folder / "manifest.json", manifest)
    assert dict(rendered_tables(card_of(folder).split("\n## ")[0])[0])["cut off"] == "not recorded"


def test_folder_without_an_example_says_so(tmp_path):
    folder = write_folder(tmp_path / "shards")
    manifest = read_manifest(folder)
    empty = {"name": "x.tfrecord", "examples": 0, "bytes": 0, "sha256": "ab" * 32}
    changes = {"shards": [empty], "examples": 0, "tokens": 0, "documents": 0, "padding_share": 1.0}
    histogram = {"length_histogram": {}}
    files.write_json(folder / "manifest.json", manifest | changes | histogram)
    card = card_of(folder)
    assert "There are none." in section(card, "The first examples, decoded")


def test_card_names_its_manifest_by_checksum(tmp_path):
    folder = write_folder(tmp_path / "shards")
    checksum = files.sha256_of_file(folder / "manifest.json")
    assert data_card.manifest_checksum(card_of(folder)) == checksum
    assert data_card.manifest_checksum("# A card of another tool\n") is None


def test_nothing_is_written_where_something_is_missing_or_damaged(tmp_path):
    folder = write_folder(tmp_path / "shards")
    flip_bit(shard_path(folder, 0), 300)
    with pytest.raises(CorruptShard, match="record 0 is damaged"):
        data_card.write(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError):
        data_card.write(folder)
    assert not list(folder.glob("*.md")) and not list(folder.glob("*.png")) and not list(folder.glob(".*"))
