"""What the runs of all tasks share: engine, weights and optimizer, the loop's hooks, checkpoints, logs.

A task's run (pretraining_run.py, squad_run.py) adds its model, its start, its metrics and its evaluation.
"""

import abc
import contextlib
import dataclasses
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

import checkpointing
import fused_operations
import machine_ceiling
from batching import UpdateData
from checkpointing import Checkpoint
from command_line import RunFailure, UsageError
from device import describe_environment, memory_named, optimize_graphs, set_up_device, use_whole_vectors
from optimization import Optimizer, Schedule
from stall_watch import StallWatch
from start_up import StartUp
from stop_signal import StopSignal
from telemetry import UNITS, DllLog, Meter, TensorBoardLog, duration
from tokenization import Vocabulary
from training import Engine, Hooks, LoopPlan, LossParts, UpdateResult, Window, in_one_part, run_loop
from workers import Workers


def set_up_training(config) -> None:
    """Prepare TensorFlow, Keras and the chains of fused_operations.py for a run that trains.

    Args:
        config: the settings of any task; those of the device are read.
    """
    use_whole_vectors()
    set_up_device(config.precision, deterministic=config.deterministic, seed=config.seed)
    # An update that is compiled as a whole takes its chains in.
    compiles_chains = config.compile_chains and not config.xla
    fused_operations.compile_chains(compiles_chains)
    optimize_graphs(not compiles_chains)


