"""run_inference.py answers what the model answers: one question, a prompt, files of any length."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from answering_cases import VOCABULARY, answerer, made_up_questions, open_model, write_answering_model
from safetensors.numpy import load_file
from squad_questions import write_squad

import run_inference
from answering_inputs import make_question
from command_line import UsageError, parse
from electra_weights import PLAIN_SPAN_HEAD, from_huggingface, to_huggingface
from question_answerer import Answerer
from squad_configuration import InferenceConfig
from tokenization import SPECIAL_PIECES, Vocabulary
from weight_conversion import write_folder

ROOT = Path(__file__).parents[1]
QUESTIONS = made_up_questions(24)
LENGTHS = ("--doc_stride", "16", "--max_query_length", "12")


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return write_answering_model(tmp_path_factory.mktemp("plain") / "model")


@pytest.fixture(scope="module")
def joint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("joint") / "model"
    return write_answering_model(folder, joint_head=True, version_2=True)


def run(model: Path, *flags, stdin: str | bytes = "", expect: int = 0) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "run_inference.py", "--electra_model", model, *LENGTHS, *flags]
    stdin = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(list(map(str, command)), input=stdin, capture_output=True, timeout=120)
    assert done.returncode == expect, done.stderr.decode()
    return done


def json_lines(text: str | bytes) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def write_lines(path: Path, *entries) -> Path:
    path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    return path


# -------------------------------------------------------------------------------------------------- answers


def test_the_answer_is_the_best_span_of_all_windows_by_hugging_face_and_by_hand(tmp_path):
    """Windows, logits and best span computed the plain way: loops, and Hugging Face's network."""
    import torch
    import transformers

    vocabulary = Vocabulary((*SPECIAL_PIECES, *(f"w{number}" for number in range(40))))
    folder = write_answering_model(tmp_path / "model", vocabulary=vocabulary, positions=24)
    model = transformers.ElectraForQuestionAnswering.from_pretrained(folder).eval()
    words = [f"w{number}" for number in np.random.RandomState(1).randint(0, 40, 50)]
    query = ["w1", "w2"]
    room, stride = 24 - len(query) - 3, 8
    firsts = list(range(0, len(words) - room + stride, stride))
    best = (-np.inf, "", 0)
    for first in firsts:
        piece = words[first : first + room]
        ids = [vocabulary.ids[token] for token in ("[CLS]", *query, "[SEP]", *piece, "[SEP]")]
        segments = [0] * (len(query) + 2) + [1] * (len(piece) + 1)
        with torch.no_grad():
            out = model(torch.tensor([ids]), token_type_ids=torch.tensor([segments]))
        starts, ends = (logits[0].numpy()[len(query) + 2 :] for logits in (out.start_logits, out.end_logits))

        def shown(place: int, begin: int) -> float:
            """BERT's measure of how much context a window from `begin` shows a word in."""
            count = min(room, len(words) - begin)
            return min(place - begin, begin + count - 1 - place) + 0.01 * count

        for start in range(len(piece)):
            place = first + start
            holding = [begin for begin in firsts if begin <= place < begin + room]
            if max(holding, key=lambda begin: (shown(place, begin), -begin)) != first:
                continue
            for end in range(start, min(start + 5, len(piece))):
                score = float(starts[start]) + float(ends[end])
                best = max(best, (score, " ".join(piece[start : end + 1]), first))
    # The limit of the best starts and ends is out of the way, and so is the question of ties.
    answer = answerer(folder, doc_stride=8, max_query_length=2, n_best_size=24, max_answer_length=5).answer(
        " ".join(query), " ".join(words)
    )
    assert answer.text == best[1]
    assert answer.n_best[0]["start_logit"] + answer.n_best[0]["end_logit"] == pytest.approx(best[0], abs=1e-4)
    assert len(firsts) > 3


def test_a_context_of_many_windows_is_answered_from_its_end_too(plain):
    """Nothing of a text is out of reach: answers come from its first window and from later ones."""
    found = set()
    model = answerer(plain)
    for question, context in made_up_questions(40, seed=2):
        if len(context) > 150:
            answer = model.answer(question, context)
            assert answer.text and answer.text in context
            found.add(context.index(answer.text) > 100)
    assert found == {True, False}


