"""A log is read as it was written: phases, restarts, facts beside it; damage costs a line and no more."""

import datetime
import json
import shutil

import pytest
from run_logs import SETTINGS, write_run

import checkpointing
from command_line import UsageError
from run_log import find_log, parse_log, read_run, stamp, tell_apart
from telemetry import DllLog


def write_phases(folder):
    """Two phases with an evaluation before them, one restart, and known numbers."""
    log = DllLog(folder / "logs" / "dllogger.log")

    def start(phase2, length, **more):
        for name, value in {"max_seq_length": length, "phase2": phase2, **more}.items():
            log.parameter({name: value})

    def held_out(update, auc):
        values = {"disc_auc": auc, "masked_lm_loss_masked_only": 6.0 - auc, "unigram_cross_entropy": 7.0}
        log.log((update,), {f"eval_{name}": value for name, value in values.items()})

    start(True, 512, do_eval_only=True)
    held_out(0, 0.43)
    start(False, 128, do_eval_only=False)
    for update in (5, 10):
        log.log((update,), {"total_loss": 50.0 - update, "train_perf": 10.0 * update, "disc_auc": 0.5})
    held_out(10, 0.6)
    start(False, 128)
    log.log((10,), {"total_loss": 1.0, "train_perf": 70.0, "disc_auc": 0.7})
    start(True, 512)
    log.log((4,), {"total_loss": 20.0, "train_perf": 3.0, "disc_auc": 0.8})
    held_out(4, 0.85)
    log.close()
    return folder


def test_phases_are_told_apart_and_a_restart_replaces_its_lines(tmp_path):
    first, second = read_run(str(write_phases(tmp_path))).phases
    assert (first.number, first.max_seq_length, second.number, second.max_seq_length) == (1, 128, 2, 512)
    assert first.points("training", "total_loss") == [(5, 45.0), (10, 1.0)]
    assert first.starts == [5, 10] and second.starts == [4]
    assert sorted(first.held_out) == [10] and sorted(second.held_out) == [0, 4]
    assert second.settings["do_eval_only"] is False


def test_curves_join_the_phases_and_leave_out_what_came_before_training(tmp_path):
    run = read_run(str(write_phases(tmp_path)))
    assert run.points("training", "total_loss") == [(5, 45.0), (10, 1.0), (14, 20.0)]
    assert run.curve("held_out", "eval_disc_auc") == [[(10, 0.6)], [(14, 0.85)]]
    assert (run.updates, run.phase_starts()) == (14, [0, 10])


def test_time_between_two_starts_is_not_training(tmp_path):
    """Two starts of 30 and 12 seconds, an hour apart, and an evaluation by itself in between."""
    start = datetime.datetime(2026, 1, 1, 12).timestamp()

    def line(seconds, step, data):
        event = {"type": "LOG", "step": step, "data": data, "timestamp": str(start + seconds)}
        return f"DLLL {json.dumps(event)}\n"

    lines = [line(0, "PARAMETER", {"seed": 1}), line(30, [1], {"total_loss": 3.0})]
    lines += [line(60, "PARAMETER", {"seed": 1}), line(90, [1], {"eval_total_loss": 3.0})]
    lines += [line(3600, "PARAMETER", {"seed": 1}), line(3612, [2], {"total_loss": 3.0})]
    path = tmp_path / "dllogger.log"
    path.write_text("".join(lines))
    run = parse_log(path)
    assert run.seconds == pytest.approx(42)
    assert run.phases[0].clock == {1: pytest.approx(30), 2: pytest.approx(42)}
    assert run.last_line == datetime.datetime(2026, 1, 1, 13, 0, 12)


def write_settings(log, **changes):
    for name, value in (
        {"model_name": "a", "eval_tfrecords": "own", "num_train_steps": 40} | changes
    ).items():
        log.parameter({name: value})


def write_losses(log, *updates):
    for update in updates:
        log.log((update,), {"total_loss": 50.0 - update, "train_perf": 10.0})


def evaluate_alone(log, update, auc, **changes):
    write_settings(log, do_eval_only=True, num_train_steps=1_000_000, **changes)
    log.log((update,), {"eval_disc_auc": auc})


def test_an_evaluation_on_other_text_is_not_taken_for_the_runs_own(tmp_path):
    log = DllLog(tmp_path / "dllogger.log")
    evaluate_alone(log, 0, 0.4, eval_tfrecords="other")
    write_settings(log, do_eval_only=False)
    write_losses(log, 10, 20)
    log.log((20,), {"eval_disc_auc": 0.6})
    evaluate_alone(log, 0, 0.5)
    evaluate_alone(log, 10, 0.55)
    evaluate_alone(log, 20, 0.9, eval_tfrecords="other")
    log.close()
    (phase,) = read_run(str(tmp_path)).phases
    assert phase.points("held_out", "eval_disc_auc") == [(0, 0.5), (10, 0.55), (20, 0.6)]


