"""Every setting of the SQuAD programs: one dataclass field = one flag = one documented default.

Nothing here imports TensorFlow, so `--help` and a wrong flag answer at once.
"""

import dataclasses
import math
from dataclasses import MISSING, dataclass

from command_line import option, require, require_at_least, without_none
from finetuning_configuration import FineTuningConfig


@dataclass
class EvaluationConfig:
    """Settings of squad_evaluation.py: the official SQuAD 2.0 evaluator's names, and --squad_version."""

    data_file: str = option(MISSING, "SQuAD file with the gold answers", group="evaluation", positional=True)
    predictions_file: str = option(
        MISSING, "JSON object: question id -> predicted text", group="evaluation", positional=True
    )
    na_prob_file: str = option(
        "",
        "JSON object: question id -> how strongly the model holds it to be unanswerable (null_odds.json); "
        "adds the best thresholds; SQuAD 2.0 only",
        group="evaluation",
    )
    na_prob_thresh: float = option(
        1.0, "a question above this value of --na_prob_file counts as answered by nothing", group="evaluation"
    )
    squad_version: str = option(
        "auto",
        "whose rules: auto takes 2.0 where the data says so or holds is_impossible, else 1.1",
        group="evaluation",
        choices=("auto", "1.1", "2.0"),
    )
    out_file: str = option("", "write the scores to this file instead of printing them", group="evaluation")

    def __post_init__(self):
        require(
            not math.isnan(self.na_prob_thresh), "na_prob_thresh", self.na_prob_thresh, "must be a number"
        )


@dataclass(kw_only=True)
class SquadConfig(FineTuningConfig):
    """Settings of run_tf_squad.py: NVIDIA's flags with its defaults, and ours."""

    # --- model and data ---
    data_dir: str = option(
        MISSING, "folder of SQuAD's files, train-v1.1.json and so on", group="model and data"
    )
    train_file: str = option("", "default <data_dir>/train-v1.1.json or -v2.0", group="model and data")
    predict_file: str = option("", "default <data_dir>/dev-v1.1.json or -v2.0", group="model and data")
    version_2_with_negative: bool = option(
        False, "SQuAD 2.0: questions may have no answer", group="model and data"
    )
    max_questions: int = option(
        0, "use the first so many questions of each file; 0 takes all", group="model and data"
    )
    cache_dir: str = option("", "folder for the features; default <output_dir>/cache", group="model and data")
    skip_cache: bool = option(False, "neither read nor write cached features", group="model and data")

    # --- what to do ---
    do_predict: bool = option(False, "answer the questions of the predict file", group="what to do")
    do_eval: bool = option(False, "score the answers; includes --do_predict", group="what to do")

    # --- windows and answers ---
    max_seq_length: int = option(384, "tokens in a window", group="windows and answers")
    doc_stride: int = option(128, "tokens between two windows of a context", group="windows and answers")
    max_query_length: int = option(
        64, "tokens of a question; the rest is cut off", group="windows and answers"
    )
    max_answer_length: int = option(30, "tokens of an answer", group="windows and answers")
    n_best_size: int = option(20, "answers in nbest_predictions.json", group="windows and answers")
    joint_head: bool = option(
        True, "the end is predicted given the start; False for one dense layer", group="windows and answers"
    )
    joint_head_variant: str = option(
        "google", "form of the joint head", group="windows and answers", choices=("google", "xlnet")
    )
    beam_size: int = option(
        4, "starts, and ends for each, that the joint head keeps", group="windows and answers"
    )
    null_score_diff_threshold: float | None = option(
        None,
        "no answer where the null odds are above; default 0, or --joint_head_null_threshold",
        group="windows and answers",
    )
    joint_head_null_threshold: float = option(
        0.0,
        "the default of --null_score_diff_threshold where the model has the joint head, whose odds have "
        "another scale; scripts/run_squad.sh gives NVIDIA's -5.6 for SQuAD 2.0",
        group="windows and answers",
    )
    verbose_logging: bool = option(
        False, "list the questions that cannot be trained on", group="windows and answers"
    )

    # --- accepted for NVIDIA's scripts ---
    eval_script: str = option(
        "", "not needed: the scores are those of the official scripts", group="accepted for NVIDIA's scripts"
    )
    ci: bool = option(
        False, "not needed: checkpoints always go to --output_dir", group="accepted for NVIDIA's scripts"
    )
    no_cuda: bool = option(
        False, "not read: hide GPUs by CUDA_VISIBLE_DEVICES=", group="accepted for NVIDIA's scripts"
    )
    local_rank: int = option(
        -1, "not read: workers are found by Horovod", group="accepted for NVIDIA's scripts"
    )
    use_env: bool = option(
        False, "not read: workers are found by Horovod", group="accepted for NVIDIA's scripts"
    )

    def __post_init__(self):
        super().__post_init__()
        self.cache_dir = without_none(self.cache_dir)
        self.do_predict = self.do_predict or self.do_eval
        require(
            self.do_train or self.do_predict,
            "do_train",
            False,
            "nothing to do: give --do_train, --do_predict or --do_eval",
        )
        require(
            self.do_predict or not self.evaluate_during_training,
            "evaluate_during_training",
            True,
            "needs --do_predict or --do_eval",
        )
        require_at_least(1, self, "max_answer_length", "n_best_size", "beam_size")
        require_at_least(0, self, "max_questions")
        for name in ("null_score_diff_threshold", "joint_head_null_threshold"):
            threshold = getattr(self, name)
            require(threshold is None or not math.isnan(threshold), name, threshold, "must be a number")

    def null_threshold(self, joint_head: bool) -> float:
        """The null odds above which a question has no answer, given or of the head that answers.

        The joint head's odds are a logit of its own, the plain head's a difference of scores: their scales
        differ.
        """
        if self.null_score_diff_threshold is not None:
            return self.null_score_diff_threshold
        return self.joint_head_null_threshold if joint_head else 0.0

    def unused_flags(self) -> list[str]:
        """A warning for each flag that was given and is accepted for NVIDIA's scripts alone."""
        given = [
            field for field in dataclasses.fields(self) if field.metadata["group"].startswith("accepted")
        ]
        return [
            f"--{field.name}: {field.metadata['help']}"
            for field in given
            if getattr(self, field.name) != field.default
        ]

    def data_file(self, which: str) -> str:
        """The training file ("train") or the one to answer ("dev")."""
        given = {"train": self.train_file, "dev": self.predict_file}[which]
        version = "2.0" if self.version_2_with_negative else "1.1"
        return given or f"{self.data_dir}/{which}-v{version}.json"


