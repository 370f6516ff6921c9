"""What an update and a held-out batch read: the same sequences, masks and samples for any worker count."""

import json
import shutil

import numpy as np
import pytest

import tfrecords
from batching import BatchShape, ExampleOrder
from command_line import UsageError
from masking import MaskingRule
from pretraining_data import (
    HeldOutData,
    PretrainingData,
    read_examples,
    unigram_entropy,
    unigram_log_probabilities,
)
from tfrecords import CorruptShard, Shards
from tokenization import load_vocabulary


@pytest.fixture(scope="module")
def shards(language) -> Shards:
    return Shards(tfrecords.find_shards(str(language / "shards_32"), "flag"), flag="pretrain_tfrecords")


@pytest.fixture(scope="module")
def vocabulary(language):
    return load_vocabulary(language / "vocab.txt")


def _data(shards, vocabulary, skipped=(), seed=3, **shape) -> PretrainingData:
    return PretrainingData(
        shards,
        ExampleOrder(len(shards), seed),
        BatchShape(**shape),
        MaskingRule.of(vocabulary, 0.15, 4),
        max_seq_length=32,
        vocabulary_size=vocabulary.size,
        seed=seed,
        skipped=list(skipped),
    )


def _joined(updates) -> dict[str, np.ndarray]:
    batches = [batch for update in updates for batch in update.micro_batches]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def test_micro_batches_and_workers_see_what_one_batch_sees(shards, vocabulary):
    """12 sequences an update as 1 x 12, as 3 x 4, and as 2 x 3 on each of 2 workers: masks included."""
    whole = _joined([_data(shards, vocabulary, sequences=12, accumulation_steps=1).update(5)])
    thirds = _joined([_data(shards, vocabulary, sequences=4, accumulation_steps=3).update(5)])
    workers = [
        _data(shards, vocabulary, sequences=3, accumulation_steps=2, workers=2, rank=rank).update(5)
        for rank in (0, 1)
    ]
    for name, values in whole.items():
        np.testing.assert_array_equal(thirds[name], values)
        steps = [worker.micro_batches[step][name] for step in (0, 1) for worker in workers]
        np.testing.assert_array_equal(np.concatenate(steps), values)


def test_normalizers_count_the_whole_update(shards, vocabulary):
    update = _data(shards, vocabulary, sequences=4, accumulation_steps=3).update(2)
    joined = _joined([update])
    assert update.normalizers["tokens"] == joined["input_mask"].sum() == update.tokens
    assert update.normalizers["picks"] == joined["masked_lm_weights"].sum()
    assert update.sequences == 12


def test_an_epoch_reads_every_example_once(shards, vocabulary):
    count = len(shards)
    data = _data(shards, vocabulary, sequences=1, accumulation_steps=1)
    seen = [data.examples(update)[0][0] for update in range(1, count + 1)]
    assert len(set(seen)) == count


def test_masks_of_a_sequence_change_from_epoch_to_epoch(shards, vocabulary):
    data = _data(shards, vocabulary, sequences=len(shards), accumulation_steps=1)
    epochs = [data.update(number).micro_batches[0] for number in (1, 2)]
    by_text = [
        dict(zip(map(bytes, e["input_ids"]), map(bytes, e["masked_input_ids"]), strict=True)) for e in epochs
    ]
    same = [text for text in by_text[0] if by_text[0][text] == by_text[1].get(text)]
    assert len(same) < 0.05 * len(by_text[0])


def test_describing_an_update_names_its_shards_and_records(shards, vocabulary):
    data = _data(shards, vocabulary, sequences=4, accumulation_steps=2)
    described = data.describe(3)
    for ((shard, record),) in data.examples(3):
        assert shard in described and str(record) in described


