"""The results that can be reproduced by name: what each runs for a seed, and where its figures are read.

A result's settings are names in the environment of its script, which has their defaults. What a record is,
and when figures are within it: result_records.py.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median_high

from result_records import Figure, SeedResult
from squad_checksums import checksums

import files
import run_health
from command_line import RunFailure, UsageError
from data import xquad_split
from run_log import RunLog, read_run

ROOT = Path(__file__).resolve().parents[1]

# Held-out loss that counts as reached: this share of what word frequencies alone give.
TARGET = 0.9
_CURVE = "held_out_masked_lm_loss"

_SCRIPT = {"script_minutes": Figure("minutes of the script's last start", None, 1)}
_HELD_OUT = {
    "masked_lm_loss": Figure("held-out masked-LM loss at [MASK], nats", 0.05),
    "unigram_cross_entropy": Figure("the same of word frequencies alone, nats", 0.02),
    "disc_accuracy": Figure("held-out replaced-token accuracy, %", 0.5, 1),
    "disc_majority_accuracy": Figure("rate of the majority, %", 0.5, 1),
    "disc_auc": Figure("held-out replaced-token AUC", 0.01),
}
_COST = {
    "training_minutes": Figure("minutes of training", None, 1),
    "sequences_per_second": Figure("sequences a second, last phase", None, 1),
}
_ANSWERS = {
    "exact_match": Figure("exact match, %", 1.0, 2),
    "f1": Figure("F1, %", 1.0, 2),
}
_LABELS = {
    "eval_accuracy": Figure("accuracy of the fine-tuned model", 0.01),
    "eval_f1": Figure("F1 of the fine-tuned model", 0.01),
    "eval_matthews_correlation": Figure("Matthews correlation of the fine-tuned model", 0.02),
    "eval_pearson": Figure("Pearson correlation of the fine-tuned model", 0.01),
    "eval_spearman": Figure("Spearman correlation of the fine-tuned model", 0.01),
    "eval_accuracy_mm": Figure("accuracy on the mismatched part", 0.01),
}


def _target_figures(updates: float) -> dict[str, Figure]:
    """Figures of `_first_at_target`; two runs may differ by `updates`, no less than between evaluations."""
    words = f"to a held-out masked-LM loss of {TARGET} of what word frequencies give"
    return {
        "updates_to_target": Figure(f"updates {words}", updates, 0),
        "minutes_to_target": Figure(f"minutes {words}", None, 1),
    }


@dataclass(frozen=True)
class NamedResult:
    """A result that has a name.

    Attributes:
        summary: what it is, for --help.
        command: what runs for a seed, in the root of the repository.
        environment: from (seed, its folder, folder of all seeds) to what the command finds there beside ours.
        read: a seed's finished folder to its figures.
        figures: by the last part of the figures' names; script_minutes is the driver's.
        settings: names in the environment that change the figures.
        flags: names in the environment that become a flag of the command.
        seeds: where SEEDS does not say otherwise.
        notes_provenance: the command itself writes run_provenance.py's file; else it is written for it.
        input_difference: from (environment, a record's inputs) to what is known before any run to differ from
            these, "" where nothing is.
    """

    summary: str
    command: tuple[str, ...]
    environment: Callable[[int, Path, Path], Mapping[str, str]]
    read: Callable[[Path], SeedResult]
    figures: Mapping[str, Figure]
    settings: tuple[str, ...] = ()
    flags: Mapping[str, str] = field(default_factory=dict)
    seeds: tuple[int, ...] = (1, 2, 3)
    notes_provenance: bool = False
    input_difference: Callable[[Mapping[str, str], Mapping[str, str]], str] = lambda environment, inputs: ""


# ------------------------------------------------------------------------------------------------- read


def read_quickstart(folder: Path) -> SeedResult:
    """Of a QUICKSTART_DIR of scripts/quickstart.sh."""
    return read_pretraining(folder / "results" / "models" / "quickstart")


def read_squad(folder: Path) -> SeedResult:
    """Of an OUT_DIR of scripts/quickstart_squad.sh."""
    scores = _read_json(folder / "eval_results.json")
    inputs = {"questions_sha256": _sha256_of_json(sorted(_read_json(folder / "predictions.json")))}
    weights, questions = folder / "weights.sha256", folder / "questions.sha256"
    if weights.is_file():
        inputs["weights_sha256"] = files.sha256_of_file(weights)
    if questions.is_file():
        lines = map(str.split, questions.read_text(encoding="utf-8").splitlines())
        inputs |= {_questions_input(name): checksum for checksum, name in lines}
    logs = _log_of("fine_tuning", folder)
    return SeedResult({name: float(scores[name]) for name in _ANSWERS}, inputs, logs=logs)


def read_pretrain_small(folder: Path) -> SeedResult:
    """Of a folder of scripts/pretrain_small.sh."""
    run_folder = folder / "results" / "models" / "pretrain_small"
    result, run = read_pretraining(run_folder), _run(run_folder)
    result.figures["health_faults"] = float(
        sum(finding.healthy is False for finding in run_health.examine(run))
    )
    result.figures["starts"] = float(sum(len(phase.starts) for phase in run.phases))
    return result


def read_ablation(folder: Path) -> SeedResult:
    """Of a folder of scripts/ablation.sh: held-out figures and fine-tuned scores, as <variant>/<figure>."""
    variants = sorted(path.name for path in (folder / "results" / "models").glob("*") if path.is_dir())
    if not variants:
        raise RunFailure(f"{folder}: holds no runs below results/models")
    together = SeedResult({})
    for variant in variants:
        result = read_pretraining(folder / "results" / "models" / variant)
        for path, form in (("squad", read_squad), ("glue", _read_glue), ("reviews", _read_glue)):
            tuned = folder / path / variant
            if tuned.is_dir():
                scored = form(tuned)
                # The weights are the run's own.
                result.inputs |= {k: v for k, v in scored.inputs.items() if k != "weights_sha256"}
                result.figures |= scored.figures
                together.logs |= {f"{variant}.fine_tuning": log for log in scored.logs.values()}
        together.figures |= {f"{variant}/{name}": value for name, value in result.figures.items()}
        together.curves[variant] = result.curves[_CURVE]
        together.logs |= {f"{variant}.pre_training": log for log in result.logs.values()}
        together.inputs |= result.inputs
    return together


def read_pretraining(run_folder: Path) -> SeedResult:
    """The last held-out evaluation of a run, what it cost, and when the target was first reached.

    Raises:
        RunFailure: there is no log, or it has no held-out evaluation.
    """
    run = _run(run_folder)
    phase = run.phases[-1]
    if not phase.held_out:
        raise RunFailure(f"{run_folder}: its log has no held-out evaluation")
    last = phase.held_out[max(phase.held_out)]
    keys = {name: f"eval_{name}" for name in _HELD_OUT}
    keys["masked_lm_loss"] = "eval_masked_lm_loss_masked_only"
    figures = {name: last[key] for name, key in keys.items() if key in last}
    figures["training_minutes"] = run.seconds / 60
    rates = [value for _, value in phase.points("training", "train_perf")]
    if rates:
        figures["sequences_per_second"] = median_high(rates)
    figures |= _first_at_target(run)
    curve = run.points("held_out", keys["masked_lm_loss"])
    return SeedResult(figures, _data_checksums(run), {_CURVE: curve}, _log_of("pre_training", run_folder))


def _first_at_target(run: RunLog) -> dict[str, float]:
    """Updates, over all phases, and minutes up to the first evaluation that reaches the target."""
    for before, phase in zip(run.phase_starts(), run.phases, strict=True):
        for update, loss in phase.points("held_out", "eval_masked_lm_loss_masked_only"):
            if loss <= TARGET * phase.held_out[update].get("eval_unigram_cross_entropy", 0.0):
                figures = {"updates_to_target": float(before + update)}
                if update in phase.clock:
                    figures["minutes_to_target"] = phase.clock[update] / 60
                return figures
    return {}


def _run(run_folder: Path) -> RunLog:
    try:
        return read_run(str(run_folder))
    except UsageError as error:
        raise RunFailure(f"its figures cannot be read: {error}") from None


def _data_checksums(run: RunLog) -> dict[str, str]:
    """Checksums of the vocabulary and the text of the training shards, where these still are."""
    manifests = [manifest for _, manifest in run.manifests()]
    if not manifests:
        return {}
    sources = {source["sha256"] for manifest in manifests for source in manifest.get("sources", [])}
    return {
        "text_sha256": _sha256_of_json(sorted(sources)),
        "vocabulary_sha256": str(manifests[-1].get("vocabulary_sha256")),
    }


def _read_glue(folder: Path) -> SeedResult:
    mean = _read_json(folder / "results.json")["mean"]
    rows = (folder / "predictions.tsv").read_text(encoding="utf-8").splitlines()
    labels = [row.split("\t")[::2] for row in rows]
    inputs = {"labels_sha256": _sha256_of_json(labels)}
    logs = _log_of("fine_tuning", folder)
    return SeedResult({name: float(mean[name]) for name in _LABELS if name in mean}, inputs, logs=logs)


def _log_of(name: str, run_folder: Path) -> dict[str, Path]:
    """A run's DLLogger file by the name of what was run; nothing where it has none."""
    path = run_folder / "logs" / "dllogger.log"
    return {name: path} if path.is_file() else {}


def _read_json(path: Path):
    try:
        return files.read_json(path)
    except (OSError, ValueError) as error:
        raise RunFailure(f"{path}: cannot be read ({error})") from None


def _sha256_of_json(content) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------ names


def _quickstart_environment(seed: int, folder: Path, work: Path) -> dict[str, str]:
    return {"SEED": str(seed), "QUICKSTART_DIR": str(folder)}


def _squad_environment(seed: int, folder: Path, work: Path) -> dict[str, str]:
    # The package's weights lie in the quickstart's folder, one for all seeds.
    return {"SEED": str(seed), "QUICKSTART_DIR": str(work / "weights"), "OUT_DIR": str(folder)}


def difference_of_questions(environment: Mapping[str, str], inputs: Mapping[str, str]) -> str:
    """In what SQUAD_DIR differs from the questions of a record's inputs; "" where it does not."""
    recorded = {name: inputs[name] for name in map(_questions_input, xquad_split.PARTS) if name in inputs}
    folder, found = environment.get("SQUAD_DIR"), {}
    if folder:
        try:
            found = {_questions_input(name): value for name, value in checksums(ROOT / folder).items()}
        except UsageError as error:
            return str(error).replace("--data_dir", "SQUAD_DIR", 1)
    if found == recorded:
        return ""
    told = f"SQUAD_DIR {folder}: has not the recorded questions" if folder else "SQUAD_DIR is not set"
    if recorded == {_questions_input(name): part.sha256 for name, part in xquad_split.PARTS.items()}:
        told += "; python data/xquad_split.py --output_dir FOLDER makes the recorded files"
    return told


def _questions_input(name: str) -> str:
    """The name among a record's inputs of the questions of SQuAD's file `name`."""
    return f"{name.partition('-')[0]}_questions_sha256"


def _pretraining_environment(seed: int, folder: Path, work: Path) -> dict[str, str]:
    shared = {"CORPUS_DIR": os.environ.get("CORPUS_DIR") or str(work / "corpus")}
    return {"SEED": str(seed), "RESULTS_DIR": str(folder)} | shared


_OF_TEXT = ("PRECISION", "VOCAB_SIZE", "MAX_SEQ_LENGTH")

_SQUAD = NamedResult(
    summary="scripts/quickstart_squad.sh from the package's weights: exact match and F1 on SQuAD 1.1",
    command=("bash", "scripts/quickstart_squad.sh", "--init", "minilm"),
    environment=_squad_environment,
    read=read_squad,
    figures=_ANSWERS | _SCRIPT,
    settings=("PRECISION", "MAX_QUESTIONS"),
    flags={"MAX_QUESTIONS": "--max_questions"},
    input_difference=difference_of_questions,
)

RESULTS: dict[str, NamedResult] = {
    "quickstart": NamedResult(
        summary="scripts/quickstart.sh: held-out figures after both phases",
        command=("bash", "scripts/quickstart.sh"),
        environment=_quickstart_environment,
        read=read_quickstart,
        figures=_HELD_OUT | _target_figures(60.0) | _COST | _SCRIPT,
        settings=("PRECISION",),
    ),
    "squad": _SQUAD,
    "squad_huggingface": replace(
        _SQUAD,
        summary="the same by Hugging Face's model and PyTorch (scripts/huggingface_squad_scores.py)",
        command=(*_SQUAD.command, "--huggingface"),
    ),
    "pretrain_small": NamedResult(
        summary="scripts/pretrain_small.sh: ELECTRA-small from random weights for hours, once resumed",
        command=("bash", "scripts/pretrain_small.sh"),
        environment=_pretraining_environment,
        read=read_pretrain_small,
        figures=_HELD_OUT
        | _COST
        | _SCRIPT
        | _target_figures(500.0)
        | {
            "health_faults": Figure("rules on the run's health that find a fault", 0.5, 0),
            "starts": Figure("starts, the deliberate stop and resume included", None, 0),
        },
        settings=("UPDATES", "BATCH", "LEARNING_RATE", "WARMUP", "EVAL_EVERY", *_OF_TEXT),
        seeds=(1,),
        notes_provenance=True,
    ),
    "ablation": NamedResult(
        summary="scripts/ablation.sh: mask shares, generator sizes, masked LM alone, on equal tokens",
        command=("bash", "scripts/ablation.sh"),
        environment=_pretraining_environment,
        read=read_ablation,
        figures=_HELD_OUT | _target_figures(500.0) | _COST | _SCRIPT | _ANSWERS | _LABELS,
        settings=(
            *("INIT", "VARIANTS", "UPDATES", "BATCH", "LEARNING_RATE", "WARMUP", "EVAL_EVERY"),
            *("MAX_QUESTIONS", "GLUE_TASK", "FINE_TUNE_EPOCHS", *_OF_TEXT),
        ),
        notes_provenance=True,
        input_difference=difference_of_questions,
    ),
}
