"""Settings of run_pretraining.py and start_workers.py: one field = one flag = one documented default.

Nothing here imports TensorFlow, so `--help` and a wrong flag answer at once.
"""

import math
from dataclasses import MISSING, dataclass

from architecture import MODEL_SIZES, ElectraConfig
from command_line import option, require, require_at_least


@dataclass
class PretrainingConfig:
    """Settings of run_pretraining.py: NVIDIA's 34 flags with its defaults, and ours."""

    # --- run ---
    model_name: str = option(
        MISSING, "name of the run; its folder is <results_dir>/models/<model_name>", group="run"
    )
    results_dir: str = option("results", "folder that holds the runs", group="run")
    log_dir: str = option("", "folder of the logs; default <run folder>/logs", group="run")
    json_summary: str = option("", "path of the DLLogger file; default <log_dir>/dllogger.log", group="run")
    seed: int = option(
        42, "the one seed: weights, data order, masks, samples and dropout follow from it", group="run"
    )
    log_freq: int = option(10, "log every so many updates", group="run")
    do_eval_only: bool = option(
        False, "evaluate the weights on --eval_tfrecords, print the table, train nothing", group="run"
    )
    dry_run: bool = option(
        False,
        "print what the run would cost (FLOPs, memory, time, disk) and what looks wrong; train nothing",
        group="run",
    )
    show_update: int = option(
        0,
        "print the decoded sequences, masks and shard positions of this update (from 1), train nothing",
        group="run",
    )

    # --- data ---
    pretrain_tfrecords: str = option(
        "data/pretrain_tfrecords/pretrain_data.tfrecord*",
        "comma-separated globs of training shards; a glob named k times is read k times an epoch",
        group="data",
    )
    vocab_file: str = option(
        "", "WordPiece vocabulary; default the vocab.txt beside the shards", group="data"
    )
    max_seq_length: int = option(128, "tokens in a training example", group="data")
    shuffle_block_size: int = option(
        1,
        "shuffle blocks of so many neighbouring examples, for disks that read poorly at random",
        group="data",
    )
    pack_sequences: bool = option(
        False, "several short examples share a sequence, without seeing each other", group="data"
    )
    skip_updates: str = option(
        "",
        "A-B[,C-D]: leave out the batches of these updates on a restart (after a loss spike)",
        group="data",
    )
    eval_tfrecords: str = option("", "comma-separated globs of held-out shards", group="data")
    eval_steps: int = option(
        0, "batches of each held-out evaluation; 0 takes the whole held-out set", group="data"
    )
    eval_every_steps: int = option(0, "evaluate every so many updates; 0 only at the end", group="data")
    eval_batch_size: int = option(32, "sequences in an evaluation batch", group="data")

    # --- architecture ---
    model_size: str = option(
        "base", "preset of the sizes below", group="architecture", choices=tuple(MODEL_SIZES)
    )
    embedding_size: int | None = option(
        None, "width of the embeddings; default from --model_size", group="architecture"
    )
    hidden_size: int | None = option(
        None, "width of the encoder; default from --model_size", group="architecture"
    )
    num_hidden_layers: int | None = option(
        None, "encoder layers; default from --model_size", group="architecture"
    )
    num_attention_heads: int | None = option(
        None, "attention heads; default from --model_size", group="architecture"
    )
    intermediate_size: int | None = option(
        None, "width of the feed-forward; default from --model_size", group="architecture"
    )
    max_position_embeddings: int = option(512, "rows of the position table", group="architecture")
    hidden_dropout_prob: float = option(
        0.1, "dropout after embeddings, attention and feed-forward", group="architecture"
    )
    attention_probs_dropout_prob: float = option(
        0.1, "dropout of the attention weights", group="architecture"
    )
    generator_hidden_size: float = option(
        0.25,
        "generator width as a share of the discriminator's (paper: small 1/4, base 1/3, large 1/4)",
        group="architecture",
    )
    generator_layers: float = option(
        1.0, "generator depth as a share of the discriminator's", group="architecture"
    )

    # --- objective ---
    mask_prob: float = option(
        0.15, "share of the tokens that are picked (paper: large 0.25)", group="objective"
    )
    disc_weight: float = option(50.0, "weight of the replaced-token-detection loss", group="objective")
    gen_weight: float = option(1.0, "weight of the generator's masked-LM loss", group="objective")
    temperature: float = option(1.0, "temperature of the generator's samples", group="objective")
    electra_objective: bool = option(
        True,
        "replaced-token detection; False trains the encoder by masked LM alone, without a generator",
        group="objective",
    )
    uniform_generator: bool = option(
        False,
        "replacements drawn uniformly from the vocabulary instead of from a generator",
        group="objective",
    )
    untied_generator: bool = option(
        True,
        "the generator has an encoder of its own; False uses the discriminator's for both",
        group="objective",
    )
    untied_generator_embeddings: bool = option(
        False, "the generator has embeddings of its own", group="objective"
    )
    disallow_correct: bool = option(
        False, "the generator may not sample the original token", group="objective"
    )

    # --- optimization ---
    num_train_steps: int = option(1_000_000, "updates of the whole training", group="optimization")
    num_warmup_steps: int = option(10_000, "updates of linear warm-up", group="optimization")
    train_batch_size: int = option(128, "sequences per worker and micro-batch", group="optimization")
    gradient_accumulation_steps: int = option(1, "micro-batches in an update", group="optimization")
    global_batch_size: int = option(
        0,
        "sequences in an update over all workers; derives --gradient_accumulation_steps",
        group="optimization",
    )
    optimizer: str = option("adam", "adam is AdamW", group="optimization", choices=("adam", "lamb"))
    learning_rate: float = option(5e-4, "learning rate after warm-up", group="optimization")
    lr_schedule: str = option(
        "nvidia",
        "nvidia: warm-up, then decay over the rest; google: decay over all updates, times the warm-up",
        group="optimization",
        choices=("nvidia", "google"),
    )
    lr_decay_power: float = option(0.5, "power of the polynomial decay (1 is linear)", group="optimization")
    end_lr: float = option(0.0, "learning rate that the decay ends at", group="optimization")
    opt_beta_1: float = option(0.878, "decay of the first moment", group="optimization")
    opt_beta_2: float = option(0.974, "decay of the second moment", group="optimization")
    weight_decay_rate: float = option(
        0.01, "weight decay, never on biases and LayerNorm", group="optimization"
    )
    adam_bias_correction: bool = option(
        True, "bias correction in adam (NVIDIA's; Google's code has none)", group="optimization"
    )
    skip_adaptive: bool = option(False, "lamb: no trust ratio for biases and LayerNorm", group="optimization")
    phase2: bool = option(
        False,
        "second phase: start from the last weights of phase 1 (needs --restore_checkpoint)",
        group="optimization",
    )
    phase2_keep_moments: bool = option(
        False,
        "phase 2 keeps phase 1's optimizer moments, as NVIDIA's does, instead of fresh ones",
        group="optimization",
    )

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
    fp16_compression: bool = option(
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

    # --- checkpoints ---
    restore_checkpoint: str = option(
        "",
        "go on from the newest checkpoint (latest) or from the one at a path",
        group="checkpoints",
        bare="latest",
    )
    init_weights: str = option(
        "",
        "start from weights alone: a Hugging Face ELECTRA or BERT folder or name on the hub, a folder of "
        "discriminator/ and generator/, or a Google TF1 checkpoint",
        group="checkpoints",
    )
    load_weights: bool = option(False, "the same as --init_weights <weights_dir>", group="checkpoints")
    weights_dir: str = option(
        "", "folder for --load_weights; default <run folder>/weights", group="checkpoints"
    )
    save_checkpoints_steps: int = option(1000, "save a checkpoint every so many updates", group="checkpoints")
    keep_checkpoint_max: int = option(5, "checkpoints kept of each phase; 0 keeps all", group="checkpoints")
    steps_this_run: int = option(
        -1, "stop after so many updates since this start; -1 goes to the end", group="checkpoints"
    )
    skip_checkpoint: bool = option(False, "save no checkpoints", group="checkpoints")
    allow_config_change: bool = option(
        False, "restore although settings that change the meaning of the run differ", group="checkpoints"
    )

    def __post_init__(self):
        if self.amp:
            require(self.precision in ("tf32", "amp"), "precision", self.precision, "contradicts --amp")
            self.precision = "amp"
        require_at_least(0, self, "check_replicas_steps")
        require_at_least(1, self, "stall_timeout")
        if self.load_weights:
            folder = self.weights_dir or f"{self.model_dir}/weights"
            # A run's pretrain_config.json holds both.
            require(
                self.init_weights in ("", folder),
                "load_weights",
                True,
                f"contradicts --init_weights {self.init_weights}",
            )
            self.init_weights = folder
        else:
            require(not self.weights_dir, "weights_dir", self.weights_dir, "needs --load_weights")
        self._check_run()
        self._check_batch_and_schedule()
        self._check_objective()
        self.discriminator(vocab_size=1)

    @property
    def model_dir(self) -> str:
        """The run's folder."""
        return f"{self.results_dir}/models/{self.model_name}"

    @property
    def logs_folder(self) -> str:
        """Where TensorBoard's and DLLogger's files go."""
        return self.log_dir or f"{self.model_dir}/logs"

    @property
    def checkpoints_folder(self) -> str:
        """Where both phases' checkpoints go."""
        return f"{self.model_dir}/checkpoints"

    @property
    def phase(self) -> int:
        return 2 if self.phase2 else 1

    def discriminator(self, vocab_size: int) -> ElectraConfig:
        """The discriminator's architecture: the preset, with the flags that were given instead."""
        sizes = {
            name: preset if getattr(self, name) is None else getattr(self, name)
            for name, preset in MODEL_SIZES[self.model_size].items()
        }
        return ElectraConfig(
            vocab_size=vocab_size,
            max_position_embeddings=self.max_position_embeddings,
            hidden_dropout_prob=self.hidden_dropout_prob,
            attention_probs_dropout_prob=self.attention_probs_dropout_prob,
            **sizes,
        )

    def generator(self, vocab_size: int) -> ElectraConfig:
        """The generator's architecture."""
        return self.discriminator(vocab_size).generator(self.generator_hidden_size, self.generator_layers)

    def accumulation_steps(self, workers: int) -> int:
        """Micro-batches in an update, given or derived from --global_batch_size."""
        return accumulation_steps(
            self.global_batch_size, self.train_batch_size, self.gradient_accumulation_steps, workers
        )

    def max_predictions(self) -> int:
        """Picks that a sequence has room for (reference: int((mask_prob + .005) x length))."""
        return max_predictions(self.mask_prob, self.max_seq_length)

    def skipped_ranges(self) -> list[tuple[int, int]]:
        """The ranges of --skip_updates, first and last update of each."""
        ranges = []
        for text in filter(None, self.skip_updates.replace(" ", "").split(",")):
            first, dash, last = text.partition("-")
            require(
                bool(dash) and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last),
                "skip_updates",
                self.skip_updates,
                f"{text!r} is not a range A-B of updates",
            )
            ranges.append((int(first), int(last)))
        return ranges

    def _check_run(self):
        name_is_plain = self.model_name not in ("", ".", "..") and "/" not in self.model_name
        require(name_is_plain, "model_name", self.model_name, "must be a plain folder name")
        require_at_least(
            1, self, "log_freq", "save_checkpoints_steps", "shuffle_block_size", "eval_batch_size"
        )
        require_at_least(8, self, "max_seq_length")
        require_at_least(0, self, "eval_steps", "eval_every_steps", "keep_checkpoint_max", "show_update")
        require(
            self.max_seq_length <= self.max_position_embeddings,
            "max_seq_length",
            self.max_seq_length,
            f"is longer than the position table (--max_position_embeddings {self.max_position_embeddings})",
        )
        for name in ("do_eval_only", "eval_every_steps"):
            needed = bool(getattr(self, name))
            require(
                bool(self.eval_tfrecords) or not needed, name, getattr(self, name), "needs --eval_tfrecords"
            )
        steps = self.steps_this_run
        require(steps == -1 or steps >= 1, "steps_this_run", steps, "must be positive, or -1 for all")
        if self.phase2 and not (self.do_eval_only or self.show_update):
            require(
                bool(self.restore_checkpoint),
                "phase2",
                True,
                "needs --restore_checkpoint to start from phase 1",
            )
            require(not self.init_weights, "phase2", True, f"contradicts --init_weights {self.init_weights}")
        self.skipped_ranges()

    def _check_batch_and_schedule(self):
        require_at_least(1, self, "train_batch_size", "gradient_accumulation_steps", "num_train_steps")
        require_at_least(0, self, "global_batch_size", "num_warmup_steps")
        require(
            self.num_warmup_steps < self.num_train_steps,
            "num_warmup_steps",
            self.num_warmup_steps,
            f"must be less than --num_train_steps {self.num_train_steps}",
        )
        for name in ("opt_beta_1", "opt_beta_2"):
            require(0.0 <= getattr(self, name) < 1.0, name, getattr(self, name), "must be in [0, 1)")
        for name in ("learning_rate", "end_lr", "lr_decay_power", "weight_decay_rate"):
            value = getattr(self, name)
            require(math.isfinite(value) and value >= 0, name, value, "must be finite and not negative")

    def _check_objective(self):
        require(0.0 < self.mask_prob < 1.0, "mask_prob", self.mask_prob, "must be between 0 and 1")
        require(
            self.max_predictions() >= 1,
            "mask_prob",
            self.mask_prob,
            f"leaves no token to pick in --max_seq_length {self.max_seq_length}",
        )
        for name in ("temperature", "generator_hidden_size", "generator_layers"):
            value = getattr(self, name)
            require(math.isfinite(value) and value > 0, name, value, "must be positive")
        for name in ("disc_weight", "gen_weight"):
            value = getattr(self, name)
            require(math.isfinite(value) and value >= 0, name, value, "must be finite and not negative")
        if self.uniform_generator:
            require(
                self.electra_objective, "uniform_generator", True, "contradicts --electra_objective False"
            )
        if self.untied_generator_embeddings:
            require(
                self.untied_generator,
                "untied_generator_embeddings",
                True,
                "contradicts --untied_generator False",
            )


