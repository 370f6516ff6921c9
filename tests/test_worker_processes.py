"""Pools end with their parent and with their first dead worker, whatever they were doing."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from training_runs import ROOT

from command_line import UsageError
from worker_processes import worker_pool

PROGRAM = """
    import multiprocessing.util, os, signal, sys, threading, time
    from command_line import run_program
    from worker_processes import worker_pool

    def measure(text):
        return len(text)

    def interrupt(text):
        return 0

    def lock(text):
        time.sleep(0.5)
        return 0

    def die(text):
        os.kill(os.getpid(), signal.SIGKILL)

    start_process = multiprocessing.util.spawnv_passfds

    def start_and_interrupt(*arguments):
        process = start_process(*arguments)
        # Python starts a process to keep track of its resources the same way, and before the workers.
        if "--multiprocessing-fork" in map(os.fsdecode, arguments[1]):
            os.killpg(0, signal.SIGINT)
            time.sleep(0.2)
        return process

    def main():
        if "{task}" == "interrupt":
            # Another thread may take the signal, whatever the main thread has blocked.
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
            multiprocessing.util.spawnv_passfds = start_and_interrupt
        with worker_pool(2) as pool:
            # More than the pipe to the workers holds, so that the pool is in the midst of sending.
            tasks = [pool.submit({task}, "x" * 4_000_000) for _ in range(40)]
            if "{task}" == "lock":
                # As concurrent.futures.wait does, whose next line an interrupt may prevent.
                tasks[0]._condition.acquire()
                os.kill(os.getpid(), signal.SIGINT)
                tasks[0]._condition.release()
            print(sum(task.result() for task in tasks))
        return 0

    if __name__ == "__main__":
        run_program(main)
"""


def _run(tmp_path, task: str) -> subprocess.CompletedProcess:
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM).format(task=task))
    return subprocess.run(
        [sys.executable, str(tmp_path / "program.py")],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        process_group=0,
    )


def test_results_come_back(tmp_path):
    done = _run(tmp_path, "measure")
    assert (done.returncode, done.stdout) == (0, "160000000\n"), done.stderr


@pytest.mark.parametrize("attempt", range(3))
def test_a_dead_worker_ends_the_program_even_while_it_is_being_sent_data(tmp_path, attempt):
    done = _run(tmp_path, "die")
    assert done.returncode == 1 and "a worker process died" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_interrupt_between_the_start_of_a_worker_and_its_first_data_is_one_line(tmp_path):
    done = _run(tmp_path, "interrupt")
    assert (done.returncode, done.stderr) == (130, "program.py: error: interrupted\n")


def test_an_interrupt_while_the_pool_is_locked_ends_the_program(tmp_path):
    done = _run(tmp_path, "lock")
    assert (done.returncode, done.stderr) == (130, "program.py: error: interrupted\n")


def test_an_interrupt_is_not_held_back_for_long_by_work_of_the_parents_own():
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), worker_pool(2) as pool:
        pool.submit(os.getpid).result()
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        while time.monotonic() - started < 30:
            pass
    assert time.monotonic() - started < 20


def mistake() -> None:
    raise UsageError("--flag value: no such thing")


def test_a_mistake_of_the_users_is_told_without_waiting_for_what_runs():
    begin = time.monotonic()
    with pytest.raises(UsageError, match="--flag value"), worker_pool(2) as pool:
        pool.submit(time.sleep, 600)
        pool.submit(mistake).result()
    assert time.monotonic() - begin < 300


def test_an_interrupt_ends_workers_that_are_still_starting_when_the_work_is_done():
    """They would otherwise complain of what their parent has taken with it."""
    with pytest.raises(KeyboardInterrupt), worker_pool(2, time.sleep, (60,)):
        threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    deadline = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not multiprocessing.active_children()
