"""Pre-train ELECTRA on TFRecord shards.

    python run_pretraining.py --model_name first --model_size small --pretrain_tfrecords 'shards_128/' \\
        --train_batch_size 32 --num_train_steps 1000 --num_warmup_steps 100

A laptop tries it in a minute with:  --config configs/cpu_smoke_phase1.json

This file checks everything that a user may have got wrong, without TensorFlow; the run itself is
pretraining_run.py.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import checkpointing
import files
import tfrecords
from checkpointing import Checkpoint, CorruptCheckpoint
from command_line import UsageError, parse, run_program
from configuration import PretrainingConfig
from distributed import find_workers
from tfrecords import Shards
from tokenization import Vocabulary, load_vocabulary


@dataclass(frozen=True)
class Inputs:
    """What a run reads: its vocabulary, its training shards and, if asked for, its held-out shards."""

    vocabulary: Vocabulary
    training: Shards
    held_out: Shards | None


@dataclass(frozen=True)
class Start:
    """Where a run's weights come from.

    Attributes:
        checkpoint: to restore, None for initial or random weights.
        new_phase: the checkpoint is phase 1's and gives a second phase its weights alone.
    """

    checkpoint: Checkpoint | None
    new_phase: bool = False


def main() -> int:
    config = parse(PretrainingConfig, description=__doc__)
    workers = find_workers()
    config.accumulation_steps(workers.size)
    if config.init_weights and not Path(config.init_weights).is_dir():
        raise UsageError(f"--init_weights {config.init_weights}: no such folder")
    inputs = open_inputs(config)
    start = find_start(config)
    # TensorFlow takes seconds to load: only now that the flags are known to be good.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import pretraining_run

    if config.show_update:
        return pretraining_run.show_update(config, inputs, start, workers)
    if config.do_eval_only:
        return pretraining_run.evaluate_only(config, inputs, start, workers)
    Path(config.checkpoints_folder).mkdir(parents=True, exist_ok=True)
    try:
        with files.lock_folder(config.model_dir):
            return pretraining_run.train(config, inputs, start, workers)
    except BlockingIOError as error:
        raise UsageError(f"--model_name {config.model_name}: {config.model_dir} is {error}") from None


def open_inputs(config: PretrainingConfig) -> Inputs:
    """Find the shards and their vocabulary and see that all of them fit the flags.

    Raises:
        UsageError: nothing matches, or a manifest says another length or another vocabulary.
    """
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


def find_start(config: PretrainingConfig) -> Start:
    """The checkpoint to start from, in this order: the run's own newest or the one at a path, phase 1's
    newest for a second phase, and else none (initial weights, or random ones).

    Raises:
        UsageError: a second phase with nothing to restore, a run that is there already, a bad path.
    """
    folder, own_prefix = config.checkpoints_folder, checkpointing.PHASE_PREFIXES[config.phase]
    if config.restore_checkpoint not in ("", "latest"):
        return _start_from_path(config)
    if config.restore_checkpoint:
        own = checkpointing.load_newest(folder, own_prefix)
        if own is not None:
            return Start(own)
        if config.phase == 2:
            first = checkpointing.load_newest(folder, checkpointing.PHASE_PREFIXES[1])
            if first is None:
                raise UsageError(f"--phase2: nothing to restore, {folder} holds no checkpoint of phase 1")
            return Start(first, new_phase=True)
        return Start(None)
    trains = not (config.do_eval_only or config.show_update)
    found = [
        path for prefix in checkpointing.PHASE_PREFIXES.values() for path in _checkpoints(folder, prefix)
    ]
    if found and trains:
        raise UsageError(
            f"--model_name {config.model_name}: {config.model_dir} holds a run already ({found[-1].name}); "
            "give --restore_checkpoint to go on with it, or another name"
        )
    return Start(None)


def _start_from_path(config: PretrainingConfig) -> Start:
    flag = f"--restore_checkpoint {config.restore_checkpoint}"
    if not Path(config.restore_checkpoint).is_dir():
        raise UsageError(f"{flag}: no such checkpoint folder")
    try:
        checkpoint = checkpointing.load(config.restore_checkpoint)
    except CorruptCheckpoint as error:
        raise UsageError(f"--restore_checkpoint {error}") from None
    phase = checkpoint.state.get("phase")
    if phase == 2 and config.phase == 1:
        raise UsageError(f"{flag}: a checkpoint of phase 2; give --phase2")
    return Start(checkpoint, new_phase=phase != config.phase)


def _checkpoints(folder: str, prefix: str) -> list[Path]:
    return [path for _, path in checkpointing.list_checkpoints(folder, prefix)]


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
        for path in paths:
            if Path(path).parent == folder and sizes.get(Path(path).name, 0) != os.path.getsize(path):
                raise UsageError(
                    f"--{flag} {path}: not as {tfrecords.MANIFEST_NAME} beside it says (cut off?)"
                )


if __name__ == "__main__":
    run_program(main)
