"""Every frame that Project Gutenberg has put around books is taken off, and nothing of a book is."""

import pytest

from data import books
from data.documents import Tally

BOOK = ["THE LAMP", "", "By Nobody", "", "It was late. The lamp", "burned low.", "", "And it went out."]
OLD_HEADER = [
    "The Project Gutenberg Etext of The Lamp, by Nobody",
    "",
    "**Welcome To The World of Free Plain Vanilla Electronic Texts**",
    "",
    "***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***",
    *["A line of small print."] * 250,
]
NEW_HEADER = ["The Project Gutenberg eBook of The Lamp", "", "Title: The Lamp", "", "Credits: A. B.", ""]
LICENCE = ["", "*** START: FULL LICENSE ***", "", *["A line of the licence."] * 300]

STARTS = {
    "this": [*NEW_HEADER, "*** START OF THIS PROJECT GUTENBERG EBOOK THE LAMP ***"],
    "the": [*NEW_HEADER, "*** START OF THE PROJECT GUTENBERG EBOOK THE LAMP ***"],
    "narrow": [*NEW_HEADER, "***START OF THE PROJECT GUTENBERG EBOOK THE LAMP***"],
    "etext": [*NEW_HEADER, "*** START OF THE PROJECT GUTENBERG ETEXT THE LAMP ***"],
    "copyrighted": [*NEW_HEADER, "*** START OF THE COPYRIGHTED PROJECT GUTENBERG EBOOK THE LAMP ***"],
    "two lines": [
        *NEW_HEADER,
        "*** START OF THE PROJECT GUTENBERG EBOOK THE LAMP, WITH AN",
        "ACCOUNT OF THE OIL ***",
    ],
    "without its end": [*NEW_HEADER, "*** START OF THE PROJECT GUTENBERG EBOOK, THE LAMP", ""],
    "small print": [*OLD_HEADER, "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*"],
    "small print, one star": [
        *OLD_HEADER,
        "*END THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*",
    ],
    "small print, copyrighted": [
        *OLD_HEADER,
        "*END*THE SMALL PRINT! FOR COPYRIGHT PROTECTED ETEXTS*Ver.04.29.93*END*",
    ],
    "small print and start": [
        *OLD_HEADER,
        "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*",
        "",
        "*** START OF THE PROJECT GUTENBERG EBOOK THE LAMP ***",
    ],
}
CREDITS = {
    "none": [],
    "produced": [
        "Produced by Jane Doe and the Online Distributed",
        "Proofreading Team at https://www.pgdp.net",
    ],
    "e-text": ["E-text prepared by Jane Doe"],
    "this etext": ["This etext was prepared by Jane Doe and John Roe"],
    "scanned": ["Scanned and proofed by Jane Doe"],
    "transcribed": ["Transcribed from the 1901 Nowhere Press edition by Jane Doe"],
    "images": [
        "Produced by Jane Doe",
        "",
        "(This file was produced from images made available by a library.)",
    ],
    "note": ["Note: Project Gutenberg also has an HTML version of this file."],
    "transcriber": ["Produced by Jane Doe", "", "Transcriber\u2019s Note: spelling has been kept."],
    "note in brackets": ["[Transcriber's Notes:", "", "One thing.", "", "Another thing.]"],
}
ENDS = {
    "this": ["*** END OF THIS PROJECT GUTENBERG EBOOK THE LAMP ***", *LICENCE],
    "the": ["*** END OF THE PROJECT GUTENBERG EBOOK THE LAMP ***", *LICENCE],
    "narrow": ["***END OF THE PROJECT GUTENBERG EBOOK THE LAMP***", *LICENCE],
    "both": [
        "End of the Project Gutenberg EBook of The Lamp, by Nobody",
        "",
        "*** END OF THIS PROJECT GUTENBERG EBOOK THE LAMP ***",
        *LICENCE,
    ],
    "old": ["End of Project Gutenberg's The Lamp, by Nobody", ""],
    "old etext": ["End of The Project Gutenberg Etext of The Lamp"],
    "old, this": ["*End of this Project Gutenberg Etext The Lamp"],
    "small print after the book": [
        "*** END OF THE PROJECT GUTENBERG EBOOK THE LAMP ***",
        *["A line of small print."] * 200,
        "*END THE SMALL PRINT! FOR PUBLIC DOMAIN EBOOKS*Ver.02/11/02*END*",
    ],
    "licence alone": LICENCE[1:],
    "none": [],
}


def stripped_body(lines: list[str]) -> tuple[str, int]:
    """The book, its runs of blank lines as one, and the characters counted as removed."""
    tally = Tally()
    text = "\n".join(books.body(iter(lines), tally))
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    assert set(tally.removed) <= {books.REMOVED}
    return text.strip("\n"), tally.removed[books.REMOVED]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("credit", CREDITS)
@pytest.mark.parametrize("start", STARTS)
def test_every_frame_is_taken_off_and_counted(start, credit, end):
    lines = [*STARTS[start], "", "", *CREDITS[credit], "", "", *BOOK, "", "", *ENDS[end]]
    text, removed = stripped_body(lines)
    assert text == "\n".join(BOOK)
    assert removed == sum(map(len, lines)) - sum(map(len, BOOK))


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [""],
        BOOK,
        ["Produced by hand, the lamp was dear.", "", "So they said."],
        ["He ended the small print! And so", "ended the story."],
        ["She read of Project Gutenberg. At the end of the project, Gutenberg's", "press stood still."],
        ["*** START OF THE RACE ***", "", "They ran.", "", "*** END OF THE RACE ***", "", "They slept."],
        ["The end of Project Gutenberg's first year came.", "", "It went."],
    ],
)
def test_unmarked_book_stays_whole(lines):
    assert list(books.body(iter(lines), tally := Tally())) == lines
    assert not +tally.removed


def test_book_that_begins_like_credits_far_from_a_marker_stays_whole():
    lines = [*STARTS["the"], "", *BOOK, "", "Produced by hand, the lamp was dear."]
    assert stripped_body(lines)[0] == "\n".join([*BOOK, "", "Produced by hand, the lamp was dear."])


def test_marker_beyond_the_longest_header_is_text():
    lines = [*["A line of the book."] * 2_000, "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*", "More."]
    assert stripped_body(lines) == ("\n".join(lines), 0)


def test_note_whose_brackets_never_close_costs_its_first_paragraph_only():
    note = ["[Transcriber's Note: one thing."]
    paragraphs = [line for number in range(200) for line in (f"Paragraph {number}.", "")]
    text, removed = stripped_body([*STARTS["the"], "", *note, "", *paragraphs])
    assert text == "\n".join(paragraphs).strip("\n")
    assert removed == sum(map(len, STARTS["the"])) + len(note[0])


def test_books_in_one_file_are_each_taken_for_itself():
    one = [*STARTS["the"], "", *CREDITS["produced"], "", *BOOK, "", *ENDS["both"]]
    other = [*STARTS["this"], "", "ANOTHER", "", *ENDS["old"]]
    assert stripped_body([*one, *other, *one])[0] == "\n".join([*BOOK, "", "ANOTHER", "", *BOOK])


def test_long_book_is_never_held_whole():
    """The lines are asked for as they are given, beyond the longest header."""
    given = 0

    def lines():
        nonlocal given
        for given in range(1, 10_001):
            yield f"Line {given}."

    body = books.body(lines(), Tally())
    for number in range(1, 10_001):
        assert next(body) == f"Line {number}."
        assert given <= max(number, 600)