def test_the_reader_thread_hands_its_errors_on(shards, vocabulary, language, tmp_path):
    path = tmp_path / "pretrain_data.tfrecord-0-of-1"
    content = bytearray((language / "shards_32" / "pretrain_data.tfrecord-0-of-3").read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    broken = Shards([str(path)], flag="pretrain_tfrecords")
    updates = _data(broken, vocabulary, sequences=len(broken), accumulation_steps=1).from_update(1)
    with pytest.raises(CorruptShard, match="damaged"):
        next(updates)


def test_examples_of_another_length_or_vocabulary_are_named(shards):
    with pytest.raises(CorruptShard, match=r"--max_seq_length 64: record 0 of .*tfrecord-0-of-3"):
        read_examples(shards, np.array([0]), 64, 1000)
    with pytest.raises(CorruptShard, match="outside a vocabulary of 6"):
        read_examples(shards, np.array([0]), 32, 6)


def test_held_out_batches_cover_the_set_once_and_never_change(language, vocabulary):
    folder = language / "shards_32" / "held_out"
    held_out = Shards(tfrecords.find_shards(str(folder), "flag"), flag="eval_tfrecords")
    manifest = json.loads((folder / "manifest.json").read_text())

    def data(batch_size):
        return HeldOutData(
            held_out,
            MaskingRule.of(vocabulary, 0.15, 4),
            max_seq_length=32,
            batch_size=batch_size,
            most_batches=0,
            unigram_log_probabilities=np.full(vocabulary.size, -np.log(10.0)),
        )

    several, one = data(7), data(len(held_out))
    assert several.batches == -(-len(held_out) // 7) and one.batches == 1
    batches = [several.batch(number) for number in range(several.batches)]
    assert {batch["input_ids"].shape for batch, _ in batches} == {(7, 32)}
    assert sum(int(batch["input_mask"].sum()) for batch, _ in batches) == manifest["tokens"]
    joined = {name: np.concatenate([batch[name] for batch, _ in batches]) for name in batches[0][0]}
    for name, values in one.batch(0)[0].items():
        np.testing.assert_array_equal(joined[name][: len(held_out)], values)
    # ln 10 for each [MASK] token, by the frequencies given above.
    losses = np.concatenate([loss for _, loss in batches])
    np.testing.assert_allclose(losses, np.log(10) * joined["masked_lm_is_mask"].sum(axis=1))
    assert [several.sequences(count) for count in (1, several.batches)] == [7, len(held_out)]


@pytest.mark.parametrize("counted", [True, False])
def test_unigram_frequencies_are_the_training_datas(shards, vocabulary, language, tmp_path, counted):
    """From the counts beside the shards, and the same from the examples where there are none."""
    if not counted:
        for path in shards.paths:
            shutil.copy(path, tmp_path)
        shards = Shards(tfrecords.find_shards(str(tmp_path), "flag"), flag="pretrain_tfrecords")
    log_probabilities = unigram_log_probabilities(shards, vocabulary, 32)
    examples = read_examples(shards, np.arange(len(shards)), 32, vocabulary.size)
    words = examples["input_ids"][examples["input_mask"] > 0]
    words = words[~np.isin(words, [vocabulary.cls_id, vocabulary.sep_id])]
    word = vocabulary.ids["t3w1"]
    # Add-one smoothing over everything that may be picked: 64 words and [UNK].
    expected = ((words == word).sum() + 1) / (len(words) + 65)
    assert np.exp(log_probabilities[word]) == pytest.approx(expected)
    assert np.exp(log_probabilities).sum() == pytest.approx(1)
    assert np.exp(log_probabilities[vocabulary.cls_id]) == 0


@pytest.mark.parametrize("kind", ["damaged", "another vocabulary's", "no counts"])
def test_token_counts_that_do_not_fit_the_vocabulary_are_named(shards, vocabulary, tmp_path, kind):
    copied = [shutil.copy(path, tmp_path) for path in shards.paths]
    counts = np.ones(vocabulary.size + (kind != "no counts"), "<f4" if kind == "no counts" else "<i8")
    path = tmp_path / "token_counts.npy"
    np.save(path, counts)
    if kind == "damaged":
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UsageError, match=rf"{path} holds no counts of {vocabulary.size} tokens"):
        unigram_log_probabilities(Shards(copied, flag="pretrain_tfrecords"), vocabulary, 32)


def test_unigram_entropy_is_the_loss_of_knowing_frequencies_alone():
    """Half, a quarter, a quarter, and a token that is never picked: 1.5 bits, in nats."""
    with np.errstate(divide="ignore"):
        log_probabilities = np.log([0.5, 0.25, 0.0, 0.25])
    assert unigram_entropy(log_probabilities) == pytest.approx(1.5 * np.log(2))
