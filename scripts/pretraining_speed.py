"""How fast a step of pre-training is, how far from this machine's limit, and how it stands against others.

    python scripts/pretraining_speed.py --model_size small,base --precision fp32,bf16 --output_json speed.json

First the quickest matrix product is found in each precision: the machine's ceiling. Then every configuration
steps in a process of its own, so that its memory and its start are its own; with --against huggingface those
of PyTorch stand beside it, and all step in turn. Rates are medians over the repeats. Nothing is written but
--output_json: no run folder, no checkpoint.
"""

import concurrent.futures
import dataclasses
import importlib.util
import itertools
import json
import multiprocessing
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

# Run by its path, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from timed_steps import PRECISIONS, ROOT, Contender, StepConfig

import files
import machine_ceiling
from architecture import MODEL_SIZES
from command_line import RunFailure, UsageError, option, parse, require, require_at_least, run_program
from device import prepare_tensorflow
from model_flops import pretraining_flops

_FIRST_PHASE_LENGTH = 128
# NVIDIA's on an A100, and what takes a CPU seconds.
_TOKENS_ON_GPU = {"amp": (176 * 128, 24 * 512), "bf16": (176 * 128, 24 * 512)}
_TOKENS_ON_GPU_FP32 = (88 * 128, 12 * 512)
_TOKENS_ON_CPU = {"small": 4096, "base": 1024, "large": 512}


@dataclasses.dataclass
class SpeedConfig:
    """Settings of this program; several values of a setting stand with commas or spaces between them."""

    model_size: str = option("small,base", "presets: small, base, large", group="speed")
    max_seq_length: str = option("128,512", "tokens in a sequence", group="speed")
    precision: str = option("fp32,bf16", "fp32, tf32, amp, bf16", group="speed")
    batch_size_p1: str = option(
        "",
        "sequences of a micro-batch and worker, up to 128 tokens; by default NVIDIA's on GPUs (176, or 88 in "
        "fp32 and tf32), on a CPU 32 of small, 8 of base, 4 of large",
        group="speed",
    )
    batch_size_p2: str = option(
        "", "the same for longer sequences; by default 24 or 12 on GPUs, on a CPU 8, 2, 1", group="speed"
    )
    gradient_accumulation_steps_p1: int = option(1, "micro-batches in a step, up to 128", group="speed")
    gradient_accumulation_steps_p2: int = option(1, "the same for longer sequences", group="speed")
    xla: bool = option(False, "compile our step with XLA", group="speed")
    recompute: bool = option(False, "our step keeps layers' inputs alone", group="speed")
    gpus: int = option(1, "workers, each with a GPU, or a share of the processors without any", group="speed")
    against: str = option(
        "",
        "measure Hugging Face's ELECTRA too, eager and compiled",
        group="speed",
        choices=("", "huggingface"),
    )
    repeats: int = option(5, "times that each configuration is measured, in turn", group="speed")
    steps: int = option(3, "steps of a repeat", group="speed")
    ceiling_seconds: float = option(5.0, "seconds for the ceiling of each precision", group="speed")
    output_json: str = option("", "file for the rows of the table", group="speed")
    vocab_size: int = option(30522, "pieces of the vocabulary", group="speed")
    embedding_size: int | None = option(None, "instead of the preset's", group="sizes")
    hidden_size: int | None = option(None, "instead of the preset's", group="sizes")
    num_hidden_layers: int | None = option(None, "instead of the preset's", group="sizes")
    num_attention_heads: int | None = option(None, "instead of the preset's", group="sizes")
    intermediate_size: int | None = option(None, "instead of the preset's", group="sizes")
    generator_hidden_size: float | None = option(None, "instead of the recipe's", group="sizes")

    def __post_init__(self):
        require_at_least(
            1,
            self,
            "gradient_accumulation_steps_p1",
            "gradient_accumulation_steps_p2",
            "gpus",
            "repeats",
            "steps",
        )
        require_at_least(2, self, "vocab_size")
        require(self.ceiling_seconds > 0, "ceiling_seconds", self.ceiling_seconds, "must be positive")
        for name, known in (("model_size", tuple(MODEL_SIZES)), ("precision", PRECISIONS)):
            for word in _words(getattr(self, name)):
                require(word in known, name, word, f"is none of {', '.join(known)}")
        for name in ("model_size", "precision", "max_seq_length"):
            require(bool(_words(getattr(self, name))), name, getattr(self, name), "names nothing")
        for name in ("max_seq_length", "batch_size_p1", "batch_size_p2"):
            for word in _words(getattr(self, name)):
                require(word.isdecimal() and int(word) > 0, name, word, "is no positive number")
        if self.against:
            require(self.gpus == 1, "against", self.against, "runs in one process: --gpus 1")
            for package in ("torch", "transformers"):
                if importlib.util.find_spec(package) is None:
                    raise UsageError(
                        f"--against {self.against}: needs {package}: bash scripts/install.sh --tests"
                    )
        for settings in self.steps_to_time(has_gpu=False):
            StepConfig(turns="", **settings).pretraining()

    def steps_to_time(self, *, has_gpu: bool) -> Iterator[dict]:
        """The settings of each configuration."""
        sizes = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        sizes = {name: sizes[name] for name in _SIZES if sizes[name] is not None}
        for size, length in itertools.product(_words(self.model_size), map(int, _words(self.max_seq_length))):
            phase = 1 if length <= _FIRST_PHASE_LENGTH else 2
            for precision in _words(self.precision):
                default = _default_batch(size, length, precision, phase, has_gpu)
                for batch in _words(getattr(self, f"batch_size_p{phase}")) or [default]:
                    yield {
                        "model_size": size,
                        "max_seq_length": length,
                        "batch_size": int(batch),
                        "gradient_accumulation_steps": getattr(self, f"gradient_accumulation_steps_p{phase}"),
                        "precision": precision,
                        "xla": self.xla,
                        "recompute": self.recompute,
                        "vocab_size": self.vocab_size,
                        "sizes": json.dumps(sizes | {"max_position_embeddings": max(512, length)}),
                    }


