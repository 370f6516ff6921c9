"""Packed sequences train what the same examples train unpacked: every example once, none sees another."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from electra_cases import NO_DROPOUT, normalizers, tiny_config
from shard_folders import serialized, write_shard

import tfrecords
from batching import BatchShape, ExampleOrder
from example_lengths import example_lengths
from masking import MaskingRule
from packed_data import PackedData, pack_batch
from packing import PackedOrder, most_examples, pack, picks_in_row
from pretraining_data import PretrainingData
from tfrecords import CorruptShard, Shards, lengths_path
from tokenization import SPECIAL_PIECES, Vocabulary
from workers import ALONE, Workers

LENGTH = 32
VOCABULARY = Vocabulary((*SPECIAL_PIECES, *(f"w{number}" for number in range(200))))
CLS, SEP = VOCABULARY.cls_id, VOCABULARY.sep_id
RULE = MaskingRule.of(VOCABULARY, 0.15, 4)
EXAMPLES = 300


def mixed_lengths(count: int, room: int, seed: int = 0) -> np.ndarray:
    """Half of the examples full, as many texts are cut to be; a third headings, the rest left over."""
    random = np.random.RandomState(seed)
    kinds = random.uniform(size=count)
    headings = random.randint(3, max(4, room // 5), count)
    rests = random.randint(3, room + 1, count)
    return np.where(kinds < 0.5, room, np.where(kinds < 0.83, headings, rests))


def write_examples(path, lengths, seed: int = 0) -> None:
    """A shard of random examples of so many tokens."""
    random = np.random.RandomState(seed)
    payloads = []
    for length in map(int, lengths):
        words = random.randint(len(SPECIAL_PIECES), VOCABULARY.size, length - 2)
        ids = [CLS, *words.tolist(), SEP]
        if length > 6:
            ids[length // 2] = SEP
        payloads.append(serialized(ids, length // 2 + 1 if length > 6 else length, LENGTH))
    write_shard(path, payloads)


@pytest.fixture
def shards(tmp_path) -> Shards:
    """300 examples of mixed lengths in two shards."""
    lengths = mixed_lengths(EXAMPLES, LENGTH)
    paths = [tmp_path / f"pretrain_data.tfrecord-{number}-of-2" for number in range(2)]
    for number, path in enumerate(paths):
        write_examples(path, lengths[number * 120 : 120 + number * 180], seed=number)
    return Shards([str(path) for path in paths], flag="pretrain_tfrecords")


def lengths_of(shards: Shards) -> np.ndarray:
    return example_lengths(shards, LENGTH, VOCABULARY.size, ALONE)


SETTINGS = {"max_seq_length": LENGTH, "vocabulary_size": VOCABULARY.size}


def packed_data(shards: Shards, seed=3, skipped=(), **shape) -> PackedData:
    order = ExampleOrder(len(shards), seed)
    settings = SETTINGS | {"seed": seed, "skipped": list(skipped)}
    return PackedData(shards, order, BatchShape(**shape), RULE, lengths_of(shards), **settings)


def unpacked_data(shards: Shards, seed=3) -> PretrainingData:
    """Update p + 1 is the example at position p, by itself."""
    settings = SETTINGS | {"seed": seed, "skipped": []}
    return PretrainingData(shards, ExampleOrder(len(shards), seed), BatchShape(1, 1), RULE, **settings)


def joined(batches) -> dict[str, np.ndarray]:
    batches = list(batches)
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


# ------------------------------------------------------------------------------------------------ which rows


def test_best_fit_decreasing_by_hand():
    """6 and 5 open rows of 10; 4 fills the first one up; 3 and then 2 go into the second."""
    rows = pack(np.array([2, 5, 3, 6, 4]), 10, most=16)
    assert rows[3] == rows[4] and rows[0] == rows[1] == rows[2] != rows[3]
    assert sorted(set(rows.tolist())) == [0, 1]


def test_a_row_has_no_more_examples_than_there_is_room_for_picks():
    rows = pack(np.full(40, 3), 128, most=16)
    # 42 would fit by their lengths.
    assert len(np.bincount(rows)) == 3 and np.bincount(rows).max() <= 16


@pytest.mark.parametrize("room", [128, 512])
def test_rows_of_a_realistic_mix_are_full_to_more_than_95_in_100(room):
    for seed in range(3):
        lengths = mixed_lengths(5000, room, seed)
        rows = pack(lengths, room, most_examples(room))
        filled = np.bincount(rows, weights=lengths)
        assert filled.max() <= room and np.bincount(rows).max() <= most_examples(room)
        assert np.array_equal(np.unique(rows), np.arange(len(filled)))
        assert filled.mean() >= 0.95 * room > lengths.mean() * 1.2


@pytest.mark.parametrize(("count", "window"), [(1, 64), (5, 64), (150, 32), (150, 1000)])
@pytest.mark.parametrize("seed", [0, 7])
def test_every_example_comes_once_an_epoch(count, window, seed):
    lengths = mixed_lengths(count, LENGTH, seed)
    order = ExampleOrder(count, seed)
    rows = PackedOrder(order, lengths, LENGTH, seed, window=window)
    positions, number = [], 0
    for epoch in range(3):
        seen = []
        while len(seen) < count:
            (row,) = rows([number])
            assert len(row) and lengths[order(row)].sum() <= LENGTH
            assert rows.examples_before(number) == epoch * count + len(seen)
            seen += row.tolist()
            number += 1
        assert sorted(seen) == list(range(epoch * count, (epoch + 1) * count))
        assert sorted(order(np.array(seen)).tolist()) == list(range(count))
        positions.append([position % count for position in seen])
    if count > 5:
        assert positions[0] != positions[1] != positions[2]


def test_a_row_is_a_function_of_seed_and_number():
    """Asked for at once or after all those before it, in any order; another seed has other rows."""
    lengths = mixed_lengths(EXAMPLES, LENGTH)

    def rows(seed):
        return PackedOrder(ExampleOrder(EXAMPLES, seed), lengths, LENGTH, seed, window=64)

    through = rows(3)
    passed = [row.tolist() for row in through(range(700))]
    for number in (699, 0, 350):
        assert rows(3)([number])[0].tolist() == passed[number]
    # Windows that are long forgotten.
    assert [row.tolist() for row in through(range(5))] == passed[:5]
    assert [row.tolist() for row in rows(4)(range(700))] != passed


def test_rows_of_a_window_come_in_no_order_of_length():
    """Packing leaves the fullest rows and the longest examples first; a run must not see them so."""
    lengths = mixed_lengths(2000, LENGTH)
    order = ExampleOrder(2000, 0)
    rows = PackedOrder(order, lengths, LENGTH, 0)
    count = round(2000 / rows.examples_per_row())
    assert rows.examples_before(count) == 2000
    sizes = [len(row) for row in rows(range(count))]
    thirds = [np.mean(part) for part in np.array_split(sizes, 3)]
    # The standard error of a mean of 450 is a twentieth; full examples alone make a half of the rows.
    assert max(thirds) - min(thirds) < 0.4 and max(sizes) > 2


# -------------------------------------------------------------------------------------------- what is in them


def test_a_batch_is_laid_out_as_worked_out_by_hand():
    """Two rows from three examples; the last pick of the first row is the second example's."""
    masked = {
        "input_ids": np.array([[2, 9, 3, 0, 0, 0], [2, 8, 3, 7, 3, 0], [2, 5, 6, 3, 0, 0]]),
        "segment_ids": np.array([[0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0]]),
        "masked_input_ids": np.array([[2, 4, 3, 0, 0, 0], [2, 8, 3, 4, 3, 0], [2, 5, 6, 3, 0, 0]]),
        "masked_lm_positions": np.array([[1, 0], [3, 1], [2, 0]]),
        "masked_lm_weights": np.array([[1, 0], [1, 1], [1, 0]], np.float32),
        "masked_lm_is_mask": np.array([[1, 0], [1, 0], [0, 0]], np.float32),
        "sample_uniforms": np.array([[0.1, 0.9], [0.2, 0.3], [0.4, 0.9]], np.float32),
    }
    masked["input_mask"] = (np.arange(6) < np.array([[3], [5], [4]])).astype(np.int32)
    masked = {
        name: np.pad(values, [(0, 0), (0, 4)]) if values.shape[1] == 6 else values
        for name, values in masked.items()
    }
    packed = pack_batch(masked, [2, 1], 4)
    expected = {
        "input_ids": [[2, 9, 3, 2, 8, 3, 7, 3, 0, 0], [2, 5, 6, 3, 0, 0, 0, 0, 0, 0]],
        "input_mask": [[1] * 8 + [0] * 2, [1] * 4 + [0] * 6],
        "segment_ids": [[0] * 6 + [1, 1, 0, 0], [0] * 10],
        "masked_input_ids": [[2, 4, 3, 2, 8, 3, 4, 3, 0, 0], [2, 5, 6, 3, 0, 0, 0, 0, 0, 0]],
        "example_numbers": [[1] * 3 + [2] * 5 + [0] * 2, [1] * 4 + [0] * 6],
        "position_ids": [[0, 1, 2, 0, 1, 2, 3, 4, 0, 0], [0, 1, 2, 3, 0, 0, 0, 0, 0, 0]],
        "masked_lm_positions": [[1, 6, 4, 0], [2, 0, 0, 0]],
        # Where there is no pick the row's first token is written there again.
        "masked_lm_ids": [[9, 7, 8, 2], [6, 2, 2, 2]],
        "masked_lm_weights": [[1, 1, 1, 0], [1, 0, 0, 0]],
        "masked_lm_is_mask": [[1, 1, 0, 0], [0, 0, 0, 0]],
        "sample_uniforms": np.array([[0.1, 0.2, 0.3, 0], [0.4, 0, 0, 0]], np.float32),
    }
    assert packed.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(packed[name], values, err_msg=name)


