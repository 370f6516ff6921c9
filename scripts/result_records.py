"""Records of named results, docs/results/NAME.json: made, compared with new figures, shown as a table.

What a result runs and where its figures are read is in named_results.py.
"""

import gzip
import json
import math
import re
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import files
import run_curves
from command_line import UsageError
from markdown_text import plain, table
from run_log import Points

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "docs" / "results"
DOCUMENT = ROOT / "docs" / "results.md"
_CURVE_POINTS = 40
# Share of sound repetitions that a figure calls within.
_CONFIDENCE = 0.95
_ABSOLUTE_PATH = re.compile(r'"/(?:[^"/]*/)*([^"/]*)"')
_TABLE = re.compile(r"(<!-- record: (\w+) -->\n).*?(<!-- /record -->)", re.DOTALL)


@dataclass(frozen=True)
class Figure:
    """How a figure is shown and judged.

    Attributes:
        label: what it is, with its unit.
        floor: a difference of the means that is never too large; None for figures that depend on the
            machine, which are shown and not compared.
    """

    label: str
    floor: float | None
    digits: int = 3


@dataclass
class SeedResult:
    """What the run of one seed gave.

    Attributes:
        figures: by names; of a name with slashes, the last part says which Figure it is.
        inputs: what the figures follow from beside code and settings, such as checksums of the data.
        curves: held-out loss over the updates, by names.
        logs: DLLogger files, by the names of what was run.
    """

    figures: dict[str, float]
    inputs: dict[str, str] = field(default_factory=dict)
    curves: dict[str, Points] = field(default_factory=dict)
    logs: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One figure beside its record; None where one of them has no such figure.

    Attributes:
        allowed: the largest difference of the means that is within the spread; None where it is not compared.
    """

    name: str
    recorded: float | None
    spread: float | None
    measured: float | None
    allowed: float | None

    @property
    def is_within(self) -> bool | None:
        """None where the figure is not compared."""
        if self.allowed is None:
            return None
        if self.recorded is None or self.measured is None:
            return False
        # Not finite is not within.
        return abs(self.measured - self.recorded) <= self.allowed


def means(results: Mapping[str, SeedResult]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and deviation (of the sample; 0 of a single seed) of each figure that all seeds have."""
    columns = {
        name: [result.figures[name] for result in results.values()]
        for name in next(iter(results.values())).figures
        if all(name in result.figures for result in results.values())
    }
    mean = {name: statistics.fmean(values) for name, values in columns.items()}
    spread = {name: statistics.stdev(values) if len(values) > 1 else 0.0 for name, values in columns.items()}
    return mean, spread


def make(name: str, results: Mapping[str, SeedResult], provenance: Mapping[str, Sequence[Mapping]]) -> dict:
    """A record.

    Args:
        results: by seed.
        provenance: the starts of each seed's run (run_provenance.py).

    Raises:
        UsageError: what was measured is not the code of one commit with the same packages, or the runs had
            different settings or data.
    """
    starts = [start for of_seed in provenance.values() for start in of_seed]
    _require_one_code(name, starts)
    mean, spread = means(results)
    first = starts[0]
    return {
        "name": name,
        "commit": first["commit"],
        "date": min(start["started"] for start in starts)[:10],
        "command": first["command"],
        "settings": shared_settings(provenance),
        "hardware": list({json.dumps(start["hardware"]): start["hardware"] for start in starts}.values()),
        "versions": first["versions"],
        "wall_seconds": round(sum(start.get("seconds", 0.0) for start in starts), 1),
        "inputs": shared_inputs(results),
        "seeds": {
            seed: {
                "figures": result.figures,
                "curves": {
                    key: [
                        [update, round(value, 4)]
                        for update, value in run_curves.thinned(points, _CURVE_POINTS)
                    ]
                    for key, points in result.curves.items()
                },
            }
            for seed, result in results.items()
        },
        "mean": mean,
        "spread": spread,
    }


