"""Every task of GLUE is read in both of its forms, and labels and heads fit or are refused in one line."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from glue_cases import CONFIG, VOCABULARY, random_head, write_columns, write_csv
from glue_files import FORMS, write_hub_files, write_own_files
from squad_cases import write_encoder

import checkpointing
from command_line import UsageError
from finetuning_inputs import check_output_dir
from glue_configuration import GlueConfig
from glue_inputs import GlueInputs, find_start, meaning, open_inputs
from glue_tasks import find_files, find_task, given_file
from tokenization import Vocabulary
from workers import ALONE


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "encoder"
    write_encoder(folder, CONFIG, VOCABULARY)
    return folder


def config(encoder: Path, **settings) -> GlueConfig:
    defaults = {"electra_model": str(encoder), "output_dir": "o", "max_seq_length": 32}
    defaults |= {"disable_progress_bar": True}
    return GlueConfig(
        **(defaults | {name: str(v) if isinstance(v, Path) else v for name, v in settings.items()})
    )


def inputs(encoder: Path, **settings) -> GlueInputs:
    return open_inputs(config(encoder, **settings))


ALL = {"do_train": True, "do_eval": True, "do_predict": True}


def words(features, number: int) -> str:
    batch = features.batch(np.array([number]), 32)
    return VOCABULARY.text(batch["input_ids"][0][batch["input_mask"][0] == 1])


# ------------------------------------------------------------------------------------------------- tasks


@pytest.mark.parametrize("write", [write_own_files, write_hub_files])
@pytest.mark.parametrize("task", FORMS)
def test_a_task_is_read_in_each_of_its_forms(tmp_path, encoder, task, write):
    read = inputs(encoder, task=task, data_dir=write(tmp_path, task), **ALL)
    form = FORMS[task]
    second = "" if task in ("CoLA", "SST-2") else " fillerd glad [SEP]"
    for data in (*read.evaluation, *read.test):
        assert words(data.features, 1) == f"[CLS] fine fillerb [SEP]{second}"
        assert data.features.ids == [str(number) for number in range(len(data.features))]
    if task == "STS-B":
        assert read.evaluation[0].features.labels.tolist() == [0.5, 4.5] * 4
        # Both orders of each pair, and (label - mean) / deviation.
        assert read.training.labels.tolist() == [-1, -1, 1, 1] * 4
        assert (read.scale.mean, read.scale.deviation) == (2.5, 2.0)
        return
    expected = [0, 1] * 4
    assert [read.task.labels[number] for number in (0, 1)] == list(form.words)
    for data in read.evaluation:
        assert data.features.labels.tolist() == expected
    twice = 2 if task == "MRPC" else 1
    assert read.training.labels.tolist() == list(np.repeat(expected, twice))
    assert all((data.features.labels == -1).all() for data in read.test)


@pytest.mark.parametrize("write", [write_own_files, write_hub_files])
def test_mnli_has_two_parts_and_a_diagnostic_set_beside_it(tmp_path, encoder, write):
    read = inputs(encoder, task="mnli", data_dir=write(tmp_path, "MNLI"), **ALL)
    assert [data.file.suffix for data in read.evaluation] == ["", "_mm"]
    assert [data.file.submission for data in read.test] == ["MNLI-m", "MNLI-mm", "AX"]
    assert [len(data.features) for data in read.test] == [8, 8, 2]


def test_the_diagnostic_set_may_have_a_folder_of_its_own(tmp_path):
    """As in glue_data/, which the usual download script writes."""
    path = tmp_path / "diagnostic" / "diagnostic.tsv"
    write_own_files(tmp_path, "MNLI")
    path.parent.mkdir()
    (tmp_path / "MNLI" / "diagnostic.tsv").rename(path)
    for data_dir in (tmp_path, tmp_path / "MNLI"):
        found = find_files(find_task("MNLI"), str(data_dir), "test")
        assert [file.submission for file in found] == ["MNLI-m", "MNLI-mm", "AX"]
        assert Path(found[-1].paths[0]).samefile(path) and found[-1].suffix == "_ax"


def test_the_metrics_are_the_benchmarks():
    metrics = {name: find_task(name).task.metrics for name in FORMS}
    assert metrics.pop("CoLA")[0] == "matthews_correlation"
    assert metrics.pop("MRPC") == metrics.pop("QQP") == ("accuracy", "f1")
    assert metrics.pop("STS-B") == ("pearson", "spearman")
    assert set(metrics.values()) == {("accuracy",)}


def test_the_folder_of_one_task_may_be_named_too(tmp_path, encoder):
    write_hub_files(tmp_path, "RTE")
    assert len(inputs(encoder, task="RTE", data_dir=tmp_path / "rte", do_train=True).training) == 8


def test_broken_rows_of_the_benchmark_are_left_out_and_told(tmp_path, encoder, capsys):
    path = write_own_files(tmp_path, "QQP") / "QQP" / "train.tsv"
    path.write_text(path.read_text() + "9\t1\t2\tfine\n10\n")
    assert len(inputs(encoder, task="QQP", data_dir=tmp_path, do_train=True).training) == 8
    assert (
        "2 rows have another number of columns and are left out, first in line 10" in capsys.readouterr().out
    )


def test_a_broken_row_of_a_test_is_refused_for_its_numbers_are_the_submissions(tmp_path, encoder):
    path = write_own_files(tmp_path, "QQP") / "QQP" / "test.tsv"
    path.write_text(path.read_text() + "10\n")
    with pytest.raises(UsageError, match=f"{path}, line 10: has 1 columns, and 3 are expected"):
        inputs(encoder, task="QQP", data_dir=tmp_path, do_train=True, do_predict=True)


@pytest.mark.parametrize(
    ("name", "submission"),
    [
        ("test_matched.tsv", "MNLI-m"),
        ("test_mismatched.tsv", "MNLI-mm"),
        ("diagnostic.tsv", "AX"),
        ("test_mismatched-00000-of-00001.parquet", "MNLI-mm"),
        ("mine.tsv", "MNLI-m"),
    ],
)
def test_a_file_of_mnli_that_is_given_is_submitted_as_the_part_that_it_is_named_for(name, submission):
    assert given_file(find_task("MNLI"), f"somewhere/{name}", "test_file").submission == submission


def test_scores_keep_their_digits_and_are_unknown_where_they_are_not_published(tmp_path, encoder):
    labels = ["20240117", "1234567.25", "3.8", "-1"]
    path = write_csv(tmp_path / "a.csv", [{"text": "fine", "label": label} for label in labels])
    own = {"task_type": "regression", "train_file": path, "do_train": True}
    read = inputs(encoder, eval_file=path, do_eval=True, **own)
    assert read.evaluation[0].features.labels.tolist() == [float(label) for label in labels]
    write_csv(tmp_path / "b.csv", [{"text": "fine", "label": "1_000"}])
    with pytest.raises(UsageError, match="line 2: the label '1_000' is not a number"):
        inputs(encoder, eval_file=tmp_path / "b.csv", do_eval=True, **own)
    scored = {"sentence1": "fine", "sentence2": "glad", "label": "-1.0", "idx": "0"}
    write_own_files(tmp_path, "STS-B")
    test = write_csv(tmp_path / "test.csv", [scored])
    read = inputs(encoder, task="STS-B", data_dir=tmp_path, test_file=test, do_train=True, do_predict=True)
    assert np.isnan(read.test[0].features.labels).all()


def test_the_recipe_is_the_papers_and_flags_win(tmp_path, encoder):
    write_own_files(tmp_path, "RTE"), write_own_files(tmp_path, "SST-2")
    settings = config(encoder, task="RTE", data_dir=tmp_path, do_train=True)
    open_inputs(settings)
    assert (settings.learning_rate, settings.layerwise_lr_decay) == (3e-4, 0.8)
    assert (settings.num_train_epochs, settings.train_batch_size, settings.warmup_proportion) == (10, 32, 0.1)
    assert GlueConfig(electra_model="", output_dir="", task="RTE", do_eval=True).max_seq_length == 128
    settings = config(encoder, task="SST-2", data_dir=tmp_path, do_train=True, learning_rate=1.0)
    open_inputs(settings)
    assert (settings.learning_rate, settings.num_train_epochs) == (1.0, 3)


# ------------------------------------------------------------------------------------------------ labels


def test_labels_of_own_files_are_in_the_order_of_numbers_and_words(tmp_path, encoder):
    for labels, expected in (
        (["10", "9", "-1"], ("-1", "9", "10")),
        (["b", "a", "10"], ("10", "a", "b")),
        (["2", "1", "02", "01", "001"], ("001", "01", "1", "02", "2")),
    ):
        path = write_csv(tmp_path / "a.csv", [{"text": "fine", "label": label} for label in labels])
        read = inputs(encoder, task_type="classification", train_file=path, do_train=True)
        assert read.task.labels == expected
        assert [expected[number] for number in read.training.labels] == labels


def test_a_number_that_is_no_label_of_own_files_is_refused_and_stands_for_none(tmp_path, encoder):
    """Labels 2 to 5 are the outputs 0 to 3, and a 1 is not the second of them."""
    train = write_csv(tmp_path / "train.csv", [{"text": "fine", "label": label} for label in "2345"])
    dev = write_csv(tmp_path / "dev.csv", [{"text": "fine", "label": label} for label in "31"])
    own = {"task_type": "classification", "eval_file": dev, "do_eval": True}
    told = f"--eval_file {dev}, line 3: the label '1' is none of 2, 3, 4, 5"
    recorded = _classifier(encoder, tmp_path / "m", list("2345"), outputs=4)
    for settings in (
        {"electra_model": encoder, "train_file": train, "do_train": True},
        {"electra_model": recorded},
    ):
        with pytest.raises(UsageError) as mistake:
            open_inputs(config(encoder, **own | settings))
        assert str(mistake.value) == told


def test_numbers_stand_for_the_labels_of_a_model_that_names_none(tmp_path, encoder):
    """A released model's LABEL_0 and LABEL_1 are the 0 and 1 of its data."""
    dev = write_csv(tmp_path / "dev.csv", [{"text": "fine", "label": label} for label in ("1", "LABEL_0")])
    model = _classifier(encoder, tmp_path / "m", ["LABEL_0", "LABEL_1"])
    read = inputs(model, task_type="classification", eval_file=dev, do_eval=True)
    assert read.evaluation[0].features.labels.tolist() == [1, 0]


