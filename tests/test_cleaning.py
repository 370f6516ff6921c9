"""Cleaning changes what it says and nothing else, and counts it; with no switch on, nothing."""

# ruff: noqa: RUF001 (letters of other alphabets and signs of print are what is tested)

import concurrent.futures
import json
import multiprocessing
import random
import socket
import string

import ftfy
import pytest
from tokenizers.normalizers import BertNormalizer

from command_line import UsageError
from data.cleaning import CLEANERS, Cleaner, parse_switches, remove_invisible, repair_unicode
from data.decontamination import build_evaluation_index
from data.documents import Tally, TextDocument
from data.languages import LanguageFilter

# The same sentences about a committee, a birth and a flood, or about lost keys.
PARAGRAPHS = {
    "da": "Udvalget mødes igen på torsdag for at drøfte budgettet. "
    "Han blev født i Leipzig og flyttede til Paris med sine forældre. "
    "Det regnede i tre dage, og floden gik over sine bredder.",
    "de": "Der Ausschuss trifft sich am Donnerstag wieder, um über den Haushalt zu sprechen. "
    "Er wurde in Leipzig geboren und zog mit seinen Eltern nach Paris. "
    "Wo hast du die Schlüssel zum Gartenhaus hingelegt?",
    "es": "El comité se reunirá de nuevo el jueves para hablar del presupuesto. "
    "Nació en Leipzig y se mudó a París con sus padres. "
    "Llovió durante tres días y el río se desbordó.",
    "fr": "Le comité se réunira de nouveau jeudi pour discuter du budget. "
    "Il est né à Leipzig et a déménagé à Paris avec ses parents. "
    "La pluie est tombée pendant trois jours et la rivière a débordé.",
    "id": "Komite akan bertemu lagi pada hari Kamis untuk membahas anggaran. "
    "Ia lahir di Leipzig dan pindah ke Paris bersama orang tuanya. "
    "Hujan turun selama tiga hari dan sungai meluap.",
    "it": "Il comitato si riunirà di nuovo giovedì per discutere il bilancio. "
    "Nacque a Lipsia e si trasferì a Parigi con i genitori. "
    "Piovve per tre giorni e il fiume straripò.",
    "ja": "委員会は木曜日に再び開かれ、予算について話し合う。"
    "彼はライプツィヒで生まれ、両親とともにパリに移った。"
    "三日間雨が降り続き、川は堤防を越えた。"
    "庭の小屋の鍵をどこに置いたのだろう。",
    "nl": "De commissie komt donderdag opnieuw bijeen om de begroting te bespreken. "
    "Hij werd geboren in Leipzig en verhuisde met zijn ouders naar Parijs. "
    "Het regende drie dagen en de rivier trad buiten haar oevers.",
    "pl": "Komisja zbierze się ponownie w czwartek, aby omówić budżet. "
    "Urodził się w Lipsku i przeniósł się z rodzicami do Paryża. "
    "Przez trzy dni padał deszcz i rzeka wystąpiła z brzegów.",
    "ru": "Комитет снова соберётся в четверг, чтобы обсудить бюджет. "
    "Он родился в Лейпциге и переехал с родителями в Париж. "
    "Три дня шёл дождь, и река вышла из берегов.",
    "tr": "Komite bütçeyi görüşmek üzere perşembe günü yeniden toplanacak. "
    "Leipzig'de doğdu ve ailesiyle birlikte Paris'e taşındı. "
    "Üç gün boyunca yağmur yağdı ve nehir taştı.",
}
ENGLISH = (
    "The committee will meet again on Thursday to discuss the budget. "
    "He was born in Leipzig and moved to Paris with his parents. "
    "Rain fell for three days and the river rose above its banks. "
    "Where have you put the keys?"
)


def cleaned(text: str, *switches: str, **settings) -> tuple[str | None, Tally]:
    tally = Tally()
    document = Cleaner(frozenset(switches), **settings).clean(TextDocument("", text), tally)
    return document and document.text, tally


# ------------------------------------------------------------------------------------------------ switches


def test_nothing_is_on_by_default():
    assert parse_switches("none", decontaminate=False) == frozenset()
    messy = TextDocument("a\u200b", "schÃ¶n &amp;  \x07\u00a0x")
    tally = Tally()
    assert Cleaner(frozenset()).clean(messy, tally) is messy
    assert tally == Tally()


def test_standard_is_all_that_needs_no_file():
    assert parse_switches("standard", decontaminate=False) == set(CLEANERS) - {"evaluation"}
    assert parse_switches("standard", decontaminate=True) == set(CLEANERS)


def test_cleaners_are_switched_on_by_name():
    assert parse_switches("unicode, short", decontaminate=False) == {"unicode", "short"}


def test_evaluation_files_turn_decontamination_on():
    assert parse_switches("none", decontaminate=True) == {"evaluation"}
    assert parse_switches("short", decontaminate=True) == {"short", "evaluation"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("unicode,spelling", "--clean unicode,spelling: 'spelling' is none of none, standard, unicode"),
        ("", "--clean : '' is none of"),
        ("standard,short", "'standard' is none of"),
        ("evaluation", "--clean evaluation: evaluation needs --decontaminate_against FILE"),
    ],
)
def test_a_wrong_switch_is_named(text, told):
    with pytest.raises(UsageError, match=told):
        parse_switches(text, decontaminate=False)


