"""Text that a tokenizer may stumble over, and a vocabulary that has something for each kind of it."""

import random

from tokenization import SPECIAL_PIECES

# A vocabulary that has something for each kind of text below, so that the ids are not all [UNK].
CHARACTERS = sorted(
    set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789éüñßœ\u0131\u03c3ς中文字日本語한국어😀́.,'-¿$"
    )
)
WORDS = """the quick brown fox naive café Café over jump ##s ##ed ##ing un ##aff ##able 中 文 can ' t"""
PIECES = tuple(dict.fromkeys([*SPECIAL_PIECES, *CHARACTERS, *(f"##{c}" for c in CHARACTERS), *WORDS.split()]))

NASTY_TEXTS = [
    "",
    " ",
    "The quick brown fox jumped over 13 unaffable foxes, can't it?",
    "naïve café Café CAFÉ",
    "Cafe\u0301 decomposed, A\u0301\u0323",
    "中文字符 mixed 漢字text日本語",
    "한국어 텍스트",
    "العربية हिन्दी ไทย",
    "\U00020000\U0002f800 rare ideographs",
    "👩‍👩‍👧‍👦 emoji 😀😀",
    "\x00null\x07bell\x1b[0m\x7f\x85",
    "tab\tnewline\nreturn\rform\ffeed",
    "\u00a0no\u00a0break\u3000ideographic\u2003em space",
    "\u200bzero\u200dwidth\ufeffmarks\u00adsoft\ufffd",
    "\u2028line\u2029paragraph",
    "ﬁ ligature ½ İstanbul \u0131 ß ẞ Σίσυφος ΣΑΣ",
    "don't U.S.A. 3.14 e-mail foo_bar $9.99 ¿qué? «x» „y“ — …",
    '`^~|<>+= all kinds of ASCII punctuation !"#%&()*/:;@[\\]{}',
    "a" * 100,
    "a" * 101,
    "ab" * 5000,
    "x " * 3000,
    "\ue000 private, \U0010ffff last, \ufdd0 none",
]
CASES = [(True, None), (False, None), (True, False), (False, True)]


def random_texts(count: int) -> list[str]:
    """Characters from all over Unicode, four of its areas equally often."""
    draw = random.Random(5)
    areas = [(0x20, 0x250), (0x250, 0x3100), (0x3100, 0xD800), (0xE000, 0x30000)]
    return ["".join(chr(draw.randrange(*draw.choice(areas))) for _ in range(30)) for _ in range(count)]
