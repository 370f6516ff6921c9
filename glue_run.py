"""One run of run_tf_glue.py: weights, fine-tuning, predictions and their scores, the model's export.

With --seeds several such runs, one after the other, and the mean and deviation of their scores.
"""

import csv
import dataclasses
import gc
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

import files
import weight_conversion
from batching import BatchShape
from classification import SequenceModel, TokenModel
from electra_weights import CLASSIFIER
from finetuned_card import ReadFile
from finetuning_inputs import Start
from finetuning_run import FineTuningRun
from glue_configuration import GlueConfig
from glue_inputs import DataSet, GlueInputs, LabelScale, find_start, meaning
from glue_tasks import REGRESSION, TAGGING
from label_prediction import LabelPredictor
from labelled_features import NO_LABEL, LabelledFeatures
from labelled_metrics import score, score_tags
from length_batches import TrainingOrder, bucket_lengths
from stop_signal import StopSignal
from telemetry import GLUE_UNITS, duration
from training_run import arrays, set_up_training
from workers import Workers

RESULTS = "results.json"
_SUBMISSION_FOLDER = "submission"


def run(config: GlueConfig, inputs: GlueInputs, workers: Workers) -> int:
    """Do what the flags ask for, for one seed or for each of several; returns the exit code."""
    scores = {}
    for own in config.seed_runs():
        code, scores[own.seed] = _run_one(own, inputs, find_start(own, inputs, workers), workers)
        if code:
            return code
        # A network and its graphs refer to each other, and the next one needs the room.
        gc.collect()
    if config.seed_list() and config.do_eval and workers.is_main:
        results = results_of(inputs.task.name, config.electra_model, scores)
        files.write_json(f"{config.output_dir}/{RESULTS}", results)
        print(f"**RESULTS SUMMARY** over {len(scores)} seeds: " + _shown(results))
    return 0


def results_of(task: str, electra_model: str, scores: dict[int, dict[str, float]]) -> dict:
    """What results.json holds: the scores of each seed, their mean, and the deviation of the sample."""
    names = list(next(iter(scores.values())))
    columns = {name: [own[name] for own in scores.values()] for name in names}
    return {
        "task": task,
        "electra_model": electra_model,
        "seeds": {str(seed): own for seed, own in scores.items()},
        "mean": {name: statistics.fmean(values) for name, values in columns.items()},
        "deviation": {name: statistics.stdev(values) for name, values in columns.items() if len(values) > 1},
    }


def _run_one(
    config: GlueConfig, inputs: GlueInputs, start: Start, workers: Workers
) -> tuple[int, dict[str, float]]:
    stop = StopSignal() if config.do_train else None
    glue = GlueRun(config, inputs, workers)
    glue.start(start)
    code = glue.train(stop) if stop else 0
    scores = {}
    if code == 0 and glue.is_complete:
        if config.do_train and workers.is_main:
            glue.export()
        scores = glue.finish()
        if scores and config.do_train and workers.is_main:
            glue.add_metrics_to_card(scores)
    glue.close()
    return code, scores


