"""Every setting of data/dataPrep.py, in NVIDIA's names where it has them: one field = one flag."""

from dataclasses import MISSING, dataclass

from command_line import option, require, require_at_least

ACTIONS = ("download", "text_formatting", "sharding", "create_tfrecord_files")
LEAST_MEMORY_GB = 0.3


@dataclass
class PreparationConfig:
    """Settings of data/dataPrep.py."""

    action: str = option(MISSING, "the step to run", group="what to do", choices=ACTIONS)
    dataset: str = option(
        MISSING,
        "wikicorpus_en or another language, bookscorpus, openwebtext, text (your own: --input_files); "
        "books_wiki_en_corpus for both of these together; to download only: squad, glue, mrpc, "
        "vocabulary, google_pretrained_weights, all",
        group="what to do",
    )
    input_files: str | None = option(
        None,
        "comma-separated files and folders to format instead of what was downloaded; @FILE for those that a "
        "file names, one a line or each ended by a zero (find -print0)",
        group="text_formatting",
    )
    text_column: str = option(
        "text", "column of the text in .jsonl, .parquet and .arrow", group="text_formatting"
    )
    blanks_separate_docs: bool = option(
        True,
        "a blank line ends a document in .txt; False makes each file one document",
        group="text_formatting",
    )
    strict: bool = option(
        False,
        "stop at a file that is not UTF-8 or is no plain file, instead of skipping it",
        group="text_formatting",
    )
    clean: str = option(
        "none",
        "what to clean: none, as in NVIDIA's recipe; standard, all of it; or names with commas; for "
        "text_formatting and again for sharding, which is where duplicates and near_duplicates are dropped",
        group="cleaning",
    )
    language: str = option("en", "language that the cleaner `language` keeps", group="cleaning")
    decontaminate_against: str | None = option(
        None,
        "comma-separated files of evaluation text (SQuAD's .json, .txt), or @FILE: documents that share 13 "
        "words in a row with them are left out",
        group="cleaning",
    )
    n_training_shards: int = option(2048, "text shards for training, at most", group="sharding")
    n_test_shards: int = option(2048, "text shards for held-out evaluation, at most", group="sharding")
    fraction_test_set: float = option(
        0.01, "share of the documents that is held out for evaluation", group="sharding"
    )
    segmentation_method: str = option(
        "sentencex",
        "how paragraphs become sentences; lines leaves them whole",
        group="sharding",
        choices=("sentencex", "lines"),
    )
    random_seed: int = option(
        12345, "seed of the held-out choice and of the segment lengths", group="create_tfrecord_files"
    )
    max_seq_length: int = option(512, "tokens in an example", group="create_tfrecord_files")
    vocab_file: str | None = option(
        None, "WordPiece vocabulary; default vocab.txt in the working folder", group="create_tfrecord_files"
    )
    do_lower_case: bool | None = option(
        None,
        "lower-case the text; default the record beside the vocabulary, else True",
        group="create_tfrecord_files",
        negative="--no_lower_case",
    )
    mirror: str | None = option(
        None,
        "address to take dumps or SQuAD from instead of their own; for the hub it is HF_ENDPOINT in the "
        "environment",
        group="download",
    )
    n_processes: int = option(
        0, "worker processes, 0 for one a processor; the output does not depend on it", group="work"
    )
    max_memory_gb: float = option(
        0.0, "10^9 bytes that each process may allocate; 0 for no bound", group="work"
    )
    dask_scheduler: str | None = option(
        None, "address of a Dask scheduler, tcp://host:port, whose workers do the work", group="work"
    )
    tolerate: int = option(
        0, "damaged places of sources and failed pieces of work that are no failure", group="work"
    )

    def __post_init__(self):
        require_at_least(1, self, "n_training_shards", "n_test_shards")
        require_at_least(8, self, "max_seq_length")
        require_at_least(0, self, "n_processes", "tolerate")
        require(
            self.max_memory_gb == 0 or self.max_memory_gb >= LEAST_MEMORY_GB,
            "max_memory_gb",
            self.max_memory_gb,
            f"must be 0 or at least {LEAST_MEMORY_GB}, for what a process needs before it begins",
        )
        require(
            0.0 <= self.fraction_test_set < 1.0,
            "fraction_test_set",
            self.fraction_test_set,
            "must be in [0, 1)",
        )
