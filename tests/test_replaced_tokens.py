"""A discriminator's probabilities and a generator's alternatives are those of Hugging Face's networks."""

import dataclasses
import json

import numpy as np
import pytest
from answering_cases import VOCABULARY as LETTERS
from answering_cases import write_answering_model
from weight_cases import VOCABULARY, huggingface, huggingface_pair

from answering_inputs import load_named
from command_line import RunFailure, UsageError
from detection_inputs import open_detection, tells_tokens_apart
from replaced_tokens import TokenDetector
from squad_configuration import InferenceConfig

torch = pytest.importorskip("torch", reason="PyTorch is the independent truth here")
transformers = pytest.importorskip("transformers", reason="Hugging Face is the independent truth here")

WORDS = [VOCABULARY.pieces[number] for number in np.random.RandomState(0).randint(5, VOCABULARY.size, 150)]
# Positions of the networks, [CLS] and [SEP] among them.
LENGTH = 64


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The folder of a discriminator and a generator, and Hugging Face's models of them."""
    folder = tmp_path_factory.mktemp("pair")
    return folder, *huggingface_pair(folder)


def opened(name, **settings):
    config = InferenceConfig(electra_model=str(name), **settings)
    model = load_named(config)
    assert tells_tokens_apart(model)
    return open_detection(config, model)


def detector(name, count: int = 5, batch_size: int = 4, **settings) -> TokenDetector:
    return TokenDetector(opened(name, **settings), alternatives=count, batch_size=batch_size)


def best_window(place: int, count: int) -> range:
    """The window of the longest length that shows a token in most context, by BERT's measure."""
    room = LENGTH - 2
    stride = room // 2
    firsts = list(range(0, max(0, count - room) + stride, stride))
    windows = [range(first, min(first + room, count)) for first in firsts]

    def shown(window: range) -> float:
        return min(place - window.start, window.stop - 1 - place) + 0.01 * len(window)

    return max((window for window in windows if place in window), key=lambda w: (shown(w), -w.start))


def ids_of(window: range, words: list[str]) -> list[int]:
    pieces = ["[CLS]", *(words[place] for place in window), "[SEP]"]
    return [VOCABULARY.ids[piece] for piece in pieces]


@pytest.mark.parametrize("count", [1, 7, 62, 63, 150])
def test_probabilities_are_hugging_faces_of_the_window_that_shows_a_token_best(count, pair):
    folder, discriminator, _ = pair
    words = WORDS[:count]
    tokens = detector(folder).tokens(" ".join(words))
    assert [token.piece for token in tokens] == words
    for place, token in enumerate(tokens):
        window = best_window(place, count)
        with torch.no_grad():
            logits = discriminator(torch.tensor([ids_of(window, words)])).logits[0]
        expected = float(torch.sigmoid(logits[1 + place - window.start]))
        assert token.probability == pytest.approx(expected, abs=1e-4)


def test_alternatives_are_hugging_faces_with_one_token_masked(pair):
    folder, _, generator = pair
    count = 90
    words, places = WORDS[:count], [89, 0, 61, 62, 40, 5, 5]
    found = detector(folder, serve=True).alternatives(" ".join(words), places)
    assert len(found) == len(places)
    for place, alternatives in zip(places, found, strict=True):
        window = best_window(place, count)
        ids = ids_of(window, words)
        masked = 1 + place - window.start
        original, ids[masked] = ids[masked], VOCABULARY.mask_id
        with torch.no_grad():
            probabilities = torch.softmax(generator(torch.tensor([ids])).logits[0, masked], -1)
        values, best = torch.topk(probabilities, 5)
        assert [piece for piece, _ in alternatives.best] == [VOCABULARY.pieces[number] for number in best]
        assert [value for _, value in alternatives.best] == pytest.approx(values.tolist(), abs=1e-4)
        assert alternatives.probability == pytest.approx(float(probabilities[original]), abs=1e-4)


def test_batches_do_not_change_the_numbers(pair):
    text = " ".join(WORDS)
    one, many = (detector(pair[0], batch_size=size, serve=True) for size in (1, 16))
    first, second = ([token.probability for token in model.tokens(text)] for model in (one, many))
    assert first == pytest.approx(second, abs=1e-5)
    first, second = (model.alternatives(text, range(20)) for model in (one, many))
    assert [entry.probability for entry in first] == pytest.approx(
        [entry.probability for entry in second], abs=1e-5
    )


def test_spans_are_characters_of_the_text_as_it_is(tmp_path):
    """By hand: an accent is dropped and capitals lowered in the piece, and both are there in the text."""
    huggingface("ElectraForPreTraining", tmp_path, vocab_size=LETTERS.size)
    LETTERS.save(tmp_path / "vocab.txt")
    tokens = detector(tmp_path).tokens("An 漢🙂  É<b> \ud800 " + "x" * 101)
    assert [(token.piece, token.begin, token.end) for token in tokens] == [
        ("an", 0, 2),
        ("漢", 3, 4),
        ("[UNK]", 4, 5),
        ("e", 7, 8),
        ("[UNK]", 8, 9),
        ("b", 9, 10),
        ("[UNK]", 10, 11),
        ("[UNK]", 14, 115),
    ]


@pytest.mark.parametrize("text", ["", " \n\t ", "\ud800"])
def test_a_text_without_tokens_has_none(text, pair):
    model = detector(pair[0], serve=True)
    assert model.tokens(text) == [] and model.alternatives(text, []) == []
    with pytest.raises(IndexError):
        model.alternatives(text, [0])