@pytest.mark.slow
@pytest.mark.parametrize("head", ["plain", "joint"])
def test_answers_are_those_of_run_tf_squad(head, request, run_program, tmp_path):
    model = request.getfixturevalue(head)
    version_2 = head == "joint"
    paragraphs = [
        (context, [{"id": f"q{number}", "question": question, "answers": []}])
        for number, (question, context) in enumerate(QUESTIONS)
    ]
    write_squad(tmp_path / "dev.json", *paragraphs)
    arguments = ["--electra_model", model, "--data_dir", tmp_path, "--output_dir", tmp_path / "out"]
    arguments += ["--predict_file", tmp_path / "dev.json", "--do_predict", "--max_seq_length", "64", *LENGTHS]
    done = run_program(
        "run_tf_squad.py", *arguments, *(["--version_2_with_negative"] if version_2 else []), timeout=300
    )
    assert done.returncode == 0, done.stderr
    entries = [{"id": f"q{i}", "question": q, "context": c} for i, (q, c) in enumerate(QUESTIONS)]
    run(model, "--input", write_lines(tmp_path / "in", *entries), "--output", tmp_path / "answers.jsonl")
    answers = json_lines((tmp_path / "answers.jsonl").read_text())
    assert [answer["id"] for answer in answers] == [entry["id"] for entry in entries]
    out = tmp_path / "out"
    predictions = json.loads((out / "predictions.json").read_text())
    n_best = json.loads((out / "nbest_predictions.json").read_text())
    assert {answer["id"]: answer["answer"] for answer in answers} == predictions
    assert len(set(predictions.values())) > 10
    for answer in answers:
        expected = n_best[answer["id"]]
        assert [entry["text"] for entry in answer["n_best"]] == [entry["text"] for entry in expected]
        probabilities = {entry["text"]: entry["probability"] for entry in expected}
        assert answer["probability"] == pytest.approx(probabilities[answer["answer"]], abs=1e-4)
    if version_2:
        null_odds = json.loads((out / "null_odds.json").read_text())
        assert {a["id"]: a["null_odds"] for a in answers} == pytest.approx(null_odds, rel=1e-4, abs=1e-4)
    else:
        assert all(answer["null_odds"] is None for answer in answers)


def test_the_model_says_whether_questions_may_have_no_answer(joint, plain):
    assert open_model(joint).decoding_rule.version_2
    assert not open_model(joint, version_2_with_negative=False).decoding_rule.version_2
    assert not open_model(plain).decoding_rule.version_2


def test_the_threshold_decides_on_no_answer(joint):
    question, context = next(pair for pair in QUESTIONS if pair[1])
    odds = answerer(joint).answer(question, context).null_odds
    above = answerer(joint, null_score_diff_threshold=odds + 1).answer(question, context)
    below = answerer(joint, null_score_diff_threshold=odds - 1).answer(question, context)
    assert above.text and above.text in context and below.text == ""
    by_text = {entry["text"]: entry["probability"] for entry in below.n_best}
    assert below.probability == by_text[""] and above.probability == by_text[above.text]


def test_questions_are_answered_as_they_come(plain):
    """An endless stream of questions gives answers: no more than a block of them is ever held."""
    endless = (make_question(*pair, id=number) for number, pair in enumerate(itertools.cycle(QUESTIONS)))
    answers = list(itertools.islice(answerer(plain).answers(endless), 300))
    assert [answer.id for answer in answers] == list(range(300))
    once = [answer.text for answer in answerer(plain).answers(make_question(*pair) for pair in QUESTIONS)]
    assert [answer.text for answer in answers] == (once * 13)[:300]


def test_text_that_no_encoding_holds_is_answered(plain):
    answer = answerer(plain).answer("a\ud800?", "b \udfff c é 漢 \u200d")
    assert answer.text and "\ud800" not in answer.text


# ------------------------------------------------------------------------------------------ the program


@pytest.mark.slow
def test_one_question_is_printed_to_read_or_as_json(joint):
    question, context = next(pair for pair in QUESTIONS if pair[1])
    expected = answerer(joint).answer(question, context)
    read = run(joint, "--question", question, "--context", context).stdout.decode().splitlines()
    assert read[0] == f"answer: {expected.text or '(no answer)'}" and read[3] == "n-best:"
    # Of four decimals the last may be rounded to either side in another process.
    shown = [float(read[line].removeprefix(name)) for line, name in ((1, "probability:"), (2, "null odds:"))]
    assert shown == pytest.approx([expected.probability, expected.null_odds], abs=2e-4)
    probability, *words = read[4].split()
    assert float(probability) == pytest.approx(expected.n_best[0]["probability"], abs=2e-4)
    assert words == expected.n_best[0]["text"].split()
    (written,) = json_lines(run(joint, "--question", question, "--context", context, "--json").stdout)
    assert written["answer"] == expected.text
    assert [entry["text"] for entry in written["n_best"]] == [entry["text"] for entry in expected.n_best]


