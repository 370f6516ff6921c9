"""The training engine, for every task: one update, and the loop around it.

An update is: gradients of k micro-batches -> sum -> remove the loss scale -> clip by global norm -> apply.
The task hands in a function from a micro-batch to its share of the update's loss and to metric sums; because
those shares are divided by the whole update's counts, the sum over micro-batches is exact.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from batching import UpdateData
from command_line import EXIT_INTERRUPTED, EXIT_TERMINATED, RunFailure
from keyed_random import derive_key
from optimization import Optimizer, Schedule
from telemetry import Meter

CLIP_NORM = 1.0

Sums = dict[str, np.ndarray]
LossFunction = Callable[[Mapping, Mapping, tf.Tensor | None], tuple[tf.Tensor, dict[str, tf.Tensor]]]


@dataclass(frozen=True)
class UpdateResult:
    """What an update did: its loss, the gradient's norm before clipping, and whether it was applied."""

    loss: float
    gradient_norm: float
    applied: bool
    sums: dict[str, tf.Tensor]


class LossScale:
    """Dynamic loss scaling for float16: halved by an overflow, doubled after 2,000 updates without one."""

    INITIAL = 2.0**15
    _GROWTH_INTERVAL = 2000

    def __init__(self, enabled: bool):
        self.enabled = enabled
        self.value = self.INITIAL if enabled else 1.0
        self.updates_without_overflow = 0

    def update(self, applied: bool) -> None:
        if not self.enabled:
            return
        self.updates_without_overflow = self.updates_without_overflow + 1 if applied else 0
        if not applied:
            self.value /= 2
        elif self.updates_without_overflow % self._GROWTH_INTERVAL == 0:
            self.value *= 2

    def state(self) -> dict:
        return {"value": self.value, "updates_without_overflow": self.updates_without_overflow}

    def restore(self, state: dict) -> None:
        if self.enabled:
            self.value = state["value"]
            self.updates_without_overflow = state["updates_without_overflow"]


class Engine:
    """Computes updates of a model's variables.

    Args:
        loss_function: (micro-batch, normalizers, dropout seed) -> (share of the loss, metric sums).
        variables: the variables to train, by name.
        accumulation_steps: micro-batches in an update; gradients are only accumulated where it is over 1.
        loss_scaling: for float16.
        jit_compile: compile with XLA.
        seed: the run's seed, from which dropout follows.
    """

    def __init__(
        self,
        loss_function: LossFunction,
        variables: dict[str, tf.Variable],
        optimizer: Optimizer,
        *,
        accumulation_steps: int,
        loss_scaling: bool,
        jit_compile: bool,
        seed: int,
        rank: int = 0,
    ):
        self._loss_function = loss_function
        self._variables = variables
        self._optimizer = optimizer
        self._seed, self._rank = seed, rank
        self.loss_scale = LossScale(loss_scaling)
        self._accumulators: dict[str, tf.Variable] = {}
        if accumulation_steps > 1:
            self._accumulators = {name: tf.Variable(tf.zeros_like(v)) for name, v in variables.items()}
        # No tensor decides on Python's control flow here, so AutoGraph would only make tracing slower.
        # Batches of many lengths share one trace.
        options = {"jit_compile": jit_compile, "autograph": False, "reduce_retracing": True}
        self._accumulate = tf.function(self._accumulate_micro_batch, **options)
        self._finish = tf.function(self._finish_update, **options)

    def update(self, data: UpdateData, learning_rate: float, stop: "StopSignal") -> UpdateResult | None:
        """One update, applied if its gradient is finite; None when a signal cut it short."""
        loss, sums = tf.constant(0.0), None
        scale = tf.constant(self.loss_scale.value, tf.float32)
        for micro_step, batch in enumerate(data.micro_batches):
            if stop.exit_code:
                return None
            seed = self._dropout_seed(data.number, micro_step)
            if micro_step < len(data.micro_batches) - 1:
                part, part_sums = self._accumulate(batch, data.normalizers, seed, scale)
            else:
                part, part_sums, norm, applied = self._finish(
                    batch, data.normalizers, seed, scale, tf.constant(learning_rate, tf.float32)
                )
            loss += part
            sums = part_sums if sums is None else add_sums(sums, part_sums)
        result = UpdateResult(float(loss), float(norm), bool(applied), sums)
        self.loss_scale.update(result.applied)
        return result

    def _dropout_seed(self, update: int, micro_step: int) -> np.ndarray:
        """int32 [2], a function of the run's seed, the update, the micro-batch and the worker."""
        key = derive_key(self._seed, "dropout", update, micro_step, self._rank)
        return np.array([key & 0x7FFFFFFF, key >> 33], np.int32)

    def _gradients(self, batch, normalizers, seed, scale):
        with tf.GradientTape() as tape:
            loss, sums = self._loss_function(batch, normalizers, seed)
            scaled_loss = loss * scale
        gradients = tape.gradient(scaled_loss, list(self._variables.values()))
        # Embedding gradients come as slices; they are summed into the dense form once, here.
        dense = [tf.convert_to_tensor(gradient) for gradient in gradients]
        return loss, sums, dict(zip(self._variables, dense, strict=True))

    def _accumulate_micro_batch(self, batch, normalizers, seed, scale):
        loss, sums, gradients = self._gradients(batch, normalizers, seed, scale)
        for name, gradient in gradients.items():
            self._accumulators[name].assign_add(gradient)
        return loss, sums

    def _finish_update(self, batch, normalizers, seed, scale, learning_rate):
        loss, sums, gradients = self._gradients(batch, normalizers, seed, scale)
        for name, accumulator in self._accumulators.items():
            gradients[name] += accumulator
        # A sum of squares that is finite has only finite parts, so one number tells of any overflow.
        norm = tf.linalg.global_norm(list(gradients.values())) / scale
        finite = tf.math.is_finite(norm) & tf.math.is_finite(loss)
        factor = tf.minimum(1.0, CLIP_NORM / tf.maximum(norm, 1e-30)) / scale

        def apply():
            self._optimizer.apply({name: value * factor for name, value in gradients.items()}, learning_rate)
            return True

        applied = tf.cond(finite, apply, lambda: False)
        for accumulator in self._accumulators.values():
            accumulator.assign(tf.zeros_like(accumulator))
        return loss, sums, norm, applied


