"""Tables and tagged words are read as they stand, and every fault is named by its file and line."""

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from command_line import UsageError
from labelled_data import Columns, read_examples, read_sentences

COLUMNS = Columns("text", label="label")
PAIRS = Columns("a", "b", "label")
FIRST_AND_LAST = Columns("")


def _write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return str(path)


def examples(path: str, columns: Columns = COLUMNS, labelled: bool = True, **options) -> list[tuple]:
    return [
        (e.id, e.text, e.text_pair, e.label, e.line)
        for e in read_examples(path, "train_file", columns, labelled=labelled, **options)
    ]


def sentences(path: str, columns: Columns = FIRST_AND_LAST, labelled: bool = True) -> list[tuple]:
    return [
        (s.id, s.words, s.tags, s.line) for s in read_sentences(path, "eval_file", columns, labelled=labelled)
    ]


# ------------------------------------------------------------------------------------------------ tables


def test_quotes_mean_nothing_between_tabs(tmp_path):
    """As in GLUE: a text may begin with a quote that nothing closes."""
    content = 'text\tlabel\n"A quote that stays open\tyes\nHe said "no".\tno\n\n'
    path = _write(tmp_path / "a.tsv", content)
    assert examples(path) == [
        ("0", '"A quote that stays open', None, "yes", 2),
        ("1", 'He said "no".', None, "no", 3),
    ]


def test_quotes_enclose_commas_and_line_ends_in_csv(tmp_path):
    content = 'label,text\r\nyes,"one, ""two""\nthree"\r\nno,four\r\n'
    path = _write(tmp_path / "a.csv", b"\xef\xbb\xbf" + content.encode())
    assert examples(path) == [("0", 'one, "two"\nthree', None, "yes", 2), ("1", "four", None, "no", 4)]


def test_a_cell_may_be_longer_than_csv_takes_by_default(tmp_path):
    path = _write(tmp_path / "a.csv", f"text,label\n{'word ' * 50_000},x\n")
    assert len(examples(path)[0][1]) == 250_000


def test_json_lines_have_labels_of_words_and_numbers(tmp_path):
    content = '{"a": "one", "b": "two", "label": 1, "n": 7}\n\n{"label": "x", "b": "ü", "a": "", "n": 9}\n'
    path = _write(tmp_path / "a.jsonl", content)
    assert examples(path, Columns("a", "b", "label", "n")) == [
        ("7", "one", "two", "1", 1),
        ("9", "", "ü", "x", 3),
    ]


def test_a_number_that_is_none_is_no_label(tmp_path):
    """A data frame of floats has NaN where there is no label."""
    rows = '{"text": "one", "label": 1.0}\n{"text": "two", "label": NaN}\n'
    table = pyarrow.table({"text": ["one", "two"], "label": pyarrow.array([1.0, float("nan")])})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    for path in (_write(tmp_path / "a.jsonl", rows), str(tmp_path / "a.parquet")):
        with pytest.raises(
            UsageError, match=f"^--train_file {path}, line 2: the column 'label' holds no label"
        ):
            examples(path)
        assert [example[3] for example in examples(path, labelled=False)] == ["1.0", None]


def test_half_a_surrogate_pair_is_one_other_character_of_a_text(tmp_path):
    """As in SQuAD files; a whole pair is the character that it stands for."""
    path = _write(tmp_path / "a.jsonl", '{"a": "x\\ud83dy", "b": "\\ud83d\\ude00", "label": "z"}\n')
    ((_, text, pair, _, _),) = examples(path, PAIRS)
    assert (text, pair) == ("x\ufffdy", "\U0001f600")
    path = _write(tmp_path / "b.jsonl", '{"tokens": ["x\\ude00"], "tags": ["O"]}\n')
    assert sentences(path)[0][1] == ["x\ufffd"]


def test_text_that_is_not_utf_8_is_named_in_parquet_too(tmp_path):
    raw = pyarrow.array([b"a", b"b", b"caf\xe9"], pyarrow.binary())
    text = pyarrow.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])
    pyarrow.parquet.write_table(
        pyarrow.table({"text": text, "label": ["x", "y", "x"]}), tmp_path / "a.parquet"
    )
    with pytest.raises(UsageError, match=r"^--train_file .*a.parquet, line 3: is not UTF-8$"):
        examples(str(tmp_path / "a.parquet"))


def test_parquet_is_read_as_the_hub_stores_it(tmp_path):
    table = pyarrow.table({"text": ["one", "two"], "label": pyarrow.array([0, -1], pyarrow.int64())})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    path = str(tmp_path / "a.parquet")
    assert examples(path, first_number=5) == [("5", "one", None, "0", 1), ("6", "two", None, "-1", 2)]


