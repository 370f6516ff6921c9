"""The workers of a job: this process's place among them, and everything that they exchange.

Horovod does the exchanging; a job of one worker never loads it. What is computed from the exchanges is the
same for any number of workers: gradients and counts are sums, never means of means.
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

import slurm_workers
from command_line import EXIT_OTHER_FAILED, EXIT_USAGE, OtherWorkerFailed, RunFailure, UsageError

T = TypeVar("T")

# How Horovod's launcher, Open MPI and MPICH tell a process that it is one of several.
_SIZE_VARIABLES = ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
# Gradients travel in parcels of so many bytes, so that the first can leave while the last is being computed.
_PARCEL_BYTES = 32 << 20
# How long the others leave worker 0 to print the error that ends all of them.
_SECONDS_TO_PRINT = 1.0


@dataclass(frozen=True)
class Workers:
    """This worker's number, how many there are, and the same among those of this machine.

    Every method but `broken_exchange` is called by all workers, in the same order.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the worker that writes results."""
        return self.rank == 0

    def gather(self, item: object) -> list:
        """What each worker hands in, by rank; anything that JSON can hold."""
        if self.size == 1:
            return [item]
        hvd, tf = _horovod()
        content = np.frombuffer(json.dumps(item).encode("utf-8"), np.uint8)
        with tf.device("CPU"):
            lengths = hvd.allgather(tf.constant([len(content)], tf.int64)).numpy()
            everything = hvd.allgather(tf.constant(content)).numpy().tobytes()
        ends = np.cumsum(lengths)
        return [json.loads(everything[end - length : end]) for length, end in zip(lengths, ends, strict=True)]

    def agree(self, do: Callable[[], T]) -> T:
        """Do something on every worker; where it is a mistake on one, all end with it.

        Raises:
            UsageError, RunFailure: on worker 0, naming the worker; the others leave it to print the line.
        """
        if self.size == 1:
            return do()
        result = error = None
        try:
            result = do()
        except (UsageError, RunFailure) as caught:
            error = caught
        failures = self.gather(None if error is None else [isinstance(error, UsageError), str(error)])
        failed = [(rank, *failure) for rank, failure in enumerate(failures) if failure is not None]
        if failed:
            rank, is_usage, message = failed[0]
            named = message if len(failed) == self.size else f"worker {rank}: {message}"
            self._end_together(UsageError if is_usage else RunFailure, named)
        return result

    def share(self, make: Callable[[], T]) -> T:
        """What worker 0 makes, on all workers; anything that JSON can hold."""
        return self.gather(self.agree(make if self.is_main else lambda: None))[0]

    def share_on_host(self, make: Callable[[], T]) -> T:
        """What the first worker of each machine makes, on all workers there; anything that JSON can hold."""
        made = self.gather(
            [platform.node(), self.local_rank, self.agree(make if self.local_rank == 0 else lambda: None)]
        )
        own_host = made[self.rank][0]
        firsts = [
            rank for rank, (host, local_rank, _) in enumerate(made) if host == own_host and not local_rank
        ]
        # Several machines may have one name, as in tests; the workers of one are neighbours then.
        return made[max((rank for rank in firsts if rank <= self.rank), default=firsts[0])][2]

    def check_same(self, items: Mapping[str, str]) -> None:
        """See that the workers have the same values of some items.

        Raises:
            UsageError: names the first worker and item that differ from worker 0's.
        """
        found = self.gather([platform.node(), dict(items)])
        for rank, (host, others) in enumerate(found):
            for name, value in found[0][1].items():
                if others.get(name) != value:
                    self._end_together(
                        UsageError,
                        f"worker {rank} on {host} differs from worker 0 on {found[0][0]} in its {name}: "
                        f"{others.get(name)} instead of {value}",
                    )

    def check_replicas(self, checksum: str, update: int) -> None:
        """See that all workers hold the same weights.

        Raises:
            RunFailure: names the workers that differ from most.
        """
        checksums = self.gather(checksum)
        # Of two that differ, worker 0 is taken to be right.
        usual = max(checksums, key=checksums.count)
        others = [str(rank) for rank, found in enumerate(checksums) if found != usual]
        if others:
            self._end_together(
                RunFailure,
                f"after update {update} the weights of worker {', '.join(others)} differ from the others'",
            )

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sums over the workers, float64 of any shape."""
        values = np.asarray(values, np.float64)
        if self.size == 1:
            return values
        hvd, tf = _horovod()
        with tf.device("CPU"):
            return hvd.allreduce(tf.constant(values), op=hvd.Sum).numpy()

    def sum_by_name(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Sums over the workers of arrays by name, in one exchange; dtypes stay."""
        arrays = {name: np.asarray(value) for name, value in values.items()}
        if self.size == 1:
            return arrays
        total = self.sum(np.concatenate([np.ravel(array).astype(np.float64) for array in arrays.values()]))
        parts = np.split(total, np.cumsum([array.size for array in arrays.values()])[:-1])
        return {
            name: part.reshape(array.shape).astype(array.dtype)
            for (name, array), part in zip(arrays.items(), parts, strict=True)
        }

    def sum_gradients(self, gradients: Mapping[str, object], as_float16: bool, divisor: float = 1.0) -> dict:
        """Sums over the workers of dense gradients by name, inside a graph.

        They travel in parcels of 32 MB, those that backpropagation makes first ahead, so that sending and
        computing overlap. A parcel is one tensor: the order in which its elements are summed over three and
        more workers follows from their places in it, where Horovod's own fusion would make it follow from
        which gradients happen to be ready together, and no two runs would be equal.

        Args:
            as_float16: send half the bytes.
            divisor: of what travels as float16, whose sum must be under 65,504.
        """
        if self.size == 1:
            return dict(gradients)
        hvd, tf = _horovod()
        summed = {}
        for parcel in _parcels(gradients):
            sizes = [int(np.prod(gradients[name].shape)) for name in parcel]
            sent = tf.concat([tf.reshape(gradients[name], [-1]) for name in parcel], axis=0)
            if as_float16:
                total = hvd.allreduce(sent / divisor, op=hvd.Sum, compression=hvd.Compression.fp16) * divisor
            else:
                total = hvd.allreduce(sent, op=hvd.Sum)
            totals = tf.split(total, sizes)
            for name, total in zip(parcel, totals, strict=True):
                summed[name] = tf.reshape(total, gradients[name].shape)
        return {name: summed[name] for name in gradients}

    def sum_in_graph(self, value):
        """Sum over the workers of a tensor, inside a graph."""
        if self.size == 1:
            return value
        hvd, _ = _horovod()
        return hvd.allreduce(value, op=hvd.Sum)

    def broadcast(self, variables: Mapping) -> None:
        """Give variables the values that they have on worker 0."""
        if self.size > 1:
            hvd, _ = _horovod()
            hvd.broadcast_variables(list(variables.values()), root_rank=0)

    def barrier(self) -> None:
        """Return when all workers have come here."""
        self.gather(None)

    @contextlib.contextmanager
    def broken_exchange(self) -> Iterator[None]:
        """Turn what Horovod raises when another worker is lost into one line.

        Raises:
            OtherWorkerFailed: says that this worker waited for another.
        """
        if self.size == 1:
            yield
            return
        _, tf = _horovod()
        try:
            yield
        except (tf.errors.OpError, RuntimeError) as error:
            if "orovod" not in str(error):
                raise
            raise OtherWorkerFailed(
                f"worker {self.rank} on {platform.node()}: another one ended or is cut off"
            ) from None

    def _end_together(self, kind: type[Exception], message: str):
        if self.is_main:
            raise kind(message)
        time.sleep(_SECONDS_TO_PRINT)
        sys.exit(EXIT_USAGE if kind is UsageError else EXIT_OTHER_FAILED)


ALONE = Workers()


def find_workers(stall_timeout: int = 600, *, log_all_ranks: bool = False) -> Workers:
    """The workers of this job, connected; one of a job of several is silent unless it is worker 0.

    Args:
        stall_timeout: seconds that an exchange may wait for a worker.
        log_all_ranks: let the others print too.

    Raises:
        UsageError: the process was started as one of several, and Horovod is not installed or not for that.
        RunFailure: tasks of Slurm that do not find each other.
    """
    sizes = [os.environ[name] for name in _SIZE_VARIABLES if name in os.environ]
    # Tasks of srun may find variables of PMI too; Horovod's and Open MPI's come from a launcher within it.
    tasks = slurm_workers.number_of_tasks(os.environ)
    by_srun = tasks > 1 and not {"HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE"} & os.environ.keys()
    size = tasks if by_srun else int(next(iter(sizes), 1))
    if size == 1:
        return ALONE
    # Horovod's own limits come later than stall_watch.py's, which can say what each worker is doing.
    os.environ.setdefault("HOROVOD_GLOO_TIMEOUT_SECONDS", str(2 * stall_timeout))
    os.environ.setdefault("HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", str(2 * stall_timeout))
    # No fusion but that of sum_gradients, which says why.
    os.environ.setdefault("HOROVOD_FUSION_THRESHOLD", "0")
    try:
        import horovod.tensorflow as hvd
    except ImportError as error:
        raise UsageError(
            f"one of {size} workers, and no Horovod ({error}): bash scripts/install.sh --horovod"
        ) from None
    if by_srun and not ("PMIX_RANK" in os.environ and hvd.mpi_built()):
        os.environ.update(slurm_workers.meet(os.environ))
    hvd.init()
    if hvd.size() != size:
        raise UsageError(
            f"started as one of {size} workers, and Horovod, compiled without MPI, finds {hvd.size()}: "
            "start them with start_workers.py, horovodrun --gloo or srun --mpi=none"
        )
    workers = Workers(hvd.rank(), hvd.size(), hvd.local_rank(), hvd.local_size())
    if not workers.is_main and not log_all_ranks:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (open as long as the process)
    return workers


def software() -> dict[str, str]:
    """The versions that must be the same on all workers, by name."""
    packages = ("tensorflow", "keras", "horovod", "numpy", "tokenizers")
    found = {}
    for name in packages:
        for distribution in (name, f"{name}-cpu"):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[f"{name} version"] = importlib.metadata.version(distribution)
    return found | {"Python version": platform.python_version()}


def _horovod():
    import horovod.tensorflow as hvd
    import tensorflow as tf

    return hvd, tf


def _parcels(gradients: Mapping) -> list[list[str]]:
    """Names in parcels of about 32 MB; the last variables come first, as backpropagation reaches them so."""
    parcels, room = [], 0
    for name in reversed(list(gradients)):
        if room <= 0:
            parcels.append([])
            room = _PARCEL_BYTES
        parcels[-1].append(name)
        room -= int(np.prod(gradients[name].shape)) * gradients[name].dtype.size
    return parcels
