"""What a pre-training run reads and where it starts, found and checked before TensorFlow is loaded.

Every mistake in the flags that can be seen from files ends here with one line: globs, vocabularies,
sequence lengths, checkpoints that are not there, restarts under other settings.
"""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import checkpointing
import tfrecords
from batching import BatchShape
from checkpointing import Checkpoint
from command_line import UsageError
from configuration import PretrainingConfig, global_batch_of_flags, keep_global_batch_size
from tfrecords import Shards
from tokenization import Vocabulary, load_vocabulary
from workers import Workers

# What checkpoints from before a setting existed were made with.
_BEFORE_RECORDED = {"pack_sequences": False}
# Settings that change what is being trained or the order of what it sees. The learning rate, its schedule and
# the number of updates are not among them: they may change on a restart.
_MEANING = (
    "seed",
    "max_seq_length",
    "shuffle_block_size",
    "pack_sequences",
    "mask_prob",
    "disc_weight",
    "gen_weight",
    "temperature",
    "electra_objective",
    "uniform_generator",
    "untied_generator",
    "untied_generator_embeddings",
    "disallow_correct",
    "optimizer",
    "opt_beta_1",
    "opt_beta_2",
    "weight_decay_rate",
    "adam_bias_correction",
    "skip_adaptive",
)


@dataclass(frozen=True)
class Inputs:
    """A run's vocabulary, its training shards and, where asked for, its held-out shards."""

    vocabulary: Vocabulary
    training: Shards
    held_out: Shards | None


@dataclass(frozen=True)
class Start:
    """Where a run's weights come from.

    Attributes:
        step: updates done already.
        new_phase: the checkpoint is phase 1's, and gives a second phase its weights alone.
        skipped_updates: the ranges whose data is left out, those of earlier restarts first.
        checkpoint: to restore, on worker 0 alone; None for initial or random weights.
        batch_of_flags: the global batch that the flags would make with this number of workers.
    """

    step: int = 0
    new_phase: bool = False
    skipped_updates: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    checkpoint: Checkpoint | None = None
    batch_of_flags: int = 0


def open_inputs(config: PretrainingConfig, workers: Workers) -> Inputs:
    """Find the shards and their vocabulary and see that all of them fit the flags.

    One worker of each machine looks at the files, and the others there take its word: at thousands of shards
    all of them would keep a shared file system busy.

    Raises:
        UsageError: nothing matches, or a manifest says another length or another vocabulary.
    """
    opened = None

    def look() -> list:
        nonlocal opened
        opened = _look(config)
        shards = (opened.training, opened.held_out)
        return [
            dataclasses.asdict(opened.vocabulary),
            *(found and [found.paths, found.sizes] for found in shards),
        ]

    vocabulary, training, held_out = workers.share_on_host(look)
    if opened is not None:
        return opened
    return Inputs(
        Vocabulary(**vocabulary | {"pieces": tuple(vocabulary["pieces"])}),
        Shards(training[0], flag="pretrain_tfrecords", known=training[1]),
        Shards(held_out[0], flag="eval_tfrecords", known=held_out[1]) if held_out else None,
    )


def find_start(config: PretrainingConfig, inputs: Inputs, workers: Workers) -> Start:
    """Where to start from; worker 0 alone reads checkpoints, and the others learn what they must know.

    A run of another number of workers than the checkpoint's keeps its global batch: config.global_batch_size
    is set to it.

    Raises:
        UsageError: nothing to restore, a run that is there already, other settings than the checkpoint's.
    """
    checkpoint, of_flags = None, global_batch_of_flags(config, workers.size)

    def find() -> list:
        nonlocal checkpoint
        checkpoint = _find_checkpoint(config)
        if checkpoint is None:
            return [0, False, config.skipped_ranges(), 0]
        new_phase = checkpoint.state["phase"] != config.phase
        kept = 0
        if new_phase:
            _tell_unfinished(checkpoint)
        else:
            kept = checkpointing.kept_batch(checkpoint, workers.size, config.global_batch_size, of_flags)
            keep_global_batch_size(config, kept)
        now = meaning(config, inputs, workers, weights_only=new_phase)
        checkpointing.check_meaning(
            checkpoint, now, allow_change=config.allow_config_change, before_recorded=_BEFORE_RECORDED
        )
        skipped = _merge_skipped(config, None if new_phase else checkpoint)
        return [0 if new_phase else checkpoint.step, new_phase, skipped, kept]

    step, new_phase, skipped, kept = workers.share(find)
    keep_global_batch_size(config, kept)
    return Start(step, new_phase, [tuple(pair) for pair in skipped], checkpoint, of_flags)


