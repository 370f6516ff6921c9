"""Workers under Slurm: how tasks find each other, and run.sub on a real cluster of two nodes."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from slurm_cluster import SlurmCluster, need_slurm
from training_runs import MODEL, ROOT, Runs
from worker_jobs import NO_DROPOUT, need_horovod

import slurm_workers
from command_line import RunFailure

STEP = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_JOB_ID": "12", "SLURM_STEP_ID": "3"}


@pytest.mark.parametrize(
    ("text", "counts"), [("1", [1]), ("2(x3),1", [2, 2, 2, 1]), ("4,2(x2)", [4, 2, 2])], ids=str
)
def test_tasks_on_each_node_are_read_from_slurms_short_form(text, counts):
    assert slurm_workers.tasks_per_node(text) == counts


@pytest.mark.parametrize("text", ["", "2(x)", "two", "2;1"])
def test_another_form_is_not_guessed_at(text):
    with pytest.raises(ValueError, match="no list of tasks"):
        slurm_workers.tasks_per_node(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("n1", "n1"),
        ("n[1-2]", "n1"),
        ("gpu[07-09,12],big1", "gpu07"),
        ("a.example.org,b", "a.example.org"),
        ("rack[2-3]node[05,07]-ib", "rack2node05-ib"),
    ],
)
def test_the_first_node_is_read_from_slurms_short_form(text, name):
    assert slurm_workers.first_host(text) == name


def test_only_a_task_among_several_is_a_worker():
    assert slurm_workers.number_of_tasks(STEP) == 4
    assert slurm_workers.number_of_tasks({}) == 1
    # A batch script has the number of tasks of the job, and is none of them.
    assert slurm_workers.number_of_tasks({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) == 1


def _step_on(nodes: str, launcher: str) -> dict[str, str]:
    return STEP | {
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_STEP_NODELIST": nodes,
        "SLURM_LAUNCH_NODE_IPADDR": launcher,
    }


def test_the_head_is_found_by_name_else_where_srun_runs(monkeypatch):
    names = {"gpu1": "10.0.0.5", "here": "127.0.1.1"}

    def look_up(name, *_):
        if name not in names:
            raise socket.gaierror("unknown")
        return [(socket.AF_INET, None, None, "", (names[name], 0))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    find = slurm_workers.head_address
    assert find(_step_on("gpu[1-2]", "10.0.0.9")) == "10.0.0.5"
    assert find(_step_on("other[1-2]", "10.0.0.9")) == "10.0.0.9"
    # Debian gives a machine's own name an address that no other machine reaches.
    assert find(_step_on("here,there", "10.0.0.9")) == "10.0.0.9"
    assert find(_step_on("here,there", "127.0.0.1")) == "127.0.0.1"
    assert find(_step_on("gpu1", "10.0.0.9") | {"SLURM_STEP_NUM_NODES": "1"}) == "127.0.0.1"


def test_a_first_task_that_does_not_answer_is_told():
    need_horovod()
    step = STEP | {"SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_NODEID": "0", "SLURM_LOCALID": "1"}
    with pytest.raises(RunFailure, match=r"worker 0 does not answer at 127\.0\.0\.1:20375 within 0 s"):
        slurm_workers.meet(step, seconds=0.3)


def test_a_port_that_is_taken_is_told():
    need_horovod()
    step = STEP | {"SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_NODEID": "0", "SLURM_LOCALID": "0"}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 20375))
        taken.listen()
        with pytest.raises(RunFailure, match=r"127\.0\.0\.1:20375, where workers are to meet"):
            slurm_workers.meet(step)


# ---- A real Slurm

SETTINGS = {
    "CONTAINER": "",
    "PYTHON": sys.executable,
    "MODEL_SIZE": "small",
    "SEED": "7",
    "SAVE_CHECKPOINT_STEPS": "8",
    "PRECISION": "fp32",
    "BATCHSIZE": "2",
    "GRAD_ACCUM_STEPS": "2",
    "LR": "2e-3",
    "WARMUP": "2",
    "STEPS": "120",
    "BATCHSIZE_P2": "2",
    "GRAD_ACCUM_STEPS_P2": "1",
    "LR_P2": "1e-3",
    "WARMUP_P2": "1",
    "STEPS_P2": "4",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Slurm with two nodes, as long as the tests of this file run."""
    need_slurm()
    need_horovod()
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as started:
        yield started


@pytest.fixture(scope="module")
def settings(runs: Runs, tmp_path_factory) -> dict[str, str]:
    """The environment of run.sub for a tiny model without dropout, in two phases."""
    folder = tmp_path_factory.mktemp("settings")
    found = SETTINGS | {"RESULTS_DIR": str(runs.results)}
    for phase, length in ((1, 32), (2, 64)):
        config = folder / f"phase{phase}.json"
        # As in TRAINING: compiling takes longer than these updates.
        own = {"max_seq_length": length, "log_freq": 4, "compile_chains": False}
        config.write_text(json.dumps(MODEL | NO_DROPOUT | own))
        found[f"CONFIG_P{phase}"] = str(config)
        found[f"PRETRAIN_TFRECORDS_P{phase}"] = str(runs.shards(length))
    return found


def _submit(cluster: SlurmCluster, settings: dict, name: str, *options: str, **variables: str) -> int:
    words = ["--nodes=2", "--ntasks-per-node=1", *options, str(ROOT / "run.sub")]
    return cluster.submit(*words, **(settings | {"MODEL_NAME": name} | variables))


