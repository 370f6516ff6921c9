"""The tasks of GLUE (Wang et al. 2019), and what a task is: labels, metrics, files, columns, submission.

A task's data come as the benchmark's own .tsv files or as the hub's Parquet files (nyu-mll/glue); both are
found here and read in labelled_data.py. Tasks of one's own are made of the flags in glue_inputs.py.
"""

from dataclasses import dataclass
from pathlib import Path

from command_line import UsageError
from labelled_data import Columns

CLASSIFICATION, REGRESSION, TAGGING = "classification", "regression", "tagging"


@dataclass(frozen=True)
class Task:
    """What is learned.

    Attributes:
        name: for people, and in results.json.
        kind: classification, regression or tagging.
        labels: the labels' words in the order of the network's outputs; None where the data tell.
        written: the same labels as the benchmark's files write them, where those are others.
        metrics: names in labelled_metrics.py.
        both_orders: whether a pair means the same the other way round.
        is_numbered: whether files may have a label's number in its place, as the hub's have.
    """

    name: str
    kind: str
    labels: tuple[str, ...] | None
    metrics: tuple[str, ...]
    written: tuple[str, ...] = ()
    num_train_epochs: float = 3.0
    both_orders: bool = False
    is_numbered: bool = False

    def label_numbers(self) -> dict[str, int]:
        """A label's number by every way to write it: its word, the benchmark's, or its number."""
        # Where a user's labels are 2 and 3, a 1 is none of them.
        plain = [str(number) for number in range(len(self.labels))] if self.is_numbered else ()
        ways = (self.labels, self.written, plain)
        return {word: number for words in reversed(ways) for number, word in enumerate(words)}


@dataclass(frozen=True)
class DataFile:
    """Examples in one file or in several: the flag that named them, their columns, and what they are for.

    Attributes:
        suffix: of metrics and of prediction files, where a task has several files to evaluate.
        submission: name of the file for the benchmark's site.
        is_benchmarks: whether it is GLUE's own, in which a few rows are broken.
    """

    paths: tuple[str, ...]
    flag: str
    columns: Columns
    suffix: str = ""
    submission: str = ""
    is_benchmarks: bool = False


@dataclass(frozen=True)
class _Part:
    """A part of a task's data, by the names of its file there and here.

    Attributes:
        elsewhere: where the benchmark's file may be too.
    """

    own: str
    hub: str
    suffix: str = ""
    submission: str = ""
    optional: bool = False
    elsewhere: str = ""


@dataclass(frozen=True)
class GlueTask:
    """A task of the benchmark: what is learned, and where and how its data lie."""

    task: Task
    own_columns: Columns
    hub_columns: Columns
    parts: dict[str, tuple[_Part, ...]]
    # Without a header line, the columns of the files for training and evaluation.
    header: tuple[str, ...] = ()

    @property
    def hub_folder(self) -> str:
        return self.task.name.lower().replace("-", "")


_YES_OR_NO = ("0", "1")
_ENTAILED = ("entailment", "not_entailment")
_ACCURACY = ("accuracy",)


def _task(
    name: str,
    labels: tuple[str, ...],
    own: tuple[str, ...],
    hub: tuple[str, ...],
    *,
    metrics: tuple[str, ...] = _ACCURACY,
    written: tuple[str, ...] = (),
    header: tuple[str, ...] = (),
    epochs: float = 3.0,
    both_orders: bool = False,
    parts: dict[str, tuple[_Part, ...]] | None = None,
) -> GlueTask:
    """`own` and `hub` are the columns of text, second text ("" for none) and label."""
    kind = CLASSIFICATION if labels else REGRESSION
    usual = {
        "train": (_Part("train", "train"),),
        "eval": (_Part("dev", "validation"),),
        "test": (_Part("test", "test", submission=name),),
    }
    return GlueTask(
        Task(name, kind, labels or None, metrics, written, epochs, both_orders, is_numbered=True),
        Columns(*own),
        Columns(*hub),
        usual | (parts or {}),
        header,
    )


