"""Logs of made-up runs: healthy ones by hand-chosen figures, into which tests put one fault each."""

from collections.abc import Callable
from pathlib import Path

from telemetry import DllLog

# Google's ELECTRA-base, past the 10,000 updates in which nothing need be learned.
SETTINGS = {
    "model_name": "made_up",
    "model_size": "base",
    "pretrain_tfrecords": "shards_of_nobody",
    "max_seq_length": 128,
    "mask_prob": 0.15,
    "optimizer": "adam",
    "learning_rate": 2e-4,
    "num_warmup_steps": 1000,
    "num_train_steps": 40_000,
    "phase2": False,
    "workers": 4,
    "sequences_per_update": 256,
    "unigram_entropy": 7.0,
}
UPDATES = range(500, 20_001, 500)


def training_line(update: int) -> dict[str, float]:
    """What a healthy run logs: losses fall, 85.9 % of the tokens are original, rates are steady."""
    share = update / UPDATES[-1]
    return {
        "train_perf": 100.0,
        "total_loss": 25.0 - 13.0 * share,
        "masked_lm_accuracy": 20.0 + 30.0 * share,
        "masked_lm_loss": 6.0 - 3.0 * share,
        "sampled_masked_lm_accuracy": 6.0 + 30.0 * share,
        "disc_loss": 0.3 - 0.15 * share,
        "disc_auc": 0.6 + 0.3 * share,
        "disc_accuracy": 87.0 + 6.0 * share,
        "disc_majority_accuracy": 85.9,
        "grad_norm": 2.0,
        "learning_rate": 2e-4,
        "loss_scale": 32768.0,
        "tokens_per_second": 100.0 * 128 * 0.9,
        "utilization": 0.45,
        "data_wait": 0.001,
        "worst_data_wait": 0.002,
        "worst_data_wait_worker": 1.0,
        "epoch": 2.0 * share,
    }


def held_out_line(update: int) -> dict[str, float]:
    """A held-out evaluation that goes with it."""
    share = update / UPDATES[-1]
    return {
        "eval_total_loss": 26.0 - 13.0 * share,
        "eval_masked_lm_loss_masked_only": 6.5 - 3.0 * share,
        "eval_unigram_cross_entropy": 7.1,
        "eval_disc_auc": 0.58 + 0.3 * share,
        "eval_disc_accuracy": 86.5 + 6.0 * share,
        "eval_disc_majority_accuracy": 85.8,
        "eval_tokens": 1e5,
    }


def write_run(
    folder: Path,
    settings: dict | None = None,
    training: Callable[[int], dict] = lambda update: {},
    held_out: Callable[[int], dict] = lambda update: {},
    updates=UPDATES,
) -> Path:
    """Write a run's log: the healthy one, with what the functions give in place of a line's values."""
    log = DllLog(folder / "logs" / "dllogger.log")
    for name, value in (SETTINGS | (settings or {})).items():
        log.parameter({name: value})
    log.parameter({"TENSORFLOW_VERSION": "2.18.1"})
    for update in updates:
        log.log((update,), _without_none(training_line(update) | training(update)))
        if update % 5000 == 0:
            log.log((update,), _without_none(held_out_line(update) | held_out(update)))
    log.close()
    return folder


ROOT = Path(__file__).parents[1]


def real_quickstart_log() -> Path:
    """The log of a run of scripts/quickstart.sh, seed 42, on two cores that other programs used too."""
    return Path(__file__).with_name("quickstart_dllogger.log")


def real_fine_tuning_log() -> Path:
    """The log of scripts/reproduce.sh squad, seed 1: batches of like length, none of them 384 tokens."""
    return ROOT / "docs" / "results" / "squad" / "seed_1.fine_tuning.log.gz"


def _without_none(values: dict) -> dict:
    return {name: value for name, value in values.items() if value is not None}
