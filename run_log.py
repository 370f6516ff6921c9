"""A run's folder -> what its log and the files beside it say: phases, curves, settings, checkpoints, data.

Reads the DLLogger file alone where there is nothing else, so it works on a run that goes on, and on NVIDIA's
logs. What is healthy is judged in run_health.py, what is drawn is chosen in run_curves.py.
"""

import contextlib
import datetime
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import checkpointing
import files
import tfrecords
from command_line import UsageError
from telemetry import read_dll_log

Values = dict[int, dict[str, float]]
Points = list[tuple[float, float]]


@dataclass
class Phase:
    """The values that one phase logged, by update.

    A start that goes on from an earlier update replaces what was logged after it. Held-out values are those
    of the run's own held-out text, evaluated in training or alone; of other text only where it has none.

    Attributes:
        settings: what the newest start that trained recorded: flags, and facts such as `workers`.
        training, held_out: what was logged, in the order of the updates once the log has been read.
        starts: first logged update of each start that trained.
        clock: seconds of all starts that trained, up to the line of an update.
    """

    number: int
    settings: dict = field(default_factory=dict)
    training: Values = field(default_factory=dict)
    held_out: Values = field(default_factory=dict)
    starts: list[int] = field(default_factory=list)
    clock: dict[int, float] = field(default_factory=dict)

    @property
    def max_seq_length(self) -> int:
        return int(self.setting("max_seq_length", 0))

    @property
    def last_update(self) -> int:
        return max([0, *self.training, *self.held_out])

    def setting(self, name: str, default: float | None = None) -> float | None:
        """A setting that is a number; the default where it is not recorded, or is none."""
        value = self.settings.get(name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return value if is_number else default

    def sequences_per_update(self) -> float | None:
        """As recorded, or of one worker from the flags; None where neither is in the log."""
        size, batch = self.setting("sequences_per_update"), self.setting("train_batch_size")
        of_flags = self.setting("global_batch_size") or (batch or 0) * self.setting(
            "gradient_accumulation_steps", 1
        )
        return size or of_flags or None

    def points(self, kind: str, key: str) -> Points:
        """(update, value) of a key, in order; `kind` is training or held_out."""
        return [(update, values[key]) for update, values in getattr(self, kind).items() if key in values]


@dataclass
class Checkpoint:
    """A checkpoint's folder: where it is, of which update, when it was written, its bytes."""

    path: Path
    phase: int
    update: int
    written: datetime.datetime
    bytes: int


@dataclass
class RunLog:
    """All that a run's folder says.

    Attributes:
        label: what it is called beside others of its name; empty where it is the only one.
        settings: what the newest start recorded, flags and facts; of an evaluation alone only where all are.
        failure: why the newest start ended early; empty where it did not.
        seconds: from each start's first line to its last, summed over the starts that trained.
        last_line: when the newest line was written.
    """

    path: Path
    phases: list[Phase]
    settings: dict
    failure: str = ""
    seconds: float = 0.0
    last_line: datetime.datetime | None = None
    label: str = ""

    @property
    def folder(self) -> Path:
        """The run's folder, which holds logs/ and checkpoints/; of a single log file, the one it lies in."""
        parent = self.path.parent
        return parent.parent if parent.name == "logs" else parent

    @property
    def name(self) -> str:
        return self.label or str(self.settings.get("model_name") or self.folder.resolve().name)

    @property
    def updates(self) -> int:
        """Updates of all phases."""
        return sum(phase.last_update for phase in self.phases)

    def phase_starts(self) -> list[int]:
        """How many updates of earlier phases stand before each phase."""
        return [
            sum(phase.last_update for phase in self.phases[:number]) for number in range(len(self.phases))
        ]

    def curve(self, kind: str, key: str) -> list[Points]:
        """(update, value) of a key in each phase, the updates counted over all phases."""
        return [
            # An evaluation before the first update is in the table; on the curve it would stand where the
            # phase before it ends.
            [(start + update, value) for update, value in phase.points(kind, key) if update > 0]
            for start, phase in zip(self.phase_starts(), self.phases, strict=True)
        ]

    def points(self, kind: str, key: str) -> Points:
        """`curve` in one piece."""
        return [point for part in self.curve(kind, key) for point in part]

    def environment(self) -> dict:
        """Versions and devices: the recorded names in capitals, as NVIDIA's are."""
        return {name: value for name, value in self.settings.items() if name.isupper()}

    def checkpoints(self) -> list[Checkpoint]:
        """The run's checkpoints, oldest first."""
        found = []
        for phase, prefix in checkpointing.PHASE_PREFIXES.items():
            for update, path in checkpointing.list_checkpoints(self.folder / "checkpoints", prefix):
                # A run that goes on rotates them: one that was listed may be gone by now.
                with contextlib.suppress(FileNotFoundError):
                    sizes = [entry.stat().st_size for entry in path.iterdir() if entry.is_file()]
                    written = datetime.datetime.fromtimestamp(path.stat().st_mtime)
                    found.append(Checkpoint(path, phase, update, written, sum(sizes)))
        return found

    def manifests(self) -> list[tuple[Path, dict]]:
        """`manifests` of every phase."""
        return manifests(self.phases)


def manifests(phases: Iterable[Phase]) -> list[tuple[Path, dict]]:
    """(folder, manifest) of the training shards of some phases, where they still are."""
    folders: dict[Path, None] = {}
    for phase in phases:
        patterns = phase.settings.get("pretrain_tfrecords")
        try:
            shards = tfrecords.find_shards(patterns, "pretrain_tfrecords") if patterns else []
        except UsageError:
            continue
        folders |= dict.fromkeys(Path(shard).parent for shard in shards)
    found = []
    for folder in folders:
        try:
            manifest = files.read_json(folder / tfrecords.MANIFEST_NAME)
        except (OSError, ValueError):
            continue
        if isinstance(manifest, dict):
            found.append((folder, manifest))
    return found


def read_run(run_dir: str) -> RunLog:
    """Read a run's folder, its logs folder, or a DLLogger file.

    Raises:
        UsageError: there is no log, or no update in it.
    """
    run = parse_log(find_log(run_dir))
    if not run.phases:
        ended = f"; the run ended by itself: {run.failure}" if run.failure else " yet"
        raise UsageError(f"run_dir {run_dir}: its log holds no updates{ended}")
    try:
        recorded = files.read_json(_recorded_settings(run))
    except (OSError, ValueError):
        recorded = {}
    if isinstance(recorded, dict):
        run.settings = recorded | run.settings
    return run


def stamp(run_dir: str) -> list:
    """What changes when the report of a run would: size and time of its log and settings, its checkpoints.

    Raises:
        UsageError: there is no log.
    """
    run = RunLog(find_log(run_dir), [], {})
    stamps: list = []
    for path in (run.path, _recorded_settings(run)):
        with contextlib.suppress(OSError):
            status = path.stat()
            stamps.append((path, status.st_size, status.st_mtime_ns))
    return [*stamps, *run.checkpoints()]


def tell_apart(runs: list[RunLog]) -> None:
    """Label runs of one name by what their paths differ in."""
    paths = [run.path.resolve().parts for run in runs]
    columns, reversed_columns = zip(*paths, strict=False), zip(*map(reversed, paths), strict=False)
    alike, alike_at_end = (
        len(list(itertools.takewhile(lambda parts: len(set(parts)) == 1, each)))
        for each in (columns, reversed_columns)
    )
    names = [run.name for run in runs]
    for run, parts, name in zip(runs, paths, names, strict=True):
        differing = parts[alike : len(parts) - alike_at_end]
        if names.count(name) > 1 and differing:
            run.label = f"{name} ({'/'.join(differing)})"


def _recorded_settings(run: RunLog) -> Path:
    return run.folder / "checkpoints" / "pretrain_config.json"


def find_log(run_dir: str) -> Path:
    """The DLLogger file of a run: the path itself, or under it, or under its logs folder.

    Raises:
        UsageError: there is none.
    """
    path = Path(run_dir)
    for candidate in (path, path / "dllogger.log", path / "logs" / "dllogger.log"):
        if candidate.is_file():
            return candidate
    raise UsageError(f"run_dir {run_dir}: holds no dllogger.log")


def parse_log(path: Path) -> RunLog:
    """The phases of a log, in order; each start of the program says which phase it is."""
    reader = _Reader()
    for event in read_dll_log(path):
        reader.add(event)
    reader.finish()
    phases = [reader.phases[number] for number in sorted(reader.phases)]
    return RunLog(path, phases, reader.settings, reader.failure, reader.seconds, reader.last_line)


class _Reader:
    """Takes the events of a log one after the other, and then `finish`.

    What a start records stands before all else that it logs. An evaluation alone (--do_eval_only) may be that
    of another process while the run trains: it has one line, and what follows is the run's own again.
    """

    def __init__(self):
        self.phases: dict[int, Phase] = {}
        self.settings: dict = {}
        self.failure = ""
        self.seconds = 0.0
        self.last_line: datetime.datetime | None = None
        self._recorded: dict = {}
        self._recorded_since = 0.0
        self._evaluation: dict | None = None
        # By phase and held-out text, the text of the newest one last.
        self._evaluations: dict[int, dict[tuple, Values]] = {}
        self._has_begun = self._has_trained = False
        self._first_time = self._last_time = 0.0

    def add(self, event: dict) -> None:
        step, data = event.get("step"), event.get("data")
        if event.get("type") != "LOG" or not isinstance(data, dict):
            return
        time = self._time_of(event)
        if step == "PARAMETER":
            self._record(data, time)
            return
        self._take_recorded()
        values = {
            str(name): float(value)
            for name, value in data.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        update = step[-1] if isinstance(step, list) and step and isinstance(step[-1], int) else None
        is_held_out = any(name.startswith("eval_") for name in values)
        if update is not None and is_held_out and self._evaluation is not None:
            self._add_evaluation(update, values)
            return
        self.failure = str(data.get("failure", ""))
        self._last_time = time or self._last_time
        self._first_time = self._first_time or self._last_time
        if update is not None:
            self._add_values(update, values, is_held_out)

    def finish(self) -> None:
        """The log ends here."""
        self._take_recorded()
        self._end_start()
        for number, by_text in self._evaluations.items():
            phase = self.phases[number]
            # Of other text only where the run has none of its own.
            newest = {} if phase.held_out else list(by_text.values())[-1]
            phase.held_out = by_text.get(_held_out_text(phase.settings), newest) | phase.held_out
        for phase in self.phases.values():
            # Once, as every curve and rule goes through them.
            phase.training = dict(sorted(phase.training.items()))
            phase.held_out = dict(sorted(phase.held_out.items()))

    def _record(self, data: dict, time: float) -> None:
        if next(iter(self._recorded), None) in data:
            # The start before has logged nothing else.
            self._take_recorded()
        if not self._recorded:
            self._recorded_since = time
        self._recorded |= data

    def _take_recorded(self) -> None:
        """What was recorded, if anything, is that of another start of the program."""
        recorded, self._recorded = self._recorded, {}
        if not recorded:
            return
        if recorded.get("do_eval_only"):
            self._evaluation = recorded
            if self._has_begun:
                return
        else:
            self._has_begun = True
        self._end_start()
        self._first_time = self._last_time = self._recorded_since
        self.settings |= recorded
        self.failure = ""

    def _end_start(self) -> None:
        if self._has_trained:
            self.seconds += self._last_time - self._first_time
        self._has_trained, self._first_time = False, 0.0

    def _add_evaluation(self, update: int, values: dict[str, float]) -> None:
        settings, self._evaluation = self._evaluation, None
        phase = self._phase_of(settings)
        if not phase.training:
            phase.settings = self.settings | settings
        by_text, text = self._evaluations.setdefault(phase.number, {}), _held_out_text(settings)
        by_text[text] = by_text.pop(text, {}) | {update: values}

    def _add_values(self, update: int, values: dict[str, float], is_held_out: bool) -> None:
        phase = self._phase_of(self.settings)
        if "loss_scale" in values:
            # Older logs name skipped updates only where there were some.
            values.setdefault("skipped_updates", 0.0)
        if is_held_out:
            phase.held_out[update] = values
        else:
            if not self._has_trained:
                phase.starts.append(update)
                self._leave_out_after(update, phase)
            phase.training[update] = values
            self._has_trained = True
        if not is_held_out or not phase.training:
            phase.settings = dict(self.settings)
        # An evaluation alone, of an update that was trained before, changes nothing.
        if self._has_trained:
            phase.clock[update] = self.seconds + self._last_time - self._first_time

    def _leave_out_after(self, update: int, phase: Phase) -> None:
        """A start goes on from before this update: what was logged after it is no part of the run now."""
        by_text = self._evaluations.get(phase.number, {})
        for of_update in (phase.training, phase.held_out, phase.clock, *by_text.values()):
            for later in [key for key in of_update if key > update]:
                del of_update[later]

    def _phase_of(self, settings: dict) -> Phase:
        number = 2 if settings.get("phase2") else 1
        return self.phases.setdefault(number, Phase(number))

    def _time_of(self, event: dict) -> float:
        """Seconds since the epoch; 0 of a line that does not say when it was written."""
        try:
            time = float(event["timestamp"])
            self.last_line = datetime.datetime.fromtimestamp(time)
        except (KeyError, TypeError, ValueError, OverflowError, OSError):
            return 0.0
        return time


def _held_out_text(settings: dict) -> tuple:
    """What tells the text of one evaluation from that of another."""
    return settings.get("eval_tfrecords"), settings.get("eval_steps")
