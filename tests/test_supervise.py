"""scripts/supervise.sh: what it starts again, when it gives up, and that signals and exit codes travel."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from training_runs import ROOT

# A stand-in for a training: it notes its arguments, makes the checkpoints that its plan says and ends so.
STAND_IN = """#!/bin/bash
echo "$RESUME_TRAINING|$*" >>"$RECORD"
read -r code checkpoint < <(sed -n "$(wc -l <"$RECORD")p" "$PLAN")
[[ -z $checkpoint ]] || mkdir -p "$CHECKPOINTS/$checkpoint"
[[ $code != wait ]] || { trap 'exit 143' TERM; while true; do sleep 0.05; done; }
exit "$code"
"""


class Supervised:
    def __init__(self, folder: Path):
        self.folder = folder
        self.checkpoints = folder / "models/first/checkpoints"
        self.checkpoints.mkdir(parents=True)
        (folder / "run_pretraining.py").write_text(STAND_IN)
        (folder / "run_pretraining.py").chmod(0o755)

    def start(self, plan: list, *options: str, command: tuple = ()) -> subprocess.Popen:
        (self.folder / "plan").write_text("".join(f"{line}\n" for line in plan))
        words = ["--checkpoints", str(self.folder / "models"), "--pause", "0", *options, "--"]
        words += command or [str(self.folder / "run_pretraining.py"), "--seed=1"]
        environment = {"RECORD": "record", "PLAN": "plan"}
        environment = {name: str(self.folder / value) for name, value in environment.items()}
        return subprocess.Popen(
            ["bash", str(ROOT / "scripts/supervise.sh"), *words],
            env=os.environ | environment | {"CHECKPOINTS": str(self.checkpoints), "RESUME_TRAINING": ""},
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, plan: list, *options: str) -> tuple[int, list[str], str]:
        """Exit code, what was started, messages."""
        process = self.start(plan, *options)
        _, messages = process.communicate(timeout=60)
        return process.returncode, self.started(), messages

    def started(self) -> list[str]:
        return (self.folder / "record").read_text().splitlines()


@pytest.fixture
def supervised(tmp_path) -> Supervised:
    return Supervised(tmp_path)


def test_a_crash_after_progress_goes_on_from_the_newest_checkpoint(supervised):
    code, started, messages = supervised.run(["1 ckpt-10", "137 ckpt-20", "0"])
    assert code == 0
    assert started == ["|--seed=1", *["true|--seed=1 --restore_checkpoint=latest"] * 2]
    assert "status 1; starting again in 0 s from" in messages and "ckpt-10" in messages
    assert "status 137" in messages and "ckpt-20" in messages


def test_a_checkpoint_that_the_command_names_holds_until_there_is_a_newer_one(supervised):
    """Before it there is nothing else to go on from; after it that would be going back."""
    (supervised.checkpoints / "ckpt-5").mkdir()
    named = "--restore_checkpoint=elsewhere/ckpt-5"
    program = str(supervised.folder / "run_pretraining.py")
    process = supervised.start(["1", "1 ckpt-10", "0"], command=(program, named))
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert supervised.started() == [f"|{named}", f"true|{named}", f"true|{named} --restore_checkpoint=latest"]


def test_the_launchers_initial_checkpoint_holds_until_there_is_a_newer_one(supervised, monkeypatch):
    """Also where its positionals, as those of a known machine, say not to resume."""
    program = supervised.folder / "run_pretraining.py"
    settings = {"PYTHON": program, "RESULTS_DIR": supervised.folder, "MODEL_NAME": "first", "PHASE": 1}
    for name, value in (settings | {"INIT_CHECKPOINT": "elsewhere/ckpt-5"}).items():
        monkeypatch.setenv(name, str(value))
    positionals = ["8", "1e-3", "tf32", "1", "no_xla", "1", "9", "5", "false"]
    process = supervised.start(
        ["1", "1 ckpt-10", "0"], command=("bash", str(ROOT / "scripts/run_pretraining.sh"), *positionals)
    )
    process.communicate(timeout=60)
    assert process.returncode == 0
    restored = [
        [word.partition("=")[2] for word in started.split() if word.startswith("--restore_checkpoint=")]
        for started in supervised.started()
    ]
    named = "elsewhere/ckpt-5"
    assert restored == [[named], [named], [named, "latest"]]


@pytest.mark.parametrize(
    "flags",
    [
        ("--results_dir={}", "--model_name=first"),
        ("--results-dir", "{}", "--model-name", "first"),
        ("--model_name=other", "--output_dir={}/models/first"),
    ],
)
def test_another_runs_checkpoints_are_no_progress_of_this_one(supervised, flags):
    """Where the command says which run it is, only that one's folder is looked at."""
    named = "--restore_checkpoint=elsewhere/ckpt-5"
    words = [flag.format(supervised.folder) for flag in flags] + [named]
    other = supervised.folder / "models" / "second" / "checkpoints"
    other.mkdir(parents=True)
    (supervised.folder / "run_pretraining.py").write_text(
        STAND_IN.replace("read -r", f"mkdir -p {other}/ckpt-$RANDOM\nread -r", 1)
    )
    (supervised.folder / "plan").write_text("1\n1\n1 ckpt-10\n0\n")
    environment = {name: str(supervised.folder / name.lower()) for name in ("RECORD", "PLAN")}
    command = ["bash", str(ROOT / "scripts/supervise.sh"), "--pause", "0", "--"]
    done = subprocess.run(
        [*command, str(supervised.folder / "run_pretraining.py"), *words],
        env=os.environ | environment | {"CHECKPOINTS": str(supervised.checkpoints), "RESUME_TRAINING": ""},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert [line.endswith(" --restore_checkpoint=latest") for line in supervised.started()] == [
        False,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("program", ["run_pretraining.py", "run_tf_squad.py", "run_tf_glue.py"])
def test_every_program_that_trains_is_told_to_go_on(supervised, program):
    stand_in = (supervised.folder / "run_pretraining.py").rename(supervised.folder / program)
    process = supervised.start(["1 ckpt-10", "0"], command=(str(stand_in), "--seed=1"))
    process.communicate(timeout=60)
    assert supervised.started() == ["|--seed=1", "true|--seed=1 --restore_checkpoint=latest"]


@pytest.mark.parametrize("most", [0, 1, 3])
def test_so_many_restarts_in_a_row_without_a_new_checkpoint_are_enough(supervised, most):
    """Those that brought one before do not count."""
    code, started, messages = supervised.run(
        ["1", "1 ckpt-10", *["9"] * 9] if most else ["9"] * 9, "--max_restarts", str(most)
    )
    assert code == 9 and len(started) == (2 + most if most else 1)
    assert f"after {most} restarts without a new checkpoint" in messages


def test_the_pause_doubles_until_there_is_a_new_checkpoint(supervised):
    _, started, messages = supervised.run(["1", "1", "1 ckpt-10", "1", "0"], "--pause", "1")
    assert len(started) == 5
    assert re.findall(r"again in (\d+) s", messages) == ["1", "2", "1", "2"]


def test_progress_makes_the_count_begin_anew(supervised):
    plan = [f"1 ckpt-{number}" for number in range(5)]
    code, started, _ = supervised.run([*plan, "0"], "--max_restarts", "1")
    assert code == 0 and len(started) == 6


@pytest.mark.parametrize(("plan", "options", "code"), [(["2"], (), 2), (["7"], ("--max_restarts", "0"), 7)])
def test_a_users_mistake_and_no_restarts_end_it_at_once(supervised, plan, options, code):
    found, started, _ = supervised.run(plan, *options)
    assert found == code and len(started) == 1


def test_who_is_told_to_stop_does_not_start_again(supervised):
    process = supervised.start(["wait ckpt-1", "0"])
    end = time.monotonic() + 30
    while not any(supervised.checkpoints.iterdir()) and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143 and len(supervised.started()) == 1


def test_wrong_options_are_named(supervised):
    for words in (["--often", "3", "--", "x"], ["--max_restarts", "many", "--", "x"], ["--pause", "1"]):
        done = subprocess.run(
            ["bash", str(ROOT / "scripts/supervise.sh"), *words], capture_output=True, text=True
        )
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_run_that_is_killed_twice_ends_as_if_it_had_not_been(runs, tmp_path):
    settings = {"num_train_steps": 200, "save_checkpoints_steps": 20, "train_batch_size": 2}
    runs.run("whole", "--deterministic", **settings)
    command = runs.command("killed", "--deterministic", **settings)
    watch = ["--checkpoints", str(runs.folder("killed")), "--pause", "0"]
    process = subprocess.Popen(["bash", str(ROOT / "scripts/supervise.sh"), *watch, "--", *command])
    for update in (40, 120):
        while not any(int(name.split("-")[1]) >= update for name in runs.checkpoints("killed")):
            assert process.poll() is None
            time.sleep(0.02)
        holder = (runs.folder("killed") / ".lock").read_text().split()[0]
        os.kill(int(holder), signal.SIGKILL)
    assert process.wait(120) == 0
    expected, found = (runs.weights(name, "ckpt-200") for name in ("whole", "killed"))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert (found[name] == value).all(), name
