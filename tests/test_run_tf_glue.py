"""run_tf_glue.py as a user runs it: learning, files, logs, several seeds, restarts, and what mistakes get.

Where nothing depends on it, its `main` runs in this process, which spares loading TensorFlow each time.
"""

import contextlib
import dataclasses
import io
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from glue_cases import (
    CONFIG,
    VOCABULARY,
    numbers,
    pairs,
    sentences,
    texts,
    write_columns,
    write_csv,
    write_json_lines,
)
from glue_files import write_own_files
from safetensors.numpy import load_file
from squad_cases import write_encoder
from training_runs import ROOT, one_line_error
from worker_jobs import NO_DROPOUT, Job, need_horovod

import run_tf_glue
from command_line import UsageError
from telemetry import read_dll_log

pytestmark = pytest.mark.slow

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

SETTINGS = {
    "max_seq_length": 32,
    "train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-2,
    "layerwise_lr_decay": 1,
    "num_train_epochs": 12,
    "log_freq": 20,
    "save_checkpoints_steps": 40,
    # Compiling takes longer than these trainings.
    "compile_chains": False,
}


class GlueRuns:
    """Runs on the made-up tasks, each in a folder of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        write_encoder(folder / "encoder", CONFIG, VOCABULARY)
        for which, count, seed in (("train", 160, 0), ("dev", 60, 1)):
            write_csv(folder / f"texts_{which}.csv", texts(count, seed))
            write_json_lines(folder / f"pairs_{which}.jsonl", pairs(count, seed))
            write_csv(folder / f"numbers_{which}.csv", numbers(count, seed))
            write_columns(folder / f"tags_{which}.conll", sentences(count, seed))

    def command(self, name: str, *flags: str, **settings) -> list[str]:
        defaults = {"electra_model": self.folder / "encoder", "output_dir": self.folder / name}
        arguments = [f"--{key}={value}" for key, value in (defaults | SETTINGS | settings).items()]
        return [sys.executable, str(ROOT / "run_tf_glue.py"), *arguments, *flags]

    def run(self, name: str, *flags: str, **settings) -> str:
        """Run to the end, in this process; returns what it printed."""
        handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        words, printed = sys.argv, io.StringIO()
        try:
            sys.argv = self.command(name, *flags, **settings)[1:]
            with contextlib.redirect_stdout(printed):
                assert run_tf_glue.main() == 0
        finally:
            sys.argv = words
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return printed.getvalue()

    def error(self, name: str, *flags: str, **settings) -> str:
        """The one line of a run that ends by a user's mistake, in a process of its own."""
        command = self.command(name, *flags, **settings)
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 2, done.stdout[-2000:] + done.stderr[-2000:]
        return one_line_error(done)

    def own(self, kind: str, data: str, suffix: str = "csv") -> dict:
        """The flags of a made-up task."""
        return {
            "task_type": kind,
            "train_file": self.folder / f"{data}_train.{suffix}",
            "eval_file": self.folder / f"{data}_dev.{suffix}",
        }

    def scores(self, name: str) -> dict[str, float]:
        return json.loads((self.folder / name / "results.json").read_text())["mean"]

    def table(self, name: str, file: str = "predictions.tsv") -> list[list[str]]:
        lines = (self.folder / name / file).read_text().splitlines()
        return [line.split("\t") for line in lines]

    def weights(self, name: str) -> dict:
        return load_file(self.folder / name / "model" / "model.safetensors")

    def log(self, name: str) -> list[dict]:
        return read_dll_log(self.folder / name / "logs" / "dllogger.log")


@pytest.fixture(scope="module")
def glue(tmp_path_factory) -> GlueRuns:
    return GlueRuns(tmp_path_factory.mktemp("glue"))


@pytest.fixture(scope="module")
def trained(glue) -> str:
    """Labels of texts, learned with nothing disturbing it."""
    flags = ("--do_train", "--do_eval", "--evaluate_during_training")
    glue.run("trained", *flags, seed=1, **glue.own("classification", "texts"))
    return "trained"


def _equal(one: dict, other: dict) -> bool:
    assert one.keys() == other.keys()
    return all(np.array_equal(one[name], other[name]) for name in one)


# ------------------------------------------------------------------------------------------------ learning


