"""Units are done once and completely, whatever fails, dies, or is interrupted; on one machine."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from training_runs import ROOT

import files
from command_line import RunFailure, UsageError
from data import step_folder, units
from data.executors import LocalBackend
from data.step_folder import SourceFile
from data.units import Unit


def double(path: Path, number: int) -> dict:
    """Counts its own runs beside its result."""
    with open(f"{path}.runs", "a") as runs:
        runs.write("x")
    files.write_text(path, str(2 * number))
    return {"doubled": 2 * number}


def fail_at_first(path: Path, number: int, times: int) -> dict:
    tries = Path(f"{path}.tries")
    so_far = int(tries.read_text()) if tries.exists() else 0
    if so_far < times:
        tries.write_text(str(so_far + 1))
        raise ValueError(f"try {so_far + 1}")
    return double(path, number)


def die_at_first(path: Path, number: int, times: int) -> dict:
    tries = Path(f"{path}.tries")
    so_far = int(tries.read_text()) if tries.exists() else 0
    if so_far < times:
        tries.write_text(str(so_far + 1))
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return double(path, number)


def mistake(path: Path, number: int) -> dict:
    raise UsageError(f"number {number}: is no good")


def fill_the_disk(path: Path, number: int) -> dict:
    raise OSError(files.FULL_DISK[0], "No space left on device", str(path))


def allocate(path: Path, gigabytes: float) -> dict:
    content = bytearray(int(gigabytes * 1e9))
    return {"bytes": len(content)}


def numbered(count: int, *arguments) -> list[Unit]:
    return [Unit(f"unit-{n:03d}", f"results/{n:03d}.txt", (n, *arguments)) for n in range(count)]


def results(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((folder / "results").glob("*.txt"))}


def runs(folder: Path) -> dict[str, int]:
    return {path.stem: len(path.read_text()) for path in sorted((folder / "results").glob("*.runs"))}


EXPECTED = {f"{n:03d}.txt": str(2 * n) for n in range(12)}


def test_every_unit_is_done_once_and_its_record_is_kept_in_order(tmp_path):
    assert units.run_units(numbered(12), double, tmp_path, LocalBackend(2), "doubling") == {}
    assert results(tmp_path) == EXPECTED and set(runs(tmp_path).values()) == {1}
    records = list(units.read_records(tmp_path, numbered(12)))
    assert [(unit.name, record) for unit, record in records] == [
        (f"unit-{n:03d}", {"doubled": 2 * n}) for n in range(12)
    ]


def test_a_second_run_does_only_what_is_missing(tmp_path):
    units.run_units(numbered(5), double, tmp_path, LocalBackend(1), "")
    units.run_units(numbered(12), double, tmp_path, LocalBackend(2), "")
    assert results(tmp_path) == EXPECTED and set(runs(tmp_path).values()) == {1}
    # Nothing is left to do: no worker is started.
    units.run_units(numbered(12), double, tmp_path, None, "")


def test_a_result_without_a_record_is_made_again(tmp_path):
    units.run_units(numbered(3), double, tmp_path, LocalBackend(1), "")
    units.record_path(tmp_path, numbered(3)[1]).unlink()
    (tmp_path / "results/001.txt").write_text("half a res")
    units.run_units(numbered(3), double, tmp_path, LocalBackend(1), "")
    assert results(tmp_path)["001.txt"] == "2"
    assert list(runs(tmp_path).values()) == [1, 2, 1]


def test_a_unit_that_fails_twice_is_done_at_the_third_try(tmp_path):
    assert units.run_units(numbered(4, 2), fail_at_first, tmp_path, LocalBackend(2), "") == {}
    assert results(tmp_path) == dict(list(EXPECTED.items())[:4])


def test_a_unit_that_fails_three_times_is_set_aside_and_named_and_the_rest_done(tmp_path, capsys):
    tasks = numbered(12, 0)
    tasks[5] = Unit("unit-005", "results/005.txt", (5, 3))
    set_aside = units.run_units(tasks, fail_at_first, tmp_path, LocalBackend(2), "")
    assert set_aside == {"unit-005": "ValueError: try 3"}
    assert results(tmp_path) == {name: text for name, text in EXPECTED.items() if name != "005.txt"}
    assert "unit-005: set aside (ValueError: try 3)" in capsys.readouterr().out
    # Tried anew by the next run, which finds it mended.
    assert units.run_units(tasks, fail_at_first, tmp_path, LocalBackend(2), "") == {}
    assert results(tmp_path) == EXPECTED


def test_a_dying_worker_costs_its_own_unit_alone(tmp_path):
    """The others that were running beside it are not counted as failed, however often it dies."""
    tasks = numbered(12, 0)
    tasks[1] = Unit("unit-001", "results/001.txt", (1, 99))
    set_aside = units.run_units(tasks, die_at_first, tmp_path, LocalBackend(2), "")
    assert list(set_aside) == ["unit-001"] and "died" in set_aside["unit-001"]
    assert results(tmp_path) == {name: text for name, text in EXPECTED.items() if name != "001.txt"}


def test_a_worker_that_dies_once_loses_nothing(tmp_path):
    tasks = numbered(12, 0)
    tasks[3] = Unit("unit-003", "results/003.txt", (3, 1))
    assert units.run_units(tasks, die_at_first, tmp_path, LocalBackend(2), "") == {}
    assert results(tmp_path) == EXPECTED


def test_workers_that_die_whatever_they_do_end_the_step(tmp_path, monkeypatch):
    """Each would be tried three times by workers of its own; of thousands of units that takes hours."""
    opened = []
    backend = LocalBackend(1)
    monkeypatch.setattr(backend, "open", lambda folder: opened.append(0) or LocalBackend(1).open(folder))
    monkeypatch.setattr(units, "_MOST_DEATHS", 3)
    with pytest.raises(RunFailure, match="a worker process died"):
        units.run_units(numbered(12, 99), die_at_first, tmp_path, backend, "")
    assert len(opened) == 3


def test_a_result_that_was_taken_away_is_made_again(tmp_path):
    units.run_units(numbered(3), double, tmp_path, LocalBackend(1), "")
    assert units.weight_left(numbered(5), tmp_path) == 2
    (tmp_path / "results/001.txt").unlink()
    assert units.weight_left(numbered(5), tmp_path) == 3
    units.run_units(numbered(3), double, tmp_path, LocalBackend(1), "")
    assert list(runs(tmp_path).values()) == [1, 2, 1]


def test_a_users_mistake_stops_the_step_at_once(tmp_path):
    with pytest.raises(UsageError, match="is no good"):
        units.run_units(numbered(12), mistake, tmp_path, LocalBackend(2), "")


def test_a_full_disk_stops_the_step_and_keeps_what_is_done(tmp_path):
    units.run_units(numbered(3), double, tmp_path, LocalBackend(1), "")
    with pytest.raises(OSError, match="No space left"):
        units.run_units(numbered(12), fill_the_disk, tmp_path, LocalBackend(2), "")
    assert results(tmp_path) == dict(list(EXPECTED.items())[:3])


def test_a_unit_may_not_take_more_memory_than_it_is_given(tmp_path):
    tasks = [Unit("small", "small", (0.01,)), Unit("large", "large", (1.5,))]
    set_aside = units.run_units(tasks, allocate, tmp_path, LocalBackend(1, max_memory_gb=1), "")
    assert list(set_aside) == ["large"] and "(--max_memory_gb)" in set_aside["large"]
    assert units.run_units(tasks, allocate, tmp_path, LocalBackend(1), "") == {}


PROGRAM = """
    import sys
    from pathlib import Path
    sys.path[:0] = [{tests!r}, {root!r}]
    import test_units
    from command_line import run_program
    from data import units
    from data.executors import LocalBackend

    def main():
        tasks = test_units.numbered(40)
        units.run_units(tasks, slow, Path(sys.argv[1]), LocalBackend(2), "")
        return 0

    def slow(path, number):
        import time
        time.sleep(0.1)
        return test_units.double(path, number)

    if __name__ == "__main__":
        run_program(main)
