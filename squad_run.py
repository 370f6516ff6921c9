"""One SQuAD run: weights, fine-tuning, answers and their scores, the fine-tuned model's export."""

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

import files
import squad_scores
import weight_conversion
from batching import BatchShape
from command_line import RunFailure
from finetuned_card import ReadFile
from finetuning_inputs import Start
from finetuning_run import FineTuningRun
from length_batches import TrainingOrder, bucket_lengths
from question_answerer import build_model
from squad_batches import training_windows
from squad_configuration import SquadConfig
from squad_decoding import DecodingRule
from squad_inputs import SquadInputs, gold_articles, meaning
from squad_prediction import JsonObjectFile, Predictor
from stop_signal import StopSignal
from telemetry import SQUAD_UNITS, duration
from training_run import arrays, set_up_training
from workers import Workers

PREDICTIONS, N_BEST, NULL_ODDS, RESULTS = (
    "predictions.json",
    "nbest_predictions.json",
    "null_odds.json",
    "eval_results.json",
)


def run(config: SquadConfig, inputs: SquadInputs, start: Start, workers: Workers) -> int:
    """Do what the flags ask for; returns the exit code."""
    stop = StopSignal() if config.do_train else None
    squad = SquadRun(config, inputs, workers)
    squad.start(start)
    code = squad.train(stop) if config.do_train else 0
    if code == 0 and squad.is_complete:
        if config.do_train and workers.is_main:
            squad.export()
        scores = squad.finish() if config.do_predict else {}
        if scores and config.do_train:
            squad.add_metrics_to_card(scores)
    squad.close()
    return code


