"""data/run_dask_slurm.sub with stand-ins for srun and Python: refusals, exit codes, what Dask is given.

tests/test_dask_slurm.py gives it to a real Slurm.
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from training_runs import ROOT

# Records its words, and lasts until its scheduler is told to end, as workers do.
SRUN = """#!/usr/bin/env bash
printf '%s\\n' "$@" > "$RECORD.srun"
while [[ ! -e $RECORD.ended ]]; do sleep 0.05; done
"""
# The scheduler and the steps. STEPS is what a step does, where it is more than ending with STATUS.
PYTHON = """#!/usr/bin/env bash
if [[ $2 == distributed.cli.dask_scheduler ]]; then
  printf '%s\\n' "$@" > "$RECORD.scheduler"
  env > "$RECORD.environment"
  if [[ -n ${SCHEDULER_FAILS:-} ]]; then echo "no such luck" >&2 && exit 1; fi
  trap 'touch "$RECORD.ended"; exit' TERM
  echo '{"address": "tls://10.0.0.1:1234"}' > "${@: -1}"
  while true; do sleep 0.05; done
fi
printf '%s\\n' "$@" --end-- >> "$RECORD.steps"
eval "${STEPS:-}"
exit "${STATUS:-0}"
"""
SCONTROL = """#!/usr/bin/env bash
printf '%s\\n' "$@" > "$RECORD.scontrol"
"""


@pytest.fixture
def submit(tmp_path):
    """Start the script as Slurm does: a copy of it, told by the environment where it was submitted."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("srun", SRUN), ("a-python", PYTHON), ("scontrol", SCONTROL)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    script = tmp_path / "slurm_script"
    shutil.copy(ROOT / "data/run_dask_slurm.sub", script)
    (tmp_path / "vocab.txt").touch()

    def start(*arguments: str, folder: Path = ROOT, **environment: str) -> subprocess.Popen:
        settings = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "RECORD": str(tmp_path / "record"),
            "SLURM_JOB_ID": "7",
            "SLURM_SUBMIT_DIR": str(folder),
            "DATA_PREP_WORKING_DIR": str(tmp_path / "working"),
            "VOCAB_FILE": str(tmp_path / "vocab.txt"),
            "PYTHON": "a-python",
        }
        settings = {name: value for name, value in (settings | environment).items() if value != "(unset)"}
        return subprocess.Popen(
            ["bash", str(script), *(arguments or ("own", str(ROOT / "tests")))],
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


def _words(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_every_step_is_given_the_scheduler_and_the_flags(submit, tmp_path):
    code, _, stderr = _end(submit("own", str(ROOT / "tests"), "--", "--clean=standard"))
    assert (code, stderr) == (0, "")
    calls = (tmp_path / "record.steps").read_text().split("--end--\n")[:-1]
    actions = [call.splitlines()[call.splitlines().index("--action") + 1] for call in calls]
    assert actions == ["text_formatting", "sharding", "create_tfrecord_files", "create_tfrecord_files"]
    for call in calls:
        assert {"--dask_scheduler=tls://10.0.0.1:1234", "--clean=standard"} <= set(call.splitlines())
    # The scheduler has been ended, and the key thrown away.
    assert (tmp_path / "record.ended").exists()
    assert [path.name for path in (tmp_path / "working").iterdir()] == ["dask-7.log"]


def test_the_cluster_is_for_whoever_has_the_jobs_key_alone(submit, tmp_path):
    assert _end(submit(STEPS='stat -c %a "$DATA_PREP_WORKING_DIR/.dask-7" > "$RECORD.mode"'))[0] == 0
    assert _words(tmp_path / "record.mode")[0] == "700"
    scheduler = _words(tmp_path / "record.scheduler")
    assert scheduler[scheduler.index("--protocol") + 1] == "tls"
    environment = dict(line.split("=", 1) for line in _words(tmp_path / "record.environment") if "=" in line)
    assert environment["DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION"] == "True"
    certificate = str(tmp_path / "working/.dask-7/certificate.pem")
    for name in ("CA_FILE", "CLIENT__CERT", "SCHEDULER__CERT", "WORKER__CERT"):
        assert environment[f"DASK_DISTRIBUTED__COMM__TLS__{name}"] == certificate


@pytest.mark.parametrize(
    ("environment", "limit"),
    [
        ({"SLURM_TASKS_PER_NODE": "16(x2),4"}, "0.0625"),
        ({"SLURM_TASKS_PER_NODE": "4(x2)", "SLURM_MEM_PER_NODE": "64000"}, "16000MiB"),
        ({"SLURM_MEM_PER_CPU": "2000", "SLURM_CPUS_PER_TASK": "3"}, "6000MiB"),
        # All that the nodes have.
        ({"SLURM_TASKS_PER_NODE": "2", "SLURM_MEM_PER_NODE": "0"}, "0.5"),
        ({"SLURM_MEM_PER_NODE": "64000", "MEMORY_LIMIT": "4GiB"}, "4GiB"),
    ],
    ids=str,
)
def test_a_worker_may_use_its_share_of_the_memory(submit, tmp_path, environment, limit):
    assert _end(submit(**environment))[0] == 0
    words = _words(tmp_path / "record.srun")
    assert words[words.index("--memory-limit") + 1] == limit
    assert words[words.index("distributed.cli.dask_worker") + 1] == "tls://10.0.0.1:1234"


def test_the_scheduler_is_where_the_workers_reach_it(submit, tmp_path):
    assert _end(submit(SLURM_JOB_NUM_NODES="1"))[0] == 0
    words = _words(tmp_path / "record.scheduler")
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert _end(submit(SLURM_JOB_NUM_NODES="2"))[0] == 0
    words = _words(tmp_path / "record.scheduler")
    # What this machine calls itself leads elsewhere, or nowhere and is left to Dask.
    assert "--host" not in words or not words[words.index("--host") + 1].startswith("127.")
    assert _end(submit(SLURM_JOB_NUM_NODES="2", INTERFACE="ib0"))[0] == 0
    for name in ("scheduler", "srun"):
        words = _words(tmp_path / f"record.{name}")
        assert words[words.index("--interface") + 1] == "ib0" and "--host" not in words


@pytest.mark.parametrize("status", [1, 2, 143])
def test_a_step_that_fails_ends_the_job_with_its_status_and_names_the_log(submit, tmp_path, status):
    code, _, stderr = _end(submit(STATUS=str(status)))
    assert code == status and stderr.splitlines()[-1].endswith(f"{tmp_path}/working/dask-7.log")
    assert (tmp_path / "record.steps").read_text().count("--end--") == 1
    assert not (tmp_path / "record.scontrol").exists() and not (tmp_path / "working/.dask-7").exists()


def test_a_scheduler_that_does_not_start_is_told_with_its_reason(submit, tmp_path):
    code, _, stderr = _end(submit(SCHEDULER_FAILS="1"))
    assert code == 1
    assert "the Dask scheduler did not start: no such luck" in stderr.splitlines()[0]
    assert not (tmp_path / "record.srun").exists() and not (tmp_path / "record.steps").exists()


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"SLURM_JOB_ID": "(unset)"}, "not inside a Slurm job"),
        ({"SLURM_SUBMIT_DIR": "/"}, "not the root of the repository"),
    ],
    ids=str,
)
def test_what_cannot_run_is_one_line_and_status_2(submit, tmp_path, environment, told):
    code, _, stderr = _end(submit(**environment))
    assert code == 2 and told in stderr and len(stderr.splitlines()) == 1, stderr
    assert not (tmp_path / "record.scheduler").exists()


