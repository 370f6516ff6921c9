"""Wikipedia dumps: markup reads as text, no page is lost or doubled, and the files are exact or absent."""

import bz2
import json
import re
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from data import wikipedia_extraction
from data.wikipedia_extraction import (
    DamagedDump,
    DocumentWriter,
    Page,
    is_disambiguation,
    iterate_pages,
    wikitext_to_text,
)

ROOT = Path(__file__).parents[1]
EXCERPT = (
    ROOT.parent / "shared/data/wikipedia/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
)
NAMESPACE = "http://www.mediawiki.org/xml/export-0.10/"


def page_xml(title: str, text: str, namespace: int = 0, redirect: bool = False) -> str:
    mark = '<redirect title="Elsewhere" />' if redirect else ""
    return (
        f"<page><title>{escape(title)}</title><ns>{namespace}</ns><id>1</id>{mark}"
        f'<revision><id>2</id><text xml:space="preserve">{escape(text)}</text></revision></page>\n'
    )


def dump_xml(*pages: str, namespace: str = f' xmlns="{NAMESPACE}"') -> bytes:
    return f"<mediawiki{namespace}><siteinfo/>\n{''.join(pages)}</mediawiki>\n".encode()


def article(number: int) -> str:
    return (
        f"'''Town {number}''' is a town in [[Province|the province]]. It has {number} people.\n\nIt is old.\n"
    )


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "data" / "wikipedia_extraction.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


# ------------------------------------------------------------------------------------------------- markup


