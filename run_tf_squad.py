"""Fine-tune ELECTRA on SQuAD, answer its questions, score the answers.

    python run_tf_squad.py --electra_model exports/discriminator --data_dir squad \\
        --output_dir results/squad --do_train --do_eval --num_train_epochs 2

Writes predictions.json, nbest_predictions.json, null_odds.json (SQuAD 2.0) and eval_results.json, and the
fine-tuned model in model/. The same command with --restore_checkpoint goes on after an interruption.
"""

import squad_inputs
from command_line import parse, run_program
from device import keep_freed_memory, prepare_tensorflow, take_share
from finetuning_inputs import check_output_dir
from squad_configuration import SquadConfig
from worker_checks import check_alike, hold_folder
from workers import Workers, find_workers


def main() -> int:
    config = parse(SquadConfig, description=__doc__)
    for warning in config.unused_flags():
        print(f"warning: {warning}")
    prepare_tensorflow()
    keep_freed_memory()
    # TensorFlow is loaded only when the flags are known to be good, or to read a checkpoint of its own.
    workers = find_workers(config.stall_timeout, log_all_ranks=config.log_all_ranks)
    take_share(workers, config.affinity)
    with workers.broken_exchange():
        return _run(config, workers)


def _run(config: SquadConfig, workers: Workers) -> int:
    config.accumulation_steps(workers.size)
    check_output_dir(config)
    inputs = workers.agree(lambda: squad_inputs.open_inputs(config))
    check_alike(workers, config, inputs.fingerprints())
    with hold_folder(workers, "--output_dir", config.output_dir):
        # Only now can no other run save a newer checkpoint there.
        start = squad_inputs.find_start(config, inputs, workers)
        import squad_run

        return squad_run.run(config, inputs, start, workers)


if __name__ == "__main__":
    run_program(main)