"""


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130), (signal.SIGTERM, 143)],
)
@pytest.mark.slow
def test_a_run_that_is_stopped_goes_on_where_it_was(tmp_path, number, code):
    program, folder = tmp_path / "program.py", tmp_path / "folder"
    program.write_text(textwrap.dedent(PROGRAM).format(tests=str(ROOT / "tests"), root=str(ROOT)))
    process = subprocess.Popen([sys.executable, program, folder], process_group=0)
    while len(list((folder / ".units").glob("*.json"))) < 5:
        time.sleep(0.02)
        assert process.poll() is None
    started = time.monotonic()
    os.kill(process.pid, number)
    assert process.wait(20) == code and time.monotonic() - started < 5
    done = len(list((folder / ".units").glob("*.json")))
    assert 5 <= done < 40
    subprocess.run([sys.executable, program, folder], check=True, timeout=60)
    assert results(folder) == {f"{n:03d}.txt": str(2 * n) for n in range(40)}
    # At most the units that were running then, two of them, have been run twice.
    assert sum(runs(folder).values()) <= 42


# ----------------------------------------------------------------------------------------- a step's folder


def ledger(**changes) -> dict:
    return {"settings": {"seed": 1}, "sources": [{"name": "a.txt", "sha256": "1" * 64}]} | changes


def test_a_folder_of_other_settings_or_sources_is_refused_by_name(tmp_path):
    assert step_folder.begin(tmp_path, ledger()) is None
    units.run_units(numbered(1), double, tmp_path, LocalBackend(1), "")
    assert step_folder.begin(tmp_path, ledger()) is None
    with pytest.raises(UsageError, match="seed was 1, is now 2"):
        step_folder.begin(tmp_path, ledger(settings={"seed": 2}))
    with pytest.raises(UsageError, match=r"a\.txt has changed, 1 such"):
        step_folder.begin(tmp_path, ledger(sources=[{"name": "a.txt", "sha256": "2" * 64}]))
    with pytest.raises(UsageError, match=r"b\.txt is new, 1 such"):
        step_folder.begin(tmp_path, ledger(sources=[*ledger()["sources"], {"name": "b.txt", "sha256": "3"}]))
    with pytest.raises(UsageError, match=r"a\.txt is gone"):
        step_folder.begin(tmp_path, ledger(sources=[]))


def test_a_run_that_did_nothing_does_not_bind_the_next_one(tmp_path):
    """A mistake that is met at once may be mended, in settings or sources, and the command repeated."""
    step_folder.begin(tmp_path, ledger())
    with pytest.raises(UsageError, match="is no good"):
        units.run_units(numbered(1), mistake, tmp_path, LocalBackend(1), "")
    changed = ledger(settings={"seed": 2})
    assert step_folder.begin(tmp_path, changed) is None
    assert files.read_json(tmp_path / ".units/ledger.json") == changed


def test_results_of_which_nothing_is_known_are_not_mixed_with_others(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results/000.txt").write_text("0")
    with pytest.raises(UsageError, match="nothing tells what they are"):
        step_folder.begin(tmp_path, ledger())


def test_what_killed_runs_left_is_gone_at_the_end(tmp_path):
    """Killed as it wrote beside the last result, and as it was about to remove the units' folder."""
    step_folder.begin(tmp_path, ledger())
    units.run_units(numbered(2), double, tmp_path, LocalBackend(1), "")
    left = [tmp_path / "results/.card.md.7.tmp", tmp_path / ".units/.scratch.7.tmp", tmp_path / ".a.7.tmp"]
    for path in left:
        path.write_text("")
    step_folder.begin(tmp_path, ledger())
    units.run_units(numbered(2), double, tmp_path, None, "")
    assert not any(path.exists() for path in left)
    files.write_json(tmp_path / "manifest.json", ledger(set_aside={}, faults=[]))
    assert step_folder.begin(tmp_path, ledger()) and not (tmp_path / ".units").exists()