def test_examples_are_masked_and_sampled_as_unpacked_training_would(shards):
    """Each example cut out of its row against the one-sequence update of its position; three epochs in."""
    data, unpacked = packed_data(shards, sequences=5, accumulation_steps=2), unpacked_data(shards)
    rows = PackedOrder(ExampleOrder(EXAMPLES, 3), lengths_of(shards), LENGTH, 3)
    for update in (1, 40, 77):
        packed = joined(data.update(update).micro_batches)
        places = rows(range(10 * (update - 1), 10 * update))
        for row, positions in enumerate(places):
            picks = 0
            for number, position in enumerate(positions, start=1):
                alone = {
                    name: values[0]
                    for name, values in unpacked.update(int(position) + 1).micro_batches[0].items()
                }
                inside = packed["example_numbers"][row] == number
                length = int(alone["input_mask"].sum())
                assert packed["position_ids"][row][inside].tolist() == list(range(length))
                for name in ("input_ids", "input_mask", "segment_ids", "masked_input_ids"):
                    assert np.array_equal(packed[name][row][inside], alone[name][:length]), name
                count = int(alone["masked_lm_weights"].sum())
                own = slice(picks, picks + count)
                begin = int(np.flatnonzero(inside)[0])
                assert np.array_equal(
                    packed["masked_lm_positions"][row][own] - begin, alone["masked_lm_positions"][:count]
                )
                names = ("masked_lm_ids", "masked_lm_weights", "masked_lm_is_mask", "sample_uniforms")
                for name in names:
                    assert np.array_equal(packed[name][row][own], alone[name][:count]), name
                picks += count
            assert packed["masked_lm_weights"][row].sum() == picks
            assert packed["input_mask"][row].sum() == (packed["example_numbers"][row] > 0).sum()


