"""Wikipedia's XML dumps as parts that are read independently of each other, straight from .xml or .xml.bz2.

A part is a range of a dump's bytes, as stored. Its pages are those whose `<page>` begins in the range;
reading goes on past its end until the last one is whole, so the pages do not depend on where the borders lie.
In a multistream dump they lie between its streams, by the index beside it; else at round numbers, and
planning reads nothing. Damage costs the pages that it lies in, and is named. What a page's text means is not
known here.
"""

import codecs
import html
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from command_line import UsageError
from corpus_files import open_binary, printable
from data import bzip2_blocks
from data.bzip2_blocks import Block, read_blocks
from data.documents import Tally

# As stored; of a .bz2 some 35 MB of XML, ten seconds' work.
PART_BYTES = 10_000_000
# Why a page is lost, in a tally.
DAMAGED = "damaged"

_DUMP_NAME = re.compile(r"[^.].*\.xml(?:-[\w-]+)?(?:\.bz2)?")
_MULTISTREAM_NAME = re.compile(r"(.*-multistream)(\d*)\.xml(.*)\.bz2")
_READ_BYTES = 1 << 20
_TAIL_BYTES = 100
_PAGE_BEGIN, _PAGE_END, _DUMP_END = b"<page>", b"</page>", b"</mediawiki>"
# MediaWiki saves texts of up to 2 MiB; a page that goes on for so long has lost its end.
_MAX_PAGE_BYTES = 1 << 26
_TITLE = re.compile(rb"<title>(.*?)</title>", re.DOTALL)
_REDIRECT = re.compile(r"\s*#redirect\b", re.IGNORECASE)


@dataclass(frozen=True)
class DumpPart:
    """The pages that begin in bytes begin … end - 1 of a dump.

    Attributes:
        name: unique among the parts that were planned together, which it sorts in their order.
        source: the dump.
        pages: how many of them the dump's index lists, if it has one.
        index: the index by which the dump was divided, if it has one.
    """

    name: str
    source: Path
    begin: int
    end: int
    is_compressed: bool
    pages: int | None = None
    index: Path | None = None

    @property
    def stored_bytes(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True)
class Page:
    """A page in its last revision; `namespace` 0 holds the articles."""

    title: str
    namespace: int
    is_redirect: bool
    wikitext: str


# ----------------------------------------------------------------------------------------------- planning


def plan(paths: Iterable[str | Path], part_bytes: int = PART_BYTES) -> list[DumpPart]:
    """Divide dumps into parts, in order.

    Args:
        paths: dumps of any export version, plain or compressed by bzip2 (told by their first bytes), and
            folders of dumps, which are taken in the order of the numbers in their names.
        part_bytes: size of a part as stored, give or take a half or a stream.

    Raises:
        UsageError: there is no such dump, it is neither XML nor bzip2, or its index is damaged or another
            dump's.
    """
    dumps = [dump for path in paths for dump in _dumps(Path(path))]
    return [
        DumpPart(f"{dump_number:03d}_{part_number:05d}", dump, begin, end, is_compressed, pages, index)
        for dump_number, dump in enumerate(dumps)
        for is_compressed in [_is_compressed(dump)]
        for index in [_index_of(dump) if is_compressed else None]
        for part_number, (begin, end, pages) in enumerate(_ranges(dump, index, part_bytes))
    ]


def _dumps(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UsageError(f"--input_files {path}: no such file or folder")
    dumps = [entry for entry in path.iterdir() if _DUMP_NAME.fullmatch(entry.name) and entry.is_file()]
    if not dumps:
        raise UsageError(f"--input_files {path}: holds no .xml and no .xml.bz2 dump")
    return sorted(dumps, key=lambda dump: ([int(digits) for digits in re.findall(r"\d+", dump.name)], dump))


def _is_compressed(dump: Path) -> bool:
    with open(dump, "rb") as stream:
        head = stream.read(100)
    if head.startswith(bzip2_blocks.MAGIC):
        return True
    if head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"<"):
        return False
    raise UsageError(f"--input_files {dump}: neither XML nor bzip2, by its first bytes")


def _ranges(dump: Path, index: Path | None, part_bytes: int) -> Iterator[tuple[int, int, int | None]]:
    """(begin, end, pages by the index) of each part."""
    size = dump.stat().st_size
    if index:
        starts, counts = _read_index(dump, size, index, part_bytes)
    else:
        starts = [number * part_bytes for number in range(max(1, round(size / part_bytes)))]
        counts = [None] * len(starts)
    yield from zip(starts, [*starts[1:], size], counts, strict=True)


def _index_of(dump: Path) -> Path | None:
    name = _MULTISTREAM_NAME.fullmatch(dump.name)
    index = name and dump.with_name(f"{name[1]}-index{name[2]}.txt{name[3]}.bz2")
    return index if index and index.is_file() else None


def _read_index(dump: Path, size: int, index: Path, part_bytes: int) -> tuple[list[int], list[int]]:
    """Where the parts begin and how many pages each has: whole streams, at least `part_bytes` of them.

    A line of the index is `offset of the stream:id of the page:title`. Of a dump that is cut off, the last
    part has the pages behind the cut.
    """
    starts, counts = [0], [0]
    streams = []
    try:
        with open_binary(str(index)) as lines:
            for digits, pages in itertools.groupby(lines, lambda line: line.partition(b":")[0]):
                offset = int(digits)
                if offset < starts[-1]:
                    raise ValueError(f"stream {offset:,} comes after {starts[-1]:,}")
                streams = streams or [offset]
                if starts[-1] + part_bytes <= offset < size:
                    starts.append(offset)
                    counts.append(0)
                counts[-1] += sum(1 for _ in pages)
    except (OSError, EOFError, ValueError) as error:
        fault = f"is damaged ({error})"
    else:
        # One that is damaged must not cost the others.
        if any(_begins_stream(dump, offset) for offset in streams + starts[1:]):
            return starts, counts
        fault = "is another dump's"
    raise UsageError(f"--input_files {dump}: its index {index.name} {fault}; a dump can be read without one")


