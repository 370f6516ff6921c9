"""The demo's pages in headless Chromium, on tiny models: what the server answers is shown, and as text."""

import re

import pytest
from answering_cases import VOCABULARY, answerer, made_up_questions, write_answering_model
from demo_servers import served
from weight_cases import huggingface

from tokenization import Vocabulary

pytestmark = pytest.mark.slow
pytest.importorskip("tornado", reason="the server is built on Tornado")

LENGTHS = ("--doc_stride", "16", "--max_query_length", "12")
ATTACK = "<img src=x onerror=document.title=1><script>document.title=2</script>"
STRANGE = f"an \U0001f642 {ATTACK} שלום עולם in " + "h" * 400 + " tin"

# Of the syllable \ud55c, into which lower-casing takes it apart.
PARTS = ("\u1112", "##\u1161", "##\u11ab")


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joint") / "model"
    return write_answering_model(folder, joint_head=True, version_2=True)


@pytest.fixture(scope="module")
def asked(joint, browser):
    with served("--electra_model", joint, *LENGTHS, "--max_characters", "2000") as server:
        yield server


@pytest.fixture(scope="module")
def examined(tmp_path_factory, browser):
    pytest.importorskip("torch", reason="the networks are made by Hugging Face's code")
    pytest.importorskip("transformers", reason="the networks are made by Hugging Face's code")
    folder = tmp_path_factory.mktemp("pair")
    kinds = {"discriminator": "ElectraForPreTraining", "generator": "ElectraForMaskedLM"}
    vocabulary = Vocabulary((*VOCABULARY.pieces, *PARTS))
    for seed, (name, kind) in enumerate(kinds.items()):
        huggingface(kind, folder / name, seed=seed, vocab_size=vocabulary.size)
        vocabulary.save(folder / name / "vocab.txt")
    with served("--electra_model", folder / "discriminator") as server:
        yield server


def ask(page, context: str, question: str) -> None:
    page.fill("#context", context)
    page.fill("#question", question)
    page.press("#question", "Enter")
    page.wait_for_selector("#ask button:enabled")
    page.wait_for_selector("#answer:visible, #message:visible")


def examine(page, text: str) -> None:
    page.fill("#context", text)
    page.click("#examine button")
    page.wait_for_selector("#examine button:enabled")
    page.wait_for_selector("#tokens:visible, #message:visible")


def assert_clean(page, server, width: int = 1280) -> None:
    """Nothing but this server was asked, the console is silent, nothing is wider than the window."""
    strange = [text for text in page.told if not text.startswith((server.url, "data:,"))]
    assert strange == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("img").count() == 0 and page.locator("script").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_both_pages_fit_a_window_and_a_phone_in_light_and_dark(width, scheme, opened, asked, examined):
    for server in (asked, examined):
        page = opened(server.url, width, scheme)
        if server is asked:
            ask(page, STRANGE, "what")
        else:
            examine(page, STRANGE)
        assert page.locator("#marked").inner_text() == STRANGE
        assert_clean(page, server, width)
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        darkness = max(map(int, re.findall(r"\d+", background)))
        assert darkness < 60 if scheme == "dark" else darkness > 200


def test_the_answer_is_marked_where_it_stands_and_others_by_a_click(opened, asked, joint):
    question, context = next(pair for pair in made_up_questions(40) if len(pair[1]) > 100)
    context = f"\U0001f642\U0001f642 {context}"
    expected = answerer(joint).answer(question, context)
    page = opened(asked.url)
    ask(page, context, question)
    rows = page.locator("#n_best button")
    assert rows.count() == len(expected.n_best)
    assert f"{expected.null_odds:.1f}" in page.locator("#verdict").inner_text()
    for place, (entry, (begin, end)) in enumerate(zip(expected.n_best, expected.spans, strict=True)):
        rows.nth(place).click()
        assert rows.nth(place).get_attribute("aria-pressed") == "true"
        before = page.evaluate(
            "(() => { const mark = document.querySelector('mark');"
            " return mark ? [mark.previousSibling?.textContent ?? '', mark.textContent] : null; })()"
        )
        assert before == ([context[:begin], context[begin:end]] if entry["text"] else None)
    assert_clean(page, asked)


