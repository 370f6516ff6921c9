"""The launchers: NVIDIA's positionals, names in the environment, exit codes and signals that travel."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from machine_trees import write_program
from training_runs import MODEL, ROOT, Runs

LAUNCHER = ROOT / "scripts" / "run_pretraining.sh"
RECIPES = ROOT / "scripts" / "configs" / "pretrain_config.sh"

# A stand-in for Python that records its arguments, and fails where FAIL_PHASE says so.
RECORDER = """#!/usr/bin/env bash
printf '%s\\n' "$@" '--end--' >> "$RECORD"
phase=1
for argument in "$@"; do [[ $argument != --phase2 ]] || phase=2; done
[[ ${FAIL_PHASE:-} != "$phase" ]] || exit 7
"""


@pytest.fixture
def launch(tmp_path):
    """Run the launcher with a recorder in Python's place; returns the process and the two phases' flags."""
    recorder = tmp_path / "python"
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    record = tmp_path / "record"

    def run(*arguments, **environment):
        record.unlink(missing_ok=True)
        settings = {"PYTHON": recorder, "RECORD": record, "RESULTS_DIR": tmp_path / "results"}
        environment = {name: str(value) for name, value in (settings | environment).items()}
        clean = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
        done = subprocess.run(
            ["bash", str(LAUNCHER), *map(str, arguments)],
            capture_output=True,
            text=True,
            env=clean | environment,
            timeout=60,
        )
        calls = record.read_text().split("--end--\n")[:-1] if record.exists() else []
        return done, [_flags(call.splitlines()) for call in calls]

    return run


def _flags(words: list[str]) -> dict[str, str]:
    """--name value pairs; a flag without a value is "yes"."""
    flags = {"program": words[0]}
    for position, word in enumerate(words):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            following = words[position + 1] if position + 1 < len(words) else "--"
            flags[name] = value if equals else ("yes" if following.startswith("--") else following)
    return flags


def _recipe(name: str) -> list[str]:
    command = f'source "{RECIPES}" && {name}'
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout.split()


def test_positionals_reach_both_phases_in_nvidias_order(launch):
    positionals = "11 6e-4 tf32 1 no_xla 21 101 51 false adam true 31 77 job 12 4e-4 22 102 32 small p1 p2"
    done, (first, second) = launch(*positionals.split())
    assert done.returncode == 0, done.stderr
    shared = {"precision": "tf32", "save_checkpoints_steps": "51", "optimizer": "adam", "seed": "77"}
    shared |= {"model_size": "small", "model_name": "small", "program": "run_pretraining.py"}
    own = {
        "train_batch_size": ("11", "12"),
        "learning_rate": ("6e-4", "4e-4"),
        "num_warmup_steps": ("21", "22"),
        "num_train_steps": ("101", "102"),
        "gradient_accumulation_steps": ("31", "32"),
        "pretrain_tfrecords": ("p1", "p2"),
        "config": ("configs/small_phase1.json", "configs/small_phase2.json"),
    }
    for name, value in shared.items():
        assert first[name] == second[name] == value, name
    for name, values in own.items():
        assert (first[name], second[name]) == values, name
    assert "phase2" not in first and "restore_checkpoint" not in first and "xla" not in first
    assert second["phase2"] == "yes" and second["restore_checkpoint"] == "latest"


@pytest.mark.parametrize(
    ("visible", "workers", "precision"),
    [
        (None, 8, "amp"),
        ("0,1", 2, "amp"),
        ("GPU-5,GPU-6,GPU-7,-1,GPU-8", 3, "amp"),
        ("3", 1, "amp"),
        ("", 1, "tf32"),
        ("-1", 1, "tf32"),
        ("1,9,2", 1, "amp"),
    ],
)
def test_a_launcher_takes_the_gpus_that_are_visible(
    launch, tmp_path, monkeypatch, visible, workers, precision
):
    """On a machine of eight."""
    write_program(tmp_path / "programs" / "nvidia-smi", "printf 'GPU %d: A100\n' {0..7}\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}:{os.environ['PATH']}")
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    done, calls = launch(PHASE=1, **environment)
    assert done.returncode == 0, done.stderr
    (flags,) = calls
    assert (flags.get("workers", "1"), flags["precision"]) == (str(workers), precision)
    assert ("xla" in flags) is (precision == "amp")


def test_names_in_the_environment_do_what_positionals_do(launch):
    environment = {
        "TRAIN_BATCH_SIZE_P1": 9,
        "LEARNING_RATE_P2": "1e-5",
        "MODEL_SIZE": "small",
        "MODEL_NAME": "mine",
        "XLA": "xla",
        "PRECISION": "amp",
        "VOCAB_FILE": "v.txt",
        "PACK_SEQUENCES_P2": "true",
    }
    done, (first, second) = launch(**environment)
    assert done.returncode == 0, done.stderr
    assert first["train_batch_size"] == "9" and "train_batch_size" not in second
    assert second["learning_rate"] == "1e-5" and "learning_rate" not in first
    assert second["pack_sequences"] == "true" and "pack_sequences" not in first
    for flags in (first, second):
        assert flags["model_name"] == "mine" and flags["xla"] == "yes" and flags["precision"] == "amp"
        assert flags["vocab_file"] == "v.txt"


def test_a_positional_wins_over_the_environment_and_the_rest_goes_on(launch):
    done, (first, second) = launch("5", "--", "--hidden_size", "64", "a b", TRAIN_BATCH_SIZE_P1=9)
    assert done.returncode == 0
    assert first["train_batch_size"] == "5"
    assert first["hidden_size"] == second["hidden_size"] == "64"


def test_each_phase_is_evaluated_on_its_own_held_out_shards(launch):
    _, (first, second) = launch(EVAL_TFRECORDS_P1="held_128/*", EVAL_TFRECORDS_P2="held_512/*")
    assert (first["eval_tfrecords"], second["eval_tfrecords"]) == ("held_128/*", "held_512/*")
    _, (first, second) = launch(EVAL_TFRECORDS_P2="held_512/*")
    assert "eval_tfrecords" not in first and second["eval_tfrecords"] == "held_512/*"


@pytest.mark.parametrize("words", [["--eval_tfrecords", "a"], ["--log_freq", "3", "--eval-tfrecords=a"]])
def test_held_out_shards_that_cannot_fit_both_phases_are_refused_before_the_first(launch, tmp_path, words):
    done, calls = launch("--", *words)
    assert done.returncode == 2 and not calls and len(done.stderr.splitlines()) == 1
    assert "--eval_tfrecords" in done.stderr and "EVAL_TFRECORDS_P1 and _P2" in done.stderr
    assert len(launch("--", *words, PHASE=2)[1]) == 1
    assert len(launch("--", *words, "--max_seq_length", "128")[1]) == 2
    config = ROOT / "configs" / "small_phase1.json"
    assert len(launch("--", *words, MODEL_SIZE="small", CONFIG_P2=config)[1]) == 2


def test_resuming_and_an_initial_checkpoint(launch):
    _, (first, _) = launch(RESUME_TRAINING="true")
    assert first["restore_checkpoint"] == "latest"
    _, (first, _) = launch(RESUME_TRAINING="true", INIT_CHECKPOINT="some/ckpt-5")
    assert first["restore_checkpoint"] == "some/ckpt-5"
    _, (first, second) = launch(ACCUMULATE_GRADIENTS="false", GRADIENT_ACCUMULATION_STEPS_P1=8)
    assert first["gradient_accumulation_steps"] == second["gradient_accumulation_steps"] == "1"


@pytest.mark.parametrize("name", ["RESTORE_CHECKPOINT", "restore_checkpoint"])
def test_a_second_phase_that_would_restore_nothing_is_refused_before_the_first(launch, name):
    """In NVIDIA's spelling too; it would end only after the first phase, which takes days."""
    for phase in ("both", "2"):
        done, calls = launch(**{name: "false", "PHASE": phase})
        assert done.returncode == 2 and not calls
        assert "PHASE=1 runs the first alone" in done.stderr and len(done.stderr.splitlines()) == 1
    done, calls = launch(**{name: "False"})
    assert done.returncode == 2 and not calls and "'False' is neither true nor false" in done.stderr
    assert len(launch(**{name: "false", "PHASE": "1"})[1]) == 1
    assert launch(**{name: "true"})[1][1]["restore_checkpoint"] == "latest"


