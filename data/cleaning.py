"""What is repaired in a document, and which documents are dropped, by switches that are all off by default.

A `Cleaner` judges one document at a time. Documents that come twice are told over all of them at once, by
deduplication.py; the switches for that have their names here.
"""

import re
from pathlib import Path

import ftfy

from command_line import UsageError
from data.decontamination import FLAG, EvaluationIndex
from data.documents import Tally, TextDocument
from data.languages import LanguageFilter

# In the order in which they are applied; each is also the reason of a drop in the manifest.
CLEANERS = {
    "unicode": "repair text that was decoded wrongly, entities, ligatures (ftfy)",
    "control": "remove control and invisible characters, make every space a plain one",
    "short": "drop documents below the least number of characters",
    "language": "drop documents in another language",
    "evaluation": "drop documents that share 13 words in a row with an evaluation file",
    "duplicates": "drop documents whose text came before",
    "near_duplicates": "drop documents of which four fifths came before",
}
NONE, STANDARD = "none", "standard"
MIN_CHARACTERS = 200

# What ftfy changes in ASCII text: entities, terminal escapes and line ends.
_REPAIRABLE_ASCII = re.compile(r"&#?[0-9A-Za-z]{1,24};|[\x1b\r]")
# Quotation marks are the author's, not damage; control characters have their own cleaner.
_REPAIRS = ftfy.TextFixerConfig(uncurl_quotes=False, remove_control_chars=False, explain=False)

_ODD_SPACE = re.compile(
    r"[\t\x0b\x0c\r\x1c-\x1f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]|  "
)
_SPACES = re.compile(r"[^\S\n]+")
# Of Unicode's categories Cc, Cf, Co and Cs what is not seen in print or has no meaning that all readers
# share, and the mark of a lost character. BERT's normaliser drops all of it too.
_INVISIBLE = re.compile(
    r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f"
    r"\ud800-\udfff\ue000-\uf8ff\ufeff\ufff9-\ufffb\ufffd\U000e0001\U000e0020-\U000e007f"
    r"\U000f0000-\U000ffffd\U00100000-\U0010fffd]"
)


def parse_switches(text: str, decontaminate: bool) -> frozenset[str]:
    """The cleaners that --clean turns on.

    Args:
        text: "none", "standard" (all of them), or names of CLEANERS with commas between.
        decontaminate: whether evaluation files are given, which turns on "evaluation" whatever the text says;
            without any, "standard" means all the others.

    Raises:
        UsageError: an unknown name, or "evaluation" by name without a file.
    """
    names = set() if text == NONE else set(CLEANERS) - {"evaluation"} if text == STANDARD else None
    if names is None:
        names = {name.strip() for name in text.split(",")}
        for name in sorted(names - set(CLEANERS)):
            raise UsageError(f"--clean {text}: {name!r} is none of {NONE}, {STANDARD}, {', '.join(CLEANERS)}")
        if "evaluation" in names and not decontaminate:
            raise UsageError(f"--clean {text}: evaluation needs --{FLAG} FILE")
    return frozenset(names | {"evaluation"} if decontaminate else names)


class Cleaner:
    """Repairs or drops single documents; what it does to one follows from that one alone.

    Args:
        switches: names of CLEANERS; those of duplicates change nothing here.
        language: ISO 639 code of the language that is kept, for "language".
        min_characters: length of the shortest text that is kept, for "short".
        evaluation_index: file of `build_evaluation_index`, for "evaluation".

    Raises:
        UsageError: no such language.
    """

    def __init__(
        self,
        switches: frozenset[str],
        language: str = "en",
        min_characters: int = MIN_CHARACTERS,
        evaluation_index: str | Path | None = None,
    ):
        self._repairs = [
            (name, repair)
            for name, repair in (("unicode", repair_unicode), ("control", remove_invisible))
            if name in switches
        ]
        self._refusals = []
        if "short" in switches:
            self._refusals.append(("short", lambda text: len(text) < min_characters))
        if "language" in switches:
            self._refusals.append(("language", LanguageFilter(language).refuses))
        if "evaluation" in switches:
            self._refusals.append(("evaluation", EvaluationIndex.load(evaluation_index).overlaps))

    def clean(self, document: TextDocument, tally: Tally) -> TextDocument | None:
        """The document as it is kept; None if it is dropped, for a reason that `tally` then counts.

        A text of which a repair leaves nothing is dropped for that repair's name.
        """
        for name, repair in self._repairs:
            repaired = TextDocument(" ".join(repair(document.title).split()), repair(document.text))
            if repaired != document:
                tally.changed[name] += 1
            if not repaired.text:
                tally.dropped[name] += 1
                return None
            document = repaired
        for name, refuses in self._refusals:
            if refuses(document.text):
                tally.dropped[name] += 1
                return None
        return document


def repair_unicode(text: str) -> str:
    """The text as it was before it was decoded wrongly ("schÃ¶n"), escaped ("&eacute;") or set in ligatures.

    Paragraphs in ASCII take a short way: only entities, escapes and line ends can be wrong there.
    """
    if _is_sound(text):
        return text
    lines = (line if _is_sound(line) else ftfy.fix_text(line, _REPAIRS) for line in text.split("\n"))
    return _without_blank_lines("\n".join(lines))


def remove_invisible(text: str) -> str:
    """The text without characters that nobody sees; its white space is line ends and single spaces."""
    text = _INVISIBLE.sub("", text)
    if _ODD_SPACE.search(text):
        text = _SPACES.sub(" ", text)
    return _without_blank_lines(text)


def _is_sound(text: str) -> bool:
    return text.isascii() and not _REPAIRABLE_ASCII.search(text)


def _without_blank_lines(text: str) -> str:
    return "\n".join(stripped for line in text.split("\n") if (stripped := line.strip()))
