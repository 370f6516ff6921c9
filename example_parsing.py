"""tf.train.Examples -> arrays, out of protocol buffers' wire format and without TensorFlow.

Google's, NVIDIA's and our own shards hold these messages (tensorflow/core/example/{example,feature}.proto):

    Example { Features features = 1 }
    Features { map<string, Feature> feature = 1 }
    Feature { oneof { BytesList = 1, FloatList = 2, Int64List = 3 } }
    Int64List { repeated int64 value = 1 }

A walk in Python finds the bytes of each feature; NumPy decodes those of a whole batch at once. Writing and
framing are tfrecords.py's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfrecords import FEATURES

# Tags: the field's number and its wire type, 2 for messages and bytes, 0 for a single integer.
_CONTENT = {number: number << 3 | 2 for number in (1, 2, 3)}
_INTEGER_1 = 1 << 3 | 0
_LONGEST_VARINT = 10
_NO_EXAMPLE = "it is no tf.train.Example"


def parse_examples(payloads: Sequence[bytes], max_seq_length: int) -> dict[str, np.ndarray]:
    """Decode tf.train.Examples: int32 arrays [len(payloads), max_seq_length] by feature name.

    Features of other names are passed over.

    Raises:
        ValueError: a payload that is no example, or none of that length.
    """
    lists = [_integer_lists(payload) for payload in payloads]
    return {
        name: _decode(name, [found.get(name.encode(), b"") for found in lists], max_seq_length)
        for name in FEATURES
    }


def example_length(payload: bytes) -> int | None:
    """Number of input_ids in an example, None where it has none."""
    try:
        varints = _integer_lists(payload).get(b"input_ids", b"")
    except ValueError:
        return None
    return _count_varints(varints) or None


@dataclass(frozen=True)
class _Layout:
    """Where the integers of an example's features lie, and the bytes around them.

    The walk that finds the features reads the bytes around the integers alone. So an example that is as long
    as another and equal to it there has its features where that one has them.

    Attributes:
        places: start and end of each feature's integers, by name.
        around: what stands elsewhere, with its start.
    """

    places: tuple[tuple[bytes, int, int], ...]
    around: tuple[tuple[int, bytes], ...]

    def is_of(self, payload: bytes) -> bool:
        """Whether an example as long as the one that this was taken from has this layout."""
        return all(payload.startswith(content, start) for start, content in self.around)


# The last layout of each length: the examples of one writer that are of one length share one.
_LAYOUTS: dict[int, _Layout] = {}
_MOST_LAYOUTS = 4096
# Others have content there that is no name, and differ in it anyway.
_MOST_BYTES_AROUND = 1024


def _integer_lists(payload: bytes) -> dict[bytes, bytes]:
    """The varints of each feature that holds integers, joined; of a name that stands twice the last.

    Raises:
        ValueError: the payload is no such message.
    """
    layout = _LAYOUTS.get(len(payload))
    if layout is not None and layout.is_of(payload):
        return {name: payload[start:end] for name, start, end in layout.places}
    try:
        pieces = dict(
            _map_entry(payload, *entry)
            for tag, *features in _fields(payload, 0, len(payload))
            if tag == _CONTENT[1]
            for tag, *entry in _fields(payload, *features)
            if tag == _CONTENT[1]
        )
    except IndexError:
        raise ValueError(_NO_EXAMPLE) from None
    _remember_layout(payload, pieces)
    return {name: b"".join(payload[start:end] for start, end in of_name) for name, of_name in pieces.items()}


def _remember_layout(payload: bytes, pieces: dict[bytes, list[tuple[int, int]]]) -> None:
    if any(len(of_name) != 1 for of_name in pieces.values()):
        return
    places = sorted((start, end, name) for name, ((start, end),) in pieces.items())
    if len(payload) - sum(end - start for start, end, _ in places) > _MOST_BYTES_AROUND:
        return
    borders = [0, *(border for start, end, _ in places for border in (start, end)), len(payload)]
    around = tuple(
        (start, payload[start:end]) for start, end in zip(borders[::2], borders[1::2], strict=True)
    )
    if len(_LAYOUTS) >= _MOST_LAYOUTS:
        _LAYOUTS.clear()
    _LAYOUTS[len(payload)] = _Layout(tuple((name, start, end) for start, end, name in places), around)


def _map_entry(payload: bytes, start: int, end: int) -> tuple[bytes, list[tuple[int, int]]]:
    """Name of a feature, start and end of its varints' pieces; none where it holds no integers."""
    name, pieces = b"", []
    for tag, *place in _fields(payload, start, end):
        if tag == _CONTENT[1]:
            name = payload[slice(*place)]
        elif tag == _CONTENT[2]:
            for kind, *integers in _fields(payload, *place):
                if kind == _CONTENT[3]:
                    # Packed together, or, by old writers, each under a tag of its own.
                    pieces = [
                        (first, last)
                        for tag, first, last in _fields(payload, *integers)
                        if tag in (_CONTENT[1], _INTEGER_1)
                    ]
    return name, pieces


