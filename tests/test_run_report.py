"""The report's program: its pictures, its table, NVIDIA's curve, and what it refuses."""

import json

import pytest
from run_logs import write_run
from test_run_log import write_phases

import reference_curve
import run_curves
from held_out_table import table
from run_log import read_run
from telemetry import DllLog

# Settings of configs/base_phase1.json and base_phase2.json on eight GPUs.
NVIDIA = {
    "optimizer": "lamb",
    "generator_hidden_size": 1 / 3,
    "electra_objective": True,
    "uniform_generator": False,
    "disc_weight": 50.0,
    "gen_weight": 1.0,
    "init_weights": "",
    "learning_rate": 6e-3,
    "sequences_per_update": 67_584,
}


def test_the_table_compares_the_last_phases_first_and_last_evaluation(tmp_path, run_program):
    picture = tmp_path / "curves.png"
    done = run_program("run_report.py", write_phases(tmp_path), "--output", picture)
    assert done.returncode == 0, done.stderr
    rows = {line[:36].strip(): line[36:].split() for line in done.stdout.splitlines()}
    assert rows["held-out, sequences of 512"] == ["before", "after"]
    assert rows["replaced-token AUC"] == ["0.430", "0.850"]
    assert rows["masked-LM loss at [MASK] (nats)"] == ["5.570", "5.150"]
    assert rows["phase 1, sequences of 128"] == ["10", "updates,", "70.0", "sequences/s"]
    assert done.stdout.splitlines()[-1] == f"curves: {picture}"
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) > 10_000


def test_a_picture_of_several_runs_and_of_a_log_with_two_keys_is_drawn(tmp_path):
    write_run(tmp_path / "a")
    line = {"type": "LOG", "step": [10], "data": {"total_loss": 40.0, "train_perf": 100.0}}
    (tmp_path / "nvidia.log").write_text(f"DLLL {json.dumps(line)}\n")
    run, nvidia = (read_run(str(tmp_path / name)) for name in ("a", "nvidia.log"))
    run_curves.draw_picture([run, nvidia], tmp_path / "both.png")
    assert (tmp_path / "both.png").stat().st_size > 20_000
    assert [chart.title for chart in run_curves.charts([nvidia])] == [
        "total loss",
        "throughput (sequences/s)",
    ]
    assert "100.0 sequences/s" in table(nvidia.phases)


def test_a_run_that_was_evaluated_alone_has_a_page_and_no_picture(tmp_path, run_program, usage_error):
    log = DllLog(tmp_path / "run" / "logs" / "dllogger.log")
    for name, value in {"model_name": "a", "do_eval_only": True}.items():
        log.parameter({name: value})
    log.log((0,), {"eval_disc_auc": 0.5})
    log.close()
    told = usage_error("run_report.py", "run", "--output", "curves.png", cwd=tmp_path)
    assert "--output curves.png: there are no updates to draw yet" in told
    done = run_program("run_report.py", "run", "--output", "report.html", cwd=tmp_path)
    assert done.returncode == 0 and "0.500" in done.stdout


def test_everything_that_a_run_logs_has_its_curve(tmp_path):
    charts = {chart.title: chart for chart in run_curves.charts([read_run(str(write_run(tmp_path / "a")))])}
    shown = {series.label for chart in charts.values() for series in chart.series}
    assert {"majority rate", "worker that waits longest", "word frequencies alone, at [MASK]"} <= shown
    words = "total loss, masked-LM loss, replaced-token loss, replaced-token accuracy, replaced-token AUC, "
    words += "masked-LM accuracy, sampled-token accuracy, gradient norm, learning rate, loss scale, "
    words += "skipped updates, "
    words += "throughput (sequences/s), throughput (tokens/s), utilization, waiting for data, epochs"
    for title in words.split(", "):
        assert sum(name.startswith(title) for name in charts) == 1, title
    (utilization,) = charts["utilization (% of the machine's ceiling)"].series
    assert {value for _, value in utilization.points} == {45.0}


