"""The training engine, for every task: one update, and the loop around it.

An update is: gradients of k micro-batches -> sum -> remove the loss scale -> clip by global norm -> apply.
The task hands in a function from a micro-batch to its share of the update's loss, in one part or several, and
to metric sums; because those shares are divided by the whole update's counts, the sum over micro-batches is
exact.
"""

import collections
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from batching import UpdateData
from command_line import EXIT_INTERRUPTED, EXIT_TERMINATED, RunFailure
from keyed_random import derive_key
from loss_scale import LossScale
from optimization import Optimizer, Schedule
from stall_watch import WAITING, StallWatch
from stop_signal import EvaluationStopped, StopSignal
from telemetry import Meter
from workers import ALONE, Workers

CLIP_NORM = 1.0

Sums = dict[str, np.ndarray]
LossPart = tuple[tf.Tensor, dict[str, tf.Tensor]]
LossParts = Callable[[Mapping, Mapping, tf.Tensor | None], Iterator[LossPart]]


@dataclass(frozen=True)
class UpdateResult:
    """What an update did: its loss, the gradient's norm before clipping, and whether it was applied."""

    loss: float
    gradient_norm: float
    applied: bool
    sums: dict[str, tf.Tensor]


class Engine:
    """Computes updates of a model's variables.

    Args:
        loss_parts: (micro-batch, normalizers, dropout seed) -> parts of its share of the loss, each with
            metric sums of its own; each is differentiated before the next is computed, none through another.
        variables: the variables to train, by name.
        workers: their gradients are summed, once an update.
        float16_exchange: the workers' gradients travel as float16.
        accumulation_steps: micro-batches in an update; gradients are only accumulated where it is over 1.
        loss_scaling: for float16; where gradients travel as float16 the loss is scaled in any case.
        jit_compile: compile with XLA.
        seed: the run's seed, from which dropout follows.
        lengths_vary: batches differ in length; one graph serves them all then.

    Attributes:
        trace_seconds: by how much the first update took longer than the second, which is tracing and
            compiling; None before there are two.
    """

    def __init__(
        self,
        loss_parts: LossParts,
        variables: dict[str, tf.Variable],
        optimizer: Optimizer,
        *,
        accumulation_steps: int,
        loss_scaling: bool,
        jit_compile: bool,
        seed: int,
        workers: Workers = ALONE,
        float16_exchange: bool = False,
        lengths_vary: bool = False,
    ):
        self._loss_parts = loss_parts
        self._variables = variables
        self._optimizer = optimizer
        self._seed, self._workers, self._float16_exchange = seed, workers, float16_exchange
        travels_as_float16 = float16_exchange and workers.size > 1
        self.loss_scale = LossScale(loss_scaling or travels_as_float16, accumulation_steps * workers.size)
        self._first_seconds: float | None = None
        self.trace_seconds: float | None = None
        self._accumulators: dict[str, tf.Variable] = {}
        self._graphs: tuple[Callable, Callable] | None = None
        if accumulation_steps > 1:
            self._accumulators = {name: tf.Variable(tf.zeros_like(v)) for name, v in variables.items()}
        self._lengths_vary = lengths_vary
        # No tensor decides on Python's control flow here, so AutoGraph would only make tracing slower.
        options = {"jit_compile": jit_compile, "autograph": False, "reduce_retracing": True}
        self._accumulate = tf.function(self._accumulate_micro_batch, **options)
        # Forward and backward pass, most of what is traced and compiled, are in one graph only, except where
        # gradients of the last micro-batch can travel while its others are computed.
        overlaps = workers.size > 1 and not jit_compile
        self._accumulates_all = bool(self._accumulators) and not overlaps
        self._gradients, self._apply = self._compute_gradients, self._clip_and_apply
        if workers.size > 1 and jit_compile:
            # XLA cannot compile an exchange with other workers, so it gets what comes before and after.
            self._gradients, self._apply = (tf.function(f, **options) for f in (self._gradients, self._apply))
            options = options | {"jit_compile": False}
        self._finish = tf.function(self._finish_update, **options)
        self._apply_sums = tf.function(self._apply_accumulated, **options)

    def update(
        self,
        data: UpdateData,
        learning_rate: float,
        stop: StopSignal,
        make_progress: Callable[[], None] = lambda: None,
    ) -> UpdateResult | None:
        """One update, applied if its gradient is finite; None when a signal cut it short.

        One of several workers does not let a signal cut it short: the others would wait for it.

        Args:
            make_progress: called when a micro-batch is known to be computed.
        """
        started = time.monotonic()
        loss, sums = tf.constant(0.0), None
        scale = tf.constant(self.loss_scale.value, tf.float32)
        rate = tf.constant(learning_rate, tf.float32)
        accumulate, finish = self._functions(data, scale, rate)
        begun: collections.deque[tf.Tensor] = collections.deque()
        for micro_step, batch in enumerate(data.micro_batches):
            if stop.exit_code and self._workers.size == 1:
                return None
            seed = self._dropout_seed(data.number, micro_step)
            if self._accumulates_all or micro_step < len(data.micro_batches) - 1:
                part, part_sums = accumulate(batch, data.normalizers, seed, scale)
                loss += part
                begun.append(part)
                if len(begun) > 2:
                    # Fetched, as a GPU may have begun nothing yet of what it was given; but not the last two,
                    # so that it always has something to do.
                    float(begun.popleft())
                    make_progress()
            else:
                loss, part_sums, norm, applied = finish(batch, data.normalizers, seed, scale, loss, rate)
            sums = part_sums if sums is None else add_sums(sums, part_sums)
        if self._accumulates_all:
            loss, norm, applied = self._apply_sums(scale, loss, rate)
        result = UpdateResult(float(loss), float(norm), bool(applied), sums)
        self.loss_scale.update(result.applied)
        self._note_seconds(time.monotonic() - started)
        return result

    def _note_seconds(self, seconds: float) -> None:
        if self._first_seconds is None:
            self._first_seconds = seconds
        elif self.trace_seconds is None:
            self.trace_seconds = max(0.0, self._first_seconds - seconds)

    def _functions(self, data: UpdateData, scale: tf.Tensor, rate: tf.Tensor) -> tuple[Callable, Callable]:
        """The graphs of a micro-batch and of the last one.

        Left to itself TensorFlow makes a graph for the first length and another one for all others. Which is
        the first depends on where a process starts, and the two round differently.
        """
        if not self._lengths_vary:
            return self._accumulate, self._finish
        if self._graphs is None:
            batch = {
                name: tf.TensorSpec([None] * values.ndim, values.dtype)
                for name, values in data.micro_batches[0].items()
            }
            seed = tf.TensorSpec([2], tf.int32)
            counts = {name: tf.TensorSpec([], tf.float32) for name in data.normalizers}
            shared = (batch, counts, seed, scale)
            accumulate, finish = self._accumulate, self._finish
            if self._accumulators:
                accumulate = accumulate.get_concrete_function(*shared)
            if not self._accumulates_all:
                finish = finish.get_concrete_function(*shared, tf.constant(0.0), rate)
            self._graphs = accumulate, finish
        return self._graphs

    def _dropout_seed(self, update: int, micro_step: int) -> np.ndarray:
        """int32 [2], a function of the run's seed, the update, the micro-batch and the worker."""
        key = derive_key(self._seed, "dropout", update, micro_step, self._workers.rank)
        return np.array([key & 0x7FFFFFFF, key >> 33], np.int32)

    def _compute_gradients(self, batch, normalizers, seed, scale):
        variables = list(self._variables.values())
        parts = self._loss_parts(batch, normalizers, seed)
        loss, sums, gradients = tf.constant(0.0), {}, [None] * len(variables)
        while True:
            # No part is computed before the gradients of the one before, so that what they need is let go of.
            earlier = [gradient for gradient in gradients if gradient is not None]
            with tf.control_dependencies(earlier), tf.GradientTape() as tape:
                part = next(parts, None)
            if part is None:
                break
            loss += part[0]
            sums |= part[1]
            with tf.name_scope("gradients"):
                of_part = tape.gradient(part[0], variables, output_gradients=scale)
                gradients = [_sum_where_given(*pair) for pair in zip(gradients, of_part, strict=True)]
        # A dense form of slices has no static shape where a batch's length is not known while tracing.
        for gradient, variable in zip(gradients, variables, strict=True):
            gradient.set_shape(variable.shape)
        return loss, sums, dict(zip(self._variables, gradients, strict=True))

    def _accumulate_micro_batch(self, batch, normalizers, seed, scale):
        loss, sums, gradients = self._gradients(batch, normalizers, seed, scale)
        with tf.name_scope("gradients"):
            for name, gradient in gradients.items():
                self._accumulators[name].assign_add(gradient)
        return loss, sums

    def _finish_update(self, batch, normalizers, seed, scale, earlier_loss, learning_rate):
        loss, sums, gradients = self._gradients(batch, normalizers, seed, scale)
        loss += earlier_loss
        with tf.name_scope("gradients"):
            for name, accumulator in self._accumulators.items():
                gradients[name] += accumulator
        loss, norm, applied = self._exchange_and_apply(gradients, scale, loss, learning_rate)
        return loss, sums, norm, applied

    def _apply_accumulated(self, scale, loss, learning_rate):
        with tf.name_scope("gradients"):
            gradients = {name: accumulator.value() for name, accumulator in self._accumulators.items()}
        return self._exchange_and_apply(gradients, scale, loss, learning_rate)

    def _exchange_and_apply(self, gradients, scale, loss, learning_rate):
        # What travels is the sum over all micro-batches, too large for float16 by a scale for one of them.
        divisor = self.loss_scale.shares
        gradients = self._workers.sum_gradients(gradients, self._float16_exchange, divisor)
        loss = self._workers.sum_in_graph(loss)
        with tf.name_scope("optimizer"):
            norm, applied = self._apply(gradients, loss, scale, learning_rate)
        return loss, norm, applied

    def _clip_and_apply(self, gradients, loss, scale, learning_rate):
        # A sum of squares that is finite has only finite parts, so one number tells of any overflow.
        norm = tf.linalg.global_norm(list(gradients.values())) / scale
        applied = tf.math.is_finite(norm) & tf.math.is_finite(loss)
        factor = tf.minimum(1.0, CLIP_NORM / tf.maximum(norm, 1e-30)) / scale
        factor = tf.where(applied, factor, 0.0)
        # Zero times what is not finite is zero here.
        clipped = {name: tf.math.multiply_no_nan(value, factor) for name, value in gradients.items()}
        self._optimizer.apply(clipped, learning_rate, applied)
        for accumulator in self._accumulators.values():
            accumulator.assign(tf.zeros_like(accumulator))
        return norm, applied


