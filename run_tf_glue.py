"""Fine-tune ELECTRA to label texts, predict labels, score them: GLUE's tasks, and files of one's own.

    python run_tf_glue.py --task RTE --data_dir data/download/glue --electra_model exports/discriminator \\
        --output_dir results/rte --do_train --do_eval --seeds 1,2,3
    python run_tf_glue.py --task_type classification --train_file train.csv --eval_file dev.csv \\
        --electra_model exports/discriminator --output_dir results/own --do_train --do_eval
    python run_tf_glue.py --task_type tagging --train_file train.conll --eval_file dev.conll \\
        --electra_model exports/discriminator --output_dir results/chunks --do_train --do_eval

Writes predictions.tsv, results.json, the fine-tuned model in model/, and for GLUE's tests (--do_predict) the
files of submission/. The same command with --restore_checkpoint goes on after an interruption.
"""

import glue_inputs
from command_line import parse, run_program
from device import keep_freed_memory, prepare_tensorflow, take_share
from finetuning_inputs import check_output_dir
from glue_configuration import GlueConfig
from worker_checks import check_alike, hold_folder
from workers import Workers, find_workers


def main() -> int:
    config = parse(GlueConfig, description=__doc__)
    prepare_tensorflow()
    keep_freed_memory()
    # TensorFlow is loaded only when the flags are known to be good, or to read a checkpoint of its own.
    workers = find_workers(config.stall_timeout, log_all_ranks=config.log_all_ranks)
    take_share(workers, config.affinity)
    with workers.broken_exchange():
        return _run(config, workers)


def _run(config: GlueConfig, workers: Workers) -> int:
    config.accumulation_steps(workers.size)
    for own in config.seed_runs():
        check_output_dir(own)
    inputs = workers.agree(lambda: glue_inputs.open_inputs(config))
    check_alike(workers, config, inputs.fingerprints())
    import glue_run

    with hold_folder(workers, "--output_dir", config.output_dir):
        return glue_run.run(config, inputs, workers)


if __name__ == "__main__":
    run_program(main)