def test_a_run_without_held_out_text_has_that_of_its_newest_evaluation(tmp_path):
    log = DllLog(tmp_path / "dllogger.log")
    write_settings(log, do_eval_only=False, eval_tfrecords="")
    write_losses(log, 10)
    for text, auc in (("one", 0.5), ("two", 0.6), ("one", 0.7)):
        evaluate_alone(log, 10, auc, eval_tfrecords=text)
    evaluate_alone(log, 0, 0.4, eval_tfrecords="one")
    log.close()
    (phase,) = read_run(str(tmp_path)).phases
    assert phase.points("held_out", "eval_disc_auc") == [(0, 0.4), (10, 0.7)]


def test_an_evaluation_by_another_process_leaves_the_run_that_trains_as_it_is(tmp_path):
    log = DllLog(tmp_path / "dllogger.log")
    write_settings(log, phase2=True, do_eval_only=False)
    write_losses(log, 10)
    evaluate_alone(log, 30, 0.8, phase2=False)
    write_losses(log, 20)
    log.log((20,), {"eval_disc_auc": 0.6})
    log.close()
    run = read_run(str(tmp_path))
    first, second = run.phases
    assert first.points("held_out", "eval_disc_auc") == [(30, 0.8)] and not first.training
    assert second.points("training", "total_loss") == [(10, 40.0), (20, 30.0)] and second.starts == [10]
    assert second.points("held_out", "eval_disc_auc") == [(20, 0.6)]
    assert run.settings["num_train_steps"] == second.settings["num_train_steps"] == 40


def test_a_start_from_an_earlier_checkpoint_leaves_out_what_came_after_it(tmp_path):
    log = DllLog(tmp_path / "dllogger.log")
    write_settings(log)
    write_losses(log, 10, 20, 30)
    log.log((30,), {"eval_disc_auc": 0.5})
    write_settings(log)
    log.log((20,), {"total_loss": 1.0})
    log.close()
    run = read_run(str(tmp_path))
    assert run.points("training", "total_loss") == [(10, 40.0), (20, 1.0)]
    assert run.updates == 20 and run.phases[0].held_out == {} and sorted(run.phases[0].clock) == [10, 20]


def test_a_start_that_died_before_its_first_line_costs_no_time(tmp_path):
    """Two starts, an hour apart; the first recorded its settings alone."""

    def line(seconds, step, data):
        event = {"type": "LOG", "step": step, "data": data, "timestamp": str(1.7e9 + seconds)}
        return f"DLLL {json.dumps(event)}\n"

    lines = [line(0, "PARAMETER", {"model_name": "a"}), line(1, "PARAMETER", {"seed": 1})]
    lines += [line(3600, "PARAMETER", {"model_name": "a"}), line(3601, "PARAMETER", {"seed": 1})]
    lines += [line(3630, [1], {"total_loss": 3.0})]
    (tmp_path / "dllogger.log").write_text("".join(lines))
    assert read_run(str(tmp_path)).seconds == pytest.approx(30)


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    paths = [write_run(tmp_path / seed / "models" / "a") for seed in ("seed_1", "seed_2")]
    runs = [read_run(str(path)) for path in (*paths, write_run(tmp_path / "b", {"model_name": "other"}))]
    tell_apart(runs[:2])
    assert [run.name for run in runs] == ["made_up (seed_1)", "made_up (seed_2)", "other"]
    (alone,) = [read_run(str(paths[0]))]
    tell_apart([alone])
    assert alone.name == "made_up"


def test_nvidias_logs_without_our_keys_are_read(tmp_path):
    """A log of one phase that never says which, and lines of other programs in it."""
    lines = [{"type": "LOG", "step": [10], "data": {"total_loss": 40.0, "train_perf": 100.0}}]
    path = tmp_path / "dllogger.log"
    path.write_text("".join(f"DLLL {json.dumps(line)}\n" for line in lines) + "something else\n")
    (phase,) = read_run(str(path)).phases
    assert phase.number == 1 and phase.training == {10: {"total_loss": 40.0, "train_perf": 100.0}}


def test_damaged_lines_are_left_out(tmp_path):
    path = write_run(tmp_path) / "logs" / "dllogger.log"
    whole = parse_log(path).points("training", "total_loss")
    damaged = [b"DLLL 5\n", b'DLLL {"type": "LOG", "step": [3], "data": 7}\n', b"DLLL \xff\xfe{\n"]
    damaged += [b'DLLL {"type": "LOG", "step": "x", "data": {}}\n', b"DLLL " + b"[" * 100_000 + b"\n"]
    damaged += [b'DLLL {"type": "LOG", "step": [[]], "data": {"total_loss": 1}}\n', b'DLLL {"type": "LO']
    path.write_bytes(path.read_bytes() + b"".join(damaged))
    assert parse_log(path).points("training", "total_loss") == whole


