"""What a worker of tests/test_distributed.py runs: each exchange once, with what came of it as JSON lines.

The argument is the file for the lines of each worker; its rank is put behind the name.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from command_line import RunFailure, UsageError
from workers import find_workers


def main(path: str) -> None:
    workers = find_workers()
    rank = workers.rank
    with open(f"{path}.{rank}", "w", encoding="utf-8") as stream:

        def say(name: str, value: object) -> None:
            stream.write(json.dumps([name, value]) + "\n")
            stream.flush()

        def end_of(do) -> str:
            """How something ends, and on which worker: the others leave by SystemExit."""
            try:
                do()
            except (UsageError, RunFailure) as error:
                return f"{type(error).__name__}: {error}"
            except SystemExit as error:
                return f"exit {error.code}"
            return "went on"

        def mistake_on_1() -> None:
            if rank == 1:
                raise UsageError("a wrong flag")

        def failure() -> None:
            raise RunFailure("the same everywhere")

        say("place", [workers.rank, workers.size, workers.local_rank, workers.local_size])
        say("gather", workers.gather({"rank": rank, "text": "ä" * rank}))
        say("share", workers.share(lambda: ["made by", rank]))
        say("share on host", workers.share_on_host(lambda: ["made by", rank]))
        sums = workers.sum_by_name({"n": np.int32(rank + 1), "x": np.float32([rank, 0.5])})
        say("sums", {name: [value.tolist(), str(value.dtype)] for name, value in sums.items()})
        say("agree", workers.agree(lambda: rank * 10))
        say("mistake", end_of(lambda: workers.agree(mistake_on_1)))
        say("failure", end_of(lambda: workers.agree(failure)))
        say("alike", end_of(lambda: workers.check_same({"seed": "1", "code": "a"})))
        say("different", end_of(lambda: workers.check_same({"seed": "1", "code": "ab"[rank]})))
        say("replicas", end_of(lambda: workers.check_replicas("same", 5)))
        say("diverged", end_of(lambda: workers.check_replicas("same" if rank == 0 else "other", 7)))
        say("gradients", _gradients(workers))


def _gradients(workers) -> dict:
    import tensorflow as tf

    found = {}
    for as_float16 in (False, True):
        # Sevenths show the type that was sent; 9 million numbers make more than one parcel.
        own = {"a": tf.fill([9_000_000], (workers.rank + 1) / 7), "b": tf.constant([[1.0 + workers.rank]])}
        summed = tf.function(lambda own=own, short=as_float16: workers.sum_gradients(own, short))()
        # Float16 ends at 65,504.
        large = {"c": tf.constant([1e5 * (1 + workers.rank)])}
        divided = tf.function(lambda own=large, short=as_float16: workers.sum_gradients(own, short, 256.0))()
        values = summed["a"][0], summed["a"][-1], summed["b"][0, 0], divided["c"][0]
        found[str(as_float16)] = [float(value) for value in values]
    return found


if __name__ == "__main__":
    main(sys.argv[1])
