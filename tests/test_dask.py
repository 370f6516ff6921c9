"""Units on a real Dask cluster: workers that die, do not fit or come late, and a scheduler that goes away."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from dask_clusters import PYTHONPATH, DaskCluster
from test_units import EXPECTED, die_at_first, double, numbered, results, runs
from training_runs import ROOT

from command_line import RunFailure, UsageError
from data import executors, units
from data.executors import DaskBackend
from data.units import Unit

pytest.importorskip("distributed")


def slow(path: Path, number: int, seconds: float) -> dict:
    time.sleep(seconds)
    return double(path, number)


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def records(folder: Path) -> int:
    return len(list(folder.glob(".units/*.json")))


def wait_for_records(folder: Path, count: int, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while records(folder) < count:
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_dask_does_the_same_and_loses_nothing_with_a_worker(tmp_path):
    """One of two workers dies in the middle: nothing lost, nothing twice, the same bytes."""
    with DaskCluster(tmp_path / "dask", 2) as cluster:
        backend = DaskBackend(cluster.address)
        assert units.run_units(numbered(12), double, tmp_path / "whole", backend, "") == {}
        assert results(tmp_path / "whole") == EXPECTED and set(runs(tmp_path / "whole").values()) == {1}
        tasks = numbered(12, 0)
        tasks[4] = Unit("unit-004", "results/004.txt", (4, 1))
        assert units.run_units(tasks, die_at_first, tmp_path / "one", backend, "") == {}
        assert sorted(worker.poll() is None for worker in cluster.workers) == [False, True]
        assert results(tmp_path / "one") == EXPECTED
        kept = [record["doubled"] for _, record in units.read_records(tmp_path / "one", tasks)]
        assert kept == [2 * n for n in range(12)]


@pytest.mark.slow
def test_a_unit_that_kills_every_worker_is_set_aside_and_the_others_done(tmp_path, monkeypatch):
    with DaskCluster(tmp_path / "dask", 2, nannies=True) as cluster:
        tasks = numbered(12, 0)
        tasks[4] = Unit("unit-004", "results/004.txt", (4, 99))
        set_aside = units.run_units(
            tasks, die_at_first, tmp_path / "folder", DaskBackend(cluster.address), ""
        )
        assert list(set_aside) == ["unit-004"] and "KilledWorker" in set_aside["unit-004"]
        assert results(tmp_path / "folder") == {n: text for n, text in EXPECTED.items() if n != "004.txt"}


@pytest.mark.slow
def test_a_cluster_that_is_left_without_workers_is_one_line_and_goes_on_later(tmp_path, monkeypatch):
    """Without nannies, none comes back; results that are waited for in order are no exception."""
    monkeypatch.setattr(executors, "_WORKERLESS_SECONDS", 3)
    with DaskCluster(tmp_path / "dask", 1) as cluster:
        backend = DaskBackend(cluster.address)
        tasks = numbered(12, 0)
        tasks[4] = Unit("unit-004", "results/004.txt", (4, 1))
        with pytest.raises(RunFailure, match=r"--dask_scheduler .*: all workers are lost, for 3 s now"):
            units.run_units(tasks, die_at_first, tmp_path / "folder", backend, "")
        cluster.start_worker()
        with (
            pytest.raises(RunFailure, match="all workers are lost"),
            backend.open(tmp_path / "folder") as pool,
        ):
            list(pool.map(die, range(3)))
        cluster.start_worker()
        assert units.run_units(tasks, die_at_first, tmp_path / "folder", backend, "") == {}
        assert results(tmp_path / "folder") == EXPECTED


def test_no_scheduler_is_one_line(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(executors, "_CONNECT_SECONDS", 1)
    with pytest.raises(UsageError, match=r"--dask_scheduler tcp://127.0.0.1:9: cannot be reached"):
        units.run_units(numbered(1), double, tmp_path, DaskBackend("tcp://127.0.0.1:9"), "")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("address", ["", "nonsense", "smoke://signal:1", "tcp://127.0.0.1"])
def test_what_is_no_address_is_one_line(tmp_path, monkeypatch, capfd, address):
    monkeypatch.setattr(executors, "_CONNECT_SECONDS", 1)
    with pytest.raises(UsageError, match=f"--dask_scheduler {address}: "):
        units.run_units(numbered(1), double, tmp_path, DaskBackend(address), "")
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_a_scheduler_without_the_repository_is_one_line(tmp_path):
    """It has to read the units that it hands on; each would be set aside otherwise."""
    with (
        DaskCluster(tmp_path / "dask", 1, pythonpath=str(tmp_path)) as cluster,
        pytest.raises(UsageError, match=r"the scheduler cannot work: No module named 'data'.* PYTHONPATH"),
    ):
        units.run_units(numbered(1), double, tmp_path / "folder", DaskBackend(cluster.address), "")


@pytest.mark.slow
def test_workers_that_are_missing_or_do_not_fit_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "_CONNECT_SECONDS", 2)
    with DaskCluster(tmp_path / "dask", 0) as cluster:
        backend = DaskBackend(cluster.address)
        with pytest.raises(UsageError, match="has no workers"):
            units.run_units(numbered(1), double, tmp_path / "folder", backend, "")
        monkeypatch.setattr(executors, "_CONNECT_SECONDS", 30)
        worker = cluster.start_worker(str(tmp_path))
        with pytest.raises(UsageError, match=r"worker .*No module named 'data'.* PYTHONPATH"):
            units.run_units(numbered(1), double, tmp_path / "folder", backend, "")
        worker.kill()
        worker.wait()
        cluster.start_worker()
        versions = executors._deciding_versions()
        with monkeypatch.context() as changed:
            changed.setattr(executors, "_deciding_versions", lambda: versions | {"ftfy": "1.0"})
            with pytest.raises(UsageError, match=f"has ftfy {versions['ftfy']}, this program has 1.0"):
                units.run_units(numbered(1), double, tmp_path / "folder", backend, "")
        assert not list((tmp_path / "folder").glob(".*.tmp"))
        assert units.run_units(numbered(1), double, tmp_path / "folder", backend, "") == {}


def needs_the_folder(path: Path, number: int) -> dict:
    time.sleep(0.3)
    return double(path, number)


@pytest.mark.skipif(os.geteuid() != 0, reason="hiding a folder from one process needs root")
@pytest.mark.slow
def test_a_worker_that_joins_late_and_does_not_see_the_folder_is_named(tmp_path):
    """Rather than that the units it meets are set aside."""
    folder, empty = tmp_path / "folder", tmp_path / "empty"
    empty.mkdir()
    hidden = ("unshare", "--mount", "bash", "-c", f'mount --bind {empty} {folder} && exec "$@"', "bash")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0:
        pytest.skip("no right to hide a folder")
    with DaskCluster(tmp_path / "dask", 1) as cluster:

        def join() -> None:
            wait_for_records(folder, 2)
            cluster.start_worker(PYTHONPATH, *hidden)

        late = threading.Thread(target=join)
        late.start()
        with pytest.raises(UsageError, match=rf"worker tcp://.* does not see {folder}: workers need"):
            units.run_units(numbered(60), needs_the_folder, folder, DaskBackend(cluster.address), "")
        late.join()
        cluster.workers[1].kill()
        cluster.workers[1].wait()
        units.run_units(numbered(60), double, folder, DaskBackend(cluster.address), "")
    assert results(folder) == {f"{n:03d}.txt": str(2 * n) for n in range(60)}


PROGRAM = """
    import sys
    from pathlib import Path
    sys.path[:0] = [{tests!r}, {root!r}]
    import test_dask
    from command_line import run_program
    from data import units
    from data.executors import DaskBackend

    def main():
        tasks = test_dask.numbered(40, 0.5)
        units.run_units(tasks, test_dask.slow, Path(sys.argv[1]), DaskBackend(sys.argv[2]), "")
        return 0

    if __name__ == "__main__":
        run_program(main)