def test_tags_are_those_of_the_training_file(tmp_path, encoder):
    path = write_columns(tmp_path / "a.txt", [(["fine", "name"], ["O", "B-X"]), (["a"], ["I-X"])])
    read = inputs(encoder, task_type="tagging", train_file=path, do_train=True)
    assert read.task.labels == ("B-X", "I-X", "O") and read.training.labels.tolist() == [2, 0, 1]


def _csv(path: Path, label: str) -> Path:
    return write_csv(path, [{"text": "fine", "label": "yes"}, {"text": "grim", "label": label}])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"task": "CoLA"}, "--data_dir: --task CoLA needs it, or --train_file"),
        (
            {"task": "CoLA", "data_dir": "none"},
            "--data_dir none: holds neither CoLA/train.tsv nor cola/train-",
        ),
        ({"task": "CALO", "data_dir": "none"}, "--task CALO: is none of CoLA, SST-2"),
        ({"task_type": "classification", "train_file": "{t}/one.csv"}, "has one label alone, 'yes'"),
        (
            {"task_type": "classification", "train_file": "{t}/two.csv", "eval_file": "{t}/three.csv"},
            "--eval_file {t}/three.csv, line 3: the label 'maybe' is none of no, yes",
        ),
        ({"task_type": "regression", "train_file": "{t}/two.csv"}, "line 2: the label 'yes' is not a number"),
        (
            {"task_type": "tagging", "train_file": "{t}/a.txt", "eval_file": "{t}/b.txt"},
            "--eval_file {t}/b.txt, in the sentence of line 1: the tag 'B-Y' is none of B-X, O",
        ),
        (
            {"task_type": "classification", "train_file": "{t}/two.csv", "text_pair_column": "other"},
            "--train_file {t}/two.csv, line 2: no column 'other', only text, label",
        ),
        ({"task": "CoLA", "max_seq_length": 65}, "--max_seq_length 65: is longer than the position table"),
    ],
)
def test_mistakes_are_named(tmp_path, encoder, settings, told):
    _csv(tmp_path / "one.csv", "yes"), _csv(tmp_path / "two.csv", "no"), _csv(tmp_path / "three.csv", "maybe")
    write_columns(tmp_path / "a.txt", [(["fine", "name"], ["O", "B-X"])])
    write_columns(tmp_path / "b.txt", [(["fine"], ["B-Y"])])
    settings = {name: v.format(t=tmp_path) if isinstance(v, str) else v for name, v in settings.items()}
    with pytest.raises(UsageError) as mistake:
        inputs(encoder, **settings, do_train=True, do_eval="eval_file" in settings)
    assert told.format(t=tmp_path) in str(mistake.value)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"task": ""}, "--task (none): give either --task or --task_type"),
        ({"task_type": "tagging"}, "--task RTE: give either"),
        ({"do_train": False}, "--do_train False: nothing to do"),
        ({"task": "", "task_type": "tagging"}, "--do_train True: --task_type needs --train_file"),
        (
            {"task": "", "task_type": "regression", "train_file": "a", "do_predict": True},
            "--do_predict True: --task_type needs --test_file",
        ),
        (
            {"task": "", "task_type": "tagging", "train_file": "a", "data_dir": "d"},
            "--data_dir d: is for --task",
        ),
        (
            {"task": "", "task_type": "tagging", "train_file": "a", "text_pair_column": "b"},
            "--text_pair_column b: tagging has none",
        ),
        ({"evaluate_during_training": True}, "--evaluate_during_training True: needs --do_eval"),
        *(
            ({name: "c"}, f"--{name} c: is for files of your own")
            for name in ("text_column", "text_pair_column", "label_column", "id_column")
        ),
        ({"seeds": "1,2,x"}, "--seeds 1,2,x: must be different whole numbers"),
        ({"seeds": "1,1"}, "--seeds 1,1: must be different whole numbers"),
        ({"seeds": "1,2", "restore_checkpoint": "c"}, "--restore_checkpoint c: names one run"),
        ({"max_seq_length": 4}, "--max_seq_length 4: must be at least 8"),
        ({"learning_rate": -1.0}, "--learning_rate -1.0: must be finite"),
        ({"num_train_epochs": 0.0}, "--num_train_epochs 0.0: must be positive"),
        ({"layerwise_lr_decay": 2.0}, "--layerwise_lr_decay 2.0: must be in (0, 1]"),
    ],
)
def test_flags_that_contradict_each_other_are_named(settings, told):
    given = {"electra_model": "e", "output_dir": "o", "task": "RTE", "do_train": True} | settings
    with pytest.raises(UsageError) as mistake:
        GlueConfig(**given)
    assert str(mistake.value).startswith(told)


