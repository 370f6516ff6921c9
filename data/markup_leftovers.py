"""What is left of wiki markup in text that should have none: the measure of an extractor's quality."""

import re
from collections import Counter

_PATTERNS = {
    "brackets": r"\[\[|\]\]|\{\{|\}\}|\{\||\|\}",
    "pipes": r"\|",
    "file options": r"\b(?:thumb|upright|\d+px)\b",
    "tags": r"</?[a-zA-Z][^<>\n]*>|<!--|-->",
    "addresses": r"https?:|://|www\.",
    "empty parentheses": r"\([\s,;:./-]*\)|\[\s*\]",
    "quotes": r"''",
    "entities": r"&\w+;|&#\d+;",
    "magic words": r"__[A-Z]+__",
    "headings": r"==+",
    "spaces": r"  |[\t\u00a0]| [,;.](?=\s)",
    "formulas": "\ufffc|\\\\(?:frac|mathrm|text)|formula_\\d+",
}
_COMPILED = {kind: re.compile(pattern) for kind, pattern in _PATTERNS.items()}

KINDS = tuple(_PATTERNS)


def count_leftovers(text: str) -> Counter[str]:
    """How many traces of markup a text has, by kind; what is a trace of two kinds counts twice."""
    return Counter({kind: len(pattern.findall(text)) for kind, pattern in _COMPILED.items()})
