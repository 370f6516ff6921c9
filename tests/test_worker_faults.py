"""A lost, hung or broken worker ends the job within a minute, is named, and costs what came after the last
checkpoint: the restarted run ends with the weights of the uninterrupted one. Real processes, real signals."""

import re
import shutil
import signal

import numpy as np
import pytest
from training_runs import ROOT
from worker_jobs import Job, WorkerRuns

pytestmark = pytest.mark.slow

# Long enough to be hit in the middle, with a checkpoint every few updates.
LONG = {"num_train_steps": 160, "save_checkpoints_steps": 20, "log_freq": 5, "train_batch_size": 2}
LAST = "ckpt-160"


@pytest.fixture(scope="module")
def uninterrupted(workers: WorkerRuns) -> dict:
    workers.run("uninterrupted", 2, "--deterministic", **LONG)
    return workers.runs.weights("uninterrupted", LAST)


def _checkpoint_after(job: Job, workers: WorkerRuns, name: str, update: int) -> None:
    job.wait_for(lambda: any(int(c.split("-")[1]) >= update for c in workers.runs.checkpoints(name)))


def _goes_on_as_if_nothing_had_been(workers: WorkerRuns, name: str, expected: dict) -> None:
    assert workers.runs.checkpoints(name) and LAST not in workers.runs.checkpoints(name)
    job = workers.run(name, 2, "--deterministic", "--restore_checkpoint", **LONG)
    assert "going on from" in job.text
    found = workers.runs.weights(name, LAST)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)


def test_a_worker_killed_in_a_step(workers: WorkerRuns):
    job = workers.start("killed", 2, **LONG)
    _checkpoint_after(job, workers, "killed", 40)
    job.signal(1, signal.SIGKILL)
    assert job.end(60) == 128 + signal.SIGKILL
    assert "worker 1 was killed by SIGKILL" in job.last_lines()
    assert "ckpt-40" in workers.runs.checkpoints("killed")


def test_the_writing_worker_killed_while_it_writes_a_checkpoint(workers: WorkerRuns, uninterrupted):
    job = workers.start("torn", 2, "--deterministic", **LONG | {"save_checkpoints_steps": 1})
    folder = workers.runs.folder("torn") / "checkpoints"
    _checkpoint_after(job, workers, "torn", 3)
    job.wait_for(lambda: any(folder.glob(".ckpt-*.tmp")))
    job.signal(0, signal.SIGKILL)
    assert job.end(60) == 128 + signal.SIGKILL
    _goes_on_as_if_nothing_had_been(workers, "torn", uninterrupted)


def test_a_worker_killed_at_the_start(workers: WorkerRuns):
    job = workers.start("stillborn", 2, **LONG)
    job.wait_for(lambda: len(job.workers()) == 2)
    job.signal(1, signal.SIGKILL)
    assert job.end(60) == 128 + signal.SIGKILL
    assert "worker 1 was killed by SIGKILL" in job.last_lines()
    assert not workers.runs.checkpoints("stillborn")


def test_a_worker_that_hangs(workers: WorkerRuns):
    job = workers.start("hung", 2, "--deterministic", **LONG | {"stall_timeout": 30})
    _checkpoint_after(job, workers, "hung", 20)
    job.signal(1, signal.SIGSTOP)
    assert job.end(90) == 1
    assert re.search(
        r"worker 0 has been .* waiting .* 30 s .*; worker 1 gives no sign of life", job.last_lines()
    )
    assert workers.runs.checkpoints("hung")


def test_a_worker_that_reads_a_damaged_record(workers: WorkerRuns, tmp_path):
    folder = tmp_path / "shards"
    shutil.copytree(workers.runs.shards(32), folder)
    shard = folder / "pretrain_data.tfrecord-1-of-3"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 4
    shard.write_bytes(content)
    job = workers.start("damaged", 2, **LONG | {"pretrain_tfrecords": folder})
    # From the start of the programs to the update that reads it, and the end.
    assert job.end(150) == 2
    last = job.last_lines()
    assert "tfrecord-1-of-3" in last and "damaged" in last
    assert re.search(r"start_workers.py: error: worker [01] ended with status 2", last)


# The training program, on worker 1 with a fault of its own in the thread that reads ahead.
THROWING = """
import os, runpy, sys
sys.path.insert(0, {root!r})
sys.argv = sys.argv[1:]
if os.environ["HOROVOD_RANK"] == "1":
    import pretraining_data
    read = pretraining_data.PretrainingData.update

    def fail(self, number):
        if number == 30:
            raise ZeroDivisionError("a fault of the program itself")
        return read(self, number)

    pretraining_data.PretrainingData.update = fail
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_worker_that_throws(workers: WorkerRuns, tmp_path):
    (tmp_path / "throwing.py").write_text(THROWING.format(root=str(ROOT)))
    python, *command = workers.runs.command("threw", **LONG)
    job = Job(2, [python, str(tmp_path / "throwing.py"), *command], tmp_path / "output.txt")
    assert job.end(150) == 1
    last = job.last_lines()
    assert "ZeroDivisionError: a fault of the program itself" in last
    assert "start_workers.py: error: worker 1 ended with status 1" in last, last
    assert "ckpt-20" in workers.runs.checkpoints("threw")


def test_sigterm_to_one_worker_stops_all_after_the_same_update(workers: WorkerRuns, uninterrupted):
    job = workers.start("asked", 2, "--deterministic", **LONG)
    _checkpoint_after(job, workers, "asked", 20)
    job.signal(1, signal.SIGTERM)
    assert job.end(60) == 128 + signal.SIGTERM
    assert re.search(r"stopped by a signal after update \d+", job.text)
    _goes_on_as_if_nothing_had_been(workers, "asked", uninterrupted)


def test_sigterm_to_the_launcher_leaves_the_time_to_save(workers: WorkerRuns):
    job = workers.start("told", 2, **LONG)
    _checkpoint_after(job, workers, "told", 20)
    job.process.send_signal(signal.SIGTERM)
    assert job.end(60) == 128 + signal.SIGTERM
    stopped = re.search(r"stopped by a signal after update (\d+)", job.text)
    assert f"ckpt-{stopped[1]}" in workers.runs.checkpoints("told")


def test_workers_end_when_their_launcher_is_killed(workers: WorkerRuns):
    job = workers.start("orphaned", 2, **LONG)
    _checkpoint_after(job, workers, "orphaned", 20)
    pids = job.workers().values()
    job.process.kill()
    job.process.wait()
    job.wait_until_gone(pids, 60)
    assert workers.runs.checkpoints("orphaned")


def test_a_full_disk_ends_the_job_and_keeps_the_checkpoints_before(workers: WorkerRuns, tmp_path):
    # The launcher's own limit on a file's size, below what the optimizer's file takes, stands for the disk.
    job = workers.start("full", 2, **LONG | {"save_checkpoints_steps": 10})
    _checkpoint_after(job, workers, "full", 10)
    size = (workers.runs.folder("full") / "checkpoints/ckpt-10/model.safetensors").stat().st_size
    job.limit_file_size(0, size)
    assert job.end(60) == 1
    assert re.search(r"error: .*(File too large|no space left)", job.last_lines())
    assert workers.runs.checkpoints("full")
    assert not list((workers.runs.folder("full") / "checkpoints").glob(".ckpt*"))