def test_a_header_may_be_given_for_a_file_without_one(tmp_path):
    path = _write(tmp_path / "a.tsv", "gj04\t1\t\tA text.\n")
    header = ("source", "label", "mark", "text")
    assert examples(path, COLUMNS.with_header(header)) == [("0", "A text.", None, "1", 1)]


def test_labels_may_be_absent_where_none_is_needed(tmp_path):
    path = _write(tmp_path / "a.tsv", "text\nA text.\n")
    assert examples(path, labelled=False) == [("0", "A text.", None, None, 2)]


def test_broken_rows_are_left_out_and_listed_where_that_is_allowed(tmp_path):
    path, broken = _write(tmp_path / "a.tsv", "text\tlabel\none\nfour\tx\nfive\ty\tz\n"), []
    assert examples(path, broken=broken) == [("0", "four", None, "x", 3)]
    assert broken == [2, 4]


@pytest.mark.parametrize(
    ("name", "content", "columns", "told"),
    [
        ("a.tsv", "text\tlabel\none\n", COLUMNS, "line 2: has 1 columns, and 2 are expected"),
        ("a.tsv", "text\tmark\none\tx\n", COLUMNS, "line 2: no column 'label', only text, mark"),
        ("a.tsv", "text\ttext\none\tx\n", COLUMNS, "line 1: a column's name comes twice"),
        ("a.tsv", "text\tlabel\none\t\n", COLUMNS, "line 2: the column 'label' holds no label"),
        ("a.tsv", "text\tlabel\n", COLUMNS, "no example in it"),
        ("a.tsv", "", COLUMNS, "no example in it"),
        ("a.tsv", b"text\tlabel\none\tx\n\xff\ty\n", COLUMNS, "is not UTF-8"),
        ("a.csv", 'text,label\n"one,x\n', COLUMNS, "after line 1: is not CSV"),
        ("a.jsonl", '{"text": "one", "label": "x"}\n{"text"\n', COLUMNS, "line 2: is not JSON"),
        ("a.jsonl", '["one", "x"]\n', COLUMNS, "line 1: is a JSON list, and an object is expected"),
        ("a.jsonl", '{"text": 3, "label": "x"}\n', COLUMNS, "line 1: the column 'text' holds no text but 3"),
        ("a.jsonl", '{"text": "one", "label": [1]}\n', COLUMNS, "line 1: the column 'label' holds .1."),
        ("a.jsonl", '{"a": "one", "b": null, "label": 1}\n', PAIRS, "line 1: the column 'b' holds no text"),
        (
            "a.jsonl",
            '{"text": "one", "label": "\\ud83d"}\n',
            COLUMNS,
            "line 1: the column 'label' holds '.*ud83d'",
        ),
        (
            "a.jsonl",
            '{"text": "one", "label": "x", "key": "\\ud83d"}\n',
            Columns("text", label="label", id="key"),
            "line 1: the column 'key' holds",
        ),
        (
            "a.jsonl",
            '{"text": "one", "label": "x"}\n{"text": "two", "label": ' + "[" * 50_000 + "\n",
            COLUMNS,
            "line 2: is nested too deeply",
        ),
        ("a.parquet", "text\tlabel\n", COLUMNS, "is not Parquet"),
        ("a.docx", "text", COLUMNS, "is no .tsv, .csv, .jsonl or .parquet file"),
    ],
)
def test_faults_are_named_by_flag_file_and_line(tmp_path, name, content, columns, told):
    path = _write(tmp_path / name, content)
    with pytest.raises(UsageError, match=f"^--train_file {path}.*{told}"):
        examples(path, columns)


@pytest.mark.parametrize("name", ["none.tsv", "none.csv", "none.jsonl", "none.parquet"])
def test_a_file_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(UsageError, match=f"^--train_file {tmp_path / name}: No such file"):
        examples(str(tmp_path / name))


# -------------------------------------------------------------------------------------------------- tags


def test_words_and_tags_in_columns_as_conll_has_them(tmp_path):
    content = "-DOCSTART- -X- -X- O\n\nEU NNP I-NP B-ORG\nrejects VBZ I-VP O\n\n\n. . O O\n"
    path = _write(tmp_path / "a.txt", content)
    assert sentences(path) == [("0", ["EU", "rejects"], ["B-ORG", "O"], 3), ("1", ["."], ["O"], 7)]
    assert sentences(path, Columns("1", label="3"))[0][2] == ["I-NP", "I-VP"]
    assert sentences(path, Columns("2", label="4"))[0][1] == ["NNP", "VBZ"]


