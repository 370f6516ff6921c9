"""What a pre-training run would cost and what looks wrong about it: printed, without training or writing.

The arithmetic follows from the flags; time, padding and memory come from a few updates that are done and
forgotten. The run itself is pretraining_run.py's.
"""

import dataclasses
import re
import shutil
import time
import types
from pathlib import Path

import tensorflow as tf

import machine_ceiling
from batching import UpdateData
from configuration import PretrainingConfig
from device import memory_named
from optimization import SCHEDULES
from pretraining import PretrainingModel
from pretraining_inputs import Inputs, Start, batch_arithmetic, batch_shape
from pretraining_run import LESS_MEMORY, flops_of_batch, make_optimizer, training_data
from telemetry import duration
from training import Engine
from training_run import set_up_training
from workers import Workers

_TIMED_UPDATES = 3
# Of an update that has more micro-batches: the second one shows what each further one takes.
_MOST_MICRO_BATCHES = 2
# (learning rate, sequences an update): Clark et al. 2020, table 6, for adam, and NVIDIA's base for lamb.
_RECIPES = {
    "adam": {"small": (5e-4, 128), "base": (2e-4, 256), "large": (2e-4, 2048)},
    "lamb": dict.fromkeys(("small", "base", "large"), (6e-3, 67_584)),
}
_FAR_FROM_RECIPE = 4.0
_MOST_EPOCHS = 40
_MOST_PADDING = 0.3


def dry_run(config: PretrainingConfig, inputs: Inputs, start: Start, workers: Workers) -> int:
    """Print the report; returns the exit code, 0."""
    with memory_named(LESS_MEMORY):
        lines, warnings = _report(config, inputs, start, workers)
    if workers.is_main:
        print("\n".join(lines))
        print("\n".join(f"warning: {warning}" for warning in warnings) or "nothing looks wrong")
    return 0


def what_looks_wrong(config: PretrainingConfig, sequences: int, epoch: float, padding: float) -> list[str]:
    """One line for each setting that is likely a mistake.

    Args:
        sequences: of an update. epoch: sequences of an epoch. padding: its share of the tokens.
    """
    found = []
    updates, warm_up = config.num_train_steps, config.num_warmup_steps
    if warm_up > updates / 2:
        found.append(f"--num_warmup_steps {warm_up}: more than half of the {updates} updates")
    epochs = updates * sequences / epoch
    if epochs > _MOST_EPOCHS:
        found.append(f"--num_train_steps {updates}: {epochs:.1f} epochs, over {_MOST_EPOCHS}")
    if padding > _MOST_PADDING:
        advice = "" if config.pack_sequences else " (--pack_sequences fills them)"
        found.append(
            f"--max_seq_length {config.max_seq_length}: {padding:.0%} of the tokens are padding{advice}"
        )
    rate, batch = _RECIPES[config.optimizer][config.model_size]
    # Both optimizers' rates go with the root of the batch (You et al. 2020; Malladi et al. 2022).
    expected = rate * (sequences / batch) ** 0.5
    if not expected / _FAR_FROM_RECIPE <= config.learning_rate <= expected * _FAR_FROM_RECIPE:
        found.append(
            f"--learning_rate {config.learning_rate:g}: the recipe's {rate:g} at {batch:,} sequences an "
            f"update makes about {expected:.2g} at {sequences:,}"
        )
    return found


