"""Pre-train ELECTRA on TFRecord shards.

    python run_pretraining.py --model_name first --model_size small --pretrain_tfrecords shards_128 \\
        --train_batch_size 32 --num_train_steps 1000 --num_warmup_steps 100

The same command with --restore_checkpoint goes on after an interruption; with --phase2 as well, and longer
sequences, it starts the second phase.
"""

import os
from pathlib import Path

import files
import pretrained_models
import pretraining_inputs
from command_line import UsageError, parse, run_program
from configuration import PretrainingConfig
from distributed import find_workers, keep_freed_memory


def main() -> int:
    config = parse(PretrainingConfig, description=__doc__)
    workers = find_workers()
    config.accumulation_steps(workers.size)
    if config.init_weights:
        pretrained_models.find_source(config.init_weights, "init_weights")
    inputs = pretraining_inputs.open_inputs(config)
    start = pretraining_inputs.find_start(config, inputs, workers)
    keep_freed_memory()
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


if __name__ == "__main__":
    run_program(main)
