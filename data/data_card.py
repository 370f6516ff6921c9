"""A folder of shards -> DATA_CARD.md and length_histogram.png, from its manifest.json.

    data_card.write("shards_128/")

The card says nothing that the manifest, the vocabulary and the first shard do not: the same data give the
same bytes, wherever the folder lies. Of the manifest it needs

    settings {max_seq_length, do_lower_case, …}   vocabulary_size   vocabulary_sha256
    sources [{name, bytes, sha256}]               skipped_sources [{name, reason}]
    documents   examples   tokens   padding_share   unknown_share   shards [{name, examples, bytes, sha256}]

and it shows where they are recorded

    title                               what the data is, in a few words
    part                                "held_out" for documents that were kept for evaluation
    licence, origin                     of each source: its terms of use, and where it was got from
    documents_kept, documents_dropped   how many came through cleaning, and {reason: how many} did not
    cut_off_tokens, cut_off_share       tokens of the documents that no example has room for
    length_histogram                    {tokens of an example: how many examples have so many}
"""

import io
import logging
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import files
import tfrecords
from example_parsing import parse_examples
from markdown_text import code, plain, table
from tfrecords import Shards
from tokenization import load_vocabulary

_EXAMPLES = 3
# Of an archive's thousands of files a reader wants to know how many; the manifest has them all.
_MOST_ROWS = 50
_BAR_CHARACTERS = 40
_BIN_WIDTH = 16
_TEXT_WIDTH = 100
_CHECKSUM_LINE = re.compile(r"^Written from `manifest\.json` with SHA-256 `([0-9a-f]{64})`", re.MULTILINE)


def write(folder: str | Path) -> None:
    """Write the card of a folder, and the picture of its lengths where its manifest has them.

    Raises:
        FileNotFoundError: the folder has no manifest.
    """
    folder = Path(folder)
    manifest_path = folder / tfrecords.MANIFEST_NAME
    manifest = files.read_json(manifest_path)
    examples = _first_examples(folder, manifest)
    if "length_histogram" in manifest:
        files.write_bytes(folder / tfrecords.LENGTH_HISTOGRAM_NAME, draw_histogram(manifest))
    card = render(manifest, files.sha256_of_file(manifest_path), examples)
    files.write_text(folder / tfrecords.DATA_CARD_NAME, card)


def render(manifest: dict, manifest_sha256: str, examples: Sequence[str]) -> str:
    """The card's text; `examples` are the first ones decoded."""
    sections = [
        _summary(manifest),
        _sources(manifest["sources"]),
        _documents(manifest),
        _lengths(manifest),
        _examples(examples),
        _settings(manifest),
        _files(manifest, manifest_sha256),
    ]
    return "\n\n".join(sections) + "\n"


def manifest_checksum(card: str) -> str | None:
    """SHA-256 of the manifest that a card was written from; None where the card does not say."""
    found = _CHECKSUM_LINE.search(card)
    return found and found[1]