def _require_one_code(name: str, starts: Sequence[Mapping]) -> None:
    """See that all starts ran the code of one commit with the same packages."""
    commits = {start["commit"] for start in starts}
    if any(start["dirty"] for start in starts) or "" in commits:
        raise UsageError(
            f"--record {name}: a run was started from a dirty working tree, so no commit has its code; "
            "commit, and run again"
        )
    if len(commits) != 1:
        raise UsageError(
            f"--record {name}: its runs were started at several commits: {', '.join(sorted(commits))}"
        )
    if any(start["versions"] != starts[0]["versions"] for start in starts):
        raise UsageError(f"--record {name}: its runs were started with different versions of the packages")


def shared_settings(provenance: Mapping[str, Sequence[Mapping]]) -> dict[str, str]:
    """The settings of all starts of all seeds, which must be the same but for SEED.

    Args:
        provenance: the starts of each seed's run.

    Raises:
        UsageError: they are not; says which setting of which seed.
    """
    of_starts = [
        (seed, {key: value for key, value in start["settings"].items() if key != "SEED"})
        for seed, starts in provenance.items()
        for start in starts
    ]
    first_seed, first = of_starts[0]
    for seed, settings in of_starts:
        for key in sorted({*first, *settings}):
            if settings.get(key) != first.get(key):
                raise UsageError(
                    f"seed {seed}: was started with other settings than seed {first_seed} at first: {key} is "
                    f"{settings.get(key, 'not set')}, there {first.get(key, 'not set')}"
                )
    return first


def shared_inputs(results: Mapping[str, SeedResult]) -> dict[str, str]:
    """The inputs of all seeds, which must be the same.

    Raises:
        UsageError: they are not.
    """
    first = next(iter(results.values())).inputs
    for seed, result in results.items():
        if result.inputs != first:
            raise UsageError(f"seed {seed}: its run had other data or weights than the others")
    return first


def compare(record: Mapping, results: Mapping[str, SeedResult], figures: Mapping[str, Figure]) -> list[Row]:
    """Each figure of the record or of the new results beside the other's.

    A mean is within if it differs from the recorded one by no more than `prediction_bound` or the figure's
    floor, whichever is larger.
    """
    mean, _ = means(results)
    rows = []
    for name in dict.fromkeys([*record["mean"], *mean]):
        floor, spread = figure_of(name, figures).floor, record["spread"].get(name)
        allowed = None
        if floor is not None:
            allowed = max(prediction_bound(spread or 0.0, len(record["seeds"]), len(results)), floor)
        rows.append(Row(name, record["mean"].get(name), spread, mean.get(name), allowed))
    return rows


def prediction_bound(deviation: float, recorded: int, measured: int) -> float:
    """How far the mean of new seeds lies from that of recorded ones, at most, in 95 of 100 repetitions.

    Student's, as the deviation is itself an estimate from a few seeds: for figures that are normal over the
    seeds. 0 for one recorded seed, which has no deviation.

    Args:
        deviation: of the sample of recorded seeds.
        recorded, measured: how many seeds there are.
    """
    if recorded < 2:
        return 0.0
    import scipy.special

    quantile = float(scipy.special.stdtrit(recorded - 1, (1 + _CONFIDENCE) / 2))
    return quantile * deviation * math.sqrt(1 / recorded + 1 / measured)


def differences(record: Mapping, settings: Mapping[str, str], inputs: Mapping[str, str]) -> list[str]:
    """Why new figures cannot be compared with a record, a sentence each; none where they can."""
    told = []
    for what, recorded, now in (
        ("", record["settings"], settings),
        ("the input ", record["inputs"], inputs),
    ):
        for key in sorted({*recorded, *now}):
            if recorded.get(key) != now.get(key):
                told.append(
                    f"{what}{key} is {now.get(key, 'not set')}, recorded {recorded.get(key, 'not set')}"
                )
    return told


def figure_of(name: str, figures: Mapping[str, Figure]) -> Figure:
    """The figure that a name is about."""
    return figures[name.rpartition("/")[2]]


def path_of(name: str, folder: Path = RECORDS) -> Path:
    return folder / f"{name}.json"


def read(name: str, folder: Path = RECORDS) -> dict | None:
    """A record; None where there is none yet."""
    try:
        return files.read_json(path_of(name, folder))
    except FileNotFoundError:
        return None


