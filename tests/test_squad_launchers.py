"""The SQuAD launchers: NVIDIA's positionals and names, modes, tables; exit codes and signals that travel."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from squad_cases import CONFIG, write_encoder, write_questions
from training_runs import ROOT

sys.path.append(str(ROOT / "scripts"))

import named_results

from command_line import from_dictionary, parse
from run_log import read_run
from squad_configuration import SquadConfig
from squad_data import content_sha256
from telemetry import read_dll_log

SCRIPTS = ROOT / "scripts"

# A stand-in for Python: it records its arguments, leaves what run_tf_squad.py would, waits for a signal where
# WAIT says so and takes time to save, and fails where FAIL_AT is in one of its arguments.
STAND_IN = f"""#!{sys.executable}
import json, os, pathlib, signal, sys, time

arguments = sys.argv[1:]
with open(os.environ["RECORD"], "a") as record:
    record.write(json.dumps(arguments) + "\\n")
if os.environ.get("FAIL_AT") and any(os.environ["FAIL_AT"] in argument for argument in arguments):
    print("failing", file=sys.stderr)
    sys.exit(7)
if arguments[0] == "run_inference.py":
    print("an answer")
if arguments[0] == "scripts/squad_checksums.py":
    print(os.environ.get("CHECKSUMS", ""))
if arguments[0] == "scripts/huggingface_squad_speed.py":
    what = "training" if "training" in arguments else "inference"
    print(json.dumps({{f"{{what}}_sequences_per_second": 4.5}}))
if arguments[0] in ("run_tf_squad.py", "scripts/huggingface_squad_scores.py"):
    words = [part for word in arguments for part in word.split("=", 1)]
    output = pathlib.Path(words[words.index("--output_dir") + 1])
    if os.environ.get("WAIT"):
        def save(number, frame):
            # As run_tf_squad.py does: a second signal ends it before it has saved.
            signal.signal(number, signal.SIG_DFL)
            time.sleep(1)
            os.write(1, b"saved\\n" * 1000)
            sys.exit(128 + number)
        signal.signal(signal.SIGTERM, save)
        print("training", flush=True)
        time.sleep(60)
    (output / "logs").mkdir(parents=True, exist_ok=True)
    version_2 = "--version_2_with_negative" in words
    scores = {{"exact" if version_2 else "exact_match": 36.75, "f1": 48.5, "HasAns_f1": 1.0}}
    (output / "eval_results.json").write_text(json.dumps(scores, indent=2))
    latencies = {{"p50": 1.5, "p90": 2.5, "p95": 3.5, "p99": 4.5, "p99.9": 5.5, "max": 6.5, "mean": 7.5}}
    lines = [{{"data": {{"training_sequences_per_second": 12.25}}}}]
    lines += [{{"data": {{"inference_sequences_per_second": 99.5}}}}]
    lines[-1]["data"] |= {{f"latency_{{name}}": value for name, value in latencies.items()}}
    log = [{{"metric": "training_sequences_per_second", "metadata": {{"unit": "sequences/s"}}}}] + lines
    (output / "logs" / "dllogger.log").write_text("".join("DLLL " + json.dumps(line) + "\\n" for line in log))
"""


class Launcher:
    """Launchers with the stand-in in Python's place; `folder` is where they may write."""

    def __init__(self, folder: Path):
        self.folder, self._record, self._python = folder, folder / "record", folder / "python"
        self._python.write_text(STAND_IN)
        self._python.chmod(0o755)
        self.timeout = 60
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "TMPDIR": str(folder),
            "PYTHON": str(self._python),
            "RECORD": str(self._record),
            "OUT_DIR": str(folder / "out"),
        }

    def __call__(self, script: str, *arguments, **environment):
        """Run it to its end; returns the process, and the arguments of each program that it started."""
        done = subprocess.run(
            self.command(script, *arguments),
            capture_output=True,
            text=True,
            env=self.environment | {name: str(value) for name, value in environment.items()},
            timeout=self.timeout,
        )
        return done, self.calls()

    def command(self, script: str, *arguments) -> list[str]:
        return ["bash", str(SCRIPTS / script), *map(str, arguments)]

    def calls(self) -> list[list[str]]:
        """Arguments of each program that was started since the last call."""
        lines = self._record.read_text().splitlines() if self._record.exists() else []
        self._record.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    def squad(self, *arguments, **environment) -> SquadConfig:
        """The settings that run_tf_squad.py gets from run_squad.sh."""
        done, (call,) = self("run_squad.sh", *arguments, **environment)
        assert done.returncode == 0, done.stderr
        return settings(call)


def settings(call: list[str]) -> SquadConfig:
    """A recorded call of run_tf_squad.py as that program reads it: unknown flags do not pass."""
    assert call[0] == "run_tf_squad.py"
    return parse(SquadConfig, call[1:], description="x")


@pytest.fixture
def launch(tmp_path) -> Launcher:
    return Launcher(tmp_path)


def recipe(name: str, **environment) -> list[str]:
    command = f'source "{SCRIPTS}/configs/squad_config.sh" && {name}'
    return subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"]} | environment,
    ).stdout.split()


