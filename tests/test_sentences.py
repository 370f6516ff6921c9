"""Sentences: nothing is lost, and abbreviations, initials, numbers and quotations do not end one."""

from pathlib import Path

import pytest

from sentences import split_sentences

WIKITEXT = Path(__file__).parents[1].parent / "shared" / "data" / "wikipedia" / "wikitext-2-valid.txt"


@pytest.mark.parametrize(
    "sentences",
    [
        ["Dr. Smith met J. R. R. Tolkien at 3.14 p.m. on Jan. 5, 1990.", "He left."],
        ["He lived in the U.S.", "He died in 1901.", "The U.S. Senate met."],
        ["This includes plants, e.g. trees, i.e. large ones, etc. and so on.", "Next."],
        ['He said, "I am here."', "Then he left.", '"Go!" she cried.'],
        ["Smith et al. (1999) paid $3.5 million.", "See Fig. 3 and No. 5."],
        ["Gen. Grant of Washington, D.C. came.", "St. Louis is big."],
        ["George W. Bush and John F. Kennedy met.", "Is it true?", "Yes!"],
        ["He wrote The Fountainhead (1943).", "It sold well."],
        ["Toads, such as the Bufo spp. toads, hunt.", "Frogs wait."],
    ],
)
def test_sentences_end_where_a_reader_ends_them(sentences):
    assert split_sentences(" ".join(sentences)) == sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ["the cat sat on the mat.", "was it happy there?", "then a dog came in."],
        [
            "თბილისი საქართველოს დედაქალაქია.",
            "ის მდებარეობს მტკვრის ნაპირებზე.",
            "იქ ბევრი ადამიანი ცხოვრობს.",
        ],
        ["NATO-ს წევრია.", "ის დიდია."],
    ],
    ids=["English without capitals", "Georgian", "Georgian with a name in capitals"],
)
def test_text_without_capitals_has_sentences_too(sentences):
    assert split_sentences(" ".join(sentences)) == sentences


def test_no_sentence_is_bare_punctuation():
    assert split_sentences("... It was late. ? He slept. ...") == ["... It was late. ?", "He slept. ..."]


@pytest.mark.parametrize(
    "paragraph", ["", " \n\t ", "...", "a", "Tab\tand\nline. Next\u00a0one.", "1. One 2. Two"]
)
def test_nothing_is_lost_from_odd_paragraphs(paragraph):
    sentences = split_sentences(paragraph)
    assert " ".join(sentences).split() == paragraph.split()
    assert all(sentence == sentence.strip() and "\n" not in sentence for sentence in sentences)
    assert all(sentences)


def test_nothing_is_lost_from_real_text():
    if not WIKITEXT.exists():
        pytest.skip("WikiText-2 is not in ../shared/data")
    paragraphs = [line for line in WIKITEXT.read_text(encoding="utf-8").splitlines() if line.strip()]
    split = [split_sentences(paragraph) for paragraph in paragraphs]
    for paragraph, sentences in zip(paragraphs, split, strict=True):
        assert "".join(" ".join(sentences).split()) == "".join(paragraph.split())
    assert sum(map(len, split)) > 2 * len(paragraphs)
