"""Runs -> one HTML page with their health, curves, held-out figures, settings, data and checkpoints.

The page needs no network and no other file (web_page.py): its style sheet (report_page.css) and its script
(report_page.js) are inside. Whatever comes from a log is escaped.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import reference_curve
import run_health
import svg_chart
import web_page
from configuration import PretrainingConfig
from health_finding import Finding
from held_out_table import table as held_out_table
from run_curves import Chart, charts
from run_log import RunLog
from telemetry import duration

# Facts that a run records beside its settings.
_FACTS = ("workers", "sequences_per_update", "training_examples", "unigram_entropy")
_VERDICTS = {True: ("healthy", "✓"), False: ("unhealthy", "✗"), None: ("faint", "-")}


def render(runs: Sequence[RunLog], refresh_seconds: int = 0) -> str:
    """The page; under --watch it loads itself anew every `refresh_seconds`."""
    title = ", ".join(run.name for run in runs)
    refresh = f'<meta http-equiv="refresh" content="{refresh_seconds}">' if refresh_seconds else ""
    sections = [
        *(_verdict(run) for run in runs),
        _curves(list(runs)),
        _held_out(runs),
        _settings(runs),
        _data(runs),
        _environment(runs),
        _checkpoints(runs),
    ]
    body = f"""<header><h1>{escape(title)}</h1></header>
<main>
{chr(10).join(filter(None, sections))}
</main>"""
    return web_page.render(
        f"{title}: training report",
        body,
        styles=("report_page.css",),
        scripts=("report_page.js",),
        head=refresh,
    )


# ------------------------------------------------------------------------------------------------ verdict


def _verdict(run: RunLog) -> str:
    findings = run_health.examine(run)
    healthy = run_health.is_healthy(findings)
    word, sign = _VERDICTS[healthy]
    faults = [finding for finding in findings if finding.healthy is False]
    others = sorted(
        (finding for finding in findings if finding.healthy is not False),
        key=lambda finding: finding.healthy is None,
    )
    return f"""<section class="card verdict {word}">
<p>{escape(run.name)}: <strong>{sign} {word}</strong></p>
<p class="faint">{escape(_progress(run))}</p>
{_findings(faults)}
<details><summary>{len(others)} rules that found no fault</summary>{_findings(others)}</details>
</section>"""


def _progress(run: RunLog) -> str:
    parts = []
    for phase in run.phases:
        wanted = int(phase.setting("num_train_steps", 0))
        of = f" of {wanted:,}" if wanted else ""
        length = f", sequences of {phase.max_seq_length}" if phase.max_seq_length else ""
        parts.append(f"phase {phase.number}: {phase.last_update:,}{of} updates{length}")
    if run.seconds >= 1:
        parts.append(f"{duration(run.seconds)} of training and evaluation")
    if run.last_line:
        parts.append(f"last line {run.last_line:%Y-%m-%d %H:%M}")
    return "; ".join(parts)


def _findings(findings: Iterable[Finding]) -> str:
    items = []
    for finding in findings:
        word, sign = _VERDICTS[finding.healthy]
        advice = f'<div class="advice">Advice: {escape(finding.advice)}.</div>' if finding.advice else ""
        items.append(
            f'<li class="{word}"><strong>{sign} {escape(finding.rule)}</strong>: '
            f"{escape(finding.evidence)}{advice}</li>"
        )
    return f'<ul class="findings">{"".join(items)}</ul>' if items else ""


# ------------------------------------------------------------------------------------------------- curves


def _curves(runs: list[RunLog]) -> str:
    figures = "\n".join(_figure(chart) for chart in charts(runs))
    return f"""<section>
<h2>Curves</h2>
<p class="faint">Over the updates of the phases, joined. {_reference_note(runs)}</p>
<div class="charts">
{figures}
</div>
</section>"""


def _reference_note(runs: list[RunLog]) -> str:
    differing = [
        f"{run.name} ({', '.join(found[:3])})" for run in runs if (found := reference_curve.differences(run))
    ]
    if not differing:
        return ""
    return escape(
        "NVIDIA's published loss curve is drawn beside its own recipe alone, which is not that of "
        + "; ".join(differing)
        + "."
    )


def _figure(chart: Chart) -> str:
    legend = "".join(svg_chart.legend(series) for series in chart.series)
    return f"""<figure class="card">
