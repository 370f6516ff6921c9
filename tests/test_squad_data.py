"""SQuAD files are read as they are; what is wrong with one is said in one line, and nothing is guessed."""

import json
import tracemalloc

import pytest
from squad_questions import entry, question, write_squad

from command_line import UsageError
from squad_data import FAULTS, Question, answer_fault, iterate_contexts, iterate_questions, read_squad

CONTEXT = "Ann met Bob, and Bob left."


def _error(path, version_2: bool = False) -> str:
    with pytest.raises(UsageError) as caught:
        read_squad(path, "train_file", version_2)
    message = str(caught.value)
    assert message.startswith(f"--train_file {path}: ") and "\n" not in message
    return message.removeprefix(f"--train_file {path}: ")


# -------------------------------------------------------------------------------------------- what is read


def test_questions_come_in_order_with_their_place(tmp_path):
    path = write_squad(
        tmp_path / "train.json",
        (CONTEXT, [entry("1", ("Bob", 8), ("Bob", 17)), entry("2", ("Ann", 0))]),
        ("Other.", [entry("3", ("Other", 0))]),
    )
    assert read_squad(path, "train_file", False) == [
        Question("1", "Question 1?", CONTEXT, ["Bob", "Bob"], 8, False, "article 1 'Title', paragraph 1"),
        Question("2", "Question 2?", CONTEXT, ["Ann"], 0, False, "article 1 'Title', paragraph 1"),
        Question("3", "Question 3?", "Other.", ["Other"], 0, False, "article 1 'Title', paragraph 2"),
    ]


def test_impossible_questions_have_no_answer(tmp_path):
    path = write_squad(
        tmp_path / "train.json",
        (CONTEXT, [entry("1", ("Bob", 8), is_impossible=False), entry("2", is_impossible=True)]),
        version="v2.0",
    )
    first, second = read_squad(path, "train_file", True)
    assert (first.is_impossible, first.answers, first.answer_start) == (False, ["Bob"], 8)
    assert (second.is_impossible, second.answers, second.answer_start) == (True, [], -1)


def test_a_file_that_only_leaves_answers_out_is_squad_2_too(tmp_path):
    """Some tools write no is_impossible; the official evaluator goes by the answers as well."""
    path = write_squad(tmp_path / "train.json", (CONTEXT, [entry("1", ("Bob", 8)), entry("2")]))
    assert [q.is_impossible for q in read_squad(path, "train_file", True)] == [False, True]
    assert "needs --version_2_with_negative" in _error(path)


@pytest.mark.parametrize("version_2", [False, True])
@pytest.mark.parametrize("answers", [{}, {"answers": []}])
def test_a_file_without_any_answer_is_for_prediction(tmp_path, version_2, answers):
    """Nothing says that its questions are impossible, and none can be trained on."""
    content = {"data": [{"paragraphs": [{"context": "C", "qas": [{"id": "1", "question": "Q", **answers}]}]}]}
    path = tmp_path / "predict.json"
    path.write_text(json.dumps(content))
    (only,) = read_squad(path, "predict_file", version_2)
    assert only == Question("1", "Q", "C", [], -1, False, "article 1, paragraph 1")
    assert FAULTS[answer_fault(only)] == "no answer is given"


def test_lone_surrogates_are_replaced_character_by_character(tmp_path):
    path = tmp_path / "train.json"
    write_squad(path, ("a X b", [entry("1", ("b", 4))]))
    path.write_text(path.read_text().replace("X", r"\ud83d"))
    (only,) = read_squad(path, "train_file", False)
    assert len(only.context) == 5 and answer_fault(only) == 0
    only.context.encode("utf-8")


