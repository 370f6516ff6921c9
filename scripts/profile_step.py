"""Where the time of a pre-training step goes on this machine's processors, part by part.

    python scripts/profile_step.py --model_size small --max_seq_length 128 --batch_size 32 --precision fp32

The update is run_pretraining.py's own, on random tokens; after some steps of warm-up a few are run under
TensorFlow's profiler. The parts' times, forward and backward together, add up to the step. The trace stays in
--output_dir, for TensorBoard's profile plugin.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path

# Run by its path, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import step_profile
from pretraining_step import make_step
from timed_steps import PRECISIONS, StepConfig

from architecture import MODEL_SIZES
from command_line import UsageError, option, parse, require_at_least, run_program
from device import keep_freed_memory, prepare_tensorflow, take_share
from workers import ALONE


@dataclasses.dataclass
class ProfileConfig:
    """Settings of this program."""

    model_size: str = option("small", "preset of the sizes", group="profile", choices=tuple(MODEL_SIZES))
    max_seq_length: int = option(128, "tokens in a sequence", group="profile")
    batch_size: int = option(32, "sequences of a micro-batch", group="profile")
    gradient_accumulation_steps: int = option(1, "micro-batches in a step", group="profile")
    precision: str = option("fp32", "as of run_pretraining.py", group="profile", choices=PRECISIONS)
    compile_chains: bool = option(True, "as of run_pretraining.py", group="profile")
    warm_up: int = option(2, "steps before, the one that compiles included", group="profile")
    steps: int = option(3, "steps that are profiled, whose average is printed", group="profile")
    output_dir: str = option("results/profile", "folder for the trace", group="profile")
    vocab_size: int = option(30522, "pieces of the vocabulary", group="profile")
    sizes: str = option("{}", "JSON of sizes that replace the preset's", group="profile")

    def __post_init__(self):
        require_at_least(1, self, "batch_size", "gradient_accumulation_steps", "warm_up", "steps")
        require_at_least(2, self, "vocab_size")
        try:
            self.step()
        except json.JSONDecodeError as error:
            raise UsageError(f"--sizes {self.sizes}: no JSON ({error})") from None

    def step(self) -> StepConfig:
        """The step that is profiled; its own settings are checked too."""
        names = {field.name for field in dataclasses.fields(StepConfig)}
        shared = {name: value for name, value in dataclasses.asdict(self).items() if name in names}
        step = StepConfig(turns="", **shared)
        step.pretraining()
        return step


def main() -> int:
    config = parse(ProfileConfig, description=__doc__)
    prepare_tensorflow()
    keep_freed_memory()
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        raise UsageError(
            "GPUs are not profiled, their work runs apart from its operations here: "
            "CUDA_VISIBLE_DEVICES=-1 profiles the processors, nsys a GPU"
        )
    try:
        Path(config.output_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output_dir {config.output_dir}: {error.strerror}") from None
    take_share(ALONE, "none")
    step = make_step(config.step(), ALONE)
    for _ in range(config.warm_up):
        step()
    started = time.perf_counter()
    for _ in range(config.steps):
        step()
    unwatched = (time.perf_counter() - started) / config.steps
    _profile(config, step)
    events = step_profile.read_events(Path(config.output_dir))
    times, steps = step_profile.times_by_part(events)
    print(
        f"{config.model_size}, {config.batch_size} x {config.max_seq_length} tokens x "
        f"{config.gradient_accumulation_steps} micro-batches, {config.precision}: average of {len(steps)} "
        "steps, forward and backward"
    )
    print(step_profile.table(times, steps))
    products = step_profile.times_of_products(events).picoseconds
    milliseconds = products / len(steps) / 1e9
    print(f"matrix products take {milliseconds:.3f} ms of it, {products / sum(steps):.1%}")
    print(f"without the profiler a step takes {unwatched * 1000:.3f} ms")
    print(f"trace: {config.output_dir} (tensorboard --logdir, with tensorboard-plugin-profile)")
    return 0


def _profile(config: ProfileConfig, step) -> None:
    import tensorflow as tf

    profiler = tf.profiler.experimental
    # Operations of the graph, and nothing of what Python does.
    options = profiler.ProfilerOptions(host_tracer_level=2, python_tracer_level=0, device_tracer_level=0)
    profiler.start(config.output_dir, options=options)
    for number in range(config.steps):
        with profiler.Trace(step_profile.STEP_NAME, step_num=number, _r=1):
            step()
    profiler.stop()


if __name__ == "__main__":
    run_program(main)
