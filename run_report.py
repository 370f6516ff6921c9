"""A run's log -> its curves as a picture, and a table of its held-out figures before and after.

    python run_report.py results/models/first --output training_curves.png

Reads the DLLogger file alone, so it works on a run that goes on, and on NVIDIA's logs.
"""

from dataclasses import dataclass, field
from pathlib import Path

from command_line import UsageError, parse, run_program
from configuration import ReportConfig
from telemetry import read_dll_log

# (title, curves (key, label), held-out curves (key, label))
_PANELS = (
    ("total loss", [("total_loss", "training")], [("eval_total_loss", "held-out")]),
    (
        "masked-LM loss (nats)",
        [("masked_lm_loss", "training")],
        [
            ("eval_masked_lm_loss_masked_only", "held-out, at [MASK]"),
            ("eval_unigram_cross_entropy", "unigram, at [MASK]"),
        ],
    ),
    (
        "replaced-token accuracy (%)",
        [("disc_accuracy", "training")],
        [("eval_disc_accuracy", "held-out"), ("eval_disc_majority_accuracy", "majority")],
    ),
    ("replaced-token AUC", [("disc_auc", "training")], [("eval_disc_auc", "held-out")]),
    ("gradient norm", [("grad_norm", "before clipping")], []),
    ("learning rate", [("learning_rate", "of the update")], []),
)
# (label, key, format)
_TABLE = (
    ("masked-LM loss at [MASK] (nats)", "eval_masked_lm_loss_masked_only", "{:.3f}"),
    ("  unigram cross-entropy (nats)", "eval_unigram_cross_entropy", "{:.3f}"),
    ("masked-LM accuracy at [MASK] (%)", "eval_masked_lm_accuracy_masked_only", "{:.1f}"),
    ("replaced-token accuracy (%)", "eval_disc_accuracy", "{:.1f}"),
    ("  majority rate (%)", "eval_disc_majority_accuracy", "{:.1f}"),
    ("replaced-token AUC", "eval_disc_auc", "{:.3f}"),
)


@dataclass
class Phase:
    """The values that one phase logged, by update; a restarted run's later lines replace earlier ones."""

    number: int
    max_seq_length: int
    training: dict[int, dict[str, float]] = field(default_factory=dict)
    held_out: dict[int, dict[str, float]] = field(default_factory=dict)

    @property
    def last_update(self) -> int:
        return max([0, *self.training, *self.held_out])


def main() -> int:
    config = parse(ReportConfig, description=__doc__)
    phases = read_phases(find_log(config.run_dir))
    if not phases:
        raise UsageError(f"run_dir {config.run_dir}: its log holds no updates yet")
    output = Path(config.output)
    if output.suffix.lower() != ".png" or not output.parent.is_dir():
        raise UsageError(f"--output {config.output}: a .png in an existing folder is wanted")
    draw(phases, output)
    print(table(phases))
    print(f"curves: {output}")
    return 0


def find_log(run_dir: str) -> Path:
    """The DLLogger file of a run: the path itself, or under it, or under its logs folder."""
    path = Path(run_dir)
    for candidate in (path, path / "dllogger.log", path / "logs" / "dllogger.log"):
        if candidate.is_file():
            return candidate
    raise UsageError(f"run_dir {run_dir}: holds no dllogger.log")


def read_phases(log: Path) -> list[Phase]:
    """The phases of a run's log, in order; each start of the program says which phase it is."""
    phases: dict[int, Phase] = {}
    settings: dict = {}
    for event in read_dll_log(log):
        if event["type"] != "LOG":
            continue
        data = event["data"]
        if event["step"] == "PARAMETER":
            settings |= data
        elif isinstance(event["step"], list) and event["step"]:
            number = 2 if settings.get("phase2") else 1
            phase = phases.setdefault(number, Phase(number, settings.get("max_seq_length", 0)))
            is_held_out = any(name.startswith("eval_") for name in data)
            (phase.held_out if is_held_out else phase.training)[event["step"][-1]] = data
    return [phases[number] for number in sorted(phases)]


def table(phases: list[Phase]) -> str:
    """Held-out figures of the last phase, first and last evaluation, and the throughput of each phase."""
    lines = []
    last = phases[-1]
    if last.held_out:
        first_update, last_update = min(last.held_out), max(last.held_out)
        before, after = last.held_out[first_update], last.held_out[last_update]
        lines.append(f"{f'held-out, sequences of {last.max_seq_length}':36} {'before':>10} {'after':>10}")
        for label, key, form in _TABLE:
            if key in after:
                first = form.format(before[key]) if first_update != last_update else "-"
                lines.append(f"{label:36} {first:>10} {form.format(after[key]):>10}")
    for phase in phases:
        rates = [values["train_perf"] for values in phase.training.values() if "train_perf" in values]
        if rates:
            median = sorted(rates)[len(rates) // 2]
            label = f"phase {phase.number}, sequences of {phase.max_seq_length}"
            lines.append(f"{label:36} {phase.last_update:>10} updates, {median:.1f} sequences/s")
    return "\n".join(lines)


def draw(phases: list[Phase], output: Path) -> None:
    """All panels over the updates of the phases, joined; a dotted line marks where a phase begins."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(13, 7), constrained_layout=True)
    for axis, (title, training, held_out) in zip(axes.flat, _PANELS, strict=True):
        axis.set_title(title)
        for kind, curves, style in (("training", training, "-"), ("held_out", held_out, "o--")):
            for number, (key, label) in enumerate(curves):
                points = _joined(phases, kind, key)
                if points:
                    color = f"C{number + (kind == 'held_out')}"
                    axis.plot(*zip(*points, strict=True), style, label=label, color=color, markersize=4)
        for border in _phase_starts(phases)[1:]:
            axis.axvline(border, color="gray", linestyle=":", linewidth=1)
        axis.set_xlabel("updates")
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    figure.savefig(output, dpi=80)
    pyplot.close(figure)


def _phase_starts(phases: list[Phase]) -> list[int]:
    starts = [0]
    for phase in phases:
        starts.append(starts[-1] + phase.last_update)
    return starts[:-1]


def _joined(phases: list[Phase], kind: str, key: str) -> list[tuple[int, float]]:
    return [
        (start + update, values[key])
        for start, phase in zip(_phase_starts(phases), phases, strict=True)
        for update, values in sorted(getattr(phase, kind).items())
        # An evaluation before the first update is in the table; on the curve it would stand where the
        # phase before it ends.
        if key in values and update > 0
    ]


if __name__ == "__main__":
    run_program(main)
