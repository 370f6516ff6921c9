"""A Wikipedia XML dump -> plain text, one sentence a line, a blank line between articles.

    python data/wikipedia_extraction.py enwiki-latest-pages-articles.xml.bz2 --output_dir data/extracted/wiki

Writes <output_dir>/wiki_00000.txt and so on, about 10 MB each, documents.ndjson (title, file, place there and
characters of each article) and, last, extraction.json (the dump's SHA-256, the counts, the settings).
The articles are in the dump's order and the bytes do not depend on the number of processes. How markup reads
as text is wikitext.py's; nothing is downloaded here.
"""

import bz2
import contextlib
import importlib.metadata
import itertools
import json
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import MISSING, asdict, dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from tqdm import tqdm

# Run by its path, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import files
from command_line import RunFailure, UsageError, option, parse, require, run_program
from data import wikitext
from data.sentences import split_sentences
from worker_processes import worker_pool

RECORD_NAME = "extraction.json"
DOCUMENTS_NAME = "documents.ndjson"

_FILE_BYTES = 10_000_000
_CHUNK_CHARACTERS = 400_000
_READ_BYTES = 1 << 16

_REDIRECT = re.compile(r"\s*#redirect\b", re.IGNORECASE)
_DISAMBIGUATION = re.compile(
    r"\{\{ ?(?:[^{}|\n]{0,60}\bdisambig(?:uation)?(?:[ _]cleanup|[ _]page)?|dab|disamb|hndis|geodis|numberdis"
    r"|mathdab|roaddis|schooldis|hospitaldis|mil-unit-dis)\s*(?:\||\}\})|__DISAMBIG__",
    re.IGNORECASE,
)