def test_members_may_come_in_any_order_and_there_may_be_more(tmp_path):
    text = (
        ' {"number": 125, "more" :[1,{"data": []}, -1.5e3,true], "data" : [ {"paragraphs": [{"qas": ['
        '{"id": "1", "question": "Caf\\u00e9 \\ud83d\\ude00?",'
        ' "answers": [{"answer_start": 12, "text": "x"}]}],'
        ' "context": "0123456789 \\"x"}], "title": null},\n{"paragraphs": []} ] , "version": 12} \n'
    )
    assert json.loads(text)["data"][0]["paragraphs"][0]["context"][12] == "x"
    path = tmp_path / "train.json"
    path.write_text("\ufeff" + text, encoding="utf-8")
    expected = Question("1", "Café 😀?", '0123456789 "x', ["x"], 12, False, where="article 1, paragraph 1")
    assert read_squad(path, "train_file", False) == [expected]


@pytest.mark.parametrize(
    ("name", "version_2", "questions", "impossible"),
    [
        ("train-v1.1", False, 823, 0),
        ("dev-v1.1", False, 174, 0),
        ("train-v2.0", True, 1179, 356),
        ("dev-v2.0", True, 250, 76),
    ],
)
def test_real_files_are_read_whole(shared_data, name, version_2, questions, impossible):
    path = shared_data / "squad" / f"{name}.json"
    read = read_squad(path, "train_file", version_2)
    assert len(read) == questions and sum(q.is_impossible for q in read) == impossible
    data = json.loads(path.read_text(encoding="utf-8"))["data"]
    expected = [
        (qa["id"], qa["question"], paragraph["context"], [answer["text"] for answer in qa["answers"]])
        for article in data
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    assert [(q.id, q.text, q.context, q.answers) for q in read] == expected
    assert not any(map(answer_fault, read))


def test_contexts_come_once_each_whatever_is_asked_about_them(tmp_path):
    path = tmp_path / "dev.json"
    write_squad(path, (CONTEXT, [entry("1", ("Bob", 8)), entry("1")]), ("Other.", []), (CONTEXT, []))
    assert list(iterate_contexts(path, "decontaminate_against")) == [CONTEXT, "Other.", CONTEXT]


def test_a_file_is_never_whole_in_memory(tmp_path):
    """8 MB in 80 articles: about one article is held at a time, in text, bytes and objects."""
    articles = [
        {"paragraphs": [{"context": "word " * 20_000, "qas": [entry(str(number), ("word", 0))]}]}
        for number in range(80)
    ]
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"data": articles}))
    del articles
    tracemalloc.start()
    try:
        assert sum(1 for _ in iterate_questions(path, "train_file", False)) == 80
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 8e6 and peak < 3e6


# ------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("no", "not JSON"),
        ('{"data": [', "not JSON"),
        (
            '{"data": [{"paragraphs": []} 1]}',
            "not JSON (parse error: after array element, I expect ',' or ']'",
        ),
        ('{"data": []} x', "not JSON (parse error: trailing garbage"),
        ("[1]", "not SQuAD format: the file is not an object with a list 'data'"),
        ('{"questions": []}', "not SQuAD format: the file is not an object with a list 'data'"),
        ('{"data": ' + "[" * 70, "not SQuAD format: objects and lists lie more than 64 deep"),
        ('{"more": ' + '{"a": [' * 40, "not SQuAD format: objects and lists lie more than 64 deep"),
        ('{"data": {}}', "not SQuAD format: the file is not an object with a list 'data'"),
        ('{"data": []}', "not SQuAD format: the file is not an object with a list 'data'"),
        ('{"data": [{"paragraphs": [{"context": "c", "qas": []}]}]}', "no question in it"),
        (
            '{"data": [{"title": "A", "paragraphs": []}, 5]}',
            "article 2: int where an object with 'paragraphs'",
        ),
        ('{"data": [{"title": "A"}]}', "not SQuAD format: article 1: no 'paragraphs'"),
        (
            '{"data": [{"title": "A", "paragraphs": [{"qas": []}]}]}',
            "article 1 'A', paragraph 1: no 'context'",
        ),
        ('{"data": [{"paragraphs": [{"context": "c"}]}]}', "article 1, paragraph 1: no 'qas'"),
        ('{"data": [{"paragraphs": [{"context": 1, "qas": []}]}]}', "'context' is of type int, not str"),
        ('{"data": [{"paragraphs": [{"context": "c", "qas": ["q"]}]}]}', "paragraph 1: str where an object"),
    ],
)
def test_what_is_not_squad_is_said_in_one_line(tmp_path, text, message):
    path = tmp_path / "train.json"
    path.write_text(text)
    assert message in _error(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": 7}, "'id' is of type int, not str"),
        ({"question": None}, "'question' is of type NoneType, not str"),
        ({"is_impossible": "no"}, "'is_impossible' is of type str, not bool"),
        ({"answers": {"text": ["Bob"]}}, "'answers' is of type dict, not list"),
        ({"answers": [{"text": "Bob"}]}, "no 'answer_start'"),
        ({"answers": [{"answer_start": 3}]}, "no 'text'"),
        ({"answers": [{"text": "Bob", "answer_start": True}]}, "'answer_start' is of type bool, not int"),
    ],
)
def test_a_wrong_question_is_placed(tmp_path, changes, message):
    good = entry("1", ("Bob", 8))
    path = write_squad(
        tmp_path / "train.json", ("First.", []), (CONTEXT, [good, good | {"id": "2"} | changes])
    )
    assert _error(path) == f"not SQuAD format: article 1 'Title', paragraph 2: {message}"