# ------------------------------------------------------------------------------------------------- unicode


@pytest.mark.parametrize(
    ("broken", "whole"),
    [
        ("schÃ¶n", "schön"),
        ("The Mona Lisa doesnâ€™t have eyebrows.", "The Mona Lisa doesn’t have eyebrows."),
        ("P&ecirc;che &amp; chasse", "Pêche & chasse"),
        ("an of\ufb01cial \ufb02ag", "an official flag"),
        ("cafe\u0301", "café"),
        ("one\r\ntwo\rthree", "one\ntwo\nthree"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("first\u2029\u2029second", "first\nsecond"),
    ],
)
def test_broken_text_is_repaired(broken, whole):
    assert repair_unicode(broken) == whole


@pytest.mark.parametrize("sound", ["AT&T & sons; a <b> &", "“Curly”, she said – ‘yes’.", "Dvořák, 3 °C, ½"])
def test_sound_text_is_left_alone(sound):
    assert repair_unicode(sound) == sound


def test_the_short_way_for_ascii_ends_where_ftfy_would():
    """Lines of printable ASCII with what looks like entities, escapes and line ends."""
    draws = random.Random(1)
    pieces = [*string.printable[:95], "&amp;", "&#39;", "&lt", "\x1b[0m", "\r\n", "\t", "\x07", "&;"]
    for _ in range(2000):
        line = "x" + "".join(draws.choices(pieces, k=12)) + "x"
        expected = ftfy.fix_text(line, uncurl_quotes=False, remove_control_chars=False)
        assert repair_unicode(line).split() == expected.split()


def test_real_articles_need_no_repair(shared_data):
    for line in (shared_data / "wikipedia/wikitext-2-valid.txt").read_text(encoding="utf-8").splitlines():
        assert repair_unicode(line.strip()) == line.strip()


# ----------------------------------------------------------------------------------- control and white space


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a\x00b\x07c\x7f", "abc"),
        ("soft\u00adly zero\u200bwidth \ufeffmark \u202eturned\u202c", "softly zerowidth mark turned"),
        ("one\u00a0two\u2003three\u3000four\tfive", "one two three four five"),
        ("page\x0cbreak\u2028line\x85end", "page break line end"),
        ("  two  spaces  \n \u200b \n\nnext ", "two spaces\nnext"),
        ("private\ue000 lost\ufffd half\ud800", "private lost half"),
        ("naïve – “x” 日本 👍", "naïve – “x” 日本 👍"),
    ],
)
def test_invisible_characters_go_and_spaces_are_plain(text, clean):
    assert remove_invisible(text) == clean


def test_no_character_goes_that_berts_normaliser_keeps():
    """Of all of Unicode: tokens are the same with and without."""
    characters = [c for c in map(chr, range(0x110000)) if not c.isspace() and not "\ud800" <= c <= "\udfff"]
    text = " ".join(f"a{c}b" for c in characters)
    normaliser = BertNormalizer(
        clean_text=True, handle_chinese_chars=False, strip_accents=False, lowercase=False
    )
    before = normaliser.normalize_str(text).split(" ")
    after = normaliser.normalize_str(remove_invisible(text)).split(" ")
    assert len(before) == len(characters)
    assert after == before


def test_every_white_space_is_a_plain_space():
    for character in filter(str.isspace, map(chr, range(0x110000))):
        assert remove_invisible(f"a{character}b") == ("a\nb" if character == "\n" else "a b")


# ------------------------------------------------------------------------------------------------- language


@pytest.mark.parametrize("language", PARAGRAPHS)
def test_other_languages_are_refused(language):
    assert LanguageFilter("en").refuses(PARAGRAPHS[language])
    assert not LanguageFilter(language).refuses(PARAGRAPHS[language])
    assert LanguageFilter(language).refuses(ENGLISH)


def test_english_is_kept():
    assert not LanguageFilter("en").refuses(ENGLISH)
    assert not LanguageFilter("en").refuses(ENGLISH.upper())


def test_no_paragraph_of_real_english_is_refused(shared_data):
    english = LanguageFilter("en")
    text = (shared_data / "wikipedia/wikitext-2-test.txt").read_text(encoding="utf-8")
    paragraphs = [line for line in text.splitlines() if len(line) > 200]
    assert len(paragraphs) > 1000
    assert not [paragraph for paragraph in paragraphs if english.refuses(paragraph)]


@pytest.mark.parametrize("short", ["Guten Morgen!", "12.4, 3412 (1999)", "", "東京"])
def test_what_is_too_short_to_tell_is_kept(short):
    assert not LanguageFilter("en").refuses(short)