def test_results_that_are_gone_or_cut_off_are_named(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text("three")
    step_folder.require_results(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "b").write_text("two")
    with pytest.raises(UsageError, match="/b: is gone or changed"):
        step_folder.require_results(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "a").unlink()
    with pytest.raises(UsageError, match="/a: is gone or changed"):
        step_folder.require_results(tmp_path, {"a": 5, "b": 5})


def test_a_source_that_changes_while_it_is_read_is_named(tmp_path):
    source = tmp_path / "a.txt"
    source.write_text("abc")
    sources = [SourceFile(str(source), "a.txt")]
    step_folder.identify(sources, tmp_path, LocalBackend(1))
    step_folder.require_unchanged(sources, tmp_path)
    source.write_text("abcd")
    with pytest.raises(UsageError, match=r"a\.txt: has changed while it was read"):
        step_folder.require_unchanged(sources, tmp_path)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UsageError, match="file/folder: Not a directory"),
        step_folder.held(tmp_path / "file/folder"),
    ):
        pass


def test_a_complete_folder_is_known_and_one_with_units_set_aside_is_begun_again(tmp_path):
    step_folder.begin(tmp_path, ledger())
    step_folder.finish(tmp_path, ledger(set_aside={"unit-1": "broken"}, faults=[]))
    assert step_folder.begin(tmp_path, ledger()) is None
    step_folder.finish(tmp_path, ledger(set_aside={}, faults=[]))
    assert step_folder.begin(tmp_path, ledger()) == ledger(set_aside={}, faults=[])
    assert not (tmp_path / ".units").exists()


def test_faults_end_a_step_non_zero_unless_they_are_tolerated(tmp_path):
    manifest = {"set_aside": {"unit-1": "broken"}, "faults": ["dump.bz2: block at 7 is damaged"]}
    with pytest.raises(RunFailure, match=r"2 faults, of which --tolerate allows 1"):
        step_folder.judge(tmp_path, manifest, 1)
    step_folder.judge(tmp_path, manifest, 2)


def test_a_folder_that_is_in_use_names_its_holder(tmp_path):
    with (
        step_folder.held(tmp_path / "new"),
        pytest.raises(UsageError, match=f"in use by process {os.getpid()} on "),
        step_folder.held(tmp_path / "new"),
    ):
        pass


def test_checksums_are_those_of_the_files_and_are_taken_again_after_a_change(tmp_path):
    source = tmp_path / "a.txt"
    source.write_bytes(b"abc")
    sources = [SourceFile(str(source), "a.txt")]
    # FIPS 180-2, appendix B.1.
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert step_folder.identify(sources, tmp_path, LocalBackend(1)) == [
        {"name": "a.txt", "bytes": 3, "sha256": abc}
    ]
    # Known by size and time: no worker is started.
    assert step_folder.identify(sources, tmp_path, None)[0]["sha256"] == abc
    source.write_bytes(b"abd")
    os.utime(source, ns=(1, 1))
    assert step_folder.identify(sources, tmp_path, LocalBackend(1))[0]["sha256"] != abc
    source.unlink()
    assert step_folder.identify(sources, tmp_path, None) == []
    step_folder.require_unchanged(sources, tmp_path)
