"""How many tokens each example of a set of shards has: counted once, and kept beside the shards.

The counts of a shard `NAME` are `lengths.NAME.npy`: int64, one more entry than records, the last being the
shard's size in bytes, so that counts of an older shard of that name are known for such.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

import numpy as np
from tqdm import tqdm

import tfrecords
from pretraining_data import read_examples
from tfrecords import CorruptShard, Shards
from workers import Workers

_EXAMPLES_AT_ONCE = 1000
# So often do the workers meet while they count: who is done sooner would be taken for one that hangs.
_ROUND_SECONDS = 1.0


def example_lengths(
    shards: Shards,
    max_seq_length: int,
    vocabulary_size: int,
    workers: Workers,
    make_progress: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Tokens of each example, padding not counted: unsigned integers [examples], in the order of the shards.

    What is not there yet is counted by the workers of each machine, a part each. Where it cannot be kept (a
    read-only folder) each worker counts on its own, in every run.

    Args:
        make_progress: called on all workers about every second while any of them counts.

    Raises:
        CorruptShard: names the shard and record that is damaged, does not fit the run, or does not have its
            tokens before its padding.
    """
    firsts = shards.first_examples()
    counted: dict[str, np.ndarray] = {}

    def count(paths: list[str]) -> Iterator[None]:
        missing = [path for path in paths if path not in counted and _kept(shards, path) is None]
        for path in tqdm(missing, desc="token counts", unit="shard", leave=False, disable=None):
            parts = []
            for part in _counts(shards, path, firsts[path], max_seq_length, vocabulary_size):
                parts.append(part)
                yield
            counted[path] = np.concatenate(parts)
            _keep(shards, path, counted[path])

    _in_rounds(count(list(firsts)[workers.local_rank :: workers.local_size]), workers, make_progress)
    # The others' parts, which are there by now wherever they could be kept.
    _in_rounds(count(list(firsts)), workers, make_progress)
    dtype = np.min_scalar_type(max_seq_length)
    lengths = {
        path: (counted[path] if path in counted else _kept(shards, path)).astype(dtype) for path in firsts
    }
    return np.concatenate([lengths[path] for path in shards.paths if path in lengths])


def _kept(shards: Shards, path: str) -> np.ndarray | None:
    """A shard's counts as they were kept; None where there are none that fit it."""
    records, size = shards.sizes[path]
    with contextlib.suppress(FileNotFoundError):
        # Not as a memory map, which is an open file as long as the array is there.
        array = tfrecords.read_array(tfrecords.lengths_path(path))
        if array is not None and array.dtype == np.int64 and array.shape == (records + 1,):
            return array[:-1] if array[-1] == size else None
    return None


def _counts(
    shards: Shards, path: str, first: int, max_seq_length: int, vocabulary_size: int
) -> Iterator[np.ndarray]:
    """The tokens of a shard's examples, some at a time."""
    records, _ = shards.sizes[path]
    for begin in range(first, first + records, _EXAMPLES_AT_ONCE):
        examples = np.arange(begin, min(begin + _EXAMPLES_AT_ONCE, first + records))
        mask = read_examples(shards, examples, max_seq_length, vocabulary_size)["input_mask"]
        counts = mask.sum(axis=1, dtype=np.int64)
        wrong = (counts == 0) | ((mask > 0) != (np.arange(max_seq_length) < counts[:, None])).any(axis=1)
        if wrong.any():
            shard, record = shards.locate(int(examples[np.argmax(wrong)]))
            raise CorruptShard(
                f"--pack_sequences: record {record} of {shard} does not have its tokens before its padding"
            )
        yield counts


def _keep(shards: Shards, path: str, counts: np.ndarray) -> None:
    _, size = shards.sizes[path]
    # The folder may be read-only; the next run then counts again.
    with contextlib.suppress(OSError):
        tfrecords.write_array(tfrecords.lengths_path(path), np.append(counts, size))


def _in_rounds(work: Iterator[None], workers: Workers, make_progress: Callable[[], None]) -> None:
    """Do what every worker has of some work, meeting again and again until all are done."""

    def do_some() -> bool:
        """Whether there is more."""
        until = time.monotonic() + _ROUND_SECONDS
        return any(time.monotonic() > until for _ in work)

    while any(workers.gather(workers.agree(do_some))):
        make_progress()
