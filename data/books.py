"""Books of Project Gutenberg without what its volunteers put before and after them.

What they put there changed over the years: until about 2002 a header that ends in `*END*THE SMALL PRINT! …`
(which then went to the end for a while), since then lines `*** START OF THE PROJECT GUTENBERG EBOOK … ***`
and `*** END OF …`; after either, paragraphs that say who made the text; at the end of older books a line "End
of Project Gutenberg's …". A book without such lines stays as it is.
"""

import itertools
import re
from collections.abc import Iterator

from data.documents import Tally

REMOVED = "Project Gutenberg's front and back matter"

# The longest headers, of 2001 and 2002, have about 350 lines.
_HEADER_LINES = 600
_HEADER_CHARACTERS = 100_000
_MARKER_LINES = 4
_CREDIT_PARAGRAPHS = 6
_NOTE_LINES = 60

_START = re.compile(r"\*+\s*START OF (?:THE|THIS) (?:COPYRIGHTED )?PROJECT GUTENBERG", re.IGNORECASE)
_SMALL_PRINT_END = re.compile(r"\**\s*END\s*\*?\s*THE SMALL PRINT!", re.IGNORECASE)
_END = re.compile(
    r"\*+\s*END OF (?:THE|THIS) (?:COPYRIGHTED )?PROJECT GUTENBERG"
    r"|\**\s*END OF (?:THE |THIS )?PROJECT GUTENBERG(?:['\u2019]s|\s+(?:e-?text|e-?book|edition|of)\b|\W*$)"
    r"|\**\s*(?:Ende dieses Proje[ck]t Gutenberg|Fin (?:de|du) Project Gutenberg)"
    r"|\*+\s*START: FULL LICENSE",
    re.IGNORECASE,
)
_CREDITS = re.compile(
    r"(?:This |The )?(?:Project Gutenberg )?(?:e-?text|e-?book|file|text)?\s*(?:was |is )?(?:originally )?"
    r"(?:produced|prepared|created|scanned|typed|transcribed|digiti[sz]ed|proofed|proof-?read|converted)"
    r"(?:(?:,|,? and|,? &) [\w-]+)* (?:by|from) "
    r"|\(?(?:This|The) (?:file|book|e-?text|e-?book) was (?:produced|made) from "
    r"|HTML version (?:created |prepared )?by |Updated editions? "
    r"|.{0,80}\b(?:Distributed Proofread|PG Distributed|www\.pgdp\.net)"
    r"|\[?\(?(?:Transcriber|Transcriber['\u2019]s|Editor['\u2019]s) (?:e-?text )?notes?\b"
    r"|\[?\(?Transcribers['\u2019]? notes?\b"
    r"|Note: (?:Project Gutenberg|Images of the original|The original )"
    r"|Credits: ",
    re.IGNORECASE | re.DOTALL,
)


def body(lines: Iterator[str], tally: Tally) -> Iterator[str]:
    """A book's own lines; those around it are counted in `tally.removed` by their characters.

    Several books in one file are each taken for itself, if the later ones have a line of START.

    Args:
        lines: stripped, in order, blank ones too.
    """
    header = _header(lines)
    first = _lines_of_header(header)
    rest = itertools.chain(header[first:], lines)
    _count(header[:first], tally)
    if first:
        rest = _without_credits(rest, header[first - 1], tally)
    while True:
        for line in rest:
            if _END.match(line):
                _count([line], tally)
                break
            yield line
        else:
            return
        for line in rest:
            _count([line], tally)
            if _START.match(line):
                # So that two books do not share a paragraph.
                yield ""
                rest = _without_credits(rest, line, tally)
                break
        else:
            return


def _header(lines: Iterator[str]) -> list[str]:
    """As many lines as a header may have."""
    header: list[str] = []
    characters = 0
    for line in lines:
        header.append(line)
        characters += len(line)
        if len(header) == _HEADER_LINES or characters > _HEADER_CHARACTERS:
            break
    return header


def _lines_of_header(lines: list[str]) -> int:
    """How many lines there are before the book and its credits: 0 where none is a marker.

    The last marker counts that comes before the book's end: some books have small print and START. What comes
    after the end may be the small print again, or the next book.
    """
    count = 0
    for number, line in enumerate(lines, start=1):
        if _END.match(line):
            break
        if _START.match(line) or _SMALL_PRINT_END.match(line):
            count = number
    return count


def _without_credits(lines: Iterator[str], marker: str, tally: Tally) -> Iterator[str]:
    """What follows a marker, without the rest of it and the paragraphs that say who made the text."""
    for _ in range(_MARKER_LINES):
        if marker.endswith("*"):
            break
        marker = next(lines, "")
        if not marker:
            break
        _count([marker], tally)
    for _ in range(_CREDIT_PARAGRAPHS):
        paragraph = _next_paragraph(lines)
        if not _CREDITS.match(" ".join(paragraph)):
            return itertools.chain(paragraph, lines)
        _count(paragraph, tally)
        if paragraph[0].startswith("["):
            lines = _without_rest_of_note(paragraph, lines, tally)
    return lines


def _without_rest_of_note(paragraph: list[str], lines: Iterator[str], tally: Tally) -> Iterator[str]:
    """What follows a note in brackets, if they close soon; else what follows its first paragraph."""
    more: list[str] = []
    while not "".join([*paragraph, *more]).endswith("]"):
        following = _next_paragraph(lines)
        more += following
        if not following or len(more) > _NOTE_LINES:
            return itertools.chain(more, lines)
    _count(more, tally)
    return lines


def _next_paragraph(lines: Iterator[str]) -> list[str]:
    """The next lines that are not blank and the blank one after them, but not more than a note has."""
    paragraph: list[str] = []
    for line in lines:
        if line or paragraph:
            paragraph.append(line)
        if paragraph and (not line or len(paragraph) >= _NOTE_LINES):
            break
    return paragraph


def _count(lines: list[str], tally: Tally) -> None:
    tally.removed[REMOVED] += sum(map(len, lines))
