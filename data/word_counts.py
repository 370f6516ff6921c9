"""How many words a text has, whether or not its script puts spaces between them.

The words themselves are not found here: where there are no spaces, letters tell how many there may be.
"""

import re

# An ideograph is a word, as for BERT's tokenizer; two kana are one, and four letters, vowel signs included,
# of Thai, Lao, Tibetan, Burmese and Khmer. The last of a run may have fewer.
_IDEOGRAPH = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"
_KANA = "\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_THAI_AND_LAO = "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0edc-\u0edf"
_TIBETAN = "\u0f00\u0f40-\u0fbc"
_BURMESE = "\u1000-\u103f\u1050-\u109d\ua9e0-\ua9ef\ua9fa-\ua9fe\uaa60-\uaa7f"
_KHMER = "\u1780-\u17d3"
_WORD_WITHOUT_SPACES = re.compile(
    f"[{_IDEOGRAPH}]|[{_KANA}]{{1,2}}|[{_THAI_AND_LAO}{_TIBETAN}{_BURMESE}{_KHMER}]{{1,4}}"
)


def count_words(text: str) -> int:
    """What stands between white space, or the words in scripts without spaces where these are more.

    So a name in another script, in brackets behind the English one, makes an English text hardly longer.
    """
    words = len(text.split())
    return words if text.isascii() else max(words, len(_WORD_WITHOUT_SPACES.findall(text)))
