"""A Wikipedia XML dump -> plain text, one sentence a line, a blank line between articles.

    python data/wikipedia_extraction.py enwiki-latest-pages-articles.xml.bz2 --output_dir data/extracted/wikipedia

Writes <output_dir>/wiki_00000.txt and so on, about 10 MB each, documents.jsonl (an article's title, its file,
its place there, its characters) and last extraction.json (the dump's SHA-256, the counts, the settings). The
articles are in the dump's order and the bytes do not depend on the number of processes.

The markup is parsed by mwparserfromhell; what decides on how a node reads as text is here, and so are the
repairs for what the parser cannot see: cut-off markup, and the holes that dropped templates leave behind.
The wording of templates is English Wikipedia's. Nothing is downloaded here.
"""

import bz2
import concurrent.futures
import contextlib
import html
import importlib.metadata
import itertools
import json
import multiprocessing
import os
import re
import signal
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import MISSING, asdict, dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import mwparserfromhell
from mwparserfromhell import nodes
from mwparserfromhell.wikicode import Wikicode
from tqdm import tqdm

# Run by its path, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import files
from command_line import RunFailure, UsageError, option, parse, require, run_program
from data.sentences import split_sentences

RECORD_NAME = "extraction.json"
DOCUMENTS_NAME = "documents.jsonl"

_FILE_BYTES = 10_000_000
_CHUNK_CHARACTERS = 400_000
_READ_BYTES = 1 << 16
_MIN_PARAGRAPH_WORDS = 3
_MIN_LIST_ITEM_WORDS = 6


@dataclass
class WikipediaExtractionConfig:
    """Settings of data/wikipedia_extraction.py."""

    dump: str = option(
        MISSING, "pages-articles dump, .xml or .xml.bz2 (told by its first bytes)", group="input", positional=True
    )
    output_dir: str = option(MISSING, "folder of the text files", group="output")
    num_processes: int = option(1, "worker processes; the output does not depend on it", group="work")

    def __post_init__(self):
        require(self.num_processes >= 1, "num_processes", self.num_processes, "must be at least 1")


class DamagedDump(RunFailure):
    """A dump that ends too early, does not decompress or is not XML."""


@dataclass(frozen=True)
class Page:
    """A page of the dump; `namespace` 0 holds the articles."""

    title: str
    namespace: int
    is_redirect: bool
    wikitext: str


@dataclass
class Tally:
    """What became of the pages, as it goes into extraction.json."""

    pages: int = 0
    articles: int = 0
    redirects: int = 0
    disambiguations: int = 0
    other_namespaces: int = 0
    without_text: int = 0
    failed: list[dict[str, str]] = field(default_factory=list)
    fault: str | None = None


def main() -> int:
    config = parse(WikipediaExtractionConfig, description=__doc__)
    dump, output = Path(config.dump), Path(config.output_dir)
    if not dump.is_file():
        raise UsageError(f"dump {dump}: no such file")
    identity = {"name": dump.name, "bytes": dump.stat().st_size, "sha256": files.sha256_of_file(dump)}
    if _is_complete(output, identity):
        print(f"{output}: complete already, nothing to do")
        return 0
    output.mkdir(parents=True, exist_ok=True)
    with _held_folder(output), _pool(config.num_processes) as pool:
        _remove_partial_output(output)
        tally = Tally()
        with DocumentWriter(output) as writer:
            for title, sentences in _extract(pool, dump, config.num_processes, tally):
                writer.write(title, sentences)
        files.write_json(output / RECORD_NAME, _record(identity, tally, writer))
    if tally.fault:
        raise DamagedDump(f"{tally.fault}; the {tally.articles:,} articles before it are in {output}")
    print(
        f"{output}: {tally.articles:,} articles, {writer.characters:,} characters in {writer.files} files; left "
        f"out {tally.redirects:,} redirects, {tally.disambiguations:,} disambiguations, "
        f"{tally.other_namespaces:,} pages of other namespaces, {tally.without_text:,} without text and "
        f"{len(tally.failed):,} that failed"
    )
    return 0