def test_both_phases_start_as_many_workers_as_gpus_are_asked_for(launch, tmp_path):
    done, calls = launch(NUM_GPUS=4)
    assert done.returncode == 0, done.stderr
    for call in calls:
        assert call["program"] == "start_workers.py" and call["workers"] == "4"
        # What follows -- is the program's own command, with the same interpreter.
        assert call["model_size"] == "base"
    assert "--workers 4 -- " + str(tmp_path / "python") + " run_pretraining.py" in done.stdout
    assert launch(NUM_GPUS=1)[1][0]["program"] == "run_pretraining.py"


def test_both_phases_start_their_workers_on_the_hosts_that_are_named(launch):
    done, calls = launch(HOSTS="one:8,two.example:8", SSH_CONFIG="a b")
    assert done.returncode == 0 and len(calls) == 2, done.stderr
    for call in calls:
        assert call["program"] == "start_workers.py" and call["workers"] == "16"
        assert call["hosts"] == "one:8,two.example:8" and call["ssh_config"] == "a b"
    done, (call, _) = launch(HOSTS="one:8,two.example:8", NUM_GPUS=9)
    assert call["workers"] == "9" and "ssh_config" not in call


def test_a_failed_first_phase_never_starts_the_second(launch, tmp_path):
    done, calls = launch(FAIL_PHASE=1)
    assert done.returncode == 7 and len(calls) == 1
    assert "phase 1 ended with status 7" in done.stderr
    done, calls = launch(FAIL_PHASE=2)
    assert done.returncode == 7 and len(calls) == 2


