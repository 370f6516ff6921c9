"""What the programs that time a pre-training step share: their settings, their batch, their dialogue.

scripts/pretraining_speed.py starts one process for each configuration and engine, and lets them step in turn
(Contender); that process (pretraining_step.py, huggingface_pretraining_step.py) answers (take_turns).
"""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import child_processes
import files
from command_line import RunFailure, from_dictionary, option
from configuration import PretrainingConfig
from keyed_random import draw_bits
from masking import MaskingRule, mask_batch

ROOT = Path(__file__).resolve().parents[1]
PRECISIONS = ("fp32", "tf32", "amp", "bf16")
# After the first step, which compiles, one more that is not timed: some preparations wait for a second run.
_FURTHER_WARM_UP = 1
_SECONDS_TO_END = 60
_CLS, _SEP, _MASK, _FIRST_PIECE = 101, 102, 103, 104


@dataclasses.dataclass
class StepConfig:
    """One configuration whose step is timed: the settings of pretraining_step.py and its rival."""

    turns: str = option(dataclasses.MISSING, "named pipe that says how many steps are next", group="step")
    model_size: str = option("small", "preset of the sizes", group="step", choices=("small", "base", "large"))
    max_seq_length: int = option(128, "tokens in a sequence", group="step")
    batch_size: int = option(32, "sequences of a micro-batch, on each worker", group="step")
    gradient_accumulation_steps: int = option(1, "micro-batches in a step", group="step")
    precision: str = option("fp32", "as of run_pretraining.py", group="step", choices=PRECISIONS)
    xla: bool = option(False, "compile the step with XLA", group="step")
    compile_chains: bool = option(True, "as of run_pretraining.py", group="step")
    recompute: bool = option(False, "as of run_pretraining.py", group="step")
    torch_compile: bool = option(False, "compile the step with torch.compile", group="step")
    vocab_size: int = option(30522, "pieces of the vocabulary", group="step")
    sizes: str = option("{}", "JSON of sizes that replace the preset's", group="step")

    def pretraining(self) -> PretrainingConfig:
        """The recipe of configs/ in these sizes, with AdamW."""
        recipe = files.read_json(ROOT / "configs" / f"{self.model_size}_phase1.json")
        settings = {
            "model_name": "benchmark",
            "model_size": self.model_size,
            "optimizer": "adam",
            "max_seq_length": self.max_seq_length,
            "train_batch_size": self.batch_size,
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
            "precision": self.precision,
            "xla": self.xla,
            "compile_chains": self.compile_chains,
            "recompute": self.recompute,
        }
        return from_dictionary(PretrainingConfig, recipe | settings | json.loads(self.sizes), "--sizes")


def synthetic_batch(config: PretrainingConfig, vocabulary_size: int, seed: int) -> dict[str, np.ndarray]:
    """A micro-batch of random tokens, full to the last, picked and masked as in a run."""
    random = np.random.default_rng(seed)
    shape = (config.train_batch_size, config.max_seq_length)
    ids = random.integers(min(_FIRST_PIECE, vocabulary_size - 1), vocabulary_size, shape, np.int32)
    middle = config.max_seq_length // 2
    ids[:, 0], ids[:, middle], ids[:, -1] = _CLS, _SEP, _SEP
    ids = np.minimum(ids, vocabulary_size - 1)
    segments = np.broadcast_to(np.arange(shape[1], dtype=np.int32) > middle, shape).astype(np.int32)
    examples = {"input_ids": ids, "input_mask": np.ones(shape, np.int32), "segment_ids": segments}
    rule = MaskingRule(config.mask_prob, config.max_predictions(), _MASK, (_CLS, _SEP, _MASK))
    return mask_batch(examples, draw_bits(seed, np.arange(shape[0])), rule)


# ----------------------------------------------------------------------------------------- the one who steps


def take_turns(
    step: Callable[[], None],
    peak_bytes: Callable[[], int],
    next_turn: Callable[[], str],
    *,
    is_main: bool = True,
) -> None:
    """Step as often as each turn says and answer with the seconds, until a turn says 0.

    Args:
        peak_bytes: most memory in use so far.
        next_turn: the next line of the pipe, the same on all workers.
        is_main: the worker that answers.
    """
    for _ in range(1 + _FURTHER_WARM_UP):
        step()
        if is_main:
            print(json.dumps({"finished": 1}), flush=True)
    while steps := int(next_turn() or 0):
        start = time.perf_counter()
        for _ in range(steps):
            step()
        answer = {"seconds": time.perf_counter() - start, "peak_bytes": peak_bytes()}
        if is_main:
            print(json.dumps(answer), flush=True)


def peak_resident_bytes() -> int:
    """Most memory of this process that was resident at once (VmHWM of proc(5))."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE).group(1)) * 1024


# ------------------------------------------------------------------------------------------ the one who asks


class Contender:
    """A process that does the steps of one engine in one configuration.

    Args:
        engine: its name in the results.
        command: what to start, without its settings.

    Raises:
        RunFailure: it ended before its first steps, or between them.
    """

    def __init__(self, engine: str, command: list[str], settings: dict):
        self.engine = engine
        self._folder = tempfile.mkdtemp(prefix="benchmark_pretraining")
        turns = f"{self._folder}/turns"
        os.mkfifo(turns)
        flags = [f"--{name}={value}" for name, value in (settings | {"turns": turns}).items()]
        # Open at both ends, so that neither this process nor a turn waits for the other to open it.
        self._turns = os.open(turns, os.O_RDWR)
        self._process = None
        start = time.perf_counter()
        try:
            self._process = child_processes.start([*command, *flags], stdout=subprocess.PIPE)
            self._answer()
            self.seconds_to_first_step = time.perf_counter() - start
            for _ in range(_FURTHER_WARM_UP):
                self._answer()
        except BaseException:
            self.close()
            raise

    def seconds(self, steps: int) -> float:
        """Seconds that so many steps take."""
        os.write(self._turns, f"{steps}\n".encode())
        answer = self._answer()
        self.peak_bytes = answer["peak_bytes"]
        return answer["seconds"]

    def close(self) -> None:
        """End the process, and remove what it was spoken to by."""
        if self._process is not None:
            os.write(self._turns, b"0\n")
            try:
                self._process.wait(_SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                self._process.terminate()
                self._process.wait()
            self._process.stdout.close()
        os.close(self._turns)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answer(self) -> dict:
        for line in self._process.stdout:
            if line.startswith(b"{"):
                return json.loads(line)
            sys.stderr.write(line.decode(errors="replace"))
        raise RunFailure(f"the step of {self.engine} ended with status {self._process.wait()}")
