"""Wikipedia dumps in parts: no page is lost or doubled wherever the borders lie, and damage is named."""

import bz2
import pickle
import random
import re
import tracemalloc
from pathlib import Path

import pytest
from wikipedia_cases import (
    END,
    EXCERPT,
    NAMESPACE,
    article,
    dump_xml,
    page_xml,
    towns,
    write_multistream,
)

from command_line import UsageError
from data import wikipedia_dump
from data.documents import Tally
from data.wikipedia_dump import DumpPart, Page, plan, read_pages


def read(parts: list[DumpPart]) -> tuple[list[str], Tally]:
    """Titles of the pages of parts, and what the parts tell in all."""
    tally = Tally()
    return [page.title for part in parts for page in read_pages(part, tally)], tally


def titles(*numbers: range) -> list[str]:
    return [f"Town {number}" for group in numbers for number in group]


# ------------------------------------------------------------------------------------------------ planning


def test_parts_cover_a_dump_in_order_and_can_be_sent_to_workers(tmp_path):
    path = tmp_path / "dump.xml"
    path.write_bytes(dump_xml(*towns(100)))
    parts = plan([path], part_bytes=1000)
    assert len(parts) == round(path.stat().st_size / 1000)
    assert [part.begin for part in parts] == [0, *(part.end for part in parts[:-1])]
    assert parts[-1].end == path.stat().st_size
    assert {part.source for part in parts} == {path}
    assert pickle.loads(pickle.dumps(parts)) == parts
    names = [part.name for part in parts]
    assert sorted(set(names)) == names
    assert all(re.fullmatch(r"\w+", name) for name in names)


def test_a_folders_dumps_come_in_the_order_of_their_numbers(tmp_path):
    names = [
        "enwiki-20250101-pages-articles1.xml-p1p41242",
        "enwiki-20250101-pages-articles2.xml-p41243p151573.bz2",
        "enwiki-20250101-pages-articles10.xml-p4045403p5399366",
    ]
    for name in [*reversed(names), "notes.txt", ".enwiki-20250101-pages-articles3.xml"]:
        content = dump_xml(page_xml(name, "Text."))
        (tmp_path / name).write_bytes(bz2.compress(content) if name.endswith(".bz2") else content)
    parts = plan([tmp_path])
    assert read(parts)[0] == names
    assert [part.name for part in parts] == sorted(part.name for part in parts)


def test_an_index_puts_the_borders_between_streams_and_counts_pages(tmp_path):
    path = tmp_path / "enwiki-20250101-pages-articles-multistream1.xml-p1p41242.bz2"
    offsets = write_multistream(path, towns(70), pages_per_stream=10)
    parts = plan([path], part_bytes=2 * (offsets[1] - offsets[0]) - 50)
    assert {part.begin for part in parts[1:]} <= set(offsets)
    assert len(parts) == 4
    assert sum(part.pages for part in parts) == 70
    for part in parts:
        assert len(read([part])[0]) == part.pages


def test_planning_without_an_index_reads_nothing(tmp_path):
    """A dump of the size of all of Wikipedia, most of it a hole in the file."""
    path = tmp_path / "enwiki.xml.bz2"
    with open(path, "wb") as stream:
        stream.write(b"BZh9")
        stream.truncate(22_000_000_000)
    assert len(plan([path])) == 2200


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("absent.xml", None, "no such file or folder"),
        ("dump.xml.gz", b"\x1f\x8b\x08\x00", "neither XML nor bzip2"),
        ("empty.xml", b"", "neither XML nor bzip2"),
    ],
)
def test_what_is_no_dump_is_refused_by_name(tmp_path, name, content, told):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=f"--input_files .*{name}: {told}"):
        plan([tmp_path / name])


def test_a_folder_without_dumps_is_refused_by_name(tmp_path):
    (tmp_path / "enwiki-multistream-index.txt.bz2").write_bytes(b"")
    with pytest.raises(UsageError, match=r"holds no \.xml"):
        plan([tmp_path])


@pytest.mark.parametrize(
    ("index", "told"),
    [
        (bz2.compress(b"616:10:A\n" * 9999)[:-8], "is damaged"),
        (bz2.compress(b"616:10:A\n") + b"?" + bz2.compress(b"900:11:B\n")[1:], "is damaged"),
        (b"no bzip2", "is damaged"),
        (bz2.compress(b"616 10 A\n"), "is damaged"),
        (bz2.compress(b"616:10:A\n70:11:B\n"), "is damaged"),
        (bz2.compress(b"100:10:A\n200:11:B\n"), "is another dump's"),
    ],
)
def test_an_index_that_does_not_fit_is_refused_by_name(tmp_path, index, told):
    path = tmp_path / "enwiki-multistream.xml.bz2"
    write_multistream(path, towns(20), 5)
    (tmp_path / "enwiki-multistream-index.txt.bz2").write_bytes(index)
    with pytest.raises(UsageError, match=rf"enwiki-multistream-index.txt.bz2 {told}"):
        plan([path], part_bytes=100)