"""


@pytest.fixture
def start_program(tmp_path):
    """Start a program that has 40 units of half a second done in a folder, by a scheduler."""
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM).format(tests=str(ROOT / "tests"), root=str(ROOT)))

    def start(folder: Path, address: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, program, folder, address],
            process_group=0,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def complete(folder: Path, cluster: DaskCluster) -> None:
    """Have the rest of the 40 units done."""
    backend = DaskBackend(cluster.address)
    assert units.run_units(numbered(40, 0.0), slow, folder, backend, "") == {}
    assert results(folder) == {f"{n:03d}.txt": str(2 * n) for n in range(40)}


@pytest.mark.slow
def test_a_scheduler_that_goes_away_is_one_line_and_the_rest_is_done_later(tmp_path, start_program):
    folder = tmp_path / "folder"
    with DaskCluster(tmp_path / "dask", 2) as cluster:
        program = start_program(folder, cluster.address)
        wait_for_records(folder, 3)
        cluster.scheduler.kill()
        _, error = program.communicate(timeout=10)
        assert program.returncode == 1 and records(folder) < 40
        (line,) = error.splitlines()
        assert "--dask_scheduler tcp://" in line and "the scheduler is lost; run the command again" in line
    with DaskCluster(tmp_path / "another", 2) as cluster:
        complete(folder, cluster)


@pytest.mark.slow
def test_a_program_that_is_stopped_ends_at_once_and_frees_the_workers(tmp_path, start_program):
    """What waits at the scheduler is cancelled; a unit that runs is left to its end."""
    folder = tmp_path / "folder"
    with DaskCluster(tmp_path / "dask", 2) as cluster:
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            program = start_program(folder, cluster.address)
            before = records(folder)
            wait_for_records(folder, before + 2)
            os.killpg(program.pid, number)
            _, error = program.communicate(timeout=5)
            assert program.returncode == code and len(error.splitlines()) == 1, error
            time.sleep(1.5)
            done = records(folder)
            time.sleep(1)
            # Those that ran then, and no further one.
            assert records(folder) == done < 40
        complete(folder, cluster)