def test_a_place_outside_the_text_is_refused(pair):
    model = detector(pair[0], serve=True)
    for place in (-1, 3):
        with pytest.raises(IndexError):
            model.alternatives(" ".join(WORDS[:3]), [place])


def test_outputs_that_are_no_numbers_end_it(pair):
    inputs = opened(pair[0])
    name = "discriminator_predictions/dense_prediction/bias"
    tensors = inputs.discriminator.tensors | {name: np.full(1, np.nan, np.float32)}
    broken = dataclasses.replace(inputs.discriminator, tensors=tensors)
    model = TokenDetector(dataclasses.replace(inputs, discriminator=broken), alternatives=1, batch_size=1)
    with pytest.raises(RunFailure, match="no number"):
        model.tokens("w1 w2")


# ---------------------------------------------------------------------------------------------- networks


def test_the_generator_is_found_where_the_export_lays_it(pair, tmp_path):
    """For a page; a program that prints takes the one that is named. Under another name it is no export."""
    folder = pair[0]
    for name in (folder, folder / "discriminator"):
        assert opened(name, serve=True).generator.source == str(folder / "generator")
        assert opened(name).generator is None
    huggingface("ElectraForPreTraining", tmp_path / "mine")
    huggingface("ElectraForMaskedLM", tmp_path / "generator")
    assert opened(tmp_path / "mine", serve=True).generator is None
    for name in (folder, folder / "generator"):
        generator = opened(tmp_path / "mine", generator_model=str(name)).generator
        assert generator.source == str(folder / "generator")


def test_networks_that_do_not_fit_are_named(pair, tmp_path):
    folder = pair[0]

    def refused(message: str, **settings):
        with pytest.raises(UsageError, match=message):
            opened(folder / "discriminator", **settings)

    refused("--generator_model .*discriminator: is no masked", generator_model=str(folder / "discriminator"))
    huggingface("ElectraForMaskedLM", tmp_path / "other", vocab_size=LETTERS.size)
    LETTERS.save(tmp_path / "other" / "vocab.txt")
    refused("other: its vocabulary is not that of", generator_model=str(tmp_path / "other"))
    (tmp_path / "other" / "vocab.txt").unlink()
    refused(f"word table has {LETTERS.size} rows", generator_model=str(tmp_path / "other"))
    for length in (2, 65):
        refused(f"--max_seq_length {length}: must be from 3 to 64", max_seq_length=length)
    assert opened(folder, max_seq_length=3).max_seq_length == 3


def test_windows_of_three_tokens_see_one_each(pair):
    """The shortest that there are: [CLS] word [SEP]."""
    folder, discriminator, _ = pair
    tokens = detector(folder, max_seq_length=3).tokens(" ".join(WORDS[:9]))
    for word, token in zip(WORDS, tokens, strict=False):
        with torch.no_grad():
            logits = discriminator(torch.tensor([ids_of(range(1), [word])])).logits[0]
        assert token.probability == pytest.approx(float(torch.sigmoid(logits[1])), abs=1e-4)


# ------------------------------------------------------------------------------------------- the program


@pytest.mark.slow
def test_the_program_prints_a_line_for_each_token(pair, run_program, tmp_path):
    folder, text = pair[0], " ".join(WORDS[:12])
    (tmp_path / "text.txt").write_text(text)
    flags = ["--electra_model", folder, "--context_file", tmp_path / "text.txt"]
    model = detector(folder, count=3, serve=True)
    expected, alternatives = model.tokens(text), model.alternatives(text, range(12))
    done = run_program("run_inference.py", *flags, "--json", "--generator_model", folder, "--alternatives", 3)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for line, token, entry in zip(lines, expected, alternatives, strict=True):
        assert (line["token"], line["begin"], line["end"]) == (token.piece, token.begin, token.end)
        assert line["probability"] == pytest.approx(token.probability, abs=1e-4)
        best = line["alternatives"]["best"]
        assert [one["token"] for one in best] == [piece for piece, _ in entry.best]
    done = run_program("run_inference.py", *flags)
    assert done.returncode == 0, done.stderr
    for line, token in zip(done.stdout.splitlines(), expected, strict=True):
        probability, *mark, piece = line.split()
        assert float(probability) == pytest.approx(token.probability, abs=2e-4) and piece == token.piece
        assert mark == (["*"] if float(probability) >= 0.5 else []) or abs(token.probability - 0.5) < 1e-3


def test_flags_that_do_not_fit_the_model_are_refused(pair, usage_error, tmp_path):
    plain = write_answering_model(tmp_path / "plain")
    for model, flags, message in (
        (pair[0], [], "--context (none)"),
        (pair[0], ["--context", "a", "--question", "b"], "--question b: needs a model that is fine-tuned"),
        (
            plain,
            ["--context", "a", "--generator_model", "b"],
            "--generator_model b: goes with a discriminator",
        ),
        (plain, ["--serve", "--question", "a", "--context", "b"], "--question a: is not for --serve"),
        (plain, ["--serve", "--port", "65536"], "--port 65536"),
        (plain, ["--context", "a", "--alternatives", "0"], "--alternatives 0"),
    ):
        assert message in usage_error("run_inference.py", "--electra_model", model, *flags)
