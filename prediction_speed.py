"""How fast a network predicts: throughput and latencies of batches, what compiling takes left out."""

import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from workers import ALONE, Workers

T = TypeVar("T")

_PERCENTILES = {"p50": 50, "p90": 90, "p95": 95, "p99": 99, "p99.9": 99.9, "max": 100}


class PredictionClock:
    """Counts and times the batches of a prediction.

    Attributes:
        sequences: predicted so far, each counted once.
    """

    def __init__(self, workers: Workers = ALONE):
        self._workers = workers
        self.sequences = 0
        self._seen_lengths: set[int] = set()
        self._timed_sequences, self._timed_seconds = 0, 0.0
        self._latencies: list[float] = []

    def time(self, length: int, sequences: int, compute: Callable[[], T]) -> T:
        """Compute a batch and count it.

        Args:
            length: that the batch is padded to.
            sequences: different ones in it.
        """
        started = time.monotonic()
        result = compute()
        seconds = time.monotonic() - started
        self.sequences += sequences
        # The first batch of a length traces or compiles.
        if length in self._seen_lengths:
            self._latencies.append(seconds)
            self._timed_sequences += sequences
            self._timed_seconds += seconds
        self._seen_lengths.add(length)
        return result

    def collect(self) -> None:
        """Add what the other workers have counted and timed to this one's."""
        own = [self.sequences, self._timed_sequences, self._timed_seconds, self._latencies]
        sequences, timed, seconds, latencies = zip(*self._workers.gather(own), strict=True)
        self.sequences, self._timed_sequences = sum(sequences), sum(timed)
        # They compute side by side.
        self._timed_seconds = max(seconds)
        self._latencies = [latency for part in latencies for latency in part]

    def speed(self) -> dict[str, float]:
        """Sequences a second and latencies of a batch in milliseconds; nothing where nothing was timed."""
        if not self._latencies:
            return {}
        latencies = 1000 * np.array(self._latencies)
        values = {"inference_sequences_per_second": self._timed_sequences / self._timed_seconds}
        values |= {f"latency_{name}": float(np.percentile(latencies, q)) for name, q in _PERCENTILES.items()}
        return values | {"latency_mean": float(latencies.mean())}
