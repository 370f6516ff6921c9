"""What a run says: DLLogger lines, TensorBoard scalars, the progress bar, throughput and time left.

The DLLogger file has NVIDIA's format and keys, so that readers of its logs need no change; the library
itself is not on the package index. Lines are appended, never truncated: a resumed run goes on in its file.
"""

import datetime
import gzip
import json
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from command_line import UsageError

# Units that NVIDIA's programs declare, and ours in the same manner.
UNITS = {
    "training_sequences_per_second": "sequences/s",
    "final_loss": None,
    "e2e_train_time": "s",
    "train_perf": "sequences/s",
    "tokens_per_second": "tokens/s",
    "import_seconds": "s",
    "trace_seconds": "s",
    "first_update_seconds": "s",
}
SQUAD_UNITS = UNITS | {
    "exact_match": None,
    "F1": None,
    "inference_sequences_per_second": "sequences/s",
    "e2e_inference_time": "s",
}
GLUE_UNITS = UNITS | {
    "step_accuracy": None,
    "inference_sequences_per_second": "sequences/s",
    "e2e_inference_time": "s",
}


class DllLog:
    """Writes events as DLLogger does: `DLLL {json}` lines to a file, `DLL …` lines to redirected output."""

    def __init__(self, path: str | Path, units: Mapping[str, str | None] = UNITS):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._units = units
        self._stream = open(path, "a", encoding="utf-8")  # noqa: SIM115 (open as long as the run)
        self._start = time.time()

    def declare_units(self) -> None:
        """Say the unit of each metric that has one in NVIDIA's logs."""
        for name, unit in self._units.items():
            self.metadata(name, {"unit": unit})

    def metadata(self, metric: str, metadata: Mapping) -> None:
        """Declare a metric, its unit for one."""
        self._write({"type": "METADATA", "metric": metric, "metadata": dict(metadata)})

    def parameter(self, data: Mapping) -> None:
        """Record settings and versions, in the file alone."""
        self._write({"type": "LOG", "step": "PARAMETER", "data": dict(data)})

    def log(self, step: tuple[int, ...], data: Mapping) -> None:
        """Record values of a step, (update,) or (epoch, update), or () for a summary."""
        self._write({"type": "LOG", "step": list(step), "data": dict(data)})
        # A person at a terminal has the progress bar and the program's own lines.
        if not sys.stdout.isatty():
            values = " ".join(self._shown(name, value) for name, value in data.items())
            print(f"DLL {datetime.datetime.now()} - {_step_text(step)} {values}", flush=True)

    def close(self) -> None:
        self._stream.close()

    def _shown(self, name: str, value: object) -> str:
        value = f"{value:.6g}" if isinstance(value, float) else value
        return f"{name} : {value} {self._units.get(name) or ''}".rstrip()

    def _write(self, event: dict) -> None:
        now = time.time()
        stamps = {
            "timestamp": str(now),
            "datetime": str(datetime.datetime.fromtimestamp(now)),
            "elapsedtime": str(now - self._start),
        }
        self._stream.write("DLLL " + json.dumps(stamps | event) + "\n")
        self._stream.flush()


class TensorBoardLog:
    """Scalars in <log_dir>/<time>/train_<rank>_of_<world>, NVIDIA's place; nowhere without a log_dir."""

    def __init__(self, log_dir: str | Path | None, rank: int, size: int):
        import tensorflow as tf

        self._tf = tf
        if log_dir is None:
            self._writer = tf.summary.create_noop_writer()
            return
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        self._writer = tf.summary.create_file_writer(str(Path(log_dir) / stamp / f"train_{rank}_of_{size}"))

    def log(self, step: int, data: Mapping[str, float]) -> None:
        with self._writer.as_default(step=step):
            for name, value in data.items():
                self._tf.summary.scalar(name, value)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Meter:
    """Throughput of whole updates, data included, and the time left.

    The first update since the start traces and compiles and is left out of every rate. Evaluations and
    checkpoints are not training and are left out of the throughput, but count for the time left.
    """

    def __init__(self, remaining_updates: int):
        self._remaining = remaining_updates
        self._window = _Rates()
        self._total = _Rates()
        self._after_first = None

    def update_done(self, seconds: float, waited: float, sequences: int, tokens: int, flops: int = 0) -> None:
        """Count an update that took `seconds`, `waited` of them for its data; 0 FLOPs are not known ones."""
        self._remaining -= 1
        if self._after_first is None:
            self._after_first = time.monotonic()
            return
        for rates in (self._window, self._total):
            rates.add(seconds, waited, sequences, tokens, flops)

    def window(self) -> dict[str, float]:
        """Rates since the last call; empty when no update was timed since.

        "flops_per_second" is among them where the updates' FLOPs are known.
        """
        rates, self._window = self._window, _Rates()
        if not rates.updates:
            return {}
        known = {"flops_per_second": rates.flops / rates.seconds} if rates.flops else {}
        return known | {
            "train_perf": rates.sequences / rates.seconds,
            "tokens_per_second": rates.tokens / rates.seconds,
            "data_wait": rates.waited / rates.seconds,
        }

    def sequences_per_second(self) -> float:
        """Over all timed updates since the start; 0 without any."""
        return self._total.sequences / self._total.seconds if self._total.updates else 0.0

    def seconds_left(self) -> float | None:
        """Until the last update, at the pace since the first one; None before there is a pace."""
        if not self._total.updates:
            return None
        pace = (time.monotonic() - self._after_first) / self._total.updates
        return pace * self._remaining


class _Rates:
    def __init__(self):
        self.updates = self.sequences = self.tokens = self.flops = 0
        self.seconds = self.waited = 0.0

    def add(self, seconds: float, waited: float, sequences: int, tokens: int, flops: int) -> None:
        self.updates += 1
        self.seconds += seconds
        self.waited += waited
        self.sequences += sequences
        self.tokens += tokens
        self.flops += flops


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds as people write them; a question mark for an unknown time."""
    return "?" if seconds is None else str(datetime.timedelta(seconds=round(seconds)))


def read_dll_log(path: str | Path) -> list[dict]:
    """The events of a DLLogger file, in order; a line cut off by a kill is left out.

    One that ends in .gz is read as such, as far as it goes where it is cut off.

    Raises:
        UsageError: it ends in .gz and is none, or a damaged one.
    """
    events = []
    for line in _lines(Path(path)):
        if line.startswith("DLLL "):
            try:
                event = json.loads(line.removeprefix("DLLL "))
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict):
                events.append(event)
    return events


def _lines(path: Path) -> Iterator[str]:
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8", errors="replace") as stream:
            yield from stream
    except EOFError:
        # Cut off, as by a copy that a kill ended: what follows the last whole line is left out too.
        return
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UsageError(f"{path}: is no whole gzip file ({error})") from None


def _step_text(step: tuple[int, ...]) -> str:
    titles = ("Training Epoch", "Training Iteration")[-len(step) :] if step else ()
    return " ".join(f"{title}: {number}" for title, number in zip(titles, step, strict=True))