def test_a_setting_of_another_type_is_taken_as_not_recorded(tmp_path):
    (phase,) = read_run(str(write_run(tmp_path, {"mask_prob": "much", "max_seq_length": True}))).phases
    assert (phase.setting("mask_prob", 0.15), phase.max_seq_length) == (0.15, 0)


def test_batch_is_as_recorded_or_follows_from_the_flags(tmp_path):
    flags = {"train_batch_size": 8, "gradient_accumulation_steps": 3, "sequences_per_update": None}
    for number, (settings, expected) in enumerate(
        [({"sequences_per_update": 96}, 96), (flags, 24), (flags | {"global_batch_size": 48}, 48)]
    ):
        (phase,) = read_run(str(write_run(tmp_path / str(number), settings))).phases
        assert phase.sequences_per_update() == expected


def test_checkpoints_and_manifests_beside_the_log_are_found(tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "pretrain_data.tfrecord-0-of-1").write_bytes(b"")
    (shards / "manifest.json").write_text(json.dumps({"documents": 3}))
    run_folder = write_run(tmp_path / "run", {"pretrain_tfrecords": f"{shards}/*.tfrecord-*"})
    for name in ("ckpt-100", "ckpt-20", "ckpt-p2-7", "ckpt-x"):
        (run_folder / "checkpoints" / name).mkdir(parents=True)
        (run_folder / "checkpoints" / name / "state.json").write_bytes(b"123")
    (run_folder / "checkpoints" / "pretrain_config.json").write_text('{"seed": 9, "model_name": "other"}')
    run = read_run(str(run_folder))
    found = [(checkpoint.phase, checkpoint.update, checkpoint.bytes) for checkpoint in run.checkpoints()]
    assert found == [(1, 20, 3), (1, 100, 3), (2, 7, 3)]
    assert run.manifests() == [(shards, {"documents": 3})]
    # What the log says is what ran.
    assert (run.settings["seed"], run.name) == (9, SETTINGS["model_name"])
    assert run.environment() == {"TENSORFLOW_VERSION": "2.18.1"}


def test_a_checkpoint_that_is_rotated_away_meanwhile_is_not_listed(tmp_path, monkeypatch):
    """Gone between the listing and the look at it."""
    run_folder = write_run(tmp_path / "run")
    for name in ("ckpt-20", "ckpt-100"):
        (run_folder / "checkpoints" / name).mkdir(parents=True)
    listing = checkpointing.list_checkpoints

    def list_then_rotate(folder, prefix):
        found = listing(folder, prefix)
        shutil.rmtree(folder / "ckpt-20", ignore_errors=True)
        return found

    monkeypatch.setattr(checkpointing, "list_checkpoints", list_then_rotate)
    assert [checkpoint.update for checkpoint in read_run(str(run_folder)).checkpoints()] == [100]


def test_the_values_of_a_phase_are_in_order_once_the_log_is_read(tmp_path):
    """In whatever order they were logged, so that no curve of a long log need sort them."""
    log = DllLog(tmp_path / "dllogger.log")
    write_settings(log, do_eval_only=False)
    write_losses(log, 20, 5, 10)
    log.log((20,), {"eval_disc_auc": 0.6})
    evaluate_alone(log, 10, 0.5)
    evaluate_alone(log, 0, 0.4)
    log.close()
    (phase,) = read_run(str(tmp_path)).phases
    assert phase.points("training", "total_loss") == [(5, 45.0), (10, 40.0), (20, 30.0)]
    assert list(phase.training) == [5, 10, 20] and list(phase.held_out) == [0, 10, 20]


def test_the_stamp_of_a_run_changes_with_its_log_its_settings_and_its_checkpoints(tmp_path):
    folder = write_run(tmp_path / "run")
    stamps = [stamp(str(folder))]
    assert stamp(str(folder)) == stamps[0]
    write_run(folder, updates=(20_500,))
    stamps.append(stamp(str(folder)))
    (folder / "checkpoints" / "ckpt-20500").mkdir(parents=True)
    stamps.append(stamp(str(folder)))
    (folder / "checkpoints" / "pretrain_config.json").write_text("{}")
    stamps.append(stamp(str(folder)))
    shutil.rmtree(folder / "checkpoints" / "ckpt-20500")
    stamps.append(stamp(str(folder)))
    assert len(set(map(repr, stamps))) == len(stamps)


def test_a_folder_without_a_log_stops(tmp_path):
    with pytest.raises(UsageError, match=r"holds no dllogger\.log"):
        find_log(str(tmp_path))
    (tmp_path / "dllogger.log").write_text("")
    with pytest.raises(UsageError, match="holds no updates yet"):
        read_run(str(tmp_path))
    log = DllLog(tmp_path / "dllogger.log")
    log.log((), {"failure": "the loss of update 1 is nan"})
    log.close()
    with pytest.raises(UsageError, match="ended by itself: the loss of update 1 is nan"):
        read_run(str(tmp_path))
