"""Words are counted in every script; of English they are what stands between white space."""

# ruff: noqa: RUF001 (letters and signs of other scripts are what is tested)

import random

import pytest

from data.word_counts import count_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        ("A man, a plan – a canal.", 7),
        # A name in brackets adds nothing.
        ("Kyoto (京都) is old.", 4),
        # Eight ideographs; marks are none.
        ("“這條河很長，也很慢。”", 8),
        # 東京 日本 首都, and の, は, であ, る.
        ("東京は日本の首都である。", 10),
        # Eleven kana.
        ("ソーシャルメディア「です」", 6),
        # "Thailand is a country": 17 letters.
        ("ประเทศไทยเป็นประเทศ", 5),
        ("ປະເທດລາວ", 2),
        ("ភាសាខ្មែរ", 3),
        ("မြန်မာဘာသာ", 3),
        # Syllables stand apart by a sign of their own: བོད སྐད.
        ("བོད་སྐད", 2),
        # An ideograph beyond the first plane, a kana of half the width.
        ("\U00020000ｱ", 2),
        ("यह एक वाक्य है।", 4),
        ("한국어는 띄어 쓴다.", 3),
    ],
)
def test_words_of_each_script_are_counted_by_hand(text, words):
    assert count_words(text) == words


def test_text_with_spaces_has_the_words_between_them():
    draw = random.Random(0)
    for _ in range(300):
        text = "".join(draw.choices("ab é ß Ж – ’ \n\t\u00a0 ع ह ि", k=40))
        assert count_words(text) == len(text.split())