def test_micro_batches_and_one_two_or_four_workers_see_the_same_rows(shards):
    """8 rows an update: at once, as 2 x 4, and as 2 x 2 on 2 workers and 2 x 1 on 4."""
    whole = joined(packed_data(shards, sequences=8, accumulation_steps=1).update(9).micro_batches)
    for sequences, steps, count in ((4, 2, 1), (2, 2, 2), (1, 2, 4)):
        updates = [
            packed_data(
                shards, sequences=sequences, accumulation_steps=steps, workers=count, rank=rank
            ).update(9)
            for rank in range(count)
        ]
        batches = joined(update.micro_batches[step] for step in range(steps) for update in updates)
        for name, values in whole.items():
            np.testing.assert_array_equal(batches[name], values, err_msg=name)
        assert sum(update.tokens for update in updates) == whole["input_mask"].sum()


def test_what_an_update_says_of_itself(shards):
    data = packed_data(shards, sequences=4, accumulation_steps=2)
    update, batch = data.update(3), joined(data.update(3).micro_batches)
    assert update.sequences == 8 and update.tokens == batch["input_mask"].sum()
    assert update.normalizers["picks"] == batch["masked_lm_weights"].sum()
    places = data.examples(3)
    assert [len(place) for place in places] == batch["example_numbers"].max(axis=1).tolist()
    assert data.examples_seen(3) - data.examples_seen(2) == sum(map(len, places))
    assert data.examples_per_sequence > 1.5
    described = data.describe(3)
    for shard, record in itertools.chain.from_iterable(places):
        assert shard in described and str(record) in described


def test_skipped_updates_move_the_rows_up(shards):
    plain = packed_data(shards, sequences=4, accumulation_steps=1).update(11)
    skipping = packed_data(shards, skipped=[(9, 10)], sequences=4, accumulation_steps=1).update(9)
    np.testing.assert_array_equal(plain.micro_batches[0]["input_ids"], skipping.micro_batches[0]["input_ids"])