@dataclass(kw_only=True)
class AnsweringConfig:
    """What the programs that answer with a fine-tuned model, or hand it on, have in common."""

    # --- model ---
    electra_model: str = option(
        MISSING,
        "fine-tuned weights with their vocabulary: an exported or Hugging Face folder, a training "
        "checkpoint, a name on the hub",
        group="model",
    )
    init_checkpoint: str = option(
        "", "weights of that kind to take instead of --electra_model's", group="model"
    )
    vocab_file: str = option("", "WordPiece vocabulary; default the one beside the weights", group="model")
    do_lower_case: bool | None = option(
        None,
        "lower-case the text; default the record beside the vocabulary, else True",
        group="model",
        negative="--no_lower_case",
    )
    joint_head: bool | None = option(
        None, "which head the weights must have, joint or plain; default whichever they have", group="model"
    )

    # --- windows and answers ---
    max_seq_length: int | None = option(
        None, "tokens in a window; default 384, or what the model can take", group="windows and answers"
    )
    doc_stride: int = option(128, "tokens between two windows of a context", group="windows and answers")
    max_query_length: int = option(
        64, "tokens of a question; the rest is cut off", group="windows and answers"
    )
    max_answer_length: int = option(30, "tokens of an answer", group="windows and answers")
    n_best_size: int = option(20, "answers in the n-best list", group="windows and answers")
    beam_size: int = option(
        4, "starts, and ends for each, that the joint head keeps", group="windows and answers"
    )
    version_2_with_negative: bool | None = option(
        None,
        "questions may have no answer; default what the model's config.json says under squad_head, else "
        "False",
        group="windows and answers",
    )
    null_score_diff_threshold: float = option(
        0.0, "no answer where the null odds are above", group="windows and answers"
    )

    def __post_init__(self):
        self.init_checkpoint = without_none(self.init_checkpoint)
        require_at_least(1, self, "max_answer_length", "n_best_size", "beam_size")
        threshold = self.null_score_diff_threshold
        require(not math.isnan(threshold), "null_score_diff_threshold", threshold, "must be a number")