# ------------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize("namespace", [NAMESPACE, ' xmlns="http://www.mediawiki.org/xml/export-0.3/"', ""])
@pytest.mark.parametrize("compressed", [True, False])
def test_pages_are_read_from_any_export_version(tmp_path, namespace, compressed):
    content = dump_xml(
        page_xml("A & B", "Text < here"),
        page_xml("Talk:A", "x", 1),
        page_xml("C", "y", redirect=True),
        page_xml("D", "#Redirect [[C]]"),
        namespace=namespace,
    )
    path = tmp_path / "dump"
    path.write_bytes(bz2.compress(content) if compressed else content)
    (part,) = plan([path])
    assert list(read_pages(part, Tally())) == [
        Page("A & B", 0, False, "Text < here"),
        Page("Talk:A", 1, False, "x"),
        Page("C", 0, True, "y"),
        Page("D", 0, True, "#Redirect [[C]]"),
    ]


def test_of_several_revisions_the_last_one_is_the_page(tmp_path):
    revisions = "".join(f"<revision><text>{text}</text></revision>" for text in ("old", "new"))
    (tmp_path / "dump.xml").write_bytes(dump_xml(f"<page><title>A</title><ns>0</ns>{revisions}</page>"))
    (part,) = plan([tmp_path / "dump.xml"])
    assert [page.wikitext for page in read_pages(part, Tally())] == ["new"]


@pytest.mark.parametrize("part_bytes", [1, 2, 3, 7, 50, 333])
@pytest.mark.parametrize("read_bytes", [3, 1 << 20])
def test_borders_may_lie_at_any_byte_of_the_xml(tmp_path, monkeypatch, part_bytes, read_bytes):
    monkeypatch.setattr(wikipedia_dump, "_READ_BYTES", read_bytes)
    path = tmp_path / "dump.xml"
    path.write_bytes(dump_xml(*towns(5)))
    assert read(plan([path], part_bytes)) == (titles(range(5)), Tally())


@pytest.fixture(scope="module")
def forms(tmp_path_factory) -> dict[str, Path]:
    """One dump of 60 pages, 700 kB, in the forms that Wikimedia publishes."""
    folder = tmp_path_factory.mktemp("forms")
    pages = towns(60, words=600)
    paths = {
        "plain": folder / "enwiki-plain.xml",
        "single stream": folder / "enwiki-pages-articles.xml.bz2",
        "multistream with index": folder / "enwiki-multistream.xml.bz2",
        "multistream": folder / "enwiki-streams.xml.bz2",
    }
    paths["plain"].write_bytes(dump_xml(*pages))
    paths["single stream"].write_bytes(bz2.compress(dump_xml(*pages), 1))
    write_multistream(paths["multistream with index"], pages, 7)
    paths["multistream"].write_bytes(paths["multistream with index"].read_bytes())
    return paths


