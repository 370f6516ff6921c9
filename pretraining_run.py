"""One pre-training run: the model, its start, the loop, held-out evaluation, checkpoints and logs.

The flags and the inputs have been checked (pretraining_inputs.py); here TensorFlow comes in.
"""

import dataclasses
import time

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

import checkpointing
import files
import weight_conversion
from batching import ExampleOrder
from checkpointing import Checkpoint
from command_line import RunFailure, UsageError
from configuration import PretrainingConfig, max_predictions
from distributed import Workers, set_up_device
from masking import MaskingRule
from optimization import SCHEDULES, AdamW, Lamb, Optimizer
from pretraining import PretrainingModel, held_out_metrics, metrics
from pretraining_data import HeldOutData, PretrainingData, unigram_log_probabilities
from pretraining_inputs import Inputs, Start, batch_shape, meaning
from telemetry import UNITS, DllLog, Meter, TensorBoardLog, duration
from tfrecords import example_length
from training import Engine, Hooks, LoopPlan, StopSignal, UpdateResult, Window, add_sums, run_loop

# Every held-out evaluation masks this share, whatever the training does.
_HELD_OUT_MASK_PROB = 0.15
_BATCHES_BEFORE_TRAINING = 2
_SHOWN_HELD_OUT = (
    "eval_total_loss",
    "eval_masked_lm_loss_masked_only",
    "eval_unigram_cross_entropy",
    "eval_disc_accuracy",
    "eval_disc_auc",
)


def train(config: PretrainingConfig, inputs: Inputs, start: Start, workers: Workers) -> int:
    """Train to the end, or until a signal; returns the exit code."""
    stop = StopSignal()
    run = PretrainingRun(config, inputs, workers)
    run.start(start)
    if run.done >= config.num_train_steps:
        print(f"{config.model_dir}: all {config.num_train_steps} updates are done already")
        return 0
    return run.train(stop)


def evaluate_only(config: PretrainingConfig, inputs: Inputs, start: Start, workers: Workers) -> int:
    """Evaluate the restored, initial or random weights on the held-out shards and print the table."""
    run = PretrainingRun(config, inputs, workers)
    run.start(start)
    run.log_parameters()
    values = run.evaluate(run.done)
    print(f"held-out evaluation of {config.eval_tfrecords} at update {run.done}:")
    for name, value in values.items():
        print(f"  {name:36} {value:.4f}")
    return 0


def show_update(config: PretrainingConfig, inputs: Inputs, start: Start, workers: Workers) -> int:
    """Print the sequences of update --show_update: where each comes from, its tokens, picks in brackets."""
    data = _training_data(config, inputs, workers, start.skipped_updates)
    update = data.update(config.show_update)
    places = data.examples(config.show_update)
    pieces = np.array(inputs.vocabulary.pieces, dtype=object)
    number = 0
    for batch in update.micro_batches:
        for row in range(len(batch["input_ids"])):
            shard, record = places[number]
            number += 1
            length = int(batch["input_mask"][row].sum())
            words = list(pieces[batch["input_ids"][row][:length]])
            picks = zip(batch["masked_lm_positions"][row], batch["masked_lm_is_mask"][row], strict=True)
            weights = batch["masked_lm_weights"][row]
            for (position, is_mask), weight in zip(picks, weights, strict=True):
                if weight:
                    words[position] = f"[MASK {words[position]}]" if is_mask else f"[KEPT {words[position]}]"
            print(f"{number}. {shard} record {record}, {length} tokens, {int(weights.sum())} picks")
            print(f"   {' '.join(words).replace(' ##', '')}")
    return 0