@pytest.fixture(scope="module")
def uninterrupted(cluster, settings, runs: Runs) -> dict[str, dict]:
    """The last weights of both phases of a job that ran to its end."""
    job = _submit(cluster, settings, "uninterrupted")
    assert cluster.wait_for_end(job) == "COMPLETED", cluster.output(job)[-4000:]
    return {name: runs.weights("uninterrupted", name) for name in ("ckpt-120", "ckpt-p2-4")}


def _same(found: dict, expected: dict, tolerance: float = 0.0) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.slow
def test_two_nodes_with_two_workers_and_with_four_end_as_one_process_does(
    cluster, settings, uninterrupted, runs: Runs
):
    common = {"seed": 7, "precision": "fp32", "save_checkpoints_steps": 200}
    flags = [f"--{name}={value}" for name, value in (NO_DROPOUT | common).items()]
    alike = {"learning_rate": 2e-3, "num_warmup_steps": 2, "num_train_steps": 120}
    # Rounding has 120 updates to grow in.
    runs.run("one", *flags, train_batch_size=8, gradient_accumulation_steps=1, **alike)
    one = runs.weights("one", "ckpt-120")
    _same(uninterrupted["ckpt-120"], one, 1e-4)
    assert uninterrupted["ckpt-p2-4"].keys() == one.keys()
    job = _submit(cluster, settings, "four", "--ntasks-per-node=2", PHASE="1", BATCHSIZE="1")
    assert cluster.wait_for_end(job) == "COMPLETED", cluster.output(job)[-4000:]
    _same(runs.weights("four", "ckpt-120"), one, 1e-4)


@pytest.mark.slow
def test_a_job_out_of_time_queues_itself_again_and_ends_with_the_same_weights(
    cluster, settings, runs: Runs, uninterrupted
):
    job = _submit(cluster, settings, "requeued")
    cluster.wait_for_output(job, "Step:    20")
    # What --signal=B:USR1@120 sends when the time is nearly up.
    cluster.run("scancel", "--batch", "--signal=USR1", str(job))
    assert cluster.wait_for_end(job) == "COMPLETED", cluster.output(job)[-4000:]
    assert cluster.show(job)["Restarts"] == "1"
    assert "queues itself again" in cluster.output(job)
    for name, expected in uninterrupted.items():
        _same(runs.weights("requeued", name), expected)


@pytest.mark.slow
def test_a_node_that_is_lost_costs_the_steps_since_the_last_checkpoint(
    cluster, settings, runs: Runs, uninterrupted
):
    job = _submit(cluster, settings, "node_lost", PHASE="1")
    cluster.wait_for_output(job, "Step:    20")
    cluster.run("scontrol", "update", "nodename=n2", "state=drain", "reason=test")
    cluster.wait_for_output(job, "Step:    40")
    cluster.run("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    # Slurm queues it again by itself, and it waits for the node.
    cluster.wait_for(lambda: cluster.show(job)["Restarts"] == "1", job)
    cluster.run("scontrol", "update", "nodename=n2", "state=resume")
    assert cluster.wait_for_end(job) == "COMPLETED", cluster.output(job)[-4000:]
    _same(runs.weights("node_lost", "ckpt-120"), uninterrupted["ckpt-120"])


@pytest.mark.slow
def test_a_cancelled_job_leaves_a_checkpoint_and_nothing_running(
    cluster, settings, runs: Runs, uninterrupted
):
    job = _submit(cluster, settings, "cancelled", PHASE="1")
    cluster.wait_for_output(job, "Step:    20")
    cluster.run("scancel", str(job))
    assert cluster.wait_for_end(job, 60) == "CANCELLED"
    cluster.wait_until_idle()
    assert cluster.show(job)["Restarts"] == "0"
    newest = max(int(name.split("-")[1]) for name in runs.checkpoints("cancelled"))
    # What the signal made them save, which by chance may be a save that was due.
    assert 20 <= newest < 120
    assert f"stopped by a signal after update {newest};" in cluster.output(job)
    # The second phase, in a job of its own, waits for the first, which goes on from there.
    first = _submit(cluster, settings, "cancelled", PHASE="1", RESUME_TRAINING="true")
    second = _submit(cluster, settings, "cancelled", f"--dependency=afterok:{first}", PHASE="2")
    assert cluster.wait_for_end(second) == "COMPLETED", cluster.output(second)[-4000:]
    for name, expected in uninterrupted.items():
        _same(runs.weights("cancelled", name), expected)


@pytest.mark.slow
def test_a_killed_worker_ends_the_job_which_names_it(cluster, settings, runs: Runs):
    job = _submit(cluster, settings, "killed", PHASE="1")
    cluster.wait_for_output(job, "Step:    20")
    (victim,) = _workers(cluster, job, rank=1)
    subprocess.run(["kill", f"-{signal.SIGKILL.value}", str(victim)], check=True)
    assert cluster.wait_for_end(job, 60) == "FAILED"
    cluster.wait_until_idle()
    last = "\n".join(cluster.output(job).splitlines()[-40:])
    assert "n2: task 1: Killed" in last and "phase 1 ended with status 137" in last, last


def _workers(cluster: SlurmCluster, job: int, rank: int) -> list[int]:
    """Processes of a task of a job that have become the training program."""
    wanted = {b"SLURM_JOB_ID=%d" % job, b"SLURM_PROCID=%d" % rank, b"SLURM_STEP_NUM_TASKS=2"}
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = set((process / "environ").read_bytes().split(b"\0"))
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted <= environment and b"run_pretraining.py" in words:
            found.append(int(process.name))
    return found
