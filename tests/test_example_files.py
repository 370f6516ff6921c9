"""Files of examples are the bytes that TensorFlow writes of what the tokenizer and Google's rule give."""

import json
import random
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from google_examples import googles_examples, joined
from text_cases import NASTY_TEXTS, PIECES, random_texts

import example_files
import tfrecords
from example_builder import document_key
from example_files import ExampleBuilder, ExampleStatistics, describe_figures, write_text_file
from tokenization import Vocabulary, build_tokenizer, load_vocabulary

VOCABULARY = Vocabulary(PIECES)
SEED = 12345


def nasty_documents(count: int, seed: int = 3) -> list[list[str]]:
    """Documents of a few lines, some without a token."""
    draw = random.Random(seed)
    lines = [line.replace("\n", " ") for line in NASTY_TEXTS + random_texts(50)]
    plain = ["the", "quick", "brown", "fox", "naïve", "café", "jump", "un", "##s", "中文", "can't", "13"]
    lines += [" ".join(draw.choices(plain, k=draw.randint(1, 40))) for _ in range(200)]
    return [draw.choices(lines, k=draw.choice([1, 2, 5, 40])) for _ in range(count)]


def expected_examples(
    vocabulary: Vocabulary, documents: list[list[str]], length: int
) -> list[tuple[list[int], int]]:
    tokenizer = build_tokenizer(vocabulary)
    examples = []
    for lines in documents:
        tokens = [tokenizer.encode(line, add_special_tokens=False).ids for line in lines]
        for segments in googles_examples(tokens, length, document_key(SEED, lines)):
            examples.append(joined(*segments, vocabulary.cls_id, vocabulary.sep_id))
    return examples


def write_with_tensorflow(path: Path, examples: list[tuple[list[int], int]], length: int) -> None:
    tf = pytest.importorskip("tensorflow")
    with tf.io.TFRecordWriter(str(path)) as writer:
        for ids, first in examples:
            padding = [0] * (length - len(ids))
            rows = {
                "input_ids": ids + padding,
                "input_mask": [1] * len(ids) + padding,
                "segment_ids": [0] * first + [1] * (len(ids) - first) + padding,
            }
            feature = {
                name: tf.train.Feature(int64_list=tf.train.Int64List(value=row)) for name, row in rows.items()
            }
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            # Maps have no order of their own in protocol buffers; ours is that of the names.
            writer.write(example.SerializeToString(deterministic=True))


def blocks_of(documents: list[list[str]], size: int) -> list[list[list[str]]]:
    return [documents[start : start + size] for start in range(0, len(documents), size)]


@pytest.mark.parametrize("length", [8, 64, 512])
def test_nasty_documents_become_the_bytes_of_a_slow_and_plain_way(length, tmp_path):
    documents = nasty_documents(60)
    ExampleBuilder(VOCABULARY, SEED, length).write(tmp_path / "ours", blocks_of(documents, 7))
    examples = expected_examples(VOCABULARY, documents, length)
    write_with_tensorflow(tmp_path / "theirs", examples, length)
    assert len(examples) > 60
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_real_articles_become_the_bytes_of_a_slow_and_plain_way(shared_data, tmp_path):
    """With BERT's vocabulary, whose ids take one, two and three bytes."""
    vocabulary = load_vocabulary(shared_data / "vocab" / "vocab.txt")
    text = (shared_data / "wikipedia" / "wikitext-2-valid.txt").read_text(encoding="utf-8")[:300_000]
    documents = [[line for line in part.split("\n") if line] for part in text.split(" \n = ")]
    ExampleBuilder(vocabulary, SEED, 128).write(tmp_path / "ours", [documents])
    examples = expected_examples(vocabulary, documents, 128)
    write_with_tensorflow(tmp_path / "theirs", examples, 128)
    assert len(examples) > 400 and max(max(ids) for ids, _ in examples) > 16_384
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_statistics_are_those_of_a_count_over_the_examples(tmp_path):
    documents = nasty_documents(50)
    statistics = ExampleBuilder(VOCABULARY, SEED, 64).write(tmp_path / "shard", blocks_of(documents, 9))
    rows = [ids for ids, _ in expected_examples(VOCABULARY, documents, 64)]
    tokens = [token for ids in rows for token in ids]
    lengths = [len(ids) for ids in rows]
    assert len(set(lengths)) > 5 and tokens.count(1) > 10
    tokenizer = build_tokenizer(VOCABULARY)
    lines = [line for document in documents for line in document]
    text_tokens = sum(len(tokenizer.encode(line, add_special_tokens=False).ids) for line in lines)
    cut_off = text_tokens - sum(token not in (VOCABULARY.cls_id, VOCABULARY.sep_id) for token in tokens)
    assert cut_off > 100
    assert statistics.token_counts.tolist() == [tokens.count(piece) for piece in range(len(PIECES))]
    assert statistics.figures(unk_id=1) == {
        "documents": 50,
        "examples": len(rows),
        "tokens": len(tokens),
        "cut_off_tokens": cut_off,
        "cut_off_share": round(cut_off / text_tokens, 6),
        "padding_share": round(1 - len(tokens) / (64 * len(rows)), 6),
        "unknown_share": round(tokens.count(1) / len(tokens), 6),
        "length_histogram": {str(length): lengths.count(length) for length in sorted(set(lengths))},
    }
    offsets = tfrecords.load_index(tmp_path / "shard", "output_dir")
    assert len(offsets) - 1 == len(rows)