def test_words_alone_can_be_predicted(tmp_path):
    path = _write(tmp_path / "a.txt", "one\ntwo\n\nthree")
    assert sentences(path, labelled=False) == [("0", ["one", "two"], None, 1), ("1", ["three"], None, 4)]


def test_tags_may_lie_beyond_the_columns_where_none_is_needed(tmp_path):
    alone, fewer = _write(tmp_path / "a.txt", "one\ntwo\n"), _write(tmp_path / "b.txt", "one NN\ntwo NN\n")
    for path in (alone, fewer):
        for columns in (Columns("", label="3"), Columns("1", label="3")):
            assert sentences(path, columns, labelled=False) == [("0", ["one", "two"], None, 1)]
    assert sentences(fewer, Columns("", label="2"), labelled=False)[0][2] == ["NN", "NN"]
    with pytest.raises(UsageError, match=r"^--label_column 3: .*has 2 columns"):
        sentences(fewer, Columns("", label="3"))
    with pytest.raises(UsageError, match=r"^--text_column 3: .*has 2 columns"):
        sentences(fewer, Columns("3"), labelled=False)


def test_spaces_and_tabs_alone_separate_columns(tmp_path):
    """A no-break space, an ideographic one and a line separator are part of a word."""
    content = "10\u00a0000 \t B-X \r\na\u3000b\u2028c\tO\r\n \t\r\n\u00a0 O\r\n"
    path = _write(tmp_path / "a.txt", content)
    assert sentences(path) == [
        ("0", ["10\u00a0000", "a\u3000b\u2028c"], ["B-X", "O"], 1),
        ("1", ["\u00a0"], ["O"], 4),
    ]


def test_sentences_of_tables_have_the_ids_of_their_column(tmp_path):
    rows = '{"tokens": ["a"], "tags": ["O"], "key": "x7"}\n{"tokens": ["b"], "tags": ["O"], "key": 9}\n'
    path = _write(tmp_path / "a.jsonl", rows)
    assert [sentence[0] for sentence in sentences(path, Columns("", id="key"))] == ["x7", "9"]
    assert [sentence[0] for sentence in sentences(path)] == ["0", "1"]


def test_words_and_tags_as_lists(tmp_path):
    path = _write(tmp_path / "a.jsonl", '{"tokens": ["a", "b"], "tags": ["O", "B-X"]}\n')
    assert sentences(path) == [("0", ["a", "b"], ["O", "B-X"], 1)]
    path = _write(tmp_path / "b.jsonl", '{"w": ["a"], "t": ["O"]}\n')
    assert sentences(path, Columns("w", label="t")) == [("0", ["a"], ["O"], 1)]


@pytest.mark.parametrize(
    ("name", "content", "columns", "told"),
    [
        ("a.txt", "a O\nb x O\n", Columns(""), "^--eval_file .*line 2: has 3 columns, .* have 2"),
        ("a.txt", "a\nb\n", Columns(""), "^--eval_file .*line 1: has one column"),
        ("a.txt", "a O\n", Columns("3"), "^--text_column 3: .*has 2 columns"),
        ("a.txt", "O a\n", Columns("2"), "line 1: words and tags would both be column 2"),
        ("a.txt", "a O\n", Columns("word"), "^--text_column word: columns of words and tags have numbers"),
        ("a.txt", "a O\n", Columns("", id="key"), "^--id_column key: .*a.txt has a word in each line"),
        ("a.jsonl", '{"tokens": ["a"], "tags": ["O"]}\n', Columns("", id="key"), "line 1: no column 'key'"),
        ("a.txt", "\n\n", Columns(""), "^--eval_file .*no sentence in it"),
        ("a.jsonl", '{"tokens": ["a"], "tags": []}\n', Columns(""), "line 1: 1 words and 0 tags"),
        (
            "a.jsonl",
            '{"tokens": "a", "tags": []}\n',
            Columns(""),
            "line 1: the column 'tokens' holds no list",
        ),
        (
            "a.jsonl",
            '{"tokens": ["a"], "tags": ["\\ud83d"]}\n',
            Columns(""),
            "line 1: the column 'tags' holds '.*ud83d'",
        ),
    ],
)
def test_faults_of_tagged_words_are_named(tmp_path, name, content, columns, told):
    with pytest.raises(UsageError, match=told):
        sentences(_write(tmp_path / name, content), columns)
