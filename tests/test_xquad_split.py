"""XQuAD's articles become the recorded files of SQuAD's form, or nothing does and one line says why."""

import json
from pathlib import Path

import pytest
from web_site import Answer, FileSite, serving

from command_line import UsageError
from data.xquad_split import PARTS, SOURCE, Part, split
from squad_data import content_sha256

PROGRAM = "data/xquad_split.py"


def article(title: str, questions: int = 2) -> dict:
    """An article of two paragraphs, with keys in another order than SQuAD's and some of its own."""
    context = f"{title} é: one two three four five."
    return {
        "title": title,
        "url": "nowhere",
        "paragraphs": [
            {
                "qas": [
                    {
                        "question": f"Which, {number}?",
                        "id": f"{title}-{paragraph}-{number}",
                        "comment": "none",
                        "answers": [{"text": "two", "answer_start": context.index("two")}],
                    }
                    for number in range(questions)
                ],
                "context": context,
            }
            for paragraph in range(2)
        ],
    }


def xquad(path: Path, articles: list[dict]) -> Path:
    path.write_text(json.dumps({"data": articles, "version": "1.1"}, indent=1), encoding="utf-8")
    return path


@pytest.fixture
def site():
    with serving(FileSite()) as running:
        yield running


@pytest.fixture
def recorded(shared_data) -> dict[str, bytes]:
    """The bytes of the files that the records are of, by name."""
    return {name: (shared_data / "squad" / name).read_bytes() for name in PARTS}


@pytest.fixture
def whole(recorded, tmp_path) -> Path:
    """Those files' articles and others, in an order of their own, as XQuAD's file has them."""
    articles = [article for content in recorded.values() for article in json.loads(content)["data"]]
    others = [article(f"Other_{number}") for number in range(8)]
    return xquad(tmp_path / "whole.json", [*others[:3], *reversed(articles), *others[3:]])


def parts_of(titles: dict[str, list[str]], folder: Path) -> dict[str, Part]:
    """Parts of made-up articles, with the checksums of files that are written without the program."""
    parts = {}
    for name, own in titles.items():
        path = xquad(folder / f"expected_{name}", [article(title) for title in own])
        parts[name] = Part(tuple(own), content_sha256(path, "x"))
    return parts


# ------------------------------------------------------------------------------------------ made-up articles


def test_a_file_has_its_articles_in_order_and_squads_keys_alone(tmp_path):
    parts = parts_of({"train.json": ["C", "A"], "dev.json": ["B"]}, tmp_path)
    split(xquad(tmp_path / "all.json", [article(title) for title in "XABC"]), tmp_path / "out", parts)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dev.json", "train.json"]
    train = json.loads((tmp_path / "out/train.json").read_text(encoding="utf-8"))
    assert train["version"] == "1.1" and [own["title"] for own in train["data"]] == ["C", "A"]
    for own in train["data"]:
        assert set(own) == {"title", "paragraphs"} and len(own["paragraphs"]) == 2
        made = article(own["title"])
        for paragraph, expected in zip(own["paragraphs"], made["paragraphs"], strict=True):
            assert set(paragraph) == {"context", "qas"} and paragraph["context"] == expected["context"]
            assert paragraph["qas"] == [
                {key: entry[key] for key in ("id", "question", "answers")} for entry in expected["qas"]
            ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda own: own.pop(1), "has no article B"),
        (lambda own: own[1]["paragraphs"][0].update(context="one two."), "its articles for dev.json are"),
        (lambda own: own[1]["paragraphs"][1]["qas"].pop(), "its articles for dev.json are others"),
        (lambda own: own[1].pop("paragraphs"), "not SQuAD format"),
        (lambda own: own[1].pop("title"), "has no article B"),
    ],
)
def test_other_articles_leave_no_file_and_say_so(tmp_path, change, words):
    parts = parts_of({"train.json": ["A"], "dev.json": ["B"]}, tmp_path)
    articles = [article("A"), article("B")]
    change(articles)
    source = xquad(tmp_path / "all.json", articles)
    with pytest.raises(UsageError) as failure:
        split(source, tmp_path / "out", parts)
    assert f"--input_file {source}: " in str(failure.value) and words in str(failure.value)
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    "change",
    [
        lambda entry, paragraph: entry.update(question="Another?"),
        lambda entry, paragraph: entry.update(id="another"),
        lambda entry, paragraph: paragraph.update(context=paragraph["context"] + " More."),
        lambda entry, paragraph: entry["answers"][0].update(text="three"),
        lambda entry, paragraph: entry["answers"][0].update(answer_start=0),
        lambda entry, paragraph: entry["answers"].append({"text": "one", "answer_start": 5}),
    ],
)
def test_a_checksum_follows_from_each_part_of_a_question_and_not_from_the_form(tmp_path, change):
    articles = [article("A"), article("B")]
    first = content_sha256(xquad(tmp_path / "a.json", articles), "x")
    plain = tmp_path / "b.json"
    plain.write_text(json.dumps({"data": articles[::-1]}, ensure_ascii=False), encoding="utf-8")
    assert content_sha256(plain, "x") == first
    paragraph = articles[1]["paragraphs"][1]
    change(paragraph["qas"][0], paragraph)
    assert content_sha256(xquad(tmp_path / "c.json", articles), "x") != first


