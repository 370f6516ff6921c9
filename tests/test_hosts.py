"""A job on several hosts over ssh is a job on one: what it computes, what it refuses, how it ends.

Real ssh servers on hosts that are network namespaces (ssh_hosts.py); skipped where they cannot be made.
"""

import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ssh_hosts import Network, need_hosts
from training_runs import ROOT, Runs
from worker_jobs import NO_DROPOUT, need_horovod

START = str(ROOT / "start_workers.py")
SETTINGS = {"num_train_steps": 20, "save_checkpoints_steps": 20, **NO_DROPOUT}


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Iterator[Network]:
    """Three hosts; the interface of the third has another name."""
    need_horovod()
    need_hosts()
    made = Network(tmp_path_factory.mktemp("ssh"), {"one": "eth0", "two": "eth0", "three": "lan0"})
    yield made
    made.close()


def _on(network: Network, hosts: str, *command: str, **settings) -> list[str]:
    """The command that runs another one on hosts, from the launcher's."""
    flags = [f"--{name}={value}" for name, value in (settings | {"ssh_config": network.ssh_config}).items()]
    return network.launcher.inside(sys.executable, START, "--hosts", hosts, *flags, "--", *command)


def _run(command: list[str], seconds: float = 120) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds)


@pytest.mark.parametrize(
    ("hosts", "flags", "words"),
    [
        ("one:2,two:2", ["--workers=5"], "--workers 5: --hosts one:2,two:2 has 4 slots"),
        ("one:2,one:2", [], "one is there twice"),
        ("one:2,-oProxyCommand=id:2", [], "'-oProxyCommand=id:2' is not HOST:SLOTS"),
        ("one:2,two", [], "'two' is not HOST:SLOTS"),
        ("one:0", [], "'one:0' is not HOST:SLOTS"),
    ],
    ids=str,
)
def test_wrong_hosts_are_refused_before_any_is_asked(usage_error, hosts, flags, words):
    assert words in usage_error("start_workers.py", f"--hosts={hosts}", *flags, "--", "true")


# Writes what a worker is told into a folder, and what it prints.
TELLING = """
import json, os, sys
names = ("RANK", "LOCAL_RANK", "LOCAL_SIZE", "GLOO_IFACE")
place = [os.uname().nodename, *(os.environ["HOROVOD_" + name] for name in names)]
with open(sys.argv[1] + "/" + os.environ["HOROVOD_RANK"], "w") as stream:
    json.dump([place, sys.argv[2], os.environ["SET"], os.getcwd()], stream)
print("worker", os.environ["HOROVOD_RANK"])
"""