class PretrainingRun:
    """The parts of a run and their state."""

    def __init__(self, config: PretrainingConfig, inputs: Inputs, workers: Workers):
        self._config, self._inputs, self._workers = config, inputs, workers
        self._vocabulary = inputs.vocabulary
        _check_example_lengths(config, inputs)
        set_up_device(config.precision, deterministic=config.deterministic, seed=config.seed)
        self._model = PretrainingModel(config, self._vocabulary.size)
        self._model.build()
        self._variables = self._model.named_variables()
        self._optimizer = _optimizer(config, self._variables)
        self._engine = Engine(
            self._model,
            self._variables,
            self._optimizer,
            accumulation_steps=config.accumulation_steps(workers.size),
            loss_scaling=config.precision == "amp",
            jit_compile=config.xla,
            seed=config.seed,
            rank=workers.rank,
        )
        self._evaluate_batch = tf.function(self._model, jit_compile=config.xla, autograph=False)
        self._held_out = _held_out_data(config, inputs)
        self._skipped: list[tuple[int, int]] = []
        self._started = time.time()
        self._last_metrics: dict[str, float] = {}
        self.done = 0
        self._dll = DllLog(config.json_summary or f"{config.logs_folder}/dllogger.log")
        for name, unit in UNITS.items():
            self._dll.metadata(name, {"unit": unit})
        self._tensorboard = TensorBoardLog(config.logs_folder, workers.rank, workers.size)

    # -------------------------------------------------------------------------------------------- start

    def start(self, start: Start) -> None:
        """Give the weights their first values: from a checkpoint, from initial weights, or random ones."""
        config = self._config
        self._skipped, self.done = start.skipped_updates, start.step
        if start.checkpoint is not None and start.new_phase:
            self._start_second_phase(start.checkpoint)
        elif start.checkpoint is not None:
            self._resume(start.checkpoint)
        elif config.init_weights:
            self._load_initial_weights()
        else:
            print("starting from random weights")

    def _resume(self, checkpoint: Checkpoint) -> None:
        checkpointing.assign(self._variables, checkpoint.model, str(checkpoint.path))
        checkpointing.assign(self._optimizer.named_variables(), checkpoint.optimizer, str(checkpoint.path))
        self._engine.loss_scale.restore(checkpoint.state["loss_scale"])
        print(f"going on from {checkpoint.path}, update {self.done}")

    def _start_second_phase(self, checkpoint: Checkpoint) -> None:
        checkpointing.assign(self._variables, checkpoint.model, str(checkpoint.path))
        if self._config.phase2_keep_moments:
            moments = checkpoint.optimizer | {"iterations": np.int64(0)}
            checkpointing.assign(self._optimizer.named_variables(), moments, str(checkpoint.path))
        print(f"phase 2 starts from the weights of {checkpoint.path}")

    def _load_initial_weights(self) -> None:
        folder = self._config.init_weights
        shapes = {name: tuple(variable.shape) for name, variable in self._variables.items()}
        initial = weight_conversion.read_initial_weights(
            folder,
            shapes,
            self._model.discriminator_config,
            self._model.generator_config,
            self._vocabulary,
        )
        for name, tensor in initial.tensors.items():
            self._variables[name].assign(tensor)
        print(
            f"starting from the weights in {folder}: {len(initial.tensors)} of {len(shapes)} variables found"
        )
        for title, names in (("missing, random", initial.missing), ("unused", initial.unused)):
            if names:
                print(f"  {title}: {_abridged(names)}")
        for remark in initial.remarks:
            print(f"  note: {remark}")

    # -------------------------------------------------------------------------------------------- train

    def train(self, stop: StopSignal) -> int:
        """Run the loop to its end; returns the exit code."""
        config = self._config
        files.write_json(f"{config.checkpoints_folder}/pretrain_config.json", dataclasses.asdict(config))
        self.log_parameters()
        self._print_arithmetic()
        if self._held_out is not None:
            self._evaluate_batches(min(_BATCHES_BEFORE_TRAINING, self._held_out.batches))
        last = config.num_train_steps
        stop_after = last if config.steps_this_run < 0 else min(last, self.done + config.steps_this_run)
        plan = LoopPlan(
            first_update=self.done + 1,
            last_update=last,
            stop_after=stop_after,
            log_every=config.log_freq,
            save_every=0 if config.skip_checkpoint else config.save_checkpoints_steps,
            evaluate_every=config.eval_every_steps if self._held_out is not None else 0,
        )
        schedule = SCHEDULES[config.lr_schedule](
            config.learning_rate, last, config.num_warmup_steps, config.lr_decay_power, config.end_lr
        )
        updates = _training_data(config, self._inputs, self._workers, self._skipped).from_update(
            self.done + 1
        )
        with tqdm(
            total=last, initial=self.done, desc=f"phase {config.phase}", unit="update", disable=None
        ) as self._bar:
            hooks = Hooks(self._log, self._save, self.evaluate, self._show_progress)
            self.done, meter = run_loop(self._engine, updates, schedule, plan, hooks, stop)
        updates.close()
        self._finish(meter, stop)
        return stop.exit_code

    def _finish(self, meter: Meter, stop: StopSignal) -> None:
        complete = self.done == self._config.num_train_steps
        if complete and self._held_out is not None and not self._evaluated_at(self.done):
            self.evaluate(self.done)
        summary = self._summary() | {"training_sequences_per_second": meter.sequences_per_second()}
        self._dll.log((), summary)
        print("<FINAL STEP METRICS> " + ", ".join(f"{name}: {value:.5g}" for name, value in summary.items()))
        print(f"Total Time: {duration(summary['e2e_train_time'])}")
        if stop.exit_code:
            print(f"stopped by a signal after update {self.done}; --restore_checkpoint goes on from there")
        self._dll.close()
        self._tensorboard.close()

    def _evaluated_at(self, step: int) -> bool:
        every = self._config.eval_every_steps
        return bool(every) and step % every == 0

    def _show_progress(self, step: int, result: UpdateResult) -> None:
        self._bar.update(step - self._bar.n)
        self._bar.set_postfix(loss=f"{result.loss:.3f}", refresh=False)

    def _log(self, step: int, window: Window) -> None:
        values = metrics(window.sums, self._config)
        self._last_metrics = values
        record = {"train_perf": window.rates["train_perf"]} if window.rates else {}
        record |= values
        record |= {"grad_norm": window.gradient_norm, "learning_rate": window.learning_rate}
        if window.loss_scale is not None:
            record["loss_scale"] = window.loss_scale
        if window.skipped_updates:
            record["skipped_updates"] = window.skipped_updates
        record |= {name: value for name, value in window.rates.items() if name != "train_perf"}
        shape = batch_shape(self._config, self._workers)
        record["epoch"] = step * shape.global_batch_size / len(self._inputs.training)
        self._dll.log((step,), record)
        self._tensorboard.log(step, record)
        tqdm.write(
            f"Step:{step:6d}, Loss:{values['total_loss']:10.6f}, "
            f"Gen_loss:{values.get('masked_lm_loss', 0.0):10.6f}, "
            f"Disc_loss:{values.get('disc_loss', 0.0):10.6f}, "
            f"Perf:{record.get('train_perf', 0.0):6.1f}, ETA: {duration(window.seconds_left)}"
        )

    def _save(self, step: int) -> None:
        config = self._config
        state = {
            "phase": config.phase,
            "config": dataclasses.asdict(config),
            "meaning": meaning(config, self._inputs, self._workers),
            "discriminator": dataclasses.asdict(self._model.discriminator_config),
            "generator": dataclasses.asdict(self._model.generator_config),
            "loss_scale": self._engine.loss_scale.state(),
            "skip_updates": self._skipped,
            "workers": dataclasses.asdict(batch_shape(config, self._workers)),
            "tensorflow": tf.__version__,
        }
        path = checkpointing.save(
            config.checkpoints_folder,
            checkpointing.PHASE_PREFIXES[config.phase],
            step,
            model={name: variable.numpy() for name, variable in self._variables.items()},
            optimizer={
                name: variable.numpy() for name, variable in self._optimizer.named_variables().items()
            },
            state=state,
            extra_files=self._vocabulary.files(),
            keep=config.keep_checkpoint_max,
        )
        self._dll.log((), self._summary())
        tqdm.write(f"saved {path}")

    def _summary(self) -> dict[str, float]:
        summary = dict(self._last_metrics)
        if "total_loss" in summary:
            summary["final_loss"] = summary["total_loss"]
        return summary | {"e2e_train_time": time.time() - self._started}

    def log_parameters(self) -> None:
        """Record every setting and the versions, as the first lines of this start."""
        for name, value in dataclasses.asdict(self._config).items():
            self._dll.parameter({name: value})
        self._dll.parameter({"TENSORFLOW_VERSION": tf.__version__, "KERAS_VERSION": keras.__version__})

    def _print_arithmetic(self) -> None:
        config, shape = self._config, batch_shape(self._config, self._workers)
        count, examples = shape.global_batch_size, len(self._inputs.training)
        total = count * config.num_train_steps
        print(
            f"batch: {shape.sequences} per worker x {shape.accumulation_steps} accumulated x {shape.workers} "
            f"workers = {count:,} sequences, {count * config.max_seq_length:,} tokens an update"
        )
        print(
            f"phase {config.phase}: {config.num_train_steps:,} updates = {total:,} sequences = "
            f"{total / examples:.2f} epochs of {examples:,} examples; {config.num_warmup_steps:,} of warm-up"
        )
        if config.fp16_compression and shape.workers == 1:
            print("note: --fp16_compression has no effect with one worker, which sends no gradients")

    # ----------------------------------------------------------------------------------------- evaluate

    def evaluate(self, step: int) -> dict[str, float]:
        """Evaluate the whole held-out set, or --eval_steps batches of it; logs and returns eval_* values."""
        values = held_out_metrics(self._evaluate_batches(self._held_out.batches), self._config)
        values = {f"eval_{name}": value for name, value in values.items()}
        broken = [name for name, value in values.items() if not np.isfinite(value)]
        if broken:
            raise RunFailure(f"the held-out evaluation at update {step} gave no finite {broken[0]}")
        self._dll.log((step,), values)
        self._tensorboard.log(step, values)
        tqdm.write(
            f"Held-out at {step}: "
            + ", ".join(
                f"{name.removeprefix('eval_')} {values[name]:.4f}"
                for name in _SHOWN_HELD_OUT
                if name in values
            )
        )
        return values

    def _evaluate_batches(self, count: int) -> dict[str, np.ndarray]:
        sums, unigram_loss = None, 0.0
        normalizers = {"picks": np.float32(1), "tokens": np.float32(1)}
        for number in tqdm(range(count), desc="held-out", unit="batch", leave=False, disable=None):
            batch, batch_unigram_loss = self._held_out.batch(number)
            _, batch_sums = self._evaluate_batch(batch, normalizers)
            sums = batch_sums if sums is None else add_sums(sums, batch_sums)
            unigram_loss += batch_unigram_loss
        return _arrays(sums) | {"unigram_loss": np.float64(unigram_loss)}