def meaning(
    config: PretrainingConfig, inputs: Inputs, workers: Workers, *, weights_only: bool = False
) -> dict:
    """What must be equal for a restart to go on with the same training, by name.

    Args:
        weights_only: only what decides whether the weights fit, as for the second phase.
    """
    size = inputs.vocabulary.size
    parts = {"": config.discriminator(size), "generator ": config.generator(size)}
    values = {
        prefix + name: value
        for prefix, architecture in parts.items()
        for name, value in dataclasses.asdict(architecture).items()
        if not (weights_only and name.endswith("dropout_prob"))
    }
    values["vocabulary_sha256"] = inputs.vocabulary.sha256
    if weights_only:
        return values
    values |= {name: getattr(config, name) for name in _MEANING}
    values["global_batch_size"] = batch_shape(config, workers).global_batch_size
    values["pretrain_tfrecords"] = inputs.training.fingerprint()
    return values


def batch_shape(config: PretrainingConfig, workers: Workers) -> BatchShape:
    """How an update's sequences are divided among micro-batches and workers."""
    return BatchShape(
        config.train_batch_size, config.accumulation_steps(workers.size), workers.size, workers.rank
    )


def batch_arithmetic(
    config: PretrainingConfig, shape: BatchShape, examples: int, examples_per_sequence: float
) -> list[str]:
    """What an update and the whole training consist of, in two lines."""
    count = shape.global_batch_size
    total = count * config.num_train_steps
    packed = f" of about {examples_per_sequence:.2f} examples" if config.pack_sequences else ""
    return [
        f"batch: {shape.sequences} per worker x {shape.accumulation_steps} accumulated x {shape.workers} "
        f"workers = {count:,} sequences, {count * config.max_seq_length:,} tokens an update",
        f"phase {config.phase}: {config.num_train_steps:,} updates = {total:,} sequences{packed} = "
        f"{total * examples_per_sequence / examples:.2f} epochs of {examples:,} examples; "
        f"{config.num_warmup_steps:,} of warm-up",
    ]


def _look(config: PretrainingConfig) -> Inputs:
    held_out_paths = []
    if config.eval_tfrecords:
        held_out_paths = tfrecords.find_shards(config.eval_tfrecords, "eval_tfrecords")
    if config.do_eval_only and not tfrecords.any_shard(config.pretrain_tfrecords):
        training_paths = held_out_paths
    else:
        training_paths = tfrecords.find_shards(config.pretrain_tfrecords, "pretrain_tfrecords")
    vocabulary = _find_vocabulary(config, training_paths)
    for flag, paths in (("pretrain_tfrecords", training_paths), ("eval_tfrecords", held_out_paths)):
        _check_manifests(flag, paths, config, vocabulary)
    return Inputs(
        vocabulary,
        Shards(training_paths, flag="pretrain_tfrecords"),
        Shards(held_out_paths, flag="eval_tfrecords") if held_out_paths else None,
    )


def _find_checkpoint(config: PretrainingConfig) -> Checkpoint | None:
    """In this order: the one at a path; the run's own newest; phase 1's newest for a second phase; none."""
    folder = config.checkpoints_folder
    if config.restore_checkpoint not in ("", "latest"):
        return _load_from_path(config)
    if config.restore_checkpoint:
        own = checkpointing.load_newest(folder, checkpointing.PHASE_PREFIXES[config.phase])
        if own is not None or config.phase == 1:
            return own
        first = checkpointing.load_newest(folder, checkpointing.PHASE_PREFIXES[1])
        if first is None:
            raise UsageError(f"--phase2: nothing to restore, {folder} holds no checkpoint of phase 1")
        return first
    prefixes = checkpointing.PHASE_PREFIXES.values()
    found = [path for prefix in prefixes for _, path in checkpointing.list_checkpoints(folder, prefix)]
    if found and not (config.do_eval_only or config.show_update):
        raise UsageError(
            f"--model_name {config.model_name}: {config.model_dir} holds a run already ({found[-1].name}); "
            "give --restore_checkpoint to go on with it, or another name"
        )
    return None