@pytest.mark.parametrize(
    ("wikitext", "paragraphs"),
    [
        pytest.param(
            "'''Bold''' and ''slanted'' and '''''both''''' words.",
            ["Bold and slanted and both words."],
            id="styles",
        ),
        pytest.param(
            "The '''dogs'''' tails are long.", ["The dogs' tails are long."], id="apostrophe-in-bold"
        ),
        pytest.param("A [[cat]]s' [[Paw (foot)|paw]] is soft.", ["A cats' paw is soft."], id="links"),
        pytest.param(
            "One\nline goes on.\n\nAnother one begins.",
            ["One line goes on.", "Another one begins."],
            id="paragraphs",
        ),
        pytest.param(
            "Before it. [[File:A.jpg|thumb|upright|A [[cat]] and [[Dog|dogs]] at {{cvt|1|m}}.]] After it.",
            ["Before it. After it."],
            id="nested-file",
        ),
        pytest.param(
            "[[image:a.png|20px]]It is here.[[Category:Cats]][[fr:Chat]][[simple:Cat]]",
            ["It is here."],
            id="categories-interwiki",
        ),
        pytest.param(
            "See [[:Category:Cats]] for more.", ["See Category:Cats for more."], id="colon-link-is-text"
        ),
        pytest.param(
            'It is so.<ref>{{cite web|url=http://a.b|x=|}} p. 3</ref> Yes<ref name="b" /> it is.',
            ["It is so. Yes it is."],
            id="references",
        ),
        pytest.param(
            "It is <ref>never closed. And it goes on.",
            ["It is never closed. And it goes on."],
            id="unclosed-reference",
        ),
        pytest.param("One here.<!-- two\n\nthree --> Four here.", ["One here. Four here."], id="comments"),
        pytest.param(
            "A<br/>B C<br>D <small>e</small> <span style='x'>f</span>.", ["A B C D e f."], id="tags"
        ),
        pytest.param(
            "Fish &amp; chips&nbsp;&mdash; 5&nbsp;&deg;C&#39;s.", ["Fish & chips — 5 °C's."], id="entities"
        ),
        pytest.param(
            "Water is H<sub>2</sub>O, a town 10<sup>5</sup> km<sup>2</sup>, the 5<sup>th</sup>.",
            ["Water is H2O, a town 10⁵ km², the 5th."],
            id="sub-and-superscripts",
        ),
        pytest.param(
            "Text before it.\n{| class=wikitable\n|-\n! Head !! Two\n|-\n| [[a]] || {{b|c}}\n"
            "{|\n| inner table\n|}\n| last cell\n|}\nText after it.",
            ["Text before it.", "Text after it."],
            id="nested-tables",
        ),
        pytest.param(
            "Text before it.\n{|\n| cell one || cell two\n== Next ==\nText after it.",
            ["Text before it.", "Text after it."],
            id="unclosed-table",
        ),
        pytest.param(
            "A word here.\n<gallery>\nA.jpg|A fine caption here.\n</gallery>\nB word here.",
            ["A word here.", "B word here."],
            id="gallery",
        ),
        pytest.param("__NOTOC__ It is {{DISPLAYTITLE:x}}here now.", ["It is here now."], id="magic-words"),
        pytest.param(
            "See [http://a.b/c its page] and [http://a.b] or http://a.b/c?d=e now.",
            ["See its page and or now."],
            id="external-links",
        ),
        pytest.param(
            "[[Algiers]] ({{lang-ar|}}; {{IPA-xx|a}}) is big.", ["Algiers is big."], id="empty-parentheses"
        ),
        pytest.param(
            "Rome (Latin: {{x|}}; born {{x}}, 1900 ; ) fell ( ) there.",
            ["Rome (born, 1900) fell there."],
            id="mended-parentheses",
        ),
        pytest.param("Rome (or ({{x}})) fell there .", ["Rome fell there."], id="parentheses-in-parentheses"),
        pytest.param(
            "It was ({{lang|el|λόγος}}, {{transl|el|ISO|logos}}) {{as of|2010|3|lc=y}}.",
            ["It was (λόγος, logos) as of March 2010."],
            id="word-templates",
        ),
        pytest.param(
            "It is {{convert|5|mi|km}}, {{convert|1|ft}}, {{convert|10|-|20|km|mi}}, "
            "a {{convert|3|mi|km|adj=on}} way, {{convert|5|ft|6|in|m}}.",
            ["It is 5 miles, 1 foot, 10\u201320 km, a 3-mile way, 5 feet 6 inches."],
            id="measures",
        ),
        pytest.param(
            "It is {{nowrap|1=''E'' = 5}} or {{frac|2|3|4}} or {{val|6.2|e=18|u=C}} at {{formatnum: 3003}}.",
            ["It is E = 5 or 2 3/4 or 6.2 \u00d7 10¹⁸ C at 3003."],
            id="numbers",
        ),
        pytest.param(
            "He said:\n{{quote|text=I am [[here]].}}\nThen he left.",
            ["I am here.", "Then he left."],
            id="quotations",
        ),
        pytest.param(
            "He wrote the following words:<blockquote>I am [[here]].</blockquote>",
            ["He wrote the following words:", "I am here."],
            id="blockquote",
        ),
        pytest.param(
            "{{Infobox town\n| name = X\n| map = {{a|{{b}}}}\n}}\nIt is a town.",
            ["It is a town."],
            id="infobox",
        ),
        pytest.param(
            "It is a town {{cite book|title=Never closed | year=", ["It is a town"], id="cut-off-template"
        ),
        pytest.param("It is a town [[File:A.jpg|thumb|never closed", ["It is a town"], id="cut-off-file"),
        pytest.param("It is ]] a }} town [[ here.", ["It is a town here."], id="stray-brackets"),
        pytest.param(
            "Zero\u200bwidth  and   double \u00a0spaces , here .",
            ["Zerowidth and double spaces, here."],
            id="white-space",
        ),
        pytest.param(
            "If <math>n</math> is even, it is so. But <math>\\frac{a}{b}</math> is not. Fine then.",
            ["If n is even, it is so. Fine then."],
            id="formulas",
        ),
        pytest.param("a < b and c > d hold.", ["a < b and c > d hold."], id="inequalities-are-no-tags"),
    ],
)
def test_markup_reads_as_text(wikitext, paragraphs):
    assert wikitext_to_text(wikitext) == paragraphs


def test_lists_keep_what_says_something():
    wikitext = (
        "* [[Paris]]\n"
        "* The river is long and slow here.\n"
        "** It has ''seven'' bridges, of which two are very old indeed\n"
        "# Smith, J. (1990). A Book of Things Large and Small. Oxford. ISBN 0-393-02895-X.\n"
        ": An indented remark is kept as well.\n"
        "<ul><li>An item in tags is kept as well.</li></ul>\n"
    )
    assert wikitext_to_text(wikitext) == [
        "The river is long and slow here.",
        "It has seven bridges, of which two are very old indeed",
        "An indented remark is kept as well.",
        "An item in tags is kept as well.",
    ]


