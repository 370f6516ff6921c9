"""How fast data preparation is on one core, against what it is built on, and as a whole; and the reader.

    python scripts/data_speed.py --text text.txt --vocab_file vocab.txt
    python scripts/data_speed.py --text text.txt --vocab_file vocab.txt --reader_batch 128
    python scripts/data_speed.py --text text.txt --vocab_file vocab.txt --dump wiki.bz2 --chain_megabytes 9,99

Rates are megabytes, or the reader's examples, a second of CPU time (user and system) of this process.
Measures take turns; the median of the rounds counts. The whole chain, text to TFRecords of 128 and 512 by
data/dataPrep.py, is run once for each size, and timed by the clock.
"""

import bz2
import dataclasses
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

# Run by its path, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import chain_speed
from plain_wordpiece import PlainTokenizer

import example_builder
import tfrecords
from batching import BatchShape, ExampleOrder
from command_line import RunFailure, UsageError, option, parse, require_at_least, run_program
from configuration import PretrainingConfig, max_predictions
from corpus import read_blocks
from data import wikipedia_extraction
from data.documents import Tally
from example_files import ExampleBuilder
from masking import MaskingRule
from pretraining_data import PretrainingData, read_examples
from tokenization import Vocabulary, build_tokenizer, load_vocabulary

_SEED = 12345
_LINES_PER_CALL = 256
_NAME_WIDTH = 58


@dataclasses.dataclass
class SpeedConfig:
    """Settings of this program."""

    text: str = option(
        dataclasses.MISSING, "text file, one sentence a line, a blank line between documents", group="speed"
    )
    vocab_file: str = option(dataclasses.MISSING, "WordPiece vocabulary, one piece a line", group="speed")
    max_seq_length: int = option(128, "tokens in an example", group="speed")
    rounds: int = option(3, "times that each is measured", group="speed")
    dump: str | None = option(None, "Wikipedia dump whose extraction is measured too", group="speed")
    chain_megabytes: str | None = option(
        None, "comma-separated sizes of text for which the whole chain is measured too", group="speed"
    )
    n_processes: int = option(2, "worker processes of the whole chain", group="speed")
    reader_batch: int = option(
        0, "measure too how fast updates of so many sequences are read and masked; 0 does not", group="speed"
    )
    megabytes: float = option(
        0.0, "repeat the text up to this size, its documents renamed; 0 takes it as it is", group="speed"
    )

    def __post_init__(self):
        require_at_least(8, self, "max_seq_length")
        require_at_least(1, self, "rounds")
        require_at_least(0, self, "megabytes", "reader_batch")
        require_at_least(1, self, "n_processes")
        if self.dump and not os.path.isfile(self.dump):
            raise UsageError(f"--dump {self.dump}: no such file")
        sizes = [size.strip() for size in (self.chain_megabytes or "1").split(",")]
        if not all(size.isdecimal() and int(size) > 0 for size in sizes):
            raise UsageError(f"--chain_megabytes {self.chain_megabytes}: are not whole numbers with commas")


@dataclasses.dataclass(frozen=True)
class Measure:
    """What is timed: `run` works through so many megabytes or examples once."""

    name: str
    amount: float
    run: Callable[[], object]


def main() -> int:
    config = parse(SpeedConfig, description=__doc__)
    # Rates are those of one core.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as folder:
        benchmarks = [(text_to_tfrecords, "MB/s")]
        if config.dump:
            benchmarks.append((wikipedia_to_text, "MB/s"))
        if config.reader_batch:
            benchmarks.append((tfrecords_to_updates, "ex./s"))
        for benchmark, unit in benchmarks:
            measures, check = benchmark(config, Path(folder))
            _print_table(measures, _time(measures, config.rounds), unit)
            print(check())
        if config.chain_megabytes:
            _print_chain(config, Path(folder))
    return 0


def _print_chain(config: SpeedConfig, folder: Path) -> None:
    print(
        f"text to TFRecords of 128 and 512 by data/dataPrep.py, {config.n_processes} processes, by the clock"
    )
    print(chain_speed.HEAD)
    text = _read_text(config)
    for size in map(int, config.chain_megabytes.split(",")):
        pieces = repeat_text(text, size * 1_000_000)
        print(chain_speed.measure_chain(pieces, config.vocab_file, config.n_processes, folder), flush=True)


def _time(measures: list[Measure], rounds: int) -> list[list[float]]:
    """What each measure works through in a CPU second, in each round."""
    rates: list[list[float]] = [[] for _ in measures]
    for _ in range(rounds):
        for measure, of_measure in zip(measures, rates, strict=True):
            started = time.process_time()
            measure.run()
            of_measure.append(measure.amount / (time.process_time() - started))
    return rates