# ------------------------------------------------------------------------------------------------- heads


def _classifier(encoder: Path, folder: Path, labels: list[str] | None, outputs: int = 2) -> Path:
    """The encoder's folder with a head."""
    random_head(encoder, folder, outputs)
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    if labels is not None:
        settings["id2label"] = dict(enumerate(labels))
    path.write_text(json.dumps(settings))
    return folder


def test_a_head_of_these_labels_is_used_and_another_one_is_trained_anew(tmp_path, encoder):
    path = _csv(tmp_path / "a.csv", "no")
    own = {"task_type": "classification", "train_file": path, "do_train": True}
    for number, (labels, is_used) in enumerate(
        ((["no", "yes"], True), (["LABEL_0", "LABEL_1"], True), (None, True), (["yes", "no"], False))
    ):
        read = inputs(_classifier(encoder, tmp_path / f"m{number}", labels), **own)
        assert read.has_head == is_used, labels
        assert any("a new head is trained" in remark for remark in read.model.remarks) != is_used
    read = inputs(_classifier(encoder, tmp_path / "three", None, outputs=3), **own)
    assert not read.has_head and "its head has 3 outputs" in read.model.remarks[0]


def test_predicting_needs_a_head_and_knows_its_labels(tmp_path, encoder):
    path = _csv(tmp_path / "a.csv", "no")
    own = {"task_type": "classification", "eval_file": path, "do_eval": True}
    read = inputs(_classifier(encoder, tmp_path / "m", ["yes", "no"]), **own)
    assert read.task.labels == ("yes", "no") and read.evaluation[0].features.labels.tolist() == [0, 1]
    with pytest.raises(UsageError, match="records no labels; give the model/ folder"):
        inputs(encoder, **own)
    with pytest.raises(UsageError, match="it has no head for classification; fine-tune with --do_train"):
        inputs(encoder, **own, train_file=path)
    with pytest.raises(UsageError, match="its head has 3 outputs, and RTE has 2; fine-tune"):
        folder = _classifier(encoder, tmp_path / "n", None, outputs=3)
        inputs(folder, task="RTE", data_dir=write_own_files(tmp_path, "RTE"), do_eval=True)


