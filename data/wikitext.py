"""English Wikipedia's markup -> paragraphs of plain text.

mwparserfromhell parses the markup. What is here is how each kind of node reads as text, which templates stand
for words, and the repairs for what the parser cannot see: markup that was cut off, and the holes that dropped
templates leave behind ("Algiers ( ; )"). Which pages are articles is wikipedia_extraction.py's.

Patterns run on text that anybody may have written, so each is kept linear: no two neighbouring repetitions
without a bound can match the same characters.
"""

import calendar
import html
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

import mwparserfromhell
from mwparserfromhell import nodes
from mwparserfromhell.wikicode import Wikicode

from data.word_counts import count_words

MIN_PARAGRAPH_WORDS = 3
# A list item of fewer words, or one that is no sentence and below the second bound, is a name or a title.
MIN_LIST_ITEM_WORDS = 6
MIN_LIST_PHRASE_WORDS = 10
# Stands where a formula was; a sentence with a hole is not text to learn from.
HOLE = "\ufffc"

_LIST_MARKERS = "*#:;"


def wikitext_to_paragraphs(wikitext: str) -> list[str]:
    """The paragraphs of an article, in order, each on one line: prose, quotations, list items with sentences.

    Left out are headings, tables, galleries, files, references, categories, templates that do not stand for
    words, and the sections that list sources and links. A formula of more than a few letters leaves HOLE.

    Raises:
        ValueError: so much markup is never closed that parsing could take hours.
    """
    wikitext = _SIMPLE_FORMULA.sub(r"\1", _COMMENT.sub("", wikitext))
    wikitext = _cut(wikitext, _dropped_elements(wikitext))
    wikitext = _cut(wikitext, _tables(wikitext))
    wikitext = "\n\n".join(_kept_sections(wikitext))
    _check_balance(wikitext)
    code = mwparserfromhell.parse(wikitext, skip_style_tags=True)
    paragraphs = []
    for is_list_item, block in _blocks(_render(code)):
        paragraph = _repair(block)
        if _says_something(paragraph, is_list_item):
            paragraphs.append(paragraph)
    return paragraphs


# ------------------------------------------------------------------------- what goes before the parser runs

_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_SIMPLE_FORMULA = re.compile(r"<math[^<>]*>([\w\s+=,.()-]{1,40})</math\s*>")
_DROPPED_ELEMENTS = (
    "ref|references|math|chem|ce|gallery|table|timeline|score|hiero|imagemap|syntaxhighlight|source|pre|graph"
    "|mapframe|maplink|templatestyles|includeonly|inputbox|categorytree|indicator|section"
)
_ELEMENT_EDGE = re.compile(rf"<(/?)({_DROPPED_ELEMENTS})\b[^<>]*?(/?)>", re.IGNORECASE)
_TABLE_EDGE = re.compile(r"^[ \t:*#;]*(?:(\{\|)|\|\}(?!\}))", re.MULTILINE)
_HEADING = re.compile(r"^(={1,6})([^\n]+?)\1[ \t]*$", re.MULTILINE)
_DROPPED_SECTION = re.compile(
    r"(?:cited |secondary |primary |general |notes and |works and )?(?:references?|sources|citations)"
    r"|(?:references|sources|notes|citations|footnotes|external links) (?:and|&) "
    r"(?:references|sources|notes|citations|footnotes|links)"
    r"|cited in footnotes|reference literature|see also|notes|footnotes|endnotes|(?:image )?gallery"
    r"|(?:selected )?(?:filmography|discography)"
    r"|(?:.* )?(?:bibliography|works cited|further reading|external links)(?: .*)?"
)
_NOT_DROPPING = 7
# About half a minute of parsing.
_MAX_REREAD_CHARACTERS = 50_000_000


def _cut(text: str, regions: Iterable[tuple[int, int, str]]) -> str:
    """The text with regions (begin, end, replacement), in order and apart, replaced."""
    pieces, position = [], 0
    for begin, end, replacement in regions:
        pieces += (text[position:begin], replacement)
        position = end
    pieces.append(text[position:])
    return "".join(pieces)


def _dropped_elements(text: str) -> list[tuple[int, int, str]]:
    """Where elements such as <ref> and <math> stand; of an unbalanced one only the tag itself."""
    opened: dict[str, list[re.Match]] = defaultdict(list)
    regions: list[tuple[int, int, str]] = []
    for edge in _ELEMENT_EDGE.finditer(text):
        closes, name, is_empty = edge[1], edge[2].lower(), edge[3]
        if not closes and not is_empty:
            opened[name].append(edge)
        elif closes and opened[name]:
            regions.append((opened[name].pop().start(), edge.end(), HOLE if name == "math" else ""))
        else:
            regions.append((*edge.span(), ""))
    regions += [(*edge.span(), "") for edges in opened.values() for edge in edges]
    return _outermost(regions)