def _print_table(measures: list[Measure], rates: list[list[float]], unit: str) -> None:
    """Medians, and their ratios to the first measure's."""
    print(f"{'':{_NAME_WIDTH}} {unit:>7} {'ratio':>6}   of all rounds")
    medians = [statistics.median(of_measure) for of_measure in rates]
    for measure, of_measure, median in zip(measures, rates, medians, strict=True):
        rounds = " ".join(f"{rate:.2f}" for rate in of_measure)
        print(f"{measure.name:{_NAME_WIDTH}} {median:7.2f} {median / medians[0]:6.2f}   {rounds}")


# ------------------------------------------------------------------------------------------ text to TFRecords


def text_to_tfrecords(config: SpeedConfig, folder: Path) -> tuple[list[Measure], Callable[[], str]]:
    """Our way from a text file to a shard, against the tokenizer alone and against plain Python."""
    vocabulary = load_vocabulary(config.vocab_file)
    text = _text_file(config, folder)
    lines = [line for block in read_blocks(text, True) for document in block for line in document]
    megabytes = os.path.getsize(text) / 1e6
    print(
        f"text to TFRecords: {megabytes:.1f} MB in {len(lines):,} lines to examples of "
        f"{config.max_seq_length}, medians of {config.rounds}"
    )
    tokenizer = build_tokenizer(vocabulary)
    name, library = _fastest_call(tokenizer, lines)
    practised = ExampleBuilder(vocabulary, _SEED, config.max_seq_length)
    ours, plain = folder / "ours", folder / "plain"

    def build_anew():
        builder = ExampleBuilder(vocabulary, _SEED, config.max_seq_length)
        builder.write(ours, read_blocks(text, True))

    practised.write(ours, read_blocks(text, True))
    measures = [
        Measure(f"tokenizers library alone ({name})", megabytes, library),
        Measure("text to TFRecords", megabytes, build_anew),
        Measure(
            "text to TFRecords, its words met before",
            megabytes,
            lambda: practised.write(ours, read_blocks(text, True)),
        ),
        Measure(
            "text to TFRecords in plain Python",
            megabytes,
            lambda: _write_plainly(plain, text, vocabulary, config.max_seq_length),
        ),
    ]

    def check() -> str:
        if ours.read_bytes() != plain.read_bytes():
            raise RunFailure(f"--text {config.text}: our shard and that of plain Python differ")
        return "our shard and that of plain Python are the same bytes"

    return measures, check


# ------------------------------------------------------------------------------------------ Wikipedia to text


def wikipedia_to_text(config: SpeedConfig, folder: Path) -> tuple[list[Measure], Callable[[], str]]:
    """The extraction of a dump's articles, beside its decompression alone; megabytes are those of its XML."""
    parts = wikipedia_extraction.plan([config.dump])
    with open(config.dump, "rb") as stream:
        opened = bz2.open if stream.read(3) == b"BZh" else open
    articles = [0]

    def decompress() -> int:
        with opened(config.dump, "rb") as stream:
            return sum(map(len, iter(lambda: stream.read(1 << 20), b"")))

    def extract():
        articles[0] = sum(1 for part in parts for _ in wikipedia_extraction.read(part, Tally()))

    megabytes = decompress() / 1e6
    print(f"Wikipedia to text: {megabytes:.1f} MB of XML, medians of {config.rounds}")
    measures = [
        Measure("decompression alone", megabytes, decompress),
        Measure("dump to paragraphs of articles", megabytes, extract),
    ]
    return measures, lambda: f"{articles[0]:,} articles"


# --------------------------------------------------------------------------------------- TFRecords to updates