# -------------------------------------------------------------------------------------------- run_squad.sh

POSITIONALS = {
    "ELECTRA_MODEL": "small",
    "EPOCHS": "3",
    "TRAIN_BATCH_SIZE": "12",
    "INFER_BATCH_SIZE": "96",
    "LEARNING_RATE": "3e-5",
    "PRECISION": "fp32",
    "NUM_GPU": "1",
    "SEED": "7",
    "SQUAD_VERSION": "2.0",
    "SQUAD_DIR": "questions",
    "OUT_DIR": "",
    "INIT_CHECKPOINT": "weights",
    "MODE": "train_eval",
    "ENVIRONMENT": "cluster",
    "CACHE_DIR": "features",
    "MAX_STEPS": "11",
}
EXPECTED = {
    "electra_model": "small",
    "num_train_epochs": 3.0,
    "train_batch_size": 12,
    "predict_batch_size": 96,
    "learning_rate": 3e-5,
    "precision": "fp32",
    "seed": 7,
    "version_2_with_negative": True,
    "data_dir": "questions",
    "init_checkpoint": "weights",
    "cache_dir": "features",
    "max_steps": 11,
    "do_train": True,
    "do_predict": True,
    "do_eval": True,
}


def test_positionals_and_names_in_the_environment_mean_the_same(launch):
    values = POSITIONALS | {"OUT_DIR": str(launch.folder / "results")}
    by_position = launch.squad(*values.values())
    by_name = launch.squad(**values)
    assert by_position == by_name
    for name, value in EXPECTED.items():
        assert getattr(by_position, name) == value, name
    assert by_position.output_dir == str(launch.folder / "results")


def test_defaults_are_nvidias_with_a_seed_that_is_fixed(launch):
    config = launch.squad()
    assert config.electra_model == "google/electra-base-discriminator"
    assert (config.num_train_epochs, config.train_batch_size, config.predict_batch_size) == (2, 16, 128)
    assert (config.beam_size, config.warmup_proportion, config.layerwise_lr_decay) == (5, 0.05, 0.8)
    assert (config.max_seq_length, config.doc_stride, config.joint_head) == (384, 128, True)
    assert (config.max_steps, config.weight_decay_rate, config.init_checkpoint) == (-1, 0.01, "")
    assert config.data_dir == "data/download/squad/v1.1"
    assert not config.version_2_with_negative and not config.restore_checkpoint
    assert config.seed == launch.squad().seed == 42
    assert launch.squad(DATA_PREP_WORKING_DIR="prepared").data_dir == "prepared/download/squad/v1.1"
    assert launch.squad(RESUME_TRAINING="true").restore_checkpoint == "latest"


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("train", (True, False, False)),
        ("eval", (False, True, True)),
        ("prediction", (False, True, False)),
        ("train_eval", (True, True, True)),
    ],
)
def test_modes(launch, mode, expected):
    config = launch.squad(MODE=mode, RESUME_TRAINING="true")
    assert (config.do_train, config.do_predict, config.do_eval) == expected
    assert config.restore_checkpoint == ("latest" if "train" in mode else "")


def test_version_2_has_nvidias_threshold_for_whichever_head_is_joint(launch):
    """In eval the weights alone say which head it is, so the launcher must not decide for them."""
    for mode in ("train_eval", "eval"):
        config = launch.squad(SQUAD_VERSION="2.0", MODE=mode)
        assert config.version_2_with_negative and config.data_dir == "data/download/squad/v2.0"
        assert (config.null_threshold(joint_head=True), config.null_threshold(joint_head=False)) == (-5.6, 0)
    config = launch.squad("--", "--null_score_diff_threshold", "1.5", SQUAD_VERSION="2.0")
    assert config.null_threshold(joint_head=True) == config.null_threshold(joint_head=False) == 1.5


def test_what_follows_the_dashes_goes_on_and_wins(launch):
    _, (call,) = launch("run_squad.sh", "small", "--", "--beam_size", "2", "--vocab_file", "a b", SEED=3)
    config = settings(call)
    assert (config.electra_model, config.seed, config.beam_size, config.vocab_file) == ("small", 3, 2, "a b")
    assert call[-4:] == ["--beam_size", "2", "--vocab_file", "a b"]


def test_the_initial_checkpoint_is_for_answering_as_in_nvidias(launch):
    """Its recipes name the model that training is to leave; training from it would be another run."""
    assert launch.squad(INIT_CHECKPOINT="tuned", MODE="eval").init_checkpoint == "tuned"
    done, (call,) = launch("run_squad.sh", INIT_CHECKPOINT="tuned", ELECTRA_MODEL="a/b", MODE="train")
    assert settings(call).init_checkpoint == ""
    assert "note: training starts from a/b; INIT_CHECKPOINT tuned is for eval and prediction" in done.stdout
    assert (
        launch.squad(INIT_CHECKPOINT="weights", ELECTRA_MODEL="base", MODE="train").init_checkpoint
        == "weights"
    )


