"""export_saved_model.py: a SavedModel that takes strings answers as run_inference.py does, by itself.

What needs tensorflow-text (requirements-serving.txt) is skipped where it is not installed.
"""

import dataclasses
import importlib.metadata
import importlib.util
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from answering_cases import VOCABULARY, answerer, made_up_questions, open_model, write_answering_model

import export_saved_model
import saved_model_card
from answering_inputs import make_question
from command_line import UsageError
from squad_features import FeatureRule, token_spans
from tokenization import Vocabulary, build_tokenizer, load_vocabulary

ROOT = Path(__file__).parents[1]
needs_tensorflow_text = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_text") is None,
    reason="tensorflow-text is not installed: pip install --no-deps -r requirements-serving.lock",
)

# Where normalisation, the division into words and offsets have their difficulties.
DIFFICULT = [
    "",
    " \t\n ",
    "an apple, in the tin.",
    "(an)apple--in?'the'",
    "a\u00a0b\u3000c\u2009d\u2028e",
    "a\x00b\x07c\ufffdd\u200be\ufefff",
    "\ufeffan",
    "Ca\u0301fe\u0301 café CAFÉ ÅNGSTRÖM",
    "e\u0323\u0301\u0302a \u0301a an\u0301",
    "İstanbul ΑΣ ΟΔΟΣ ﬁn ß ẞ ǅ",
    "漢字an漢 テスト が 한국어 각",
    "👩‍👩‍👧‍👦an 🏴\U000e0067\U000e0062\U000e007f. 🇩🇪 1️⃣",
    "שָׁלוֹם العَرَبِيَّة हिन्दी ไทย",
    "a" * 100 + " " + "a" * 101 + " in",
    "é" * 100 + " " + "é" * 101,
    "a\u0301" * 60,
    "ก" * 50 + "an",
    "[UNK] [CLS] ##an $1,2.3%^`~|<>=+@#&*_\\{}",
    "\U0003fffd an \U000f1234 in \U0010ffff",
    "an\uffff\ufdd0\ufdd0\U0010ffff\U0001fffe\U0001fffe th in",
]
CASINGS = [(True, None), (False, None), (False, True), (True, False)]


def fuzzed(count: int) -> list[str]:
    """Strings of characters from many scripts, assigned or not."""
    draw = random.Random(0)
    ranges = [(0x20, 0x7F), (0x20, 0x7F), (0, 0x250), (0x300, 0x600), (0x900, 0xE80), (0x1E00, 0x2100)]
    ranges += [(0x3000, 0x3100), (0x4E00, 0xA000), (0xAC00, 0xD7A4), (0xE000, 0x10000), (0x1F300, 0x1F700)]
    ranges += [(0xE0000, 0xE0200), (0x10000, 0x110000)]
    musical = range(0x1D165, 0x1D173)  # reordered by the library: GraphTokenizer's docstring
    texts = []
    for _ in range(count):
        codes = [draw.randrange(*draw.choice(ranges)) for _ in range(draw.randint(1, 30))]
        texts.append("".join(chr(code) for code in codes if code not in musical))
    return texts


def assert_same_tokens(vocabulary: Vocabulary, texts: list[str]) -> None:
    from serving_tokenization import GraphTokenizer

    tokens = GraphTokenizer(vocabulary).tokenize(tf.constant(texts))
    encodings = build_tokenizer(vocabulary).encode_batch(texts, add_special_tokens=False)
    found = zip(tokens.ids.to_list(), tokens.begins.to_list(), tokens.ends.to_list(), strict=True)
    for text, encoding, (ids, begins, ends) in zip(texts, encodings, found, strict=True):
        assert ids == encoding.ids, ascii(text)
        assert [*map(list, zip(begins, ends, strict=True))] == token_spans(text, encoding.offsets).tolist(), (
            ascii(text)
        )


@needs_tensorflow_text
@pytest.mark.parametrize(("do_lower_case", "strip_accents"), CASINGS)
def test_tokens_and_spans_are_those_of_the_tokenizers_library(do_lower_case, strip_accents):
    vocabulary = dataclasses.replace(VOCABULARY, do_lower_case=do_lower_case, strip_accents=strip_accents)
    assert_same_tokens(vocabulary, DIFFICULT + fuzzed(1000))