_MNLI_PARTS = {
    "eval": (
        _Part("dev_matched", "validation_matched"),
        _Part("dev_mismatched", "validation_mismatched", "_mm"),
    ),
    "test": (
        _Part("test_matched", "test_matched", submission="MNLI-m"),
        _Part("test_mismatched", "test_mismatched", "_mm", "MNLI-mm"),
        # The usual download script gives it a folder of its own.
        _Part("diagnostic", "../ax/test", "_ax", "AX", optional=True, elsewhere="../diagnostic/diagnostic"),
    ),
}
_ALL = [
    _task(
        "CoLA",
        ("unacceptable", "acceptable"),
        ("sentence", "", "label"),
        ("sentence", "", "label"),
        metrics=("matthews_correlation", "accuracy"),
        written=_YES_OR_NO,
        header=("source", "label", "author's mark", "sentence"),
    ),
    _task(
        "SST-2",
        ("negative", "positive"),
        ("sentence", "", "label"),
        ("sentence", "", "label"),
        written=_YES_OR_NO,
    ),
    _task(
        "MRPC",
        ("not_equivalent", "equivalent"),
        ("#1 String", "#2 String", "Quality"),
        ("sentence1", "sentence2", "label"),
        metrics=("accuracy", "f1"),
        written=_YES_OR_NO,
        both_orders=True,
    ),
    _task(
        "STS-B",
        (),
        ("sentence1", "sentence2", "score"),
        ("sentence1", "sentence2", "label"),
        metrics=("pearson", "spearman"),
        epochs=10.0,
        both_orders=True,
    ),
    _task(
        "QQP",
        ("not_duplicate", "duplicate"),
        ("question1", "question2", "is_duplicate"),
        ("question1", "question2", "label"),
        metrics=("accuracy", "f1"),
        written=_YES_OR_NO,
    ),
    _task(
        "MNLI",
        ("entailment", "neutral", "contradiction"),
        ("sentence1", "sentence2", "gold_label"),
        ("premise", "hypothesis", "label"),
        parts=_MNLI_PARTS,
    ),
    _task("QNLI", _ENTAILED, ("question", "sentence", "label"), ("question", "sentence", "label")),
    _task(
        "RTE",
        _ENTAILED,
        ("sentence1", "sentence2", "label"),
        ("sentence1", "sentence2", "label"),
        epochs=10.0,
    ),
    _task(
        "WNLI",
        ("not_entailment", "entailment"),
        ("sentence1", "sentence2", "label"),
        ("sentence1", "sentence2", "label"),
        written=_YES_OR_NO,
    ),
]
GLUE_TASKS = {task.hub_folder: task for task in _ALL}


def find_task(name: str) -> GlueTask:
    """A task of the benchmark by its name; neither case nor a hyphen counts.

    Raises:
        UsageError: there is none of that name.
    """
    task = GLUE_TASKS.get(name.lower().replace("-", "").replace("_", ""))
    if task is None:
        known = ", ".join(task.task.name for task in _ALL)
        raise UsageError(f"--task {name}: is none of {known}")
    return task


def find_files(task: GlueTask, data_dir: str, which: str) -> list[DataFile]:
    """The files of a part of a task's data.

    Args:
        data_dir: the folder of all tasks, or of this one.
        which: train, eval or test.

    Raises:
        UsageError: a file is not there.
    """
    if not data_dir:
        raise UsageError(f"--data_dir: --task {task.task.name} needs it, or --{which}_file")
    base = Path(data_dir)
    folders = [base / task.task.name, base / task.hub_folder, base]
    found = []
    for part in task.parts[which]:
        file = _find_part(task, part, which, folders)
        if file is not None:
            found.append(file)
        elif not part.optional:
            raise UsageError(
                f"--data_dir {data_dir}: holds neither {task.task.name}/{part.own}.tsv nor "
                f"{task.hub_folder}/{part.hub}-*.parquet"
            )
    return found


def given_file(task: GlueTask, path: str, flag: str) -> DataFile:
    """A file that the user names for a task of the benchmark: all but .tsv files have the hub's columns."""
    which = flag.removesuffix("_file")
    is_own = Path(path).suffix in (".tsv", ".txt")
    columns = _own_columns(task, which) if is_own else task.hub_columns
    stem = Path(path).stem
    named = [
        part for part in task.parts[which] if stem == part.own or stem.startswith(f"{Path(part.hub).name}-")
    ]
    part = named[0] if named else task.parts[which][0]
    return DataFile((path,), flag, columns, submission=part.submission, is_benchmarks=is_own)


def _find_part(task: GlueTask, part: _Part, which: str, folders: list[Path]) -> DataFile | None:
    for folder in folders:
        for own in filter(None, (part.own, part.elsewhere)):
            path = folder / f"{own}.tsv"
            if path.is_file():
                columns = _own_columns(task, which)
                return DataFile((str(path),), "data_dir", columns, part.suffix, part.submission, True)
        shards = sorted((folder / part.hub).parent.glob(f"{Path(part.hub).name}-*.parquet"))
        if shards:
            paths = tuple(map(str, shards))
            return DataFile(paths, "data_dir", task.hub_columns, part.suffix, part.submission)
    return None


def _own_columns(task: GlueTask, which: str) -> Columns:
    return task.own_columns.with_header(task.header if which != "test" else ())