def tfrecords_to_updates(config: SpeedConfig, folder: Path) -> tuple[list[Measure], Callable[[], str]]:
    """The reader of pre-training, drained by one thread, beside its steps alone; an epoch in each round."""
    vocabulary, path, size = load_vocabulary(config.vocab_file), folder / "shard", config.reader_batch
    ExampleBuilder(vocabulary, _SEED, config.max_seq_length).write(
        path, read_blocks(_text_file(config, folder), True)
    )
    shards = tfrecords.Shards([str(path)], flag="text")
    updates = len(shards) // size
    if not updates:
        raise UsageError(
            f"--reader_batch {size}: the text makes {len(shards)} examples; --megabytes makes it longer"
        )
    mask_prob = PretrainingConfig.mask_prob
    data = PretrainingData(
        shards,
        ExampleOrder(len(shards), _SEED),
        BatchShape(size, 1),
        MaskingRule.of(vocabulary, mask_prob, max_predictions(mask_prob, config.max_seq_length)),
        max_seq_length=config.max_seq_length,
        vocabulary_size=vocabulary.size,
        seed=_SEED,
        skipped=[],
    )
    examples = np.arange(updates * size).reshape(updates, size)
    print(
        f"TFRecords to updates: {updates} of {size} examples of {config.max_seq_length}, medians of "
        f"{config.rounds}"
    )
    measures = [
        Measure(
            "records and their checksums",
            examples.size,
            lambda: [shards.read(int(example)) for example in examples.flat],
        ),
        Measure(
            "records to arrays",
            examples.size,
            lambda: [
                read_examples(shards, batch, config.max_seq_length, vocabulary.size) for batch in examples
            ],
        ),
        Measure(
            "shuffled, masked, ready for the step",
            examples.size,
            lambda: [data.update(number) for number in range(1, updates + 1)],
        ),
    ]

    def check() -> str:
        sequences = itertools.chain.from_iterable(map(data.examples, range(1, updates + 1)))
        read = set(itertools.chain.from_iterable(sequences))
        if len(read) != examples.size:
            raise RunFailure(
                f"--text {config.text}: {examples.size} examples were to be read, not {len(read)}"
            )
        return f"{len(read):,} examples, each once"

    return measures, check


# ------------------------------------------------------------------------------------------------------ texts


def _read_text(config: SpeedConfig) -> str:
    try:
        text = Path(config.text).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--text {config.text}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--text {config.text}: not UTF-8") from None
    if not text.strip():
        raise UsageError(f"--text {config.text}: holds no text")
    return text


def _text_file(config: SpeedConfig, folder: Path) -> str:
    """The text that is measured: the file itself, or a longer one made of it."""
    text = _read_text(config)
    if not config.megabytes:
        return config.text
    path = folder / "text.txt"
    with open(path, "w", encoding="utf-8") as stream:
        for piece in repeat_text(text, int(config.megabytes * 1e6)):
            stream.write(piece)
    return str(path)


def repeat_text(text: str, size: int) -> Iterator[str]:
    """The documents of a text, again and again up to `size` bytes; the first line of each names it."""
    documents = [document.strip("\n") for document in text.split("\n\n") if document.strip()]
    written = number = 0
    while written < size:
        piece = f"Document {number} .\n{documents[number % len(documents)]}\n\n"
        yield piece
        written += len(piece.encode("utf-8"))
        number += 1


def _fastest_call(tokenizer, lines: list[str]) -> tuple[str, Callable[[], None]]:
    """The library's fastest way to the ids of lines, by one round of each."""

    def one_by_one():
        for line in lines:
            _ = tokenizer.encode(line, add_special_tokens=False).ids

    def in_batches(encode):
        for start in range(0, len(lines), _LINES_PER_CALL):
            for encoding in encode(lines[start : start + _LINES_PER_CALL], add_special_tokens=False):
                _ = encoding.ids

    calls = {
        "encode": one_by_one,
        "encode_batch": lambda: in_batches(tokenizer.encode_batch),
        "encode_batch_fast": lambda: in_batches(tokenizer.encode_batch_fast),
    }
    (rates,) = zip(*_time([Measure(name, 1.0, call) for name, call in calls.items()], 1), strict=True)
    name = max(zip(rates, calls, strict=True))[1]
    return name, calls[name]


def _write_plainly(path: Path, text: str, vocabulary: Vocabulary, max_seq_length: int) -> None:
    tokenize = PlainTokenizer(vocabulary)
    cls, sep = np.array([[vocabulary.cls_id], [vocabulary.sep_id]], np.int32)
    with tfrecords.ShardWriter(path) as shard:
        for block in read_blocks(text, True):
            for document in block:
                lines = [tokenize(line) for line in document]
                tokens = np.array([token for line in lines for token in line], np.int32)
                key = example_builder.document_key(_SEED, document)
                for segments in example_builder.build_examples(map(len, lines), max_seq_length, key):
                    ids, first_length = example_builder.join_segments(segments, tokens, cls, sep)
                    (payload,) = tfrecords.serialize_examples(ids, [len(ids)], [first_length], max_seq_length)
                    frame = tfrecords.frame_record(payload)
                    shard.write_frames(frame, [len(frame)])


if __name__ == "__main__":
    run_program(main)