def _tables(text: str) -> list[tuple[int, int, str]]:
    """Where {| tables |} stand; one that is never closed ends at the next heading."""
    opened: list[int] = []
    regions: list[tuple[int, int, str]] = []
    for edge in _TABLE_EDGE.finditer(text):
        if edge[1]:
            opened.append(edge.start())
        elif opened:
            regions.append((opened.pop(), edge.end(), "\n"))
    end = 0
    for begin in opened:
        if begin >= end:
            heading = _HEADING.search(text, begin)
            end = heading.start() if heading else len(text)
            regions.append((begin, end, "\n"))
    return _outermost(regions)


def _outermost(regions: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    kept: list[tuple[int, int, str]] = []
    for region in sorted(regions, key=lambda region: (region[0], -region[1])):
        if not kept or region[0] >= kept[-1][1]:
            kept.append(region)
    return kept


def _kept_sections(wikitext: str) -> Iterator[str]:
    """The text under each heading, without sections that list sources and links and what is under those."""
    position, dropped_level = 0, _NOT_DROPPING
    for heading in itertools.chain(_HEADING.finditer(wikitext), [None]):
        if dropped_level == _NOT_DROPPING:
            yield wikitext[position : heading.start() if heading else None]
        if heading is None:
            return
        position, level = heading.end(), len(heading[1])
        if level <= dropped_level:
            title = heading[2].strip(" \t'=:").casefold()
            dropped_level = level if _DROPPED_SECTION.fullmatch(title) else _NOT_DROPPING


def _check_balance(wikitext: str) -> None:
    """The parser reads on to the end from each bracket that nothing closes, and nothing can interrupt it."""
    unclosed = sum(max(0, wikitext.count(pair[0]) - wikitext.count(pair[1])) for pair in ("{}", "[]", "<>"))
    if unclosed * len(wikitext) > _MAX_REREAD_CHARACTERS:
        raise ValueError(f"{unclosed:,} brackets in {len(wikitext):,} characters are never closed")


# ------------------------------------------------------------------------------------------ nodes -> text

_DROPPED_LINK_NAMESPACES = frozenset({"file", "image", "media", "category"})
_INTERLANGUAGE_PREFIX = re.compile(r"(?:[a-z]{2,3}|simple)(?:-[a-z]+)*:")
_DROPPED_TAGS = frozenset([*_DROPPED_ELEMENTS.split("|"), "h1", "h2", "h3", "h4", "h5", "h6"])
_BLOCK_TAGS = frozenset({"p", "div", "blockquote", "center", "ol", "ul", "dl", "poem", "tr", "td"})
_ITEM_TAGS = frozenset({"li", "dd", "dt"})
_SUPERSCRIPTS = str.maketrans("0123456789+-\u2212n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻ⁿ")


def _render(code: Wikicode | None) -> str:
    """Parsed markup as text; lines still carry their list markers."""
    if code is None:
        return ""
    return "".join([_RENDERERS[type(node)](node) for node in code.nodes])


def _render_link(link: nodes.Wikilink) -> str:
    title = _render(link.title).strip()
    namespace, colon, _ = title.partition(":")
    if colon and namespace.strip().lower() in _DROPPED_LINK_NAMESPACES:
        return ""
    if link.text is not None:
        return _render(link.text)
    return "" if _INTERLANGUAGE_PREFIX.match(title) else title.removeprefix(":")


def _render_external_link(link: nodes.ExternalLink) -> str:
    return _render(link.title) if link.brackets else ""


def _render_tag(tag: nodes.Tag) -> str:
    if tag.wiki_markup is not None:
        markup = str(tag.wiki_markup)
        return "\n\n" if markup.startswith("----") else markup if markup in _LIST_MARKERS else ""
    name = str(tag.tag).strip().lower()
    if name in _DROPPED_TAGS:
        return ""
    if name in ("br", "hr"):
        return " "
    text = _render(tag.contents)
    if name in _BLOCK_TAGS:
        return f"\n\n{text}\n\n"
    if name in _ITEM_TAGS:
        return f"\n* {text.strip()}\n"
    if name == "sup":
        # 10<sup>5</sup> must not read "105".
        raised = text.strip().translate(_SUPERSCRIPTS)
        return text if raised.isascii() else raised
    return text


def _drop(node: nodes.Node) -> str:
    return ""


# ---------------------------------------------------------------------------------------- templates -> text

# Templates that stand for words: {n} is argument n, {-1} the last one. All others are dropped.
_TEMPLATES = {
    name: pattern
    for pattern, names in {
        "{1}": "nowrap, nobr, nobold, small, smaller, big, large, larger, sc, smallcaps, sub, sup, em, "
        "strong, abbr, tooltip, unicode, linktext, angbr, angle bracket, nq, nihongo, math, mvar, ipa, w, "
        "center, code, mono, char, kbd, not a typo, interlanguage link, ill, vanchor, flag, proper name, "
        "lang-, script/",
        "{2}": "lang, langx, rtl-lang, script, color, font color",
        "{-1}": "transl, transliteration, tlit",
        "\n\n{1}\n\n": "quote, cquote, bquote, bq, blockquote, block quote, quotation, centered pull quote",
        "\n\n{2}\n\n": "rquote",
        "{1} {2}": "bibleref, bibleverse, oldstyledate, oldstyledatedy, ship",
        "\u2013": "ndash, en dash",
        "\u2014": "mdash, em dash, mdashb",
        " \u2013 ": "snd, snds, spnd, spaced ndash, spaced en dash",
        " ": "nbsp, spaces, space, thinsp, hair space, thin space",
        "'": "'",
        "'s": "'s",
        "=": "=",
        "π": "pi",
        "\u02bb": "okina",
        "c. {1}": "circa, c.",
        "fl. {1}": "floruit, fl.",
        "née {1}": "née, nee",
        "'{1}'": "gloss",
        "lit. '{1}'": "lit, literal translation",
        "USS {1}": "uss",
        "HMS {1}": "hms",
        "RMS {1}": "rms",
        "SS {1}": "ss",
        "US${1}": "us$, usd",
        "£{1}": "gbp, £, pound sign",
        "€{1}": "euro, eur, €",
        "₹{1}": "inr, ₹, inrconvert",
    }.items()
    for name in names.split(", ")
}
_TEMPLATE_FAMILY = re.compile("lang-|script/|")
_ARGUMENT = re.compile(r"\{(-?\d)\}")
_RANGE_WORDS = {
    "-": "\u2013",
    "\u2013": "\u2013",
    "to": " to ",
    "and": " and ",
    "or": " or ",
    "by": " by ",
    "x": " by ",
    "\u00d7": " by ",
}
# Units of {{convert}} that are not read as they are written: singular, plural.
_UNITS = {
    "mi": ("mile", "miles"),
    "ft": ("foot", "feet"),
    "in": ("inch", "inches"),
    "yd": ("yard", "yards"),
    "acre": ("acre", "acres"),
    "sqmi": ("square mile", "square miles"),
    "sqft": ("square foot", "square feet"),
    "nmi": ("nautical mile", "nautical miles"),
    "lb": ("pound", "pounds"),
    "oz": ("ounce", "ounces"),
    "ha": ("hectare", "hectares"),
    "t": ("tonne", "tonnes"),
    "km2": ("km²", "km²"),
    "m2": ("m²", "m²"),
    "km3": ("km³", "km³"),
    "m3": ("m³", "m³"),
    "C": ("°C", "°C"),
    "F": ("°F", "°F"),
}


def _render_template(template: nodes.Template) -> str:
    name = str(template.name).strip().replace("_", " ").lower()
    if name in _TEMPLATE_RENDERERS:
        return _TEMPLATE_RENDERERS[name](template, _arguments(template))
    if name.startswith("formatnum:"):
        return name.partition(":")[2].strip()
    pattern = _TEMPLATES.get(_TEMPLATE_FAMILY.match(name)[0] or name, "")
    arguments = _arguments(template) if "{" in pattern else []

    def argument(match: re.Match) -> str:
        number = int(match[1])
        position = number - 1 if number > 0 else number
        return arguments[position] if -len(arguments) <= position < len(arguments) else ""

    return _ARGUMENT.sub(argument, pattern)


def _arguments(template: nodes.Template) -> list[str]:
    """The values of arguments 1, 2 and so on as text, whether their numbers are written or not."""
    named = {str(parameter.name).strip(): parameter.value for parameter in template.params}
    if "1" not in named and "text" in named:
        named["1"] = named["text"]
    numbered = itertools.takewhile(named.__contains__, map(str, itertools.count(1)))
    return [_render(named[number]).strip() for number in numbered]


def _option(template: nodes.Template, name: str) -> str:
    return _render(template.get(name).value).strip() if template.has(name) else ""


def _render_measure(template: nodes.Template, arguments: list[str]) -> str:
    """{{convert}} as its first measure: {{convert|10|to|15|mi|km}} reads "10 to 15 miles"."""
    number, *rest = arguments or [""]
    while len(rest) > 2 and rest[0].lower() in _RANGE_WORDS:
        number += _RANGE_WORDS[rest[0].lower()] + rest[1]
        rest = rest[2:]
    if not rest:
        return number
    singular, plural = _UNITS.get(rest[0], (rest[0], rest[0]))
    if _option(template, "adj") == "on" and singular.isalpha():
        return f"{number}-{singular}"
    if len(rest) > 2 and rest[0] == "ft" and rest[2] == "in":
        return f"{number} {plural} {rest[1]} inches"
    return f"{number} {singular if number == '1' else plural}"


def _render_as_of(template: nodes.Template, arguments: list[str]) -> str:
    """{{as of}} as its words: {{as of|2010|3|lc=y}} reads "as of March 2010"."""
    if alternative := _option(template, "alt"):
        return alternative
    year, month, day = (*arguments, "", "", "")[:3]
    if month.isdecimal() and 1 <= int(month) <= 12:
        month = calendar.month_name[int(month)]
    words = "as of" if _option(template, "lc") else "As of"
    return " ".join(part for part in (words, day, month, year) if part)


def _render_fraction(template: nodes.Template, arguments: list[str]) -> str:
    """{{frac|4}} is 1/4, {{frac|3|4}} is 3/4, {{frac|2|3|4}} is 2 3/4."""
    denominator = arguments[-1:] or [""]
    numerator = arguments[-2:-1] or ["1"]
    return " ".join(arguments[:-2] + [f"{numerator[0]}/{denominator[0]}"]) if arguments else ""


def _render_value(template: nodes.Template, arguments: list[str]) -> str:
    """{{val|6.24|e=18|u=C}} reads "6.24 \u00d7 10¹⁸ C"."""
    exponent, unit = _option(template, "e"), _option(template, "u") or _option(template, "ul")
    power = f"\u00d7 10{exponent.translate(_SUPERSCRIPTS)}" if exponent else ""
    return " ".join(part for part in (*arguments[:1], power, unit) if part)


def _render_chemical(template: nodes.Template, arguments: list[str]) -> str:
    return "".join(arguments)


_TEMPLATE_RENDERERS: dict[str, Callable[[nodes.Template, list[str]], str]] = {
    "convert": _render_measure,
    "cvt": _render_measure,
    "as of": _render_as_of,
    "frac": _render_fraction,
    "sfrac": _render_fraction,
    "fraction": _render_fraction,
    "val": _render_value,
    "chem": _render_chemical,
    "chem2": _render_chemical,
}

_RENDERERS: dict[type, Callable] = {
    nodes.Text: lambda text: text.value,
    nodes.Wikilink: _render_link,
    nodes.ExternalLink: _render_external_link,
    nodes.Template: _render_template,
    nodes.Tag: _render_tag,
    nodes.HTMLEntity: lambda entity: html.unescape(str(entity)),
    nodes.Heading: _drop,
    nodes.Comment: _drop,
    nodes.Argument: _drop,
}


# ------------------------------------------------------------------------------------------------- repairs

_QUOTES = re.compile(r"'{2,}")
_LEFT_TAG = re.compile(
    rf"</?(?:{_DROPPED_ELEMENTS}|small|big|sub|sup|span|div|center|font|blockquote|br|p|i|b|u|s|em|strong|tt|code"
    r"|cite|nowiki|li|ol|ul|dl|dd|dt|td|tr|th|var|abbr|poem|onlyinclude|noinclude|del|ins|hr)\b[^<>]{0,200}>",
    re.IGNORECASE,
)
_MAGIC_WORD = re.compile(r"__[A-Z]{3,}__")
_URL = re.compile(r"\[?\b(?:https?|ftp)://[^\s\]<>\"]*\]?|\bwww\.[^\s\]<>\"]+", re.IGNORECASE)
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u2060\ufeff]")
_CUT_OFF_MARKUP = re.compile(r"(?:\{\{|\{\||\[\[(?:file|image|category):).*$", re.IGNORECASE)
_LEFT_LINK = re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]")
_LEFT_BRACKETS = re.compile(r"\[\[|\]\]|\{\{|\}\}|\|\}")
_PARENTHESES = re.compile(r"\(([^()]*)\)")
_EMPTY_INSIDE = re.compile("(?:[\\s,;:/\u2013\u2014-]|\\b(?:or|and|pronounced|also|from)\\b)*")
# A label whose template is gone: "Greek: ;" or "pronounced ,".
_EMPTY_LABEL = re.compile(
    r"(?:\b[A-Z]\w+(?: [A-Z]\w+){0,3}(?: pronunciation)?:|\b(?:IPA|pronounced|pronunciation)\b:?) *(?=[,;]|$)"
)
_REPEATED_SEPARATOR = re.compile(r"([,;])(?:\s*[,;])+")
_SPACE_BEFORE_SIGN = re.compile(r" ([,;)\]]|[.:!?](?= |$))")
_SPACE_AFTER_BRACKET = re.compile(r"([(\[]) ")
# Of English, Chinese and Japanese, Greek, Armenian, Arabic, Urdu, Hindi, Ethiopic, Tibetan, Burmese, Khmer;
# and what may close a quotation or a bracket behind it.
_ENDS_SENTENCE = re.compile(
    r"[.!?\u3002\uff0e\uff61\uff01\uff1f\u037e\u0589\u061f\u06d4\u0964\u0965\u1362\u1367\u0f0d\u0f0e\u104b"
    r"\u17d4\u17d5][\"'\u201c\u201d\u2019\u00bb\u203a\u300b\u300d\u300f\u3011\uff09\uff3d)\]]*$"
)


