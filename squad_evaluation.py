"""Predicted answers and a SQuAD file -> the scores of the official evaluators, under the same keys.

    python squad_evaluation.py dev-v1.1.json predictions.json
    python squad_evaluation.py dev-v2.0.json predictions.json --na-prob-file null_odds.json

How answers are scored is in squad_scores.py.
"""

import json
import math
import sys
from pathlib import Path

import files
from command_line import UsageError, parse, run_program
from squad_configuration import EvaluationConfig
from squad_scores import evaluate, gold_answers, questions_in


def main() -> int:
    config = parse(EvaluationConfig, description=__doc__)
    if config.out_file and not Path(config.out_file).absolute().parent.is_dir():
        raise UsageError(f"--out_file {config.out_file}: its folder does not exist")
    dataset, version_2 = _read_dataset(config.data_file, config.squad_version)
    predictions = _read_predictions(config.predictions_file)
    na_probs = None
    if config.na_prob_file:
        if not version_2:
            raise UsageError(f"--na_prob_file {config.na_prob_file}: is of no use by the rules of SQuAD 1.1")
        na_probs = _read_na_probs(config.na_prob_file)
    try:
        golds = gold_answers(dataset, version_2)
        for question in golds if na_probs is not None else ():
            if question in predictions and question not in na_probs:
                raise UsageError(f"--na_prob_file {config.na_prob_file}: has no number for {question!r}")
        scores = evaluate(dataset, predictions, na_probs, version_2, config.na_prob_thresh)
    except ValueError as error:
        raise UsageError(f"data_file {config.data_file}: {error}") from None
    note = "Missing prediction for {}" if version_2 else "Unanswered question {} will receive score 0."
    for question in golds:
        if question not in predictions:
            print(note.format(question), file=sys.stderr)
    if config.out_file:
        files.write_json(config.out_file, scores)
    else:
        print(json.dumps(scores, indent=2 if version_2 else None))
    return 0


def _read_dataset(path: str, squad_version: str) -> tuple[list, bool]:
    """The articles of a SQuAD file, and whether the rules of SQuAD 2.0 apply."""
    content = _read_object("data_file", path, "with a list of articles under 'data'")
    dataset = content.get("data")
    try:
        has_marks = any("is_impossible" in question for _, question in questions_in(dataset))
    except ValueError as error:
        raise UsageError(f"data_file {path}: {error}") from None
    if squad_version != "auto":
        return dataset, squad_version == "2.0"
    return dataset, has_marks or str(content.get("version", "")).removeprefix("v").startswith("2")


def _read_predictions(path: str) -> dict[str, str]:
    predictions = _read_object("predictions_file", path, "of question ids and texts")
    for question, text in predictions.items():
        if not isinstance(text, str):
            raise UsageError(f"predictions_file {path}: the prediction for {question!r} is no text")
    return predictions


def _read_na_probs(path: str) -> dict[str, float]:
    na_probs = _read_object("--na_prob_file", path, "of question ids and numbers")
    for question, number in na_probs.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or math.isnan(number):
            raise UsageError(f"--na_prob_file {path}: the value for {question!r} is no number")
    return na_probs


def _read_object(flag: str, path: str, meaning: str) -> dict:
    try:
        content = files.read_json(path)
    except OSError as error:
        raise UsageError(f"{flag} {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(f"{flag} {path}: not JSON ({error})") from None
    except RecursionError:
        raise UsageError(f"{flag} {path}: is nested too deeply") from None
    if not isinstance(content, dict):
        raise UsageError(f"{flag} {path}: a JSON object {meaning} is wanted")
    return content


if __name__ == "__main__":
    run_program(main)
