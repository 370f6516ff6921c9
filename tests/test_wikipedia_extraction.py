"""Wikipedia's articles: markup reads as text, and every page is an article or is counted as what it is."""

# ruff: noqa: RUF001 (letters and signs of other scripts are what is tested)

import re
import time

import pytest
from wikipedia_cases import EXCERPT, article, dump_xml, page_xml

from data.documents import Tally, TextDocument
from data.markup_leftovers import KINDS, count_leftovers
from data.wikipedia_dump import Page, read_pages
from data.wikipedia_extraction import is_disambiguation, plan, read, wikitext_to_text
from sentences import split_sentences

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


@pytest.mark.parametrize(
    ("prose", "sentence", "phrase", "name"),
    [
        ("北京是首都。", "这条河很长也很慢。", "北京市海淀区中关村大街二十七号", "北京大学"),
        ("東京は首都である。", "この川は長くてとても遅い。", "東京都千代田区霞が関一丁目二番", "東京大学"),
        ("กรุงเทพเป็นเมืองหลวง", "แม่น้ำนี้ยาวและไหลช้ามาก।", "มหาวิทยาลัยธรรมศาสตร์ศูนย์รังสิตจังหวัดปทุมธานี", "กรุงเทพ"),
    ],
    ids=["Chinese", "Japanese", "Thai"],
)
def test_text_without_spaces_says_something_too(prose, sentence, phrase, name):
    wikitext = f"{prose}\n\n* {sentence}\n* {phrase}\n* {name}\n"
    assert wikitext_to_text(wikitext) == [prose, sentence, phrase]


@pytest.mark.parametrize("mark", [*"。！？｡।॥۔؟።։။។།", ".»", "。」", "！』", "。）", ".“"])
def test_an_item_ends_as_a_sentence_in_its_own_script(mark):
    """Six words, which only a sentence may have."""
    words = "a b c d e f"
    assert wikitext_to_text(f"* {words}{mark}\n* {words}\n") == [words + mark]


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
    "piece",
    ["'''", "(", "<ref>", "{|\n", "== a ==\n", "= =", "<math> ", "()", "(A B", "Aa ", ", ;", "。」", "中"],
)
def test_repetitive_markup_takes_time_in_proportion_to_its_length(piece):
    """200,000 characters take well under a second; a pattern that backtracks takes minutes."""
    started = time.process_time()
    wikitext_to_text(piece * (200_000 // len(piece)))
    assert time.process_time() - started < 10


# -------------------------------------------------------------------------------------------------- pages


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


def test_every_page_is_a_document_or_counted_by_why_not(tmp_path):
    path = tmp_path / "dump.xml"
    pages = [page_xml(f"Town {number}", article(number)) for number in range(4)]
    pages[2:2] = [
        page_xml("Talk:Town", "Talk.", 1),
        page_xml("Village", "#REDIRECT [[Town]]", redirect=True),
        page_xml("Hamlet", "#redirect [[Town]]"),
        page_xml("Town (disambiguation)", "* [[Town 1]]"),
        page_xml("Empty", "{{stub}}"),
        page_xml("Vandalised", "{{a|" * 20_000),
    ]
    path.write_bytes(dump_xml(*pages))
    (part,) = plan([path])
    tally = Tally()
    assert list(read(part, tally)) == [
        TextDocument(
            f"Town {number}", f"Town {number} is a town in the province. It has {number} people.\nIt is old."
        )
        for number in range(4)
    ]
    assert tally.dropped == {
        "other namespace": 1,
        "redirect": 2,
        "disambiguation": 1,
        "without text": 1,
        "failed": 1,
    }
    ((title, why),) = tally.skipped
    assert title == "Vandalised"
    assert "never closed" in why
    assert tally.faults == []


# ---------------------------------------------------------------------------------------- the real excerpt


@pytest.fixture(scope="module")
def real_documents(shared_data) -> list[TextDocument]:
    (part,) = plan([shared_data / EXCERPT])
    tally = Tally()
    documents = list(read(part, tally))
    # Counted in the XML: 206 pages, 99 of them with <redirect>, 1 of another namespace.
    assert tally.dropped == {"redirect": 99, "disambiguation": 8, "other namespace": 1}
    assert (len(documents), tally.skipped, tally.faults) == (98, [], [])
    return documents


def test_real_text_has_under_one_trace_of_markup_in_1000_words(real_documents):
    text = "\n".join(document.text for document in real_documents)
    leftovers = count_leftovers(text)
    words = len(text.split())
    assert words > 400_000
    assert 1000 * leftovers.total() / words < 1, leftovers


def test_the_real_wikitext_is_full_of_what_is_counted(shared_data):
    """So that a table of zeros means clean text, and no pattern that never matches."""
    (part,) = plan([shared_data / EXCERPT])
    text = "\n".join(page.wikitext for page in read_pages(part, Tally()))
    leftovers = count_leftovers(text + " __NOTOC__ formula_12")
    assert set(KINDS) == {kind for kind, count in leftovers.items() if count}


def test_real_text_has_its_paragraphs_in_order(real_documents):
    """Title and text belong together, no line is blank, and the sections come as they stand in the page."""
    anarchism = real_documents[0]
    assert anarchism.title == "Anarchism"
    assert anarchism.text.startswith(
        "Anarchism is a political philosophy that advocates self-governed societies"
    )
    assert all(
        line.strip() == line != "" for document in real_documents for line in document.text.split("\n")
    )
    beginnings = [
        "The term anarchism is a compound word",
        "The earliest anarchist themes can be found in the 6th century BC",
        "The anti-authoritarian sections of the First International",
        "A surge of popular interest in anarchism occurred in western nations",
    ]
    places = [anarchism.text.index(beginning) for beginning in beginnings]
    assert places == sorted(places)


def test_real_text_is_sentences(real_documents):
    """Nearly every one ends as a sentence does and begins as one; list items are what does not."""
    lines = [
        sentence
        for document in real_documents
        for paragraph in document.text.split("\n")
        for sentence in split_sentences(paragraph)
    ]
    assert len(lines) > 15_000
    assert sum(bool(re.search(r"[.!?:][\"')\]\u201d]*$", line)) for line in lines) > 0.95 * len(lines)
    assert sum(line[0].islower() for line in lines) < 0.01 * len(lines)