# -------------------------------------------------------------------------------------------------- pages


def iterate_pages(path: str | Path, on_read: Callable[[int], object] | None = None) -> Iterator[Page]:
    """The pages of a dump in its order, in memory bounded by the longest page.

    Args:
        path: MediaWiki XML of any export version, plain or compressed by bzip2 (multistream too).
        on_read: told the number of bytes, as stored, after each read.

    Raises:
        DamagedDump: after the last whole page, if the dump is cut off, does not decompress or is not XML.
    """
    parser = ElementTree.XMLPullParser(("start", "end"))
    root = None
    pages = 0
    try:
        for text in _read_decompressed(path, on_read):
            parser.feed(text)
            for event, element in parser.read_events():
                if root is None:
                    root = element
                if event == "end" and element.tag.rpartition("}")[2] == "page":
                    pages += 1
                    yield _page(element)
                    # The root would keep every page that has been read.
                    root.clear()
        parser.close()
    except (ElementTree.ParseError, EOFError, OSError) as error:
        raise DamagedDump(f"dump {path}: damaged after {pages:,} whole pages ({error})") from None


def _read_decompressed(path: str | Path, on_read: Callable[[int], object] | None) -> Iterator[bytes]:
    """A dump's XML, up to the very byte where it is cut off (bz2.open would lose up to a buffer of it)."""
    with open(path, "rb") as stream:
        is_compressed = stream.read(3) == b"BZh"
        stream.seek(0)
        decompressor = bz2.BZ2Decompressor() if is_compressed else None
        while stored := stream.read(_READ_BYTES):
            if on_read:
                on_read(len(stored))
            if decompressor is None:
                yield stored
                continue
            while stored or not (decompressor.eof or decompressor.needs_input):
                if decompressor.eof:
                    decompressor = bz2.BZ2Decompressor()
                yield decompressor.decompress(stored, _READ_BYTES)
                stored = decompressor.unused_data if decompressor.eof else b""
    if decompressor is not None and not decompressor.eof:
        raise EOFError("the compressed data is cut off")


def _page(element: ElementTree.Element) -> Page:
    # "{*}" stands for any XML namespace: it names the export version.
    revisions = element.findall("{*}revision")
    wikitext = (revisions[-1].findtext("{*}text") if revisions else None) or ""
    return Page(
        title=element.findtext("{*}title") or "",
        namespace=int(element.findtext("{*}ns") or 0),
        is_redirect=element.find("{*}redirect") is not None or bool(_REDIRECT.match(wikitext)),
        wikitext=wikitext,
    )


_REDIRECT = re.compile(r"\s*#redirect\b", re.IGNORECASE)
_DISAMBIGUATION = re.compile(
    r"\{\{\s*(?:[^{}|\n]*\bdisambig(?:uation)?(?:[ _]cleanup|[ _]page)?|dab|disamb|dmbox|hndis|geodis|numberdis"
    r"|mathdab|roaddis|schooldis|hospitaldis|mil-unit-dis)\s*(?:\||\}\})|__DISAMBIG__",
    re.IGNORECASE,
)


def is_disambiguation(page: Page) -> bool:
    """Whether a page only lists the articles that its title may mean."""
    return page.title.endswith("(disambiguation)") or bool(_DISAMBIGUATION.search(page.wikitext))


# ----------------------------------------------------------------------------- markup -> paragraphs (in workers)