@dataclass(kw_only=True)
class InferenceConfig(AnsweringConfig):
    """Settings of run_inference.py."""

    # --- questions ---
    question: str = option(
        "", "answer this question; without it and --input, ask for more", group="questions"
    )
    context: str = option("", "the text that holds the answers", group="questions")
    context_file: str = option("", "UTF-8 file with that text", group="questions")
    input: str = option(
        "",
        'JSON lines {"id", "question", "context"} to answer in order; "id" may be left out, and "context" '
        "where --context or --context_file has it; - reads standard input",
        group="questions",
    )
    output: str = option(
        "", "file for the answers to --input, a JSON line each; default standard output", group="questions"
    )
    json: bool = option(
        False, "print each answer, or each token, as a JSON object in one line", group="questions"
    )

    # --- replaced tokens ---
    generator_model: str = option(
        "",
        "masked language model whose alternatives are shown; default for --serve the one that lies beside "
        "the discriminator or in the same run",
        group="replaced tokens",
    )
    alternatives: int = option(5, "alternatives for each token", group="replaced tokens")

    # --- page ---
    serve: bool = option(False, "serve a page to ask on, until Ctrl-C", group="page")
    host: str = option(
        "127.0.0.1", "address to serve on; another one lets others ask, without a password", group="page"
    )
    port: int = option(8009, "port to serve on; 0 takes a free one", group="page")
    max_characters: int = option(20_000, "the longest text that the page takes", group="page")

    # --- device ---
    batch_size: int = option(8, "windows computed together", group="device")
    precision: str = option(
        "tf32",
        "fp32; tf32: float32 with TF32 products where the GPU has them; amp: float16; bf16",
        group="device",
        choices=("fp32", "tf32", "amp", "bf16"),
    )
    xla: bool = option(False, "compile with XLA (for GPUs; slower on CPUs)", group="device")

    def __post_init__(self):
        super().__post_init__()
        require_at_least(1, self, "batch_size")
        require(not (self.question and self.input), "input", self.input, "and --question exclude each other")
        require(
            not (self.context and self.context_file),
            "context_file",
            self.context_file,
            "and --context exclude each other",
        )
        require(self.input or not self.output, "output", self.output, "goes with --input")
        has_context = self.context or self.context_file
        require(
            has_context or not self.question, "question", self.question, "needs --context or --context_file"
        )
        require_at_least(1, self, "alternatives", "max_characters")
        require(0 <= self.port < 65536, "port", self.port, "must be between 0 and 65535")
        if self.serve:
            for name in ("question", "input", "json"):
                value = getattr(self, name)
                require(not value, name, value, "is not for --serve")

    def check_detects(self) -> None:
        """See that the flags fit a discriminator, which answers no questions.

        Raises:
            UsageError: one of them does not.
        """
        for name in ("question", "input"):
            value = getattr(self, name)
            require(not value, name, value, "needs a model that is fine-tuned with run_tf_squad.py")
        has_context = self.context or self.context_file or self.serve
        require(bool(has_context), "context", "(none)", "the text to examine; or --context_file, or --serve")

    def check_answers(self) -> None:
        """See that the flags fit a model that answers questions.

        Raises:
            UsageError: one of them does not.
        """
        value = self.generator_model
        require(not value, "generator_model", value, "goes with a discriminator from pre-training")


@dataclass(kw_only=True)
class SavedModelConfig(AnsweringConfig):
    """Settings of export_saved_model.py."""

    output_dir: str = option(
        MISSING, "folder for the SavedModel; absent, empty or one already", group="output"
    )
    batch_size: int = option(
        32, "windows computed together at the most, so that long contexts do not fill memory", group="output"
    )

    def __post_init__(self):
        super().__post_init__()
        require_at_least(1, self, "batch_size")