def _sum_where_given(earlier: tf.Tensor | None, gradient) -> tf.Tensor | None:
    """The sum of gradients, dense; None stands for zero."""
    if gradient is None:
        return earlier
    # Embedding gradients come as slices; they are summed into the dense form once, here.
    gradient = tf.convert_to_tensor(gradient)
    return gradient if earlier is None else earlier + gradient


def in_one_part(loss_function: Callable[..., LossPart]) -> LossParts:
    """A loss that is differentiated as a whole, as an Engine wants it."""

    def parts(*arguments) -> Iterator[LossPart]:
        yield loss_function(*arguments)

    return parts


def add_sums(left: Mapping, right: Mapping) -> dict:
    """Add metric sums name by name, on the device they are on."""
    return {name: left[name] + right[name] for name in left}


@dataclass
class LoopPlan:
    """When the loop does what. Updates are counted over the whole training; 0 means never.

    The last update is logged and saved whatever its number, and evaluated if `evaluates_last`. Saving comes
    last, so that a restart makes up for an evaluation that was killed; one that a signal ended is left out.
    """

    first_update: int
    last_update: int
    stop_after: int
    log_every: int
    save_every: int
    evaluate_every: int
    check_every: int = 0
    evaluates_last: bool = False

    def evaluates(self, done: int) -> bool:
        """Whether there is an evaluation after so many updates."""
        if self.evaluates_last and done == self.last_update:
            return True
        return bool(self.evaluate_every) and done % self.evaluate_every == 0