_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
# Formulas that read as text; the others leave _HOLE, and a sentence with a hole is dropped.
_SIMPLE_FORMULA = re.compile(r"<math[^<>]*>\s*([\w\s+=,.()-]{1,40}?)\s*</math\s*>")
_HOLE = "\ufffc"
_DROPPED_ELEMENTS = (
    "ref|references|math|chem|ce|gallery|table|timeline|score|hiero|imagemap|syntaxhighlight|source|pre|graph"
    "|mapframe|maplink|templatestyles|includeonly|inputbox|categorytree|indicator|section"
)
_ELEMENT_EDGE = re.compile(rf"<(/?)({_DROPPED_ELEMENTS})\b[^<>]*?(/?)>", re.IGNORECASE)
_TABLE_EDGE = re.compile(r"^[ \t:*#;]*(?:(\{\|)|\|\}(?!\}))", re.MULTILINE)
_HEADING = re.compile(r"^(={1,6})[ \t]*([^\n]+?)[ \t]*\1[ \t]*$", re.MULTILINE)
_DROPPED_SECTIONS = frozenset(
    "references|external links|see also|further reading|notes|bibliography|footnotes|citations|sources"
    "|works cited|cited sources|general references|notes and references|references and notes|endnotes"
    "|notes and citations|citations and notes|select bibliography|selected bibliography|gallery|image gallery"
    "|filmography|discography|selected filmography|selected discography|primary sources|secondary sources"
    "|references and further reading|external links and references|references and sources".split("|")
)

_DROPPED_LINK_NAMESPACES = frozenset({"file", "image", "media", "category"})
_INTERLANGUAGE_PREFIX = re.compile(r"(?:[a-z]{2,3}|simple)(?:-[a-z]+)*:")
_BLOCK_TAGS = frozenset("p div blockquote center li ol ul dl dd dt poem tr td".split())
_DROPPED_TAGS = frozenset([*_DROPPED_ELEMENTS.split("|"), "h1", "h2", "h3", "h4", "h5", "h6"])
_SUPERSCRIPTS = str.maketrans("0123456789+-\u2212n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻ⁿ")
_LIST_MARKERS = "*#:;"


def wikitext_to_text(wikitext: str) -> list[str]:
    """The paragraphs of an article as plain text, in order: prose, quotations and list items that say something.

    Left out are headings, tables, galleries, files, references, formulas, categories, templates other than
    those that stand for words, and the sections that list sources and links.
    """
    wikitext = _COMMENT.sub("", wikitext)
    wikitext = _SIMPLE_FORMULA.sub(r"\1", wikitext)
    wikitext = _cut(wikitext, _dropped_elements(wikitext))
    wikitext = _cut(wikitext, _tables(wikitext))
    code = mwparserfromhell.parse("\n\n".join(_kept_sections(wikitext)), skip_style_tags=True)
    paragraphs = []
    for is_list_item, block in _blocks(_render(code)):
        paragraph = _repair(block)
        if _HOLE in paragraph:
            whole = [sentence for sentence in split_sentences(paragraph) if _HOLE not in sentence]
            paragraph = " ".join(whole)
        words = paragraph.count(" ") + 1
        if words >= (_MIN_LIST_ITEM_WORDS if is_list_item else _MIN_PARAGRAPH_WORDS):
            paragraphs.append(paragraph)
    return paragraphs


def _cut(text: str, regions: Iterable[tuple[int, int, str]]) -> str:
    """The text with regions (begin, end, replacement), in order and apart, replaced."""
    pieces, position = [], 0
    for begin, end, replacement in regions:
        pieces += (text[position:begin], replacement)
        position = end
    pieces.append(text[position:])
    return "".join(pieces)


def _dropped_elements(text: str) -> list[tuple[int, int, str]]:
    """Where elements such as <ref> and <math> stand; of an unbalanced one only the tag itself."""
    opened: dict[str, list[re.Match]] = defaultdict(list)
    regions: list[tuple[int, int, str]] = []
    for edge in _ELEMENT_EDGE.finditer(text):
        closes, name, is_empty = edge[1], edge[2].lower(), edge[3]
        if not closes and not is_empty:
            opened[name].append(edge)
        elif closes and opened[name]:
            regions.append((opened[name].pop().start(), edge.end(), _HOLE if name == "math" else ""))
        else:
            regions.append((*edge.span(), ""))
    regions += [(*edge.span(), "") for edges in opened.values() for edge in edges]
    return _outermost(regions)


