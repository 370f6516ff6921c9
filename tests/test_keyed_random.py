"""Draws are functions of their key and counter, the published generator's, and permutations are fair."""

import itertools
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import keyed_random
from keyed_random import Permutation, ScalarStream, derive_key, draw_bits, draw_uniforms

ROOT = Path(__file__).parents[1]

# The first outputs of the authors' splitmix64.c for two seeds.
PUBLISHED = {
    0: [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC, 0x1B39896A51A8749B],
    1234567: [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ],
}


def splitmix64(seed: int, count: int) -> list[int]:
    """The generator as published, in whole numbers."""
    word = 2**64
    outputs = []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) % word
        z = seed
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % word
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % word
        outputs.append(z ^ (z >> 31))
    return outputs


def chi_square_excess(counts: np.ndarray, expected: np.ndarray | float, freedom: int) -> float:
    """Standard deviations by which Pearson's statistic lies above its mean (normal for much freedom)."""
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return (statistic - freedom) / np.sqrt(2 * freedom)


@pytest.mark.parametrize("seed", PUBLISHED)
def test_draws_are_the_published_generators(seed):
    expected = PUBLISHED[seed]
    assert splitmix64(seed, 5) == expected
    assert draw_bits(seed, np.arange(5)).tolist() == expected
    stream = ScalarStream(seed)
    assert [stream.bits() for _ in range(5)] == expected


def test_draws_of_any_keys_and_counters_at_once_equal_single_ones():
    """Arrays of keys broadcast against counters; the largest key wraps around."""
    keys = [0, 1, 2**63, 2**64 - 1, 987654321987654321]
    table = draw_bits(np.array(keys, np.uint64)[:, None], np.arange(7)[None, :])
    assert table.dtype == np.uint64
    assert table.tolist() == [splitmix64(key, 7) for key in keys]
    assert [int(draw_bits(key, 3)) for key in keys] == [splitmix64(key, 4)[3] for key in keys]


def test_uniforms_lie_in_zero_to_one_with_one_left_out(monkeypatch):
    uniforms = draw_uniforms(5, np.arange(200_000))
    assert uniforms.dtype == np.float32 and uniforms.min() >= 0 and uniforms.max() < 1
    counts = np.bincount((uniforms * 100).astype(int), minlength=100)
    assert chi_square_excess(counts, 2000, 99) < 5
    top = np.array([0, 2**64 - 1], np.uint64)
    monkeypatch.setattr(keyed_random, "draw_bits", lambda key, counter: top)
    assert draw_uniforms(0, 0).tolist() == [0.0, 1 - 2**-24]
    monkeypatch.setattr(ScalarStream, "bits", lambda self: 2**64 - 1)
    assert ScalarStream(0).uniform() == 1 - 2**-53
    assert ScalarStream(0).integer(5, 128) == 128


def test_integers_take_each_value_between_both_ends_equally_often():
    stream = ScalarStream(99)
    counts = np.bincount([stream.integer(5, 14) for _ in range(20_000)], minlength=15)
    assert counts[:5].sum() == 0 and len(counts) == 15
    assert chi_square_excess(counts[5:], 2000, 9) < 5


def test_derived_keys_differ_in_every_part_and_in_their_order():
    parts = [(), (0,), (1,), (-1,), (0, 0), (1, 2), (2, 1), ("a",), ("b",), ("a", "b"), ("ab",), ("a", 1)]
    parts += [("1",), (1, "a"), (2**63,), (1, 2, 3), ("",), ("", "")]
    keys = [derive_key(*part) for part in parts]
    assert len(set(keys)) == len(parts) and all(0 <= key < 2**64 for key in keys)
    assert len({derive_key(seed, name) for seed in range(5000) for name in ("masks", "order")}) == 10_000


def test_keys_are_the_same_in_every_process():
    """Names are hashed by their letters, not by Python's hash, which differs from process to process."""
    program = "from keyed_random import derive_key; print(derive_key(42, 'masks and samples', 7))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert outputs == {f"{derive_key(42, 'masks and samples', 7)}\n"}


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 64, 65, 1000, 65_536, 65_537])
@pytest.mark.parametrize("key", [0, 7, 2**64 - 1])
def test_permutation_is_a_bijection(size, key):
    images = Permutation(size, key)(np.arange(size))
    assert images.dtype == np.int64
    assert np.array_equal(np.sort(images), np.arange(size))


def test_image_depends_on_the_value_alone():
    """Not on which other values are asked for, in which order or shape."""
    permutation = Permutation(1000, 3)
    images = permutation(np.arange(1000))
    chosen = np.array([[999, 0, 17], [17, 500, 501]])
    assert np.array_equal(permutation(chosen), images[chosen])
    assert int(permutation(np.int64(42))) == images[42]
    assert not np.array_equal(Permutation(1000, 4)(np.arange(1000)), images)


@pytest.mark.parametrize("size", [2, 3, 5, 10, 37])
def test_every_value_goes_everywhere_equally_often(size):
    """Over keys, the value x place counts: (size - 1) / size times Pearson's statistic is chi-square with
    (size - 1)**2 degrees of freedom for fair permutations."""
    keys = 1500
    counts = np.zeros((size, size))
    for key in range(keys):
        counts[np.arange(size), Permutation(size, derive_key(key))(np.arange(size))] += 1
    share = (size - 1) / size
    statistic = share * ((counts - keys / size) ** 2).sum() / (keys / size)
    assert (statistic - (size - 1) ** 2) / np.sqrt(2 * (size - 1) ** 2) < 5


@pytest.mark.parametrize("size", [3, 4])
def test_every_order_of_a_few_is_equally_likely(size):
    keys = 2400
    orders = dict.fromkeys(itertools.permutations(range(size)), 0)
    for key in range(keys):
        orders[tuple(Permutation(size, derive_key("orders", key))(np.arange(size)).tolist())] += 1
    counts = np.array(list(orders.values()))
    assert chi_square_excess(counts, keys / len(orders), len(orders) - 1) < 5


def test_neighbours_part_and_values_keep_no_trace_of_their_place():
    """Fair permutations of n: on average two images are (n + 1) / 3 apart, and one value stays put."""
    size, keys = 1000, 200
    distances, correlations, fixed = [], [], 0
    for key in range(keys):
        images = Permutation(size, derive_key(key))(np.arange(size))
        distances.append(np.abs(np.diff(images)).mean())
        correlations.append(np.corrcoef(images, np.arange(size))[0, 1])
        fixed += int((images == np.arange(size)).sum())
    # Standard errors: about size / (sqrt(18) * sqrt(size * keys)) and 1 / sqrt(size * keys); Poisson(keys).
    assert abs(np.mean(distances) - (size + 1) / 3) < 5 * size / np.sqrt(18 * size * keys)
    assert abs(np.mean(correlations)) < 5 / np.sqrt(size * keys)
    assert abs(fixed - keys) < 5 * np.sqrt(keys)


def test_a_trillion_values_need_no_memory():
    size = 10**12
    values = np.concatenate([np.arange(1000), np.arange(size - 1000, size)])
    tracemalloc.start()
    images = Permutation(size, 11)(values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(images.tolist())) == len(values)
    assert images.min() >= 0 and images.max() < size
    assert peak < 1_000_000
    # Spread over the whole range: a tenth of it holds a tenth of the images.
    counts = np.bincount((images // (size // 10)).astype(int), minlength=10)
    assert chi_square_excess(counts, len(values) / 10, 9) < 5


@pytest.mark.parametrize("size", [0, -1])
def test_permutation_of_nothing_is_refused(size):
    with pytest.raises(ValueError, match="positive size"):
        Permutation(size, 0)
