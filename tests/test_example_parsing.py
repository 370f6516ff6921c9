"""Examples read as TensorFlow reads them, whatever wrote them, and nothing else is taken for one."""

import itertools

import numpy as np
import pytest
from shard_folders import serialized

from example_parsing import example_length, parse_examples
from tfrecords import FEATURES

LENGTH = 8
# Numbers of one to five bytes in a varint, and one of ten.
VALUES = [0, 1, 127, 128, 16383, 16384, 2**21, 2**28, 2**31 - 1, -1, -(2**31)]


@pytest.fixture(scope="module")
def tf():
    return pytest.importorskip("tensorflow")


def tensorflow_example(tf, lists: dict, **others) -> bytes:
    """A tf.train.Example as TensorFlow writes it: integers by name, and further features."""
    integers = {name: tf.train.Feature(int64_list={"value": values}) for name, values in lists.items()}
    return tf.train.Example(features={"feature": integers | others}).SerializeToString()


def random_lists(random: np.random.RandomState, length: int = LENGTH) -> dict[str, list[int]]:
    return {name: random.choice(VALUES, length).tolist() for name in FEATURES}


def tensorflows(tf, payloads: list[bytes], length: int = LENGTH) -> dict[str, np.ndarray] | None:
    """What TensorFlow reads, int64; None where it refuses."""
    schema = {name: tf.io.FixedLenFeature([length], tf.int64) for name in FEATURES}
    try:
        return {name: values.numpy() for name, values in tf.io.parse_example(payloads, schema).items()}
    except tf.errors.InvalidArgumentError:
        return None


def test_numbers_of_every_size_are_tensorflows(tf):
    random = np.random.RandomState(0)
    payloads = [tensorflow_example(tf, random_lists(random)) for _ in range(200)]
    expected, parsed = tensorflows(tf, payloads), parse_examples(payloads, LENGTH)
    for name in FEATURES:
        assert parsed[name].dtype == np.int32 and np.array_equal(parsed[name], expected[name])
    assert set(VALUES) <= set(parsed["input_ids"].flat)


def test_our_own_examples_are_as_they_were_written():
    examples = [([101, 7, 102], 3), ([101, 300, 102, 20000, 102], 3), ([101, *range(200, 206), 102], 8)]
    parsed = parse_examples([serialized(ids, first, LENGTH) for ids, first in examples], LENGTH)
    assert parsed["input_ids"].tolist() == [
        [101, 7, 102, 0, 0, 0, 0, 0],
        [101, 300, 102, 20000, 102, 0, 0, 0],
        [101, 200, 201, 202, 203, 204, 205, 102],
    ]
    assert parsed["input_mask"].sum(axis=1).tolist() == [3, 5, 8]
    assert parsed["segment_ids"].tolist() == [[0] * 8, [0, 0, 0, 1, 1, 0, 0, 0], [0] * 8]
    assert parse_examples([], LENGTH)["input_ids"].shape == (0, LENGTH)


def test_features_of_other_names_and_kinds_are_passed_over(tf):
    lists = random_lists(np.random.RandomState(1))
    others = {
        "a": tf.train.Feature(bytes_list={"value": [b"text"]}),
        "z": tf.train.Feature(float_list={"value": [1.0, 2.0]}),
        "next_sentence_labels": tf.train.Feature(int64_list={"value": [1]}),
    }
    parsed = parse_examples([tensorflow_example(tf, lists, **others)], LENGTH)
    assert {name: values[0].tolist() for name, values in parsed.items()} == lists


def test_integers_under_a_tag_each_and_unknown_fields_are_read(tf):
    """As protocol buffers of version 2 wrote them; 0x08 is the tag of a single one. Fields 15 are unknown."""

    def field(number: int, content: bytes) -> bytes:
        """A field of bytes; its length is less than 2**14 and takes two bytes."""
        return bytes([number << 3 | 2, len(content) & 0x7F | 0x80, len(content) >> 7]) + content

    unknown = b"\x79" + bytes(8) + b"\x7d" + bytes(4) + b"\x78\x96\x01"
    content = b""
    for name in FEATURES:
        feature = field(3, b"\x08\x05\x08\xac\x02" + unknown + b"\x08\x00")
        content += field(1, field(2, feature) + field(1, name.encode())) + unknown
    payload = field(1, content) + unknown
    parsed = parse_examples([payload], 3)
    assert all(values.tolist() == [[5, 300, 0]] for values in parsed.values())
    features = tf.train.Example.FromString(payload).features.feature
    assert all(list(features[name].int64_list.value) == [5, 300, 0] for name in FEATURES)


