"""Pieces of Markdown for the cards of data and models: tables, and text that stays text within them."""

import re
from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A Markdown table; the columns of the numbers `right` are flush right."""
    rule = ["---:" if column in right else "---" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def code(text: str) -> str:
    """Text as it is, in a table's cell; one with a bar not as code, where readers of Markdown differ."""
    return plain(text) if re.search(r"[`|\n]", text) else f"`{text}`"


def plain(text: str) -> str:
    """Words in a table's cell: what Markdown or HTML would take for a sign is escaped."""
    text = re.sub(r"[&<>|~]", lambda match: f"&#{ord(match[0])};", " ".join(text.split()))
    return re.sub(r"([\\`*_\[\]])", r"\\\1", text)