def test_headings_go_and_so_do_the_sections_of_sources_with_all_under_them():
    wikitext = (
        "Lead is here.\n== History ==\nLong ago it was.\n=== Notes ===\nA note stands here.\n"
        "=== Later ===\nLater it was so.\n== References ==\nA source stands here.\n"
        "=== Old books ===\nAn old book here.\n== ''Cultural references'' ==\nIt is in songs.\n"
        "==External links==\nA link stands here."
    )
    assert wikitext_to_text(wikitext) == [
        "Lead is here.",
        "Long ago it was.",
        "Later it was so.",
        "It is in songs.",
    ]


def test_markup_that_would_take_hours_to_parse_is_refused():
    with pytest.raises(ValueError, match="never closed"):
        wikitext_to_text("{{a|" * 50_000)


@pytest.mark.parametrize(
    "piece", ["'''", "(", "<ref>", "{|\n", "== a ==\n", "= =", "<math> ", "()", "(A B", "Aa ", ", ;"]
)
def test_repetitive_markup_takes_time_in_proportion_to_its_length(piece):
    """200,000 characters take well under a second; a pattern that backtracks takes minutes."""
    started = time.process_time()
    wikitext_to_text(piece * (200_000 // len(piece)))
    assert time.process_time() - started < 10


# -------------------------------------------------------------------------------------------------- pages


@pytest.mark.parametrize(
    "namespace", [f' xmlns="{NAMESPACE}"', ' xmlns="http://www.mediawiki.org/xml/export-0.3/"', ""]
)
@pytest.mark.parametrize("compressed", [True, False])
def test_pages_are_read_from_any_export_version(tmp_path, namespace, compressed):
    content = dump_xml(
        page_xml("A & B", "Text < here"),
        page_xml("Talk:A", "x", 1),
        page_xml("C", "y", redirect=True),
        namespace=namespace,
    )
    path = tmp_path / "dump"
    path.write_bytes(bz2.compress(content) if compressed else content)
    assert list(iterate_pages(path)) == [
        Page("A & B", 0, False, "Text < here"),
        Page("Talk:A", 1, False, "x"),
        Page("C", 0, True, "y"),
    ]


def test_a_multistream_dump_is_read_to_its_end(tmp_path):
    content = dump_xml(*(page_xml(f"Page {number}", article(number)) for number in range(50)))
    parts = [content[begin : begin + 1000] for begin in range(0, len(content), 1000)]
    (tmp_path / "dump.bz2").write_bytes(b"".join(map(bz2.compress, parts)))
    assert [page.title for page in iterate_pages(tmp_path / "dump.bz2")] == [
        f"Page {number}" for number in range(50)
    ]


def test_memory_is_bounded_by_a_page_and_progress_is_in_bytes_as_stored(tmp_path):
    path = tmp_path / "dump.xml.bz2"
    path.write_bytes(
        bz2.compress(dump_xml(*(page_xml(f"Page {number}", "word " * 20_000) for number in range(100))))
    )
    read = []
    tracemalloc.start()
    assert sum(1 for _ in iterate_pages(path, read.append)) == 100
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000
    assert sum(read) == path.stat().st_size


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("A may be:\n{{disambiguation}}", True),
        ("A may be:\n{{Disambig|geo}}", True),
        ("{{place name disambiguation}}", True),
        ("{{hndis|Smith, John}}", True),
        ("{{other uses|A (disambiguation)}} A is a letter.", False),
        ("A [[b]]{{disambiguation needed|date=May 2010}} is.", False),
    ],
)
def test_disambiguations_are_told_from_articles(wikitext, expected):
    assert is_disambiguation(Page("A", 0, False, wikitext)) is expected


