"""Starting real pre-training runs on the made-up language, killing them, and looking at what they leave."""

import os
import subprocess
import sys
from pathlib import Path

from safetensors.numpy import load_file

from telemetry import read_dll_log

ROOT = Path(__file__).parents[1]

# A model that takes a hundredth of a second an update.
MODEL = {
    "embedding_size": 24,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "generator_hidden_size": 0.5,
}
TRAINING = {
    "max_seq_length": 32,
    "train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "learning_rate": 2e-3,
    "num_train_steps": 12,
    "num_warmup_steps": 2,
    "save_checkpoints_steps": 4,
    "log_freq": 4,
    # Compiling takes far longer than these few updates.
    "compile_chains": False,
}


class Runs:
    """Pre-training runs in one results folder, on the shards of the made-up language."""

    def __init__(self, results: Path, language: Path):
        self.results, self.language = results, language

    def command(self, name: str, *flags: str, **settings) -> list[str]:
        """The command line of a run; settings go over the defaults above, flags are added as they are."""
        defaults = {"model_name": name, "results_dir": self.results}
        defaults |= {"pretrain_tfrecords": self.shards(settings.get("max_seq_length", 32))}
        arguments = [f"--{key}={value}" for key, value in (defaults | MODEL | TRAINING | settings).items()]
        return [sys.executable, str(ROOT / "run_pretraining.py"), *arguments, *flags]

    def start(self, name: str, *flags: str, **settings) -> subprocess.Popen:
        """Start a run and return its process."""
        return subprocess.Popen(
            self.command(name, *flags, **settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )

    def run(self, name: str, *flags: str, expect: int = 0, **settings) -> subprocess.CompletedProcess:
        """Run to the end; the exit code must be the expected one."""
        done = subprocess.run(
            self.command(name, *flags, **settings), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == expect, done.stdout[-2000:] + done.stderr[-2000:]
        return done

    def shards(self, length: int) -> Path:
        return self.language / f"shards_{length}"

    def folder(self, name: str) -> Path:
        return self.results / "models" / name

    def checkpoints(self, name: str) -> list[str]:
        return sorted(path.name for path in (self.folder(name) / "checkpoints").glob("ckpt-*"))

    def weights(self, name: str, checkpoint: str) -> dict:
        """Model and optimizer tensors of a checkpoint."""
        folder = self.folder(name) / "checkpoints" / checkpoint
        model, optimizer = (
            load_file(folder / "model.safetensors"),
            load_file(folder / "optimizer.safetensors"),
        )
        return model | {f"optimizer {key}": value for key, value in optimizer.items()}

    def log(self, name: str) -> list[dict]:
        return read_dll_log(self.folder(name) / "logs" / "dllogger.log")

    def logged(self, name: str) -> dict[int, dict]:
        """Training lines by update."""
        lines = [
            e for e in self.log(name) if e["type"] == "LOG" and isinstance(e["step"], list) and e["step"]
        ]
        return {e["step"][0]: e["data"] for e in lines if "eval_tokens" not in e["data"]}

    def evaluated(self, name: str) -> dict[int, dict]:
        """Held-out lines by update."""
        lines = [e for e in self.log(name) if e["type"] == "LOG" and "eval_tokens" in e["data"]]
        return {e["step"][0]: e["data"] for e in lines}


def one_line_error(done: subprocess.CompletedProcess) -> str:
    """The error of a program that ended by a user's mistake: one line, no traceback."""
    lines = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr[-2000:]
    return lines[0]