@pytest.mark.parametrize("mask_prob", [0.01, 0.15, 0.25, 0.9])
@pytest.mark.parametrize("room", [8, 32, 128, 512])
def test_no_row_has_more_picks_than_room_for_them(mask_prob, room):
    """The most picks of any row, by dynamic programming over all rows there could be."""
    most, lengths = min(most_examples(room), room // 3), np.arange(3, room + 1)
    picks = np.maximum(1, np.rint(lengths * mask_prob)).astype(int)
    best = np.zeros(room + 1, int)
    for _ in range(most):
        longer = best.copy()
        for length, count in zip(lengths, picks, strict=True):
            longer[length:] = np.maximum(longer[length:], best[: room + 1 - length] + count)
        best = longer
    assert min(room, best[room]) <= picks_in_row(mask_prob, room)


# --------------------------------------------------------------------------------------------- the networks


def test_loss_samples_and_gradients_are_those_of_the_unpacked_batch(shards):
    """Of the same examples: 1e-5, without dropout."""
    import tensorflow as tf

    from pretraining import PretrainingModel

    config = tiny_config(temperature=2.0, **NO_DROPOUT)
    tf.keras.utils.set_random_seed(1)
    model = PretrainingModel(config, VOCABULARY.size)
    model.build()
    # The first values are so small that attention hardly matters.
    for variable in model.trainable_variables:
        if variable.path.endswith("kernel") or "embeddings" in variable.path:
            variable.assign(variable * 10)
    packed = packed_data(shards, sequences=12, accumulation_steps=1).update(5).micro_batches[0]
    rows = PackedOrder(ExampleOrder(EXAMPLES, 3), lengths_of(shards), LENGTH, 3)(range(48, 60))
    alone = unpacked_data(shards)
    unpacked = joined(alone.update(int(position) + 1).micro_batches[0] for position in np.concatenate(rows))
    assert len(unpacked["input_ids"]) > 18 and normalizers(packed) == normalizers(unpacked)

    def results(batch):
        with tf.GradientTape() as tape:
            loss, sums = model(batch, normalizers(batch))
        return loss, sums, tape.gradient(loss, model.trainable_variables)

    (loss, sums, gradients), (true_loss, true_sums, true_gradients) = results(packed), results(unpacked)
    assert float(loss) == pytest.approx(float(true_loss), rel=1e-5)
    assert sums.keys() == true_sums.keys()
    for name, value in true_sums.items():
        if name != "disc_histogram":
            np.testing.assert_allclose(sums[name], value, rtol=1e-5, err_msg=name)
    assert sums["sequences"] == len(unpacked["input_ids"])
    scale = max(float(tf.reduce_max(tf.abs(tf.convert_to_tensor(value)))) for value in true_gradients)
    assert len(gradients) == len(model.trainable_variables)
    for variable, value, truth in zip(model.trainable_variables, gradients, true_gradients, strict=True):
        np.testing.assert_allclose(
            tf.convert_to_tensor(value),
            tf.convert_to_tensor(truth),
            rtol=1e-5,
            atol=1e-5 * scale,
            err_msg=variable.path,
        )


@pytest.mark.parametrize("precision", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_no_example_sees_another(precision):
    """Other tokens in the second example: all the others' hidden states stay as they are, bit for bit."""
    import keras

    from modeling import Encoder

    encoder = Encoder(tiny_config(**NO_DROPOUT).discriminator(VOCABULARY.size), dtype=precision)
    keras.utils.set_random_seed(1)
    encoder.build()
    numbers = np.array([[1] * 10 + [2] * 8 + [3] * 9 + [0] * 5, [1] * 32], np.int32)
    places = np.array([[*range(10), *range(8), *range(9), *range(5)], [*range(32)]], np.int32)
    random = np.random.RandomState(0)
    ids = random.randint(5, VOCABULARY.size, (2, 32)).astype(np.int32)
    other = ids.copy()
    other[0, 10:18] = random.randint(5, VOCABULARY.size, 8)

    def hidden(ids):
        mask, segments = (numbers > 0).astype(np.int32), np.zeros_like(numbers)
        states = encoder(ids, mask, segments, position_ids=places, example_numbers=numbers)
        return np.asarray(states, np.float32).reshape(2, 32, -1)

    one, two = hidden(ids), hidden(other)
    second = (numbers == 2) & (np.arange(2)[:, None] == 0)
    assert np.array_equal(one[~second], two[~second])
    assert not np.isclose(one[second], two[second]).all(axis=-1).any()


# ----------------------------------------------------------------------------------------- lengths and errors


def test_lengths_are_counted_once_and_kept_beside_the_shards(shards, monkeypatch):
    truth = mixed_lengths(EXAMPLES, LENGTH)
    assert lengths_of(shards).tolist() == truth.tolist()
    folder = os.path.dirname(shards.paths[0])
    assert all(lengths_path(path).exists() for path in shards.paths)
    assert tfrecords.find_shards(folder, "flag") == tfrecords.find_shards(f"{folder}/*", "flag")
    assert tfrecords.find_shards(folder, "flag") == shards.paths
    monkeypatch.setattr(Shards, "read", None)
    assert lengths_of(shards).tolist() == truth.tolist()
    twice = Shards([*shards.paths, shards.paths[0]], flag="flag")
    assert lengths_of(twice).tolist() == [*truth, *truth[:120]]


def test_kept_lengths_take_no_open_files(tmp_path, monkeypatch):
    """Of 150 shards under a limit of 200 files, of which 128 are for all else."""
    monkeypatch.setattr(tfrecords.files, "flush_to_disk", lambda path: None)
    for number in range(150):
        path = tmp_path / f"pretrain_data.tfrecord-{number}-of-150"
        write_examples(path, [3 + number % 20])
        np.save(lengths_path(path), np.array([3 + number % 20, os.path.getsize(path)]))
    program = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))\n"
        "from example_lengths import example_lengths\n"
        "from tfrecords import Shards, find_shards\n"
        "from workers import ALONE\n"
        "shards = Shards(find_shards(sys.argv[1], 'f'), flag='f')\n"
        "[shards.read(number) for number in range(150)]\n"
        f"print(*example_lengths(shards, {LENGTH}, {VOCABULARY.size}, ALONE))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    root = Path(__file__).parents[1]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [str(3 + number % 20) for number in range(150)]