@dataclass
class Window:
    """What is logged at a time: metric sums of the updates since the last log, and their last values."""

    sums: Sums
    gradient_norm: float
    learning_rate: float
    loss_scale: float | None
    skipped_updates: int
    rates: dict[str, float]
    seconds_left: float | None


@dataclass
class Hooks:
    """The task's side of the loop, each called on every worker with the number of updates done.

    `evaluate` is also given what it is to call now and then, which may end it.
    `flops` is asked instead for the floating-point operations of an update on this worker; 0 is not known.
    """

    log: Callable[[int, Window], None]
    save: Callable[[int], None]
    evaluate: Callable[[int, Callable[[], None]], object]
    progress: Callable[[int, UpdateResult], None]
    check_replicas: Callable[[int], None] = lambda step: None
    flops: Callable[[UpdateData], int] = lambda data: 0


@dataclass
class _Progress:
    """Sums and counts since the last log line."""

    sums: dict[str, tf.Tensor] = field(default_factory=dict)
    skipped: int = 0


def run_loop(
    engine: Engine,
    updates: Iterator[UpdateData],
    schedule: Schedule,
    plan: LoopPlan,
    hooks: Hooks,
    stop: StopSignal,
    workers: Workers = ALONE,
    watch: StallWatch | None = None,
) -> tuple[int, Meter]:
    """Train from `plan.first_update` to its end, or until a signal comes to one of the workers.

    Returns:
        The number of updates done, and the throughput.

    Raises:
        RunFailure: a loss or gradient that is not finite, with the data it came from; nothing is saved then.
    """
    done = plan.first_update - 1
    saved = done
    meter = Meter(plan.last_update - done)
    progress = _Progress()
    watch = watch or StallWatch("", 0, 1, 0)
    while done < plan.stop_after:
        started = time.monotonic()
        with watch.doing("reading data"):
            data = next(updates)
        waited = time.monotonic() - started
        learning_rate = schedule(data.number - 1)
        with watch.doing(WAITING):
            data, agreed_code = _over_all_workers(data, stop, workers)
        # What they agreed on, and not a signal that has come since: all must stop before the same update.
        if agreed_code:
            break
        with watch.doing(WAITING):
            result = engine.update(data, learning_rate, stop, watch.make_progress)
        if result is None:
            break
        _check_finite(result, engine, data)
        done = data.number
        seconds = time.monotonic() - started
        meter.update_done(seconds, waited, data.sequences, data.tokens, hooks.flops(data))
        progress.sums = add_sums(progress.sums, result.sums) if progress.sums else result.sums
        progress.skipped += not result.applied
        hooks.progress(done, result)
        if done % plan.log_every == 0 or done == plan.stop_after:
            hooks.log(done, _window(progress, result, learning_rate, engine, meter, workers))
            progress = _Progress()
        if plan.evaluates(done):
            # The last one is not made up for by a restart, and of several workers none may leave the others.
            may_end = workers.size == 1 and done < plan.last_update
            with watch.doing("evaluating"), contextlib.suppress(EvaluationStopped):
                hooks.evaluate(done, stop.end_evaluation if may_end else lambda: None)
        if plan.check_every and done % plan.check_every == 0:
            hooks.check_replicas(done)
        if plan.save_every and done % plan.save_every == 0:
            with watch.doing("saving"):
                hooks.save(done)
            saved = done
    if saved != done and plan.save_every:
        with watch.doing("saving"):
            hooks.save(done)
    # Also what has come since the last update began.
    with watch.doing(WAITING):
        stop.agree(workers)
    return done, meter


