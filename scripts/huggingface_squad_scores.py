"""Hugging Face's model fine-tuned with PyTorch on SQuAD 1.1 and scored, beside run_tf_squad.py.

    python scripts/huggingface_squad_scores.py --electra_model quickstart/minilm --data_dir squad \\
        --output_dir results/huggingface --seed 1

Defaults are those of configs/squad_quickstart.json. Their tokenizer's windows, grouped by length and padded
to the longest of a batch; PyTorch's AdamW, clipped gradients, linear warm-up and decay; answers chosen and
scored by squad_decoding.py and squad_scores.py, as ours. Writes predictions.json, eval_results.json and
logs/dllogger.log, which run_report.py reads as a run's of ours; run again, it does it all again.
"""

import contextlib
import dataclasses
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

# Run by its path, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import huggingface_squad

import files
import squad_scores
from command_line import option, parse, require, require_at_least, run_program
from squad_data import Question, iterate_questions
from squad_decoding import DecodingRule, PlainOutput, WindowView, decode
from telemetry import SQUAD_UNITS, DllLog, Meter

_RECIPE = files.read_json(Path(__file__).resolve().parents[1] / "configs" / "squad_quickstart.json")
_ADAM_EPSILON, _CLIP_NORM = 1e-6, 1.0
_TENSORS = ("input_ids", "attention_mask", "token_type_ids")


@dataclasses.dataclass
class ScoresConfig:
    """Settings of this program."""

    electra_model: str = option(
        dataclasses.MISSING, "a Hugging Face folder (ELECTRA or BERT) with its vocab.txt", group="data"
    )
    data_dir: str = option(dataclasses.MISSING, "folder of train-v1.1.json and dev-v1.1.json", group="data")
    output_dir: str = option(dataclasses.MISSING, "receives the answers and their scores", group="data")
    max_questions: int = option(0, "use the first so many questions of each file; 0 takes all", group="data")
    train_batch_size: int = option(_RECIPE["train_batch_size"], "windows in an update", group="training")
    num_train_epochs: float = option(
        float(_RECIPE["num_train_epochs"]), "passes over the training data", group="training"
    )
    learning_rate: float = option(_RECIPE["learning_rate"], "rate after warm-up", group="training")
    seed: int = option(42, "of the head's weights, the order and dropout", group="training")
    precision: str = option(
        "fp32", "bf16 trains under autocast, and answers in fp32", group="training", choices=("fp32", "bf16")
    )

    def __post_init__(self):
        require_at_least(0, self, "max_questions")
        require_at_least(1, self, "train_batch_size")
        for name in ("num_train_epochs", "learning_rate"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be positive")


def main() -> int:
    config = parse(ScoresConfig, description=__doc__)
    asked = {which: _questions(config, which) for which in ("train", "dev")}
    torch, transformers, tokenizer, model = huggingface_squad.load(config.electra_model, config.seed)
    output = Path(config.output_dir)
    with contextlib.closing(DllLog(output / "logs" / "dllogger.log", SQUAD_UNITS)) as log:
        log.declare_units()
        for name, value in dataclasses.asdict(config).items():
            log.parameter({name: value})
        log.parameter({"TORCH_VERSION": torch.__version__, "TRANSFORMERS_VERSION": transformers.__version__})
        _train(config, log, torch, transformers, tokenizer, model, asked["train"])
        started = time.monotonic()
        predictions = _answer(torch, tokenizer, model, asked["dev"])
        dataset = files.read_json(Path(config.data_dir) / "dev-v1.1.json")["data"]
        scores = squad_scores.evaluate(
            squad_scores.only_answered(dataset, predictions), predictions, None, version_2=False
        )
        log.log((), {"exact_match": scores["exact_match"], "F1": scores["f1"]})
        log.log((), {"e2e_inference_time": time.monotonic() - started})
    files.write_json(output / "predictions.json", predictions)
    files.write_json(output / "eval_results.json", scores)
    print(json.dumps(scores))
    return 0


def _questions(config: ScoresConfig, which: str) -> list[Question]:
    path = Path(config.data_dir) / f"{which}-v1.1.json"
    return list(iterate_questions(path, "data_dir", version_2=False))[: config.max_questions or None]


def _windows(tokenizer, questions: Sequence[Question]):
    # To their example it is what two windows share.
    return huggingface_squad.windows(tokenizer, questions, _RECIPE["max_seq_length"], _RECIPE["doc_stride"])


def _train(
    config: ScoresConfig, log: DllLog, torch, transformers, tokenizer, model, questions: Sequence[Question]
) -> None:
    started = time.monotonic()
    encoded = _windows(tokenizer, questions)
    count = len(encoded["input_ids"])
    sampler = transformers.trainer_pt_utils.LengthGroupedSampler(
        config.train_batch_size, lengths=list(map(len, encoded["input_ids"]))
    )
    starts, ends = _answer_tokens(encoded, questions)
    updates = max(1, round(config.num_train_epochs * count / config.train_batch_size))
    optimizer = torch.optim.AdamW(_parameters(model), lr=config.learning_rate, eps=_ADAM_EPSILON)
    schedule = transformers.get_linear_schedule_with_warmup(
        optimizer, int(updates * _RECIPE["warmup_proportion"]), updates
    )
    model.train()
    meter, losses = Meter(updates), []
    batches = itertools.islice(_batches(sampler, config.train_batch_size), updates)
    bar = tqdm(batches, total=updates, desc="fine-tuning", unit="update", disable=None)
    for number, rows in enumerate(bar, 1):
        began = time.monotonic()
        batch = _batch(tokenizer, encoded, rows)
        waited = time.monotonic() - began
        with _autocast(torch, config.precision):
            loss = model(
                **batch,
                start_positions=torch.tensor([starts[row] for row in rows]),
                end_positions=torch.tensor([ends[row] for row in rows]),
            ).loss
        loss.backward()
        gradient_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP_NORM)
        (learning_rate, *_) = schedule.get_last_lr()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        tokens = int(batch["attention_mask"].sum())
        meter.update_done(time.monotonic() - began, waited, len(rows), tokens)
        if number % _RECIPE["log_freq"] == 0 or number == updates:
            epoch = number * config.train_batch_size / count
            # The names of our own log, and like there the mean since the line before.
            values = {"step_loss": statistics.fmean(losses), "grad_norm": float(gradient_norm)}
            values |= {"learning_rate": learning_rate, "epoch": epoch}
            log.log((int(epoch), number), meter.window() | values)
            last_loss, losses = values["step_loss"], []
    log.log(
        (),
        {
            "final_loss": last_loss,
            "e2e_train_time": time.monotonic() - started,
            "training_sequences_per_second": meter.sequences_per_second(),
        },
    )


