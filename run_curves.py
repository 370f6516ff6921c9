"""Which curves of runs are shown, beside what: the charts of a report, before anything is drawn.

They are drawn as SVG in svg_chart.py and as a picture by `draw_picture`.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import reference_curve
from run_log import Points, RunLog

# How a curve is drawn: what was measured in training, on held-out text, and what both stand beside.
TRAINING, HELD_OUT, BESIDE = "training", "held_out", "beside"
_MOST_POINTS = 400
_COLUMNS = 3


@dataclass(frozen=True)
class _Curve:
    key: str
    label: str
    style: str
    kind: str = TRAINING
    factor: float = 1.0


@dataclass(frozen=True)
class _Panel:
    title: str
    curves: tuple[_Curve, ...]
    is_logarithmic: bool = False


def _both(key: str, held_out_key: str = "", held_out_label: str = "held-out") -> tuple[_Curve, _Curve]:
    return (
        _Curve(key, "training", TRAINING),
        _Curve(held_out_key or f"eval_{key}", held_out_label, HELD_OUT, HELD_OUT),
    )


_PANELS = (
    _Panel("total loss", (*_both("total_loss"), _Curve("step_loss", "training", TRAINING))),
    _Panel(
        "masked-LM loss (nats)",
        (
            *_both("masked_lm_loss", "eval_masked_lm_loss_masked_only", "held-out, at [MASK]"),
            _Curve("eval_unigram_cross_entropy", "word frequencies alone, at [MASK]", BESIDE, HELD_OUT),
        ),
    ),
    _Panel("replaced-token loss (nats)", _both("disc_loss")),
    _Panel(
        "replaced-token accuracy (%)",
        (
            *_both("disc_accuracy"),
            _Curve("disc_majority_accuracy", "majority rate", BESIDE),
            _Curve("eval_disc_majority_accuracy", "majority rate, held-out", BESIDE, HELD_OUT),
        ),
    ),
    _Panel("replaced-token AUC", _both("disc_auc")),
    _Panel(
        "masked-LM accuracy (%)",
        _both("masked_lm_accuracy", "eval_masked_lm_accuracy_masked_only", "held-out, at [MASK]"),
    ),
    _Panel("sampled-token accuracy (%)", _both("sampled_masked_lm_accuracy")),
    _Panel("gradient norm", (_Curve("grad_norm", "before clipping", TRAINING),), is_logarithmic=True),
    _Panel("learning rate", (_Curve("learning_rate", "of the update", TRAINING),)),
    _Panel("loss scale", (_Curve("loss_scale", "float16", TRAINING),), is_logarithmic=True),
    _Panel("skipped updates", (_Curve("skipped_updates", "since the line before", TRAINING),)),
    _Panel("throughput (sequences/s)", (_Curve("train_perf", "whole updates", TRAINING),)),
    _Panel("throughput (tokens/s)", (_Curve("tokens_per_second", "without padding", TRAINING),)),
    _Panel(
        "utilization (% of the machine's ceiling)",
        (_Curve("utilization", "whole updates", TRAINING, factor=100),),
    ),
    _Panel(
        "waiting for data (% of the time)",
        (
            _Curve("data_wait", "first worker", TRAINING, factor=100),
            _Curve("worst_data_wait", "worker that waits longest", BESIDE, factor=100),
        ),
    ),
    _Panel("epochs", (_Curve("epoch", "of the phase's data", TRAINING),)),
)


@dataclass
class Series:
    """One curve, in a piece for each phase.

    `color` counts from 0: the run where there are several, else the curve's place.
    """

    label: str
    style: str
    color: int
    parts: list[Points]

    @property
    def points(self) -> Points:
        return [point for part in self.parts for point in part]


@dataclass
class Chart:
    """A diagram over the updates of the phases, joined.

    Attributes:
        borders: (updates, color) where a phase after the first begins.
    """

    title: str
    series: list[Series] = field(default_factory=list)
    borders: list[tuple[int, int]] = field(default_factory=list)
    is_logarithmic: bool = False


def charts(runs: list[RunLog]) -> list[Chart]:
    """The diagrams that any of the runs has values for."""
    borders = [(start, number) for number, run in enumerate(runs) for start in run.phase_starts()[1:]]
    found = []
    for panel in _PANELS:
        chart = Chart(panel.title, borders=borders, is_logarithmic=panel.is_logarithmic)
        for number, run in enumerate(runs):
            for place, curve in enumerate(panel.curves):
                parts = [thinned(part) for part in _drawable(run, curve, panel.is_logarithmic)]
                if any(parts):
                    label = curve.label if len(runs) == 1 else f"{run.name}: {curve.label}"
                    color = place if len(runs) == 1 else number
                    chart.series.append(Series(label, curve.style, color, list(filter(None, parts))))
        if chart.series:
            found.append(chart)
    _add_reference(found, runs)
    return found


def draw_picture(runs: list[RunLog], output: Path) -> None:
    """All charts in one PNG; dotted lines mark where a phase begins."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = charts(runs)
    rows = math.ceil(len(drawn) / _COLUMNS)
    figure, axes = pyplot.subplots(
        rows, _COLUMNS, figsize=(13, 3.4 * rows), layout="constrained", squeeze=False
    )
    styles = {TRAINING: "-", HELD_OUT: "o--", BESIDE: ":"}
    for axis, chart in zip(axes.flat, drawn, strict=False):
        # Names of runs are no mathematics, whatever signs are in them.
        axis.set_title(chart.title, parse_math=False)
        for series in chart.series:
            for number, part in enumerate(series.parts):
                label = series.label if number == 0 else None
                x, y = zip(*part, strict=True)
                # One point makes no line.
                style = styles[series.style] if len(part) > 1 else "o"
                axis.plot(x, y, style, label=label, color=f"C{series.color}", markersize=4)
        for border, color in chart.borders:
            axis.axvline(border, color="gray" if len(runs) == 1 else f"C{color}", linestyle=":", linewidth=1)
        if chart.is_logarithmic:
            axis.set_yscale("log")
        axis.set_xlabel("updates")
        axis.grid(alpha=0.3)
        for text in axis.legend(fontsize=8).get_texts():
            text.set_parse_math(False)
    for axis in list(axes.flat)[len(drawn) :]:
        axis.remove()
    figure.savefig(output, dpi=80, format="png")
    pyplot.close(figure)


def _drawable(run: RunLog, curve: _Curve, is_logarithmic: bool) -> list[Points]:
    return [
        [
            (update, curve.factor * value)
            for update, value in part
            if math.isfinite(value) and (value > 0 or not is_logarithmic)
        ]
        for part in run.curve(curve.kind, curve.key)
    ]


def thinned(points: Points, most: int = _MOST_POINTS) -> Points:
    """At most so many points; of each stretch the lowest and the highest stay, so that no spike is lost."""
    if len(points) <= most:
        return points
    stretches = most // 2 - 1
    kept = {points[0], points[-1]}
    for number in range(stretches):
        stretch = points[len(points) * number // stretches : len(points) * (number + 1) // stretches]
        kept |= {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
    return sorted(kept)


def _add_reference(drawn: list[Chart], runs: list[RunLog]) -> None:
    curves = list(filter(None, map(reference_curve.curve, runs)))
    for chart in drawn:
        if chart.title == _PANELS[0].title and curves:
            longest = max(curves, key=lambda parts: parts[-1][-1][0])
            color = len(runs) if len(runs) > 1 else len(_PANELS[0].curves)
            chart.series.append(Series(reference_curve.NAME, BESIDE, color, longest))