class GlueRun(FineTuningRun):
    """The parts of a run and their state."""

    _units = GLUE_UNITS
    _sequences_title = "examples"
    _config_name = "glue_config.json"
    _program = "run_tf_glue.py"
    _card_settings = ("both_orders",)

    def __init__(self, config: GlueConfig, inputs: GlueInputs, workers: Workers):
        self._inputs, self._task, self._scale = inputs, inputs.task, inputs.scale
        set_up_training(config)
        build = TokenModel if self._task.kind == TAGGING else SequenceModel
        model = build(inputs.model.config, len(self._task.labels or ()))
        super().__init__(
            config,
            workers,
            inputs.model,
            model,
            CLASSIFIER,
            self._make_order if inputs.training is not None else None,
            lambda: meaning(config, inputs, workers),
        )
        self._predictor = LabelPredictor(
            model,
            batch_size=config.predict_batch_size,
            max_seq_length=config.max_seq_length,
            jit_compile=config.xla,
            workers=workers,
        )

    def _make_order(self, shape: BatchShape) -> TrainingOrder:
        features = self._inputs.training
        buckets = bucket_lengths(self._config.max_seq_length)
        return TrainingOrder(
            features, np.arange(len(features)), shape, seed=self._config.seed, buckets=buckets
        )

    def start(self, start: Start) -> None:
        """As for every fine-tuning; a checkpoint that predicts brings the scale of its labels along."""
        super().start(start)
        if not self._config.do_train:
            recorded = start.checkpoint and start.checkpoint.state.get("label_scale")
            self._scale = LabelScale(
                *self._workers.share(lambda: recorded or dataclasses.astuple(self._scale))
            )

    def _metrics(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        labels = float(sums["labels"])
        values = {"step_loss": float(sums["loss"]) / labels}
        if "right" in sums:
            values["step_accuracy"] = float(sums["right"]) / labels
        return values

    def _checkpoint_state(self) -> dict:
        return super()._checkpoint_state() | {"label_scale": dataclasses.astuple(self._scale)}

    def export(self) -> None:
        """Write the fine-tuned model as a folder that this program and Hugging Face transformers read."""
        tensors = arrays(self._variables)
        problem_type = "single_label_classification"
        if self._task.kind == REGRESSION:
            tensors, problem_type = self._scale.into_head(tensors), "regression"
        elif self._task.kind == TAGGING:
            problem_type = None
        weight_conversion.write_classifier(
            self._config.model_folder,
            self._inputs.model.config,
            tensors,
            self._vocabulary,
            self._task.labels or ("score",),
            problem_type,
            self._card(),
        )
        print(f"wrote {self._config.model_folder}")

    def _card_facts(self) -> tuple[str, str, tuple[str, ...], list[ReadFile]]:
        task, inputs = self._task, self._inputs
        what = {REGRESSION: "To give texts a number", TAGGING: "To label the words of sentences"}
        use = what.get(task.kind, "To label texts") + ", as the training data do."
        sets = [("training", inputs.training_file, len(inputs.training))]
        sets += [("evaluation", data.file, len(data.features)) for data in inputs.evaluation]
        read = [
            ReadFile(
                purpose, path, f"{count:,} examples" + (" in all its files" if len(file.paths) > 1 else "")
            )
            for purpose, file, count in sets
            for path in file.paths
        ]
        return task.name, use, task.labels or (), read

    # -------------------------------------------------------------------------------------- predictions

    def evaluate(self, step: int, check_stop: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Predict the evaluation data, write the predictions, score and log them."""
        scores = {}
        for data in self._inputs.evaluation:
            predicted = self._predicted(data.features, check_stop)
            if not self._workers.is_main:
                continue
            self._write_predictions(data, predicted, f"predictions{data.file.suffix}.tsv")
            scores |= {
                f"eval_{name}{data.file.suffix}": value
                for name, value in self._score(data.features, predicted).items()
            }
        if scores:
            self._dll.log(self._log_step(step) if step else (), scores)
            updates = step or self.done
            when = f"after {updates} updates: " if updates else ""
            tqdm.write(when + ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
        return scores

    def finish(self) -> dict[str, float]:
        """The last predictions, their scores and the speed, as files and in the log; returns the scores."""
        if not self._config.do_train:
            self.log_parameters()
        started = time.time()
        scores = self.evaluate(step=0)
        for data in self._inputs.test:
            predicted = self._predicted(data.features)
            if self._workers.is_main:
                self._write_predictions(data, predicted, f"test_predictions{data.file.suffix}.tsv")
                if data.file.submission:
                    self._write_submission(data, predicted)
        clock = self._predictor.clock
        clock.collect()
        if not clock.sequences:
            return {}
        self._dll.log((), clock.speed() | {"e2e_inference_time": time.time() - started})
        print(f"**EVAL SUMMARY** {clock.sequences} sequences in {duration(self._predictor.seconds)}")
        if scores:
            results = results_of(self._task.name, self._config.electra_model, {self._config.seed: scores})
            files.write_json(f"{self._config.output_dir}/{RESULTS}", results)
            print("**RESULTS SUMMARY** " + _shown(results))
        return scores

    def _predicted(
        self, features: LabelledFeatures, check_stop: Callable[[], None] = lambda: None
    ) -> np.ndarray:
        """Labels by their numbers, of examples or of words; or the numbers that regression gives."""
        how = {"hide_progress": self._bar_is_off(), "check_stop": check_stop}
        if self._task.kind != REGRESSION:
            return self._predictor.numbers(features, **how)
        values = self._predictor.values(features, **how)
        return values * self._scale.deviation + self._scale.mean

    def _score(self, features: LabelledFeatures, predicted: np.ndarray) -> dict[str, float]:
        if self._task.kind != TAGGING:
            return score(self._task.metrics, features.labels, predicted)
        labels = np.array(self._task.labels, object)
        gold, found = (
            np.split(labels[numbers], features.sentence_ends[:-1]) for numbers in (features.labels, predicted)
        )
        return score_tags(gold, found)

    def _write_predictions(self, data: DataSet, predicted: np.ndarray, name: str) -> None:
        """A line for each example: its id, the prediction and the label, which is empty where none is known.

        Of tagged sentences a line for each word, whose id is the sentence's and the word's number from 1.
        """
        features = data.features
        identifiers = features.ids
        if self._task.kind == TAGGING:
            ends = features.sentence_ends
            identifiers = [
                f"{identifier}.{place + 1}"
                for identifier, begin, end in zip(features.ids, [0, *ends[:-1]], ends, strict=True)
                for place in range(end - begin)
            ]
        rows = [("id", "prediction", "label")]
        for identifier, prediction, label in zip(identifiers, predicted, features.labels, strict=True):
            rows.append((identifier, self._word(prediction), self._word(label)))
        _write_tsv(Path(self._config.output_dir) / name, rows)

    def _word(self, value: np.number) -> str:
        """A label as its file has it; "" for none."""
        if self._task.kind == REGRESSION:
            return "" if np.isnan(value) else f"{value:.9g}"
        return "" if value == NO_LABEL else self._task.labels[value]

    def _write_submission(self, data: DataSet, predicted: np.ndarray) -> None:
        """The file that gluebenchmark.com takes: a header, and the number and label of each example."""
        words = self._task.written or self._task.labels
        if self._task.kind == REGRESSION:
            # The site takes scores from 0 to 5 alone.
            written = [f"{value:.3f}" for value in np.clip(predicted, 0.0, 5.0)]
        else:
            written = [words[number] for number in predicted]
        rows = [("index", "prediction"), *((str(number), label) for number, label in enumerate(written))]
        folder = Path(self._config.output_dir) / _SUBMISSION_FOLDER
        folder.mkdir(exist_ok=True)
        _write_tsv(folder / f"{data.file.submission}.tsv", rows)


def _write_tsv(path: Path, rows: list[tuple[str, ...]]) -> None:
    stream = io.StringIO()
    # Without quoting no reader need know of any; ids and labels with a tab in them get a space there.
    writer = csv.writer(stream, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
    for row in rows:
        writer.writerow([" ".join(cell.split()) for cell in row])
    files.write_text(path, stream.getvalue())


def _shown(results: dict) -> str:
    deviation = results["deviation"]
    return ", ".join(
        f"{name}: {value:.4f}" + (f" ± {deviation[name]:.4f}" if name in deviation else "")
        for name, value in results["mean"].items()
    )