def _batches(sampler, size: int) -> Iterator[list[int]]:
    """Rows of the training windows, epoch after epoch without an end."""
    while True:
        order = list(sampler)
        yield from (order[first : first + size] for first in range(0, len(order), size))


def _parameters(model) -> list[dict]:
    """With weight decay, but for biases and LayerNorm."""
    named = list(model.named_parameters())
    free = {name for name, _ in named if name.endswith("bias") or "LayerNorm" in name}
    return [
        {
            "params": [value for name, value in named if name not in free],
            "weight_decay": _RECIPE["weight_decay_rate"],
        },
        {"params": [value for name, value in named if name in free], "weight_decay": 0.0},
    ]


def _autocast(torch, precision: str) -> contextlib.AbstractContextManager:
    return torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def _batch(tokenizer, encoded, rows: Sequence[int]) -> dict:
    """Tensors [windows, longest window]."""
    return tokenizer.pad(
        {name: [encoded[name][row] for row in rows] for name in _TENSORS}, return_tensors="pt"
    )


def _context_spans(encoded, row: int) -> np.ndarray:
    """int [tokens, 2]: each token's characters in the context, the last one exclusive; -1 outside of it."""
    spans = np.array(encoded["offset_mapping"][row])
    spans[[part != 1 for part in encoded.sequence_ids(row)]] = -1
    return spans


def _answer_tokens(encoded, questions: Sequence[Question]) -> tuple[list[int], list[int]]:
    """First and last token of each window's answer; [CLS] where the window does not hold all of it."""
    starts, ends = [], []
    for row, number in enumerate(encoded["overflow_to_sample_mapping"]):
        question, spans = questions[number], _context_spans(encoded, row)
        begin, end = question.answer_start, question.answer_start + len(question.answers[0])
        first = np.flatnonzero((spans[:, 0] <= begin) & (spans[:, 1] > begin))
        last = np.flatnonzero((spans[:, 0] < end) & (spans[:, 1] >= end))
        holds_all = len(first) > 0 and len(last) > 0
        starts.append(int(first[0]) if holds_all else 0)
        ends.append(int(last[0]) if holds_all else 0)
    return starts, ends


def _answer(torch, tokenizer, model, questions: Sequence[Question]) -> dict[str, str]:
    encoded = _windows(tokenizer, questions)
    rule = DecodingRule(
        n_best_size=_RECIPE["n_best_size"],
        max_answer_length=_RECIPE["max_answer_length"],
        joint_head=False,
    )
    outputs = list(_outputs(torch, tokenizer, model, encoded))
    predictions = {}
    of_question = np.array(encoded["overflow_to_sample_mapping"])
    for number, question in enumerate(questions):
        rows = np.flatnonzero(of_question == number)
        # Their example lets an answer start in any window that shows it.
        views = [
            WindowView(spans, spans[:, 0] >= 0) for spans in (_context_spans(encoded, row) for row in rows)
        ]
        decoded = decode(question.context, views, [outputs[row] for row in rows], rule)
        predictions[question.id] = decoded.prediction
    return predictions


def _outputs(torch, tokenizer, model, encoded) -> Iterator[PlainOutput]:
    model.eval()
    count, size = len(encoded["input_ids"]), _RECIPE["predict_batch_size"]
    with torch.inference_mode():
        for first in tqdm(range(0, count, size), desc="answering", unit="batch", disable=None):
            rows = range(first, min(first + size, count))
            output = model(**_batch(tokenizer, encoded, rows))
            for start, end in zip(output.start_logits.numpy(), output.end_logits.numpy(), strict=True):
                yield PlainOutput(start, end)


if __name__ == "__main__":
    run_program(main)
