"""N workers are one worker: what they exchange, what they compute, and what they refuse. Real processes."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from squad_cases import CONFIG, write_encoder, write_questions
from training_runs import ROOT, Runs, one_line_error
from worker_jobs import NO_DROPOUT, Job, WorkerRuns, need_horovod

from command_line import UsageError
from configuration import accumulation_steps


def test_a_global_batch_that_does_not_divide_says_which_numbers_of_workers_do():
    assert accumulation_steps(96, 8, 1, 4) == 3
    with pytest.raises(UsageError, match=r"x 5 workers; .* divides among 1, 2, 3, 4, 6, 12 workers"):
        accumulation_steps(96, 8, 1, 5)
    with pytest.raises(UsageError, match=r"--global_batch_size 100: is no multiple of .* 8 x 1 workers$"):
        accumulation_steps(100, 8, 1, 1)


def test_one_of_several_without_horovod_says_what_to_install(runs: Runs, tmp_path):
    (tmp_path / "horovod").mkdir()
    (tmp_path / "horovod/__init__.py").write_text("raise ImportError('hidden')")
    environment = os.environ | {"HOROVOD_SIZE": "2", "HOROVOD_RANK": "0", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(runs.command("no_horovod"), capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and "install.sh --horovod" in one_line_error(done)


@pytest.mark.slow
def test_workers_exchange_what_each_of_them_knows(tmp_path):
    need_horovod()
    command = [sys.executable, str(ROOT / "tests/worker_program.py"), str(tmp_path / "said")]
    job = Job(2, command, tmp_path / "output")
    assert job.end(120) == 0, job.text
    first, second = (
        dict(map(json.loads, (tmp_path / f"said.{rank}").read_text().splitlines())) for rank in (0, 1)
    )
    assert first.pop("place") == [0, 2, 0, 2] and second.pop("place") == [1, 2, 1, 2]
    assert first.pop("agree") == 0 and second.pop("agree") == 10
    ends = {
        "mistake": ("UsageError: worker 1: a wrong flag", 2),
        "failure": ("RunFailure: the same everywhere", 3),
        "different": (
            f"UsageError: worker 1 on {os.uname().nodename} differs from worker 0 on {os.uname().nodename} "
            "in its code: b instead of a",
            2,
        ),
        "diverged": ("RunFailure: after update 7 the weights of worker 1 differ from the others'", 3),
    }
    for name, (message, code) in ends.items():
        assert first.pop(name) == message and second.pop(name) == f"exit {code}"
    assert first == second
    assert first["gather"] == [{"rank": 0, "text": ""}, {"rank": 1, "text": "ä"}]
    assert first["share"] == ["made by", 0]
    assert first["share on host"] == second["share on host"] == ["made by", 0]
    assert first["sums"] == {"n": [3, "int32"], "x": [[1.0, 1.0], "float32"]}
    assert first["alike"] == first["replicas"] == "went on"
    exact, short = first["gradients"]["False"], first["gradients"]["True"]
    assert exact == pytest.approx([3 / 7, 3 / 7, 3.0, 3e5], rel=1e-7)
    assert short == pytest.approx([3 / 7, 3 / 7, 3.0, 3e5], rel=1e-3) and short[0] != exact[0]


# Sequences of a micro-batch and micro-batches, for 1, 2 and 4 workers: always 8 sequences an update.
LAYOUTS = {
    "adam": {1: (2, 4), 2: (2, 2), 4: (2, 1)},
    "lamb": {1: (8, 1), 2: (4, 1)},
}


@pytest.fixture(scope="module")
def trained(workers: WorkerRuns) -> dict:
    """Weights after 20 updates and the log, by optimizer and number of workers."""
    found = {}
    for optimizer, layouts in LAYOUTS.items():
        for count, (batch, accumulation) in layouts.items():
            name = f"{optimizer}_{count}"
            settings = {
                "optimizer": optimizer,
                "train_batch_size": batch,
                "gradient_accumulation_steps": accumulation,
                "num_train_steps": 20,
                "save_checkpoints_steps": 20,
                "eval_tfrecords": workers.runs.shards(32) / "held_out",
                "check_replicas_steps": 10,
                **NO_DROPOUT,
            }
            if count == 1:
                workers.runs.run(name, "--deterministic", **settings)
            else:
                workers.run(name, count, "--deterministic", **settings)
            found[optimizer, count] = name
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "count"), [("adam", 2), ("adam", 4), ("lamb", 2)])
def test_n_workers_end_with_the_weights_of_one(trained, runs: Runs, optimizer, count):
    one, several = (runs.weights(trained[optimizer, number], "ckpt-20") for number in (1, count))
    assert one.keys() == several.keys()
    for name, value in one.items():
        np.testing.assert_allclose(several[name], value, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "count"), [("adam", 2), ("adam", 4), ("lamb", 2)])
def test_metrics_are_sums_over_all_workers(trained, runs: Runs, optimizer, count):
    unmeasured = {"train_perf", "tokens_per_second", "data_wait", "utilization"}
    of_several = {"worst_data_wait", "worst_data_wait_worker"}
    for read in (runs.logged, runs.evaluated):
        one, several = read(trained[optimizer, 1]), read(trained[optimizer, count])
        assert one.keys() == several.keys() and one
        for step, values in one.items():
            assert values.keys() == several[step].keys() - of_several
            if of_several & several[step].keys():
                assert several[step]["worst_data_wait"] >= several[step]["data_wait"]
                assert several[step]["worst_data_wait_worker"] in range(count)
            for name in values.keys() - unmeasured:
                # A token that rounding moves to the next bin of its histogram moves an AUC of so little text.
                near = {"abs": 5e-3} if "disc_auc" in name else {"rel": 1e-4, "abs": 1e-5}
                assert several[step][name] == pytest.approx(values[name], **near), name


@pytest.mark.slow
def test_another_number_of_workers_goes_on_with_the_same_sequences(workers: WorkerRuns, trained, runs: Runs):
    """Four micro-batches of one worker, stopped after 10 updates, go on as two of two, stopped again."""
    settings = {
        "train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "num_train_steps": 20,
        **NO_DROPOUT,
    }
    runs.run("relaid", "--deterministic", steps_this_run=10, **settings)
    for further in ({"steps_this_run": 5}, {}):
        job = workers.run("relaid", 2, "--deterministic", "--restore_checkpoint", **settings, **further)
        assert "2 per worker x 2 accumulated x 2 workers = 8 sequences" in job.text
    expected, found = (runs.weights(name, "ckpt-20") for name in (trained["adam", 1], "relaid"))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_a_worker_of_other_settings_ends_the_job_before_it_starts(workers: WorkerRuns, runs: Runs, tmp_path):
    command = runs.command("unlike")
    script = 'exec "$@" --seed=$((40 + HOROVOD_RANK))'
    job = Job(2, ["sh", "-c", script, "sh", *command], tmp_path / "output")
    assert job.end(60) == 2
    lines = [line for line in job.text.splitlines() if "run_pretraining.py: error:" in line]
    assert len(lines) == 1 and "worker 1" in lines[0] and "--seed: 41 instead of 40" in lines[0]
    assert not runs.folder("unlike").exists()


@pytest.mark.slow
def test_two_workers_fine_tune_and_answer_as_one_does(tmp_path):
    need_horovod()
    without_dropout = dataclasses.replace(CONFIG, **NO_DROPOUT)
    write_encoder(tmp_path / "encoder", without_dropout)
    write_questions(tmp_path / "questions", 50)

    def command(name: str, batch: int) -> list[str]:
        flags = {
            "electra_model": tmp_path / "encoder",
            "data_dir": tmp_path / "questions",
            "output_dir": tmp_path / name,
            "max_seq_length": 64,
            "max_query_length": 16,
            "train_batch_size": batch,
            "predict_batch_size": 4,
            "num_train_epochs": 2,
            "learning_rate": 3e-3,
            "version_2_with_negative": True,
        }
        words = [f"--{flag}={value}" for flag, value in flags.items()]
        return [sys.executable, str(ROOT / "run_tf_squad.py"), *words, "--do_train", "--do_eval"]

    subprocess.run(command("one", 8), check=True, capture_output=True)
    job = Job(2, command("two", 4), tmp_path / "output")
    assert job.end(120) == 0, job.text
    one, two = tmp_path / "one", tmp_path / "two"
    scores = [json.loads((folder / "eval_results.json").read_text()) for folder in (one, two)]
    # The best thresholds are odds, which two workers round otherwise.
    assert scores[1] == pytest.approx(scores[0], rel=1e-4)
    predictions = [json.loads((folder / "predictions.json").read_text()) for folder in (one, two)]
    assert predictions[0] == predictions[1]
    odds = [json.loads((folder / "null_odds.json").read_text()) for folder in (one, two)]
    assert list(odds[0]) == list(odds[1])
    np.testing.assert_allclose(list(odds[1].values()), list(odds[0].values()), atol=2e-2)
    assert "50 windows" in job.text and (two / "model/model.safetensors").exists()