def draw_histogram(manifest: dict) -> bytes:
    """The histogram of lengths as a PNG, without the name and version that matplotlib would put into it."""
    # That it builds a cache of fonts is of no interest here.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels, counts = _binned_lengths(manifest)
    # Whatever a user's own style is.
    with matplotlib.rc_context(dict(matplotlib.rcParamsDefault, backend="agg")):
        figure = Figure(figsize=(8, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axis = figure.add_subplot()
        axis.bar(range(len(counts)), counts, width=0.9)
        axis.set_xticks(range(len(counts)), labels, rotation=90 if len(counts) > 8 else 0, fontsize=8)
        axis.set_title(_title(manifest))
        axis.set_xlabel("tokens in an example, without padding")
        axis.set_ylabel("examples")
        axis.yaxis.set_major_formatter("{x:,.0f}")
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=100, metadata={"Software": None})
    return content.getvalue()


# ---------------------------------------------------------------------------------------------- sections


def _summary(manifest: dict) -> str:
    length = manifest["settings"]["max_seq_length"]
    lines = [f"# {_title(manifest)}", ""]
    if manifest.get("part") == "held_out":
        lines += ["Documents that were held out for evaluation; the training part has none of them.", ""]
    documents, examples, tokens = (manifest[name] for name in ("documents", "examples", "tokens"))
    casing = "lower-cased" if manifest["settings"].get("do_lower_case", True) else "case kept"
    if _strips_accents(manifest["settings"]):
        casing += ", accents dropped"
    rows = [
        ("documents", f"{documents:,}"),
        ("examples", f"{examples:,} of up to {length} tokens"),
        ("tokens", f"{tokens:,} with `[CLS]` and `[SEP]`, {tokens / max(1, examples):.1f} an example"),
        ("cut off", _cut_off(manifest)),
        ("unknown tokens", f"{_percent(manifest['unknown_share'], 3)} of the tokens are `[UNK]`"),
        ("vocabulary", f"{manifest['vocabulary_size']:,} WordPiece pieces; text {casing}"),
        ("what is masked", "not recorded: drawn anew in training, for each place in a run"),
    ]
    return "\n".join([*lines, table(("", ""), rows)])


def _cut_off(manifest: dict) -> str:
    if "cut_off_tokens" not in manifest:
        return "not recorded"
    share = _percent(manifest["cut_off_share"], 1)
    return f"{manifest['cut_off_tokens']:,} further tokens, {share} of the text, had no room in an example"


def _title(manifest: dict) -> str:
    title = manifest.get("title", "Pre-training examples")
    return f"{title}: sequences of {manifest['settings']['max_seq_length']}"


def _strips_accents(settings: dict) -> bool:
    strips = settings.get("strip_accents")
    return settings.get("do_lower_case", True) if strips is None else strips


def _sources(sources: list[dict]) -> str:
    total = sum(source["bytes"] for source in sources)
    rows = [
        (
            code(source["name"]),
            f"{source['bytes']:,}",
            plain(source.get("licence", "not recorded")),
            plain(source.get("origin", "not recorded")),
            code(source["sha256"]),
        )
        for source in sources[:_MOST_ROWS]
    ]
    lines = [
        "## Sources",
        "",
        f"{_count(len(sources), 'file')}, {total:,} bytes as stored.",
        "",
        table(("file", "bytes", "licence", "origin", "SHA-256"), rows),
    ]
    return "\n".join(lines + _rest(sources))


def _documents(manifest: dict) -> str:
    lines = ["## Documents kept and dropped", ""]
    dropped = manifest.get("documents_dropped")
    if dropped is None:
        lines.append(
            f"{_count(manifest['documents'], 'document')} kept; how many were dropped is not recorded."
        )
    else:
        kept = manifest.get("documents_kept", manifest["documents"])
        rows = [("kept", f"{kept:,}")]
        rows += [(f"dropped: {plain(reason)}", f"{count:,}") for reason, count in sorted(dropped.items())]
        rows.append(("in all", f"{kept + sum(dropped.values()):,}"))
        lines.append(table(("", "documents"), rows, right=(1,)))
    skipped = manifest["skipped_sources"]
    lines.append("")
    if skipped:
        rows = [(code(entry["name"]), plain(entry["reason"])) for entry in skipped[:_MOST_ROWS]]
        lines += [f"{_count(len(skipped), 'file')} skipped:", "", table(("file", "reason"), rows)]
        lines += _rest(skipped)
    else:
        lines.append("No file was skipped.")
    return "\n".join(lines)


def _lengths(manifest: dict) -> str:
    length = manifest["settings"]["max_seq_length"]
    row = (str(length), f"{manifest['examples']:,}", f"{manifest['tokens']:,}")
    lines = [
        "## Lengths and padding",
        "",
        table(
            ("sequence length", "examples", "tokens", "padding share"),
            [(*row, _percent(manifest["padding_share"], 1))],
            right=(0, 1, 2, 3),
        ),
    ]
    if "length_histogram" in manifest:
        labels, counts = _binned_lengths(manifest)
        total, most = max(1, sum(counts)), max(1, *counts)
        rows = [
            (label, f"{count:,}", _percent(count / total, 1), "█" * round(_BAR_CHARACTERS * count / most))
            for label, count in zip(labels, counts, strict=True)
        ]
        lines += [
            "",
            f"![Examples by their number of tokens]({tfrecords.LENGTH_HISTOGRAM_NAME})",
            "",
            table(("tokens", "examples", "share", ""), rows, right=(0, 1, 2)),
        ]
    return "\n".join(lines)


def _examples(examples: Sequence[str]) -> str:
    lines = ["## The first examples, decoded", ""]
    if not examples:
        return "\n".join([*lines, "There are none."])
    lines.append("Pieces are joined to words; padding is not shown.")
    for number, text in enumerate(examples, start=1):
        # Indented by four, text is code to Markdown, whatever signs are in it.
        wrapped = textwrap.wrap(text, _TEXT_WIDTH, break_on_hyphens=False)
        lines += ["", f"Example {number}:", "", *(f"    {line}" for line in wrapped)]
    return "\n".join(lines)


def _settings(manifest: dict) -> str:
    rows = [(code(name), code(str(value))) for name, value in manifest["settings"].items()]
    rows.append((code("vocabulary_sha256"), code(manifest["vocabulary_sha256"])))
    return "\n".join(["## Settings", "", table(("setting", "value"), rows)])


def _files(manifest: dict, manifest_sha256: str) -> str:
    shards = manifest["shards"]
    total = sum(shard["bytes"] for shard in shards)
    lines = [
        "## Files",
        "",
        f"- `{shards[0]['name']}` and so on: {_count(len(shards), 'shard')} of TFRecords, {total:,} bytes in "
        "all, of `input_ids`, `input_mask` and `segment_ids`; each has its index beside it, `offsets.*.npy`.",
        "- `manifest.json`: all of the above, and a SHA-256 of each shard.",
        "- `token_counts.npy`: occurrences of each piece.",
        "- `vocab.txt`, `tokenizer_config.json`: the vocabulary.",
        "",
        "`python data/inspect_dataset.py` on this folder compares all of them with the manifest.",
        "",
        f"Written from `manifest.json` with SHA-256 `{manifest_sha256}`.",
    ]
    return "\n".join(lines)


# -------------------------------------------------------------------------------------------------- wording


def _rest(entries: list[dict]) -> list[str]:
    more = len(entries) - _MOST_ROWS
    return ["", f"… and {more:,} more, in `{tfrecords.MANIFEST_NAME}`."] if more > 0 else []


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _percent(share: float, digits: int) -> str:
    return f"{100 * share:.{digits}f} %"


# ------------------------------------------------------------------------------------------------- contents


def _binned_lengths(manifest: dict) -> tuple[list[str], list[int]]:
    """Labels of the bins of lengths, 1-16, 17-32 and so on, and the examples in each."""
    longest = manifest["settings"]["max_seq_length"]
    firsts = range(1, longest + 1, _BIN_WIDTH)
    counts = [0] * len(firsts)
    for length, examples in manifest["length_histogram"].items():
        counts[(int(length) - 1) // _BIN_WIDTH] += examples
    return [f"{first}-{min(first + _BIN_WIDTH - 1, longest)}" for first in firsts], counts


def _first_examples(folder: Path, manifest: dict) -> list[str]:
    shards = [shard for shard in manifest["shards"] if shard["examples"]]
    # So many shards are enough, for none of them is empty.
    paths = [str(folder / shard["name"]) for shard in shards[:_EXAMPLES]]
    if not paths:
        return []
    opened = Shards(paths, flag="output_dir")
    payloads = [opened.read(number) for number in range(min(_EXAMPLES, len(opened)))]
    arrays = parse_examples(payloads, manifest["settings"]["max_seq_length"])
    vocabulary = load_vocabulary(folder / tfrecords.VOCABULARY_NAME)
    rows = zip(arrays["input_ids"], arrays["input_mask"], strict=True)
    return [vocabulary.text(ids[mask > 0]) for ids, mask in rows]