def test_what_the_text_brings_stays_text(opened, asked, examined):
    page = opened(asked.url)
    ask(page, STRANGE, ATTACK)
    assert page.title() == "Ask a text"
    assert_clean(page, asked)
    page = opened(examined.url)
    examine(page, STRANGE)
    assert page.title() == "Which tokens were replaced?"
    assert_clean(page, examined)


def test_what_is_too_long_is_told_and_goes_away(opened, asked, examined):
    """An emoji is one character, as the server counts."""
    page = opened(asked.url)
    ask(page, "\U0001f642" * 2001, "what")
    assert page.locator("#message").inner_text() == "The text has 2,001 characters; the most is 2,000."
    ask(page, "an in", " ")
    assert page.locator("#message").inner_text() == "Type a question first."
    ask(page, "\U0001f642" * 1999 + "a", "what")
    assert page.locator("#message").is_hidden() and page.locator("#answer").is_visible()
    # The server's own word is shown as well, should a page count otherwise.
    page.evaluate("document.querySelector('#ask').dataset.maxCharacters = 9999")
    ask(page, "a" * 2001, "what")
    assert "'context' has 2,001 characters; the most is 2,000" in page.locator("#message").inner_text()
    page = opened(examined.url)
    examine(page, "a" * 20_001)
    assert "20,001 characters; the most is 20,000" in page.locator("#message").inner_text()


def test_tokens_have_their_probability_and_the_generators_alternatives(opened, examined):
    text = "an apple \U0001f642 in a tin"
    tokens = examined.ask("/tokens", {"text": text})["tokens"]
    page = opened(examined.url)
    examine(page, text)
    spans = page.locator(".token")
    assert spans.count() == len(tokens)
    for place, token in enumerate(tokens):
        share = float(spans.nth(place).evaluate("element => element.style.getPropertyValue('--share')"))
        assert share == pytest.approx(token["probability"], abs=1e-4)
        is_marked = "replaced" in spans.nth(place).get_attribute("class")
        assert is_marked == (share >= 0.5)
    (answer,) = examined.ask("/alternatives", {"text": text, "places": [2]})["alternatives"]
    spans.nth(2).hover()
    page.wait_for_selector("#detail ol")
    assert page.locator("#detail h2").inner_text() == tokens[2]["token"]
    shown = page.locator("#detail li bdi").all_inner_texts()
    assert shown == [entry["token"] for entry in answer["best"]]
    # By the keyboard: the next token, and the one before it.
    spans.nth(2).focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#detail h2").inner_text() == tokens[3]["token"]
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#detail h2").inner_text() == tokens[1]["token"]
    page.wait_for_selector("#detail ol")
    assert_clean(page, examined)


def test_a_character_of_several_tokens_is_shown_once_and_each_token_in_its_colour(opened, examined):
    text = "an \ud55c \ud55c in"
    tokens = examined.ask("/tokens", {"text": text})["tokens"]
    assert [token["token"] for token in tokens] == ["an", *PARTS, *PARTS, "in"]
    page = opened(examined.url)
    examine(page, text)
    assert page.locator("#marked").inner_text() == text
    spans = page.locator(".token")
    assert spans.count() == len(tokens)
    assert all(spans.nth(place).bounding_box()["width"] > 0 for place in range(len(tokens)))
    spans.nth(2).hover()
    assert page.locator("#detail h2").inner_text() == PARTS[1]
    assert_clean(page, examined)


def test_a_server_that_is_gone_is_told(opened, joint, browser):
    with served("--electra_model", joint, *LENGTHS) as server:
        page = opened(server.url)
    ask(page, "an in", "what")
    assert page.locator("#message").inner_text() == "The server does not answer. Was it ended?"