def test_a_tiny_model_learns_labels_and_its_folder_predicts_the_same(glue, trained):
    assert glue.scores(trained)["eval_accuracy"] > 0.95
    rows = glue.table(trained)
    assert rows[0] == ["id", "prediction", "label"] and len(rows) == 61
    assert [row[2] for row in rows[1:]] == [row["label"] for row in texts(60, 1)]
    right = sum(row[1] == row[2] for row in rows[1:])
    assert right / 60 == pytest.approx(glue.scores(trained)["eval_accuracy"])
    model = glue.folder / trained / "model"
    settings = glue.own("classification", "texts") | {"train_file": ""}
    glue.run("again", "--do_eval", electra_model=model, predict_batch_size=7, **settings)
    assert glue.table("again") == rows and glue.scores("again") == glue.scores(trained)


def test_a_pair_is_two_texts(glue):
    columns = {"text_column": "one", "text_pair_column": "other", "label_column": "good"}
    own = glue.own("classification", "pairs", "jsonl")
    glue.run("pairs", "--do_train", "--do_eval", num_train_epochs=30, compile_chains=True, **own, **columns)
    assert glue.scores("pairs")["eval_accuracy"] > 0.9


def test_numbers_are_predicted_in_their_own_unit_by_run_folder_and_checkpoint(glue):
    own = glue.own("regression", "numbers")
    glue.run("numbers", "--do_train", "--do_eval", num_train_epochs=15, **own)
    scores = glue.scores("numbers")
    assert scores["eval_pearson"] > 0.95 and scores["eval_mean_absolute_error"] < 40
    predicted = [float(row[1]) for row in glue.table("numbers")[1:]]
    own["train_file"] = ""
    model = glue.folder / "numbers" / "model"
    glue.run("numbers_again", "--do_eval", electra_model=model, **own)
    again = [float(row[1]) for row in glue.table("numbers_again")[1:]]
    np.testing.assert_allclose(again, predicted, atol=0.01)
    glue.run("numbers", "--do_eval", "--restore_checkpoint", **own)
    np.testing.assert_allclose([float(r[1]) for r in glue.table("numbers")[1:]], predicted, atol=0.01)


def test_spans_of_tags_are_learned_and_every_word_has_a_line(glue):
    own = glue.own("tagging", "tags", "conll")
    glue.run("tags", "--do_train", "--do_eval", num_train_epochs=8, **own)
    scores = glue.scores("tags")
    assert scores["eval_f1"] > 0.9 and scores["eval_accuracy"] > 0.9
    expected = [
        (f"{number}.{place}", tag)
        for number, (_, tags) in enumerate(sentences(60, 1))
        for place, tag in enumerate(tags, 1)
    ]
    assert [(row[0], row[2]) for row in glue.table("tags")[1:]] == expected
    # Cut to 10 tokens a sentence comes in several sequences, and no word is lost.
    own["train_file"] = ""
    glue.run("cut", "--do_eval", electra_model=glue.folder / "tags/model", **own | {"max_seq_length": 10})
    assert [row[0] for row in glue.table("cut")[1:]] == [identifier for identifier, _ in expected]
    assert glue.scores("cut")["eval_f1"] > 0.8


# --------------------------------------------------------------------------------------- GLUE's own tasks


def test_mnlis_parts_are_scored_apart_and_submitted_as_the_site_wants(glue, tmp_path):
    data = write_own_files(tmp_path, "MNLI")
    settings = {"task": "MNLI", "data_dir": data, "train_batch_size": 4, "num_train_epochs": 40}
    glue.run("mnli", "--do_train", "--do_eval", "--do_predict", **settings)
    assert glue.scores("mnli") == {"eval_accuracy": 1.0, "eval_accuracy_mm": 1.0}
    folder = glue.folder / "mnli"
    files = {"predictions.tsv", "predictions_mm.tsv", "test_predictions.tsv", "test_predictions_ax.tsv"}
    assert files < {path.name for path in folder.iterdir()}
    assert glue.table("mnli", "test_predictions.tsv")[1] == ["0", "entailment", ""]
    lines = ["index\tprediction", "0\tentailment", "1\tneutral"]
    assert (folder / "submission/AX.tsv").read_text().splitlines() == lines
    assert {path.name for path in (folder / "submission").iterdir()} == {
        "MNLI-m.tsv",
        "MNLI-mm.tsv",
        "AX.tsv",
    }
    assert len((folder / "submission/MNLI-m.tsv").read_text().splitlines()) == 9