@pytest.mark.slow
def test_the_prompt_keeps_the_text_until_it_is_changed(plain, tmp_path):
    """Through a pipe, with a bad byte; a file that is not there changes nothing; an empty line ends it."""
    (tmp_path / "text.txt").write_text("twelve in a tin", encoding="utf-8")
    lines = [
        b"too early",
        b"/context an apple and a pear",
        b"what \xff is it",
        b"/context @nowhere",
        b"what now",
        f"/context @{tmp_path / 'text.txt'}".encode(),
        b"what now",
        b"/help",
        b"",
        b"never asked",
    ]
    done = run(plain, "--json", stdin=b"\n".join(lines))
    model = answerer(plain)
    first, second = "an apple and a pear", "twelve in a tin"
    asked = [("what \ufffd is it", first), ("what now", first), ("what now", second)]
    assert [line["answer"] for line in json_lines(done.stdout)] == [
        model.answer(*pair).text for pair in asked
    ]
    errors = done.stderr.decode()
    assert "no text to ask about" in errors and "@nowhere: No such file" in errors
    # Without an empty line the end of the pipe ends it.
    done = run(plain, "--json", "--context", first, stdin="what now")
    assert len(json_lines(done.stdout)) == 1


@pytest.mark.slow
def test_lines_of_json_are_answered_in_order(plain, tmp_path):
    """Ids as they are given, else the line's number; blank lines are none; one text for those without."""
    (tmp_path / "text.txt").write_text("\ufefftwelve in a tin", encoding="utf-8")
    entries = [
        {"question": "what", "context": "an apple"},
        {"id": 7, "question": "what"},
        {"id": "a\ud800", "question": "what", "context": ""},
    ]
    lines = [json.dumps(entry) for entry in entries]
    path = tmp_path / "questions.jsonl"
    path.write_text(f"{lines[0]}\n\n{lines[1]}\n{lines[2]}")
    done = run(plain, "--input", path, "--context_file", tmp_path / "text.txt")
    answers = json_lines(done.stdout)
    assert [answer["id"] for answer in answers] == [1, 7, "a\ud800"]
    model = answerer(plain)
    expected = [model.answer("what", context).text for context in ("an apple", "twelve in a tin", "")]
    assert [answer["answer"] for answer in answers] == expected
    assert expected[2] == ""
    # From a pipe the same.
    assert json_lines(
        run(plain, "--input", "-", "--context", "twelve in a tin", stdin="\n".join(lines)).stdout
    )[1:] == [answers[1], answers[2]]


# --------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"question": "a", "context": "b"}', "{"], "line 2: not JSON"),
        (['{"context": "b"}'], "line 1: 'question' is missing"),
        (["", '{"question": "a"}'], "line 2: 'context' is missing"),
        (['{"question": 1, "context": "b"}'], "line 1: 'question' is no text"),
        (["[]"], "line 1: list where an object is wanted"),
        (['{"question": "a", "context": "b", "id": null}'], "line 1: 'id' is neither"),
    ],
)
def test_a_bad_line_is_named_before_any_answer_is_written(lines, message, usage_error, plain, tmp_path):
    path, output = tmp_path / "questions.jsonl", tmp_path / "answers.jsonl"
    path.write_text("\n".join(lines))
    error = usage_error("run_inference.py", "--electra_model", plain, "--input", path, "--output", output)
    assert f"--input {path}: {message}" in error
    assert not output.exists()


def test_a_bad_line_of_a_pipe_stops_there(plain):
    """What came before it, up to the block that it is in, is answered; the error is one line."""
    done = run(plain, "--input", "-", stdin='{"question": 1}', expect=2)
    (line,) = done.stderr.decode().splitlines()
    assert "--input -: line 1: 'question' is no text" in line