def _over_all_workers(data: UpdateData, stop: StopSignal, workers: Workers) -> tuple[UpdateData, int]:
    """An update's data with the counts of all workers, and the exit code of a signal to any of them."""
    if workers.size == 1:
        return data, stop.exit_code
    counts = [*data.normalizers.values(), data.sequences, data.tokens]
    signals = [stop.exit_code == EXIT_TERMINATED, stop.exit_code == EXIT_INTERRUPTED]
    *normalizers, sequences, tokens, terminated, interrupted = workers.sum(np.array([*counts, *signals]))
    totals = dataclasses.replace(
        data,
        normalizers=dict(zip(data.normalizers, np.float32(normalizers), strict=True)),
        sequences=int(sequences),
        tokens=int(tokens),
    )
    return totals, EXIT_TERMINATED if terminated else EXIT_INTERRUPTED if interrupted else 0


def _window(
    progress: _Progress,
    result: UpdateResult,
    learning_rate: float,
    engine: Engine,
    meter: Meter,
    workers: Workers,
) -> Window:
    rates = meter.window()
    if workers.size > 1:
        rates |= _longest_wait(rates, workers)
    return Window(
        sums=workers.sum_by_name({name: value.numpy() for name, value in progress.sums.items()}),
        gradient_norm=result.gradient_norm,
        learning_rate=learning_rate,
        loss_scale=engine.loss_scale.value if engine.loss_scale.enabled else None,
        skipped_updates=progress.skipped,
        rates=rates,
        seconds_left=meter.seconds_left(),
    )


def _longest_wait(rates: dict[str, float], workers: Workers) -> dict[str, float]:
    """The worker that waits longest for its data, which all others then wait for; empty without rates."""
    waits = np.zeros(workers.size)
    waits[workers.rank] = rates.get("data_wait", 0.0)
    waits = workers.sum(waits)
    if not rates:
        return {}
    return {"worst_data_wait": float(waits.max()), "worst_data_wait_worker": float(waits.argmax())}


def _check_finite(result: UpdateResult, engine: Engine, data: UpdateData) -> None:
    if result.applied:
        return
    if not np.isfinite(result.loss):
        raise RunFailure(f"the loss of update {data.number} is {result.loss}; its data: {data.origin()}")
    if not engine.loss_scale.enabled:
        raise RunFailure(
            f"the gradient of update {data.number} is not finite (loss {result.loss:.4f}); "
            f"its data: {data.origin()}"
        )
    if engine.loss_scale.of_one_share < 1.0:
        raise RunFailure(
            f"the loss scale fell below {engine.loss_scale.shares:g} at update {data.number}: float16 cannot "
            "hold the gradients"
        )
