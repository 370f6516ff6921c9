"""A run's folder -> what its log and the files beside it say: phases, curves, settings, checkpoints, data.

Reads the DLLogger file alone where there is nothing else, so it works on a run that goes on, and on NVIDIA's
logs. What is healthy is judged in run_health.py, what is drawn is chosen in run_curves.py.
"""

import datetime
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
    """The values that one phase logged, by update; a restarted run's later lines replace earlier ones.

    Attributes:
        settings: what the newest start that trained recorded: flags, and facts such as `workers`.
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
        lines = getattr(self, kind)
        return [(update, lines[update][key]) for update in sorted(lines) if key in lines[update]]


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
        settings: what the newest start recorded, flags and facts.
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

    @property
    def folder(self) -> Path:
        """The run's folder, which holds logs/ and checkpoints/; of a single log file, the one it lies in."""
        parent = self.path.parent
        return parent.parent if parent.name == "logs" else parent

    @property
    def name(self) -> str:
        return str(self.settings.get("model_name") or self.folder.resolve().name)

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
                sizes = [entry.stat().st_size for entry in path.iterdir() if entry.is_file()]
                written = datetime.datetime.fromtimestamp(path.stat().st_mtime)
                found.append(Checkpoint(path, phase, update, written, sum(sizes)))
        return found

    def manifests(self) -> list[tuple[Path, dict]]:
        """(folder, manifest) of the training shards of every phase, where they still are."""
        folders: dict[Path, None] = {}
        for phase in self.phases:
            patterns = phase.settings.get("pretrain_tfrecords")
            try:
                shards = tfrecords.find_shards(patterns, "pretrain_tfrecords") if patterns else []
            except UsageError:
                continue
            folders |= dict.fromkeys(Path(shard).parent for shard in shards)
        found = []
        for folder in folders:
            try:
                manifest = tfrecords.read_manifest(folder)
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
        recorded = files.read_json(run.folder / "checkpoints" / "pretrain_config.json")
    except (OSError, ValueError):
        recorded = {}
    if isinstance(recorded, dict):
        run.settings = recorded | run.settings
    return run


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
    reader.end_start()
    phases = [reader.phases[number] for number in sorted(reader.phases)]
    return RunLog(path, phases, reader.settings, reader.failure, reader.seconds, reader.last_line)


class _Reader:
    """Takes the events of a log one after the other."""

    def __init__(self):
        self.phases: dict[int, Phase] = {}
        self.settings: dict = {}
        self.failure = ""
        self.seconds = 0.0
        self.last_line: datetime.datetime | None = None
        self._in_settings = self._has_trained = False
        self._first_time = self._last_time = 0.0

    def add(self, event: dict) -> None:
        step, data = event.get("step"), event.get("data")
        if event.get("type") != "LOG" or not isinstance(data, dict):
            return
        if step == "PARAMETER":
            if not self._in_settings:
                self.end_start()
            self._in_settings, self.failure = True, ""
            self.settings |= data
        else:
            self._in_settings = False
            self.failure = str(data.get("failure", ""))
        self._keep_time(event)
        if isinstance(step, list) and step and isinstance(step[-1], int):
            self._add_values(step[-1], data)

    def end_start(self) -> None:
        """What comes next belongs to another start of the program."""
        if self._has_trained:
            self.seconds += self._last_time - self._first_time
        self._has_trained, self._first_time = False, 0.0

    def _add_values(self, update: int, data: dict) -> None:
        number = 2 if self.settings.get("phase2") else 1
        phase = self.phases.setdefault(number, Phase(number))
        values = {
            str(name): float(value)
            for name, value in data.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        is_held_out = any(name.startswith("eval_") for name in values)
        if is_held_out:
            phase.held_out[update] = values
        else:
            phase.training[update] = values
            if not self._has_trained:
                phase.starts.append(update)
            self._has_trained = True
        if not is_held_out or not phase.training:
            phase.settings = dict(self.settings)
        # An evaluation alone, of an update that was trained before, changes nothing.
        if self._has_trained:
            phase.clock[update] = self.seconds + self._last_time - self._first_time

    def _keep_time(self, event: dict) -> None:
        try:
            self._last_time = float(event["timestamp"])
            self.last_line = datetime.datetime.fromtimestamp(self._last_time)
        except (KeyError, TypeError, ValueError, OverflowError, OSError):
            return
        self._first_time = self._first_time or self._last_time