class TrainingRun(abc.ABC):
    """The parts of a run and their state.

    Args:
        config: the task's settings; of these the names that all tasks share are read here.
        model: gives losses and metric sums, and its weights by name.
        make_optimizer: called with those weights.
        checkpoint_prefix: what the names of this run's checkpoints begin with.
    """

    # NVIDIA's key of the loss that is trained on.
    _loss_key = "total_loss"
    _units = UNITS
    # Whether batches differ in length, and the name of the flag that sends gradients as float16.
    _lengths_vary = False
    _float16_flag = "fp16_compression"
    # What takes less memory, for the message where a device's is full.
    _smaller = "a smaller --train_batch_size with more --gradient_accumulation_steps"

    def __init__(
        self,
        config,
        workers: Workers,
        vocabulary: Vocabulary,
        model: keras.layers.Layer,
        make_optimizer: Callable[[dict[str, tf.Variable]], Optimizer],
        checkpoint_prefix: str,
    ):
        self._start_up = StartUp()
        self._config, self._workers, self._vocabulary = config, workers, vocabulary
        self._model, self._checkpoint_prefix = model, checkpoint_prefix
        self._model.build()
        self._variables = self._model.named_variables()
        self._optimizer = make_optimizer(self._variables)
        self._engine = Engine(
            self._loss_parts(),
            self._variables,
            self._optimizer,
            accumulation_steps=config.accumulation_steps(workers.size),
            loss_scaling=config.precision == "amp",
            jit_compile=config.xla,
            seed=config.seed,
            workers=workers,
            float16_exchange=getattr(config, self._float16_flag),
            lengths_vary=self._lengths_vary,
        )
        self._started = time.time()
        self._ceiling = machine_ceiling.Ceiling(config.precision)
        self._last_metrics: dict[str, float] = {}
        self.done = 0
        self._watch = StallWatch(
            f"{config.checkpoints_folder}/.stalled", workers.rank, workers.size, config.stall_timeout
        )
        self._dll, self._tensorboard = self._open_logs()
        self._dll.declare_units()

    # ------------------------------------------------------------------------------------- of the task

    @abc.abstractmethod
    def evaluate(self, step: int, check_stop: Callable[[], None] = lambda: None) -> object:
        """Evaluate after `step` updates; called as the loop's plan says.

        Args:
            check_stop: to be called before each batch; may raise EvaluationStopped.
        """

    @abc.abstractmethod
    def _metrics(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        """The logged metrics; `_loss_key` is one of them."""

    @abc.abstractmethod
    def _flops(self, data: UpdateData) -> int:
        """Floating-point operations of an update on this worker (model_flops.py)."""

    @abc.abstractmethod
    def _log_step(self, step: int) -> tuple[int, ...]:
        """How DLLogger numbers an update."""

    @abc.abstractmethod
    def _epoch(self, step: int) -> float:
        """Epochs seen after `step` updates."""

    @abc.abstractmethod
    def _checkpoint_state(self) -> dict:
        """What a checkpoint's state.json has beside what all tasks record."""

    def _loss_parts(self) -> LossParts:
        """The loss as the engine wants it."""
        return in_one_part(self._model)

    def _log_line(self, values: dict[str, float]) -> str:
        """The task's part of the line at a terminal."""
        return f"Loss:{values[self._loss_key]:10.6f}"

    # ------------------------------------------------------------------------------------------ parts

    def _open_logs(self) -> tuple[DllLog, TensorBoardLog]:
        """Worker 0's logs, and under --log_all_ranks those of the others in files of their own."""
        config, workers = self._config, self._workers
        path = Path(config.json_summary or f"{config.logs_folder}/dllogger.log")
        folder = config.logs_folder
        if not workers.is_main:
            path = path.with_name(f"{path.stem}_rank{workers.rank}{path.suffix}")
            if not config.log_all_ranks:
                path, folder = Path(os.devnull), None
        return DllLog(path, self._units), TensorBoardLog(folder, workers.rank, workers.size)

    def _start_alike(self) -> None:
        """Give all workers the weights, slots and loss scale that worker 0 starts with."""
        if self._workers.size == 1:
            return
        self._workers.broadcast(self._variables)
        self._workers.broadcast(self._optimizer.named_variables())
        self._engine.loss_scale.restore(self._workers.share(self._engine.loss_scale.state))
        self._check_replicas(self.done)

    def _check_replicas(self, step: int) -> None:
        digest = hashlib.sha256()
        for tensors in (self._variables, self._optimizer.named_variables()):
            for tensor in tensors.values():
                digest.update(np.ascontiguousarray(tensor.numpy()).view(np.uint8))
        self._workers.check_replicas(digest.hexdigest(), step)

    def log_parameters(self) -> None:
        """Record every setting, what the run works on, and the versions, as the first lines of this start."""
        for name, value in dataclasses.asdict(self._config).items():
            self._dll.parameter({name: value})
        self._dll.parameter({"workers": self._workers.size} | self._facts())
        if self._engine.loss_scale.enabled:
            self._dll.parameter({"loss_scale_shares": self._engine.loss_scale.shares})
        self._dll.parameter({"TENSORFLOW_VERSION": tf.__version__, "KERAS_VERSION": keras.__version__})
        self._dll.parameter(describe_environment())

    def _facts(self) -> dict[str, float]:
        """What the task's log says of its data, beside the settings."""
        return {}

    def _resume(self, checkpoint: Checkpoint) -> None:
        checkpointing.assign(self._variables, checkpoint.model, str(checkpoint.path))
        checkpointing.assign(self._optimizer.named_variables(), checkpoint.optimizer, str(checkpoint.path))
        checkpoint.forget_tensors()
        self._engine.loss_scale.restore(checkpoint.state["loss_scale"])
        print(f"going on from {checkpoint.path}, update {self.done}")

    def _run_loop(
        self,
        updates: Iterator[UpdateData],
        schedule: Schedule,
        stop: StopSignal,
        *,
        last_update: int,
        stop_after: int,
        evaluate_every: int,
        evaluates_last: bool = False,
        title: str,
    ) -> Meter:
        config = self._config
        if self._workers.is_main and not config.skip_checkpoint:
            # Else the next restart would take up what this run leaves behind by going on from before it.
            checkpointing.set_aside_newer(config.checkpoints_folder, self._checkpoint_prefix, self.done)
        plan = LoopPlan(
            first_update=self.done + 1,
            last_update=last_update,
            stop_after=stop_after,
            log_every=config.log_freq,
            save_every=0 if config.skip_checkpoint else config.save_checkpoints_steps,
            evaluate_every=evaluate_every,
            check_every=config.check_replicas_steps if self._workers.size > 1 else 0,
            evaluates_last=evaluates_last,
        )
        with tqdm(
            total=last_update, initial=self.done, desc=title, unit="update", disable=self._bar_is_off()
        ) as self._bar:
            hooks = Hooks(
                self._log, self._save, self.evaluate, self._show_progress, self._check_replicas, self._flops
            )
            with self._failure_logged():
                self.done, meter = run_loop(
                    self._engine, updates, schedule, plan, hooks, stop, self._workers, self._watch
                )
        updates.close()
        # A worker that left now, with a signal's exit code say, would have the others ended as they save.
        self._workers.barrier()
        return meter

    @contextlib.contextmanager
    def _failure_logged(self) -> Iterator[None]:
        """What ends a run by itself stands in its log, for the verdict on its health."""
        try:
            with memory_named(self._smaller):
                yield
        except Exception as failure:
            lines = str(failure).strip().splitlines() or [""]
            kind = "" if isinstance(failure, RunFailure | UsageError) else f"{type(failure).__name__}: "
            # A full disk may be the failure.
            with contextlib.suppress(OSError):
                self._dll.log((), {"failure": kind + lines[0]})
            raise

    def _bar_is_off(self) -> bool | None:
        """None shows the bar at a terminal alone."""
        return None

    def _log_end(self, meter: Meter, stop: StopSignal) -> None:
        summary = self._summary() | {"training_sequences_per_second": meter.sequences_per_second()}
        self._dll.log((), summary)
        print("<FINAL STEP METRICS> " + ", ".join(f"{name}: {value:.5g}" for name, value in summary.items()))
        print(f"Total Time: {duration(summary['e2e_train_time'])}")
        if stop.exit_code:
            then = (
                "nothing is saved"
                if self._config.skip_checkpoint
                else "--restore_checkpoint goes on from there"
            )
            print(f"stopped by a signal after update {self.done}; {then}")

    def close(self) -> None:
        """Close the logs, and leave the other workers."""
        self._watch.stop()
        self._dll.close()
        self._tensorboard.close()

    # ------------------------------------------------------------------------------------------ hooks

    def _show_progress(self, step: int, result: UpdateResult) -> None:
        self._start_up.update_done()
        self._bar.update(step - self._bar.n)
        self._bar.set_postfix(loss=f"{result.loss:.3f}", refresh=False)

    def _log(self, step: int, window: Window) -> None:
        values = self._metrics(window.sums)
        self._last_metrics = values
        rates = dict(window.rates)
        record = {}
        if rates:
            record["train_perf"] = rates.pop("train_perf")
            record["utilization"] = self._ceiling.utilization(rates.pop("flops_per_second"))
        record |= values
        record |= {"grad_norm": window.gradient_norm, "learning_rate": window.learning_rate}
        if window.loss_scale is not None:
            record["loss_scale"] = window.loss_scale
            record["skipped_updates"] = window.skipped_updates
        record |= rates
        record["epoch"] = self._epoch(step)
        self._dll.log(self._log_step(step), record)
        self._tensorboard.log(step, record)
        tqdm.write(
            f"Step:{step:6d}, {self._log_line(values)}, "
            f"Perf:{record.get('train_perf', 0.0):6.1f}, ETA: {duration(window.seconds_left)}"
        )

    def _save(self, step: int) -> None:
        config = self._config
        if not self._workers.is_main:
            return
        state = {
            "config": dataclasses.asdict(config),
            "loss_scale": self._engine.loss_scale.state(),
            "tensorflow": tf.__version__,
        }
        path = checkpointing.save(
            config.checkpoints_folder,
            self._checkpoint_prefix,
            step,
            model=arrays(self._variables),
            optimizer=arrays(self._optimizer.named_variables()),
            state=state | self._checkpoint_state(),
            extra_files=self._vocabulary.files(),
            keep=config.keep_checkpoint_max,
        )
        self._dll.log((), self._summary())
        tqdm.write(f"saved {path}")

    def _summary(self) -> dict[str, float]:
        summary = dict(self._last_metrics)
        if self._loss_key in summary:
            summary["final_loss"] = summary[self._loss_key]
        summary |= {"e2e_train_time": time.time() - self._started}
        if self._engine.trace_seconds is not None:
            summary["trace_seconds"] = self._engine.trace_seconds
        return summary | self._start_up.seconds()


def arrays(tensors: dict) -> dict[str, np.ndarray]:
    """Tensors or variables by name as NumPy arrays."""
    return {name: tensor.numpy() for name, tensor in tensors.items()}
