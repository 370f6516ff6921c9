"""Batches hold like with like and few shapes; every window once an epoch, whoever computes it."""

from itertools import islice

import numpy as np
import pytest
from squad_questions import LETTERS, question

from batching import BatchShape
from command_line import UsageError
from length_batches import TrainingOrder, bucket_lengths, bucketed_batches
from squad_batches import block_batches, prediction_blocks, training_windows
from squad_features import FeatureRule, Features, build_features

BUCKETS = (10, 16, 24, 32)
RULE = FeatureRule(32, 20, 4)


@pytest.fixture(scope="module")
def features() -> Features:
    """90 questions with contexts of 1 to 34 words, every tenth of no use for training."""
    draw = np.random.RandomState(0)
    questions = []
    for number in range(90):
        words = "abcdefghij"[number % 10] * int(draw.randint(1, 35))
        start = 1 if number % 10 == 0 else 0
        questions.append(question("x y z", " ".join(words), words[0], id=f"id-{number}", start=start))
    return build_features(questions, LETTERS, RULE)


# ---------------------------------------------------------------------------------------------- prediction


@pytest.mark.parametrize(
    ("max_seq_length", "expected"),
    [
        (384, (96, 128, 160, 192, 224, 256, 320, 384)),
        (512, (128, 160, 192, 224, 256, 320, 384, 512)),
        (128, (64, 96, 128)),
        (100, (64, 96, 100)),
        (64, (64,)),
        (32, (32,)),
    ],
)
def test_buckets_are_few_and_end_with_the_longest(max_seq_length, expected):
    assert bucket_lengths(max_seq_length) == expected


def test_hand_worked_batches():
    """Lengths 9 7 5 | 5 3 3 | 2 and twice more the same."""
    lengths = np.array([5, 3, 9, 2, 3, 7, 5])
    for filled, last in ((True, [3, 3, 3]), (False, [3])):
        batches = bucketed_batches(lengths, 3, (4, 6, 10), filled=filled)
        assert [(length, indices.tolist()) for length, indices in batches] == [
            (10, [2, 5, 0]),
            (6, [6, 1, 4]),
            (4, last),
        ]


def test_batches_of_nothing_and_windows_too_long():
    assert bucketed_batches(np.array([], int), 4, (8,), filled=True) == []
    with pytest.raises(ValueError, match="9 tokens is longer than every bucket"):
        bucketed_batches(np.array([3, 9]), 4, (8,), filled=True)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 1000])
def test_every_window_is_predicted_and_a_block_has_all_windows_of_its_questions(features, batch_size):
    question, seen = 0, []
    for questions in prediction_blocks(features, batch_size):
        batches = block_batches(features, questions, batch_size, BUCKETS, filled=True)
        assert questions.start == question and len(questions)
        question = questions.stop
        windows = [window for number in questions for window in features.windows_of(number)]
        given = np.concatenate([indices for _, indices in batches])
        assert np.unique(given).tolist() == windows
        # What is filled up is less than a batch, and a block is no more than 64 batches and a question.
        assert len(given) - len(windows) < batch_size
        assert len(windows) <= 64 * batch_size + len(features.windows_of(question - 1))
        for length, indices in batches:
            assert indices.shape == (batch_size,) and length in BUCKETS
            longest = features.lengths[indices].max()
            assert longest <= length and all(bucket < longest for bucket in BUCKETS if bucket < length)
        seen += windows
    assert question == features.num_questions and seen == list(range(len(features)))


@pytest.mark.parametrize("workers", [2, 3, 7])
def test_there_is_a_block_of_questions_for_each_worker(features, workers):
    blocks = prediction_blocks(features, 4, workers)
    assert [number for block in blocks for number in block] == list(range(features.num_questions))
    windows = [sum(len(features.windows_of(number)) for number in block) for block in blocks]
    share = len(features) / workers
    assert all(count <= share + 4 + 10 for count in windows)


def test_prediction_computes_little_padding(features):
    """Against batches in the order of the file at one length."""
    padded = sum(
        length * len(indices)
        for questions in prediction_blocks(features, 4)
        for length, indices in block_batches(features, questions, 4, BUCKETS, filled=True)
    )
    assert padded < 1.2 * features.lengths.sum() < 0.9 * 32 * len(features)


# ------------------------------------------------------------------------------------------------ training


def _training(features, sequences=4, steps=1, seed=3, skipped=(), **workers) -> TrainingOrder:
    shape = BatchShape(sequences, steps, **workers)
    return training_windows(features, shape, seed=seed, buckets=BUCKETS, skipped=skipped)


