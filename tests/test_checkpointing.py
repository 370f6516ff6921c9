"""A checkpoint is complete or absent; restoring matches every variable or refuses."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import checkpointing
from checkpointing import CorruptCheckpoint
from command_line import RunFailure, UsageError

ROOT = Path(__file__).parents[1]


def _save(folder, step, prefix="ckpt-", keep=0, size=10):
    return checkpointing.save(
        folder,
        prefix,
        step,
        model={"electra/kernel": np.full((size, 3), step, np.float32)},
        optimizer={"m/electra/kernel": np.ones((size, 3), np.float32), "iterations": np.int64(step)},
        state={"phase": 1, "loss_scale": {"value": 2.0}},
        extra_files={"vocab.txt": "[PAD]\n"},
        keep=keep,
    )


def _names(folder):
    return sorted(os.listdir(folder))


def test_everything_saved_comes_back(tmp_path):
    loaded = checkpointing.load(_save(tmp_path, 7))
    np.testing.assert_array_equal(loaded.model["electra/kernel"], np.full((10, 3), 7, np.float32))
    assert loaded.optimizer["iterations"] == 7 and loaded.optimizer["iterations"].dtype == np.int64
    assert loaded.step == 7 and loaded.state["loss_scale"] == {"value": 2.0}
    assert (loaded.path / "vocab.txt").read_text() == "[PAD]\n"


def test_rotation_keeps_the_newest_of_each_phase_apart(tmp_path):
    for step in (10, 20, 30):
        _save(tmp_path, step, keep=2)
    for step in (5, 15, 100):
        _save(tmp_path, step, prefix="ckpt-p2-", keep=1)
    assert _names(tmp_path) == ["ckpt-20", "ckpt-30", "ckpt-p2-100"]


def test_newest_is_by_number_not_by_name(tmp_path):
    for step in (9, 10, 100):
        _save(tmp_path, step)
    assert checkpointing.load_newest(tmp_path, "ckpt-").step == 100
    assert [step for step, _ in checkpointing.list_checkpoints(tmp_path, "ckpt-")] == [9, 10, 100]
    assert checkpointing.load_newest(tmp_path, "ckpt-p2-") is None


def test_what_is_newer_than_where_a_run_goes_on_is_set_aside(tmp_path, capsys):
    """Else 30 would be the newest still, and what is saved next the first to be rotated away."""
    for step in (10, 20, 30):
        _save(tmp_path, step)
    _save(tmp_path, 5, prefix="ckpt-p2-")
    checkpointing.set_aside_newer(tmp_path, "ckpt-", 10)
    assert _names(tmp_path) == ["aside-ckpt-20", "aside-ckpt-30", "ckpt-10", "ckpt-p2-5"]
    assert "ckpt-20, ckpt-30: newer than update 10" in capsys.readouterr().out
    assert _save(tmp_path, 12, keep=1).is_dir()
    assert checkpointing.load_newest(tmp_path, "ckpt-").step == 12
    _save(tmp_path, 20)
    checkpointing.set_aside_newer(tmp_path, "ckpt-", 12)
    assert _names(tmp_path) == ["aside-ckpt-20", "aside-ckpt-30", "ckpt-12", "ckpt-p2-5"]
    capsys.readouterr()
    checkpointing.set_aside_newer(tmp_path, "ckpt-", 12)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "vocab.txt", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_newest_is_named_and_the_one_before_is_used(tmp_path, capsys, name, damage):
    _save(tmp_path, 1)
    newest = _save(tmp_path, 2)
    path = newest / name
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    assert checkpointing.load_newest(tmp_path, "ckpt-").step == 1
    assert "ckpt-2" in capsys.readouterr().out


def test_no_whole_checkpoint_is_a_failure_not_a_fresh_start(tmp_path):
    (_save(tmp_path, 3) / "model.safetensors").unlink()
    with pytest.raises(RunFailure, match="none of the 1 checkpoints"):
        checkpointing.load_newest(tmp_path, "ckpt-")
    with pytest.raises(CorruptCheckpoint):
        checkpointing.load(tmp_path / "ckpt-3")


def test_half_written_folders_are_neither_seen_nor_kept(tmp_path):
    (tmp_path / ".ckpt-5.123.tmp").mkdir()
    (tmp_path / ".ckpt-4.123.deleted").mkdir()
    (tmp_path / "ckpt-six").mkdir()
    assert checkpointing.load_newest(tmp_path, "ckpt-") is None
    _save(tmp_path, 6)
    assert _names(tmp_path) == ["ckpt-6", "ckpt-six"]


def test_a_full_disk_leaves_older_checkpoints_whole(tmp_path):
    """In a process that may not write files of more than 100 kB: exit 1, one line, the old one intact."""
    _save(tmp_path, 1)
    script = (
        "import errno, resource, signal, sys\n"
        f"sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
        "import test_checkpointing\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    test_checkpointing._save(sys.argv[1], 2, keep=1, size=100_000)\n"
        "except OSError as error:\n"
        "    print('errno', error.errno)\n"
    )
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert "errno 27" in done.stdout, done.stderr
    assert _names(tmp_path) == ["ckpt-1"]
    assert checkpointing.load_newest(tmp_path, "ckpt-").step == 1
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_assigning_names_what_is_missing_unexpected_or_reshaped():
    variables = {"a": tf.Variable([1.0, 2.0]), "b": tf.Variable([[1.0]]), "c": tf.Variable(0.0)}
    tensors = {"a": np.zeros(3, np.float32), "b": np.ones((1, 1), np.float32), "d": np.float32(1)}
    with pytest.raises(UsageError) as error:
        checkpointing.assign(variables, tensors, "ckpt-9")
    message = str(error.value)
    assert "1 missing, first c" in message and "1 unexpected, first d" in message
    assert "a (3,) for (2,)" in message
    np.testing.assert_array_equal(variables["a"].numpy(), [1.0, 2.0])


def test_newest_path_prefers_the_second_phase_and_takes_a_checkpoint_itself(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    first = _save(folder, 900)
    second = _save(folder, 10, prefix="ckpt-p2-")
    assert checkpointing.newest_path(tmp_path) == second
    assert checkpointing.newest_path(folder) == second
    assert checkpointing.newest_path(first) == first
    with pytest.raises(UsageError, match="neither a checkpoint"):
        checkpointing.newest_path(second / "nowhere")
