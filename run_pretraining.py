"""Pre-train ELECTRA on TFRecord shards.

    python run_pretraining.py --model_name first --model_size small --pretrain_tfrecords shards_128 \\
        --train_batch_size 32 --num_train_steps 1000 --num_warmup_steps 100

The same command with --restore_checkpoint goes on after an interruption; with --phase2 as well, and longer
sequences, it starts the second phase.
"""

import pretrained_models
import pretraining_inputs
from command_line import parse, run_program
from configuration import PretrainingConfig
from device import keep_freed_memory, prepare_tensorflow, take_share
from worker_checks import check_alike, hold_folder
from workers import Workers, find_workers


def main() -> int:
    config = parse(PretrainingConfig, description=__doc__)
    prepare_tensorflow()
    keep_freed_memory()
    workers = find_workers(config.stall_timeout, log_all_ranks=config.log_all_ranks)
    take_share(workers, config.affinity)
    with workers.broken_exchange():
        return _run(config, workers)


def _run(config: PretrainingConfig, workers: Workers) -> int:
    config.accumulation_steps(workers.size)
    if config.init_weights:
        pretrained_models.find_source(config.init_weights, "init_weights")
    inputs = pretraining_inputs.open_inputs(config, workers)
    check_alike(workers, config, {"pretrain_tfrecords": inputs.training.fingerprint()})
    # TensorFlow takes seconds to load: it is imported when the flags are known to be good.
    if config.show_update or config.dry_run or config.do_eval_only:
        return _look(config, inputs, workers)
    name = f"--model_name {config.model_name}"
    with hold_folder(workers, name, config.model_dir, config.checkpoints_folder):
        # Only now can no other run save a newer checkpoint there.
        start = pretraining_inputs.find_start(config, inputs, workers)
        import pretraining_run

        return pretraining_run.train(config, inputs, start, workers)


def _look(config: PretrainingConfig, inputs: pretraining_inputs.Inputs, workers: Workers) -> int:
    """What trains nothing, and may be done beside a training."""
    start = pretraining_inputs.find_start(config, inputs, workers)
    import pretraining_run

    if config.show_update:
        return pretraining_run.show_update(config, inputs, start, workers)
    if config.dry_run:
        import pretraining_dry_run

        return pretraining_dry_run.dry_run(config, inputs, start, workers)
    return pretraining_run.evaluate_only(config, inputs, start, workers)


if __name__ == "__main__":
    run_program(main)