def test_submissions_have_the_benchmarks_words_and_no_score_beyond_five(glue, tmp_path):
    for task, prediction in (("CoLA", "0"), ("STS-B", "0.500")):
        data = write_own_files(tmp_path, task)
        settings = {"task": task, "data_dir": data, "num_train_epochs": 40, "train_batch_size": 4}
        glue.run(task, "--do_train", "--do_predict", **settings)
        rows = glue.table(task, f"submission/{task}.tsv")
        assert rows[0] == ["index", "prediction"] and [row[0] for row in rows[1:]] == list(map(str, range(8)))
        assert float(rows[1][1]) == pytest.approx(float(prediction), abs=0.3)
        assert float(rows[2][1]) <= 5 and not (glue.folder / task / "results.json").exists()


# ---------------------------------------------------------------------------------------------------- logs


def test_log_has_losses_scores_and_speed(glue, trained):
    events = [event for event in glue.log(trained) if event["type"] == "LOG"]
    steps = [e for e in events if len(e["step"]) == 2 and "step_loss" in e["data"]]
    # 160 examples in updates of 16, 12 epochs: 120 updates, logged every 20th.
    assert [event["step"] for event in steps] == [[2 * n - 1, 20 * n] for n in range(1, 7)]
    assert {"step_loss", "step_accuracy", "train_perf", "learning_rate", "epoch"} <= steps[1]["data"].keys()
    summaries = [event["data"] for event in events if event["step"] == []]
    keys = set().union(*summaries)
    assert {"e2e_train_time", "training_sequences_per_second", "final_loss", "e2e_inference_time"} <= keys
    assert any(summary.items() >= glue.scores(trained).items() for summary in summaries)


def test_evaluation_after_each_epoch(glue, trained):
    scored = [e["step"] for e in glue.log(trained) if e["type"] == "LOG" and "eval_accuracy" in e["data"]]
    assert scored == [*([epoch, 10 * epoch + 10] for epoch in range(12)), []]


def test_an_epoch_of_less_than_an_update_is_evaluated_after_each(glue):
    flags = ("--do_train", "--do_eval", "--evaluate_during_training")
    settings = {"train_batch_size": 400, "gradient_accumulation_steps": 1, "num_train_epochs": 5}
    glue.run("large_batch", *flags, **glue.own("classification", "texts") | settings)
    scored = [e["step"] for e in glue.log("large_batch") if "eval_accuracy" in e.get("data", {})]
    assert scored == [[0, 1], [2, 2], []]


# --------------------------------------------------------------------------------------------------- seeds


def test_each_of_several_seeds_is_the_run_of_that_seed_and_their_mean_is_told(glue, trained):
    own = glue.own("classification", "texts")
    glue.run("seeds", "--do_train", "--do_eval", seeds="1,2", **own)
    assert _equal(glue.weights("seeds/seed_1"), glue.weights(trained))
    results = json.loads((glue.folder / "seeds" / "results.json").read_text())
    assert list(results["seeds"]) == ["1", "2"] and results["seeds"]["1"] == glue.scores(trained)
    for name, mean in results["mean"].items():
        values = [scores[name] for scores in results["seeds"].values()]
        assert mean == pytest.approx(sum(values) / 2)
        assert results["deviation"][name] == pytest.approx(statistics.stdev(values))
    assert not _equal(glue.weights("seeds/seed_1"), glue.weights("seeds/seed_2"))
    with pytest.raises(UsageError, match="holds a run already"):
        glue.run("seeds", "--do_train", seeds="2,3", **own)
    # A seed that is done is not trained again.
    shutil.rmtree(glue.folder / "seeds" / "seed_2")
    again = glue.run("seeds", "--do_train", "--do_eval", "--restore_checkpoint", seeds="1,2", **own)
    assert again.count("updates are done already") == 1
    assert json.loads((glue.folder / "seeds" / "results.json").read_text()) == results


# ------------------------------------------------------------------------------------------------ restarts


def test_a_run_that_is_stopped_and_then_killed_goes_on_to_the_same_weights(glue, trained):
    own = glue.own("classification", "texts") | {"seed": 1, "save_checkpoints_steps": 30}
    command = glue.command("stopped", "--do_train", "--do_eval", "--restore_checkpoint", **own)
    checkpoints = glue.folder / "stopped" / "checkpoints"
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    for line in process.stdout:
        if line.startswith("Step:"):
            process.send_signal(signal.SIGTERM)
            break
    output = process.stdout.read()
    assert process.wait() == 143 and "--restore_checkpoint goes on from there" in output
    assert len(list(checkpoints.glob("ckpt-*"))) == 1 and not (glue.folder / "stopped" / "model").exists()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(checkpoints.glob("ckpt-*"))) == 1 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert "going on from" in glue.run("stopped", "--do_train", "--do_eval", "--restore_checkpoint", **own)
    assert _equal(glue.weights("stopped"), glue.weights(trained))
    assert glue.table("stopped") == glue.table(trained)


