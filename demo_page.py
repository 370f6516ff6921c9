"""The page of run_inference.py --serve: to ask a text questions, or to see which of its tokens look replaced.

The HTML alone; demo_page.js asks the server (demo_server.py) and shows what it answers, as text.
"""

from html import escape

import web_page

MOST_QUESTION_CHARACTERS = 1000
# Where none is given; as the page's own text it may be changed.
_EXAMPLE = (
    "The first lighthouse on the cape was built of oak in 1698. It burned down eight years later, and the "
    "town paid for a tower of granite, which the keeper's daughter kept alight through the storm of 1822."
)


def answering_page(model: str, max_characters: int, context: str = "") -> str:
    """The page on which questions about a text are asked.

    Args:
        model: what answers, in a few words.
        max_characters: of the longest text.
        context: the text that it begins with.
    """
    form = f"""<form id="ask" class="card" data-max-characters="{max_characters}"
 data-max-question="{MOST_QUESTION_CHARACTERS}">
{_text_field("context", context)}
<label for="question">Question</label>
<div class="row"><input id="question" dir="auto" autocomplete="off"><button>Ask</button></div>
</form>"""
    result = """<section id="answer" class="card" hidden>
<p class="faint" id="verdict" aria-live="polite"></p>
<p class="text" id="marked" dir="auto"></p>
<h2>Best answers</h2>
<ol id="n_best"></ol>
</section>"""
    return _page("Ask a text", model, form + _MESSAGE + result)


def detection_page(model: str, max_characters: int, text: str = "", *, has_generator: bool) -> str:
    """The page on which a text's tokens are coloured by their probability of being replaced."""
    form = f"""<form id="examine" class="card" data-max-characters="{max_characters}"
 data-generator="{"yes" if has_generator else ""}">
{_text_field("context", text)}
<div class="row"><button>Examine</button></div>
</form>"""
    hint = "Point at a token, or reach it with Tab and the arrow keys, for its probability" + (
        " and what the generator would put there." if has_generator else "."
    )
    result = f"""<section id="tokens" hidden>
<p class="legend faint"><span>original</span><span class="scale"></span><span>replaced</span>
<span class="sample">underlined: more likely replaced than not</span></p>
<div class="columns">
<p class="card text" id="marked" dir="auto"></p>
<aside class="card" id="detail" aria-live="polite"><p class="faint">{hint}</p></aside>
</div>
</section>"""
    return _page("Which tokens were replaced?", model, form + _MESSAGE + result)


_MESSAGE = """
<p id="message" role="alert" hidden></p>
<noscript><p>This page needs its script.</p></noscript>
"""


def _text_field(name: str, content: str) -> str:
    # A line break right after the tag is dropped by HTML; this one is there to be.
    return f"""<label for="{name}">Text</label>
<textarea id="{name}" dir="auto" rows="8">
{escape(content or _EXAMPLE)}</textarea>"""


def _page(title: str, model: str, main: str) -> str:
    body = f"""<header><h1>{escape(title)}</h1><p class="faint">{escape(model)}</p></header>
<main>
{main}
</main>"""
    return web_page.render(
        title, body, styles=("demo_page.css",), scripts=("demo_page.js",), asks_server=True
    )
