"""Bytes and time of the exchange of an update's gradients between workers, with and without compression.

    python start_workers.py --workers 2 -- python scripts/exchange_speed.py --model_size base

The gradients are those of the recipe's networks of that size, of noise; nothing else is computed. Worker 0
prints a line for each way of sending them. The exchange of a training is this long where nothing overlaps it.
"""

import dataclasses
import statistics
import sys
import time
from pathlib import Path

# Run by its path, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from timed_steps import StepConfig

from command_line import UsageError, option, parse, require_at_least, run_program
from device import prepare_tensorflow, take_share
from workers import find_workers


@dataclasses.dataclass
class ExchangeConfig:
    """Settings of this program."""

    model_size: str = option(
        "small", "preset of the sizes", group="exchange", choices=("small", "base", "large")
    )
    vocab_size: int = option(30522, "pieces of the vocabulary", group="exchange")
    rounds: int = option(20, "exchanges that are timed, of each kind", group="exchange")

    def __post_init__(self):
        require_at_least(1, self, "vocab_size", "rounds")


def main() -> int:
    config = parse(ExchangeConfig, description=__doc__)
    prepare_tensorflow()
    workers = find_workers()
    if workers.size == 1:
        raise UsageError("one worker exchanges nothing: python start_workers.py --workers N -- python …")
    take_share(workers, "none")
    import tensorflow as tf

    gradients = _gradients(config)
    size = sum(int(tf.size(gradient)) for gradient in gradients.values())
    for as_float16, width in ((False, 4), (True, 2)):

        @tf.function
        def exchange(as_float16=as_float16):
            # One number of the outcome, so that nothing but the exchange takes time.
            return tf.add_n(
                [tf.reshape(g, [-1])[0] for g in workers.sum_gradients(gradients, as_float16).values()]
            )

        exchange()
        seconds = []
        for _ in range(config.rounds):
            workers.barrier()
            start = time.perf_counter()
            exchange().numpy()
            seconds.append(time.perf_counter() - start)
        median = statistics.median(seconds)
        print(
            f"{config.model_size}, {workers.size} workers, float{8 * width}: "
            f"{size * width / 1e6:.1f} MB an update, median {1000 * median:.1f} ms, "
            f"most {1000 * max(seconds):.1f} ms"
        )
    return 0


def _gradients(config: ExchangeConfig) -> dict:
    """Noise in the shapes of an update's gradients, by name."""
    import tensorflow as tf

    from pretraining import PretrainingModel

    recipe = StepConfig(turns="", model_size=config.model_size).pretraining()
    model = PretrainingModel(recipe, config.vocab_size)
    model.build()
    return {name: tf.random.normal(value.shape) for name, value in model.named_variables().items()}


if __name__ == "__main__":
    run_program(main)
