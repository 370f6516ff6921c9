"""Every setting of run_report.py: one dataclass field = one flag = one documented default."""

from dataclasses import MISSING, dataclass

from command_line import option, require


@dataclass
class ReportConfig:
    """Settings of run_report.py."""

    run_dir: tuple[str, ...] = option(
        MISSING, "runs' folders, their logs folders, or DLLogger files", group="report", positional=True
    )
    output: str = option(
        "",
        "page (.html) or picture (.png) to write; default training_curves.png, or nothing with --check or "
        "--watch",
        group="report",
    )
    check: bool = option(
        False, "print every rule on the runs' health; exit code 1 where one is broken", group="report"
    )
    watch: bool = option(
        False, "serve the page on 127.0.0.1 and keep it current, until Ctrl-C", group="report"
    )
    port: int = option(8008, "port of --watch; 0 takes a free one", group="report")

    def __post_init__(self):
        if not self.output and not self.check and not self.watch:
            self.output = "training_curves.png"
        is_known = not self.output or self.output.lower().endswith((".png", ".html", ".htm"))
        require(is_known, "output", self.output, "must end in .html or .png")
        require(not (self.check and self.watch), "watch", True, "contradicts --check")
        require(0 <= self.port < 65536, "port", self.port, "must be between 0 and 65535")