@dataclass
class StartWorkersConfig:
    """Settings of start_workers.py; the command to start follows --."""

    workers: int = option(
        0,
        "processes to start, one for each GPU where there are any; 0 fills --hosts",
        group="workers",
    )
    hosts: str = option(
        "",
        "HOST:SLOTS,... to start them on over ssh without passwords; default this machine",
        group="workers",
    )
    ssh_config: str = option("", "configuration file for ssh; default the user's own", group="workers")

    def __post_init__(self):
        least = 0 if self.hosts else 1
        require_at_least(least, self, "workers")


def accumulation_steps(
    global_batch_size: int, train_batch_size: int, gradient_accumulation_steps: int, workers: int
) -> int:
    """Micro-batches in an update: as given, or what makes `global_batch_size`, where that is not 0.

    Raises:
        UsageError: the sizes do not fit together.
    """
    if not global_batch_size:
        return gradient_accumulation_steps
    in_all = global_batch_size // train_batch_size
    fitting = [str(count) for count in range(1, in_all + 1) if in_all % count == 0]
    require(
        global_batch_size % train_batch_size == 0 and str(workers) in fitting,
        "global_batch_size",
        global_batch_size,
        f"is no multiple of --train_batch_size {train_batch_size} x {workers} workers"
        + (
            f"; with that batch size it divides among {', '.join(fitting)} workers"
            if global_batch_size % train_batch_size == 0
            else ""
        ),
    )
    derived = global_batch_size // (train_batch_size * workers)
    require(
        gradient_accumulation_steps in (1, derived),
        "gradient_accumulation_steps",
        gradient_accumulation_steps,
        f"contradicts --global_batch_size {global_batch_size}, which needs {derived}",
    )
    return derived


def global_batch_of_flags(config, workers: int) -> int:
    """Sequences in an update by --train_batch_size and --gradient_accumulation_steps."""
    return config.train_batch_size * config.gradient_accumulation_steps * workers


def keep_global_batch_size(config, size: int) -> None:
    """Derive accumulation from a global batch, whatever the flags say of it; 0 changes nothing."""
    if size:
        config.global_batch_size, config.gradient_accumulation_steps = size, 1


def max_predictions(mask_prob: float, max_seq_length: int) -> int:
    """Picks that a sequence has room for: 19 at length 128 and 79 at 512 for 15 % (Google's formula)."""
    return int((mask_prob + 0.005) * max_seq_length)