def test_logs_have_nvidias_names(launch, tmp_path):
    launch(JOB_NAME="my_job", PRECISION="fp32")
    logs = sorted(path.name for path in (tmp_path / "results").glob("*.log"))
    assert [name.rsplit(".", 2)[0] for name in logs] == [
        "my_job.electra_pretraining_phase1_fp32",
        "my_job.electra_pretraining_phase2_fp32",
    ]


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        ([], {"NUM_GPUS": "two"}, "NUM_GPUS 'two'"),
        ([], {"PRECISION": "fp8"}, "PRECISION 'fp8'"),
        ([], {"XLA": "maybe"}, "XLA 'maybe'"),
        ([], {"HOSTS": "one:2,two"}, "'two' is not HOST:SLOTS"),
        ([], {"HOSTS": "one:2,two:2", "NUM_GPUS": 5}, "NUM_GPUS 5: HOSTS 'one:2,two:2' has 4 slots"),
        ([], {"MODEL_SIZE": "huge"}, "MODEL_SIZE 'huge'"),
        (range(25), {}, "more than 24 positionals"),
    ],
    ids=str,
)
def test_wrong_settings_stop_with_one_line(launch, arguments, environment, words):
    done, calls = launch(*arguments, **environment)
    assert done.returncode == 2 and not calls
    assert words in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"TRAIN_STEPS": "1"}, "TRAIN_STEPS '1' is no number over 1"),
        ({"ROUNDS": "0"}, "ROUNDS '0' is no positive number"),
        ({"ROUNDS": "many"}, "ROUNDS 'many'"),
    ],
    ids=str,
)
def test_a_benchmark_of_scaling_that_would_have_no_rate_is_refused_before_it_runs(environment, words):
    settings = {"PATH": os.environ["PATH"], "PYTHON": "false", "PRETRAIN_TFRECORDS": "shards"}
    done = subprocess.run(
        ["bash", str(ROOT / "scripts/benchmark_scaling.sh")],
        capture_output=True,
        text=True,
        env=settings | environment,
        timeout=60,
    )
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1


GLOBAL_BATCHES = {
    "dgxa100_8gpu_amp": (67_584, 27_648),
    "dgxa100_8gpu_tf32": (67_584, 27_648),
    "dgx2_16gpu_amp": (67_584, 27_648),
    "dgx2_16gpu_fp32": (67_584, 27_648),
    "dgx1_8gpu_amp": (67_584, 27_648),
    "dgx1_8gpu_fp32": (67_520, 27_648),
    "dgxa100_1gpu_amp": (67_584, 27_648),
    "dgxa100_1gpu_tf32": (67_584, 27_648),
    "dgx2_1gpu_amp": (67_584, 27_648),
    "dgx2_1gpu_fp32": (67_584, 27_648),
    "dgx1_1gpu_amp": (67_584, 27_648),
    "dgx1_1gpu_fp32": (67_560, 27_648),
    "small_1gpu": (128, 128),
    "cpu_smoke": (8, 2),
}