def test_signals_end_predictions_at_once_and_every_seeds_training_with_a_checkpoint(glue):
    flags = ("--do_train", "--do_eval", "--restore_checkpoint", "--seeds=1,2", "--log_freq=1")
    command = glue.command("signalled", *flags, **glue.own("classification", "texts"))
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}

    def end(number: signal.Signals, seed: int, told: str) -> tuple[int, str]:
        """The exit code, and what is printed from the line on, of the seed's run, that the signal follows."""
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        seed_runs = 0
        for line in process.stdout:
            seed_runs += line.startswith("fine-tuning: ") or "updates are done already" in line
            if seed_runs == seed and line.startswith(told):
                process.send_signal(number)
                break
        output = process.stdout.read()
        return process.wait(), output

    assert end(signal.SIGINT, 1, "wrote ")[0] == 130
    assert not (glue.folder / "signalled" / "seed_1" / "predictions.tsv").exists()
    code, output = end(signal.SIGTERM, 2, "Step:")
    assert code == 143 and "--restore_checkpoint goes on from there" in output
    assert (glue.folder / "signalled" / "seed_1" / "predictions.tsv").exists()
    assert list((glue.folder / "signalled" / "seed_2" / "checkpoints").glob("ckpt-*"))


def test_a_stopped_run_that_saves_nothing_promises_no_restart(glue):
    command = glue.command(
        "unsaved", "--do_train", "--skip_checkpoint", "--log_freq=1", **glue.own("classification", "texts")
    )
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    for line in process.stdout:
        if line.startswith("Step:"):
            process.send_signal(signal.SIGTERM)
            break
    output = process.stdout.read()
    assert process.wait() == 143
    assert "nothing is saved" in output and "--restore_checkpoint" not in output


def test_two_workers_learn_and_predict_as_one_does(glue, tmp_path):
    need_horovod()
    write_encoder(tmp_path / "encoder", dataclasses.replace(CONFIG, **NO_DROPOUT), VOCABULARY)
    settings = {"electra_model": tmp_path / "encoder", "predict_batch_size": 4, "num_train_epochs": 2}
    settings |= glue.own("tagging", "tags", "conll")
    flags = ("--do_train", "--do_eval")
    glue.run("one", *flags, **settings)
    job = Job(2, glue.command("two", *flags, **settings | {"gradient_accumulation_steps": 1}), tmp_path / "o")
    assert job.end(120) == 0, job.text
    one, two = glue.weights("one"), glue.weights("two")
    for name, tensor in one.items():
        # What is added to all keys changes no softmax: this gradient is rounding alone.
        if not name.endswith("key.bias"):
            np.testing.assert_allclose(two[name], tensor, atol=2e-3, err_msg=name)
    assert glue.table("two") == glue.table("one") and glue.scores("two") == glue.scores("one")


# ------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("flags", "settings", "told"),
    [
        ((), {"task": "RTE"}, "--do_train False: nothing to do"),
        (("--do_train",), {"task_type": "sorting"}, "--task_type: invalid choice: 'sorting'"),
        (
            ("--do_train",),
            {"task": "RTE", "data_dir": "nowhere"},
            "--data_dir nowhere: holds neither RTE/train",
        ),
        (
            ("--do_train",),
            {"task_type": "regression", "train_file": "{data}/texts_train.csv"},
            "line 2: the label 'good' is not a number",
        ),
    ],
)
def test_mistakes_end_in_one_line_and_write_nothing(glue, flags, settings, told):
    settings = {name: value.format(data=glue.folder) for name, value in settings.items()}
    assert told in glue.error("mistake", *flags, **settings)
    assert not (glue.folder / "mistake").exists()


@pytest.mark.parametrize(("column", "told"), [("label", "labels"), ("text", "training_data")])
def test_a_restart_with_other_labels_or_texts_is_refused(glue, trained, column, told):
    rows = [{**row, column: row[column] + "!"} for row in texts(160, 0)]
    own = glue.own("classification", "texts")
    own |= {"train_file": write_csv(glue.folder / f"other_{column}.csv", rows), "seed": 1}
    with pytest.raises(UsageError, match=f"made with other settings: {told}"):
        glue.run(trained, "--do_train", "--restore_checkpoint", **own)