# ------------------------------------------------------------------------------------------------ the program


def test_the_download_becomes_the_recorded_files_byte_for_byte(site, recorded, whole, run_program, tmp_path):
    site.contents[f"/{SOURCE}"] = whole.read_bytes()
    # A download that breaks off goes on where it was.
    site.faults[f"/{SOURCE}"] = [Answer(cut=1000)]
    output = tmp_path / "output"
    done = run_program(PROGRAM, "--output_dir", output, "--url", site.url)
    assert done.returncode == 0, done.stderr
    assert {name: (output / name).read_bytes() for name in PARTS} == recorded
    assert site.asked == [f"/{SOURCE}"] * 2 and site.ranges == [None, "bytes=1000-"]
    again = run_program(PROGRAM, "--output_dir", output, "--url", site.url)
    assert again.returncode == 0 and "already" in again.stdout and len(site.log) == 2


def test_a_file_that_is_here_is_split_without_the_web(recorded, whole, run_program, tmp_path):
    output = tmp_path / "output"
    words = ["--output_dir", output, "--input_file", whole, "--url", "http://127.0.0.1:1"]
    done = run_program(PROGRAM, *words)
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_bytes() for path in output.iterdir()} == recorded


def test_a_wrong_download_is_one_line_and_code_1_and_is_asked_for_again(site, run_program, tmp_path):
    output = tmp_path / "output"
    site.contents[f"/{SOURCE}"] = xquad(tmp_path / "other.json", [article("Warsaw")]).read_bytes()
    for asked in (1, 2):
        done = run_program(PROGRAM, "--output_dir", output, "--url", site.url)
        assert done.returncode == 1 and len(site.log) == asked
        assert done.stderr == (f"xquad_split.py: error: {site.url}/{SOURCE}: has no article Super_Bowl_50\n")
    assert not list(output.glob("*"))
    site.contents.clear()
    done = run_program(PROGRAM, "--output_dir", output, "--url", site.url)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "404 Not Found" in done.stderr


def test_mistakes_are_one_line_and_code_2(usage_error, tmp_path):
    other = xquad(tmp_path / "other.json", [article("Warsaw")])
    words = ("--output_dir", tmp_path / "o", "--input_file")
    assert f"--input_file {other}: has no article Super_Bowl_50" in usage_error(PROGRAM, *words, other)
    assert "nothing.json: No such file" in usage_error(PROGRAM, *words, tmp_path / "nothing.json")
    (tmp_path / "page.html").write_text("<html>")
    assert "not JSON" in usage_error(PROGRAM, *words, tmp_path / "page.html")
    assert "--url ftp" in usage_error(PROGRAM, "--output_dir", "o", "--url", "ftp://x")


def test_the_parts_are_of_different_articles():
    titles = [title for part in PARTS.values() for title in part.titles]
    assert [len(part.titles) for part in PARTS.values()] == [32, 8] and len(set(titles)) == 40