@needs_tensorflow_text
def test_tokens_of_real_contexts_and_questions_are_the_same(shared_data):
    texts = []
    for path in sorted((shared_data / "squad").glob("dev-*.json")):
        for article in json.loads(path.read_text())["data"]:
            for paragraph in article["paragraphs"]:
                texts += [paragraph["context"], *(entry["question"] for entry in paragraph["qas"])]
    assert len(texts) > 200 and not all(text.isascii() for text in texts)
    assert_same_tokens(load_vocabulary(shared_data / "vocab" / "vocab.txt"), texts + DIFFICULT)


@needs_tensorflow_text
def test_windows_are_those_of_the_rule():
    """Every combination of lengths around the borders."""
    from serving_model import window_places

    rule = FeatureRule(16, 5, 10)
    lengths = [(query, context) for query in (0, 1, 7, 8, 10) for context in range(40)]
    queries, contexts = zip(*lengths, strict=True)
    question, first, count = window_places(rule, tf.constant(queries), tf.constant(contexts))
    expected = [(number, *window) for number, pair in enumerate(lengths) for window in rule.windows(*pair)]
    assert [*zip(question.numpy(), first.numpy(), count.numpy(), strict=True)] == expected


# ------------------------------------------------------------------------------------------------- answers

# Runs where nothing of the project can be found: strings in, strings out.
_CLIENT = """
import json, sys
import tensorflow as tf
import tensorflow_text
answer = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
for line in open(sys.argv[2], encoding="utf-8"):
    pairs = json.loads(line)
    questions, contexts = (tf.constant([pair[i] for pair in pairs]) for i in (0, 1))
    outputs = {name: tensor.numpy() for name, tensor in answer(question=questions, context=contexts).items()}
    for row in range(len(pairs)):
        print(json.dumps({
            "answer": outputs["answer"][row].decode(),
            "probability": float(outputs["probability"][row]),
            "null_odds": float(outputs["null_odds"][row]) if "null_odds" in outputs else None,
            "texts": [text.decode() for text in outputs["n_best_text"][row]],
            "probabilities": outputs["n_best_probability"][row].tolist(),
        }))
assert not {"tokenizers", "transformers", "squad_features", "serving_model"} & set(sys.modules)
"""


