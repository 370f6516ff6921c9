"""What is served from memory has the ids that the tokenizer gives, whatever the text and what came before."""

import itertools
import random

import pytest
from text_cases import CASES, NASTY_TEXTS, PIECES, random_texts

import word_cache
from tokenization import Vocabulary, build_tokenizer, load_vocabulary
from word_cache import LineTokenizer

# Spaces of all kinds, what is removed, composes, decomposes, is isolated or changes its length in lower case.
TRICKY = [
    *" \t\n\r\f\v\x00\x1c\x1f\x7f\x85\u00a0\u2003\u3000\u200b\u200d\ufeff\ufffd\u2028",
    *"aAzZ09éÉßİ\u0131Σςﬁ½",
    *"\u0301\u0323\u0338\u05b0\u0e31\u093c",
    *".,'-_[]#`~$—…«»“”¿。、",
    *"中文\u4e00\u9fff\u3400\uf900字가각",
]


def expected(vocabulary: Vocabulary, lines: list[str]) -> list[list[int]]:
    encodings = build_tokenizer(vocabulary).encode_batch(lines, add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def cached(tokenize: LineTokenizer, lines: list[str]) -> list[list[int]]:
    ids, lengths = tokenize(lines)
    assert len(lengths) == len(lines) and sum(lengths) == len(ids)
    rest = iter(ids.tolist())
    return [list(itertools.islice(rest, length)) for length in lengths]


def tricky_texts(count: int) -> list[str]:
    draw = random.Random(7)
    return ["".join(draw.choices(TRICKY, k=draw.randint(0, 12))) for _ in range(count)]


@pytest.mark.parametrize(("do_lower_case", "strip_accents"), CASES)
def test_nasty_text_has_the_tokenizers_ids_the_first_time_and_again(do_lower_case, strip_accents):
    vocabulary = Vocabulary(PIECES, do_lower_case, strip_accents)
    tokenize = LineTokenizer(vocabulary)
    lines = NASTY_TEXTS + random_texts(300) + tricky_texts(6000)
    lines += [f"{one} {other}" for one, other in itertools.pairwise(lines)]
    by_tokenizer = expected(vocabulary, lines)
    assert cached(tokenize, lines) == by_tokenizer
    assert cached(tokenize, lines) == by_tokenizer
    assert len({piece for ids in by_tokenizer for piece in ids}) > 80, "many pieces are compared, not [UNK]"


@pytest.mark.parametrize("do_lower_case", [True, False])
def test_any_two_ascii_characters_within_a_word_have_the_tokenizers_ids(do_lower_case):
    vocabulary = Vocabulary(PIECES, do_lower_case)
    characters = [chr(code) for code in range(128)]
    lines = [f"the{one}{other}fox" for one, other in itertools.product(characters, repeat=2)]
    assert cached(LineTokenizer(vocabulary), lines) == expected(vocabulary, lines)


@pytest.mark.parametrize("do_lower_case", [True, False])
def test_any_character_beside_a_mark_and_an_ideograph_has_the_tokenizers_ids(do_lower_case):
    """Every seventh of those that UTF-8 can write."""
    vocabulary = Vocabulary(PIECES, do_lower_case)
    codes = [*range(0, 0xD800, 7), *range(0xE000, 0x30000, 7)]
    lines = ["a{0},{0}b{0}中{0}".format(chr(code)) for code in codes]
    assert cached(LineTokenizer(vocabulary), lines) == expected(vocabulary, lines)


@pytest.mark.parametrize("name", ["wikitext-2-test.txt", "wikitext-2-valid.txt"])
def test_real_text_has_the_tokenizers_ids(name, shared_data):
    vocabulary = load_vocabulary(shared_data / "vocab" / "vocab.txt")
    lines = (shared_data / "wikipedia" / name).read_text(encoding="utf-8").splitlines()
    by_tokenizer = expected(vocabulary, lines)
    assert sum(map(len, by_tokenizer)) > 200_000
    assert cached(LineTokenizer(vocabulary), lines) == by_tokenizer


def test_memory_is_bounded_and_what_was_forgotten_has_the_same_ids(monkeypatch):
    monkeypatch.setattr(word_cache, "_MOST_TEXTS", 50)
    vocabulary = Vocabulary(PIECES)
    tokenize = LineTokenizer(vocabulary)
    lines = tricky_texts(500)
    for _ in range(2):
        assert cached(tokenize, lines) == expected(vocabulary, lines)
        assert 0 < len(tokenize._cache) <= 50


def test_long_texts_are_not_kept():
    tokenize = LineTokenizer(Vocabulary(PIECES))
    tokenize(["fox" * 100, "é" * 100, "," * 100, "fox," * 100])
    assert set(tokenize._cache) == {",", "fox"}


def test_what_was_met_is_not_tokenized_again(monkeypatch):
    tokenize = LineTokenizer(Vocabulary(PIECES))
    lines = ["The quick, brown fox", "naïve café 中文"]
    first = cached(tokenize, lines)

    def fail(text: str) -> bytes:
        raise AssertionError(f"{text!r} is tokenized again")

    monkeypatch.setattr(tokenize._cache, "_ids", fail)
    assert cached(tokenize, lines) == first
    with pytest.raises(AssertionError, match="jumped"):
        tokenize(["jumped"])