def _blocks(text: str) -> Iterator[tuple[bool, str]]:
    """Rendered text as (is it a list item, its text): an item is a line, a paragraph ends at a blank line."""
    paragraph: list[str] = []
    for line in itertools.chain(text.split("\n"), [""]):
        line = line.strip()
        is_list_item = line.startswith(tuple(_LIST_MARKERS))
        if line and not is_list_item:
            # What is left of tables that were cut off.
            if not line.startswith(("|", "{|", "!!")):
                paragraph.append(line)
            continue
        if paragraph:
            yield False, " ".join(paragraph)
            paragraph = []
        if is_list_item:
            yield True, line.lstrip(_LIST_MARKERS)


def _says_something(paragraph: str, is_list_item: bool) -> bool:
    words = count_words(paragraph)
    if not is_list_item:
        return words >= MIN_PARAGRAPH_WORDS
    if "ISBN" in paragraph:
        return False
    is_sentence = _ENDS_SENTENCE.search(paragraph) is not None
    return words >= (MIN_LIST_ITEM_WORDS if is_sentence else MIN_LIST_PHRASE_WORDS)


def _repair(text: str) -> str:
    """A block without what the parser left of markup, and without the traces of what was dropped."""
    text = _QUOTES.sub(_unquote, text)
    if "<" in text:
        text = _LEFT_TAG.sub("", text)
    if "__" in text:
        text = _MAGIC_WORD.sub("", text)
    if "://" in text or "www." in text.lower():
        text = _URL.sub("", text)
    if "{{" in text or "[[" in text or "{|" in text:
        text = _LEFT_LINK.sub(r"\1", _CUT_OFF_MARKUP.sub("", text))
    text = _INVISIBLE.sub("", _LEFT_BRACKETS.sub("", text))
    text = " ".join(text.split())
    if "(" in text:
        # Twice, for parentheses that hold only such a pair.
        text = _PARENTHESES.sub(_mend_parentheses, _PARENTHESES.sub(_mend_parentheses, text))
    text = _SPACE_BEFORE_SIGN.sub(r"\1", " ".join(text.split()))
    return _REPEATED_SEPARATOR.sub(r"\1", _SPACE_AFTER_BRACKET.sub(r"\1", text)).strip(" ,;")


def _unquote(quotes: re.Match) -> str:
    """Bold and italics are 2, 3 or 5 apostrophes; of 4 one is text, and of more all but 5 are."""
    count = len(quotes[0])
    return "'" * (1 if count == 4 else max(0, count - 5))


def _mend_parentheses(match: re.Match) -> str:
    inside = _REPEATED_SEPARATOR.sub(r"\1", _EMPTY_LABEL.sub("", match[1])).strip(" ,;")
    return "" if _EMPTY_INSIDE.fullmatch(inside) else f"({inside})"