def write(record: dict, folder: Path = RECORDS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(path_of(record["name"], folder), record)
    return path_of(record["name"], folder)


def write_logs(
    name: str, results: Mapping[str, SeedResult], folders: Mapping[str, Path], records: Path = RECORDS
) -> None:
    """Write the logs of a record, compressed, in the place of those that it had.

    Where they lay is left out: paths begin at the seed's folder, or at the one that holds it; of others there
    is the last part.
    """
    target = records / name
    shutil.rmtree(target, ignore_errors=True)
    for seed, result in results.items():
        folder = folders[seed].resolve()
        for title, path in result.logs.items():
            text = path.read_text(encoding="utf-8", errors="replace")
            text = text.replace(str(folder), ".").replace(str(folder.parent), "..")
            text = _ABSOLUTE_PATH.sub(r'".../\1"', text)
            target.mkdir(parents=True, exist_ok=True)
            # Without the time of writing: the same log is the same file.
            compressed = gzip.compress(text.encode("utf-8"), mtime=0)
            files.write_bytes(target / f"seed_{seed}.{title}.log.gz", compressed)


# ------------------------------------------------------------------------------------------------- shown


def shown_rows(rows: Sequence[Row], figures: Mapping[str, Figure]) -> str:
    """The comparison, for a terminal."""
    words = {True: "within", False: "OUTSIDE", None: "not compared"}
    width = max(len(row.name) for row in rows)
    lines = [f"{'':{width}}  {'recorded':>20} {'allowed':>9} {'now':>10}"]
    for row in rows:
        digits = figure_of(row.name, figures).digits
        recorded = f"{_number(row.recorded, digits)} ± {_number(row.spread, digits)}"
        lines.append(
            f"{row.name:{width}}  {recorded:>20} {_number(row.allowed, digits):>9} "
            f"{_number(row.measured, digits):>10}  {words[row.is_within]}"
        )
    return "\n".join(lines)


def shown_record(record: Mapping, figures: Mapping[str, Figure]) -> str:
    """The record's table and where it comes from, as Markdown."""
    seeds = record["seeds"]
    header = ["figure", *(f"seed {seed}" for seed in seeds), "mean ± spread"]
    rows = []
    for name, mean in record["mean"].items():
        figure = figure_of(name, figures)
        place = name.rpartition("/")[0]
        values = [_number(own["figures"].get(name), figure.digits) for own in seeds.values()]
        both = f"{_number(mean, figure.digits)} ± {_number(record['spread'][name], figure.digits)}"
        rows.append((f"{place}: {figure.label}" if place else figure.label, *values, both))
    settings = " ".join(f"{name}={value}" for name, value in record["settings"].items())
    machine = [_shown_hardware(hardware) for hardware in record["hardware"]]
    machine += [f"{key} {value}" for key, value in record["versions"].items()]
    return "\n".join(
        [
            table(header, rows, right=range(1, len(header))),
            "",
            f"Commit {record['commit'][:12]}, {record['date']}, {record['wall_seconds']:,.0f} s in all; "
            f"`{record['command']}`{f' with {settings}' if settings else ''}. {'; '.join(machine)}.",
        ]
    )


def with_current_tables(
    text: str, figures: Mapping[str, Mapping[str, Figure]], folder: Path = RECORDS
) -> str:
    """A document's text with the record of each name between its two markers, or that there is none yet.

    Args:
        figures: by the name of the result.
    """

    def render(match: re.Match) -> str:
        record = read(match[2], folder)
        body = shown_record(record, figures[match[2]]) if record else "no record yet"
        return f"{match[1]}{body}\n{match[3]}"

    return _TABLE.sub(render, text)


def _shown_hardware(hardware: Mapping) -> str:
    parts = [f"{hardware['processors']} processors of {hardware['processor']}", f"{hardware['memory_gb']} GB"]
    return plain(", ".join([*parts, *hardware.get("gpus", [])]))


def _number(value: float | None, digits: int) -> str:
    if value is None:
        return "-"
    return f"{value:,.{digits}f}" if math.isfinite(value) else str(value)
