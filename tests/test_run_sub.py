"""run.sub with stand-ins for srun, scontrol and Python: settings, containers, refusals, queueing again.

tests/test_slurm.py gives it to a real Slurm.
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from training_runs import ROOT

# Records its words; as the real one it hands SIGUSR1 on, and takes SIGTERM for its own end. CHECKPOINT
# names one to make when the signal comes, as a training would.
SRUN = """#!/usr/bin/env bash
if [[ ${1:-} == --help ]]; then echo "${PYXIS:-}"; exit; fi
printf '%s\\n' "$@" --end-- >> "$RECORD"
[[ -n ${WAIT:-} ]] || exit "${STATUS:-0}"
trap '[[ -z ${CHECKPOINT:-} ]] || mkdir -p "$CHECKPOINT"; exit ${ENDS:-143}' USR1
touch "$RECORD.started"
while true; do sleep 0.05; done
"""
SCONTROL = """#!/usr/bin/env bash
printf '%s\\n' "$@" --end-- >> "$RECORD.scontrol"
"""


@pytest.fixture
def submit(tmp_path):
    """Start run.sub as Slurm does: a copy of it, told by the environment where it was submitted."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    script = tmp_path / "slurm_script"
    shutil.copy(ROOT / "run.sub", script)

    def start(*arguments: str, folder: Path = ROOT, **environment: str) -> subprocess.Popen:
        settings = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "RECORD": str(tmp_path / "record"),
            "SLURM_JOB_ID": "7",
            "SLURM_SUBMIT_DIR": str(folder),
            "RESULTS_DIR": str(tmp_path / "results"),
            "CONTAINER": "",
            "PYTHON": "python-of-the-node",
        }
        settings = {name: value for name, value in (settings | environment).items() if value != "(unset)"}
        return subprocess.Popen(
            ["bash", str(script), *arguments],
            env=settings,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def _end(process: subprocess.Popen) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr


def _calls(path: Path) -> list[list[str]]:
    text = path.read_text() if path.exists() else ""
    return [call.splitlines() for call in text.split("--end--\n")[:-1]]


def test_nvidias_names_reach_each_phase_with_their_own_values(submit, tmp_path):
    process = submit(
        "--log_freq=3", "--run_note=a b", BATCHSIZE="16", LR="3e-3", STEPS="57", WARMUP="5",
        GRAD_ACCUM_STEPS="2", b1="0.8", b2="0.97", decay="0.6", end_lr="1e-6", skip_adaptive="yes",
        BATCHSIZE_P2="4", LR_P2="1e-3", STEPS_P2="9", WARMUP_P2="1", GRAD_ACCUM_STEPS_P2="8", b1_P2="0.9",
        b2_P2="0.99", decay_P2="1.0", end_lr_P2="2e-6", skip_adaptive_P2="no", SEED="3", MODEL_NAME="m",
        MODEL_SIZE="small", PRETRAIN_TFRECORDS_P1="one", PRETRAIN_TFRECORDS_P2="two",
        EVAL_TFRECORDS_P1="held one", EVAL_TFRECORDS_P2="held two",
        EXTRA_ARGS="--mask_prob 0.2",
    )  # fmt: skip
    assert _end(process)[0] == 0
    first, second = _calls(tmp_path / "record")
    values = {
        "train_batch_size": ("16", "4"),
        "learning_rate": ("3e-3", "1e-3"),
        "num_train_steps": ("57", "9"),
        "num_warmup_steps": ("5", "1"),
        "gradient_accumulation_steps": ("2", "8"),
        "opt_beta_1": ("0.8", "0.9"),
        "opt_beta_2": ("0.97", "0.99"),
        "lr_decay_power": ("0.6", "1.0"),
        "end_lr": ("1e-6", "2e-6"),
        "skip_adaptive": ("True", "False"),
        "seed": ("3", "3"),
    }
    for name, (value, of_second) in values.items():
        assert f"--{name}={value}" in first and f"--{name}={of_second}" in second, name
    for words, data in ((first, "one"), (second, "two")):
        assert f"--eval_tfrecords=held {data}" in words
        place = words.index("run_pretraining.py")
        assert words[place - 1] == "python-of-the-node" and all(
            word[:2] == "--" for word in words[: place - 1]
        )
        assert words[words.index("--pretrain_tfrecords") + 1] == data
        assert words[words.index("--model_name") + 1] == "m"
        assert words[-4:] == ["--mask_prob", "0.2", "--log_freq=3", "--run_note=a b"]
    assert "--phase2" not in first and "--phase2" in second and "--restore_checkpoint=latest" in second
    assert not any("container" in word for word in first)


@pytest.mark.parametrize(("phase", "flags"), [("1", [False]), ("2", [True]), ("both", [False, True])])
def test_the_phases_that_are_asked_for_run(submit, tmp_path, phase, flags):
    assert _end(submit(PHASE=phase))[0] == 0
    assert ["--phase2" in words for words in _calls(tmp_path / "record")] == flags


def test_a_job_of_the_second_phase_alone_takes_nvidias_names_without_a_suffix(submit, tmp_path):
    """As NVIDIA's run.sub does. What has the suffix wins, and both phases together keep the names apart."""
    names = {"BATCHSIZE": "24", "LR": "4e-3", "GRAD_ACCUM_STEPS": "72", "STEPS": "930", "skip_adaptive": "no"}
    assert _end(submit(PHASE="2", STEPS_P2="9", **names))[0] == 0
    assert _end(submit(PHASE="both", **names))[0] == 0
    alone, _, second = _calls(tmp_path / "record")
    values = {"train_batch_size": "24", "learning_rate": "4e-3", "gradient_accumulation_steps": "72"}
    values |= {"num_train_steps": "9", "skip_adaptive": "False"}
    for name, value in values.items():
        assert f"--{name}={value}" in alone, name
        assert not any(word.startswith(f"--{name}=") for word in second), name


def test_repeated_runs_have_a_number_behind_their_name(submit, tmp_path):
    for settings in ({}, {"MODEL_SIZE": "small"}, {"MODEL_NAME": "mine"}):
        assert _end(submit(PHASE="1", model_count="3", **settings))[0] == 0
    names = [words[words.index("--model_name") + 1] for words in _calls(tmp_path / "record")]
    assert names == ["base_3", "small_3", "mine_3"]


def test_a_failed_first_phase_ends_the_job_with_its_status(submit, tmp_path):
    assert _end(submit(STATUS="9"))[0] == 9
    assert len(_calls(tmp_path / "record")) == 1 and not _calls(tmp_path / "record.scontrol")


def test_a_container_gets_this_folder_and_further_mounts_and_its_own_python(submit, tmp_path):
    image = tmp_path / "my image.sqsh"
    image.touch()
    environment = {
        "CONTAINER": str(image),
        "CONTAINER_MOUNTS": "/data:/data:ro",
        "PYXIS": "--container-image",
    }
    assert _end(submit(PHASE="1", PYTHON="(unset)", SLURM_CPUS_PER_TASK="5", **environment))[0] == 0
    (words,) = _calls(tmp_path / "record")
    assert f"--container-image={image}" in words and f"--container-workdir={ROOT}" in words
    assert f"--container-mounts={ROOT}:{ROOT},/data:/data:ro" in words
    assert words[words.index("run_pretraining.py") - 1] == "python3"
    assert "--cpus-per-task=5" in words


def test_workers_are_bound_where_that_is_asked_for(submit, tmp_path):
    assert _end(submit(PHASE="1", BIND="exclusive"))[0] == 0
    (words,) = _calls(tmp_path / "record")
    place = words.index("bash")
    assert words[place : place + 5] == [
        "bash",
        "scripts/bind.sh",
        "--cpu=exclusive",
        "--",
        "python-of-the-node",
    ]
    # Else srun's own binding would leave nothing to choose from.
    assert "--cpu-bind=none" in words[:place]


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"SLURM_JOB_ID": "(unset)"}, "not inside a Slurm job"),
        ({"SLURM_SUBMIT_DIR": "/"}, "not the root of the repository"),
        ({"CONTAINER": "(unset)"}, "no Pyxis"),
        ({"CONTAINER": "(unset)", "PYXIS": "--container-image"}, "electra.sqsh is not there"),
        ({"PHASE": "3"}, "PHASE '3'"),
        ({"PRECISION": "fp8"}, "PRECISION 'fp8'"),
    ],
    ids=str,
)
def test_what_cannot_run_is_one_line_and_status_2(submit, tmp_path, environment, told):
    code, _, stderr = _end(submit(**environment))
    assert code == 2 and told in stderr and len(stderr.splitlines()) == 1, stderr
    assert not _calls(tmp_path / "record")