def test_eval_takes_the_model_that_was_fine_tuned_in_the_folder(launch):
    model = launch.folder / "out" / "model"
    model.mkdir(parents=True)
    assert launch.squad(MODE="eval").init_checkpoint == str(model)
    assert launch.squad(MODE="eval", ELECTRA_MODEL="other").init_checkpoint == ""
    assert launch.squad(MODE="train_eval").init_checkpoint == ""


def test_mixed_precision_brings_xla_only_where_there_is_a_gpu(launch):
    assert launch.squad().precision == "tf32"
    assert not launch.squad(PRECISION="amp").xla
    assert launch.squad(PRECISION="tf32", XLA="xla").xla
    tools = launch.folder / "tools"
    tools.mkdir()
    (tools / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU 0: a card'\n")
    (tools / "nvidia-smi").chmod(0o755)
    launch.environment["PATH"] = f"{tools}:{os.environ['PATH']}"
    config = launch.squad()
    assert config.precision == "amp" and config.xla
    assert not launch.squad(PRECISION="tf32").xla
    assert not launch.squad(PRECISION="amp", XLA="no_xla").xla


def test_as_many_workers_start_as_gpus_are_asked_for(launch):
    done, (call,) = launch("run_squad.sh", NUM_GPU=8)
    assert done.returncode == 0, done.stderr
    python = launch.environment["PYTHON"]
    assert call[:6] == ["start_workers.py", "--workers", "8", "--", python, "run_tf_squad.py"]
    assert settings(call[5:]).do_train


def test_on_a_cluster_each_task_is_one_worker_as_in_nvidias(launch):
    """Its recipes give the number of GPUs, but srun has started that many of this script already."""
    done, (call,) = launch("run_squad.sh", NUM_GPU=8, ENVIRONMENT="cluster")
    assert done.returncode == 0, done.stderr
    assert settings(call).do_train


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        ([], {"NUM_GPU": "many"}, "NUM_GPU 'many'"),
        ([], {"PRECISION": "fp8"}, "PRECISION 'fp8'"),
        ([], {"XLA": "maybe"}, "XLA 'maybe'"),
        ([], {"MODE": "predict"}, "MODE 'predict'"),
        ([], {"SQUAD_VERSION": "3"}, "SQUAD_VERSION '3'"),
        ([], {"ENVIRONMENT": "cloud"}, "ENVIRONMENT 'cloud'"),
        ([], {"ENVIRONMENT": "cluster", "START": "srun"}, "START=srun would start others"),
        ([], {"ENVIRONMENT": "cluster", "HOSTS": "one:2"}, "HOSTS=one:2 would start others"),
        ([], {"ENVIRONMENT": "cluster", "RESTARTS": 2}, "RESTARTS 2: not with ENVIRONMENT cluster"),
        (range(17), {}, "more than 16 positionals"),
    ],
    ids=str,
)
def test_wrong_settings_stop_with_one_line(launch, arguments, environment, words):
    done, calls = launch("run_squad.sh", *arguments, **environment)
    assert done.returncode == 2 and not calls
    assert done.stderr.startswith("run_squad.sh: error: ")
    assert words in done.stderr and len(done.stderr.splitlines()) == 1


def test_exit_code_and_all_output_reach_the_caller_and_the_log(launch):
    done, _ = launch("run_squad.sh", FAIL_AT="run_tf_squad.py")
    log = launch.folder / "out" / "logfile.txt"
    assert done.returncode == 7
    assert f"train_eval ended with status 7, see {log}" in done.stderr
    assert "failing" in done.stdout and "failing" in log.read_text()
    launch("run_squad.sh", SEED=5)
    assert log.read_text().count("train_eval: ") == 2 and "--seed=5" in log.read_text()