# ------------------------------------------------------------------------------------------------- parts


def _optimizer(config: PretrainingConfig, variables: dict[str, tf.Variable]) -> Optimizer:
    settings = {
        "beta_1": config.opt_beta_1,
        "beta_2": config.opt_beta_2,
        "weight_decay_rate": config.weight_decay_rate,
    }
    if config.optimizer == "lamb":
        return Lamb(variables, skip_adaptive=config.skip_adaptive, **settings)
    return AdamW(variables, bias_correction=config.adam_bias_correction, **settings)


def _training_data(
    config: PretrainingConfig, inputs: Inputs, workers: Workers, skipped: list[tuple[int, int]]
) -> PretrainingData:
    return PretrainingData(
        inputs.training,
        ExampleOrder(len(inputs.training), config.seed, config.shuffle_block_size),
        batch_shape(config, workers),
        MaskingRule.of(inputs.vocabulary, config.mask_prob, config.max_predictions()),
        max_seq_length=config.max_seq_length,
        vocabulary_size=inputs.vocabulary.size,
        seed=config.seed,
        skipped=skipped,
    )


def _held_out_data(config: PretrainingConfig, inputs: Inputs) -> HeldOutData | None:
    if inputs.held_out is None:
        return None
    picks = max_predictions(_HELD_OUT_MASK_PROB, config.max_seq_length)
    return HeldOutData(
        inputs.held_out,
        MaskingRule.of(inputs.vocabulary, _HELD_OUT_MASK_PROB, picks),
        max_seq_length=config.max_seq_length,
        batch_size=config.eval_batch_size,
        most_batches=config.eval_steps,
        unigram_log_probabilities=unigram_log_probabilities(
            inputs.training, inputs.vocabulary, config.max_seq_length
        ),
    )


def _check_example_lengths(config: PretrainingConfig, inputs: Inputs) -> None:
    """See that the first record of every shard has the length of the run."""
    for flag, shards in (("pretrain_tfrecords", inputs.training), ("eval_tfrecords", inputs.held_out)):
        if shards is None:
            continue
        for path, example in shards.first_examples().items():
            length = example_length(shards.read(example))
            if length != config.max_seq_length:
                found = "no pre-training examples" if length is None else f"examples of {length} tokens"
                raise UsageError(f"--max_seq_length {config.max_seq_length}: --{flag} {path} holds {found}")


def _arrays(tensors: dict) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _abridged(names: list[str], most: int = 8) -> str:
    more = f", … ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more