@pytest.mark.parametrize("read_bytes", [*range(4, 12), 1 << 16])
@pytest.mark.parametrize("kept", [0, 7, 20])
def test_all_whole_pages_before_a_cut_come_before_the_fault(tmp_path, monkeypatch, kept, read_bytes):
    """However the reads fall: the XML parser may hold back a tag that came in two pieces."""
    monkeypatch.setattr(wikipedia_extraction, "_READ_BYTES", read_bytes)
    pages = [page_xml(f"Page {number}", article(number)) for number in range(20)]
    content = dump_xml(*pages)
    path = tmp_path / "dump.xml"
    path.write_bytes(content[: content.index(b"<page>") + sum(map(len, pages[:kept]))].rstrip())
    titles = []
    with pytest.raises(DamagedDump, match=f"after {kept} whole pages"):
        for page in iterate_pages(path):
            titles.append(page.title)
    assert titles == [f"Page {number}" for number in range(kept)]


def test_a_cut_compressed_dump_gives_every_page_of_its_whole_streams(tmp_path):
    first = dump_xml(*(page_xml(f"Page {number}", article(number)) for number in range(20)))
    first = first[: first.index(b"</mediawiki>")]
    second = bz2.compress(page_xml("Lost", article(21)).encode() * 50)
    path = tmp_path / "dump.xml.bz2"
    path.write_bytes(bz2.compress(first) + second[:-20])
    titles = []
    with pytest.raises(DamagedDump, match="after 20 whole pages"):
        for page in iterate_pages(path):
            titles.append(page.title)
    assert len(titles) == 20


# ------------------------------------------------------------------------------------------------- output


def test_documents_are_where_the_list_says(tmp_path, monkeypatch):
    """Lines of a document, found by file and index, are its sentences; files begin anew past their size."""
    monkeypatch.setattr(wikipedia_extraction, "_FILE_BYTES", 100)
    documents = {
        f"Title {number}": ["It is é.", f"It is {number}."] * (1 + number % 4) for number in range(30)
    }
    writer = DocumentWriter(tmp_path)
    for title, sentences in documents.items():
        writer.write(title, sentences)
    writer.close()
    entries = [json.loads(line) for line in (tmp_path / "documents.ndjson").read_text().splitlines()]
    assert [entry["title"] for entry in entries] == list(documents)
    for entry in entries:
        texts = (tmp_path / entry["file"]).read_text(encoding="utf-8").split("\n\n")
        text = texts[entry["index"]].removesuffix("\n") + "\n"
        assert text.splitlines() == documents[entry["title"]]
        assert len(text) == entry["characters"]
    sizes = [path.stat().st_size for path in sorted(tmp_path.glob("wiki_*.txt"))]
    assert len(sizes) == writer.files > 3
    assert all(100 <= size < 250 for size in sizes[:-1])
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


@pytest.fixture(scope="module")
def small_dump(tmp_path_factory) -> Path:
    """12 articles of over a worker's chunk in all, beside pages of every kind that is left out."""
    pages = [page_xml(f"Town {number}", article(number) * 600) for number in range(12)]
    pages[3:3] = [
        page_xml("Talk:Town", "Talk.", 1),
        page_xml("Village", "#REDIRECT [[Town]]", redirect=True),
        page_xml("Town (disambiguation)", "* [[Town 1]]"),
        page_xml("Empty", "{{stub}}"),
        page_xml("Vandalised", "{{a|" * 20_000),
    ]
    path = tmp_path_factory.mktemp("dump") / "small.xml.bz2"
    path.write_bytes(bz2.compress(dump_xml(*pages)))
    return path


@pytest.fixture(scope="module")
def small_output(small_dump) -> Path:
    output = small_dump.parent / "output"
    finished = run(small_dump, "--output_dir", output)
    assert finished.returncode == 0, finished.stderr
    return output


def test_every_page_is_counted_once(small_output):
    record = json.loads((small_output / "extraction.json").read_text())
    assert record["complete"] is True
    assert record["pages"] == 17
    assert record["articles"] == 12
    left_out = ("redirects", "disambiguations", "other_namespaces", "without_text")
    assert [record[name] for name in left_out] == [1, 1, 1, 1]
    assert [failure["title"] for failure in record["failed"]] == ["Vandalised"]
    text = (small_output / "wiki_00000.txt").read_text()
    assert text.split("\n\n")[7].startswith(
        "Town 7 is a town in the province.\nIt has 7 people.\nIt is old.\n"
    )


def test_the_number_of_processes_does_not_show(small_dump, small_output, tmp_path):
    finished = run(small_dump, "--output_dir", tmp_path, "--num_processes", 3)
    assert finished.returncode == 0, finished.stderr
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in small_output.iterdir())
    for name in names:
        assert (tmp_path / name).read_bytes() == (small_output / name).read_bytes()