def _tables(text: str) -> list[tuple[int, int, str]]:
    """Where {| tables |} stand; one that is never closed ends at the next heading."""
    opened: list[int] = []
    regions: list[tuple[int, int, str]] = []
    for edge in _TABLE_EDGE.finditer(text):
        if edge[1]:
            opened.append(edge.start())
        elif opened:
            regions.append((opened.pop(), edge.end(), "\n"))
    for begin in opened:
        heading = _HEADING.search(text, begin)
        regions.append((begin, heading.start() if heading else len(text), "\n"))
    return _outermost(regions)


def _outermost(regions: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    kept: list[tuple[int, int, str]] = []
    for region in sorted(regions, key=lambda region: (region[0], -region[1])):
        if not kept or region[0] >= kept[-1][1]:
            kept.append(region)
    return kept


def _kept_sections(wikitext: str) -> Iterator[str]:
    """The text under each heading, without those that list sources and links and what is under them."""
    position, dropped_level = 0, 7
    for heading in itertools.chain(_HEADING.finditer(wikitext), [None]):
        if dropped_level == 7:
            yield wikitext[position : heading.start() if heading else None]
        if heading is None:
            return
        position, level = heading.end(), len(heading[1])
        if level <= dropped_level:
            title = heading[2].strip(" '=:").casefold()
            dropped_level = level if title in _DROPPED_SECTIONS else 7


def _render(code: Wikicode | None) -> str:
    """Parsed markup as text; line starts still carry their list markers."""
    if code is None:
        return ""
    return "".join([_RENDERERS[type(node)](node) for node in code.nodes])


def _render_link(link: nodes.Wikilink) -> str:
    title = _render(link.title).strip()
    namespace, colon, _ = title.partition(":")
    if colon and namespace.strip().lower() in _DROPPED_LINK_NAMESPACES:
        return ""
    if link.text is None and _INTERLANGUAGE_PREFIX.match(title):
        return ""
    return title.removeprefix(":") if link.text is None else _render(link.text)


def _render_external_link(link: nodes.ExternalLink) -> str:
    return _render(link.title) if link.brackets else ""


def _render_tag(tag: nodes.Tag) -> str:
    if tag.wiki_markup is not None:
        markup = str(tag.wiki_markup)
        return "\n\n" if markup.startswith("----") else markup if markup in _LIST_MARKERS else ""
    name = str(tag.tag).strip().lower()
    if name in _DROPPED_TAGS:
        return ""
    if name in ("br", "hr"):
        return " "
    text = _render(tag.contents)
    if name in _BLOCK_TAGS:
        return f"\n\n{text}\n\n"
    if name == "sup":
        raised = text.strip().translate(_SUPERSCRIPTS)
        return raised if not raised.isascii() else text
    return text


# Templates that stand for a sign.
_SIGN_TEMPLATES = {
    "'": "'",
    "'s": "'s",
    "=": "=",
    "!": "|",
    "pi": "π",
    "nbsp": " ",
    "spaces": " ",
    "ndash": "–",
    "en dash": "–",
    "mdash": "—",
    "em dash": "—",
    "snd": " – ",
    "snds": " – ",
    "spnd": " – ",
    "spaced ndash": " – ",
    "spaced en dash": " – ",
}
# Templates around words: which positional argument holds them, -1 for the last one.
_WORD_TEMPLATES = {
    **dict.fromkeys("lang rtl-lang script bibleref rquote".split(), 2),
    **dict.fromkeys(("transl", "transliteration"), -1),
    **dict.fromkeys(
        "nowrap nobr nobold small smaller big large larger sc smallcaps sub sup abbr tooltip unicode linktext "
        "angbr angle nq nihongo math mvar ipa ill w formatnum val center bq".split(),
        1,
    ),
    **dict.fromkeys(("angle bracket", "interlanguage link"), 1),
    **dict.fromkeys(("quote", "cquote", "blockquote", "quotation", "centered pull quote"), 1),
}
