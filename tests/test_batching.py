"""Every example once an epoch, in an order that is known without looking; every sequence to one worker."""

import threading
import time
from itertools import islice

import numpy as np
import pytest

from batching import BatchShape, ExampleOrder, data_update, prefetch

SIZES = [1, 2, 7, 64, 65, 1000]
BLOCK_SIZES = [1, 2, 3, 64, 5000]


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("examples", SIZES)
def test_every_example_comes_once_an_epoch(examples, block_size):
    order = ExampleOrder(examples, seed=42, block_size=block_size)
    read = order(np.arange(4 * examples))
    assert read.dtype == np.int64
    for epoch in range(4):
        assert np.array_equal(np.sort(read[epoch * examples : (epoch + 1) * examples]), np.arange(examples))


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_orders_differ_between_epochs_and_seeds(block_size):
    epochs = [
        tuple(ExampleOrder(1000, seed, block_size)(np.arange(epoch * 1000, (epoch + 1) * 1000)).tolist())
        for seed in (1, 2)
        for epoch in (0, 1, 2, 1000)
    ]
    assert len(set(epochs)) == len(epochs)
    assert tuple(range(1000)) not in epochs


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("examples", SIZES)
def test_example_at_a_position_does_not_depend_on_what_is_asked_for(examples, block_size):
    """Any positions, in any order, of any epochs at once, by another object of the same seed."""
    read = ExampleOrder(examples, 5, block_size)(np.arange(3 * examples))
    draw = np.random.RandomState(0)
    order = ExampleOrder(examples, 5, block_size)
    for count in (1, 3, 3 * examples):
        positions = draw.randint(0, 3 * examples, count)
        assert np.array_equal(order(positions), read[positions])


def test_far_positions_of_a_trillion_examples_are_found_at_once():
    begin = time.monotonic()
    for block_size in (1, 1024):
        read = ExampleOrder(10**12, 1, block_size)(np.arange(10**13, 10**13 + 512))
        assert len(set(read.tolist())) == 512 and read.min() >= 0 and read.max() < 10**12
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize(("examples", "block_size"), [(1000, 10), (1003, 10), (64, 64)])
def test_blocks_are_neighbours_on_disk_read_in_a_shuffled_order(examples, block_size):
    """Each block of places holds so many neighbours, the last and the first counting as such."""
    for epoch in range(3):
        read = ExampleOrder(examples, 3, block_size)(np.arange(examples) + epoch * examples)
        starts = []
        for first in range(0, examples - block_size + 1, block_size):
            block = set(read[first : first + block_size].tolist())
            begin = next(
                number for number in block if {(number + k) % examples for k in range(block_size)} == block
            )
            starts.append(begin)
        assert len(starts) < 2 or (np.diff(starts) != block_size).any()
        assert not np.array_equal(read[:block_size], (starts[0] + np.arange(block_size)) % examples)


def test_places_are_fair():
    """Over epochs every example comes early as often as late, in blocks too: of the examples x places counts
    (n - 1) / n of Pearson's statistic is chi-square with (n - 1)**2 degrees of freedom."""
    examples, epochs = 12, 800
    for block_size in (1, 5):
        read = ExampleOrder(examples, 8, block_size)(np.arange(examples * epochs)).reshape(epochs, examples)
        counts = np.zeros((examples, examples))
        for place in range(examples):
            counts[place] = np.bincount(read[:, place], minlength=examples)
        expected, freedom = epochs / examples, (examples - 1) ** 2
        statistic = (examples - 1) / examples * ((counts - expected) ** 2).sum() / expected
        assert (statistic - freedom) / np.sqrt(2 * freedom) < 5


# ----------------------------------------------------------------------------------------------- the workers


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
@pytest.mark.parametrize("accumulation_steps", [1, 3])
def test_workers_share_what_one_worker_would_read(workers, accumulation_steps):
    """k micro-batches of every worker are those of one worker with N times the batch, each sequence once."""
    batch = 16 // workers
    alone = BatchShape(16, accumulation_steps)
    shapes = [BatchShape(batch, accumulation_steps, workers, rank) for rank in range(workers)]
    for update in (1, 2, 1000):
        whole = alone.positions(update)
        parts = [shape.positions(update) for shape in shapes]
        for step in range(accumulation_steps):
            assert [len(part[step]) for part in parts] == [batch] * workers
            assert np.array_equal(np.concatenate([part[step] for part in parts]), whole[step])
    assert {shape.global_batch_size for shape in shapes} == {alone.global_batch_size}