def test_a_finished_folder_is_left_alone_and_another_dump_is_refused(small_dump, small_output, tmp_path):
    before = {path.name: path.stat().st_mtime_ns for path in small_output.iterdir()}
    again = run(small_dump, "--output_dir", small_output)
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    other = tmp_path / "other.xml"
    other.write_bytes(dump_xml(page_xml("A", article(1))))
    refused = run(other, "--output_dir", small_output)
    assert refused.returncode == 2
    assert "another dump, small.xml.bz2" in refused.stderr
    assert {path.name: path.stat().st_mtime_ns for path in small_output.iterdir()} == before


def test_a_cut_off_dump_keeps_its_whole_pages_and_fails_in_one_line(tmp_path):
    content = dump_xml(*(page_xml(f"Town {number}", article(number)) for number in range(20)))
    (tmp_path / "cut.xml").write_bytes(content[: content.index(b"Town 15")])
    finished = run(tmp_path / "cut.xml", "--output_dir", tmp_path / "output")
    assert finished.returncode == 1
    assert finished.stderr.count("\n") == 1
    assert "damaged after 15 whole pages" in finished.stderr
    assert len((tmp_path / "output" / "wiki_00000.txt").read_text().split("\n\n")) == 15
    assert json.loads((tmp_path / "output" / "extraction.json").read_text())["complete"] is False
    (tmp_path / "cut.xml").write_bytes(content)
    assert run(tmp_path / "cut.xml", "--output_dir", tmp_path / "output").returncode == 0
    assert len((tmp_path / "output" / "wiki_00000.txt").read_text().split("\n\n")) == 20


def test_a_missing_dump_is_a_usage_error_in_one_line(tmp_path):
    finished = run(tmp_path / "absent.xml", "--output_dir", tmp_path)
    assert finished.returncode == 2
    assert finished.stderr.count("\n") == 1


# ---------------------------------------------------------------------------------------- the real excerpt

LEFTOVERS = {
    "brackets": r"\[\[|\]\]|\{\{|\}\}|\{\||\|\}",
    "pipes": r"\|",
    "file options": r"\b(?:thumb|upright|\d+px)\b\|?",
    "tags": r"</?[a-zA-Z][^<>\n]*>|<!--|-->",
    "addresses": r"https?:|://|www\.",
    "empty parentheses": r"\([\s,;:./-]*\)|\[\s*\]",
    "quotes": r"''",
    "entities": r"&\w+;|&#\d+;",
    "magic words": r"__[A-Z]+__",
    "headings": r"==+",
    "spaces": r"  |[\t\u00a0]| [,;.](?=\s)",
    "formulas": "\ufffc|\\\\(?:frac|mathrm|text)",
}


@pytest.fixture(scope="module")
def real_text(tmp_path_factory) -> str:
    if not EXCERPT.exists():
        pytest.skip("the Wikipedia excerpt is not in ../shared/data")
    output = tmp_path_factory.mktemp("excerpt")
    finished = run(EXCERPT, "--output_dir", output, "--num_processes", 2)
    assert finished.returncode == 0, finished.stderr
    record = json.loads((output / "extraction.json").read_text())
    assert (record["pages"], record["articles"], record["failed"]) == (206, 98, [])
    return (output / "wiki_00000.txt").read_text(encoding="utf-8")


def test_real_text_has_under_one_trace_of_markup_in_1000_words(real_text):
    counts = {name: len(re.findall(pattern, real_text)) for name, pattern in LEFTOVERS.items()}
    words = len(real_text.split())
    assert words > 400_000
    assert 1000 * sum(counts.values()) / words < 1, counts


def test_real_text_is_sentences(real_text):
    """Nearly every line ends as a sentence does and begins as one; list items are what does not."""
    lines = [line for line in real_text.splitlines() if line]
    assert len(lines) > 15_000
    assert sum(bool(re.search(r"[.!?:][\"')\]\u201d]*$", line)) for line in lines) > 0.95 * len(lines)
    assert sum(line[0].islower() for line in lines) < 0.01 * len(lines)
    assert "Anarchism is a political philosophy that advocates self-governed societies" in lines[0]
