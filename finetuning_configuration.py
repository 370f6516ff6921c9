"""The settings that all fine-tuning programs share: one dataclass field = one flag = one documented default.

A program's own dataclass inherits from `FineTuningConfig`, adds its flags, and may give one of these another
default. Nothing here imports TensorFlow.
"""

import math
from dataclasses import MISSING, dataclass

from command_line import option, require, require_at_least, without_none
from configuration import accumulation_steps
from conversion_configuration import check_license, license_option


@dataclass(kw_only=True)
class FineTuningConfig:
    """What run_tf_squad.py and run_tf_glue.py have in common."""

    # --- model and data ---
    electra_model: str = option(
        MISSING,
        "weights to start from: an exported, Hugging Face or Google TF1 folder, a training checkpoint, a "
        "name on the hub; or small, base or large, with --init_checkpoint or random weights",
        group="model and data",
    )
    output_dir: str = option(
        MISSING, "receives the predictions, checkpoints/, model/ and logs/", group="model and data"
    )
    init_checkpoint: str = option(
        "", "weights of that kind to take instead of --electra_model's", group="model and data"
    )
    vocab_file: str = option(
        "", "WordPiece vocabulary; default the one beside the weights", group="model and data"
    )
    do_lower_case: bool | None = option(
        None,
        "lower-case the text; default the record beside the vocabulary, else True",
        group="model and data",
        negative="--no_lower_case",
    )

    # --- what to do ---
    do_train: bool = option(False, "fine-tune", group="what to do")
    evaluate_during_training: bool = option(
        False, "predict and score after every epoch as well", group="what to do"
    )

    # --- optimization ---
    train_batch_size: int = option(32, "sequences per worker and micro-batch", group="optimization")
    predict_batch_size: int = option(8, "sequences in a batch of prediction", group="optimization")
    gradient_accumulation_steps: int = option(1, "micro-batches in an update", group="optimization")
    global_batch_size: int = option(
        0,
        "sequences in an update over all workers; derives --gradient_accumulation_steps",
        group="optimization",
    )
    num_train_epochs: float = option(3.0, "passes over the training data", group="optimization")
    max_steps: int = option(-1, "stop after so many updates; -1 goes to the end", group="optimization")
    learning_rate: float = option(
        1e-4, "learning rate after warm-up; it falls to 0 linearly", group="optimization"
    )
    warmup_proportion: float = option(0.1, "share of the updates in linear warm-up", group="optimization")
    weight_decay_rate: float = option(
        0.01, "weight decay, never on biases and LayerNorm", group="optimization"
    )
    layerwise_lr_decay: float = option(
        0.8, "a layer's learning rate relative to that of the layer above", group="optimization"
    )
    hidden_dropout_prob: float | None = option(
        None,
        "dropout after embeddings, attention and feed-forward; default the model's",
        group="optimization",
    )
    attention_probs_dropout_prob: float | None = option(
        None, "dropout of the attention weights; default the model's", group="optimization"
    )
    seed: int = option(
        42, "the one seed: the head's weights, data order and dropout follow from it", group="optimization"
    )

    # --- model card ---
    license: str = license_option("model card")

    # --- device ---
    precision: str = option(
        "tf32",
        "fp32; tf32: float32 with TF32 products where the GPU has them; amp: float16 with loss scaling; bf16",
        group="device",
        choices=("fp32", "tf32", "amp", "bf16"),
    )
    amp: bool = option(False, "the same as --precision amp", group="device")
    xla: bool = option(False, "compile the step with XLA (for GPUs; slower on CPUs)", group="device")
    compile_chains: bool = option(
        True, "compile what stands between matrix products with XLA, unless all is", group="device"
    )
    recompute: bool = option(
        False,
        "keep layers' inputs alone for the backward pass, compute the rest again: less memory, more time",
        group="device",
    )
    deterministic: bool = option(
        False, "refuse operations whose results may differ from run to run", group="device"
    )

    # --- workers ---
    fp16_all_reduce: bool = option(
        False, "gradients travel between workers as float16, half the bytes", group="workers"
    )
    check_replicas_steps: int = option(
        1000, "compare the weights of all workers every so many updates; 0 never", group="workers"
    )
    affinity: str = option(
        "none",
        "processors of a worker: socket, those of its GPU's NUMA node; socket_unique, its own part of them",
        group="workers",
        choices=("none", "socket", "socket_unique"),
    )
    stall_timeout: int = option(
        600, "seconds that a worker may keep the others waiting before all end", group="workers"
    )
    log_all_ranks: bool = option(
        False, "workers other than the first print and write logs too, in files of their own", group="workers"
    )

    # --- checkpoints and logs ---
    restore_checkpoint: str = option(
        "",
        "go on from the newest checkpoint (latest) or from the one at a path",
        group="checkpoints and logs",
        bare="latest",
    )
    save_checkpoints_steps: int = option(
        1000, "save a checkpoint every so many updates", group="checkpoints and logs"
    )
    keep_checkpoint_max: int = option(2, "checkpoints kept; 0 keeps all", group="checkpoints and logs")
    skip_checkpoint: bool = option(False, "save no checkpoints", group="checkpoints and logs")
    allow_config_change: bool = option(
        False,
        "restore although settings that change the meaning of the run differ",
        group="checkpoints and logs",
    )
    log_freq: int = option(50, "log every so many updates", group="checkpoints and logs")
    json_summary: str = option(
        "", "path of the DLLogger file; default <output_dir>/logs/dllogger.log", group="checkpoints and logs"
    )
    disable_progress_bar: bool = option(False, "show no progress bars", group="checkpoints and logs")

    def __post_init__(self):
        if self.amp:
            require(self.precision in ("tf32", "amp"), "precision", self.precision, "contradicts --amp")
            self.precision = "amp"
        self.init_checkpoint = without_none(self.init_checkpoint)
        self.vocab_file = without_none(self.vocab_file)
        require_at_least(
            1,
            self,
            "train_batch_size",
            "predict_batch_size",
            "gradient_accumulation_steps",
            "save_checkpoints_steps",
            "log_freq",
            "stall_timeout",
        )
        require_at_least(0, self, "global_batch_size", "keep_checkpoint_max", "check_replicas_steps")
        for name in ("learning_rate", "weight_decay_rate", "num_train_epochs"):
            value = getattr(self, name)
            given = value is None or (math.isfinite(value) and value >= 0)
            require(given, name, value, "must be finite and not negative")
        require(
            0 <= self.warmup_proportion < 1, "warmup_proportion", self.warmup_proportion, "must be in [0, 1)"
        )
        check_license(self.license)
        decay = self.layerwise_lr_decay
        require(decay is None or 0 < decay <= 1, "layerwise_lr_decay", decay, "must be in (0, 1]")
        require(
            self.max_steps == -1 or self.max_steps >= 1,
            "max_steps",
            self.max_steps,
            "must be positive, or -1 for all",
        )
        require(
            self.num_train_epochs != 0 or not self.do_train,
            "num_train_epochs",
            self.num_train_epochs,
            "must be positive",
        )

    @property
    def logs_folder(self) -> str:
        """Where TensorBoard's and DLLogger's files go."""
        return f"{self.output_dir}/logs"

    @property
    def checkpoints_folder(self) -> str:
        """Where the checkpoints go."""
        return f"{self.output_dir}/checkpoints"

    @property
    def model_folder(self) -> str:
        """Where the fine-tuned model goes."""
        return f"{self.output_dir}/model"

    def accumulation_steps(self, workers: int) -> int:
        """Micro-batches in an update, given or derived from --global_batch_size."""
        return accumulation_steps(
            self.global_batch_size, self.train_batch_size, self.gradient_accumulation_steps, workers
        )