def test_help_needs_no_job():
    done = subprocess.run(["bash", ROOT / "run.sub", "--help"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and "GRAD_ACCUM_STEPS" in done.stdout and "set -euo" not in done.stdout


def test_a_restarted_job_goes_on(submit, tmp_path):
    assert _end(submit(PHASE="1", SLURM_RESTART_COUNT="1"))[0] == 0
    assert _end(submit(PHASE="1", SLURM_RESTART_COUNT="0"))[0] == 0
    again, first = _calls(tmp_path / "record")
    assert "--restore_checkpoint=latest" in again and "--restore_checkpoint=latest" not in first


@pytest.mark.parametrize("given", ["INIT_CHECKPOINT", "--restore_checkpoint"])
def test_a_restarted_job_goes_on_from_what_it_saved_and_not_from_where_it_began(submit, tmp_path, given):
    """Each phase from its own; before it has saved anything, from there once more."""
    words = ["--restore_checkpoint=old/ckpt-5"] if given.startswith("--") else []
    environment = {} if words else {given: "old/ckpt-5"}
    checkpoints = tmp_path / "results" / "models" / "base" / "checkpoints"

    def restored(phase: str, count: str) -> str:
        (tmp_path / "record").unlink(missing_ok=True)
        assert _end(submit(*words, PHASE=phase, SLURM_RESTART_COUNT=count, **environment))[0] == 0
        (call,) = _calls(tmp_path / "record")
        return [word for word in call if word.startswith("--restore_checkpoint=")][-1].partition("=")[2]

    assert restored("1", "1") == "old/ckpt-5"
    (checkpoints / "ckpt-9").mkdir(parents=True)
    assert [restored("1", count) for count in "012"] == ["old/ckpt-5", "latest", "latest"]
    if words:
        assert restored("2", "1") == "old/ckpt-5"
        (checkpoints / "ckpt-p2-3").mkdir()
        assert restored("2", "1") == "latest"


def _signalled(submit, tmp_path, number: int, **environment: str) -> tuple[int, str, str]:
    process = submit(WAIT="1", **environment)
    end = time.monotonic() + 30
    while not (tmp_path / "record.started").exists():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    return _end(process)


@pytest.mark.parametrize("status", [143, 128 + signal.SIGUSR1])
def test_out_of_time_queues_the_job_again_where_there_is_a_new_checkpoint(submit, tmp_path, status):
    """Also where the signal came before the program could take it for a wish to stop."""
    new = tmp_path / "results" / "models" / "base" / "checkpoints" / "ckpt-5"
    code, stdout, _ = _signalled(submit, tmp_path, signal.SIGUSR1, CHECKPOINT=str(new), ENDS=str(status))
    assert code == status and str(new) in stdout
    assert _calls(tmp_path / "record.scontrol") == [["requeue", "7"]]
    # Phase 2 was not started.
    assert len(_calls(tmp_path / "record")) == 1


def test_out_of_time_without_progress_is_the_end(submit, tmp_path):
    code, _, stderr = _signalled(submit, tmp_path, signal.SIGUSR1)
    assert code == 1 and "without a new checkpoint" in stderr
    assert not _calls(tmp_path / "record.scontrol")


@pytest.mark.parametrize("status", [0, 2])
def test_a_job_that_is_through_or_mistaken_is_not_queued_again(submit, tmp_path, status):
    new = tmp_path / "results" / "models" / "base" / "checkpoints" / "ckpt-5"
    ends = {"CHECKPOINT": str(new), "ENDS": str(status), "PHASE": "2"}
    assert _signalled(submit, tmp_path, signal.SIGUSR1, **ends)[0] == status
    assert new.exists() and not _calls(tmp_path / "record.scontrol")


def test_a_cancelled_job_is_not_queued_again(submit, tmp_path):
    new = tmp_path / "results" / "models" / "base" / "checkpoints" / "ckpt-5"
    code, _, _ = _signalled(submit, tmp_path, signal.SIGTERM, CHECKPOINT=str(new))
    assert code == 143 and new.exists() and not _calls(tmp_path / "record.scontrol")