_SIZES = [field.name for field in dataclasses.fields(SpeedConfig) if field.metadata["group"] == "sizes"]


def main() -> int:
    config = parse(SpeedConfig, description=__doc__)
    if config.output_json:
        # Found out before the work, not after it.
        files.write_json(config.output_json, [])
    ceilings, has_gpu = _ceilings(_words(config.precision), config.ceiling_seconds)
    if config.against and has_gpu:
        _check_cuda(config.against)
    for precision, flops in ceilings.items():
        print(f"ceiling of this machine, {precision}: {flops / 1e12:.4g} TFLOP/s", flush=True)
    print(_HEAD)
    rows = []
    for settings in config.steps_to_time(has_gpu=has_gpu):
        # Several workers without GPUs share the processors that the ceiling was measured on.
        ceiling = ceilings[settings["precision"]] * (config.gpus if has_gpu else 1)
        for row in _measure(config, settings, ceiling):
            rows.append(row)
            print(_line(row), flush=True)
    if config.output_json:
        files.write_json(config.output_json, rows)
    return 0


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _default_batch(size: str, length: int, precision: str, phase: int, has_gpu: bool) -> int:
    tokens = _TOKENS_ON_CPU[size]
    if has_gpu:
        tokens = _TOKENS_ON_GPU.get(precision, _TOKENS_ON_GPU_FP32)[phase - 1]
    return max(1, tokens // length)


# --------------------------------------------------------------------------------------------- measuring


def _ceilings(precisions: list[str], seconds: float) -> tuple[dict[str, float], bool]:
    """FLOP/s by precision, and whether of a GPU; in a process of its own: it keeps no device memory."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure_ceilings, precisions, seconds).result()


def _measure_ceilings(precisions: list[str], seconds: float) -> tuple[dict[str, float], bool]:
    prepare_tensorflow()
    import tensorflow as tf

    ceilings = {precision: machine_ceiling.measure(precision, seconds) for precision in precisions}
    return ceilings, bool(tf.config.list_physical_devices("GPU"))


def _check_cuda(against: str) -> None:
    """Else our GPU would stand beside their CPU."""
    import torch

    if not torch.cuda.is_available():
        raise UsageError(
            f"--against {against}: TensorFlow has a GPU here, and torch {torch.__version__} none"
        )


def _measure(config: SpeedConfig, settings: dict, ceiling: float) -> Iterator[dict]:
    """The rows of one configuration: ours, and those it is measured against."""
    contenders = [_start_ours(config, settings)]
    try:
        if config.against:
            contenders += _start_others(settings)
        seconds = {contender.engine: [] for contender in contenders}
        for _ in range(config.repeats):
            for contender in contenders:
                seconds[contender.engine].append(contender.seconds(config.steps))
        for contender in contenders:
            rates = [config.steps / value for value in seconds[contender.engine]]
            yield _row(contender, settings, config.gpus, rates, ceiling)
    finally:
        for contender in contenders:
            contender.close()


def _start_ours(config: SpeedConfig, settings: dict) -> Contender:
    command = [sys.executable, str(ROOT / "scripts" / "pretraining_step.py")]
    if config.gpus > 1:
        starter = [sys.executable, str(ROOT / "start_workers.py"), "--workers", str(config.gpus), "--"]
        command = starter + command
    return Contender("tensorflow", command, settings)


def _start_others(settings: dict) -> Iterator[Contender]:
    command = [sys.executable, str(ROOT / "scripts" / "huggingface_pretraining_step.py")]
    for engine, compiled in (("pytorch_eager", False), ("pytorch_compile", True)):
        try:
            yield Contender(engine, command, settings | {"torch_compile": compiled})
        except RunFailure as error:
            # torch.compile needs a C++ compiler, for one; the other rows are none the worse for it.
            print(f"left out: {error}", file=sys.stderr)


def _row(contender: Contender, settings: dict, workers: int, rates: list[float], ceiling: float) -> dict:
    """A row of the results.

    Args:
        rates: steps a second of each repeat. ceiling: FLOP/s of all workers.
    """
    batch, length = settings["batch_size"], settings["max_seq_length"]
    micro_batches = settings["gradient_accumulation_steps"] * workers
    pretraining = StepConfig(turns="", **settings).pretraining()
    flops = (
        sum(pretraining_flops(pretraining, settings["vocab_size"], batch, length).values()) * micro_batches
    )
    sequences = batch * micro_batches
    median = statistics.median(rates)
    return {
        "engine": contender.engine,
        "model_size": settings["model_size"],
        "max_seq_length": length,
        "batch_size": batch,
        "precision": settings["precision"],
        "sequences_per_second": {
            "median": median * sequences,
            "min": min(rates) * sequences,
            "max": max(rates) * sequences,
        },
        "tokens_per_second": median * sequences * length,
        "tflops": median * flops / 1e12,
        "ceiling_tflops": ceiling / 1e12,
        "utilization": median * flops / ceiling,
        "peak_memory_mb": contender.peak_bytes / 1e6,
        "time_to_first_step_s": contender.seconds_to_first_step,
    }


# ------------------------------------------------------------------------------------------------- table

_HEAD = (
    f"{'engine':16}{'size':>6}{'length':>7}{'batch':>6}{'precision':>10}{'sequences/s':>12}"
    f"{'(min to max)':>20}{'tokens/s':>11}{'TFLOP/s':>9}{'of ceiling':>11}{'MB':>8}{'start s':>8}"
)


def _line(row: dict) -> str:
    rates = row["sequences_per_second"]
    spread = f"({rates['min']:.2f} to {rates['max']:.2f})"
    return (
        f"{row['engine']:16}{row['model_size']:>6}{row['max_seq_length']:7}{row['batch_size']:6}"
        f"{row['precision']:>10}{rates['median']:12.2f}{spread:>20}{row['tokens_per_second']:11.0f}"
        f"{row['tflops']:9.3f}{row['utilization']:11.1%}{row['peak_memory_mb']:8.0f}"
        f"{row['time_to_first_step_s']:8.1f}"
    )


if __name__ == "__main__":
    run_program(main)