@pytest.mark.parametrize("name", GLOBAL_BATCHES)
def test_recipes_give_twenty_positionals_and_each_phase_its_global_batch(launch, name):
    words = _recipe(name)
    assert len(words) == 20
    done, calls = launch(*words)
    assert done.returncode == 0, done.stderr
    batches = [
        int(call["train_batch_size"]) * int(call["gradient_accumulation_steps"]) * int(call.get("workers", 1))
        for call in calls
    ]
    assert tuple(batches) == GLOBAL_BATCHES[name]


def test_configurations_hold_known_settings_and_nvidias_numbers():
    from command_line import from_dictionary
    from configuration import PretrainingConfig

    for path in sorted((ROOT / "configs").glob("*_phase?.json")):
        settings = json.loads(path.read_text()) | {"model_name": "x", "eval_tfrecords": "y"}
        settings["restore_checkpoint"] = "latest"
        from_dictionary(PretrainingConfig, settings, path.name)
    first, second = (json.loads((ROOT / "configs" / f"base_phase{n}.json").read_text()) for n in (1, 2))
    assert (first["learning_rate"], first["num_train_steps"], first["num_warmup_steps"]) == (
        6e-3,
        10_000,
        2_000,
    )
    assert (second["learning_rate"], second["num_train_steps"], second["num_warmup_steps"]) == (
        4e-3,
        933,
        200,
    )
    assert first["train_batch_size"] * 8 * first["gradient_accumulation_steps"] == 67_584
    assert second["train_batch_size"] * 8 * second["gradient_accumulation_steps"] == 27_648


@pytest.mark.slow
def test_both_phases_really_run_and_a_signal_reaches_the_training(runs: Runs, tmp_path):
    """The launcher with the real program: phase 2 after phase 1, and SIGTERM saves and gives 143."""
    environment = os.environ | {
        "PYTHON": sys.executable,
        "RESULTS_DIR": str(tmp_path),
        "PRETRAIN_TFRECORDS_P1": str(runs.shards(32)),
        "PRETRAIN_TFRECORDS_P2": str(runs.shards(64)),
        "MODEL_NAME": "launched",
        "TRAIN_BATCH_SIZE_P1": "4",
        "TRAIN_BATCH_SIZE_P2": "4",
        "GRADIENT_ACCUMULATION_STEPS_P1": "2",
        "GRADIENT_ACCUMULATION_STEPS_P2": "1",
        "WARMUP_STEPS_P1": "1",
        "WARMUP_STEPS_P2": "1",
        "TRAIN_STEPS_P1": "6",
        "TRAIN_STEPS_P2": "3",
    }
    flags = [f"--{name}={value}" for name, value in MODEL.items()]
    # Each phase's own length stands in its configuration; here both are shortened.
    configs = {}
    for phase, length in ((1, 32), (2, 64)):
        settings = json.loads((ROOT / "configs" / f"small_phase{phase}.json").read_text())
        configs[f"CONFIG_P{phase}"] = str(tmp_path / f"phase{phase}.json")
        (tmp_path / f"phase{phase}.json").write_text(json.dumps(settings | {"max_seq_length": length}))
    command = ["bash", str(LAUNCHER), "--", *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=environment | configs, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    folder = tmp_path / "models" / "launched" / "checkpoints"
    assert {"ckpt-6", "ckpt-p2-3"} <= {path.name for path in folder.iterdir()}

    shutil.rmtree(tmp_path / "models")
    process = subprocess.Popen(
        [*command, "--num_train_steps=100000", "--log_freq=5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment | configs,
    )
    for line in process.stdout:
        if line.startswith("Step:    10"):
            process.send_signal(signal.SIGTERM)
            break
    output = process.stdout.read()
    assert process.wait(timeout=60) == 143
    assert "saved" in output and "phase 2 starts" not in output
    assert len(list(folder.glob("ckpt-*"))) == 1
