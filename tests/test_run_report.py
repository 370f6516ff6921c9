"""The report reads what the log says: phases joined, first and last evaluation, medians."""

import json

import pytest

import run_report
from command_line import UsageError
from telemetry import DllLog


def _write_run(folder, restarted=True):
    """A log of two phases with an evaluation before them, one restart, and known numbers."""
    log = DllLog(folder / "logs" / "dllogger.log")

    def start(phase2, length):
        for name, value in {"max_seq_length": length, "phase2": phase2}.items():
            log.parameter({name: value})

    def held_out(update, auc):
        values = {"disc_auc": auc, "masked_lm_loss_masked_only": 6.0 - auc, "unigram_cross_entropy": 7.0}
        log.log((update,), {f"eval_{name}": value for name, value in values.items()})

    start(True, 512)
    held_out(0, 0.43)
    start(False, 128)
    for update in (5, 10):
        log.log((update,), {"total_loss": 50.0 - update, "train_perf": 10.0 * update, "disc_auc": 0.5})
    held_out(10, 0.6)
    if restarted:
        start(False, 128)
        log.log((10,), {"total_loss": 1.0, "train_perf": 70.0, "disc_auc": 0.7})
    start(True, 512)
    log.log((4,), {"total_loss": 20.0, "train_perf": 3.0, "disc_auc": 0.8})
    held_out(4, 0.85)
    log.close()


def test_phases_are_told_apart_and_a_restart_replaces_its_lines(tmp_path):
    _write_run(tmp_path)
    first, second = run_report.read_phases(run_report.find_log(str(tmp_path)))
    assert (first.number, first.max_seq_length, second.number, second.max_seq_length) == (1, 128, 2, 512)
    assert {update: values["total_loss"] for update, values in first.training.items()} == {5: 45.0, 10: 1.0}
    assert sorted(first.held_out) == [10] and sorted(second.held_out) == [0, 4]


def test_the_table_compares_the_last_phases_first_and_last_evaluation(tmp_path, capsys, monkeypatch):
    _write_run(tmp_path)
    monkeypatch.setattr(
        "sys.argv", ["run_report.py", str(tmp_path), "--output", str(tmp_path / "curves.png")]
    )
    assert run_report.main() == 0
    printed = capsys.readouterr().out
    rows = {line[:36].strip(): line[36:].split() for line in printed.splitlines()}
    assert rows["held-out, sequences of 512"] == ["before", "after"]
    assert rows["replaced-token AUC"] == ["0.430", "0.850"]
    assert rows["masked-LM loss at [MASK] (nats)"] == ["5.570", "5.150"]
    assert rows["phase 1, sequences of 128"] == ["10", "updates,", "70.0", "sequences/s"]
    picture = (tmp_path / "curves.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000


def test_curves_join_the_phases_and_leave_out_what_came_before_training(tmp_path):
    _write_run(tmp_path)
    phases = run_report.read_phases(tmp_path / "logs" / "dllogger.log")
    assert run_report._joined(phases, "training", "total_loss") == [(5, 45.0), (10, 1.0), (14, 20.0)]
    assert run_report._joined(phases, "held_out", "eval_disc_auc") == [(10, 0.6), (14, 0.85)]


def test_nvidias_logs_without_our_keys_are_read(tmp_path):
    """A log of one phase that never says which."""
    lines = [{"type": "LOG", "step": [10], "data": {"total_loss": 40.0, "train_perf": 100.0}}]
    path = tmp_path / "dllogger.log"
    path.write_text("".join(f"DLLL {json.dumps(line)}\n" for line in lines) + "something else\n")
    (phase,) = run_report.read_phases(path)
    assert phase.number == 1 and phase.training == {10: {"total_loss": 40.0, "train_perf": 100.0}}
    run_report.draw([phase], tmp_path / "curves.png")
    assert "100.0 sequences/s" in run_report.table([phase])


def test_a_folder_without_a_log_stops(tmp_path):
    with pytest.raises(UsageError, match=r"holds no dllogger\.log"):
        run_report.find_log(str(tmp_path))