def test_a_signal_reaches_the_training_which_has_time_to_save(launch):
    """And no output is lost, neither at the caller nor in the log."""
    process = subprocess.Popen(
        launch.command("run_squad.sh"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=launch.environment | {"WAIT": "1"},
    )
    for line in process.stdout:
        if line.startswith("training"):
            process.send_signal(signal.SIGTERM)
            break
    output = process.stdout.read()
    assert process.wait(timeout=30) == 143
    assert output.count("saved") == 1000
    assert (launch.folder / "out" / "logfile.txt").read_text().count("saved") == 1000


# NVIDIA's table: GPUs, batch, learning rate, batch of prediction, precision.
RECIPES = {
    "dgxa100_8gpu_amp": (8, 32, 8e-4, 512, "amp"),
    "dgxa100_8gpu_tf32": (8, 32, 8e-4, 512, "tf32"),
    "dgx2_16gpu_amp": (16, 32, 1e-3, 256, "amp"),
    "dgx2_16gpu_fp32": (16, 32, 1e-3, 256, "fp32"),
    "dgx1_8gpu_amp": (8, 16, 4e-4, 256, "amp"),
    "dgx1_8gpu_fp32": (8, 8, 3e-4, 256, "fp32"),
    "dgx1_8gpu_amp_v2": (8, 16, 4e-4, 256, "amp"),
    "dgxa100_1gpu_amp": (1, 32, 2e-4, 512, "amp"),
    "dgxa100_1gpu_tf32": (1, 32, 2e-4, 512, "tf32"),
    "dgx2_1gpu_amp": (1, 32, 2e-4, 256, "amp"),
    "dgx2_1gpu_fp32": (1, 32, 2e-4, 256, "fp32"),
    "dgx1_1gpu_amp": (1, 16, 1e-4, 256, "amp"),
    "dgx1_1gpu_fp32": (1, 8, 1e-4, 256, "fp32"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_give_nvidias_first_twelve_positionals(launch, name):
    words = recipe(name)
    assert len(words) == 12 and words[0] == "google/electra-base-discriminator"
    found = (int(words[6]), int(words[2]), float(words[4]), int(words[3]), words[5])
    assert found == RECIPES[name]
    is_v2 = name.endswith("_v2")
    assert words[1] == ("3" if is_v2 else "2") and words[7] == "1"
    assert words[8:10] == (
        ["2.0", "data/download/squad/v2.0"] if is_v2 else ["1.1", "data/download/squad/v1.1"]
    )
    if words[6] == "1":
        out = str(launch.folder / "out")
        words = recipe(name, OUT_DIR=out)
        assert not launch.squad(*words, "train_eval").init_checkpoint
        assert launch.squad(*words, "eval").init_checkpoint == f"{out}/model"


def test_the_smoke_recipe_is_a_whole_command_of_few_updates(launch):
    words = recipe("cpu_smoke", OUT_DIR=str(launch.folder / "out"), SQUAD_DIR="questions")
    config = launch.squad(*words)
    assert config.electra_model == "quickstart/minilm" and config.data_dir == "questions"
    assert config.do_train and config.do_eval and config.max_steps == 20 and config.cache_dir == ""


# -------------------------------------------------------------------------------- finetune_ckpts_on_squad.sh


@pytest.fixture
def pretrained(launch) -> Path:
    """A pre-training run's folder of checkpoints, with what else may lie in it."""
    folder = launch.folder / "models" / "base" / "checkpoints"
    for name in ("ckpt-5", "ckpt-40", "ckpt-100", "ckpt-p2-3", "ckpt-p2-20", ".ckpt-200.1.tmp"):
        (folder / name).mkdir(parents=True)
    (folder / "pretrain_config.json").write_text("{}")
    del launch.environment["OUT_DIR"]
    launch.environment["checkpoints"] = str(folder)
    return folder


def table(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text().splitlines()]


def test_every_checkpoint_of_both_phases_is_fine_tuned_once_into_one_table(launch, pretrained):
    done, calls = launch("finetune_ckpts_on_squad.sh", "--", "--max_questions", "9", EPOCHS=1)
    assert done.returncode == 0, done.stderr
    names = ["ckpt-5", "ckpt-40", "ckpt-100", "ckpt-p2-3", "ckpt-p2-20"]
    configs = [settings(call) for call in calls]
    assert [config.electra_model for config in configs] == [f"{pretrained}/{name}" for name in names]
    assert len({config.output_dir for config in configs}) == len(names)
    assert {config.cache_dir for config in configs} == {f"{pretrained.parent}/squad/cache"}
    for config in configs:
        assert config.do_train and config.do_eval and config.restore_checkpoint == "latest"
        assert config.max_questions == 9 and config.num_train_epochs == 1 and not config.init_checkpoint
    scores = pretrained.parent / "squad" / "squad_scores.tsv"
    rows = [
        [name, step, "36.75", "48.5"] for name, step in zip(names, ["5", "40", "100", "3", "20"], strict=True)
    ]
    assert table(scores) == [["checkpoint", "step", "EM", "F1"], *rows]
    assert "ckpt-p2-20                   20    36.75     48.5" in done.stdout

    (pretrained / "ckpt-p2-40").mkdir()
    done, calls = launch("finetune_ckpts_on_squad.sh", "--", "--max_questions", "9", EPOCHS=1)
    assert done.returncode == 0 and [call[1] for call in calls] == [
        f"--electra_model={pretrained}/ckpt-p2-40"
    ]
    assert table(scores)[-1] == ["ckpt-p2-40", "40", "36.75", "48.5"]


def test_a_checkpoint_that_fails_ends_the_series_and_is_taken_up_again(launch, pretrained):
    done, calls = launch("finetune_ckpts_on_squad.sh", FAIL_AT="ckpt-100", SQUAD_VERSION="2.0")
    assert done.returncode == 7 and len(calls) == 3
    scores = pretrained.parent / "squad" / "squad_scores.tsv"
    assert [row[0] for row in table(scores)] == ["checkpoint", "ckpt-5", "ckpt-40"]
    done, calls = launch("finetune_ckpts_on_squad.sh", SQUAD_VERSION="2.0")
    assert done.returncode == 0 and len(calls) == 3
    assert table(scores)[-1] == ["ckpt-p2-20", "20", "36.75", "48.5"]


def test_one_table_holds_scores_of_one_kind(launch, pretrained):
    assert launch("finetune_ckpts_on_squad.sh")[0].returncode == 0
    names = ("EPOCHS", "NUM_GPU", "HOSTS", "VOCAB_FILE", "SQUAD_DIR", "DATA_PREP_WORKING_DIR")
    for arguments, environment in (*(([], {name: 3}) for name in names), (["--", "--beam_size", "2"], {})):
        done, calls = launch("finetune_ckpts_on_squad.sh", *arguments, **environment)
        assert done.returncode == 2 and not calls
        assert "made with other settings" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_series_without_checkpoints_or_with_positionals_is_refused(launch, pretrained):
    done, _ = launch("finetune_ckpts_on_squad.sh", checkpoints=launch.folder)
    assert done.returncode == 2 and f"checkpoints {launch.folder}: no checkpoints there" in done.stderr
    done, _ = launch("finetune_ckpts_on_squad.sh", "base")
    assert done.returncode == 2 and "more than 0 positionals" in done.stderr
    done, _ = launch("finetune_ckpts_on_squad.sh", checkpoints="a b", OUT_DIR=launch.folder)
    assert done.returncode == 2 and "several folders" in done.stderr


# --------------------------------------------------------------------------------------- benchmark_squad.sh

TIMES = ["1.5", "2.5", "3.5", "4.5", "5.5", "6.5", "7.5"]


def test_a_benchmark_has_a_row_for_each_precision_and_batch_and_saves_nothing(launch):
    done, calls = launch(
        "benchmark_squad.sh",
        "--",
        "--max_questions=50",
        ELECTRA_MODEL="weights",
        PRECISION="tf32,bf16",
        TRAIN_BATCH_SIZE="8 16",
        INFER_BATCH_SIZE="32",
        SQUAD_DIR="questions",
    )
    assert done.returncode == 0, done.stderr
    head = ["what", "precision", "batch", "sequences/s", "p50", "p90", "p95", "p99", "p99.9", "max", "mean"]
    rows = [
        row
        for precision in ("tf32", "bf16")
        for row in (
            ["training", precision, "8", "12.25", *["-"] * 7],
            ["training", precision, "16", "12.25", *["-"] * 7],
            ["answering", precision, "32", "99.5", *TIMES],
        )
    ]
    out = launch.folder / "out"
    assert table(out / "squad_benchmark.tsv") == [head, *rows]
    assert "answering               bf16          32         99.5" in done.stdout

    configs = [settings(call) for call in calls]
    assert [(c.do_train, c.do_predict) for c in configs] == 2 * [(True, False), (True, False), (True, True)]
    for config in configs:
        assert config.skip_checkpoint and not config.restore_checkpoint
        assert config.electra_model == "weights" and config.data_dir == "questions"
        assert config.max_questions == 50
        assert not Path(config.output_dir).exists() and not config.output_dir.startswith(str(out))
    assert [(c.train_batch_size, c.max_steps) for c in configs[:3]] == [(8, 200), (16, 200), (1, 1)]
    assert configs[2].predict_batch_size == 32
    assert [path.name for path in out.iterdir()] == ["squad_benchmark.tsv"]
    assert sorted(path.name for path in launch.folder.iterdir()) == ["out", "python"]


def test_a_benchmark_against_hugging_face_measures_theirs_after_each_of_ours(launch):
    weights = launch.folder / "weights"
    weights.mkdir()
    settings = {
        "AGAINST": "huggingface",
        "ELECTRA_MODEL": weights,
        "SQUAD_DIR": "questions",
        "MAX_STEPS": 9,
    }
    done, calls = launch("benchmark_squad.sh", PRECISION="bf16", INFER_BATCH_SIZE="2", **settings)
    assert done.returncode == 0, done.stderr
    theirs = "scripts/huggingface_squad_speed.py"
    assert calls.pop(0) == ["-c", "import torch, transformers"]
    assert programs(calls) == ["run_tf_squad.py", theirs, "run_tf_squad.py", theirs]
    same = ["--max_steps", "9", "--electra_model", str(weights), "--data_dir", "questions"]
    assert calls[1][1:] == ["--what", "training", "--batch_size", "16", "--precision", "bf16", *same]
    assert calls[3][1:] == ["--what", "answering", "--batch_size", "2", "--precision", "bf16", *same]
    rows = table(launch.folder / "out" / "squad_benchmark.tsv")[1:]
    assert [row[:4] for row in rows] == [
        ["training", "bf16", "16", "12.25"],
        ["training (huggingface)", "bf16", "16", "4.5"],
        ["answering", "bf16", "2", "99.5"],
        ["answering (huggingface)", "bf16", "2", "4.5"],
    ]
    for wrong in ({"AGAINST": "nobody"}, {"AGAINST": "huggingface", "SQUAD_VERSION": "2.0"}):
        done, calls = launch("benchmark_squad.sh", **wrong)
        assert done.returncode == 2 and not calls and "AGAINST" in done.stderr


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"ELECTRA_MODEL": ""}, "ELECTRA_MODEL '' is no folder"),
        ({"ELECTRA_MODEL": "google/electra-small-discriminator"}, "is no folder"),
        ({"PRECISION": "bf16 amp"}, "not in PRECISION amp"),
        ({"FAIL_AT": "import torch"}, "needs torch and transformers"),
    ],
    ids=str,
)
def test_what_hugging_face_cannot_do_is_said_before_anything_is_measured(launch, environment, words):
    settings = {"AGAINST": "huggingface", "ELECTRA_MODEL": launch.folder, "PRECISION": "bf16"} | environment
    done, calls = launch("benchmark_squad.sh", **settings)
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1
    assert "run_tf_squad.py" not in programs(calls)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["training", "answering"])
