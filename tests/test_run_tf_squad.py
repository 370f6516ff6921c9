"""run_tf_squad.py as a user runs it: learning, files, logs, restarts, and what bad input gets."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from answering_cases import answerer, made_up_questions, write_answering_model
from safetensors.numpy import load_file, save_file
from squad_cases import NAMES, write_encoder, write_questions
from training_runs import ROOT, one_line_error

from telemetry import read_dll_log

pytestmark = pytest.mark.slow

SETTINGS = {
    "max_seq_length": 64,
    "doc_stride": 16,
    "max_query_length": 8,
    "train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-2,
    "layerwise_lr_decay": 1,
    "num_train_epochs": 6,
    "log_freq": 5,
    "save_checkpoints_steps": 10,
    # Compiling takes longer than these trainings.
    "compile_chains": False,
}


class SquadRuns:
    """Runs on the made-up questions, each in a folder of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        write_questions(folder / "data")
        write_encoder(folder / "encoder")

    def command(self, name: str, *flags: str, **settings) -> list[str]:
        defaults = {"electra_model": self.folder / "encoder", "data_dir": self.folder / "data"}
        defaults |= {"output_dir": self.folder / name}
        arguments = [f"--{key}={value}" for key, value in (defaults | SETTINGS | settings).items()]
        return [sys.executable, str(ROOT / "run_tf_squad.py"), *arguments, *flags]

    def run(self, name: str, *flags: str, expect: int = 0, **settings) -> subprocess.CompletedProcess:
        command = self.command(name, *flags, **settings)
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == expect, done.stdout[-2000:] + done.stderr[-2000:]
        return done

    def error(self, name: str, *flags: str, **settings) -> str:
        return one_line_error(self.run(name, *flags, expect=2, **settings))

    def json(self, name: str, file: str):
        return json.loads((self.folder / name / file).read_text())

    def weights(self, name: str) -> dict:
        return load_file(self.folder / name / "model" / "model.safetensors")

    def log(self, name: str) -> list[dict]:
        return read_dll_log(self.folder / name / "logs" / "dllogger.log")


@pytest.fixture(scope="module")
def squad(tmp_path_factory) -> SquadRuns:
    return SquadRuns(tmp_path_factory.mktemp("squad"))


@pytest.fixture(scope="module")
def trained(squad) -> str:
    """A plain head fine-tuned on version 1.1, nothing disturbing it."""
    squad.run("trained", "--do_train", "--do_eval", "--joint_head", "False")
    return "trained"


@pytest.fixture(scope="module")
def trained_joint(squad) -> str:
    """The joint head fine-tuned on version 2.0."""
    squad.run("joint", "--do_train", "--do_eval", "--version_2_with_negative", num_train_epochs=10)
    return "joint"


def _equal(one: dict, other: dict) -> bool:
    assert one.keys() == other.keys()
    return all(np.array_equal(one[name], other[name]) for name in one)


# ------------------------------------------------------------------------------------------------ learning


def test_a_tiny_model_learns_to_answer(squad, trained):
    scores = squad.json(trained, "eval_results.json")
    assert scores["exact_match"] > 90 and scores["f1"] > 90
    predictions = squad.json(trained, "predictions.json")
    assert sum(text in NAMES for text in predictions.values()) > 0.9 * len(predictions)


def test_the_joint_head_learns_answers_and_that_there_is_none(squad, trained_joint):
    scores = squad.json(trained_joint, "eval_results.json")
    assert scores["HasAns_exact"] > 85 and scores["NoAns_exact"] > 85
    assert {"exact", "f1", "total", "HasAns_f1", "NoAns_f1"} <= scores.keys()
    assert {"best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh"} <= scores.keys()
    odds, predictions = (
        squad.json(trained_joint, "null_odds.json"),
        squad.json(trained_joint, "predictions.json"),
    )
    assert odds.keys() == predictions.keys()
    assert all((odds[question] > 0) == (text == "") for question, text in predictions.items())


def test_nvidias_form_of_the_joint_head_learns(squad):
    squad.run(
        "xlnet",
        "--do_train",
        "--do_eval",
        "--joint_head_variant=xlnet",
        learning_rate=5e-3,
        compile_chains=True,
    )
    assert squad.json("xlnet", "eval_results.json")["f1"] > 80


# --------------------------------------------------------------------------------------------------- files


def test_scores_are_those_of_the_evaluation_program(squad, trained, run_program):
    done = run_program(
        "squad_evaluation.py",
        squad.folder / "data" / "dev-v1.1.json",
        squad.folder / trained / "predictions.json",
    )
    assert json.loads(done.stdout) == squad.json(trained, "eval_results.json")