@dataclass
class WikipediaExtractionConfig:
    """Settings of data/wikipedia_extraction.py."""

    dump: str = option(
        MISSING,
        "pages-articles dump, .xml or .xml.bz2 (told by its first bytes)",
        group="input",
        positional=True,
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
    tally, writer = Tally(), DocumentWriter(output)
    with _held_folder(output), worker_pool(config.num_processes) as pool:
        _remove_partial_output(output)
        for title, sentences in _extract(pool, dump, config.num_processes, tally):
            writer.write(title, sentences)
        writer.close()
        files.write_json(output / RECORD_NAME, _record(identity, tally, writer))
    if tally.fault:
        raise DamagedDump(f"{tally.fault}; the {tally.articles:,} articles before that are in {output}")
    print(
        f"{output}: {tally.articles:,} articles, {writer.characters:,} characters in {writer.files} files; "
        f"left out {tally.redirects:,} redirects, {tally.disambiguations:,} disambiguations, "
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
    root = None
    pages = 0
    try:
        for event, element in _read_elements(path, on_read):
            if root is None:
                root = element
            if event == "end" and element.tag.rpartition("}")[2] == "page":
                pages += 1
                yield _page(element)
                # The root would keep every page that has been read.
                root.clear()
    except (ElementTree.ParseError, EOFError, OSError) as error:
        raise DamagedDump(f"dump {path}: damaged after {pages:,} whole pages ({error})") from None


def _read_elements(
    path: str | Path, on_read: Callable[[int], object] | None
) -> Iterator[tuple[str, ElementTree.Element]]:
    """Starts and ends of a dump's elements; a fault is raised after all that come before it."""
    parser = ElementTree.XMLPullParser(("start", "end"))
    fault = None
    try:
        for text in _read_decompressed(path, on_read):
            parser.feed(text)
            yield from parser.read_events()
    except (ElementTree.ParseError, EOFError, OSError) as error:
        fault = error
    try:
        # From Expat 2.6 on the parser may hold back elements until it is told that no more text comes.
        parser.close()
    except ElementTree.ParseError as error:
        fault = fault or error
    with contextlib.suppress(ElementTree.ParseError):
        yield from parser.read_events()
    if fault:
        raise fault


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


def is_disambiguation(page: Page) -> bool:
    """Whether a page only lists the articles that its title may mean."""
    return page.title.endswith("(disambiguation)") or bool(_DISAMBIGUATION.search(page.wikitext))


# --------------------------------------------------------------------------------------------------- text


def wikitext_to_text(text: str) -> list[str]:
    """The paragraphs of an article as plain text, in order; sentences that lost a formula are left out."""
    paragraphs = []
    for paragraph in wikitext.wikitext_to_paragraphs(text):
        if wikitext.HOLE in paragraph:
            sentences = split_sentences(paragraph)
            paragraph = " ".join(sentence for sentence in sentences if wikitext.HOLE not in sentence)
        if paragraph:
            paragraphs.append(paragraph)
    return paragraphs


# ------------------------------------------------------------------------------------------------ program


class DocumentWriter:
    """Writes articles, in order, into text files of about 10 MB, each complete under its name or absent."""

    def __init__(self, folder: Path):
        self.files = self.characters = 0
        self._folder = folder
        self._entries_path = files.temporary_path(folder / DOCUMENTS_NAME)
        self._texts: list[bytes] = []
        self._entries: list[str] = []
        self._bytes = 0

    def write(self, title: str, sentences: list[str]) -> None:
        """Add an article."""
        text = "".join(sentence + "\n" for sentence in sentences)
        entry = {
            "title": title,
            "file": self._path().name,
            "index": len(self._texts),
            "characters": len(text),
        }
        self._texts.append(text.encode("utf-8"))
        self._entries.append(json.dumps(entry, ensure_ascii=False) + "\n")
        self._bytes += len(self._texts[-1])
        self.characters += len(text)
        if self._bytes >= _FILE_BYTES:
            self._write_file()

    def close(self) -> None:
        """Write what is left, and the list of all articles."""
        self._write_file()
        files.publish(self._entries_path, self._folder / DOCUMENTS_NAME)

    def _path(self) -> Path:
        return self._folder / f"wiki_{self.files:05d}.txt"

    def _write_file(self) -> None:
        if self._texts:
            files.write_bytes(self._path(), b"\n".join(self._texts))
            self.files += 1
        with open(self._entries_path, "a", encoding="utf-8") as stream:
            stream.writelines(self._entries)
        self._texts, self._entries, self._bytes = [], [], 0


def _extract(
    pool: ProcessPoolExecutor, dump: Path, num_processes: int, tally: Tally
) -> Iterator[tuple[str, list[str]]]:
    """(title, sentences) of each article that has text, in the dump's order; counts go into `tally`."""
    running: deque[tuple[list[Page], Future]] = deque()
    for chunk in itertools.chain(_read_chunks(dump, tally), itertools.repeat(None)):
        if chunk is not None:
            running.append((chunk, pool.submit(_sentences_of_pages, [page.wikitext for page in chunk])))
        elif not running:
            return
        if chunk is None or len(running) > 2 * num_processes:
            pages, future = running.popleft()
            for page, outcome in zip(pages, future.result(), strict=True):
                if isinstance(outcome, str):
                    tally.failed.append({"title": page.title, "error": outcome})
                elif outcome:
                    tally.articles += 1
                    yield page.title, outcome
                else:
                    tally.without_text += 1


def _read_chunks(dump: Path, tally: Tally) -> Iterator[list[Page]]:
    """Articles in chunks of a worker's size; a fault of the dump ends them and goes into `tally`."""
    chunk: list[Page] = []
    characters = 0
    size = dump.stat().st_size
    with tqdm(total=size, desc="dump to text", unit="B", unit_scale=True, disable=None) as progress:
        try:
            for page in iterate_pages(dump, progress.update):
                tally.pages += 1
                if page.namespace != 0:
                    tally.other_namespaces += 1
                elif page.is_redirect:
                    tally.redirects += 1
                elif is_disambiguation(page):
                    tally.disambiguations += 1
                else:
                    chunk.append(page)
                    characters += len(page.wikitext)
                if characters >= _CHUNK_CHARACTERS:
                    yield chunk
                    chunk, characters = [], 0
        except DamagedDump as error:
            tally.fault = str(error)
    if chunk:
        yield chunk


def _sentences_of_pages(pages: list[str]) -> list[list[str] | str]:
    """The sentences of each article's wikitext, or what went wrong with it."""
    outcomes: list[list[str] | str] = []
    for page in pages:
        try:
            paragraphs = wikitext_to_text(page)
            outcomes.append([sentence for part in paragraphs for sentence in split_sentences(part)])
        except Exception as error:
            # Among millions of pages some defeat any parser; one of them must not end a run of hours.
            outcomes.append(f"{type(error).__name__}: {error}")
    return outcomes


@contextlib.contextmanager
def _held_folder(output: Path) -> Iterator[None]:
    try:
        with files.lock_folder(output):
            yield
    except BlockingIOError as error:
        raise UsageError(f"--output_dir {output}: {error}") from None
    (output / ".lock").unlink(missing_ok=True)


def _is_complete(output: Path, identity: dict) -> bool:
    """Whether this dump's text is there already; another dump's must not be overwritten."""
    path = output / RECORD_NAME
    if not path.exists():
        return False
    record = files.read_json(path)
    if not record["complete"] or record["files"] != len(_text_files(output)):
        return False
    if record["dump"]["sha256"] != identity["sha256"]:
        name = record["dump"]["name"]
        raise UsageError(f"--output_dir {output}: holds the text of another dump, {name}; give a new folder")
    return True


def _text_files(output: Path) -> list[Path]:
    return list(output.glob("wiki_[0-9][0-9][0-9][0-9][0-9].txt"))


def _remove_partial_output(output: Path) -> None:
    files.remove_leftovers(output)
    for path in (output / RECORD_NAME, output / DOCUMENTS_NAME, *_text_files(output)):
        path.unlink(missing_ok=True)


def _record(identity: dict, tally: Tally, writer: DocumentWriter) -> dict:
    """What stands in extraction.json: all that decides on the text, and what became of the pages."""
    return {
        "complete": tally.fault is None,
        "dump": identity,
        **asdict(tally),
        "characters": writer.characters,
        "files": writer.files,
        "settings": {
            "file_bytes": _FILE_BYTES,
            "min_paragraph_words": wikitext.MIN_PARAGRAPH_WORDS,
            "min_list_item_words": wikitext.MIN_LIST_ITEM_WORDS,
            "min_list_phrase_words": wikitext.MIN_LIST_PHRASE_WORDS,
            **{name: importlib.metadata.version(name) for name in ("mwparserfromhell", "sentencex")},
        },
    }


if __name__ == "__main__":
    run_program(main)