def test_hugging_faces_speed_is_measured_with_their_model(what, tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    weights = tmp_path / "weights"
    write_encoder(weights, dataclasses.replace(CONFIG, max_position_embeddings=384))
    write_questions(tmp_path, 6)
    command = [sys.executable, "scripts/huggingface_squad_speed.py", "--what", what, "--batch_size", "2"]
    done = subprocess.run(
        [*command, "--electra_model", str(weights), "--data_dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    kind = "training" if what == "training" else "inference"
    result = json.loads(done.stdout)
    assert list(result) == [f"{kind}_sequences_per_second"] and result.popitem()[1] > 0


@pytest.mark.slow
def test_hugging_faces_model_learns_to_answer_and_is_scored_by_the_evaluation_program(tmp_path, run_program):
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    weights, out = tmp_path / "weights", tmp_path / "out"
    write_encoder(weights, dataclasses.replace(CONFIG, max_position_embeddings=384))
    write_questions(tmp_path, 120)
    words = ["--electra_model", weights, "--data_dir", tmp_path, "--output_dir", out, "--max_questions", "90"]
    words += ["--learning_rate", "1e-2", "--num_train_epochs", "12"]
    done = run_program("scripts/huggingface_squad_scores.py", *words)
    assert done.returncode == 0, done.stderr
    scores = json.loads((out / "eval_results.json").read_text())
    assert scores["exact_match"] > 90 and json.loads(done.stdout.splitlines()[-1]) == scores
    predictions = json.loads((out / "predictions.json").read_text())
    assert len(predictions) == 90
    scored = run_program("squad_evaluation.py", tmp_path / "dev-v1.1.json", out / "predictions.json")
    # Of the 120 questions 30 were not asked, and count as wrong there.
    assert json.loads(scored.stdout)["f1"] * 120 == pytest.approx(scores["f1"] * 90)
    # A record takes the log. Each question is one window: 12 * 90 / 16 updates, a line for ten of them.
    assert named_results.read_squad(out).logs == {"fine_tuning": out / "logs" / "dllogger.log"}
    run = read_run(str(out))
    (phase,) = run.phases
    assert list(phase.training) == [10, 20, 30, 40, 50, 60, 68] and run.settings["learning_rate"] == 1e-2
    assert all(rate > 0 for _, rate in phase.points("training", "train_perf"))
    # 6 updates of warm-up, then linearly to 0 after the last one: 0.01 * (68 - 29) / (68 - 6).
    assert dict(phase.points("training", "learning_rate"))[30] == pytest.approx(0.01 * 39 / 62)
    losses = dict(phase.points("training", "step_loss"))
    assert losses[68] < 0.1 * losses[10]
    logged = {}
    for event in read_dll_log(run.path):
        logged |= event.get("data", {})
    assert (logged["exact_match"], logged["F1"]) == (scores["exact_match"], scores["f1"])
    assert logged["final_loss"] == losses[68] and logged["training_sequences_per_second"] > 0
    report = run_program("run_report.py", out, "--output", tmp_path / "report.html")
    assert report.returncode == 0, report.stderr
    assert "total loss" in (tmp_path / "report.html").read_text()


def test_a_benchmark_takes_nvidias_positionals(launch):
    out = launch.folder / "elsewhere"
    words = ["prediction", 1, 4, 24, "fp32", "2.0", "questions", out, "tuned", "features"]
    done, (call,) = launch("benchmark_squad.sh", *words)
    assert done.returncode == 0, done.stderr
    config = settings(call)
    assert not config.do_train and config.do_predict and config.predict_batch_size == 24
    assert config.precision == "fp32" and config.version_2_with_negative and config.data_dir == "questions"
    assert config.init_checkpoint == "tuned" and config.cache_dir == "features"
    assert [row[:3] for row in table(out / "squad_benchmark.tsv")[1:]] == [["answering", "fp32", "24"]]
    _, (call,) = launch("benchmark_squad.sh", "train", 1, 4)
    config = settings(call)
    assert (config.train_batch_size, config.learning_rate, config.num_train_epochs) == (4, 8e-4, 1)


def test_a_benchmark_that_fails_has_the_programs_exit_code_and_leaves_no_table(launch):
    done, calls = launch("benchmark_squad.sh", FAIL_AT="--precision=tf32", PRECISION="tf32 fp32")
    assert done.returncode == 7 and len(calls) == 1
    assert not (launch.folder / "out" / "squad_benchmark.tsv").exists()
    for environment in ({"NUM_GPU": 0}, {"MODE": "all"}, {"PRECISION": "tf32 fp8"}):
        done, calls = launch("benchmark_squad.sh", **environment)
        assert done.returncode == 2 and not calls
        assert len(done.stderr.splitlines()) == 1


# -------------------------------------------------------------------------------------- quickstart_squad.sh


@pytest.fixture
def quickstart(launch) -> Launcher:
    """With a folder of its own, and the package's weights in it."""
    del launch.environment["OUT_DIR"]
    launch.environment |= {"QUICKSTART_DIR": str(launch.folder / "quickstart"), "SQUAD_DIR": "questions"}
    (launch.folder / "quickstart" / "minilm").mkdir(parents=True)
    (launch.folder / "quickstart" / "minilm" / "model.safetensors").write_bytes(b"weights")
    return launch


def programs(calls: list[list[str]]) -> list[str]:
    return [call[0] for call in calls]


def test_one_command_fine_tunes_scores_and_answers_three_questions(quickstart):
    done, calls = quickstart(
        "quickstart_squad.sh", "--init", "minilm", "--max_questions", "60", PRECISION="fp32"
    )
    assert done.returncode == 0, done.stderr
    before = ["data/package_files.py", "scripts/squad_checksums.py"]
    assert programs(calls) == [*before, "run_tf_squad.py", *["run_inference.py"] * 3]
    folder = quickstart.folder / "quickstart"
    out = folder / "squad_minilm_first_60"
    config = settings(calls[2])
    assert config.electra_model == str(folder / "minilm") and config.output_dir == str(out)
    assert config.do_train and config.do_eval and config.restore_checkpoint == "latest"
    assert (config.max_questions, config.precision, config.seed) == (60, "fp32", 42)
    for call in calls[3:]:
        flags = dict(zip(call[1::2], call[2::2], strict=True))
        assert flags["--electra_model"] == str(out / "model")
        assert flags["--question"].endswith("?") and "Danube" in flags["--context"]
    assert len({call[4] for call in calls[3:]}) == 3
    assert done.stdout.count("an answer") == 3
    assert "exact match 36.75, F1 48.50" in done.stdout
    assert f"run_inference.py --electra_model {out}/model" in done.stdout
    again, calls = quickstart("quickstart_squad.sh", "--init=minilm", "--max-questions=60", PRECISION="fp32")
    assert again.returncode == 0 and settings(calls[2]) == config


def test_the_same_is_fine_tuned_by_hugging_face_in_a_folder_of_its_own(quickstart):
    words = ("--init", "minilm", "--max_questions", "60")
    done, calls = quickstart("quickstart_squad.sh", *words, "--huggingface", SEED=3, PRECISION="tf32")
    assert done.returncode == 0, done.stderr
    out = str(quickstart.folder / "quickstart" / "squad_minilm_first_60_huggingface_seed_3")
    before = ["data/package_files.py", "scripts/squad_checksums.py"]
    assert programs(calls) == [*before, "scripts/huggingface_squad_scores.py"]
    flags = dict(zip(calls[2][1::2], calls[2][2::2], strict=True))
    assert flags == {
        "--precision": "fp32",
        "--electra_model": str(quickstart.folder / "quickstart" / "minilm"),
        "--data_dir": "questions",
        "--output_dir": out,
        "--seed": "3",
        "--max_questions": "60",
    }
    assert "exact match 36.75, F1 48.50" in done.stdout and "an answer" not in done.stdout


def test_the_quickstarts_discriminator_is_taken_where_there_is_one(quickstart):
    done, calls = quickstart("quickstart_squad.sh")
    assert "starting from the package's weights" in done.stdout
    assert settings(calls[2]).electra_model.endswith("quickstart/minilm")
    exported = quickstart.folder / "quickstart/results/models/quickstart/exports/discriminator"
    exported.mkdir(parents=True)
    (exported / "model.safetensors").write_bytes(b"one")
    done, calls = quickstart("quickstart_squad.sh", SEED=7)
    assert programs(calls)[:2] == ["scripts/squad_checksums.py", "run_tf_squad.py"]
    config = settings(calls[1])
    assert config.electra_model == str(exported) and config.seed == 7
    assert config.output_dir.endswith("quickstart/squad_quickstart_seed_7")

    (exported / "model.safetensors").write_bytes(b"two")
    done, calls = quickstart("quickstart_squad.sh", SEED=7)
    assert done.returncode == 2 and not calls
    assert "fine-tuned from other weights" in done.stderr and len(done.stderr.splitlines()) == 1


def test_questions_are_downloaded_unless_a_folder_has_them(quickstart):
    del quickstart.environment["SQUAD_DIR"]
    done, calls = quickstart("quickstart_squad.sh", SQUAD_URL="http://127.0.0.1:1/mirror")
    assert done.returncode == 0, done.stderr
    words = ["--output_dir", "data/download/squad/v1.1", "--url", "http://127.0.0.1:1/mirror"]
    assert calls[1] == ["data/squad_download.py", *words]
    assert calls[2] == ["scripts/squad_checksums.py", "data/download/squad/v1.1"]
    assert settings(calls[3]).data_dir == "data/download/squad/v1.1"


@pytest.mark.parametrize("theirs", [[], ["--huggingface"]])
def test_a_folder_notes_its_questions_and_is_of_no_others(quickstart, theirs):
    out, words = quickstart.folder / "out", ("--init", "minilm", *theirs)
    # Both files' questions as the stand-in has them checked.
    done, _ = quickstart("quickstart_squad.sh", *words, OUT_DIR=out, CHECKSUMS="one  train-v1.1.json")
    assert done.returncode == 0 and (out / "questions.sha256").read_text() == "one  train-v1.1.json\n"
    done, calls = quickstart("quickstart_squad.sh", *words, OUT_DIR=out, CHECKSUMS="two  train-v1.1.json")
    assert done.returncode == 2 and calls[-1][0] == "scripts/squad_checksums.py"
    assert f"{out}: was fine-tuned on other questions than those of questions" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (out / "questions.sha256").read_text() == "one  train-v1.1.json\n"


def test_questions_checksums_are_those_of_both_files(tmp_path, run_program):
    write_questions(tmp_path)
    done = run_program("scripts/squad_checksums.py", tmp_path)
    assert done.returncode == 0, done.stderr
    names = ("train-v1.1.json", "dev-v1.1.json")
    assert done.stdout == "".join(f"{content_sha256(tmp_path / name, 'x')}  {name}\n" for name in names)
    # SQuAD 2.0 lies in files of other names, which run_tf_squad.py may be told to take.
    (tmp_path / "train-v1.1.json").unlink()
    done = run_program("scripts/squad_checksums.py", tmp_path)
    assert done.returncode == 0 and done.stdout.split()[1:] == ["dev-v1.1.json"]
    (tmp_path / "dev-v1.1.json").write_text("{}")
    done = run_program("scripts/squad_checksums.py", tmp_path)
    assert done.returncode == 2 and "dev-v1.1.json: not SQuAD format" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "program",
    [
        "package_files.py",
        "squad_download.py",
        "squad_checksums.py",
        "run_tf_squad.py",
        "run_inference.py",
    ],
)
def test_the_first_failure_ends_the_quickstart_with_its_code(quickstart, program):
    del quickstart.environment["SQUAD_DIR"]
    done, calls = quickstart("quickstart_squad.sh", "--init", "minilm", FAIL_AT=program)
    assert done.returncode == 7 and calls[-1][0].endswith(program)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--init", "quickstart"], "--init quickstart: no folder"),
        (["--init", "no/such"], "--init no/such: no folder"),
        (["--init"], "--init needs a value"),
        (["--max_questions", "0"], "--max_questions 0: must be a positive number"),
        (["--epochs", "1"], "unknown option --epochs"),
    ],
    ids=str,
)
def test_wrong_options_of_the_quickstart_stop_with_one_line(quickstart, arguments, words):
    done, calls = quickstart("quickstart_squad.sh", *arguments)
    assert done.returncode == 2 and not calls
    assert words in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_quickstarts_settings_are_those_of_the_comparison_with_hugging_face():
    given = json.loads((ROOT / "configs" / "squad_quickstart.json").read_text())
    needed = {"electra_model": "x", "data_dir": "y", "output_dir": "z", "do_train": True}
    config = from_dictionary(SquadConfig, given | needed, "squad_quickstart.json")
    assert (config.learning_rate, config.num_train_epochs, config.train_batch_size) == (3e-4, 4, 16)
    assert (config.warmup_proportion, config.layerwise_lr_decay, config.weight_decay_rate) == (0.1, 1, 0.01)
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.1, 0.1)
    assert (config.max_seq_length, config.doc_stride, config.max_answer_length) == (384, 128, 30)
    assert (config.n_best_size, config.joint_head) == (20, False)