class SquadRun(FineTuningRun):
    """The parts of a run and their state."""

    _units = SQUAD_UNITS
    _sequences_title = "windows"
    _config_name = "squad_config.json"
    _program = "run_tf_squad.py"
    _card_settings = ("doc_stride", "max_query_length", "max_answer_length", "joint_head", "max_questions")

    def __init__(self, config: SquadConfig, inputs: SquadInputs, workers: Workers):
        self._inputs = inputs
        set_up_training(config)
        model = build_model(
            inputs.model.config,
            inputs.head,
            version_2=config.version_2_with_negative,
            beam_size=config.beam_size,
        )
        super().__init__(
            config,
            workers,
            inputs.model,
            model,
            inputs.head.prefix,
            self._make_order if inputs.training is not None else None,
            lambda: meaning(config, inputs, workers),
        )
        self._predictor = Predictor(
            model,
            DecodingRule(
                n_best_size=config.n_best_size,
                max_answer_length=config.max_answer_length,
                version_2=config.version_2_with_negative,
                null_score_diff_threshold=config.null_threshold(inputs.head.joint),
                joint_head=inputs.head.joint,
            ),
            batch_size=config.predict_batch_size,
            max_seq_length=config.max_seq_length,
            jit_compile=config.xla,
            workers=workers,
        )

    def _make_order(self, shape: BatchShape) -> TrainingOrder:
        buckets = bucket_lengths(self._config.max_seq_length)
        return training_windows(self._inputs.training, shape, seed=self._config.seed, buckets=buckets)

    def _metrics(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        windows = float(sums["windows"])
        values = {"step_loss": float(sums["loss"]) / windows, "span_loss": float(sums["span_loss"]) / windows}
        if "answerable_loss" in sums:
            values["answerable_loss"] = float(sums["answerable_loss"]) / windows
        return values

    def export(self) -> None:
        """Write the fine-tuned model as a folder that the programs here read, and with the plain head
        Hugging Face transformers too."""
        head, config = self._inputs.head, self._config
        weight_conversion.write_question_answering(
            config.model_folder,
            self._inputs.model.config,
            arrays(self._variables),
            self._vocabulary,
            {
                "joint_head": head.joint,
                "variant": head.variant,
                "version_2_with_negative": config.version_2_with_negative,
            },
            self._card(),
        )
        print(f"wrote {self._config.model_folder}")

    def _card_facts(self) -> tuple[str, str, tuple[str, ...], list[ReadFile]]:
        config, inputs = self._config, self._inputs
        version = "2.0" if config.version_2_with_negative else "1.1"
        use = "To answer questions about a text with a piece of it."
        if config.version_2_with_negative:
            use += " It may say that the text holds no answer."
        counts = f"{inputs.training.num_questions:,} questions, {len(inputs.training):,} windows"
        if inputs.training.num_unusable:
            counts += f"; {inputs.training.num_unusable:,} questions could not be trained on"
        read = [ReadFile("training", config.data_file("train"), counts)]
        if inputs.prediction is not None:
            counts = f"{inputs.prediction.num_questions:,} questions, {len(inputs.prediction):,} windows"
            read.append(ReadFile("evaluation", config.data_file("dev"), counts))
        return f"SQuAD {version}", use, (), read

    # ------------------------------------------------------------------------------------------ answers

    def evaluate(self, step: int, check_stop: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Answer the questions, write the answers, and with --do_eval score and log them."""
        self._predict(Path(self._config.output_dir), check_stop)
        if not self._config.do_eval or not self._workers.is_main:
            return {}
        scores = self._score()
        # The two versions of SQuAD have two names for it.
        exact = scores["exact" if "exact" in scores else "exact_match"]
        self._dll.log(self._log_step(step) if step else (), {"exact_match": exact, "F1": scores["f1"]})
        updates = step or self.done
        when = f"after {updates} updates: " if updates else ""
        tqdm.write(f"{when}exact match {exact:.3f}, F1 {scores['f1']:.3f}")
        return scores

    def finish(self) -> dict[str, float]:
        """The last answers, their scores and the speed, as files, in the log and in NVIDIA's lines.

        Returns:
            The scores, on worker 0; {} without --do_eval.
        """
        if not self._config.do_train:
            self.log_parameters()
        started = time.time()
        scores = self.evaluate(step=0)
        clock = self._predictor.clock
        clock.collect()
        speed = clock.speed()
        self._dll.log((), speed | {"e2e_inference_time": time.time() - started})
        print(f"**EVAL SUMMARY** {clock.sequences} windows in {duration(self._predictor.seconds)}")
        if speed:
            latencies = {name: value for name, value in speed.items() if name.startswith("latency_")}
            print(
                f"**LATENCY SUMMARY** {speed['inference_sequences_per_second']:.1f} windows/s, ms a batch of "
                f"{self._config.predict_batch_size}: "
                + ", ".join(
                    f"{name.removeprefix('latency_')} {value:.1f}" for name, value in latencies.items()
                )
            )
        if scores:
            print(
                "**RESULTS SUMMARY** " + ", ".join(f"{name}: {value:.4g}" for name, value in scores.items())
            )
        return scores

    def _predict(self, folder: Path, check_stop: Callable[[], None]) -> None:
        """All workers answer; worker 0 writes."""
        version_2 = self._config.version_2_with_negative
        self._null_odds, self._best_texts = ({}, {}) if version_2 else (None, None)
        answers = self._predictor.answers(
            self._inputs.prediction, hide_progress=self._bar_is_off(), check_stop=check_stop
        )
        if not self._workers.is_main:
            for _ in answers:
                pass
            return
        with JsonObjectFile(folder / PREDICTIONS) as texts, JsonObjectFile(folder / N_BEST) as n_best:
            for question_id, decoded in answers:
                texts.add(question_id, decoded.prediction)
                n_best.add(question_id, decoded.n_best)
                if version_2:
                    self._null_odds[question_id] = decoded.null_odds
                    self._best_texts[question_id] = decoded.best_text
        if version_2:
            files.write_json(folder / NULL_ODDS, self._null_odds)

    def _score(self) -> dict[str, float]:
        config = self._config
        folder = Path(config.output_dir)
        predictions = files.read_json(folder / PREDICTIONS)
        try:
            scores = squad_scores.evaluate(
                gold_articles(config, predictions),
                predictions,
                self._null_odds,
                config.version_2_with_negative,
                # The threshold has made the predictions what they are.
                math.inf,
                self._best_texts,
            )
        except ValueError as error:
            raise RunFailure(f"{config.data_file('dev')} cannot be scored: {error}") from None
        files.write_json(folder / RESULTS, scores)
        return scores