def test_names_alone_are_no_language():
    """Of these the model's first guess is German or Spanish, with little confidence."""
    cast = "Ingmar Bergman, Max von Sydow, Liv Ullmann, Bibi Andersson, Gunnar Björnstrand, Harriet Andersson"
    guests = "Johann Müller, Pierre Dupont, Giovanni Rossi, Ivan Petrov, Carlos Fernández, Lars Svensson"
    assert not LanguageFilter("en").refuses(f"Cast: {cast}")
    assert not LanguageFilter("en").refuses(guests)


def test_a_book_is_judged_by_more_than_its_title_page():
    book = ENGLISH * 5 + "\n" + (PARAGRAPHS["fr"] + "\n") * 1000
    assert LanguageFilter("en").refuses(book)


def test_no_connection_is_opened(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a connection is opened")

    monkeypatch.setattr(socket, "socket", refuse)
    assert LanguageFilter("en").refuses(PARAGRAPHS["de"])


@pytest.mark.parametrize("language", ["xx", "english", "EN", ""])
def test_an_unknown_language_is_named(language):
    with pytest.raises(UsageError, match=f"--language {language}: not one of the model's"):
        Cleaner(frozenset({"language"}), language=language)


# --------------------------------------------------------------------------------------------- the pipeline


def test_short_documents_are_dropped_and_counted():
    assert cleaned("x" * 200, "short") == ("x" * 200, Tally())
    text, tally = cleaned("x" * 199, "short")
    assert text is None
    assert tally.dropped == {"short": 1}
    assert cleaned("x" * 5, "short", min_characters=5)[0] == "x" * 5


def test_length_counts_after_repair():
    assert cleaned("\u200b" * 300 + "x", "short", "control")[1].dropped == {"short": 1}
    assert cleaned("\u200b" * 300 + "x", "short")[1].dropped == {}


def test_repairs_are_counted_by_document():
    cleaner, tally = Cleaner(frozenset({"unicode", "control"})), Tally()
    texts = ["schÃ¶n schÃ¶n", "a\u00a0b", "schÃ¶n\u200b", "plain"]
    documents = [cleaner.clean(TextDocument("", text), tally) for text in texts]
    assert [document.text for document in documents] == ["schön schön", "a b", "schön", "plain"]
    assert tally.changed == {"unicode": 2, "control": 2}
    assert not tally.dropped


def test_a_title_stays_on_one_line():
    document = Cleaner(frozenset({"unicode"})).clean(TextDocument("CafÃ©\u2028Bar", "text"), Tally())
    assert document.title == "Café Bar"


def test_a_document_of_nothing_but_invisible_characters_is_dropped():
    text, tally = cleaned("\u200b\n\x07 \ufeff", "control")
    assert text is None
    assert tally.dropped == {"control": 1}


def test_a_document_counts_for_the_first_reason_alone(tmp_path):
    (tmp_path / "held_out.txt").write_text(PARAGRAPHS["de"])
    build_evaluation_index(tmp_path / "index.npy", [tmp_path / "held_out.txt"])
    settings = {"evaluation_index": tmp_path / "index.npy"}
    text = PARAGRAPHS["de"]
    assert cleaned(text, "language", "evaluation", **settings)[1].dropped == {"language": 1}
    assert cleaned(text, "evaluation", **settings)[1].dropped == {"evaluation": 1}
    assert cleaned(text, "short", "language", "evaluation", min_characters=10_000, **settings)[1].dropped == {
        "short": 1
    }
    assert cleaned(ENGLISH, "language", "evaluation", **settings)[0] == ENGLISH


@pytest.mark.slow
def test_the_speed_of_every_cleaner_is_measured(tmp_path, run_program):
    (tmp_path / "held_out.txt").write_text(PARAGRAPHS["de"])
    corpus = tmp_path / "text"
    corpus.mkdir()
    (corpus / "a.txt").write_text(f"{ENGLISH}\n\n{ENGLISH}\n")
    result = run_program(
        "scripts/cleaning_speed.py",
        f"--corpus_dir={corpus}",
        f"--decontaminate_against={tmp_path / 'held_out.txt'}",
        "--described_documents=40_000",
    )
    assert result.returncode == 0, result.stderr
    measured = json.loads(result.stdout)
    assert measured["megabytes_per_second"].keys() == CLEANERS.keys()
    assert measured["text_megabytes"] == pytest.approx(2 * len(ENGLISH) / 1e6)
    assert measured["finding"]["duplicates"] == measured["finding"]["near_duplicates"] == 1500


def _clean_all(texts: list[str]) -> tuple[list, Tally]:
    cleaner, tally = Cleaner(parse_switches("standard", decontaminate=False)), Tally()
    return [cleaner.clean(TextDocument("t", text), tally) for text in texts], tally


def test_another_process_and_another_order_give_the_same():
    texts = [*PARAGRAPHS.values(), ENGLISH, "schÃ¶n " + ENGLISH, ENGLISH + "\u200b", "short"]
    documents, tally = _clean_all(texts)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        elsewhere, other_tally = pool.submit(_clean_all, texts[::-1]).result()
    assert elsewhere[::-1] == documents
    assert other_tally == tally
    assert [document is not None for document in documents] == [False] * len(PARAGRAPHS) + [True] * 3 + [
        False
    ]