def _begins_stream(dump: Path, offset: int) -> bool:
    with open(dump, "rb") as stream:
        stream.seek(offset)
        return stream.read(len(bzip2_blocks.MAGIC)) == bzip2_blocks.MAGIC


# ------------------------------------------------------------------------------------------------ reading


def read_pages(part: DumpPart, tally: Tally) -> Iterator[Page]:
    """The pages of a part, in order, in memory bounded by the longest page and the longest block of bzip2.

    In the tally, `faults` names what is damaged, each by the part in which it begins. The pages that are lost
    by it are counted in `dropped`, and named in `skipped` as far as their titles can be read.
    """
    for text in _whole_pages(part, tally):
        try:
            page = _page(ElementTree.fromstring(text))
        except (ElementTree.ParseError, ValueError) as error:
            _lose(text, f"damaged ({error})", tally, part)
        else:
            yield page


def _page(element: ElementTree.Element) -> Page:
    revisions = element.findall("revision")
    wikitext = (revisions[-1].findtext("text") if revisions else None) or ""
    return Page(
        title=element.findtext("title") or "",
        namespace=int(element.findtext("ns") or 0),
        is_redirect=element.find("redirect") is not None or bool(_REDIRECT.match(wikitext)),
        wikitext=wikitext,
    )


def _whole_pages(part: DumpPart, tally: Tally) -> Iterator[bytes]:
    """The XML of each page of a part that has both its ends."""
    # `text` begins with a page that has not ended or with what may be half a tag; the first `owned` bytes of
    # it are the part's.
    text, owned, pages = b"", 0, 0
    for more, is_owned, break_behind in _read_text(part, tally):
        text += more
        owned = len(text) if is_owned else owned
        done = 0
        while (begin := text.find(_PAGE_BEGIN, done, owned + len(_PAGE_BEGIN) - 1)) >= 0:
            end = text.find(_PAGE_END, begin)
            following = text.find(_PAGE_BEGIN, begin + 1, end) if end >= 0 else -1
            if end >= 0 and following < 0:
                done = end + len(_PAGE_END)
                yield text[begin:done]
            elif end >= 0:
                done = following
                _lose(text[begin:following], "without an end", tally, part)
            elif break_behind:
                done = len(text)
                _lose(text[begin:], break_behind, tally)
            elif len(text) - begin > _MAX_PAGE_BYTES:
                done = len(text)
                _lose(text[begin:], f"without an end in {_MAX_PAGE_BYTES:,} bytes", tally, part)
            else:
                break
            pages += 1
        if begin < 0 and len(text) >= owned + len(_PAGE_BEGIN) - 1:
            # Not even half a tag of the part's is left.
            break
        if begin < 0:
            begin = len(text) if break_behind else max(done, owned - len(_PAGE_BEGIN) + 1)
        text, owned = text[begin:], max(0, owned - begin)
    if part.pages is not None and part.pages > pages:
        tally.dropped[DAMAGED] += part.pages - pages


def _lose(text: bytes, why: str, tally: Tally, part: DumpPart | None = None) -> None:
    """Count a page as lost; it is named as a fault of its own if `part` is given."""
    title = _TITLE.search(text)
    name = html.unescape(title[1].decode("utf-8", "replace")) if title else "a page without a title"
    tally.dropped[DAMAGED] += 1
    tally.skipped.append((name, why))
    if part:
        tally.faults.append(f"{printable(str(part.source))}: {name}: {why}")


def _read_text(part: DumpPart, tally: Tally) -> Iterator[tuple[bytes, bool, str]]:
    """Pieces of a dump from the beginning of a part on, past its end, to the end of the dump.

    Each comes with whether it is the part's, and with why no text goes on behind it, if so.
    """
    if part.is_compressed:
        blocks = read_blocks(part.source, part.begin)
    else:
        blocks = _read_plain(part.source, part.begin, part.end)
    tail = b""
    for block in blocks:
        is_owned = block.begin < part.end
        tail = (tail + block.text)[-_TAIL_BYTES:]
        if is_owned and block.fault:
            tally.faults.append(f"{printable(str(part.source))}: {block.fault}")
        elif is_owned and block.is_last and not _may_end_dump(tail):
            size = part.source.stat().st_size
            tally.faults.append(
                f"{printable(str(part.source))}: cut off at byte {size:,}: no </mediawiki> is at its end"
            )
        yield block.text, is_owned, "damaged" if block.fault else "cut off" if block.is_last else ""


def _may_end_dump(tail: bytes) -> bool:
    """Whether a whole dump ends so, of whose last tag the part before may have the beginning."""
    end = tail.rstrip()
    return end.endswith(_DUMP_END) or (tail != b"" and _DUMP_END.endswith(end))


def _read_plain(path: Path, begin: int, border: int) -> Iterator[Block]:
    """A file from byte `begin` on; `border` is between two blocks."""
    size = path.stat().st_size
    with open(path, "rb") as stream:
        stream.seek(begin)
        while text := stream.read(min(_READ_BYTES, border - begin if begin < border else _READ_BYTES)):
            following = begin + len(text)
            yield Block(begin, text, is_last=following >= size)
            begin = following
