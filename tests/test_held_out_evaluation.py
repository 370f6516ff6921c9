"""Held-out evaluation as a user has it: the table, the log, and Hugging Face's networks that agree."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from training_runs import MODEL, ROOT, Runs

import tfrecords
from masking import MaskingRule
from pretraining_data import HeldOutData
from tfrecords import Shards
from tokenization import load_vocabulary

# One head, and feed-forward of four times the width in the generator, as weight_cases.py has them.
PAIR = MODEL | {"num_hidden_layers": 2, "num_attention_heads": 1}
WITHOUT_INTERVAL = {"eval_tokens", "eval_sequences"}


def _table(output: str) -> dict[str, tuple[float, str]]:
    """Value and interval by metric, from what the program printed."""
    rows = re.findall(r"^  (\w+) +(-?[\d.]+)   (.+)$", output, re.MULTILINE)
    return {name: (float(value), interval) for name, value, interval in rows}


def _metrics(values: dict[str, float]) -> set[str]:
    return {name for name in values if not name.endswith(("_low", "_high"))}


@pytest.fixture(scope="module")
def evaluated(runs: Runs) -> tuple[str, str]:
    """What a run that only evaluated random weights printed, and its name."""
    done = runs.run("evaluated", "--do_eval_only", eval_tfrecords=runs.shards(32) / "held_out")
    return done.stdout, "evaluated"


def test_every_metric_has_an_interval_around_it_in_the_log_and_in_the_table(runs: Runs, evaluated):
    output, name = evaluated
    values = runs.evaluated(name)[0]
    table = _table(output)
    metrics = _metrics(values)
    assert {f"eval_{metric}" for metric in table} == metrics - WITHOUT_INTERVAL
    for metric in metrics - WITHOUT_INTERVAL:
        low, value, high = values[f"{metric}_low"], values[metric], values[f"{metric}_high"]
        assert low <= value <= high, metric
        printed, interval = table[metric.removeprefix("eval_")]
        assert printed == pytest.approx(value, abs=6e-5)
        assert interval == f"{low:.4f} to {high:.4f}"
    assert not {f"{name}_low" for name in WITHOUT_INTERVAL} & values.keys()
    sequences, tokens = values["eval_sequences"], values["eval_tokens"]
    assert f"at update 0: {sequences:,.0f} sequences, {tokens:,.0f} tokens" in output
    # Losses of sequences differ, so that an interval without width would be a mistake.
    assert values["eval_disc_loss_high"] - values["eval_disc_loss_low"] > 1e-5


def test_intervals_follow_from_the_text_alone_and_one_batch_can_be_too_little(runs: Runs, evaluated):
    """Neither from how the sequences are put into batches; a single sequence has no interval."""
    _, name = evaluated
    held_out = runs.shards(32) / "held_out"
    runs.run("batched", "--do_eval_only", eval_tfrecords=held_out, eval_batch_size=7)
    batched, whole = runs.evaluated("batched")[0], runs.evaluated(name)[0]
    # Room for one token that another rounding has called another way.
    assert batched == pytest.approx(whole, rel=1e-3, abs=2e-3)
    for end in ("low", "high"):
        key = f"eval_masked_lm_loss_{end}"
        assert batched[key] == pytest.approx(whole[key], rel=1e-5)
    done = runs.run("one", "--do_eval_only", eval_tfrecords=held_out, eval_batch_size=1, eval_steps=1)
    values = runs.evaluated("one")[0]
    assert values["eval_sequences"] == 1 and _metrics(values) == values.keys()
    assert {interval for _, interval in _table(done.stdout).values()} == {"-"}


@pytest.mark.slow
def test_the_exported_networks_give_the_logged_figures_at_hugging_face(runs: Runs, tmp_path):
    """To 1e-3, on the same picks and by the same random numbers of the samples."""
    torch = pytest.importorskip("torch", reason="PyTorch is the independent truth here")
    transformers = pytest.importorskip("transformers", reason="Hugging Face is the independent truth here")
    import huggingface_evaluation
    from weight_cases import huggingface_pair

    vocabulary = load_vocabulary(runs.language / "vocab.txt")
    discriminator, _ = huggingface_pair(tmp_path / "pair", vocab_size=vocabulary.size)
    # Logits as wide as a trained network's: those of random weights lie within a few bins of the histogram.
    with torch.no_grad():
        discriminator.discriminator_predictions.dense_prediction.weight.mul_(30)
    discriminator.save_pretrained(tmp_path / "pair" / "discriminator")
    for kind in ("discriminator", "generator"):
        shutil.copy(runs.language / "vocab.txt", tmp_path / "pair" / kind)
    held_out = runs.shards(32) / "held_out"
    settings = PAIR | {"init_weights": tmp_path / "pair", "num_train_steps": 1, "num_warmup_steps": 0}
    runs.run("pair", eval_tfrecords=held_out, **settings)
    values = runs.evaluated("pair")[1]

    exports = tmp_path / "exports"
    program = [sys.executable, str(ROOT / "postprocess_pretrained_ckpt.py")]
    flags = [f"--pretrained_checkpoint={runs.folder('pair')}", f"--output_dir={exports}"]
    subprocess.run([*program, *flags], check=True, capture_output=True, timeout=120)
    discriminator = transformers.ElectraForPreTraining.from_pretrained(exports / "discriminator").eval()
    generator = transformers.ElectraForMaskedLM.from_pretrained(exports / "generator").eval()
    data = HeldOutData(
        Shards(tfrecords.find_shards(str(held_out), "eval_tfrecords"), flag="eval_tfrecords"),
        MaskingRule.of(vocabulary, 0.15, int(0.155 * 32)),
        max_seq_length=32,
        batch_size=32,
        most_batches=0,
        unigram_log_probabilities=np.zeros(vocabulary.size),
    )
    batches = [data.batch(number)[0] for number in range(data.batches)]
    expected = huggingface_evaluation.evaluate(discriminator, generator, batches)
    expected["total_loss"] = expected["masked_lm_loss"] + 50 * expected["disc_loss"]
    expected["unigram_cross_entropy"] = _unigram_cross_entropy(runs, batches, vocabulary)
    assert expected.keys() | {"sequences"} == {name.removeprefix("eval_") for name in _metrics(values)}
    for name, value in expected.items():
        # Accuracies are in percent.
        scale = 100 if "accuracy" in name else max(1, abs(value))
        assert values[f"eval_{name}"] == pytest.approx(value, abs=1e-3 * scale), name


def _unigram_cross_entropy(runs: Runs, batches: list[dict], vocabulary) -> float:
    """Of the [MASK] tokens, by the frequencies in the training shards, add-one smoothed."""
    counts = np.load(runs.shards(32) / "token_counts.npy").astype(np.float64) + 1
    special = (vocabulary.pad_id, vocabulary.cls_id, vocabulary.sep_id, vocabulary.mask_id)
    total = sum(count for token, count in enumerate(counts) if token not in special)
    losses = [
        -np.log(counts[token] / total)
        for batch in batches
        for token in batch["masked_lm_ids"][batch["masked_lm_is_mask"] > 0]
    ]
    return float(np.mean(losses))