def test_help_needs_no_job():
    script = ROOT / "data/run_dask_slurm.sub"
    done = subprocess.run(["bash", script, "--help"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and "MEMORY_LIMIT" in done.stdout and "set -euo" not in done.stdout


def _signalled(submit, tmp_path, number: int, **environment: str) -> tuple[int, str, str]:
    waiting = 'touch "$RECORD.started"; trap "exit 143" TERM; while true; do sleep 0.05; done'
    process = submit(STEPS=f"{environment.pop('BEFORE', '')}; {waiting}", **environment)
    end = time.monotonic() + 30
    while not (tmp_path / "record.started").exists():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    return _end(process)


UNIT = (
    'mkdir -p "$DATA_PREP_WORKING_DIR/step/.units"; sleep 0.1; touch "$DATA_PREP_WORKING_DIR/step/.units/{}"'
)


def test_out_of_time_queues_the_job_again_where_a_unit_was_done(submit, tmp_path):
    code, stdout, _ = _signalled(submit, tmp_path, signal.SIGUSR1, BEFORE=UNIT.format("part-1.json"))
    assert code == 143 and "queues itself again" in stdout
    assert _words(tmp_path / "record.scontrol") == ["requeue", "7"]


def test_out_of_time_without_progress_is_the_end(submit, tmp_path):
    """The ledger is written by every run."""
    code, _, stderr = _signalled(submit, tmp_path, signal.SIGUSR1, BEFORE=UNIT.format("ledger.json"))
    assert code == 1 and "before anything was done" in stderr
    assert not (tmp_path / "record.scontrol").exists()


def test_a_cancelled_job_is_not_queued_again(submit, tmp_path):
    code, _, _ = _signalled(submit, tmp_path, signal.SIGTERM, BEFORE=UNIT.format("part-1.json"))
    assert code == 143 and not (tmp_path / "record.scontrol").exists()
    assert (tmp_path / "record.ended").exists() and not (tmp_path / "working/.dask-7").exists()