def test_the_only_value_of_a_phase_has_a_marker_in_the_picture(tmp_path, monkeypatch):
    """matplotlib draws nothing for a line of one point."""
    from matplotlib import pyplot

    write_run(tmp_path, updates=(500, 1000))
    write_run(tmp_path, {"phase2": True}, updates=(250,))
    monkeypatch.setattr(pyplot, "close", lambda figure: None)
    run_curves.draw_picture([read_run(str(tmp_path))], tmp_path / "curves.png")
    figure = pyplot.gcf()
    monkeypatch.undo()
    lines = [line for axis in figure.axes for line in axis.get_lines()]
    pyplot.close(figure)
    alone = [line for line in lines if len(line.get_xdata()) == 1]
    assert len(alone) >= 15 and {line.get_marker() for line in alone} == {"o"}


def test_between_skipped_updates_the_curve_is_at_zero(tmp_path):
    """Logs name them on the lines that have some alone, or on all lines with a loss scale."""

    def skipped(update):
        return {"skipped_updates": 2.0} if update == 1000 else {}

    run = read_run(str(write_run(tmp_path, training=skipped, updates=(500, 1000, 1500))))
    (chart,) = [chart for chart in run_curves.charts([run]) if chart.title == "skipped updates"]
    assert chart.series[0].points == [(500, 0.0), (1000, 2.0), (1500, 0.0)]
    # Without a loss scale no update is skipped.
    bf16 = write_run(tmp_path / "bf16", training=lambda update: {"loss_scale": None})
    assert "skipped updates" not in [chart.title for chart in run_curves.charts([read_run(str(bf16))])]


def test_long_curves_keep_their_spikes(tmp_path):
    """A hundred thousand lines, one of them high and one low, in a few hundred points."""
    lines = range(1, 100_001)
    points = [(float(update), 5.0) for update in lines]
    points[70_001] = (70_002.0, 90.0)
    points[333] = (334.0, 0.5)
    thinned = run_curves.thinned(points)
    assert len(thinned) <= 400 and thinned == sorted(thinned)
    assert {(70_002.0, 90.0), (334.0, 0.5), points[0], points[-1]} <= set(thinned)


def test_nvidias_curve_stands_beside_its_own_recipe(tmp_path):
    run = read_run(str(write_run(tmp_path, NVIDIA, updates=range(500, 5001, 500))))
    assert reference_curve.differences(run) == []
    (series,) = [s for s in run_curves.charts([run])[0].series if s.label == reference_curve.NAME]
    assert series.points == [(0, 45.0), (300, 25.0), (700, 22.4), (930, 15.9), (2000, 12.6), (5000, 10.0)]


def test_nvidias_curve_goes_as_far_as_the_run_and_follows_its_phases(tmp_path):
    write_run(tmp_path, NVIDIA, updates=range(500, 8001, 500))
    second = {"phase2": True, "max_seq_length": 512, "sequences_per_update": 27_648}
    write_run(tmp_path, NVIDIA | second, updates=(15, 150))
    first, then = reference_curve.curve(read_run(str(tmp_path)))
    # Between 10.0 at update 5,000 and 9.3 at 10,000; between 22.2 at the start of phase 2 and 9.3 at 300.
    assert first[-1] == pytest.approx((8000, 9.58))
    assert then == [(8000, 22.2), pytest.approx((8150, 15.75))]


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 512},
        {"model_size": "small"},
        {"generator_hidden_size": 0.25},
        {"optimizer": "adam"},
        {"sequences_per_update": 256},
        {"max_seq_length": 256},
        {"disc_weight": 25.0},
        {"mask_prob": 0.25},
        {"electra_objective": False},
        {"init_weights": "weights"},
    ],
    ids=str,
)
def test_another_recipes_curve_stands_alone(change, tmp_path):
    run = read_run(str(write_run(tmp_path, NVIDIA | change)))
    assert reference_curve.curve(run) == []
    (name,) = change
    assert any(name.replace("_per_update", "") in text for text in reference_curve.differences(run))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nothing"], "run_dir nothing: holds no dllogger.log"),
        (["run", "--output", "report.pdf"], "--output report.pdf: must end in .html or .png"),
        (["run", "--output", "away/report.html"], "--output away/report.html: there is no folder away"),
        (["run", "--watch", "--check"], "--watch True: contradicts --check"),
        (["run", "--watch", "--port", "70000"], "--port 70000: must be between 0 and 65535"),
        ([], "run_dir"),
    ],
    ids=str,
)
def test_a_users_mistake_is_one_line(arguments, told, tmp_path, usage_error):
    write_run(tmp_path / "run")
    assert told in usage_error("run_report.py", *arguments, cwd=tmp_path)