@pytest.mark.parametrize("size", [1, 2, 4, 7, 32, 1000])
def test_every_trainable_window_comes_once_an_epoch(features, size):
    """After any number of updates each has come as often as epochs have ended, or once more."""
    training = _training(features, size)
    trainable = np.flatnonzero(features.trainable)
    assert len(training) == len(trainable) < len(features)
    counts, read = np.zeros(len(features), int), 0
    for number in range(1, 3 * len(trainable) // size + 3):
        windows = training.sequences(number)
        assert len(windows) == size
        np.add.at(counts, windows, 1)
        read += size
        assert counts.sum() == counts[trainable].sum() == read
        assert counts[trainable].min() == read // len(trainable)
        assert counts[trainable].max() == -(-read // len(trainable))


def test_epochs_and_seeds_have_orders_of_their_own(features):
    training, count = _training(features, 1), len(_training(features))
    epochs = [
        tuple(int(training.sequences(epoch * count + place)[0]) for place in range(1, count + 1))
        for epoch in range(3)
    ]
    other = _training(features, 1, seed=4)
    epochs.append(tuple(int(other.sequences(place)[0]) for place in range(1, count + 1)))
    assert len(set(epochs)) == 4 and len({frozenset(epoch) for epoch in epochs}) == 1
    # And they are shuffled: neighbours in the file are not neighbours here.
    assert (np.diff(epochs[0]) == 1).mean() < 0.05


def test_any_update_is_known_without_those_before(features):
    numbers = range(1, 120)
    read = {number: _training(features).sequences(number).tolist() for number in reversed(numbers)}
    training = _training(features)
    assert [training.sequences(number).tolist() for number in numbers] == [read[number] for number in numbers]
    from_60 = islice(training.from_update(60), 3)
    for number, update in enumerate(from_60, 60):
        assert update.number == number
        expected = training.update(number)
        for name, values in expected.micro_batches[0].items():
            np.testing.assert_array_equal(update.micro_batches[0][name], values)


def test_updates_hold_like_lengths_but_no_order_of_lengths(features):
    training = _training(features)
    epoch = range(1, len(training) // 4)
    lengths = np.array([features.lengths[training.sequences(number)] for number in epoch])
    spread = (lengths.max(axis=1) - lengths.min(axis=1)).mean()
    drawn = np.random.RandomState(0).permutation(lengths.ravel()).reshape(lengths.shape)
    assert spread < 0.35 * (drawn.max(axis=1) - drawn.min(axis=1)).mean()
    means = lengths.mean(axis=1)
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3


@pytest.mark.parametrize("number", [1, 9, 60, 61, 62, 200])
def test_micro_batches_and_workers_share_the_windows_of_one(features, number):
    """12 windows an update as 1 x 12, as 3 x 4, and as 2 x 3 on each of 2 workers, in the same places."""
    whole = _training(features, 12).sequences(number)
    assert _training(features, 4, 3).sequences(number).tolist() == whole.tolist()
    expected = features.batch(whole, 32)
    for sequences, steps, workers in [(4, 3, 1), (12, 1, 1), (3, 2, 2), (2, 3, 2), (1, 2, 6)]:
        updates = [
            _training(features, sequences, steps, workers=workers, rank=rank).update(number)
            for rank in range(workers)
        ]
        for step in range(steps):
            place = slice(step * sequences * workers, (step + 1) * sequences * workers)
            length = min(bucket for bucket in BUCKETS if bucket >= features.lengths[whole[place]].max())
            micro_batches = [update.micro_batches[step] for update in updates]
            assert {batch["input_ids"].shape for batch in micro_batches} == {(sequences, length)}
            for name, values in expected.items():
                values = values[place, :length] if values.ndim == 2 else values[place]
                np.testing.assert_array_equal(np.concatenate([b[name] for b in micro_batches]), values)
        assert {float(update.normalizers["windows"]) for update in updates} == {sequences * steps}
        assert {update.sequences for update in updates} == {sequences * steps}
        assert sum(update.tokens for update in updates) == expected["input_mask"].sum()


def test_skipped_updates_move_the_others_up(features):
    plain, skipping = _training(features), _training(features, skipped=[(3, 5)])
    assert [skipping.sequences(number).tolist() for number in (2, 3, 4)] == [
        plain.sequences(number).tolist() for number in (2, 6, 7)
    ]


def test_an_update_says_which_questions_it_had(features):
    training = _training(features)
    ids = {features.question(int(features.question_of[w])).id for w in training.sequences(5)}
    described = training.update(5).origin()
    assert described.startswith("questions ") and set(described.removeprefix("questions ").split(", ")) == ids


def test_nothing_to_train_on_is_refused():
    unknown = build_features([question("x", "a b")], LETTERS, RULE)
    with pytest.raises(UsageError, match=r"--train_file: none of its questions .*: no answer is given"):
        _training(unknown)