def test_kept_lengths_that_cannot_be_read_are_no_reason_to_count_anew(shards):
    lengths_of(shards)
    path = lengths_path(shards.paths[0])
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError, match=path.name):
        lengths_of(shards)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_each_worker_of_a_machine_counts_a_part_and_has_them_all(shards, rank):
    """Two shards for three workers; the second shard's lengths are kept by another worker already."""
    truth = lengths_of(shards).tolist()
    lengths_path(shards.paths[0]).unlink()
    workers = Workers(local_rank=rank, local_size=3)
    assert example_lengths(shards, LENGTH, VOCABULARY.size, workers).tolist() == truth
    assert lengths_path(shards.paths[0]).exists()


@pytest.mark.parametrize("kept", [b"no array", b"other size"])
def test_lengths_of_another_shard_are_counted_anew(shards, kept):
    truth = lengths_of(shards).tolist()
    path = lengths_path(shards.paths[0])
    if kept == b"other size":
        np.save(path, np.load(path) + 1)
    else:
        path.write_bytes(kept)
    assert lengths_of(shards).tolist() == truth
    assert np.load(path)[-1] == os.path.getsize(shards.paths[0])


def test_lengths_that_cannot_be_kept_are_counted_all_the_same(shards, monkeypatch):
    def fails(path, array):
        raise PermissionError(13, "read-only", str(path))

    monkeypatch.setattr(tfrecords, "write_array", fails)
    assert lengths_of(shards).tolist() == mixed_lengths(EXAMPLES, LENGTH).tolist()
    assert not lengths_path(shards.paths[0]).exists()


def test_kept_lengths_that_are_wrong_are_named(shards):
    data = packed_data(shards, sequences=2, accumulation_steps=1)
    data.update(1)
    for path in shards.paths:
        lengths = np.load(lengths_path(path))
        lengths[:-1] = 7
        np.save(lengths_path(path), lengths)
    with pytest.raises(CorruptShard, match=r"record \d+ of .*tfrecord.* lengths\.pretrain_data.*delete"):
        packed_data(shards, sequences=2, accumulation_steps=1).update(1)


def test_an_example_with_padding_before_its_tokens_is_named(tmp_path):
    """No tool writes such; packing would move its tokens."""
    path = tmp_path / "pretrain_data.tfrecord-0-of-1"
    payload = serialized([CLS, 9, 9, SEP], 4, LENGTH)
    mask = payload.index(b"input_mask")
    broken = payload[:mask] + payload[mask:].replace(b"\x01\x01\x01\x01\x00", b"\x01\x01\x01\x00\x01", 1)
    write_shard(path, [payload, broken])
    shards = Shards([str(path)], flag="pretrain_tfrecords")
    with pytest.raises(CorruptShard, match=r"--pack_sequences: record 1 of .*tfrecord-0-of-1"):
        lengths_of(shards)
    assert not lengths_path(path).exists()
