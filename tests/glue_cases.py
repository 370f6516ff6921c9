"""Made-up tasks that a tiny model learns in seconds: labels of texts and of pairs, numbers, spans of tags.

A text is filler words with one word that matters. Its label says of which kind the word is; a pair's, of
which kind the second text's is; its number is the word's worth; its spans are the names.
"""

import csv
import json
from pathlib import Path

import numpy as np
from squad_cases import FILLERS, NAMES, random_tensors

import electra_weights
import pretrained_models
import weight_conversion
from architecture import ElectraConfig
from tokenization import SPECIAL_PIECES, Vocabulary

GOOD, BAD = ["fine", "glad", "kind"], ["dire", "grim", "sour"]
WORTHS = ["none", "one", "two", "three", "four"]
VOCABULARY = Vocabulary((*SPECIAL_PIECES, *FILLERS, *NAMES, *GOOD, *BAD, *WORTHS, "##s"))
CONFIG = ElectraConfig(VOCABULARY.size, 16, 24, 1, 2, 32, max_position_embeddings=64)

Row = dict[str, str]


def texts(count: int, seed: int, longest: int = 12) -> list[Row]:
    """Rows of text and label, good or bad."""
    random = np.random.RandomState(seed)
    rows = []
    for number in range(count):
        label = ("good", "bad")[number % 2]
        rows.append({"text": _text(random, (GOOD, BAD)[number % 2], longest), "label": label})
    return rows


def pairs(count: int, seed: int) -> list[Row]:
    """Rows of two texts, each good or bad, and whether the second one is good, yes or no."""
    random = np.random.RandomState(seed)
    rows = []
    for number in range(count):
        first, second = number // 2 % 2, number % 2
        one, other = (_text(random, (GOOD, BAD)[kind], 5) for kind in (first, second))
        rows.append({"one": one, "other": other, "good": ("yes", "no")[second]})
    return rows


def numbers(count: int, seed: int) -> list[Row]:
    """Rows of text and number, from 0 to 400."""
    random = np.random.RandomState(seed)
    return [
        {"text": _text(random, [WORTHS[number % 5]], 6), "label": str(100 * (number % 5))}
        for number in range(count)
    ]


def sentences(count: int, seed: int) -> list[tuple[list[str], list[str]]]:
    """Words and tags: some names begin a person's, some continue it, and others are places."""
    random = np.random.RandomState(seed)
    made = []
    for _ in range(count):
        words, tags = [], []
        for _ in range(random.randint(1, 4)):
            words += random.choice(FILLERS, random.randint(1, 4)).tolist()
            tags += ["O"] * (len(words) - len(tags))
            if random.randint(2):
                words += [random.choice(NAMES[:3]), *random.choice(NAMES[3:6], random.randint(3))]
                tags += ["B-PERSON", *["I-PERSON"] * (len(words) - len(tags) - 1)]
            else:
                words.append(random.choice(NAMES[6:]))
                tags.append("B-PLACE")
        # With a piece after the word, which has no tag.
        made.append(([f"{word}s" if word in FILLERS[:4] else str(word) for word in words], tags))
    return made


def write_csv(path: Path, rows: list[Row]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_tsv(path: Path, rows: list[Row], *, header: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(rows[0])] * header + ["\t".join(row.values()) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_json_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_columns(path: Path, tagged: list[tuple[list[str], list[str]]]) -> Path:
    """As CoNLL-2000: word, a column that nobody reads, tag."""
    blocks = ["".join(f"{word} X {tag}\n" for word, tag in zip(*pair, strict=True)) for pair in tagged]
    path.write_text("\n".join(blocks), encoding="utf-8")
    return path


def _text(random, kind: list[str], longest: int) -> str:
    words = [str(word) for word in random.choice(FILLERS, random.randint(2, longest))]
    words.insert(random.randint(len(words) + 1), str(random.choice(kind)))
    return " ".join(words)


def random_head(encoder: Path, folder: Path, outputs: int) -> None:
    """An encoder's folder again, with a sequence head of random weights."""
    network = pretrained_models.load_pretrained(str(encoder), "electra_model")
    hidden = network.config.hidden_size
    head = {"dense/kernel": (hidden, hidden), "dense/bias": (hidden,)}
    head |= {"out_proj/kernel": (hidden, outputs), "out_proj/bias": (outputs,)}
    tensors = random_tensors({f"classifier/{name}": shape for name, shape in head.items()})
    weight_conversion.write_folder(
        folder,
        "ElectraForSequenceClassification",
        network.config,
        electra_weights.to_huggingface(network.tensors | tensors),
        network.vocabulary,
    )
