"""Small Wikipedia dumps in every form that Wikimedia publishes them in, and the real excerpt."""

import bz2
import random
import re
from pathlib import Path
from xml.sax.saxutils import escape

EXCERPT = "wikipedia/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
NAMESPACE = ' xmlns="http://www.mediawiki.org/xml/export-0.10/"'
END = b"</mediawiki>\n"


def page_xml(title: str, text: str, namespace: int = 0, redirect: bool = False) -> str:
    mark = '<redirect title="Elsewhere" />' if redirect else ""
    return (
        f"<page><title>{escape(title)}</title><ns>{namespace}</ns><id>1</id>{mark}"
        f'<revision><id>2</id><text xml:space="preserve">{escape(text)}</text></revision></page>\n'
    )


def dump_xml(*pages: str, namespace: str = NAMESPACE) -> bytes:
    return f"<mediawiki{namespace}><siteinfo/>\n{''.join(pages)}".encode() + END


def article(number: int, words: int = 0) -> str:
    """An article, with a paragraph of so many random words, which do not compress much."""
    draws = random.Random(number)
    noise = " ".join(f"{draws.getrandbits(64):x}" for _ in range(words))
    return (
        f"'''Town {number}''' is a town in [[Province|the province]]. It has {number} people.\n\n"
        f"It is old.\n\n{noise}\n"
    )


def towns(count: int, words: int = 0) -> list[str]:
    """The pages of articles Town 0, Town 1 and so on."""
    return [page_xml(f"Town {number}", article(number, words)) for number in range(count)]


def write_multistream(path: Path, pages: list[str], pages_per_stream: int) -> list[int]:
    """Write a multistream dump with its index; returns where its streams of pages begin, and the last one.

    As Wikimedia's, it has a stream before the pages and one behind them, which the index does not list.
    """
    content = bz2.compress(dump_xml().removesuffix(END))
    offsets, lines = [], []
    for begin in range(0, len(pages), pages_per_stream):
        stream = pages[begin : begin + pages_per_stream]
        offsets.append(len(content))
        titles = [page.partition("<title>")[2].partition("</title>")[0] for page in stream]
        lines += [f"{offsets[-1]}:{begin + number}:{title}\n" for number, title in enumerate(titles)]
        content += bz2.compress("".join(stream).encode())
    offsets.append(len(content))
    path.write_bytes(content + bz2.compress(END))
    index_name = re.sub(r"multistream(\d*)\.xml", r"multistream-index\1.txt", path.name)
    path.with_name(index_name).write_bytes(bz2.compress("".join(lines).encode()))
    return offsets