def test_examples_as_long_as_each_other_but_otherwise_laid_out_are_read(tf):
    """The features in any order, and one name for another of its length."""

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    def entry(name: str, values: list[int]) -> bytes:
        return field(1, field(1, name.encode()) + field(2, field(3, field(1, bytes(values)))))

    entries = {name: entry(name, [number] * 3 + [9, 9]) for number, name in enumerate(FEATURES)}
    payloads = [field(1, b"".join(order)) for order in itertools.permutations(entries.values())]
    other_name = [payload.replace(b"input_ids", b"other_ids") for payload in payloads]
    assert len({len(payload) for payload in payloads + other_name}) == 1
    parsed, expected = parse_examples(2 * payloads, 5), tensorflows(tf, 2 * payloads, 5)
    for number, name in enumerate(FEATURES):
        assert np.array_equal(parsed[name], expected[name])
        assert (parsed[name][:, :3] == number).all()
    for payload, other in zip(payloads, other_name, strict=True):
        assert example_length(payload) == 5 and example_length(other) is None
        assert example_length(payload) == 5


def test_example_of_another_form_is_named(tf):
    payload = tensorflow_example(tf, dict.fromkeys(FEATURES, [1] * LENGTH))
    with pytest.raises(ValueError, match=r"^it has 8 input_ids, not 9$"):
        parse_examples([payload], 9)
    longer, shorter = (tensorflow_example(tf, dict.fromkeys(FEATURES, [1] * length)) for length in (9, 7))
    with pytest.raises(ValueError, match=r"^it has 9 input_ids, not 8$"):
        parse_examples([longer, shorter], LENGTH)
    with pytest.raises(ValueError, match=r"^it has 0 segment_ids, not 8$"):
        parse_examples([tensorflow_example(tf, {"input_ids": [1] * 8, "input_mask": [1] * 8})], LENGTH)
    with pytest.raises(ValueError, match=r"^its input_ids do not fit into 32 bits$"):
        parse_examples([tensorflow_example(tf, dict.fromkeys(FEATURES, [2**31] * 8))], LENGTH)
    with pytest.raises(ValueError, match=r"^it has 0 input_ids, not 8$"):
        floats = {"input_ids": tf.train.Feature(float_list={"value": [1.0] * 8})}
        parse_examples([tensorflow_example(tf, {}, **floats)], LENGTH)
    for content in (b"no example", b"\xff" * 20, b"\x0a\x7f"):
        with pytest.raises(ValueError, match=r"^it is no tf\.train\.Example$"):
            parse_examples([payload, content], LENGTH)


def test_length_of_an_example(tf):
    assert example_length(tensorflow_example(tf, {"input_ids": [1, 300, -1]})) == 3
    assert example_length(b"no example") is None
    assert example_length(tensorflow_example(tf, {})) is None
    assert example_length(b"") is None


def test_no_cut_example_is_one():
    """Its outermost length covers all of it, so that any shorter piece is broken."""
    payload = serialized([101, 300, 102, 20000, 102], 3, LENGTH)
    for size in range(1, len(payload)):
        with pytest.raises(ValueError, match=r"no tf\.train\.Example"):
            parse_examples([payload[:size]], LENGTH)


def test_flipped_bits_give_an_error_or_what_tensorflow_reads(tf):
    payload = serialized([101, 300, 102, 20000, 102], 3, LENGTH)
    refused = 0
    for bit in range(8 * len(payload)):
        # The sound one before each, whose layout the next of its length is first compared with.
        parse_examples([payload], LENGTH)
        content = bytearray(payload)
        content[bit // 8] ^= 1 << bit % 8
        try:
            parsed = parse_examples([bytes(content)], LENGTH)
        except ValueError:
            refused += 1
            continue
        expected = tensorflows(tf, [bytes(content)])
        assert expected is not None, f"bit {bit} is refused by TensorFlow"
        assert all(np.array_equal(parsed[name], expected[name]) for name in FEATURES), bit
    assert refused > 4 * len(payload)
