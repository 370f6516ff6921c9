"""Log lines are NVIDIA's form; rates and times are what a hand-kept clock says."""

import gzip
import json
import random
import re
import zlib
from pathlib import Path

import pytest

import telemetry
from command_line import UsageError
from telemetry import DllLog, Meter, duration, read_dll_log


def test_lines_of_the_file_are_dlloggers(tmp_path, capsys):
    """`DLLL ` and JSON with timestamp, datetime, elapsedtime (strings), type, and the event's keys."""
    log = DllLog(tmp_path / "logs" / "dllogger.log")
    log.metadata("final_loss", {"unit": None})
    log.parameter({"seed": 42})
    log.log((10,), {"total_loss": 40.5, "train_perf": 123.0})
    log.log((), {"final_loss": 9.0})
    log.close()
    lines = (tmp_path / "logs" / "dllogger.log").read_text().splitlines()
    assert len(lines) == 4 and all(line.startswith("DLLL {") for line in lines)
    events = [json.loads(line.removeprefix("DLLL ")) for line in lines]
    for event in events:
        assert all(isinstance(event[name], str) for name in ("timestamp", "datetime", "elapsedtime"))
        assert float(event["timestamp"]) > 1.7e9 and float(event["elapsedtime"]) >= 0
    assert events[0]["type"] == "METADATA"
    assert (events[0]["metric"], events[0]["metadata"]) == ("final_loss", {"unit": None})
    assert [event.get("step") for event in events[1:]] == ["PARAMETER", [10], []]
    assert events[2]["data"] == {"total_loss": 40.5, "train_perf": 123.0}
    printed = capsys.readouterr().out
    stamp = r"^DLL \d{4}-\d\d-\d\d [\d:.]+"
    pattern = stamp + r" - Training Iteration: 10 total_loss : 40.5 train_perf : 123 sequences/s$"
    assert re.search(pattern, printed, re.MULTILINE)
    assert "seed" not in printed


def test_a_log_is_appended_to_and_a_cut_off_line_is_left_out(tmp_path):
    path = tmp_path / "dllogger.log"
    for step in (1, 2):
        log = DllLog(path)
        log.log((step,), {"x": step})
        log.close()
    with open(path, "a") as stream:
        stream.write('DLLL {"timestamp": "17')
    assert [event["step"] for event in read_dll_log(path)] == [[1], [2]]


def compressed_log(folder: Path) -> tuple[Path, bytes]:
    """A log of 2,000 updates as .gz, whose numbers do not compress well, and its bytes."""
    draw = random.Random(0)
    lines = [
        "DLLL " + json.dumps({"type": "LOG", "step": [step], "data": {"x": draw.random()}}) + "\n"
        for step in range(1, 2001)
    ]
    path = folder / "dllogger.log.gz"
    path.write_bytes(gzip.compress("".join(lines).encode()))
    return path, path.read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.3, 0.7, 0.9999])
def test_of_a_compressed_log_that_is_cut_off_the_whole_lines_are_read(share, tmp_path):
    """As many as zlib gets out of what is left."""
    path, content = compressed_log(tmp_path)
    rest = content[: int(share * len(content))]
    path.write_bytes(rest)
    whole = zlib.decompressobj(31).decompress(rest).count(b"\n")
    assert (whole > 500) == (share > 0.2)
    assert [event["step"] for event in read_dll_log(path)] == [[step] for step in range(1, whole + 1)]


def test_a_file_that_is_no_gzip_or_a_damaged_one_is_one_line_with_its_name(tmp_path):
    path, content = compressed_log(tmp_path)
    middle = len(content) // 2
    damaged = content[:middle] + bytes(64) + content[middle + 64 :]
    for wrong in (b'DLLL {"type": "LOG"}\n', damaged, content[:-8] + bytes(8)):
        path.write_bytes(wrong)
        with pytest.raises(UsageError) as error:
            read_dll_log(path)
        assert str(error.value).startswith(f"{path}: is no whole gzip file (")
        assert "\n" not in str(error.value)


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when told."""
    now = [1000.0]
    monkeypatch.setattr(telemetry.time, "monotonic", lambda: now[0])
    return now


def test_rates_leave_out_the_first_update_and_are_sums_over_sums(clock):
    meter = Meter(remaining_updates=10)
    clock[0] += 60  # compiling
    meter.update_done(60.0, 5.0, 8, 800)
    assert meter.window() == {} and meter.seconds_left() is None
    for seconds, waited, sequences, tokens in ((1.0, 0.5, 8, 800), (3.0, 0.5, 8, 400)):
        clock[0] += seconds
        meter.update_done(seconds, waited, sequences, tokens)
    assert meter.window() == {"train_perf": 4.0, "tokens_per_second": 300.0, "data_wait": 0.25}
    assert meter.window() == {}
    assert meter.sequences_per_second() == 4.0


def test_operations_a_second_are_logged_where_they_are_known(clock):
    """2 + 4 operations in 1 + 2 seconds; those of the first update do not count."""
    meter = Meter(remaining_updates=3)
    for seconds, flops in ((60.0, 10**9), (1.0, 2), (2.0, 4)):
        meter.update_done(seconds, 0.0, 8, 800, flops)
    assert meter.window()["flops_per_second"] == 2.0


def test_time_left_counts_what_is_not_training_too(clock):
    """2 updates in 4 seconds and an evaluation of 6 make 5 seconds an update; 7 are left."""
    meter = Meter(remaining_updates=10)
    meter.update_done(30.0, 0.0, 8, 800)
    clock[0] += 4
    meter.update_done(2.0, 0.0, 8, 800)
    meter.update_done(2.0, 0.0, 8, 800)
    clock[0] += 6
    assert meter.seconds_left() == pytest.approx(5.0 * 7)


def test_durations_read_as_people_write_them():
    assert duration(3725.4) == "1:02:05"
    assert duration(None) == "?"
