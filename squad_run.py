"""One SQuAD run: weights, fine-tuning, answers and their scores, the fine-tuned model's export."""

import dataclasses
import json
import math
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

import checkpointing
import files
import squad_evaluation
import weight_conversion
from batching import UpdateData
from command_line import RunFailure, UsageError
from device import set_up_device
from model_flops import encoder_flops
from optimization import AdamW, layerwise_multipliers, polynomial_decay_after_warmup
from question_answerer import assign_pretrained, build_model
from squad_batches import TrainingWindows, bucket_lengths
from squad_configuration import SquadConfig
from squad_decoding import DecodingRule
from squad_inputs import CHECKPOINT_PREFIX, SquadInputs, Start, batch_shape, meaning
from squad_prediction import JsonObjectFile, Predictor
from telemetry import SQUAD_UNITS, duration
from training import StopSignal
from training_run import TrainingRun, abridged, arrays
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
        if config.do_predict:
            squad.finish()
    squad.close()
    return code


class SquadRun(TrainingRun):
    """The parts of a run and their state."""

    _loss_key = "step_loss"
    _units = SQUAD_UNITS
    _lengths_vary = True
    _float16_flag = "fp16_all_reduce"

    def __init__(self, config: SquadConfig, inputs: SquadInputs, workers: Workers):
        self._inputs = inputs
        set_up_device(config.precision, deterministic=config.deterministic, seed=config.seed)
        model = build_model(
            inputs.model.config,
            inputs.head,
            version_2=config.version_2_with_negative,
            beam_size=config.beam_size,
        )
        super().__init__(config, workers, inputs.vocabulary, model, self._make_optimizer, CHECKPOINT_PREFIX)
        self._shape = batch_shape(config, workers)
        self._windows = None
        self._last_update = 0
        if inputs.training is not None:
            buckets = bucket_lengths(config.max_seq_length)
            self._windows = TrainingWindows(inputs.training, self._shape, seed=config.seed, buckets=buckets)
            updates = math.ceil(config.num_train_epochs * self._updates_per_epoch)
            self._last_update = min(updates, config.max_steps) if config.max_steps > 0 else updates
        self._predictor = Predictor(
            model,
            DecodingRule(
                n_best_size=config.n_best_size,
                max_answer_length=config.max_answer_length,
                version_2=config.version_2_with_negative,
                null_score_diff_threshold=config.null_score_diff_threshold,
                joint_head=inputs.head.joint,
            ),
            batch_size=config.predict_batch_size,
            max_seq_length=config.max_seq_length,
            jit_compile=config.xla,
            workers=workers,
        )

    @property
    def is_complete(self) -> bool:
        """Whether training, if there is any, has come to its end."""
        return self.done >= self._last_update

    # -------------------------------------------------------------------------------------------- start

    def start(self, start: Start) -> None:
        """Give the weights their first values: from a training checkpoint, or from the pre-trained ones."""
        self.done = start.step
        if start.checkpoint is not None and self._config.do_train:
            self._resume(start.checkpoint)
        elif start.checkpoint is not None:
            source = str(start.checkpoint.path)
            checkpointing.assign(self._variables, start.checkpoint.model, source)
            print(f"answering with {source}")
        elif self._workers.is_main:
            self._load_pretrained()
        self._start_alike()

    def _load_pretrained(self) -> None:
        source = self._inputs.model
        if not source.tensors:
            print(f"starting from random weights: {source.source}")
            return
        missing, unused = assign_pretrained(self._model, source, self._inputs.head)
        if missing and not self._config.do_train:
            raise UsageError(f"--do_predict: {source.source} lacks {abridged(missing)}")
        found = len(self._variables) - len(missing)
        print(f"starting from {source.source}: {found} of {len(self._variables)} variables found")
        for title, names in (("missing, random", missing), ("unused", unused)):
            if names:
                print(f"  {title}: {abridged(names)}")
        for remark in source.remarks:
            print(f"  note: {remark}")

    # -------------------------------------------------------------------------------------------- train

    def train(self, stop: StopSignal) -> int:
        """Fine-tune to the end, or until a signal; returns the exit code."""
        config = self._config
        if self._workers.is_main:
            Path(config.checkpoints_folder).mkdir(parents=True, exist_ok=True)
            files.write_json(f"{config.checkpoints_folder}/squad_config.json", dataclasses.asdict(config))
        self.log_parameters()
        self._dll.parameter({"SEED": config.seed})
        if self.is_complete:
            print(f"{config.output_dir}: all {self._last_update} updates are done already")
            return 0
        shape, last = self._shape, self._last_update
        print(
            f"batch: {shape.sequences} per worker x {shape.accumulation_steps} accumulated x {shape.workers} "
            f"workers = {shape.global_batch_size:,} windows an update"
        )
        warmup = int(config.warmup_proportion * last)
        print(
            f"fine-tuning: {last:,} updates = {self._epoch(last):.2f} epochs of "
            f"{len(self._windows):,} windows; {warmup:,} of warm-up"
        )
        schedule = polynomial_decay_after_warmup(config.learning_rate, last, warmup, power=1.0, end_lr=0.0)
        every = round(self._updates_per_epoch) if config.evaluate_during_training and config.do_predict else 0
        meter = self._run_loop(
            self._windows.from_update(self.done + 1),
            schedule,
            stop,
            last_update=last,
            stop_after=last,
            evaluate_every=every,
            title="fine-tuning",
        )
        self._log_end(meter, stop)
        return stop.exit_code

    @property
    def _updates_per_epoch(self) -> float:
        return len(self._windows) / self._shape.global_batch_size

    def _make_optimizer(self, variables: dict[str, tf.Variable]) -> AdamW:
        config = self._config
        return AdamW(
            variables,
            beta_1=0.9,
            beta_2=0.999,
            weight_decay_rate=config.weight_decay_rate,
            multipliers=layerwise_multipliers(
                variables, config.layerwise_lr_decay, self._inputs.model.config.num_hidden_layers
            ),
        )

    def _metrics(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        windows = float(sums["windows"])
        values = {"step_loss": float(sums["loss"]) / windows, "span_loss": float(sums["span_loss"]) / windows}
        if "answerable_loss" in sums:
            values["answerable_loss"] = float(sums["answerable_loss"]) / windows
        return values

    def _flops(self, data: UpdateData) -> int:
        """Of the encoder; the head's are a hundredth of it at most."""
        return sum(
            sum(encoder_flops(self._inputs.model.config, *batch["input_ids"].shape).values())
            for batch in data.micro_batches
        )

    def _log_step(self, step: int) -> tuple[int, ...]:
        return (int((step - 1) / self._updates_per_epoch), step)

    def _epoch(self, step: int) -> float:
        return step / self._updates_per_epoch

    def _checkpoint_state(self) -> dict:
        return {
            "meaning": meaning(self._config, self._inputs, self._workers),
            "workers": dataclasses.asdict(self._shape),
            "discriminator": dataclasses.asdict(self._inputs.model.config),
        }

    def _bar_is_off(self) -> bool | None:
        return True if self._config.disable_progress_bar else None

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
        )
        print(f"wrote {self._config.model_folder}")

    # ------------------------------------------------------------------------------------------ answers

    def evaluate(self, step: int) -> dict[str, float]:
        """Answer the questions, write the answers, and with --do_eval score and log them."""
        self._predict(Path(self._config.output_dir))
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

    def finish(self) -> None:
        """The last answers, their scores and the speed, as files, in the log and in NVIDIA's lines."""
        if not self._config.do_train:
            self.log_parameters()
        started = time.time()
        scores = self.evaluate(step=0)
        self._predictor.collect_counts()
        speed = self._predictor.speed()
        self._dll.log((), speed | {"e2e_inference_time": time.time() - started})
        print(f"**EVAL SUMMARY** {self._predictor.windows} windows in {duration(self._predictor.seconds)}")
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

    def _predict(self, folder: Path) -> None:
        """All workers answer; worker 0 writes."""
        version_2 = self._config.version_2_with_negative
        self._null_odds = {} if version_2 else None
        answers = self._predictor.answers(self._inputs.prediction, hide_progress=self._bar_is_off())
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
        if version_2:
            files.write_json(folder / NULL_ODDS, self._null_odds)

    def _score(self) -> dict[str, float]:
        config = self._config
        folder = Path(config.output_dir)
        predictions = files.read_json(folder / PREDICTIONS)
        dataset = json.loads(Path(config.data_file("dev")).read_text(encoding="utf-8-sig"))["data"]
        if config.max_questions:
            dataset = _only(dataset, predictions)
        try:
            scores = squad_evaluation.evaluate(
                dataset, predictions, self._null_odds, config.version_2_with_negative, math.inf
            )
        except ValueError as error:
            raise RunFailure(f"{config.data_file('dev')} cannot be scored: {error}") from None
        files.write_json(folder / RESULTS, scores)
        return scores


def _only(dataset: list, predictions: dict) -> list:
    """The part of a data set that was asked, under --max_questions."""
    return [
        article
        | {
            "paragraphs": [
                paragraph | {"qas": [entry for entry in paragraph["qas"] if entry["id"] in predictions]}
                for paragraph in article["paragraphs"]
            ]
        }
        for article in dataset
    ]
