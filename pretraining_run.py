"""One pre-training run: the model, its start, the loop, held-out evaluation, checkpoints and logs.

The flags and the inputs have been checked (pretraining_inputs.py); here TensorFlow comes in.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tqdm import tqdm

import checkpointing
import files
import held_out_table
import weight_conversion
from batching import ExampleOrder, UpdateData
from bootstrap import add_to_groups, groups_of, intervals
from checkpointing import Checkpoint
from command_line import RunFailure, UsageError, abridged
from configuration import PretrainingConfig, max_predictions
from device import memory_named
from example_lengths import example_lengths
from example_parsing import example_length
from masking import MaskingRule, describe_masked
from model_flops import pretraining_flops
from optimization import SCHEDULES, AdamW, Lamb, Optimizer
from packed_data import PackedData
from pretraining import PretrainingModel, held_out_metrics, metrics
from pretraining_data import (
    HeldOutData,
    PretrainingData,
    has_token_counts,
    unigram_entropy,
    unigram_log_probabilities,
)
from pretraining_inputs import Inputs, Start, batch_arithmetic, batch_shape, meaning
from stop_signal import StopSignal
from training import LossParts
from training_run import TrainingRun, arrays, set_up_training
from workers import Workers

# Every held-out evaluation masks this share, whatever the training does.
_HELD_OUT_MASK_PROB = 0.15
_BATCHES_BEFORE_TRAINING = 2
LESS_MEMORY = "a smaller --train_batch_size with more --gradient_accumulation_steps, or --recompute,"


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
    with memory_named("a smaller --eval_batch_size"):
        run.evaluate(run.done)
    return 0


def show_update(config: PretrainingConfig, inputs: Inputs, start: Start, workers: Workers) -> int:
    """Print the sequences of update --show_update: where each comes from, its tokens, picks in brackets."""
    data = training_data(config, inputs, workers, start.skipped_updates)
    update = data.update(config.show_update)
    places = data.examples(config.show_update)
    number = 0
    for batch in update.micro_batches:
        for row in range(len(batch["input_ids"])):
            place = " + ".join(f"{shard} record {record}" for shard, record in places[number])
            number += 1
            length = int(batch["input_mask"][row].sum())
            picks = int(batch["masked_lm_weights"][row].sum())
            print(f"{number}. {place}, {length} tokens, {picks} picks")
            print(f"   {describe_masked(batch, row, inputs.vocabulary)}")
    return 0


class PretrainingRun(TrainingRun):
    """The parts of a run and their state."""

    _smaller = LESS_MEMORY

    def __init__(self, config: PretrainingConfig, inputs: Inputs, workers: Workers):
        self._inputs, self._shape = inputs, batch_shape(config, workers)
        _check_example_lengths(config, inputs)
        set_up_training(config)
        super().__init__(
            config,
            workers,
            inputs.vocabulary,
            PretrainingModel(config, inputs.vocabulary.size),
            lambda variables: make_optimizer(config, variables),
            checkpointing.PHASE_PREFIXES[config.phase],
        )
        self._evaluate_batch = tf.function(
            functools.partial(self._model, per_sequence=True), jit_compile=config.xla, autograph=False
        )
        self._unigram = _unigram_log_probabilities(config, inputs)
        self._held_out = _held_out_data(config, inputs, self._unigram)
        self._skipped: list[tuple[int, int]] = []

    # -------------------------------------------------------------------------------------------- start

    def start(self, start: Start) -> None:
        """Give the weights their first values: from a checkpoint, from initial weights, or random ones."""
        self._skipped, self.done = start.skipped_updates, start.step
        self._batch_of_flags = start.batch_of_flags
        if self._workers.is_main:
            self._set_first_values(start)
        self._start_alike()

    def _set_first_values(self, start: Start) -> None:
        config = self._config
        if start.checkpoint is not None and start.new_phase:
            self._start_second_phase(start.checkpoint)
        elif start.checkpoint is not None:
            self._resume(start.checkpoint)
        elif config.init_weights:
            self._load_initial_weights()
        else:
            print("starting from random weights")

    def _start_second_phase(self, checkpoint: Checkpoint) -> None:
        checkpointing.assign(self._variables, checkpoint.model, str(checkpoint.path))
        if self._config.phase2_keep_moments:
            moments = checkpoint.optimizer | {"iterations": np.int64(0)}
            checkpointing.assign(self._optimizer.named_variables(), moments, str(checkpoint.path))
        checkpoint.forget_tensors()
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
                print(f"  {title}: {abridged(names)}")
        for remark in initial.remarks:
            print(f"  note: {remark}")

    # -------------------------------------------------------------------------------------------- train

    def train(self, stop: StopSignal) -> int:
        """Run the loop to its end; returns the exit code."""
        config = self._config
        self._data = training_data(
            config, self._inputs, self._workers, self._skipped, self._watch.make_progress
        )
        if self._workers.is_main:
            files.write_json(f"{config.checkpoints_folder}/pretrain_config.json", dataclasses.asdict(config))
        self.log_parameters()
        self._print_arithmetic()
        if self._held_out is not None:
            self._evaluate_batches(min(_BATCHES_BEFORE_TRAINING, self._held_out.batches))
        last = config.num_train_steps
        stop_after = last if config.steps_this_run < 0 else min(last, self.done + config.steps_this_run)
        schedule = SCHEDULES[config.lr_schedule](
            config.learning_rate, last, config.num_warmup_steps, config.lr_decay_power, config.end_lr
        )
        meter = self._run_loop(
            self._data.from_update(self.done + 1),
            schedule,
            stop,
            last_update=last,
            stop_after=stop_after,
            evaluate_every=config.eval_every_steps if self._held_out is not None else 0,
            evaluates_last=self._held_out is not None,
            title=f"phase {config.phase}",
        )
        self._log_end(meter, stop)
        self.close()
        return stop.exit_code

    def _loss_parts(self) -> LossParts:
        return self._model.loss_parts

    def _metrics(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        return metrics(sums, self._config)

    def _flops(self, data: UpdateData) -> int:
        size = self._inputs.vocabulary.size
        return sum(sum(flops_of_batch(self._config, size, batch).values()) for batch in data.micro_batches)

    def _log_step(self, step: int) -> tuple[int, ...]:
        return (step,)

    def _log_line(self, values: dict[str, float]) -> str:
        return (
            f"Loss:{values['total_loss']:10.6f}, "
            f"Gen_loss:{values.get('masked_lm_loss', 0.0):10.6f}, "
            f"Disc_loss:{values.get('disc_loss', 0.0):10.6f}"
        )

    def _facts(self) -> dict[str, float]:
        facts = {
            "sequences_per_update": self._shape.global_batch_size,
            "training_examples": len(self._inputs.training),
        }
        if self._unigram is not None:
            facts["unigram_entropy"] = unigram_entropy(self._unigram)
        return facts

    def _epoch(self, step: int) -> float:
        return self._data.examples_seen(step) / len(self._inputs.training)

    def _checkpoint_state(self) -> dict:
        config = self._config
        return {
            "phase": config.phase,
            "meaning": meaning(config, self._inputs, self._workers),
            "discriminator": dataclasses.asdict(self._model.discriminator_config),
            "generator": dataclasses.asdict(self._model.generator_config),
            "skip_updates": self._skipped,
            "workers": dataclasses.asdict(self._shape) | {"of_flags": self._batch_of_flags},
        }

    def _print_arithmetic(self) -> None:
        config, shape = self._config, self._shape
        per_sequence = self._data.examples_per_sequence
        print("\n".join(batch_arithmetic(config, shape, len(self._inputs.training), per_sequence)))
        if config.fp16_compression and shape.workers == 1:
            print("note: --fp16_compression has no effect with one worker, which sends no gradients")

    # ----------------------------------------------------------------------------------------- evaluate

    def evaluate(self, step: int, check_stop: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Evaluate the whole held-out set, or --eval_steps batches of it.

        Returns:
            What is logged: eval_<metric>, and eval_<metric>_low and eval_<metric>_high, its 95 % interval.
        """
        grouped = self._evaluate_batches(self._held_out.batches, check_stop)
        values = held_out_metrics({name: sums.sum(axis=0) for name, sums in grouped.items()}, self._config)
        broken = [name for name, value in values.items() if not np.isfinite(value)]
        if broken:
            raise RunFailure(f"the held-out evaluation at update {step} gave no finite eval_{broken[0]}")
        bounds = intervals(grouped, functools.partial(held_out_metrics, config=self._config))
        record = {}
        for name, value in values.items():
            record[f"eval_{name}"] = value
            if name in bounds and name not in ("tokens", "sequences"):
                record[f"eval_{name}_low"], record[f"eval_{name}_high"] = bounds[name]
        self._dll.log((step,), record)
        self._tensorboard.log(step, record)
        title = f"held-out evaluation of {self._config.eval_tfrecords} at update {step}"
        tqdm.write(held_out_table.of_evaluation(title, record))
        return record

    def _evaluate_batches(
        self, count: int, check_stop: Callable[[], None] = lambda: None
    ) -> dict[str, np.ndarray]:
        """Sums over the groups of the first `count` batches' sequences; each worker computes its share."""
        normalizers = {"picks": np.float32(1), "tokens": np.float32(1)}
        # More workers than batches: those without one compute the first, which does not count.
        own = range(self._workers.rank, count, self._workers.size)
        groups = groups_of(np.arange(self._held_out.sequences(count)), self._held_out.sequences(count))
        totals, computed = {}, None
        for number in tqdm(own or [0], desc="held-out", unit="batch", leave=False, disable=None):
            self._watch.make_progress()
            check_stop()
            batch, unigram_loss = self._held_out.batch(number)
            _, sums = self._evaluate_batch(batch, normalizers)
            # The device computes this batch while the sums of the one before it are fetched.
            if computed is not None:
                self._add_batch(totals, groups, *computed)
            computed = number, sums, unigram_loss
        self._add_batch(totals, groups, *computed)
        if not own:
            totals = {name: np.zeros_like(value) for name, value in totals.items()}
        return self._workers.sum_by_name(totals)

    def _add_batch(
        self,
        totals: dict[str, np.ndarray],
        groups: np.ndarray,
        number: int,
        sums: dict[str, tf.Tensor],
        unigram_loss: np.ndarray,
    ) -> None:
        """Add the sums of batch `number` to those of its sequences' groups."""
        first = number * self._config.eval_batch_size
        groups_of_batch = groups[first : first + self._config.eval_batch_size]
        # Of the last batch the empty sequences, that fill it up, are left out.
        of_sequences = {
            name: values[: len(groups_of_batch)]
            for name, values in (arrays(sums) | {"unigram_loss": unigram_loss}).items()
        }
        for name, values in of_sequences.items():
            totals.setdefault(name, np.zeros((groups[-1] + 1, *values.shape[1:])))
        add_to_groups(totals, groups_of_batch, of_sequences)