def test_updates_follow_each_other_without_gap_or_overlap():
    shape = BatchShape(sequences=3, accumulation_steps=2)
    read = np.concatenate([np.concatenate(shape.positions(update)) for update in range(1, 6)])
    assert np.array_equal(read, np.arange(30))


def test_hand_worked_positions():
    """Update 2 of 2 workers x 2 micro-batches x 3 sequences: positions 12 to 23."""
    positions = BatchShape(3, 2, workers=2, rank=1).positions(2)
    assert [part.tolist() for part in positions] == [[15, 16, 17], [21, 22, 23]]


@pytest.mark.parametrize(
    ("skipped", "expected"),
    [
        ([], [1, 2, 3, 4, 5, 6, 7, 8]),
        ([(3, 4)], [1, 2, 5, 6, 7, 8, 9, 10]),
        ([(1, 1)], [2, 3, 4, 5, 6, 7, 8, 9]),
        # Data 3 and 4 are gone; of 1 2 5 6 7 8 9 10 … the fifth and sixth, 7 and 8, go too.
        ([(3, 4), (5, 6)], [1, 2, 5, 6, 9, 10, 11, 12]),
        # After the first, a spike comes at update 3 once more: that is data 5.
        ([(3, 4), (3, 3)], [1, 2, 6, 7, 8, 9, 10, 11]),
        # In another order each counts in what those before it left: 5 is gone, and 1 2 3 4 6 7 loses 2, 3.
        ([(5, 5), (2, 3)], [1, 4, 6, 7, 8, 9, 10, 11]),
        ([(2, 2), (2, 2), (2, 2)], [1, 5, 6, 7, 8, 9, 10, 11]),
    ],
)
def test_updates_after_a_skipped_range_move_up(skipped, expected):
    assert [data_update(update, skipped) for update in range(1, 9)] == expected


def test_skipping_is_deleting_from_the_list_of_updates():
    """Any ranges, against a list that each is cut out of in turn."""
    draw = np.random.RandomState(0)
    for _ in range(200):
        skipped, left = [], list(range(1, 400))
        for _ in range(draw.randint(0, 5)):
            first = int(draw.randint(1, 60))
            last = first + int(draw.randint(0, 20))
            skipped.append((first, last))
            del left[first - 1 : last]
        assert [data_update(update, skipped) for update in range(1, 101)] == left[:100]


# -------------------------------------------------------------------------------------------------- prefetch


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def wait_until_no_thread_is_left() -> None:
    deadline = time.monotonic() + 5
    while prefetch_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not prefetch_threads()


def test_prefetched_updates_come_in_order_and_one_thread_makes_them():
    makers = set()

    def make(number: int) -> int:
        makers.add(threading.current_thread())
        return number

    assert list(islice(prefetch(make, 7), 50)) == list(range(7, 57))
    assert len(makers) == 1 and threading.current_thread() not in makers
    wait_until_no_thread_is_left()


def test_next_updates_are_made_while_one_is_used_but_not_without_end():
    made, third = [], threading.Event()

    def make(number: int) -> int:
        made.append(number)
        if number == 3:
            third.set()
        return number

    updates = prefetch(make, 1)
    assert next(updates) == 1
    assert third.wait(5), "nothing is made ahead"
    time.sleep(0.3)
    assert len(made) <= 5, "two wait, one more is in the thread's hands"
    updates.close()
    wait_until_no_thread_is_left()


def test_producers_error_is_raised_in_the_consumer_after_what_came_before_it():
    class Damaged(Exception):
        pass

    def make(number: int) -> int:
        if number == 4:
            raise Damaged("record 4")
        return number

    read = []
    with pytest.raises(Damaged, match="record 4"):
        for update in prefetch(make, 1):
            read.append(update)
    assert read == [1, 2, 3]
    wait_until_no_thread_is_left()


def test_thread_ends_when_the_consumer_leaves():
    """By closing, by an error of its own or by forgetting the iterator, with the queue full or not."""
    updates = prefetch(lambda number: number, 1)
    next(updates)
    updates.close()
    wait_until_no_thread_is_left()
    with pytest.raises(ZeroDivisionError):
        for _ in prefetch(lambda number: number, 1):
            _ = 1 / 0
    wait_until_no_thread_is_left()
    next(prefetch(lambda number: number, 1))
    wait_until_no_thread_is_left()


def test_error_of_the_first_update_is_raised_too():
    with pytest.raises(ZeroDivisionError):
        next(prefetch(lambda number: 1 / 0, 1))
    wait_until_no_thread_is_left()