def test_the_best_threshold_is_found_whatever_threshold_was_used_and_gives_its_score(squad, tmp_path):
    """Gold answers are what a made-up model says to the questions that it holds to be the likeliest."""
    model = write_answering_model(tmp_path / "model", joint_head=True, version_2=True)
    asked = [pair for pair in made_up_questions(24) if pair[1]]
    answering = answerer(model, max_query_length=SETTINGS["max_query_length"])
    answers = [answering.answer(*pair) for pair in asked]
    threshold = sorted(answer.null_odds for answer in answers)[len(answers) // 2]
    paragraphs = []
    for number, ((question, context), answer) in enumerate(zip(asked, answers, strict=True)):
        text = next(candidate["text"] for candidate in answer.n_best if candidate["text"])
        is_impossible = answer.null_odds > threshold
        gold = [] if is_impossible else [{"text": text, "answer_start": context.index(text)}]
        entry = {"id": f"q{number}", "question": question, "answers": gold, "is_impossible": is_impossible}
        paragraphs.append({"context": context, "qas": [entry]})
    path = _write(tmp_path / "dev.json", {"version": "v2.0", "data": [{"paragraphs": paragraphs}]})

    def scores(used: float) -> dict[str, float]:
        given = {"electra_model": model, "predict_file": path, "null_score_diff_threshold": used}
        squad.run("thresholds", "--do_eval", "--version_2_with_negative", **given)
        return squad.json("thresholds", "eval_results.json")

    nothing = scores(-1000.0)
    assert set(squad.json("thresholds", "predictions.json").values()) == {""}
    assert nothing["HasAns_exact"] == 0 and nothing["NoAns_exact"] == 100
    assert nothing["best_exact"] == nothing["best_f1"] == 100
    assert nothing["best_exact_thresh"] == pytest.approx(threshold, abs=1e-3)
    best = scores(nothing["best_exact_thresh"])
    assert best["exact"] == best["f1"] == 100
    assert {key: best[key] for key in best if "best" in key} == {
        key: nothing[key] for key in best if "best" in key
    }


@pytest.mark.parametrize(("joint_head", "threshold"), [(True, -5.6), (False, 0.0)])
def test_the_head_of_the_weights_has_its_own_threshold(squad, tmp_path, joint_head, threshold):
    """No flag names the head, as in the launcher's MODE=eval."""
    model = write_answering_model(tmp_path / "model", joint_head=joint_head, version_2=True)
    paragraphs = [
        {"context": context, "qas": [{"id": f"q{number}", "question": question}]}
        for number, (question, context) in enumerate(made_up_questions(60))
        if context
    ]
    path = _write(tmp_path / "dev.json", {"version": "v2.0", "data": [{"paragraphs": paragraphs}]})
    given = {"electra_model": model, "predict_file": path, "max_query_length": 20}
    given["joint_head_null_threshold"] = -5.6
    squad.run(tmp_path.name, "--do_predict", "--version_2_with_negative", **given)
    predictions, odds = (squad.json(tmp_path.name, f"{name}.json") for name in ("predictions", "null_odds"))
    assert any(-5.6 < value < 0 for value in odds.values())
    assert predictions.keys() == odds.keys()
    for name, value in odds.items():
        assert (predictions[name] == "") == (value > threshold), (name, value)


@pytest.mark.parametrize("joint_head", [True, False])
def test_weights_that_are_no_numbers_end_in_one_line_and_give_no_answers(squad, tmp_path, joint_head):
    model = write_answering_model(tmp_path / "model", joint_head=joint_head)
    weights = load_file(model / "model.safetensors")
    head = next(name for name in weights if "electra." not in name)
    save_file(weights | {head: np.full_like(weights[head], np.nan)}, model / "model.safetensors")
    name = f"nan_{joint_head}"
    done = squad.run(name, "--do_eval", electra_model=model, max_query_length=8, expect=1)
    assert "NaN or infinite" in one_line_error(done) and "question '" in one_line_error(done)
    assert not (squad.folder / name / "predictions.json").exists()


def test_n_best_holds_the_prediction_first_with_nvidias_keys(squad, trained):
    predictions = squad.json(trained, "predictions.json")
    for question, answers in squad.json(trained, "nbest_predictions.json").items():
        assert answers[0]["text"] == predictions[question]
        assert set(answers[0]) == {"text", "probability", "start_logit", "end_logit"}
        assert sum(answer["probability"] for answer in answers) == pytest.approx(1, abs=1e-4)


def test_answers_do_not_depend_on_the_batch_and_its_padding(squad, trained):
    squad.run("again", "--do_predict", electra_model=squad.folder / trained / "model", predict_batch_size=3)
    assert squad.json("again", "predictions.json") == squad.json(trained, "predictions.json")


def test_the_exported_model_answers_as_the_run_did(squad, trained_joint):
    """The head and its form come from the folder, whatever the flags' defaults are."""
    squad.run(
        "reloaded",
        "--do_eval",
        "--version_2_with_negative",
        "--joint_head=False",
        electra_model=squad.folder / trained_joint / "model",
    )
    assert squad.json("reloaded", "eval_results.json") == squad.json(trained_joint, "eval_results.json")


def test_a_checkpoint_can_answer(squad, trained):
    checkpoint = max((squad.folder / trained / "checkpoints").glob("ckpt-*"), key=lambda p: int(p.name[5:]))
    squad.run("from_checkpoint", "--do_predict", "--joint_head=False", init_checkpoint=checkpoint)
    assert squad.json("from_checkpoint", "predictions.json") == squad.json(trained, "predictions.json")


# ---------------------------------------------------------------------------------------------------- logs


def test_log_has_nvidias_keys(squad, trained):
    events = [event for event in squad.log(trained) if event["type"] == "LOG"]
    steps = [
        e for e in events if isinstance(e["step"], list) and len(e["step"]) == 2 and "step_loss" in e["data"]
    ]
    # 120 windows in updates of 16, 6 epochs: 45 updates, logged every 5th.
    assert [event["step"][1] for event in steps] == list(range(5, 46, 5))
    assert [event["step"][0] for event in steps] == [0, 1, 1, 2, 3, 3, 4, 5, 5]
    assert {"step_loss", "train_perf"} <= steps[1]["data"].keys()
    assert 0 < steps[1]["data"]["utilization"] < 1
    summaries = [event["data"] for event in events if event["step"] == []]
    keys = set().union(*summaries)
    assert {"e2e_train_time", "training_sequences_per_second", "final_loss", "exact_match", "F1"} <= keys
    assert {"inference_sequences_per_second", "e2e_inference_time", "latency_p50", "latency_p99.9"} <= keys
    scores = squad.json(trained, "eval_results.json")
    assert any(s.get("exact_match") == scores["exact_match"] and s["F1"] == scores["f1"] for s in summaries)
    units = {e["metric"]: e["metadata"]["unit"] for e in squad.log(trained) if e["type"] == "METADATA"}
    assert units["inference_sequences_per_second"] == "sequences/s" and units["F1"] is None


def test_evaluation_after_each_epoch(squad):
    squad.run(
        "each",
        "--do_train",
        "--do_eval",
        "--evaluate_during_training",
        "--joint_head=False",
        num_train_epochs=2,
    )
    scored = [e["step"] for e in squad.log("each") if e["type"] == "LOG" and "F1" in e["data"]]
    # 7.5 updates an epoch: after the 8th, and at the end.
    assert scored[0] == [0, 8] and scored[-1] == []


# ------------------------------------------------------------------------------------------------ restarts


def test_a_killed_run_that_goes_on_ends_with_the_same_weights(squad, trained):
    command = squad.command("killed", "--do_train", "--joint_head=False", "--restore_checkpoint")
    for _ in range(20):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        checkpoints = squad.folder / "killed" / "checkpoints"
        before = len(list(checkpoints.glob("ckpt-*")))
        deadline = time.time() + 120
        while process.poll() is None and time.time() < deadline:
            if len(list(checkpoints.glob("ckpt-*"))) > before:
                process.kill()
            time.sleep(0.01)
        if process.wait() == 0:
            break
    else:
        pytest.fail("the run never ended")
    assert _equal(squad.weights("killed"), squad.weights(trained))


def test_sigterm_saves_a_checkpoint_and_the_run_goes_on(squad, trained):
    process = subprocess.Popen(
        squad.command("stopped", "--do_train", "--joint_head=False", "--restore_checkpoint"),
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    for line in process.stdout:
        if line.startswith("Step:"):
            process.send_signal(signal.SIGTERM)
            break
    output = process.stdout.read()
    assert process.wait() == 143 and "--restore_checkpoint goes on from there" in output
    assert not (squad.folder / "stopped" / "model").exists()
    squad.run("stopped", "--do_train", "--joint_head=False", "--restore_checkpoint")
    assert _equal(squad.weights("stopped"), squad.weights(trained))


def test_a_signal_after_the_training_ends_the_run_and_a_restart_makes_up_for_it(squad, trained):
    command = squad.command(
        "answering", "--do_train", "--do_eval", "--joint_head=False", "--restore_checkpoint"
    )
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    for line in process.stdout:
        if line.startswith("wrote "):
            process.send_signal(signal.SIGTERM)
            break
    process.stdout.read()
    assert process.wait() == 143
    assert not (squad.folder / "answering" / "eval_results.json").exists()
    squad.run("answering", "--do_train", "--do_eval", "--joint_head=False", "--restore_checkpoint")
    assert squad.json("answering", "eval_results.json") == squad.json(trained, "eval_results.json")


def test_a_finished_run_is_not_trained_again(squad, trained):
    shutil.copytree(squad.folder / trained, squad.folder / "finished")
    done = squad.run("finished", "--do_train", "--do_eval", "--joint_head=False", "--restore_checkpoint")
    assert "all 45 updates are done already" in done.stdout
    assert squad.json("finished", "eval_results.json") == squad.json(trained, "eval_results.json")


def test_micro_batches_train_as_one_batch(squad):
    """Without dropout, 2 x 8 and 1 x 16 windows end at the same weights."""
    flags = (
        "--do_train",
        "--joint_head=False",
        "--hidden_dropout_prob=0",
        "--attention_probs_dropout_prob=0",
    )
    weights = []
    for name, batch, steps in (("two", 8, 2), ("one", 16, 1)):
        squad.run(name, *flags, train_batch_size=batch, gradient_accumulation_steps=steps, max_steps=6)
        weights.append(squad.weights(name))
    for name, tensor in weights[0].items():
        # What is added to all logits or keys changes no softmax: these gradients are rounding alone.
        if name == "qa_outputs.bias" or name.endswith("key.bias"):
            continue
        np.testing.assert_allclose(tensor, weights[1][name], atol=2e-5, err_msg=name)


# --------------------------------------------------------------------------------------------- bad input


def _write(path: Path, content) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("flags", "settings", "message"),
    [
        ((), {}, "--do_train False: nothing to do"),
        (("--do_predict",), {}, "has no head that answers questions"),
        (
            ("--do_train",),
            {"evaluate_during_training": True},
            "--evaluate_during_training True: needs --do_pr",
        ),
        (("--do_train",), {"doc_stride": 0}, "--doc_stride 0"),
        (("--do_train",), {"max_query_length": 64}, "--max_query_length 64"),
        (("--do_train",), {"max_seq_length": 128}, "--max_seq_length 128"),
        (("--do_train",), {"electra_model": "nowhere"}, "--electra_model nowhere"),
        (("--do_train", "--version_2_with_negative"), {"train_file": "{data}/train-v1.1.json"}, "SQuAD 1.1"),
        (("--do_train",), {"train_file": "{data}/train-v2.0.json"}, "--version_2_with_negative"),
        (("--do_train",), {"train_file": "{data}/absent.json"}, "--train_file"),
        (("--do_train",), {"train_batch_size": 0}, "--train_batch_size 0"),
        (("--do_train", "--restore_checkpoint=nowhere"), {}, "--restore_checkpoint nowhere"),
        (("--do_train",), {"global_batch_size": 12}, "--global_batch_size 12"),
    ],
)
def test_mistakes_end_in_one_line_and_write_nothing(squad, flags, settings, message):
    settings = {k: str(v).format(data=squad.folder / "data") for k, v in settings.items()}
    if settings.get("global_batch_size"):
        settings["gradient_accumulation_steps"] = 1
    assert message in squad.error("mistake", *flags, **settings)
    assert not (squad.folder / "mistake" / "checkpoints").exists()


def test_an_output_folder_of_another_run_is_refused(squad, trained):
    assert "holds a run already" in squad.error(trained, "--do_train", "--joint_head=False")
    error = squad.error(trained, "--do_train", "--joint_head=False", "--restore_checkpoint", seed=7)
    assert "seed 42 -> 7" in error


def test_a_restart_on_other_answers_to_the_same_questions_is_refused(squad, trained, tmp_path):
    content = json.loads((squad.folder / "data" / "train-v1.1.json").read_text())
    paragraph = content["data"][0]["paragraphs"][3]
    (answer,) = paragraph["qas"][0]["answers"]
    first = paragraph["context"].split()[0]
    assert answer["answer_start"] > 0
    answer |= {"text": first, "answer_start": 0}
    path = _write(tmp_path / "train.json", content)
    error = squad.error(trained, "--do_train", "--joint_head=False", "--restore_checkpoint", train_file=path)
    assert "made with other settings: training_labels" in error


def test_another_vocabulary_is_refused(squad, tmp_path):
    vocabulary = (squad.folder / "encoder" / "vocab.txt").read_text()
    other = _write(tmp_path / "vocab.txt", vocabulary.replace("namea", "namez"))
    assert "is not the vocabulary of" in squad.error("other", "--do_train", vocab_file=other)


def test_answers_that_do_not_match_are_counted_and_listed(squad, tmp_path):
    content = json.loads((squad.folder / "data" / "train-v1.1.json").read_text())
    entry = content["data"][0]["paragraphs"][3]["qas"][0]
    entry["answers"][0]["answer_start"] += 1
    path = _write(tmp_path / "train.json", content)
    done = squad.run("odd", "--do_train", "--verbose_logging", train_file=path, max_steps=1)
    assert "1 questions cannot be trained on" in done.stdout and entry["id"] in done.stdout
    assert re.search(r"epochs of 119 windows", done.stdout)