def _tell_unfinished(first: Checkpoint) -> None:
    """Say so where phase 1 has not come to its end."""
    planned = first.state["config"]["num_train_steps"]
    if first.step < planned:
        print(f"warning: phase 2 starts from {first.path}, {first.step:,} of {planned:,} updates of phase 1")


def _load_from_path(config: PretrainingConfig) -> Checkpoint:
    checkpoint = checkpointing.load_given(config.restore_checkpoint)
    if "phase" not in checkpoint.state:
        raise UsageError(
            f"--restore_checkpoint {config.restore_checkpoint}: is no checkpoint of pre-training; weights of "
            "other programs come in by --init_weights"
        )
    if checkpoint.state["phase"] == 2 and config.phase == 1:
        raise UsageError(
            f"--restore_checkpoint {config.restore_checkpoint}: a checkpoint of phase 2; give --phase2"
        )
    return checkpoint


def _merge_skipped(config: PretrainingConfig, checkpoint: Checkpoint | None) -> list[tuple[int, int]]:
    """The ranges that the checkpoint records, then those of --skip_updates that are new."""
    recorded = [] if checkpoint is None else [tuple(pair) for pair in checkpoint.state["skip_updates"]]
    new = [pair for pair in config.skipped_ranges() if pair not in recorded]
    for first, last in new:
        if checkpoint is not None and first <= checkpoint.step:
            raise UsageError(
                f"--skip_updates {first}-{last}: {checkpoint.path} is past update {first} already; "
                "restore an earlier checkpoint"
            )
    return recorded + new


def _find_vocabulary(config: PretrainingConfig, paths: list[str]) -> Vocabulary:
    beside = Path(paths[0]).parent / tfrecords.VOCABULARY_NAME
    recorded = load_vocabulary(beside) if beside.exists() else None
    if not config.vocab_file:
        if recorded is None:
            raise UsageError(
                f"--vocab_file: none given, and no {tfrecords.VOCABULARY_NAME} beside {paths[0]}"
            )
        return recorded
    vocabulary = load_vocabulary(config.vocab_file)
    # With the same pieces, the shards' own record of casing is the one that the ids were made with.
    return recorded if recorded is not None and recorded.sha256 == vocabulary.sha256 else vocabulary


def _check_manifests(flag: str, paths: list[str], config: PretrainingConfig, vocabulary: Vocabulary) -> None:
    for folder in dict.fromkeys(Path(path).parent for path in paths):
        manifest = tfrecords.read_manifest(folder)
        if manifest is None:
            continue
        length = manifest["settings"]["max_seq_length"]
        if length != config.max_seq_length:
            raise UsageError(
                f"--max_seq_length {config.max_seq_length}: --{flag} {folder} has examples of {length} tokens"
            )
        if manifest["vocabulary_sha256"] != vocabulary.sha256:
            source = config.vocab_file or "(beside the training shards)"
            raise UsageError(f"--vocab_file {source}: --{flag} {folder} was built with another vocabulary")
        sizes = {shard["name"]: shard["bytes"] for shard in manifest["shards"]}
        missing = [name for name in sizes if not (folder / name).exists()]
        if missing:
            raise UsageError(f"--{flag} {folder}: {missing[0]}, which its manifest names, is not there")
        for path in paths:
            if Path(path).parent == folder and sizes.get(Path(path).name, 0) != os.path.getsize(path):
                raise UsageError(
                    f"--{flag} {path}: not as {tfrecords.MANIFEST_NAME} beside it says (cut off?)"
                )
