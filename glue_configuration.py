"""Every setting of run_tf_glue.py beside those that all fine-tuning shares: one dataclass field = one flag.

Nothing here imports TensorFlow, so `--help` and a wrong flag answer at once.
"""

import dataclasses
from dataclasses import dataclass

from command_line import option, require, require_at_least
from finetuning_configuration import FineTuningConfig

TASK_TYPES = ("classification", "regression", "tagging")


@dataclass(kw_only=True)
class GlueConfig(FineTuningConfig):
    """Settings of run_tf_glue.py, with the fine-tuning recipe of Clark et al. 2020 (appendix A)."""

    # --- task ---
    task: str = option(
        "",
        "a task of GLUE: CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE or WNLI, with --data_dir",
        group="task",
    )
    task_type: str = option(
        "", "what to learn from files of your own instead", group="task", choices=("", *TASK_TYPES)
    )
    data_dir: str = option(
        "",
        "folder of GLUE's files, the benchmark's own (CoLA/train.tsv) or the hub's (cola/train-*.parquet)",
        group="task",
    )
    train_file: str = option(
        "",
        "data to train on: .tsv, .csv, .jsonl or .parquet with named columns; for tagging also words and "
        "tags in columns, a blank line between sentences",
        group="task",
    )
    eval_file: str = option("", "data of that kind to score", group="task")
    test_file: str = option("", "data of that kind to predict, whose labels need not be known", group="task")
    text_column: str = option(
        "", "name of the text's column, default text; of the words' for tagging", group="task"
    )
    text_pair_column: str = option("", "name of the second text's column, where there is one", group="task")
    label_column: str = option("", "name of the label's column, default label", group="task")
    id_column: str = option(
        "", "name of the column that identifies an example; default its number from 0", group="task"
    )
    both_orders: bool = option(
        True, "MRPC and STS-B: train on each pair in both orders, as the order means nothing", group="task"
    )
    seeds: str = option(
        "",
        "several seeds, 1,2,3: a run for each in <output_dir>/seed_<seed>, and results.json with mean and "
        "deviation",
        group="task",
    )

    # --- what to do ---
    do_eval: bool = option(False, "score the evaluation data", group="what to do")
    do_predict: bool = option(False, "predict the test data", group="what to do")

    # --- with other defaults than for SQuAD ---
    max_seq_length: int = option(128, "tokens of an example; the rest is cut off", group="optimization")
    predict_batch_size: int = option(32, "sequences in a batch of prediction", group="optimization")
    num_train_epochs: float | None = option(
        None, "passes over the training data; default 3, for RTE and STS-B 10", group="optimization"
    )
    learning_rate: float | None = option(
        None,
        "learning rate after warm-up; it falls to 0 linearly; default by the hidden size: 3e-4 below 512, "
        "1e-4 below 1024, else 5e-5",
        group="optimization",
    )
    layerwise_lr_decay: float | None = option(
        None,
        "a layer's learning rate relative to that of the layer above; default by the hidden size: 0.8 below "
        "1024, else 0.9",
        group="optimization",
    )

    def __post_init__(self):
        super().__post_init__()
        require(
            bool(self.task) != bool(self.task_type),
            "task",
            self.task or "(none)",
            "give either --task or --task_type",
        )
        require(
            self.do_train or self.do_eval or self.do_predict,
            "do_train",
            False,
            "nothing to do: give --do_train, --do_eval or --do_predict",
        )
        require(
            self.do_eval or not self.evaluate_during_training,
            "evaluate_during_training",
            True,
            "needs --do_eval",
        )
        require_at_least(8, self, "max_seq_length")
        if self.task_type:
            wanted = {"train": self.do_train, "eval": self.do_eval, "test": self.do_predict}
            for name, is_wanted in wanted.items():
                given = getattr(self, f"{name}_file")
                flag = {"train": "do_train", "eval": "do_eval", "test": "do_predict"}[name]
                require(bool(given) or not is_wanted, flag, True, f"--task_type needs --{name}_file")
            require(not self.data_dir, "data_dir", self.data_dir, "is for --task; name the files themselves")
        if self.task and not (self.train_file or self.eval_file or self.test_file):
            for name in ("text_column", "text_pair_column", "label_column", "id_column"):
                given = getattr(self, name)
                require(not given, name, given, "is for files of your own: those of GLUE are known")
        if self.task_type == "tagging":
            require(not self.text_pair_column, "text_pair_column", self.text_pair_column, "tagging has none")
        require(
            not self.seed_list() or self.restore_checkpoint in ("", "latest"),
            "restore_checkpoint",
            self.restore_checkpoint,
            "names one run, and --seeds has several: leave the path away",
        )

    def seed_list(self) -> list[int]:
        """The seeds of --seeds; none where a single run is wanted."""
        words = [word for word in self.seeds.replace(",", " ").split() if word]
        good = all(word.isdecimal() for word in words) and len({int(word) for word in words}) == len(words)
        require(good, "seeds", self.seeds, "must be different whole numbers, as in 1,2,3")
        return [int(word) for word in words]

    def seed_runs(self) -> list["GlueConfig"]:
        """The settings of each run: with a folder of its own for each of --seeds, or the one as it is."""
        return [
            dataclasses.replace(self, seed=seed, seeds="", output_dir=f"{self.output_dir}/seed_{seed}")
            for seed in self.seed_list()
        ] or [self]
