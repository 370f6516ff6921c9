"""Where the time of a profiled step went: TensorFlow's trace (xplane.pb) -> seconds by part of the model.

An operation belongs to the part that its name in the graph tells: what is under gradient_tape/pretraining/
electra/layer_0/attention is attention, backward. Each moment of a step is divided among the threads that are
computing an operation, so the parts add up to the step, however much runs side by side.
"""

import dataclasses
import importlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from command_line import RunFailure

# The part of an operation is the first here that has a scope of its name. `output` and `dense` tell nothing;
# what stands above them does.
PARTS = (
    ("optimizer", ("optimizer",)),
    ("generator", ("generator",)),
    ("masked-LM head", ("generator_predictions",)),
    ("discriminator head", ("discriminator_predictions",)),
    ("sampling", ("sampling",)),
    ("losses", ("losses",)),
    ("metrics", ("metrics",)),
    ("dropout", ("dropout",)),
    ("LayerNorm", ("LayerNorm", "layer_norm")),
    ("embeddings", ("embeddings", "embeddings_project")),
    ("attention", ("attention",)),
    ("feed-forward", ("feed_forward",)),
    ("gradients added up", ("gradients",)),
)
INPUT, OTHER, BETWEEN = "input", "other operations", "between operations"
# In the order of the table.
ROWS = (
    INPUT,
    "embeddings",
    "attention",
    "feed-forward",
    "LayerNorm",
    "dropout",
    "discriminator head",
    "generator",
    "masked-LM head",
    "sampling",
    "losses",
    "metrics",
    "gradients added up",
    "optimizer",
    OTHER,
    BETWEEN,
)
STEP_NAME = "profiled step"
# What Python does to hand arrays to the step, in the profiler's names.
_INPUT_EVENTS = ("tf.constant", "EagerCopyToDevice")
_CALL_OF_FUNCTION = "ExecutorState::ProcessAsync::Start"
_OPERATION = re.compile(r"(?P<name>[^\s:]+):(?P<kind>\w+)")
_XPLANE_MODULES = (
    "tensorflow.tsl.profiler.protobuf.xplane_pb2",
    "tensorflow.core.profiler.protobuf.xplane_pb2",
)


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that a thread did, from `start` to `end`, both in picoseconds."""

    name: str
    thread: int
    start: int
    end: int


@dataclasses.dataclass
class PartTime:
    """Of one part: its share of the steps' picoseconds, and operations that were run."""

    picoseconds: float = 0.0
    operations: int = 0


# ------------------------------------------------------------------------------------------------ the trace