def test_workers_have_the_numbers_and_the_network_of_their_host(network: Network, tmp_path):
    """And the launcher's folder and environment; what a shell would change stays as it is."""
    word = """it's "$HOME" `id`; é"""
    command = _on(network, "one:2,three:2", sys.executable, "-c", TELLING, str(tmp_path), word, workers=3)
    environment = os.environ | {"SET": "here $"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "worker 0\n"
    assert sorted(done.stderr.splitlines()) == ["[1] worker 1", "[2] worker 2"]
    places, *same = zip(*(json.loads((tmp_path / str(rank)).read_text()) for rank in range(3)), strict=True)
    assert list(places) == [
        ["one", "0", "0", "2", "eth0"],
        ["one", "1", "1", "2", "eth0"],
        ["three", "2", "0", "1", "lan0"],
    ]
    assert same == [(word,) * 3, ("here $",) * 3, (os.getcwd(),) * 3]


def test_every_host_that_does_not_answer_is_named(network: Network):
    started = time.monotonic()
    done = _run(_on(network, "one:1,nobody:1,unheard-of:1", "true"))
    assert done.returncode == 2 and time.monotonic() - started < 60
    (line,) = done.stderr.splitlines()
    assert re.search(r"host nobody: .*No route to host; host unheard-of: .*not resolve hostname", line)


@pytest.mark.slow
def test_hosts_that_do_not_reach_each_other_are_named(network: Network):
    network.hosts["two"].run("ip", "route", "add", "blackhole", "10.77.0.13/32")
    try:
        done = _run(_on(network, "one:1,two:1,three:1", "true"))
    finally:
        network.hosts["two"].run("ip", "route", "delete", "blackhole", "10.77.0.13/32")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "host two: does not reach three at 10.77.0.13" in line


def test_a_host_without_the_programs_is_named(network: Network, tmp_path):
    with network.hosts["two"].mounted("--bind", str(tmp_path), str(ROOT)):
        done = _run(_on(network, "one:1,two:1", "true"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    # Where the virtual environment lies in the folder, it is missing too.
    assert "host two: " in line and ("host_workers.py" in line or sys.executable in line)


def test_a_killed_worker_is_named_with_its_host(network: Network):
    """Although the others, which miss it, end before its end is known."""
    script = "[ $HOROVOD_RANK = 2 ] || exit 3; sleep 1; kill -9 $$"
    done = _run(_on(network, "one:2,two:2", "sh", "-c", script))
    assert done.returncode == 128 + signal.SIGKILL
    assert "start_workers.py: error: worker 2 on two was killed by SIGKILL" in done.stderr.splitlines()


@pytest.mark.slow
def test_workers_of_a_lost_connection_are_named(network: Network):
    """The host's end of the connection is killed, as where a host goes down."""
    script = "[ $HOROVOD_RANK = 0 ] || { sleep 1; kill -9 $PPID; }; exec sleep 4"
    started = time.monotonic()
    done = _run(_on(network, "one:1,two:1", "sh", "-c", script))
    assert done.returncode == 1 and time.monotonic() - started < 25
    assert "worker 1 on two is lost with its connection" in done.stderr


# Says that it is up, and on SIGTERM takes its time, prints, and says that it was told.
PATIENT = """
import os, signal, sys, time
def end(*_):
    time.sleep(1)
    print("saving")
    print("saving", file=sys.stderr)
    place("told")
    sys.exit(143)
def place(name):
    open(sys.argv[1] + "/" + name + os.environ["HOROVOD_RANK"], "w").close()
signal.signal(signal.SIGTERM, end)
place("up")
while True:
    time.sleep(0.05)
"""


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_workers_have_the_time_to_save_when_the_launcher_ends(network: Network, tmp_path, ending):
    command = _on(network, "one:1,two:2", sys.executable, "-c", PATIENT, str(tmp_path))
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    _wait_for(lambda: len(list(tmp_path.glob("up*"))) == 3, 30)
    _signal(launcher, ending)
    printed, _ = launcher.communicate(timeout=30)
    _wait_for(lambda: not _processes_with(str(tmp_path)), 60)
    assert len(list(tmp_path.glob("told*"))) == 3
    if ending == signal.SIGTERM:
        assert launcher.returncode == 143 and printed.count(b"saving") == 6


def _signal(launcher: subprocess.Popen, number: int) -> None:
    """Send a signal to start_workers.py, which nsenter starts as a child of its own."""
    (child,) = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    os.kill(int(child), number)


def _processes_with(word: str) -> list[str]:
    """Processes that have a word among their arguments, on all hosts."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in path.read_bytes().split(b"\0"):
                found.append(path.parent.name)
        except OSError:
            continue  # it has just ended
    return found


def _wait_for(happened, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def one_worker(runs: Runs) -> dict:
    """Final weights of a run by one worker, four micro-batches an update."""
    runs.run("alone", train_batch_size=2, gradient_accumulation_steps=4, **SETTINGS)
    return runs.weights("alone", "ckpt-20")


def _equal(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_workers_on_two_hosts_end_with_the_weights_of_one(network: Network, runs: Runs, one_worker):
    command = runs.command("hosts", train_batch_size=2, gradient_accumulation_steps=2, **SETTINGS)
    done = _run(_on(network, "one:1,three:1", *command))
    assert done.returncode == 0, done.stderr
    assert "2 per worker x 2 accumulated x 2 workers = 8 sequences" in done.stdout
    _equal(runs.weights("hosts", "ckpt-20"), one_worker)


@pytest.mark.slow
def test_plain_horovodrun_ends_with_the_same_weights(network: Network, runs: Runs, one_worker, tmp_path):
    # It has no option for a configuration of ssh, and writes to the home folder.
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {network.ssh_config} "$@"\n')
    ssh.chmod(0o755)
    environment = os.environ | {"HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    launcher = [sys.executable, str(Path(sys.executable).with_name("horovodrun")), "-np", "2"]
    command = runs.command("horovodrun", train_batch_size=2, gradient_accumulation_steps=2, **SETTINGS)
    done = subprocess.run(
        network.launcher.inside(*launcher, "-H", "one:1,two:1", *command),
        capture_output=True,
        text=True,
        env=environment,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    _equal(runs.weights("horovodrun", "ckpt-20"), one_worker)


@pytest.mark.slow
def test_sigterm_to_the_launcher_saves_a_checkpoint(network: Network, runs: Runs):
    command = runs.command("told", num_train_steps=100_000, save_checkpoints_steps=10, train_batch_size=2)
    launcher = subprocess.Popen(
        _on(network, "one:1,three:1", *command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    _wait_for(lambda: runs.checkpoints("told"), 90)
    _signal(launcher, signal.SIGTERM)
    printed, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 143, printed
    stopped = re.search(r"stopped by a signal after update (\d+)", printed)
    assert stopped and f"ckpt-{stopped[1]}" in runs.checkpoints("told")


def _error(done: subprocess.CompletedProcess) -> str:
    """The one line that the training itself ended with, by a user's mistake."""
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "run_pretraining.py: error:" in line]
    return line


@pytest.mark.slow
def test_a_host_of_another_python_environment_is_named_at_the_start(network: Network, runs: Runs, tmp_path):
    installed = Path(importlib.metadata.distribution("numpy").locate_file(""))
    (metadata,) = installed.glob("numpy-*.dist-info")
    (tmp_path / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.0.1\n")
    with network.hosts["two"].mounted("--bind", str(tmp_path), str(metadata)):
        done = _run(_on(network, "one:1,two:1", *runs.command("mixed")))
    error = _error(done)
    assert re.search(
        r"worker 1 on two differs from worker 0 on one in its numpy version: 1.0.1 instead of \d", error
    )
    assert not runs.folder("mixed").exists()


@pytest.mark.slow
def test_a_results_folder_that_is_not_shared_is_named_at_the_start(network: Network, runs: Runs, tmp_path):
    command = runs.command("apart", results_dir=tmp_path)
    with network.hosts["two"].mounted("-t", "tmpfs", "none", str(tmp_path)):
        done = _run(_on(network, "one:1,two:1", *command))
    error = _error(done)
    assert f"worker 1: {tmp_path}/models/apart: two does not see what worker 0 writes there" in error