def add_sums(left: Mapping, right: Mapping) -> dict:
    """Add metric sums name by name, on the device they are on."""
    return {name: left[name] + right[name] for name in left}


class StopSignal:
    """Remembers SIGTERM and Ctrl-C, so that the loop can stop and save; a second one kills.

    Batch systems and `timeout` signal the whole process group, and a launcher in it passes the signal on, so
    what comes within two seconds of the first is taken for the same.
    """

    _SAME_SIGNAL_SECONDS = 2.0

    def __init__(self):
        self.exit_code = 0
        self._first_at = 0.0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._remember)

    def _remember(self, number, frame):
        if not self.exit_code:
            self.exit_code = EXIT_TERMINATED if number == signal.SIGTERM else EXIT_INTERRUPTED
            self._first_at = time.monotonic()
        elif time.monotonic() - self._first_at > self._SAME_SIGNAL_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


@dataclass
class LoopPlan:
    """When the loop does what. Updates are counted over the whole training; 0 means never.

    The last update is logged and saved whatever its number.
    """

    first_update: int
    last_update: int
    stop_after: int
    log_every: int
    save_every: int
    evaluate_every: int


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
    """The task's side of the loop, each called with the number of updates done."""

    log: Callable[[int, Window], None]
    save: Callable[[int], None]
    evaluate: Callable[[int], None]
    progress: Callable[[int, UpdateResult], None]


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
) -> tuple[int, Meter]:
    """Train from `plan.first_update` to its end, or until a signal comes.

    Returns:
        The number of updates done, and the throughput.

    Raises:
        RunFailure: a loss or gradient that is not finite, with the data it came from; nothing is saved then.
    """
    done = plan.first_update - 1
    saved = done
    meter = Meter(plan.last_update - done)
    progress = _Progress()
    while done < plan.stop_after and not stop.exit_code:
        started = time.monotonic()
        data = next(updates)
        waited = time.monotonic() - started
        learning_rate = schedule(data.number - 1)
        result = engine.update(data, learning_rate, stop)
        if result is None:
            break
        _check_finite(result, engine, data)
        done = data.number
        meter.update_done(time.monotonic() - started, waited, data.sequences, data.tokens)
        progress.sums = add_sums(progress.sums, result.sums) if progress.sums else result.sums
        progress.skipped += not result.applied
        hooks.progress(done, result)
        if done % plan.log_every == 0 or done == plan.stop_after:
            hooks.log(done, _window(progress, result, learning_rate, engine, meter))
            progress = _Progress()
        if plan.evaluate_every and done % plan.evaluate_every == 0:
            hooks.evaluate(done)
        if plan.save_every and done % plan.save_every == 0:
            hooks.save(done)
            saved = done
    if saved != done and plan.save_every:
        hooks.save(done)
    return done, meter


def _window(
    progress: _Progress, result: UpdateResult, learning_rate: float, engine: Engine, meter: Meter
) -> Window:
    return Window(
        sums={name: value.numpy() for name, value in progress.sums.items()},
        gradient_norm=result.gradient_norm,
        learning_rate=learning_rate,
        loss_scale=engine.loss_scale.value if engine.loss_scale.enabled else None,
        skipped_updates=progress.skipped,
        rates=meter.window(),
        seconds_left=meter.seconds_left(),
    )


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
    if engine.loss_scale.value < 1.0:
        raise RunFailure(
            f"the loss scale fell below 1 at update {data.number}: float16 cannot hold the gradients"
        )