def read_events(folder: Path) -> list[Event]:
    """The events on the host in the newest trace below a folder.

    Raises:
        RunFailure: there is none, or this TensorFlow does not read its own.
    """
    traces = sorted(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not traces:
        raise RunFailure(f"{folder}: TensorFlow's profiler wrote no trace")
    space = _trace_class()()
    space.ParseFromString(traces[-1].read_bytes())
    return [
        Event(
            _name_of(event, plane),
            line.id,
            line.timestamp_ns * 1000 + event.offset_ps,
            line.timestamp_ns * 1000 + event.offset_ps + event.duration_ps,
        )
        for plane in space.planes
        if plane.name.startswith("/host:CPU")
        for line in plane.lines
        for event in line.events
    ]


def _name_of(event, plane) -> str:
    """An event's name; name and kind of an operation that the executor calls as a function, as chains are."""
    name = plane.event_metadata[event.metadata_id].name
    if name != _CALL_OF_FUNCTION:
        return name
    texts = {}
    for stat in event.stats:
        text = plane.stat_metadata[stat.ref_value].name if stat.ref_value else stat.str_value
        texts[plane.stat_metadata[stat.metadata_id].name] = text
    return f"{texts.get('name', '')}:{texts.get('kernel_type', '')}"


def _trace_class() -> type:
    for name in _XPLANE_MODULES:
        try:
            return importlib.import_module(name).XSpace
        except (ImportError, AttributeError):
            continue
    raise RunFailure("this TensorFlow brings no reader of its traces (xplane_pb2)")


# -------------------------------------------------------------------------------------------------- parts


def part_of(name: str) -> str | None:
    """The part that an event belongs to; None for what is no operation (the executor's own events)."""
    if name in _INPUT_EVENTS:
        return INPUT
    match = _OPERATION.fullmatch(name)
    if match is None:
        return None
    # Scopes that are entered again get a number.
    scopes = {re.sub(r"(_\d+)+$", "", scope) for scope in match["name"].split("/")}
    for part, of_part in PARTS:
        if not scopes.isdisjoint(of_part):
            return part
    return "dropout" if match["kind"].startswith("StatelessRandom") else OTHER


def times_by_part(events: Iterable[Event]) -> tuple[dict[str, PartTime], list[int]]:
    """What each part took in all profiled steps together, and the picoseconds of each step.

    At a moment when k threads compute, each one's operation gets a k-th of it; when none does it is time
    between operations. Of operations within each other the inner one counts.
    """
    return _times(events, part_of, ROWS)


def times_of_products(events: Iterable[Event]) -> PartTime:
    """What matrix products took in all profiled steps together, counted in the same way."""

    def kind_of(name: str) -> str | None:
        match = _OPERATION.fullmatch(name)
        return None if part_of(name) is None else "products" if match and "MatMul" in match["kind"] else OTHER

    return _times(events, kind_of, ("products", OTHER, BETWEEN))[0]["products"]


def _times(
    events: Iterable[Event], row_of: Callable[[str], str | None], rows: Iterable[str]
) -> tuple[dict[str, PartTime], list[int]]:
    events = list(events)
    steps = sorted((event.start, event.end) for event in events if event.name == STEP_NAME)
    by_thread = defaultdict(list)
    for event in events:
        row = row_of(event.name)
        if row is not None:
            by_thread[event.thread].append((event.start, event.end, row))
    times = {row: PartTime() for row in rows}
    edges = []
    for of_thread in by_thread.values():
        for start, _, row in of_thread:
            times[row].operations += any(first <= start < last for first, last in steps)
        for start, end, row in _innermost(of_thread):
            for first, last in steps:
                if max(start, first) < min(end, last):
                    edges += [(max(start, first), 1, row), (min(end, last), -1, row)]
    edges += [(moment, 0, "") for step in steps for moment in step]
    _share_out(sorted(edges), steps, times)
    return times, [end - start for start, end in steps]


def _innermost(events: list[tuple[int, int, str]]) -> Iterator[tuple[int, int, str]]:
    """The pieces of one thread's time, by the innermost of the events that hold them."""
    open_events: list[tuple[int, int, str]] = []
    moment = 0
    for event in [*sorted(events, key=lambda event: (event[0], -event[1])), (float("inf"), 0, "")]:
        while open_events and open_events[-1][1] <= event[0]:
            _, end, part = open_events.pop()
            if moment < end:
                yield moment, end, part
            moment = max(moment, end)
        if open_events and moment < event[0]:
            yield moment, event[0], open_events[-1][2]
        moment = max(moment, event[0])
        open_events.append(event)


def _share_out(edges: list[tuple], steps: list[tuple[int, int]], times: dict[str, PartTime]) -> None:
    """Walk over all starts and ends, and divide what lies between two of them within a step."""
    computing: dict[str, int] = defaultdict(int)
    steps = list(reversed(steps))
    before = 0
    for moment, change, part in edges:
        while steps and steps[-1][1] <= before:
            steps.pop()
        if steps and steps[-1][0] <= before < moment:
            threads = sum(computing.values())
            for name, count in computing.items() if threads else [(BETWEEN, 1)]:
                times[name].picoseconds += (moment - before) * count / max(threads, 1)
        before = moment
        if change:
            computing[part] += change


# -------------------------------------------------------------------------------------------------- table


def table(times: dict[str, PartTime], steps: list[int]) -> str:
    """Milliseconds, share and operations of each part, of one step on the average."""
    rows = [*times.items(), ("step", _sum(times.values()))]
    lines = [f"{'part':22} {'ms':>10} {'share':>8} {'operations':>11}"]
    for row, time in rows:
        milliseconds, share = time.picoseconds / len(steps) / 1e9, time.picoseconds / sum(steps)
        count = "-" if row == BETWEEN else f"{time.operations / len(steps):.0f}"
        lines.append(f"{row:22} {milliseconds:10.3f} {share:8.1%} {count:>11}")
    return "\n".join(lines)


def _sum(times: Iterable[PartTime]) -> PartTime:
    times = list(times)
    return PartTime(sum(time.picoseconds for time in times), sum(time.operations for time in times))