# ------------------------------------------------------------------------------------------------- parts


def make_optimizer(config: PretrainingConfig, variables: dict[str, tf.Variable]) -> Optimizer:
    """The optimizer of the flags, with empty slots."""
    settings = {
        "beta_1": config.opt_beta_1,
        "beta_2": config.opt_beta_2,
        "weight_decay_rate": config.weight_decay_rate,
    }
    if config.optimizer == "lamb":
        return Lamb(variables, skip_adaptive=config.skip_adaptive, **settings)
    return AdamW(variables, bias_correction=config.adam_bias_correction, **settings)


def training_data(
    config: PretrainingConfig,
    inputs: Inputs,
    workers: Workers,
    skipped: list[tuple[int, int]],
    make_progress: Callable[[], None] = lambda: None,
) -> PretrainingData:
    """The data of any update of this worker.

    Args:
        make_progress: called now and then while examples are counted and packed.

    Raises:
        CorruptShard: under --pack_sequences, a record that cannot be packed.
    """
    parts = (
        inputs.training,
        ExampleOrder(len(inputs.training), config.seed, config.shuffle_block_size),
        batch_shape(config, workers),
        MaskingRule.of(inputs.vocabulary, config.mask_prob, config.max_predictions()),
    )
    settings = {
        "max_seq_length": config.max_seq_length,
        "vocabulary_size": inputs.vocabulary.size,
        "seed": config.seed,
        "skipped": skipped,
    }
    if not config.pack_sequences:
        return PretrainingData(*parts, **settings)
    lengths = example_lengths(
        inputs.training, config.max_seq_length, inputs.vocabulary.size, workers, make_progress
    )
    return PackedData(*parts, lengths, make_progress=make_progress, **settings)


