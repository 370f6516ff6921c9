"""Fine-tune ELECTRA on SQuAD, answer its questions, score the answers.

    python run_tf_squad.py --electra_model exports/discriminator --data_dir squad \\
        --output_dir results/squad --do_train --do_eval --num_train_epochs 2

Writes predictions.json, nbest_predictions.json, null_odds.json (SQuAD 2.0) and eval_results.json, and the
fine-tuned model in model/. The same command with --restore_checkpoint goes on after an interruption.
"""

import os
from pathlib import Path

import files
import squad_inputs
from command_line import UsageError, parse, run_program
from distributed import find_workers, keep_freed_memory
from squad_configuration import SquadConfig


def main() -> int:
    config = parse(SquadConfig, description=__doc__)
    for warning in config.unused_flags():
        print(f"warning: {warning}")
    workers = find_workers()
    config.accumulation_steps(workers.size)
    keep_freed_memory()
    # TensorFlow is loaded only when the flags are known to be good, or to read a checkpoint of its own.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    squad_inputs.check_output_dir(config)
    inputs = squad_inputs.open_inputs(config)
    checkpoint = squad_inputs.find_checkpoint(config, inputs, workers)
    import squad_run

    Path(config.output_dir).mkdir(parents=True, exist_ok=True)
    try:
        with files.lock_folder(config.output_dir):
            return squad_run.run(config, inputs, checkpoint, workers)
    except BlockingIOError as error:
        raise UsageError(f"--output_dir {config.output_dir}: {error}") from None


if __name__ == "__main__":
    run_program(main)