def test_a_few_bytes_of_brackets_take_no_memory(tmp_path):
    """The parser writes out the path to each: 100,000 of them would be 25 GB."""
    path = tmp_path / "train.json"
    path.write_text('{"data": ' + "[" * 3_000)
    tracemalloc.start()
    try:
        assert "64 deep" in _error(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_files_that_cannot_be_read_are_named(tmp_path):
    assert _error(tmp_path / "absent.json") == "No such file or directory"
    assert _error(tmp_path) == "Is a directory"
    (tmp_path / "latin").write_bytes(b'{"data": "\xe9"}')
    assert "invalid bytes in UTF8 string" in _error(tmp_path / "latin")


def test_an_id_that_comes_twice_is_named(tmp_path):
    twice = [entry("1", ("Bob", 8)), entry("1", ("Ann", 0))]
    path = write_squad(tmp_path / "train.json", (CONTEXT, twice))
    assert _error(path) == "the id '1' comes twice (again in article 1 'Title', paragraph 1)"


def test_each_version_of_squad_needs_its_own_setting(tmp_path):
    possible = entry("1", ("Bob", 8), is_impossible=False)
    path = tmp_path / "train.json"
    write_squad(path, (CONTEXT, [possible, entry("2", is_impossible=True)]), version="v2.0")
    assert _error(path, version_2=False) == (
        "question '2' (article 1 'Title', paragraph 1) has no answer: this is SQuAD 2.0, which needs "
        "--version_2_with_negative"
    )
    write_squad(path, (CONTEXT, [entry("1", ("Bob", 8))]))
    assert _error(path, version_2=True) == (
        "no question says is_impossible: this is SQuAD 1.1, without --version_2_with_negative"
    )
    # A part of a SQuAD 2.0 file may hold answerable questions only: both settings can read it.
    write_squad(path, (CONTEXT, [possible]), version="v2.0")
    assert read_squad(path, "train_file", True) == read_squad(path, "train_file", False)


@pytest.mark.parametrize(
    ("answer", "start", "reason"),
    [
        ("Bob", 8, ""),
        ("Bob", 17, ""),
        ("Bob", 9, "the answer does not stand at its answer_start, but elsewhere in the context"),
        ("Ann", 8, "the answer does not stand at its answer_start, but elsewhere in the context"),
        ("Bob", -18, "the answer does not stand at its answer_start, but elsewhere in the context"),
        ("left.", 1000, "the answer does not stand at its answer_start, but elsewhere in the context"),
        ("bob", 8, "the answer stands nowhere in the context"),
        (" ", 3, "the answer is empty"),
        ("", 0, "the answer is empty"),
    ],
)
def test_answers_that_are_not_where_they_say_are_not_mended(answer, start, reason):
    assert FAULTS[answer_fault(question("Who?", CONTEXT, answer, start=start))] == reason
