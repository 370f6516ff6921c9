"""data/run_dask_slurm.sub on a real Slurm of two nodes: the bytes that one process makes, whatever happens.

tests/test_run_dask_slurm.py runs it with a stand-in for srun.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prepared_corpora import Preparation, tree, vocabulary, write_texts
from slurm_cluster import SlurmCluster, need_slurm
from training_runs import ROOT

pytestmark = pytest.mark.slow

SETTINGS = ("--n_training_shards=6", "--n_test_shards=2", "--fraction_test_set=0.2")
# The interpreter, but with small parts of the texts.
INTERPRETER = """#!/usr/bin/env bash
if [[ $1 == data/dataPrep.py ]]; then set -- tests/small_parts.py "${{@:2}}"; fi
exec {python} "$@"
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Slurm with two nodes, as long as the tests of this file run."""
    need_slurm()
    pytest.importorskip("distributed")
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as started:
        yield started


class Jobs:
    """Jobs that prepare the same texts, in folders of their own.

    Attributes:
        expected: the checksums of what one process makes of them without Dask.
    """

    def __init__(self, cluster: SlurmCluster, folder: Path):
        self.cluster, self.folder = cluster, folder
        write_texts(folder / "texts", 5, 200)
        (folder / "python").write_text(INTERPRETER.format(python=sys.executable))
        (folder / "python").chmod(0o755)
        self._environment = {
            "PYTHON": str(folder / "python"),
            "VOCAB_FILE": str(vocabulary(folder / "vocab.txt")),
            "MAX_SEQ_LENGTHS": "32",
            # Both nodes are this machine.
            "INTERFACE": "lo",
            "DASK_DISTRIBUTED__WORKER__PRELOAD": str(ROOT / "tests/slow_units.py"),
        }
        subprocess.run(
            ["bash", "data/create_datasets_from_start.sh", *self._words()],
            cwd=ROOT,
            env=os.environ | self._variables("alone") | {"N_PROCESSES": "1"},
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=120,
        )
        self.expected = self.tree("alone")

    def submit(self, name: str, *options: str, texts: str = "texts") -> int:
        words = ["--nodes=2", "--ntasks-per-node=1", *options, "data/run_dask_slurm.sub", *self._words(texts)]
        return self.cluster.submit(*words, **self._variables(name))

    def complete(self, job: int) -> str:
        """Wait for a job to end well; returns what it has printed."""
        assert self.cluster.wait_for_end(job) == "COMPLETED", self.cluster.output(job)[-4000:]
        return self.cluster.output(job)

    def wait_for_units(self, name: str, job: int, count: int = 3) -> None:
        """Wait until some units of the first step are done, and others are not."""
        folder = Preparation(self.folder / name).formatted("text")
        self.cluster.wait_for(lambda: len(list(folder.glob(".units/*.json"))) > count, job, 120)
        assert not (folder / "manifest.json").exists()

    def tree(self, name: str) -> dict[str, str]:
        """The checksums of all that a job has left but Dask's log."""
        found = tree(self.folder / name)
        return {path: sha256 for path, sha256 in found.items() if not path.startswith("dask-")}

    def _words(self, texts: str = "texts") -> list[str]:
        return ["own", str(self.folder / texts), "--", *SETTINGS]

    def _variables(self, name: str) -> dict[str, str]:
        return self._environment | {"DATA_PREP_WORKING_DIR": str(self.folder / name)}


@pytest.fixture(scope="module")
def jobs(cluster, tmp_path_factory) -> Jobs:
    return Jobs(cluster, tmp_path_factory.mktemp("jobs"))


def processes(job: int, **variables: str) -> dict[int, str]:
    """The command lines of a job's processes that have these variables in their environments, by number."""
    wanted = {f"{name}={value}".encode() for name, value in (variables | {"SLURM_JOB_ID": str(job)}).items()}
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if wanted <= set((process / "environ").read_bytes().split(b"\0")):
                found[int(process.name)] = (process / "cmdline").read_bytes().decode().replace("\0", " ")
        except OSError:
            continue
    return found