def _checkpoint(folder: Path, read: GlueInputs, vocabulary=VOCABULARY) -> str:
    """Of a run that read this, with made-up weights."""
    settings = GlueConfig(electra_model="e", output_dir="o", task="RTE", do_train=True, **_RECIPE)
    state = {"meaning": meaning(settings, read, ALONE), "loss_scale": {}}
    weights = {"weight": np.zeros(1, np.float32)}
    path = checkpointing.save(
        folder,
        "ckpt-",
        3,
        model=weights,
        optimizer=weights,
        state=state,
        extra_files=vocabulary.files(),
        keep=0,
    )
    return str(path)


_RECIPE = {"num_train_epochs": 3.0, "learning_rate": 1e-4, "layerwise_lr_decay": 0.8}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, None),
        ({"hidden_dropout_prob": 0.3}, None),
        ({"train_file": "{t}/other.csv"}, r"labels \['no', 'yes'\] -> \['on', 'yes'\]"),
        ({"train_file": "", "task_type": "regression"}, r"task classification -> regression, labels"),
        ({"do_lower_case": False}, "do_lower_case True -> False, strip_accents True -> False"),
        ({"electra_model": "{t}/cased"}, "do_lower_case True -> False, strip_accents True -> False"),
        ({"electra_model": "{t}/other_pieces"}, "vocabulary_sha256"),
        ({"electra_model": "{t}/wider"}, "intermediate_size 32 -> 40"),
    ],
)
def test_a_checkpoint_predicts_only_what_it_was_trained_on(tmp_path, encoder, changes, told, capsys):
    train, test = _csv(tmp_path / "train.csv", "no"), write_csv(tmp_path / "test.csv", [{"text": "fine"}])
    _csv(tmp_path / "other.csv", "on")
    pieces = VOCABULARY.pieces
    write_encoder(tmp_path / "cased", CONFIG, dataclasses.replace(VOCABULARY, do_lower_case=False))
    write_encoder(tmp_path / "other_pieces", CONFIG, Vocabulary((*pieces[:-2], pieces[-1], pieces[-2])))
    write_encoder(tmp_path / "wider", dataclasses.replace(CONFIG, intermediate_size=40), VOCABULARY)
    own = {"task_type": "classification", "train_file": train}
    path = _checkpoint(tmp_path, inputs(encoder, **own, do_train=True))
    settings = own | {"test_file": test, "do_predict": True}
    settings |= {n: v.format(t=tmp_path) if isinstance(v, str) else v for n, v in changes.items()}
    predicting = config(encoder, **settings, restore_checkpoint=path)
    read = open_inputs(predicting)
    if told is None:
        assert find_start(predicting, read, ALONE).step == 3
        return
    with pytest.raises(UsageError, match=f"^--restore_checkpoint {path}: made with other settings: .*{told}"):
        find_start(predicting, read, ALONE)
    predicting.allow_config_change = True
    assert find_start(predicting, read, ALONE).step == 3
    assert "settings differ from the checkpoint's" in capsys.readouterr().out


def test_a_model_folder_that_could_not_be_replaced_is_found_before_the_training(tmp_path, encoder):
    folder = tmp_path / "out" / "model"
    _classifier(encoder, folder, ["yes", "no"])
    path, own = _csv(tmp_path / "a.csv", "no"), {"task_type": "classification", "output_dir": folder.parent}
    training = config(encoder, train_file=path, do_train=True, **own)
    check_output_dir(training)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=f"--output_dir {folder}: is not replaced"):
        check_output_dir(training)
    # Nothing is written there without training, nor where each seed has a folder of its own.
    check_output_dir(config(encoder, eval_file=path, do_eval=True, **own))
    training.seeds = "1,2"
    for of_seed in training.seed_runs():
        check_output_dir(of_seed)