def test_statistics_of_files_add_up_and_survive_as_json(tmp_path):
    documents = nasty_documents(40)
    builder = ExampleBuilder(VOCABULARY, SEED, 64)
    whole = builder.write(tmp_path / "whole", [documents])
    summed = ExampleStatistics.none(VOCABULARY.size, 64)
    for block in blocks_of(documents, 11):
        record = json.loads(json.dumps(builder.write(tmp_path / "part", [block]).record()))
        summed.add(ExampleStatistics.of_record(record))
    assert summed.figures(1) == whole.figures(1) and summed.examples == whole.examples > 40
    assert np.array_equal(summed.token_counts, whole.token_counts)


@pytest.mark.parametrize(
    ("lengths", "cut_off"),
    [
        # One segment: [CLS], 62 tokens, [SEP].
        ([900], 838),
        # 61 tokens fit, in one segment or two.
        ([30, 31], 0),
        ([], 0),
    ],
)
def test_tokens_that_have_no_room_are_counted_by_hand(lengths, cut_off, tmp_path):
    documents = [["the " * length for length in lengths]]
    statistics = ExampleBuilder(VOCABULARY, SEED, 64).write(tmp_path / "shard", [documents])
    figures = statistics.figures(1)
    assert figures["cut_off_tokens"] == cut_off
    assert figures["cut_off_share"] == round(cut_off / max(1, sum(lengths)), 6)


def test_files_of_an_earlier_version_leave_open_what_was_cut_off(tmp_path):
    statistics = ExampleBuilder(VOCABULARY, SEED, 64).write(tmp_path / "shard", [[["the " * 900]]])
    earlier = statistics.record()
    del earlier["text_tokens"], earlier["cut_off_tokens"]
    statistics.add(ExampleStatistics.of_record(earlier))
    statistics.add(ExampleStatistics.of_record(statistics.record()))
    figures = statistics.figures(1)
    assert figures["documents"] == 4 and not {"cut_off_tokens", "cut_off_share"} & figures.keys()
    assert "cut off" not in describe_figures(figures, 64, 1)


def test_great_losses_come_with_advice():
    figures = ExampleStatistics.none(5, 64).figures(1)
    line = (
        "0 examples of 64 from 0 documents, 0 tokens, 100.0% padding, 0.00% unknown, {} of the text cut off, "
        "in 2 shards"
    )
    for share, told in ((0.19, "19.0%"), (0.2, "20.0%")):
        first, *advice = describe_figures(figures | {"cut_off_share": share}, 64, 2).splitlines()
        assert first == line.format(told)
        assert len(advice) == (share == 0.2) and all("longer --max_seq_length" in hint for hint in advice)


@pytest.mark.parametrize("blocks", [[], [[]], [[["", "\x00"]], []]])
def test_text_without_a_token_makes_an_empty_file(blocks, tmp_path):
    statistics = ExampleBuilder(VOCABULARY, SEED, 64).write(tmp_path / "shard", blocks)
    assert (tmp_path / "shard").read_bytes() == b""
    assert tfrecords.load_index(tmp_path / "shard", "output_dir").tolist() == [0]
    figures = statistics.figures(1)
    assert (figures["examples"], figures["tokens"], figures["length_histogram"]) == (0, 0, {})


def test_one_block_is_in_memory_at_a_time(tmp_path):
    """A block's examples are in the file, or in its buffer of a megabyte, before the next is asked for."""
    written = []

    def blocks():
        for _ in range(6):
            yield [["the quick brown fox " * 20] * 40] * 150
            written.append(sum(path.stat().st_size for path in tmp_path.iterdir()))

    ExampleBuilder(VOCABULARY, SEED, 64).write(tmp_path / "shard", blocks())
    size = (tmp_path / "shard").stat().st_size
    assert size > 12_000_000
    for number, already in enumerate(written, start=1):
        assert already > size * number / 6 - 1_100_000


# -------------------------------------------------------------------------------------------- a unit's work


@pytest.fixture
def text_files(tmp_path) -> list[str]:
    paths = []
    for number in range(3):
        documents = nasty_documents(20, seed=number)
        lines = [[" ".join(line.split()) for line in document] for document in documents]
        text = "\n\n".join("\n".join(filter(None, document)) for document in lines)
        paths.append(tmp_path / f"text_{number}.txt")
        paths[-1].write_text(text, encoding="utf-8")
    return list(map(str, paths))


def test_a_text_files_shard_does_not_depend_on_the_process_or_on_what_it_did_before(text_files, tmp_path):
    def built(folder: Path, run) -> list[tuple[bytes, dict]]:
        folder.mkdir()
        records = [
            run(write_text_file, str(folder / f"{number}"), path, VOCABULARY, SEED, 64)
            for number, path in enumerate(text_files)
        ]
        return [((folder / str(number)).read_bytes(), record) for number, record in enumerate(records)]

    def alone(function, *arguments):
        example_files._builder_of_process.cache_clear()
        return function(*arguments)

    results = built(tmp_path / "alone", alone)
    assert built(tmp_path / "together", lambda function, *arguments: function(*arguments)) == results
    with ProcessPoolExecutor(1) as pool:
        assert built(tmp_path / "pool", lambda *call: pool.submit(*call).result()) == results
    assert len({content for content, _ in results}) == 3 and all(content for content, _ in results)


def test_a_process_does_not_mix_the_settings_of_two_calls(text_files, tmp_path):
    cased = Vocabulary(PIECES, do_lower_case=False)
    settings = [(VOCABULARY, 1, 64), (cased, 1, 64), (VOCABULARY, 2, 64), (VOCABULARY, 1, 32)]
    contents = []
    for setting in settings * 2:
        write_text_file(tmp_path / "shard", text_files[0], *setting)
        contents.append((tmp_path / "shard").read_bytes())
    assert contents[:4] == contents[4:] and len(set(contents)) == 4
