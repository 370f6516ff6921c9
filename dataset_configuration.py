"""Every setting of the programs that make vocabularies and training examples: one field = one flag."""

from dataclasses import MISSING, dataclass

from command_line import option, require, require_at_least

_CORPUS_HELP = (
    "folder tree of .txt and .jsonl files, plain or with .gz, .bz2, .zst or .xz, of .parquet and .arrow "
    "files, and of .tar (the same), .tgz, .txz and .zip archives of these"
)
_COLUMN_HELP = (
    "column of the text in .jsonl, .parquet and .arrow; a record is a document, and each of its lines is "
    "split into sentences"
)
_BLANKS_HELP = "a blank line ends a document; False makes each text file one document"


@dataclass
class DatasetConfig:
    """Settings of build_pretraining_dataset.py."""

    corpus_dir: str = option(MISSING, _CORPUS_HELP, group="corpus")
    vocab_file: str = option(MISSING, "WordPiece vocabulary, one piece a line", group="corpus")
    output_dir: str = option(MISSING, "folder of the TFRecord shards", group="output")
    text_column: str = option("text", _COLUMN_HELP, group="corpus")
    max_seq_length: int = option(128, "tokens in an example", group="output")
    num_out_files: int = option(1000, "number of shards", group="output")
    held_out_fraction: float = option(
        0.0, "share of the documents kept for evaluation, in <output_dir>/held_out", group="output"
    )
    num_processes: int = option(1, "worker processes; the output does not depend on it", group="work")
    seed: int = option(1314, "seed of the segment lengths and of the held-out choice", group="work")
    blanks_separate_docs: bool = option(True, _BLANKS_HELP, group="corpus")
    do_lower_case: bool | None = option(
        None,
        "lower-case the text; default the record beside the vocabulary, else True",
        group="corpus",
        negative="--no_lower_case",
    )
    strict: bool = option(
        False,
        "stop at a file that is damaged or not UTF-8, or at a link in an archive, instead of skipping it",
        group="corpus",
    )

    def __post_init__(self):
        require_at_least(1, self, "num_out_files", "num_processes")
        require_at_least(8, self, "max_seq_length")
        require(
            0.0 <= self.held_out_fraction < 1.0,
            "held_out_fraction",
            self.held_out_fraction,
            "must be in [0, 1)",
        )


@dataclass
class VocabularyConfig:
    """Settings of build_vocabulary.py."""

    corpus_dir: str = option(MISSING, _CORPUS_HELP, group="vocabulary")
    text_column: str = option("text", _COLUMN_HELP, group="vocabulary")
    blanks_separate_docs: bool = option(True, _BLANKS_HELP, group="vocabulary")
    output: str = option(
        "vocab.txt", "vocabulary to write; its options are recorded beside it", group="vocabulary"
    )
    vocab_size: int = option(30522, "number of pieces, the five special ones included", group="vocabulary")
    min_frequency: int = option(2, "times a pair of pieces must occur to be merged", group="vocabulary")
    do_lower_case: bool = option(True, "lower-case the text", group="vocabulary", negative="--no_lower_case")
    strip_accents: bool | None = option(
        None, "drop accents; default the same as --do_lower_case, as in BERT", group="vocabulary"
    )
    held_out_fraction: float = option(
        0.0,
        "share of the documents to leave out and report on: tokens per word and share of [UNK]",
        group="report",
    )
    held_out_files: str = option(
        "",
        "comma-separated globs of files to report on instead; those in --corpus_dir are left out of it",
        group="report",
    )
    compare_vocab: str = option(
        "", "another vocabulary, BERT's for instance, to report on by the same text", group="report"
    )
    seed: int = option(
        1314,
        "seed of --held_out_fraction; by it, and the same --blanks_separate_docs, "
        "build_pretraining_dataset.py holds out the same of text files",
        group="report",
    )
    strict: bool = option(
        False,
        "stop at a file that is damaged or not UTF-8, or at a link in an archive, instead of skipping it",
        group="vocabulary",
    )

    def __post_init__(self):
        # The special pieces, and a character with its form inside a word.
        require_at_least(7, self, "vocab_size")
        require_at_least(1, self, "min_frequency")
        require(
            0.0 <= self.held_out_fraction < 1.0,
            "held_out_fraction",
            self.held_out_fraction,
            "must be in [0, 1)",
        )
        require(
            not (self.held_out_fraction and self.held_out_files),
            "held_out_files",
            self.held_out_files,
            "either this or --held_out_fraction",
        )
        require(
            bool(self.held_out_fraction or self.held_out_files or not self.compare_vocab),
            "compare_vocab",
            self.compare_vocab,
            "needs held-out text: --held_out_fraction or --held_out_files",
        )
