"""Runs' logs -> a page or picture of their curves, a verdict on their health, a table of held-out figures.

    python run_report.py results/models/first --output report.html
    python run_report.py results/models/first results/models/second --output both.html
    python run_report.py results/models/first --check     # exit code 1 where a rule finds a fault
    python run_report.py results/models/first --watch     # serves the page on this machine, until Ctrl-C

Reads the DLLogger file and what lies beside it, so it works on a run that goes on, and on NVIDIA's logs.
"""

from collections.abc import Sequence
from pathlib import Path

import files
import report_page
import run_curves
import run_health
import run_log
from command_line import EXIT_FAILURE, UsageError, parse, run_program
from held_out_table import table
from report_configuration import ReportConfig
from report_server import PageServer
from run_log import RunLog, read_run, tell_apart

_REFRESH_SECONDS = 10


def main() -> int:
    config = parse(ReportConfig, description=__doc__)
    runs = _read(config.run_dir)
    if config.output:
        _write(runs, Path(config.output))
    if config.watch:
        _serve(config)
    return _check(runs) if config.check else 0


def _read(run_dirs: Sequence[str]) -> list[RunLog]:
    runs = [read_run(run_dir) for run_dir in run_dirs]
    tell_apart(runs)
    return runs


def _write(runs: list[RunLog], output: Path) -> None:
    if not output.parent.is_dir():
        raise UsageError(f"--output {output}: there is no folder {output.parent}")
    if output.suffix.lower() == ".png":
        if not run_curves.charts(runs):
            raise UsageError(f"--output {output}: there are no updates to draw yet; .html has the evaluation")
        run_curves.draw_picture(runs, output)
        kind = "curves"
    else:
        files.write_text(output, report_page.render(runs))
        kind = "report"
    for run in runs:
        if len(runs) > 1:
            print(f"{run.name}:")
        print(table(run.phases))
    print(f"{kind}: {output}")


def _check(runs: list[RunLog]) -> int:
    are_healthy = True
    for run in runs:
        findings = run_health.examine(run)
        print(run_health.describe(run, findings))
        are_healthy = are_healthy and run_health.is_healthy(findings)
    return 0 if are_healthy else EXIT_FAILURE


def _serve(config: ReportConfig) -> None:
    def make_page() -> str:
        return report_page.render(_read(config.run_dir), _REFRESH_SECONDS)

    def stamp() -> list:
        return [run_log.stamp(run_dir) for run_dir in config.run_dir]

    with PageServer(make_page, stamp, config.port) as server:
        print(f"{server.url} shows the report and keeps it current; Ctrl-C ends this", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    run_program(main)