# ---------------------------------------------------------------------------------------------------- real


@pytest.mark.slow
def test_the_launchers_really_fine_tune_answer_and_measure(launch):
    """With the real program on made-up questions: train_eval, eval of the model it left, a benchmark."""
    launch.timeout = 300
    write_questions(launch.folder / "questions")
    write_encoder(launch.folder / "encoder")
    environment = {
        "PYTHON": sys.executable,
        "ELECTRA_MODEL": launch.folder / "encoder",
        "SQUAD_DIR": launch.folder / "questions",
        "TRAIN_BATCH_SIZE": 8,
        "INFER_BATCH_SIZE": 8,
    }
    flags = ["--", "--max_seq_length=64", "--doc_stride=16", "--max_query_length=8"]
    done, _ = launch("run_squad.sh", *flags, **environment, MAX_STEPS=6)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    out = launch.folder / "out"
    predictions = json.loads((out / "predictions.json").read_text())
    assert predictions and "**RESULTS SUMMARY**" in (out / "logfile.txt").read_text()

    (out / "predictions.json").unlink()
    done, _ = launch("run_squad.sh", *flags, **{**environment, "ELECTRA_MODEL": ""}, MODE="eval")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert json.loads((out / "predictions.json").read_text()) == predictions

    results = launch.folder / "benchmark"
    done, _ = launch("benchmark_squad.sh", *flags, **environment, OUT_DIR=results, MAX_STEPS=4)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (_, training, answering) = table(results / "squad_benchmark.tsv")
    assert float(training[3]) > 0 and all(float(value) > 0 for value in answering[3:])
