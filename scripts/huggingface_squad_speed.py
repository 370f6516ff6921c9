"""How fast Hugging Face's model with PyTorch fine-tunes or answers SQuAD, for scripts/benchmark_squad.sh.

    python scripts/huggingface_squad_speed.py --electra_model quickstart/minilm --data_dir squad \\
        --what answering --batch_size 16

As in Hugging Face's question-answering example: their tokenizer's windows, all padded to 384 tokens, in eager
mode, on as many threads as the machine has processors. Prints a JSON object with the key that
run_tf_squad.py's log has for the same. Every batch is timed but the first.
"""

import contextlib
import dataclasses
import json
import sys
import time
from pathlib import Path

import numpy as np

# Run by its path, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import huggingface_squad

from command_line import UsageError, option, parse, require_at_least, run_program
from squad_data import iterate_questions

_LENGTH, _OVERLAP = 384, 128


@dataclasses.dataclass
class SpeedConfig:
    """Settings of this program."""

    electra_model: str = option(
        dataclasses.MISSING, "a Hugging Face folder (ELECTRA or BERT) with its vocab.txt", group="speed"
    )
    data_dir: str = option(dataclasses.MISSING, "folder of train-v1.1.json and dev-v1.1.json", group="speed")
    what: str = option("answering", "what is measured", group="speed", choices=("training", "answering"))
    batch_size: int = option(16, "windows in a batch", group="speed")
    precision: str = option("fp32", "bf16 computes under autocast", group="speed", choices=("fp32", "bf16"))
    max_steps: int = option(200, "most batches that are timed", group="speed")

    def __post_init__(self):
        require_at_least(1, self, "batch_size", "max_steps")


def main() -> int:
    config = parse(SpeedConfig, description=__doc__)
    torch, _, tokenizer, model = huggingface_squad.load(config.electra_model, seed=0)
    trains = config.what == "training"
    windows = _windows(tokenizer, Path(config.data_dir) / f"{'train' if trains else 'dev'}-v1.1.json")
    count = len(windows["input_ids"])
    order = torch.randperm(count) if trains else torch.arange(count)
    batches = order.split(config.batch_size)[: config.max_steps + 1]
    if len(batches) < 2:
        raise UsageError(f"--batch_size {config.batch_size}: {count} windows fill one batch, none is timed")
    step = _training_step(torch, model) if trains else _answering_step(model)
    autocast = contextlib.nullcontext()
    if config.precision == "bf16":
        autocast = torch.autocast("cpu", torch.bfloat16)
    with autocast, contextlib.nullcontext() if trains else torch.inference_mode():
        step({name: values[batches[0]] for name, values in windows.items()})
        started = time.monotonic()
        for batch in batches[1:]:
            step({name: values[batch] for name, values in windows.items()})
        seconds = time.monotonic() - started
    key = f"{'training' if trains else 'inference'}_sequences_per_second"
    print(json.dumps({key: sum(map(len, batches[1:])) / seconds}))
    return 0


def _windows(tokenizer, path: Path) -> dict:
    """Tensors [windows, 384] of a SQuAD 1.1 file."""
    questions = list(iterate_questions(path, "data_dir", version_2=False))
    encoded = huggingface_squad.windows(tokenizer, questions, _LENGTH, _OVERLAP)
    tensors = {name: encoded[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    return tokenizer.pad(tensors, padding="max_length", max_length=_LENGTH, return_tensors="pt")


def _answering_step(model):
    model.eval()

    def step(batch):
        output = model(**batch)
        return output.start_logits.float().numpy(), output.end_logits.float().numpy()

    return step


def _training_step(torch, model):
    """One update: loss, gradient, clipping, AdamW. Where the answers are does not change what it takes."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, eps=1e-6)

    def step(batch):
        answers = torch.from_numpy(np.full(len(batch["input_ids"]), 20))
        model(**batch, start_positions=answers, end_positions=answers + 2).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    run_program(main)