def kill_worker(job: int, rank: int) -> None:
    """Kill the worker of a task, not the nanny that started it."""
    of_task = processes(job, SLURM_PROCID=str(rank), SLURM_STEP_NUM_TASKS="2")
    (victim,) = (
        number for number, words in of_task.items() if "spawn_main" in words or "forkserver" in words
    )
    os.kill(victim, signal.SIGKILL)


def test_all_steps_run_on_both_nodes_and_nothing_is_left(jobs: Jobs, cluster):
    job = jobs.submit("whole")
    output = jobs.complete(job)
    assert jobs.tree("whole") == jobs.expected
    assert "distributed" not in output and "srun" not in output, output
    log = (jobs.folder / f"whole/dask-{job}.log").read_text()
    assert "0: " in log and "1: " in log and "Scheduler at:     tls://127.0.0.1" in log
    cluster.wait_until_idle()
    assert not processes(job)
    # The key to the cluster is gone with it.
    assert not (jobs.folder / f"whole/.dask-{job}").exists()


def test_the_steps_exit_code_is_the_jobs(jobs: Jobs, cluster):
    job = jobs.submit("mistake", texts="absent")
    assert cluster.wait_for_end(job) == "FAILED"
    assert cluster.show(job)["ExitCode"] == "2:0"
    assert "absent: no such file" in cluster.output(job)
    assert cluster.output(job).splitlines()[-1].endswith(f"dask-{job}.log")


def test_a_worker_that_is_killed_and_a_node_that_is_drained_cost_nothing(jobs: Jobs, cluster):
    job = jobs.submit("killed")
    jobs.wait_for_units("killed", job)
    kill_worker(job, rank=1)
    cluster.run("scontrol", "update", "nodename=n2", "state=drain", "reason=test")
    try:
        jobs.complete(job)
    finally:
        cluster.run("scontrol", "update", "nodename=n2", "state=resume")
    assert cluster.show(job)["Restarts"] == "0" and jobs.tree("killed") == jobs.expected


def test_a_job_goes_on_without_a_node_that_is_lost(jobs: Jobs, cluster):
    job = jobs.submit("lost")
    jobs.wait_for_units("lost", job)
    cluster.run("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    try:
        jobs.complete(job)
    finally:
        # It may be back by itself.
        cluster.run("scontrol", "update", "nodename=n2", "state=resume", check=False)
    assert cluster.show(job)["Restarts"] == "0" and jobs.tree("lost") == jobs.expected


def test_a_job_out_of_time_queues_itself_again_and_goes_on(jobs: Jobs, cluster):
    job = jobs.submit("requeued")
    jobs.wait_for_units("requeued", job)
    # What --signal=B:USR1@60 sends when the time is nearly up.
    cluster.run("scancel", "--batch", "--signal=USR1", str(job))
    cluster.wait_for(lambda: cluster.show(job)["JobState"] == "PENDING", job)
    # Slurm lets it wait for two minutes.
    cluster.run("scontrol", "update", f"jobid={job}", "starttime=now")
    output = jobs.complete(job)
    assert cluster.show(job)["Restarts"] == "1"
    assert "queues itself again" in output and "going on where an earlier run was stopped" in output
    assert jobs.tree("requeued") == jobs.expected


def test_a_cancelled_job_leaves_nothing_running_and_another_goes_on(jobs: Jobs, cluster):
    job = jobs.submit("cancelled")
    jobs.wait_for_units("cancelled", job)
    cluster.run("scancel", str(job))
    assert cluster.wait_for_end(job, 60) == "CANCELLED"
    cluster.wait_until_idle()
    assert not processes(job)
    assert not (jobs.folder / f"cancelled/.dask-{job}").exists()
    output = jobs.complete(jobs.submit("cancelled"))
    assert "going on where an earlier run was stopped" in output
    assert jobs.tree("cancelled") == jobs.expected