def served_answers(folder, pairs, tmp_path, batch: int = 24) -> list[dict]:
    """What a process with TensorFlow and tensorflow-text alone gets from the SavedModel."""
    batches = [pairs[first : first + batch] for first in range(0, len(pairs), batch)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pairs) + "\n" for pairs in batches))
    command = [sys.executable, "-c", _CLIENT, str(folder), str(tmp_path / "pairs.jsonl")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_same_answers(served: list[dict], model, pairs) -> None:
    expected = list(model.answers(make_question(*pair) for pair in pairs))
    assert len(served) == len(expected)
    for found, answer, pair in zip(served, expected, pairs, strict=True):
        assert found["answer"] == answer.text, pair
        assert found["probability"] == pytest.approx(answer.probability, abs=1e-4)
        count = len(answer.n_best)
        assert found["texts"][:count] == [entry["text"] for entry in answer.n_best]
        probabilities = [entry["probability"] for entry in answer.n_best]
        assert found["probabilities"][:count] == pytest.approx(probabilities, abs=1e-4)
        assert not any(found["texts"][count:]) and not any(found["probabilities"][count:])
        if answer.null_odds is None:
            assert found["null_odds"] is None
        else:
            assert found["null_odds"] == pytest.approx(answer.null_odds, rel=1e-4, abs=1e-3)
    # Neither is one answer right for all of them.
    assert len({answer.text for answer in expected}) > len(pairs) // 4


@needs_tensorflow_text
@pytest.mark.slow
@pytest.mark.parametrize("joint_head", [False, True])
def test_a_saved_model_answers_real_questions_as_run_inference_does(
    joint_head, shared_data, run_program, tmp_path
):
    """By the program, from files; every question of the dev set, contexts of several windows."""
    vocabulary = load_vocabulary(shared_data / "vocab" / "vocab.txt")
    folder = write_answering_model(
        tmp_path / "model", joint_head=joint_head, version_2=joint_head, vocabulary=vocabulary, positions=128
    )
    lengths = ["--doc_stride", 48, "--max_query_length", 24]
    done = run_program(
        "export_saved_model.py", "--electra_model", folder, "--output_dir", tmp_path / "served", *lengths
    )
    assert done.returncode == 0, done.stderr
    content = json.loads((shared_data / "squad" / "dev-v1.1.json").read_text())
    pairs = [
        (entry["question"], paragraph["context"])
        for article in content["data"]
        for paragraph in article["paragraphs"]
        for entry in paragraph["qas"]
    ]
    served = served_answers(tmp_path / "served", pairs, tmp_path)
    assert_same_answers(served, answerer(folder, doc_stride=48, max_query_length=24), pairs)


@needs_tensorflow_text
@pytest.mark.parametrize(
    ("head", "settings"),
    [
        ({}, {}),
        ({"version_2": True}, {"n_best_size": 1, "max_answer_length": 2}),
        ({"joint_head": True}, {"n_best_size": 3}),
        (
            {"joint_head": True, "version_2": True, "variant": "xlnet"},
            {"null_score_diff_threshold": 40.0, "n_best_size": 3},
        ),
    ],
)
def test_difficult_texts_are_answered_alike(head, settings, tmp_path):
    """Both heads, no and few answers, accents, emoji, empty contexts, questions that are cut off."""
    import serving_model

    pairs = made_up_questions(30, seed=4)
    pairs += [("an apple", text) for text in DIFFICULT if text.strip()]
    pairs += [("", ""), ("an", ""), ("", "an apple"), ("what is " * 20, "an apple in the tin")]
    folder = write_answering_model(tmp_path / "model", **head)
    model = serving_model.ServingModel(open_model(folder, **settings), batch_size=5)
    questions, contexts = (tf.constant([pair[i] for pair in pairs]) for i in (0, 1))
    outputs = {name: tensor.numpy() for name, tensor in model.answer(questions, contexts).items()}
    null_odds = outputs.get("null_odds", [None] * len(pairs))
    served = [
        {
            "answer": outputs["answer"][row].decode(),
            "probability": outputs["probability"][row],
            "null_odds": null_odds[row],
            "texts": [text.decode() for text in outputs["n_best_text"][row]],
            "probabilities": outputs["n_best_probability"][row].tolist(),
        }
        for row in range(len(pairs))
    ]
    assert_same_answers(served, answerer(folder, **settings), pairs)
    # How questions are grouped does not matter, nor that there are none.
    alone = model.answer(questions[:1], contexts[:1])
    assert alone["answer"].numpy()[0] == outputs["answer"][0]
    np.testing.assert_allclose(alone["probability"], outputs["probability"][:1], atol=1e-5)
    assert model.answer(questions[:0], contexts[:0])["n_best_text"].shape[0] == 0
    with pytest.raises(tf.errors.InvalidArgumentError, match="as many contexts as questions"):
        model.answer(questions[:1], contexts[:2])


# ----------------------------------------------------------------------------------------------- bad input

SHORT = ("--max_query_length", 12)
WRITTEN = ("saved_model.pb", "README.md", "fingerprint.pb", "variables/variables.index")
WRITTEN += ("variables/variables.data-00000-of-00001",)


def refusal(monkeypatch, *flags) -> str:
    monkeypatch.setattr(sys, "argv", ["export_saved_model.py", *map(str, flags)])
    with pytest.raises(UsageError) as error:
        export_saved_model.main()
    return str(error.value)


def test_without_tensorflow_text_it_says_what_to_install(monkeypatch, tmp_path):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    message = refusal(monkeypatch, "--electra_model", tmp_path, "--output_dir", tmp_path / "out")
    assert "tensorflow-text is not installed" in message
    assert "pip install --no-deps -r requirements-serving.lock" in message


def test_another_version_of_tensorflow_text_is_refused(monkeypatch, tmp_path):
    folder = write_answering_model(tmp_path / "model")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.15.1")
    message = refusal(monkeypatch, "--electra_model", folder, "--output_dir", tmp_path / "out", *SHORT)
    assert f"tensorflow-text 1.15.1 does not fit TensorFlow {tf.__version__}" in message
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_not_written_over(monkeypatch, tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    for output in (tmp_path, tmp_path / "thesis.txt"):
        message = refusal(monkeypatch, "--electra_model", "model", "--output_dir", output)
        assert f"--output_dir {output}: is there already and is no SavedModel" in message
    assert (tmp_path / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize(
    "other", ["thesis.txt", "assets/words.txt", "variables/variables.index.bak", ".git/HEAD"]
)
def test_a_saved_model_that_holds_more_than_an_export_is_not_written_over(other, monkeypatch, tmp_path):
    folder = tmp_path / "served"
    for name in (*WRITTEN, other):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("years")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    message = refusal(monkeypatch, "--electra_model", "model", "--output_dir", folder)
    name = ".git" if other == ".git/HEAD" else other
    assert f"--output_dir {folder}: is not replaced, because it holds '{name}', which no export" in message
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@needs_tensorflow_text
def test_an_export_takes_the_place_of_an_earlier_one(monkeypatch, tmp_path):
    model, output = write_answering_model(tmp_path / "model"), tmp_path / "served"
    flags = ["--electra_model", model, "--output_dir", output, *SHORT]
    monkeypatch.setattr(sys, "argv", ["export_saved_model.py", *map(str, flags)])
    for _ in range(2):
        assert export_saved_model.main() == 0
        found = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
        assert found == set(WRITTEN)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "served"]
    # The card names what the signature has, no more and no less.
    signature = tf.saved_model.load(str(output)).signatures["serving_default"]
    names = {*signature.structured_input_signature[1], *signature.structured_outputs}
    card = (output / "README.md").read_text()
    rows = card.partition("## Signature")[2].partition("##")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", rows, re.MULTILINE)) == names
    assert "| `max_query_length` | `12` |" in card and f"| `tensorflow` | `{tf.__version__}` |" in card


# -------------------------------------------------------------------------------------------- model card

CARD = """---
license: cc-by-sa-4.0
library_name: transformers
pipeline_tag: question-answering
tags:
- electra
---

# ELECTRA, fine-tuned on SQuAD 2.0

| `exact_match` | 71.5 |
"""


def card_of(folder: Path, **settings) -> str:
    return saved_model_card.render(open_model(folder, **settings), 32, {"tensorflow": "2.18.1"})


def test_the_card_of_the_weights_goes_along_with_what_was_exported(tmp_path):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    folder = write_answering_model(tmp_path / "model", version_2=True, joint_head=True)
    (folder / "README.md").write_text(CARD)
    text = card_of(folder, doc_stride=11, max_answer_length=7)
    card = huggingface_hub.ModelCard(text)
    assert (card.data.license, card.data.pipeline_tag) == ("cc-by-sa-4.0", "question-answering")
    assert card.data.library_name is None and card.data.tags == ["electra"]
    for told in (
        f"from `{folder}`",
        "| `precision` | `float32` |",
        "| `head` | `joint` |",
        # That of the position table, under 384.
        "| `max_seq_length` | `64` |",
        "| `doc_stride` | `11` |",
        "| `max_answer_length` | `7` |",
        "| `null_odds` | out |",
        "# ELECTRA, fine-tuned on SQuAD 2.0\n\n| `exact_match` | 71.5 |\n",
    ):
        assert told in text, told
    assert "Not recorded" not in text


@pytest.mark.parametrize("beside", [None, b"\xff\xfe no text"])
def test_without_a_card_of_the_weights_it_says_what_they_are_and_what_is_not_known(beside, tmp_path):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    folder = write_answering_model(tmp_path / "model")
    if beside:
        (folder / "README.md").write_bytes(beside)
    text = card_of(folder)
    assert huggingface_hub.ModelCard(text).data.license == "unknown"
    assert "| `hidden_size` | `24` |" in text and "Not recorded: no card lay beside the weights." in text
    assert "## Intended use" in text and "null_odds" not in text and "no text" not in text


def test_a_card_without_front_matter_goes_along_whole(tmp_path):
    folder = write_answering_model(tmp_path / "model")
    (folder / "README.md").write_text("# Mine\n\nTrained at home.\n")
    text = card_of(folder)
    assert text.startswith("---\nlicense: unknown\n") and text.endswith("# Mine\n\nTrained at home.\n")


def test_the_pinned_version_is_that_of_tensorflow():
    """requirements-serving.txt names a version whose minor one is that of the TensorFlow in the locks."""

    def lines(name: str, start: str) -> list[str]:
        return [line for line in (ROOT / name).read_text().splitlines() if line.startswith(start)]

    pins = dict(line.split("==")[1].split(" ; ") for line in lines("requirements-serving.txt", "tensorflow"))
    locked = [line.split("==", 1)[1] for line in lines("requirements-cpu.lock", "tensorflow-cpu==")]
    for version, marker in pins.items():
        of_python = "3.13.*" if ">=" in marker else "< '3.13'"
        (tensorflow,) = [line.split(" ; ")[0] for line in locked if of_python in line]
        assert version.split(".")[:2] == tensorflow.split(".")[:2]
    assert len(pins) == 2