<figcaption><h3>{escape(chart.title)}</h3><output></output></figcaption>
{svg_chart.draw(chart)}
<ul>{legend}</ul>
</figure>"""


# ------------------------------------------------------------------------------------------------- tables


def _held_out(runs: Sequence[RunLog]) -> str:
    blocks = []
    for run in runs:
        text = held_out_table(run.phases)
        if text:
            title = f"<h3>{escape(run.name)}</h3>" if len(runs) > 1 else ""
            blocks.append(f'<div class="card">{title}<pre>{escape(text)}</pre></div>')
    return f"<section><h2>Held-out figures and throughput</h2>{''.join(blocks)}</section>" if blocks else ""


def _settings(runs: Sequence[RunLog]) -> str:
    """Settings that are no defaults or differ between columns; the others are folded away."""
    columns = [(run, phase) for run in runs for phase in run.phases]
    header = [
        f"phase {phase.number}" if len(runs) == 1 else f"{run.name}, phase {phase.number}"
        for run, phase in columns
    ]
    defaults = {field.name: field.default for field in dataclasses.fields(PretrainingConfig)}
    names = list(
        dict.fromkeys([*_FACTS, *defaults, *(name for _, phase in columns for name in phase.settings)])
    )
    shown, folded = [], []
    for name in names:
        values = [phase.settings.get(name) for _, phase in columns]
        if name.isupper() or all(value is None for value in values):
            continue
        is_usual = name in defaults and all(value == defaults[name] for value in values)
        (folded if is_usual else shown).append((name, *map(_value, values)))
    if not shown and not folded:
        return ""
    return f"""<section>
<h2>Configuration</h2>
<div class="card">
{_table(("setting", *header), shown)}
<details><summary>{len(folded)} settings at their defaults</summary>
{_table(("setting", *header), folded)}
</details>
</div>
</section>"""


def _data(runs: Sequence[RunLog]) -> str:
    manifests = {folder: manifest for run in runs for folder, manifest in run.manifests()}
    cards = "".join(_data_card(folder, manifest) for folder, manifest in manifests.items())
    return f"<section><h2>Data</h2>{cards}</section>" if cards else ""


def _data_card(folder: Path, manifest: dict) -> str:
    names = (
        "documents",
        "examples",
        "tokens",
        "cut_off_share",
        "padding_share",
        "unknown_share",
        "vocabulary_size",
    )
    rows = [(name.replace("_", " "), _value(manifest[name])) for name in names if name in manifest]
    dropped = manifest.get("documents_dropped")
    if isinstance(dropped, dict) and dropped:
        rows.append(("documents dropped", ", ".join(f"{why} {_value(n)}" for why, n in dropped.items())))
    settings = manifest.get("settings")
    length = settings.get("max_seq_length") if isinstance(settings, dict) else None
    sources = manifest.get("sources")
    sources = [source for source in sources if isinstance(source, dict)] if isinstance(sources, list) else []
    kept = [tuple(_value(source.get(name)) for name in ("name", "licence", "origin")) for source in sources]
    title = f"{manifest.get('title', 'Pre-training examples')}, sequences of {_value(length)}"
    return f"""<div class="card">
<h3>{escape(title)}</h3>
<p class="faint">{escape(str(folder))}</p>
{_table(("", ""), rows)}
<details><summary>{len(kept):,} sources</summary>
{_table(("file", "licence", "origin"), kept[:50])}
</details>
</div>"""


def _environment(runs: Sequence[RunLog]) -> str:
    names = dict.fromkeys(name for run in runs for name in run.environment())
    rows = [(name, *(_value(run.environment().get(name)) for run in runs)) for name in names]
    if not rows:
        return ""
    header = ("", *(run.name for run in runs))
    return f'<section><h2>Environment</h2><div class="card">{_table(header, rows)}</div></section>'


def _checkpoints(runs: Sequence[RunLog]) -> str:
    rows = [
        (
            str(checkpoint.path),
            str(checkpoint.phase),
            f"{checkpoint.update:,}",
            f"{checkpoint.written:%Y-%m-%d %H:%M}",
            f"{checkpoint.bytes / 1e6:,.0f} MB",
        )
        for run in runs
        for checkpoint in run.checkpoints()
    ]
    if not rows:
        return ""
    table = _table(("folder", "phase", "update", "written", "size"), rows)
    return f'<section><h2>Checkpoints</h2><div class="card">{table}</div></section>'


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header) if any(header) else ""
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _cell(text: str) -> str:
    return f"<td{' class=long' if len(text) > 30 else ''}>{escape(text)}</td>"


def _value(value: object) -> str:
    """A setting or figure as people write it."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
