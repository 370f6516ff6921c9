"""What all fine-tuning runs share: first weights, schedule and optimizer, the training, its log lines.

A task's run (squad_run.py, glue_run.py) adds its network, its metrics, its predictions and its export.
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import tensorflow as tf

import checkpointing
import files
import finetuned_card
import weight_conversion
from batching import BatchShape, UpdateData
from command_line import UsageError, abridged
from finetuned_card import FineTuned, ReadFile
from finetuning_configuration import FineTuningConfig
from finetuning_inputs import CHECKPOINT_PREFIX, Start, batch_shape
from length_batches import TrainingOrder
from model_flops import encoder_flops
from optimization import AdamW, layerwise_multipliers, polynomial_decay_after_warmup
from pretrained_models import PretrainedModel, assign_weights
from stop_signal import StopSignal
from training_run import TrainingRun, arrays
from workers import Workers

# Of the settings, those that a model card lists; a task adds its own.
_CARD_SETTINGS = (
    "max_seq_length",
    "num_train_epochs",
    "train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "warmup_proportion",
    "weight_decay_rate",
    "layerwise_lr_decay",
    "precision",
    "seed",
)


class FineTuningRun(TrainingRun):
    """The parts of a run and their state.

    Args:
        source: the weights that the network starts from, with their vocabulary.
        head_prefix: what the names of the head's weights begin with.
        make_order: the order of the training data for a shape of batches; None where nothing is trained.
        meaning: what must be equal for a restart to go on with the same training, by name.
    """

    _loss_key = "step_loss"
    _lengths_vary = True
    _float16_flag = "fp16_all_reduce"
    # Of a task: what a sequence is called, and the file beside the checkpoints that records the settings.
    _sequences_title = "sequences"
    _config_name = "config.json"
    # For the model card: the program, and this task's settings.
    _program = ""
    _card_settings: tuple[str, ...] = ()

    @abc.abstractmethod
    def _card_facts(self) -> tuple[str, str, tuple[str, ...], list[ReadFile]]:
        """For the model card: the task, what the network does, its labels, and the files that were read."""

    def __init__(
        self,
        config: FineTuningConfig,
        workers: Workers,
        source: PretrainedModel,
        model: keras.layers.Layer,
        head_prefix: str,
        make_order: Callable[[BatchShape], TrainingOrder] | None,
        meaning: Callable[[], dict],
    ):
        self._source, self._head_prefix, self._meaning = source, head_prefix, meaning
        model.electra.recompute = config.recompute
        super().__init__(config, workers, source.vocabulary, model, self._make_optimizer, CHECKPOINT_PREFIX)
        self._shape = batch_shape(config, workers)
        self._order, self._last_update = None, 0
        if make_order is not None:
            self._order = make_order(self._shape)
            updates = math.ceil(config.num_train_epochs * self._updates_per_epoch)
            self._last_update = min(updates, config.max_steps) if config.max_steps > 0 else updates

    @property
    def is_complete(self) -> bool:
        """Whether training, if there is any, has come to its end."""
        return self.done >= self._last_update

    def start(self, start: Start) -> None:
        """Give the weights their first values: from a training checkpoint, or from the pre-trained ones."""
        self.done, self._batch_of_flags = start.step, start.batch_of_flags
        if start.checkpoint is not None and self._config.do_train:
            self._resume(start.checkpoint)
        elif start.checkpoint is not None:
            source = str(start.checkpoint.path)
            checkpointing.assign(self._variables, start.checkpoint.model, source)
            print(f"predicting with {source}")
        elif self._workers.is_main:
            self._load_pretrained()
        self._start_alike()

    def _load_pretrained(self) -> None:
        source = self._source
        if not source.tensors:
            print(f"starting from random weights: {source.source}")
            return
        missing, unused = assign_weights(self._variables, source, self._head_prefix)
        if missing and not self._config.do_train:
            raise UsageError(f"--do_predict: {source.source} lacks {abridged(missing)}")
        found = len(self._variables) - len(missing)
        print(f"starting from {source.source}: {found} of {len(self._variables)} variables found")
        for title, names in (("missing, random", missing), ("unused", unused)):
            if names:
                print(f"  {title}: {abridged(names)}")
        for remark in source.remarks:
            print(f"  note: {remark}")

    def train(self, stop: StopSignal) -> int:
        """Fine-tune to the end, or until a signal; returns the exit code.

        Once the weights are trained and saved, signals end the program again: predictions and the export can
        be made up for by a restart.
        """
        config = self._config
        if self._workers.is_main:
            Path(config.checkpoints_folder).mkdir(parents=True, exist_ok=True)
            files.write_json(f"{config.checkpoints_folder}/{self._config_name}", dataclasses.asdict(config))
        self.log_parameters()
        self._dll.parameter({"SEED": config.seed})
        if self.is_complete:
            print(f"{config.output_dir}: all {self._last_update} updates are done already")
            stop.agree(self._workers)
            stop.release()
            return stop.exit_code
        shape, last, title = self._shape, self._last_update, self._sequences_title
        print(
            f"batch: {shape.sequences} per worker x {shape.accumulation_steps} accumulated x {shape.workers} "
            f"workers = {shape.global_batch_size:,} {title} an update"
        )
        warmup = int(config.warmup_proportion * last)
        print(
            f"fine-tuning: {last:,} updates = {self._epoch(last):.2f} epochs of "
            f"{len(self._order):,} {title}; {warmup:,} of warm-up"
        )
        schedule = polynomial_decay_after_warmup(config.learning_rate, last, warmup, power=1.0, end_lr=0.0)
        meter = self._run_loop(
            self._order.from_update(self.done + 1),
            schedule,
            stop,
            last_update=last,
            stop_after=last,
            # An epoch may be less than an update.
            evaluate_every=max(1, round(self._updates_per_epoch)) if config.evaluate_during_training else 0,
            title="fine-tuning",
        )
        self._log_end(meter, stop)
        stop.release()
        return stop.exit_code

    def add_metrics_to_card(self, metrics: Mapping[str, float]) -> None:
        """Say in the model card of the export what the run has scored; on worker 0."""
        path = Path(self._config.model_folder) / weight_conversion.MODEL_CARD_NAME
        files.write_text(path, self._card(metrics))

    def _card(self, metrics: Mapping[str, float] | None = None) -> str:
        """The model card of the network as it is now."""
        config, shape = self._config, self._shape
        settings = {name: getattr(config, name) for name in _CARD_SETTINGS}
        settings |= {name: getattr(config, name) for name in self._card_settings}
        settings |= {"workers": shape.workers, f"{self._sequences_title}_per_update": shape.global_batch_size}
        title, use, labels, read = self._card_facts()
        return finetuned_card.render(
            FineTuned(
                task=title,
                program=self._program,
                source=self._source.source,
                config=self._source.config,
                tensors=arrays(self._variables),
                read=read,
                updates=self.done,
                settings=settings,
                metrics=metrics or {},
                use=use,
                licence=config.license,
                labels=labels,
            )
        )

    def _flops(self, data: UpdateData) -> int:
        """Of the encoder; the head's are a hundredth of it at most."""
        return sum(
            sum(encoder_flops(self._source.config, *batch["input_ids"].shape).values())
            for batch in data.micro_batches
        )

    @property
    def _updates_per_epoch(self) -> float:
        return len(self._order) / self._shape.global_batch_size

    def _make_optimizer(self, variables: dict[str, tf.Variable]) -> AdamW:
        config = self._config
        return AdamW(
            variables,
            beta_1=0.9,
            beta_2=0.999,
            weight_decay_rate=config.weight_decay_rate,
            multipliers=layerwise_multipliers(
                variables, config.layerwise_lr_decay, self._source.config.num_hidden_layers
            ),
        )

    def _log_step(self, step: int) -> tuple[int, ...]:
        return (int((step - 1) / self._updates_per_epoch), step)

    def _epoch(self, step: int) -> float:
        return step / self._updates_per_epoch

    def _checkpoint_state(self) -> dict:
        return {
            "meaning": self._meaning(),
            "workers": dataclasses.asdict(self._shape) | {"of_flags": self._batch_of_flags},
            "discriminator": dataclasses.asdict(self._source.config),
        }

    def _bar_is_off(self) -> bool | None:
        return True if self._config.disable_progress_bar else None