def _fields(payload: bytes, start: int, end: int) -> list[tuple[int, int, int]]:
    """Tag of each field of the message between two places, and start and end of its content.

    Raises:
        ValueError, IndexError: the bytes are no fields, or a field reaches past the end.
    """
    fields = []
    place = start
    while place < end:
        tag, start = _read_varint(payload, place)
        wire_type = tag & 7
        if wire_type == 2:
            length, start = _read_varint(payload, start)
            place = start + length
        elif wire_type == 0:
            _, place = _read_varint(payload, start)
        elif wire_type == 1:
            place = start + 8
        elif wire_type == 5:
            place = start + 4
        else:
            raise ValueError(_NO_EXAMPLE)
        fields.append((tag, start, place))
    if place != end:
        raise ValueError(_NO_EXAMPLE)
    return fields


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    """The number that begins at a place, and the place behind it."""
    value = message[place]
    if value < 0x80:
        return value, place + 1
    value, shift = value & 0x7F, 7
    while shift < 7 * _LONGEST_VARINT:
        place += 1
        byte = message[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
        shift += 7
    raise ValueError(_NO_EXAMPLE)


def _is_last_byte(content: np.ndarray) -> np.ndarray:
    """Which bytes end a varint: those without the highest bit."""
    return content < 0x80


def _count_varints(varints: bytes) -> int:
    return int(_is_last_byte(np.frombuffer(varints, np.uint8)).sum())


def _decode(name: str, lists: Sequence[bytes], max_seq_length: int) -> np.ndarray:
    """Joined varints of each example -> int32 [len(lists), max_seq_length]."""
    content = np.frombuffer(b"".join(lists), np.uint8)
    ends = np.flatnonzero(_is_last_byte(content))
    borders = np.cumsum([len(varints) for varints in lists], dtype=np.int64)
    if not np.array_equal(ends[max_seq_length - 1 :: max_seq_length] + 1, borders):
        counts = [_count_varints(varints) for varints in lists]
        wrong = next((count for count in counts if count != max_seq_length), None)
        raise ValueError(_NO_EXAMPLE if wrong is None else f"it has {wrong} {name}, not {max_seq_length}")
    if len(ends) == len(content):
        return content.astype(np.int32).reshape(len(lists), max_seq_length)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends + 1 - starts
    longest = int(lengths.max())
    if longest > _LONGEST_VARINT:
        raise ValueError(_NO_EXAMPLE)
    values = (content[starts] & 0x7F).astype(np.uint64 if longest > 4 else np.int32)
    for number in range(1, longest):
        rows = np.flatnonzero(lengths > number)
        part = (content[starts[rows] + number] & 0x7F).astype(values.dtype)
        values[rows] |= part << values.dtype.type(7 * number)
    if longest > 4:
        values = values.view(np.int64)
        if np.any(values != values.astype(np.int32)):
            raise ValueError(f"its {name} do not fit into 32 bits")
    return values.astype(np.int32).reshape(len(lists), max_seq_length)
