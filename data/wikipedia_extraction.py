"""Wikipedia's articles as documents: which pages are articles, and their markup as paragraphs.

The dump is wikipedia_dump.py's, and how markup reads as text wikitext.py's.
"""

import re
from collections.abc import Iterator

from data import wikitext
from data.documents import Tally, TextDocument
from data.wikipedia_dump import DumpPart, Page, plan, read_pages
from sentences import split_sentences

__all__ = ["DumpPart", "is_disambiguation", "plan", "read", "source_paths", "wikitext_to_text"]

_ARTICLES = 0
_DISAMBIGUATION = re.compile(
    r"\{\{ ?(?:[^{}|\n]{0,60}\bdisambig(?:uation)?(?:[ _]cleanup|[ _]page)?|dab|disamb|hndis|geodis|numberdis"
    r"|mathdab|roaddis|schooldis|hospitaldis|mil-unit-dis)\s*(?:\||\}\})|__DISAMBIG__",
    re.IGNORECASE,
)


def source_paths(part: DumpPart) -> list[str]:
    """The files that a part follows from: the dump, and the index where it was divided by that."""
    return [str(part.source), *([str(part.index)] if part.index else [])]


def read(part: DumpPart, tally: Tally) -> Iterator[TextDocument]:
    """The articles of a part of a dump, in order; why the other pages are none is counted in the tally."""
    for page in read_pages(part, tally):
        if reason := _why_no_article(page):
            tally.dropped[reason] += 1
            continue
        try:
            paragraphs = wikitext_to_text(page.wikitext)
        except Exception as error:
            # Among millions of pages some defeat any parser; one of them must not end a run of hours.
            tally.dropped["failed"] += 1
            tally.skipped.append((page.title, f"{type(error).__name__}: {error}"))
            continue
        if paragraphs:
            yield TextDocument(page.title, "\n".join(paragraphs))
        else:
            tally.dropped["without text"] += 1


def _why_no_article(page: Page) -> str | None:
    if page.namespace != _ARTICLES:
        return "other namespace"
    if page.is_redirect:
        return "redirect"
    return "disambiguation" if is_disambiguation(page) else None


def is_disambiguation(page: Page) -> bool:
    """Whether a page only lists the articles that its title may mean."""
    return page.title.endswith("(disambiguation)") or bool(_DISAMBIGUATION.search(page.wikitext))


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
