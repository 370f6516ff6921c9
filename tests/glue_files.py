"""GLUE's tasks in small, in both forms that they come in: the benchmark's .tsv files and the hub's Parquet.

Names of files and columns are written down here anew, as they are at gluebenchmark.com and in nyu-mll/glue.
"""

from dataclasses import dataclass, field
from pathlib import Path

import pyarrow
import pyarrow.parquet

FIRST, SECOND = ("dire fillera", "fine fillerb"), ("fillerc grim", "fillerd glad")


@dataclass
class Form:
    """How a task's files look.

    Attributes:
        own: the benchmark's columns of a file with labels; text1, text2 and label are filled in.
        own_test: those of its test file.
        names: the header line's words for text1, text2 and label.
        hub: the hub's columns of text1, text2 and label.
        written, words: two labels as the benchmark writes them, and by their words.
    """

    own: list[str]
    own_test: list[str]
    names: dict[str, str]
    hub: tuple[str, ...]
    written: tuple[str, str] = ("0", "1")
    words: tuple[str, str] = ("", "")
    header: bool = True
    parts: dict[str, str] = field(
        default_factory=lambda: {"train": "train", "dev": "validation", "test": "test"}
    )


_MNLI = {
    "train": "train",
    "dev_matched": "validation_matched",
    "dev_mismatched": "validation_mismatched",
    "test_matched": "test_matched",
    "test_mismatched": "test_mismatched",
}
_PAIR = {"text1": "sentence1", "text2": "sentence2", "label": "label"}
FORMS = {
    "CoLA": Form(
        ["source", "label", "mark", "text1"],
        ["index", "text1"],
        {"text1": "sentence"},
        ("sentence", "", "label"),
        words=("unacceptable", "acceptable"),
        header=False,
    ),
    "SST-2": Form(
        ["text1", "label"],
        ["index", "text1"],
        {"text1": "sentence", "label": "label"},
        ("sentence", "", "label"),
        words=("negative", "positive"),
    ),
    "MRPC": Form(
        ["label", "#1 ID", "#2 ID", "text1", "text2"],
        ["index", "#1 ID", "#2 ID", "text1", "text2"],
        {"text1": "#1 String", "text2": "#2 String", "label": "Quality"},
        ("sentence1", "sentence2", "label"),
        words=("not_equivalent", "equivalent"),
    ),
    "STS-B": Form(
        ["index", "genre", "filename", "year", "old_index", "source1", "source2", "text1", "text2", "label"],
        ["index", "genre", "filename", "year", "old_index", "source1", "source2", "text1", "text2"],
        {"text1": "sentence1", "text2": "sentence2", "label": "score"},
        ("sentence1", "sentence2", "label"),
        written=("0.500", "4.500"),
    ),
    "QQP": Form(
        ["id", "qid1", "qid2", "text1", "text2", "label"],
        ["id", "text1", "text2"],
        {"text1": "question1", "text2": "question2", "label": "is_duplicate"},
        ("question1", "question2", "label"),
        words=("not_duplicate", "duplicate"),
    ),
    "MNLI": Form(
        ["index", "promptID", "pairID", "genre", "text1", "text2", "label1", "label"],
        ["index", "promptID", "pairID", "genre", "text1", "text2"],
        {"text1": "sentence1", "text2": "sentence2", "label": "gold_label"},
        ("premise", "hypothesis", "label"),
        written=("entailment", "neutral"),
        words=("entailment", "neutral"),
        parts=_MNLI,
    ),
    "QNLI": Form(
        ["index", "text1", "text2", "label"],
        ["index", "text1", "text2"],
        {"text1": "question", "text2": "sentence", "label": "label"},
        ("question", "sentence", "label"),
        written=("entailment", "not_entailment"),
        words=("entailment", "not_entailment"),
    ),
    "RTE": Form(
        ["index", "text1", "text2", "label"],
        ["index", "text1", "text2"],
        _PAIR,
        ("sentence1", "sentence2", "label"),
        written=("entailment", "not_entailment"),
        words=("entailment", "not_entailment"),
    ),
    "WNLI": Form(
        ["index", "text1", "text2", "label"],
        ["index", "text1", "text2"],
        _PAIR,
        ("sentence1", "sentence2", "label"),
        words=("not_entailment", "entailment"),
    ),
}


def write_own_files(folder: Path, task: str, examples: int = 8) -> Path:
    """The benchmark's folder of a task; every second example has the second label."""
    form, place = FORMS[task], folder / task
    place.mkdir(parents=True)
    for part in form.parts:
        is_test = part.startswith("test")
        columns = form.own_test if is_test else form.own
        lines = []
        if form.header or is_test:
            lines.append("\t".join(form.names.get(name, name) for name in columns))
        for number in range(examples):
            kind = number % 2
            cells = {"text1": FIRST[kind], "text2": SECOND[kind], "label": form.written[kind]}
            lines.append("\t".join(cells.get(name, str(number)) for name in columns))
        (place / f"{part}.tsv").write_text("\n".join(lines) + "\n")
    if task == "MNLI":
        lines = ["index\tsentence1\tsentence2", *(f"{n}\t{FIRST[n]}\t{SECOND[n]}" for n in (0, 1))]
        (place / "diagnostic.tsv").write_text("\n".join(lines) + "\n")
    return folder


def write_hub_files(folder: Path, task: str, examples: int = 8) -> Path:
    """The hub's folder of a task, with the same examples; a test's labels are -1."""
    form, place = FORMS[task], folder / task.lower().replace("-", "")
    place.mkdir(parents=True)
    for part, name in form.parts.items():
        kinds = [number % 2 for number in range(examples)]
        columns = {form.hub[0]: [FIRST[kind] for kind in kinds]}
        if form.hub[1]:
            columns[form.hub[1]] = [SECOND[kind] for kind in kinds]
        labels = [float(text) for text in form.written] if task == "STS-B" else [0, 1]
        columns[form.hub[2]] = [-1 if part.startswith("test") else labels[kind] for kind in kinds]
        columns["idx"] = [3 * number for number in range(examples)]
        pyarrow.parquet.write_table(pyarrow.table(columns), place / f"{name}-00000-of-00001.parquet")
    if task == "MNLI":
        (folder / "ax").mkdir()
        table = pyarrow.table({"premise": FIRST, "hypothesis": SECOND, "label": [-1, -1], "idx": [0, 1]})
        pyarrow.parquet.write_table(table, folder / "ax" / "test-00000-of-00001.parquet")
    return folder
