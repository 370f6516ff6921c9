"""Does updates of our pre-training when scripts/pretraining_speed.py says so; not run by itself.

The update is run_pretraining.py's own, of the engine and the model; only the tokens are made up, and nothing
is read, logged or saved. scripts/profile_step.py has it from here (make_step).
"""

import sys
import types
from collections.abc import Callable
from pathlib import Path

# Run by its path, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from timed_steps import StepConfig, peak_resident_bytes, synthetic_batch, take_turns

from batching import UpdateData
from command_line import parse, run_program
from device import keep_freed_memory, prepare_tensorflow, take_share
from workers import Workers, find_workers

_LEARNING_RATE = 1e-4


def main() -> int:
    settings = parse(StepConfig, description=__doc__)
    prepare_tensorflow()
    keep_freed_memory()
    workers = find_workers()
    take_share(workers, "none")
    with workers.broken_exchange():
        return _step_by_turns(settings, workers)


def _step_by_turns(settings: StepConfig, workers: Workers) -> int:
    import tensorflow as tf

    step = make_step(settings, workers)

    def peak_bytes() -> int:
        if tf.config.get_visible_devices("GPU"):
            return tf.config.experimental.get_memory_info("GPU:0")["peak"]
        return peak_resident_bytes()

    with open(settings.turns, encoding="ascii") as turns:
        take_turns(step, peak_bytes, lambda: workers.share(turns.readline), is_main=workers.is_main)
    return 0


def make_step(settings: StepConfig, workers: Workers) -> Callable[[], None]:
    """The device set up, the model in its first state: what does one update more with each call."""
    from optimization import AdamW
    from pretraining import PretrainingModel
    from training import Engine
    from training_run import set_up_training

    config = settings.pretraining()
    set_up_training(config)
    model = PretrainingModel(config, settings.vocab_size)
    model.build()
    variables = model.named_variables()
    optimizer = AdamW(
        variables,
        beta_1=config.opt_beta_1,
        beta_2=config.opt_beta_2,
        weight_decay_rate=config.weight_decay_rate,
    )
    engine = Engine(
        model.loss_parts,
        variables,
        optimizer,
        accumulation_steps=config.gradient_accumulation_steps,
        loss_scaling=config.precision == "amp",
        jit_compile=config.xla,
        seed=config.seed,
        workers=workers,
    )
    update = _update_data(settings, workers)
    never_stops = types.SimpleNamespace(exit_code=0)

    def step() -> None:
        engine.update(update, _LEARNING_RATE, never_stops)
        update.number += 1

    return step


def _update_data(settings: StepConfig, workers: Workers) -> UpdateData:
    config = settings.pretraining()
    batches = [
        synthetic_batch(config, settings.vocab_size, seed)
        for seed in range(config.gradient_accumulation_steps)
    ]
    counts = {
        "picks": sum(batch["masked_lm_weights"].sum() for batch in batches),
        "tokens": sum(batch["input_mask"].sum() for batch in batches),
    }
    sequences = settings.batch_size * len(batches)
    return UpdateData(
        number=1,
        micro_batches=batches,
        normalizers={name: np.float32(count * workers.size) for name, count in counts.items()},
        sequences=sequences,
        tokens=int(counts["tokens"]),
        origin=lambda: "made up",
    )


if __name__ == "__main__":
    run_program(main)