def _report(
    config: PretrainingConfig, inputs: Inputs, start: Start, workers: Workers
) -> tuple[list[str], list[str]]:
    shape, length, size = batch_shape(config, workers), config.max_seq_length, inputs.vocabulary.size
    set_up_training(config)
    ceiling = machine_ceiling.of_run(config.precision)
    before = _memory_in_use()
    model = PretrainingModel(config, size)
    model.build()
    variables = model.named_variables()
    optimizer = make_optimizer(config, variables)
    engine = Engine(
        model.loss_parts,
        variables,
        optimizer,
        accumulation_steps=shape.accumulation_steps,
        loss_scaling=config.precision == "amp",
        jit_compile=config.xla,
        seed=config.seed,
        workers=workers,
        float16_exchange=config.fp16_compression,
    )
    training = training_data(config, inputs, workers, start.skipped_updates)
    data = training.update(start.step + 1)
    tokens = shape.sequences * shape.accumulation_steps * length
    padding = 1 - data.tokens / tokens
    seconds = _seconds_of_update(config, engine, data)
    parameters = sum(int(tf.size(value)) for value in variables.values())
    flops = shape.accumulation_steps * sum(flops_of_batch(config, size, data.micro_batches[0]).values())
    updates = config.num_train_steps - start.step
    in_all = flops * shape.workers
    lines = batch_arithmetic(config, shape, len(inputs.training), training.examples_per_sequence)
    lines += [
        f"tokens: {shape.global_batch_size * length * config.num_train_steps:,}, "
        f"{padding:.1%} of them padding (as in the next update)",
        f"parameters: {parameters:,}",
        *(f"  {part}: {count:,}" for part, count in _parameters_by_part(variables).items()),
        f"floating-point operations: {in_all:.3e} an update, {in_all * config.num_train_steps:.3e} in all",
        f"time: {seconds:.3f} s an update without data, {shape.global_batch_size / seconds:.1f} sequences/s, "
        f"utilization {flops / seconds / ceiling:.1%}; "
        f"{updates:,} updates take {duration(updates * seconds)}",
        *_memory(4 * parameters, shape.accumulation_steps, _peak_memory() - before),
        *_disk(config, 3 * 4 * parameters),
    ]
    return lines, what_looks_wrong(
        config, shape.global_batch_size, len(inputs.training) / training.examples_per_sequence, padding
    )


def _seconds_of_update(config: PretrainingConfig, engine: Engine, data: UpdateData) -> float:
    """The quickest of a few after the one that compiles; of many micro-batches two are computed."""
    rate = SCHEDULES[config.lr_schedule](
        config.learning_rate,
        config.num_train_steps,
        config.num_warmup_steps,
        config.lr_decay_power,
        config.end_lr,
    )(0)
    never_stops = types.SimpleNamespace(exit_code=0)

    def quickest(micro_batches: int) -> float:
        some = dataclasses.replace(data, micro_batches=data.micro_batches[:micro_batches])
        seconds = []
        for _ in range(1 + _TIMED_UPDATES):
            started = time.perf_counter()
            engine.update(some, rate, never_stops)
            seconds.append(time.perf_counter() - started)
        return min(seconds[1:])

    count = len(data.micro_batches)
    if count <= _MOST_MICRO_BATCHES:
        return quickest(count)
    one, two = quickest(1), quickest(_MOST_MICRO_BATCHES)
    return one + (count - 1) * max(0.0, two - one)


def _parameters_by_part(variables: dict[str, tf.Variable]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, value in variables.items():
        part = name.split("/")[0]
        counts[part] = counts.get(part, 0) + int(tf.size(value))
    return counts


def _memory(weights: int, accumulation_steps: int, used: int) -> list[str]:
    """Lines on what an update needs, in bytes, by part; `used` is all that the model and its updates took."""
    parts = {"weights": weights, "moments": 2 * weights, "gradients": weights}
    if accumulation_steps > 1:
        parts["accumulators"] = weights
    parts["activations and the rest"] = max(0, used - sum(parts.values()))
    there = ""
    if not tf.config.get_visible_devices("GPU"):
        available = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
        there = f", {int(available.group(1)) / 1024:,.0f} MiB are available beside this process"
    total = sum(parts.values())
    return [
        f"memory of a worker: {total / 2**20:,.0f} MiB{there}",
        *(f"  {name}: {count / 2**20:,.0f} MiB" for name, count in parts.items()),
    ]


def _disk(config: PretrainingConfig, checkpoint: int) -> list[str]:
    """A line on the checkpoints, of so many bytes each, against the room that there is."""
    if config.skip_checkpoint:
        return ["checkpoints: none (--skip_checkpoint)"]
    kept = -(-config.num_train_steps // config.save_checkpoints_steps)
    if config.keep_checkpoint_max:
        # A new one is complete before the oldest goes.
        kept = min(kept, config.keep_checkpoint_max + 1)
    folder = Path(config.checkpoints_folder).absolute()
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(existing).free
    return [
        f"checkpoints: {checkpoint / 2**20:,.0f} MiB each, up to {kept} at once: "
        f"{kept * checkpoint / 2**20:,.0f} MiB of {free / 2**20:,.0f} MiB free"
    ]


def _memory_in_use() -> int:
    if tf.config.get_visible_devices("GPU"):
        return 0
    return _status_bytes("VmRSS")


def _peak_memory() -> int:
    if tf.config.get_visible_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return _status_bytes("VmHWM")


def _status_bytes(key: str) -> int:
    """A line of this process's status (proc(5))."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(rf"^{key}:\s+(\d+) kB$", status, re.MULTILINE).group(1)) * 1024
