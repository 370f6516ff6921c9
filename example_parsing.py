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


def _integer_lists(payload: bytes) -> dict[bytes, bytes]:
    """The varints of each feature that holds integers, joined; of a name that stands twice the last.

    Raises:
        ValueError: the payload is no such message.
    """
    try:
        return dict(
            _map_entry(entry)
            for tag, features in _fields(payload)
            if tag == _CONTENT[1]
            for tag, entry in _fields(features)
            if tag == _CONTENT[1]
        )
    except IndexError:
        raise ValueError(_NO_EXAMPLE) from None


def _map_entry(entry: bytes) -> tuple[bytes, bytes]:
    """Name and varints of a feature; those of one that holds something else than integers are none."""
    name = varints = b""
    for tag, content in _fields(entry):
        if tag == _CONTENT[1]:
            name = content
        elif tag == _CONTENT[2]:
            for kind, integers in _fields(content):
                if kind == _CONTENT[3]:
                    # Packed together, or, by old writers, each under a tag of its own.
                    values = [value for tag, value in _fields(integers) if tag in (_CONTENT[1], _INTEGER_1)]
                    varints = b"".join(values)
    return name, varints


def _fields(message: bytes) -> list[tuple[int, bytes]]:
    """Tag and content of each field of a message.

    Raises:
        ValueError, IndexError: the bytes are no fields, or a field reaches past the end.
    """
    fields = []
    place, end = 0, len(message)
    while place < end:
        tag, start = _read_varint(message, place)
        wire_type = tag & 7
        if wire_type == 2:
            length, start = _read_varint(message, start)
            place = start + length
        elif wire_type == 0:
            _, place = _read_varint(message, start)
        elif wire_type == 1:
            place = start + 8
        elif wire_type == 5:
            place = start + 4
        else:
            raise ValueError(_NO_EXAMPLE)
        fields.append((tag, message[start:place]))
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