def flops_of_batch(
    config: PretrainingConfig, vocabulary_size: int, batch: dict[str, np.ndarray]
) -> dict[str, int]:
    """`pretraining_flops` of a micro-batch's shapes."""
    picks = batch["masked_lm_positions"].shape[1]
    return pretraining_flops(config, vocabulary_size, *batch["input_ids"].shape, picks)


def _unigram_log_probabilities(config: PretrainingConfig, inputs: Inputs) -> np.ndarray | None:
    """For held-out evaluation, and for the log where nothing need be read for them."""
    if inputs.held_out is None and not has_token_counts(inputs.training):
        return None
    return unigram_log_probabilities(inputs.training, inputs.vocabulary, config.max_seq_length)


def _held_out_data(
    config: PretrainingConfig, inputs: Inputs, unigram: np.ndarray | None
) -> HeldOutData | None:
    if inputs.held_out is None:
        return None
    picks = max_predictions(_HELD_OUT_MASK_PROB, config.max_seq_length)
    return HeldOutData(
        inputs.held_out,
        MaskingRule.of(inputs.vocabulary, _HELD_OUT_MASK_PROB, picks),
        max_seq_length=config.max_seq_length,
        batch_size=config.eval_batch_size,
        most_batches=config.eval_steps,
        unigram_log_probabilities=unigram,
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