FORMS = ["plain", "single stream", "multistream with index", "multistream"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("part_bytes", [20_000, 70_000, 10_000_000])
def test_every_form_of_a_dump_has_the_same_pages_in_any_parts(forms, form, part_bytes):
    parts = plan([forms[form]], part_bytes)
    assert len(parts) > 3 or part_bytes > 100_000
    assert read(parts) == (titles(range(60)), Tally())
    assert sorted(read(list(reversed(parts)))[0]) == sorted(titles(range(60)))


def test_the_real_excerpt_has_the_same_pages_in_every_form_and_any_parts(shared_data, tmp_path):
    """Against the titles and texts that the whole XML has by patterns."""
    content = bz2.decompress((shared_data / EXCERPT).read_bytes())
    expected = re.findall(rb"<page>.*?</page>", content, re.DOTALL)
    path = tmp_path / "enwiki-multistream.xml.bz2"
    write_multistream(path, [page.decode() for page in expected], 10)
    (tmp_path / "plain.xml").write_bytes(content)
    (whole,) = plan([shared_data / EXCERPT])
    pages = list(read_pages(whole, Tally()))
    assert len(pages) == len(expected) == 206
    assert all(
        page.title.encode() in xml.replace(b"&amp;", b"&") for page, xml in zip(pages, expected, strict=True)
    )
    for dump in (shared_data / EXCERPT, path, tmp_path / "plain.xml"):
        tally = Tally()
        assert [page for part in plan([dump], 300_000) for page in read_pages(part, tally)] == pages
        assert tally == Tally()


@pytest.mark.parametrize("compressed", [True, False])
def test_memory_is_bounded_by_a_page_and_a_block(tmp_path, compressed):
    path = tmp_path / "dump"
    content = dump_xml(*(page_xml(f"Page {number}", "word " * 20_000) for number in range(100)))
    path.write_bytes(bz2.compress(content, 1) if compressed else content)
    (part,) = plan([path], part_bytes=1 << 40)
    tracemalloc.start()
    assert sum(1 for _ in read_pages(part, Tally())) == 100
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(content) > 10_000_000
    assert peak < 6_000_000


# ------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("part_bytes", [37, 100_000])
@pytest.mark.parametrize("read_bytes", [*range(4, 12), 1 << 16])
def test_all_whole_pages_before_a_cut_in_the_xml_are_there_and_the_cut_is_named(
    tmp_path, monkeypatch, part_bytes, read_bytes
):
    monkeypatch.setattr(wikipedia_dump, "_READ_BYTES", read_bytes)
    content = dump_xml(*towns(4))
    path = tmp_path / "dump.xml"
    for cut in random.Random(read_bytes).sample(range(10, len(content) - len(END)), 20):
        path.write_bytes(content[:cut])
        found, tally = read(plan([path], part_bytes))
        kept = content[:cut].count(b"</page>")
        assert found == titles(range(kept))
        assert tally.faults == [f"{path}: cut off at byte {cut:,}: no </mediawiki> is at its end"]
        begun = content[:cut].count(b"<page>")
        assert tally.dropped == ({"damaged": 1} if begun > kept else {})
        assert [why for _, why in tally.skipped] == ["cut off"] * (begun - kept)


@pytest.mark.parametrize("part_bytes", [20_000, 10_000_000])
@pytest.mark.parametrize("share", [0.1, 0.45, 0.8, 0.99])
def test_all_whole_pages_before_a_cut_in_a_single_stream_are_there(forms, tmp_path, part_bytes, share):
    content = forms["single stream"].read_bytes()
    path = tmp_path / "cut.xml.bz2"
    path.write_bytes(content[: int(share * len(content))])
    # What bzip2 itself can decode, block by block.
    text = bz2.BZ2Decompressor().decompress(path.read_bytes())
    found, tally = read(plan([path], part_bytes))
    assert found == titles(range(text.count(b"</page>")))
    (fault,) = tally.faults
    assert "cut off at byte" in fault


@pytest.mark.parametrize("part_bytes", [20_000, 10_000_000])
@pytest.mark.parametrize("has_index", [True, False])
@pytest.mark.parametrize("past_stream", [-100, 0, 2, 3, 200])
def test_all_pages_of_the_streams_before_a_cut_are_there(tmp_path, part_bytes, has_index, past_stream):
    path = tmp_path / "enwiki-multistream.xml.bz2"
    offsets = write_multistream(path, towns(40, words=300), 10)
    path.write_bytes(path.read_bytes()[: offsets[2] + past_stream])
    if not has_index:
        (tmp_path / "enwiki-multistream-index.txt.bz2").unlink()
    found, tally = read(plan([path], part_bytes))
    assert found == titles(range(10 if past_stream < 0 else 20))
    (fault,) = tally.faults
    assert "cut off at byte" in fault
    if has_index:
        assert tally.dropped == {"damaged": 40 - len(found)}


@pytest.mark.parametrize("part_bytes", [20_000, 70_000, 10_000_000])
@pytest.mark.parametrize("has_index", [True, False])
def test_a_damaged_stream_costs_its_pages_and_is_named(tmp_path, has_index, part_bytes):
    path = tmp_path / "enwiki-multistream.xml.bz2"
    offsets = write_multistream(path, towns(40, words=300), 10)
    if not has_index:
        (tmp_path / "enwiki-multistream-index.txt.bz2").unlink()
    content = bytearray(path.read_bytes())
    middle = (offsets[1] + offsets[2]) // 2
    content[middle : middle + 20] = bytes(20)
    path.write_bytes(content)
    found, tally = read(plan([path], part_bytes))
    assert found == titles(range(10), range(20, 40))
    assert tally.faults == [f"{path}: the bzip2 block at byte {offsets[1] + 4:,} is damaged"]
    assert tally.dropped == ({"damaged": 10} if has_index else {})


@pytest.mark.parametrize("part_bytes", [5_000, 40_000, 10_000_000])
def test_a_damaged_block_costs_the_pages_that_it_has_a_part_of(forms, tmp_path, part_bytes):
    text = dump_xml(*towns(60, words=600))
    content = bytearray(forms["single stream"].read_bytes())
    middle = len(content) // 2
    content[middle] ^= 16
    path = tmp_path / "damaged.xml.bz2"
    path.write_bytes(content)
    # A block of bzip2 -1 has 99,981 characters of a text without runs: the middle of the file is in this one.
    block = 99_981 * int(len(text) / 99_981 / 2)
    lost = [
        number
        for number, page in enumerate(re.finditer(rb"<page>.*?</page>", text, re.DOTALL))
        if page.start() < block + 99_981 and page.end() > block
    ]
    found, tally = read(plan([path], part_bytes))
    assert found == titles(range(lost[0]), range(lost[-1] + 1, 60))
    (fault,) = tally.faults
    assert re.fullmatch(rf"{path}: the bzip2 block at byte [\d,]+ is damaged", fault)
    # Of the pages in the block only the first one's title can be read.
    assert tally.skipped == [(f"Town {lost[0]}", "damaged")]
    assert tally.dropped == {"damaged": 1}


@pytest.mark.parametrize("form", ["single stream", "multistream"])
@pytest.mark.parametrize("seed", range(6))
def test_whatever_damage_loses_pages_is_named_and_the_same_in_any_parts(forms, tmp_path, form, seed):
    """Bits flipped, stretches overwritten, removed or put in, the end cut off."""
    draws = random.Random(seed)
    content = bytearray(forms[form].read_bytes())
    for _ in range(draws.randrange(1, 4)):
        begin, length = draws.randrange(4, len(content)), int(10 ** draws.uniform(0, 5))
        new = draws.choice([b"", bytes(length), draws.randbytes(length)])
        old = draws.choice([0, 1, length, len(content)])
        content[begin : begin + old] = new
    path = tmp_path / "damaged.xml.bz2"
    path.write_bytes(content)
    outcomes = [read(plan([path], part_bytes)) for part_bytes in (3_000, 77_777, 10_000_000)]
    assert outcomes[0] == outcomes[1] == outcomes[2]
    found, tally = outcomes[0]
    assert found == sorted(found, key=lambda title: int(title.split()[1]))
    assert set(found) <= set(titles(range(60)))
    assert tally.faults or len(found) == 60


@pytest.mark.parametrize("part_bytes", [100, 10_000_000])
@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b"</page>\n<page><title>Town 6", b"<xage>\n<page><title>Town 6", "without an end"),
        (
            b"<ns>0</ns><id>1</id><revision><id>2</id><text xml:space=\"preserve\">'''Town 5",
            b"\0\xff",
            "damaged",
        ),
        (b"Town 5</title><ns>0", b"Town 5</title><ns>o", "damaged"),
    ],
)
def test_a_page_of_damaged_xml_is_named_and_costs_itself(tmp_path, part_bytes, old, new, why):
    content = dump_xml(*towns(10))
    assert content.count(old) == 1
    path = tmp_path / "dump.xml"
    path.write_bytes(content.replace(old, new))
    found, tally = read(plan([path], part_bytes))
    assert found == titles(range(5), range(6, 10))
    assert tally.dropped == {"damaged": 1}
    ((title, told),) = tally.skipped
    assert (title, told.partition(" (")[0]) == ("Town 5", why)
    assert tally.faults == [f"{path}: Town 5: {told}"]


def test_a_page_that_never_ends_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(wikipedia_dump, "_MAX_PAGE_BYTES", 100_000)
    monkeypatch.setattr(wikipedia_dump, "_READ_BYTES", 10_000)
    endless = page_xml("Endless", "word " * 200_000).replace("</page>", "")
    path = tmp_path / "dump.xml"
    path.write_bytes(dump_xml(page_xml("First", article(1)), endless, page_xml("Last", article(2))))
    (part,) = plan([path])
    tracemalloc.start()
    found, tally = read([part])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == ["First", "Last"]
    assert tally.faults == [f"{path}: Endless: without an end in 100,000 bytes"]
    assert peak < 600_000


def test_a_file_that_is_no_dump_inside_is_a_fault(tmp_path):
    (tmp_path / "page.xml").write_text("<html><body>404</body></html>")
    (tmp_path / "header.xml.bz2").write_bytes(b"BZh9")
    found, tally = read(plan([tmp_path / "page.xml", tmp_path / "header.xml.bz2"]))
    assert found == []
    assert len(tally.faults) == 2
