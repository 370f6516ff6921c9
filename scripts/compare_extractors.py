"""Our text of a Wikipedia dump beside WikiExtractor's, page by page: words kept, and what is left of markup.

    python -m pip install wikiextractor==3.1.0
    python -m wikiextractor.WikiExtractor DUMP --json --output wikiextractor_text
    python scripts/compare_extractors.py DUMP --other wikiextractor_text

Prints tables in Markdown. Words are runs of letters and digits; a page's words "only here" are those that the
other text of it has not, or has less often. WikiExtractor is no part of this project: it is under the AGPL.
"""

import json
import re
import sys
from collections import Counter
from dataclasses import MISSING, dataclass
from pathlib import Path

# Run by its path, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from command_line import UsageError, option, parse, require, require_at_least, run_program
from data import wikipedia_extraction
from data.documents import Tally
from data.markup_leftovers import KINDS, count_leftovers

_WORD = re.compile(r"\w+")


@dataclass
class ComparisonConfig:
    """Settings of this program."""

    dump: str = option(MISSING, "pages-articles dump", group="comparison", positional=True)
    other: str = option(MISSING, "folder that WikiExtractor wrote with --json", group="comparison")
    pages: int = option(10, "pages that are listed, those that differ most first", group="comparison")

    def __post_init__(self):
        require(Path(self.other).is_dir(), "other", self.other, "no such folder")
        require_at_least(0, self, "pages")


def main() -> None:
    config = parse(ComparisonConfig, description=__doc__)
    ours = _our_texts(config.dump)
    theirs = _wikiextractor_texts(Path(config.other))
    common = [title for title in ours if title in theirs]
    print(f"{len(ours)} pages here, {len(theirs)} there, {len(common)} in both\n")
    _print_totals([ours[title] for title in common], [theirs[title] for title in common])
    _print_pages([(title, ours[title], theirs[title]) for title in common], config.pages)
    for place, texts, others in (("here", ours, theirs), ("there", theirs, ours)):
        print(f"\nonly {place}: " + (", ".join(title for title in texts if title not in others) or "none"))


def _our_texts(dump: str) -> dict[str, str]:
    tally = Tally()
    parts = wikipedia_extraction.plan([dump])
    return {
        document.title: document.text for part in parts for document in wikipedia_extraction.read(part, tally)
    }


def _wikiextractor_texts(folder: Path) -> dict[str, str]:
    """Title and text of every page that has text."""
    texts = {}
    for path in sorted(folder.rglob("wiki_*")):
        for line in path.read_text(encoding="utf-8").splitlines():
            page = json.loads(line)
            if page["text"].strip():
                texts[page["title"]] = page["text"]
    if not texts:
        raise UsageError(f"--other {folder}: holds no text of WikiExtractor's")
    return texts


def _print_totals(ours: list[str], theirs: list[str]) -> None:
    words = [sum(len(_WORD.findall(text)) for text in texts) for texts in (ours, theirs)]
    leftovers = [sum(map(count_leftovers, texts), Counter()) for texts in (ours, theirs)]
    print("| left per 1,000 words | here | WikiExtractor |\n|---|---|---|")
    for kind in KINDS:
        shares = [1000 * counts[kind] / count for counts, count in zip(leftovers, words, strict=True)]
        print(f"| {kind} | {shares[0]:.3f} | {shares[1]:.3f} |")
    shares = [1000 * counts.total() / count for counts, count in zip(leftovers, words, strict=True)]
    print(f"| all | {shares[0]:.3f} | {shares[1]:.3f} |")
    print(f"| words | {words[0]:,} | {words[1]:,} |\n")


def _print_pages(pages: list[tuple[str, str, str]], count: int) -> None:
    rows = []
    for title, our_text, other_text in pages:
        ours, theirs = Counter(_WORD.findall(our_text)), Counter(_WORD.findall(other_text))
        rows.append((title, ours.total(), theirs.total(), (ours - theirs).total(), (theirs - ours).total()))
    rows.sort(key=lambda row: row[3] + row[4], reverse=True)
    print("| page | words here | there | only here | only there |\n|---|---|---|---|---|")
    for title, *numbers in rows[:count]:
        print(f"| {title} | " + " | ".join(f"{number:,}" for number in numbers) + " |")


if __name__ == "__main__":
    run_program(main)