def test_what_comes_before_a_broken_line_of_standard_input_is_answered(plain, tmp_path):
    good = json.dumps({"question": "a", "context": "b"})
    flags = [*LENGTHS, "--electra_model", str(plain), "--input", "-"]
    flags += ["--output", str(tmp_path / "out.jsonl")]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parents[1] / "run_inference.py"), *flags],
        input=f'{good}\n{good}\n{{"bad"\n{good}\n',
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "line 3" in done.stderr
    assert len(json_lines((tmp_path / "out.jsonl").read_text())) == 2


def test_a_text_is_that_of_its_file_line_ends_included(tmp_path):
    """What is counted in it can be found in the file; a byte order mark is no character of it."""
    text = "one\r\ntwo\rthree\n\r\n"
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "text.txt").write_bytes(text.encode(encoding))
        assert run_inference._read_context(str(tmp_path / "text.txt"), "") == text


def test_files_that_cannot_be_used_are_named(usage_error, plain, tmp_path):
    path = write_lines(tmp_path / "in.jsonl", {"question": "a", "context": "b"})
    (tmp_path / "latin").write_bytes(b"\xe9")
    text = tmp_path / "text.txt"
    text.write_text("b")
    for flags, message in (
        (["--input", tmp_path / "none"], f"--input {tmp_path / 'none'}: No such file"),
        (["--input", tmp_path / "latin"], "not UTF-8"),
        (["--input", path, "--output", path], "is the --input"),
        (["--input", path, "--context_file", text, "--output", text], "is the --context_file"),
        (["--input", path, "--output", tmp_path / "no" / "out"], "no such folder"),
        (["--context_file", tmp_path / "none"], f"--context_file {tmp_path / 'none'}: No such file"),
    ):
        assert message in usage_error("run_inference.py", "--electra_model", plain, *flags)
    assert json_lines(path.read_text()) == [{"question": "a", "context": "b"}] and text.read_text() == "b"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--question", "a"], "--question a: needs --context"),
        (["--question", "a", "--context", "b", "--input", "c"], "exclude each other"),
        (["--context", "b", "--context_file", "c"], "exclude each other"),
        (["--output", "a"], "goes with --input"),
        (["--n_best_size", "0"], "--n_best_size 0"),
        (["--batch_size", "0"], "--batch_size 0"),
        (["--max_answer_length", "0"], "--max_answer_length 0"),
        (["--null_score_diff_threshold", "nan"], "--null_score_diff_threshold nan"),
    ],
)
def test_flags_that_contradict_are_refused(flags, message):
    with pytest.raises(UsageError, match=message):
        parse(InferenceConfig, ["--electra_model", "x", *flags], description="")


def test_models_and_lengths_that_cannot_answer_are_refused(plain, joint, tmp_path):
    def refused(message: str, folder=plain, **settings):
        with pytest.raises(UsageError, match=message):
            open_model(folder, **settings)

    refused("--joint_head True: the head of .* is the plain one", joint_head=True)
    refused("--joint_head False: the head of .* is the joint one", joint, joint_head=False)
    refused("--max_seq_length 65: is longer than the position table", max_seq_length=65)
    refused("--max_query_length 61: leaves no room", max_query_length=61)
    refused("--doc_stride 0", doc_stride=0)
    tensors = from_huggingface(load_file(plain / "model.safetensors"))
    config = open_model(plain).model.config
    headless = {name: value for name, value in tensors.items() if not name.startswith(PLAIN_SPAN_HEAD)}
    write_folder(tmp_path / "headless", "ElectraModel", config, to_huggingface(headless), VOCABULARY)
    refused("has no head that answers questions", tmp_path / "headless")
    half = {name: value for name, value in tensors.items() if name != "qa_outputs/bias"}
    write_folder(tmp_path / "half", "ElectraForQuestionAnswering", config, to_huggingface(half), VOCABULARY)
    with pytest.raises(UsageError, match="lacks 1 weights of the head, first qa_outputs/bias"):
        Answerer(open_model(tmp_path / "half"), batch_size=2)


def test_a_wrong_flag_is_answered_without_tensorflow():
    """Nothing that the program imports before its flags are checked loads TensorFlow."""
    code = "import run_inference, sys; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_a_closed_standard_input_is_no_traceback():
    """As some daemons leave it; a question on the command line needs none."""
    command = '"$0" run_inference.py --electra_model ./nowhere --question a --context b <&-'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and "--electra_model ./nowhere" in line
