"""Sentences of film reviews that praise or blame: a data set for run_tf_glue.py that needs no hub.

    python data/movie_reviews.py --output_dir data/download/movie_reviews
    python run_tf_glue.py --task_type classification --train_file data/download/movie_reviews/train.tsv \\
        --eval_file data/download/movie_reviews/dev.tsv --text_column sentence --label_column label ...

The sentences and people's ratings of them come from a package (package_files.py). Those rated near 0 in the
mean are left out, as SST-2 leaves them out of the same reviews. Writes train.tsv and dev.tsv with the columns
id, sentence, label (negative or positive) and rating; which sentences dev.tsv has follows from their text.
"""

import hashlib
import sys
from dataclasses import MISSING, dataclass
from pathlib import Path

# Run by its path, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import files
from command_line import option, parse, run_program
from data import package_files

# Of ratings from -4 to 4.
_LEAST_RATING = 1.0
_DEV_SHARE = 0.2
_COLUMNS = ("id", "sentence", "label", "rating")


@dataclass
class MovieReviewsConfig:
    """Settings of data/movie_reviews.py."""

    output_dir: str = option(MISSING, "folder that receives train.tsv and dev.tsv", group="files")


def main() -> int:
    config = parse(MovieReviewsConfig, description=__doc__)
    folder = Path(config.output_dir)
    file_set = package_files.FILE_SETS["movie_reviews"]
    package_files.obtain(file_set, folder)
    rows = rated_sentences((folder / file_set.members[0].name).read_text(encoding="utf-8"))
    for name, is_dev in (("train.tsv", False), ("dev.tsv", True)):
        part = [row for row in rows if in_dev(row[1]) == is_dev]
        files.write_text(folder / name, "".join("\t".join(row) + "\n" for row in [_COLUMNS, *part]))
        positive = sum(row[2] == "positive" for row in part)
        print(f"{folder / name}: {len(part):,} sentences, {positive:,} of them positive")
    return 0


def rated_sentences(text: str) -> list[tuple[str, str, str, str]]:
    """Rows of id, sentence, label and rating; neutral sentences are left out.

    Args:
        text: the package's file, a line for each sentence: id, mean rating and sentence, separated by tabs.
    """
    rows = []
    for line in text.splitlines():
        number, rating, sentence = line.split("\t")
        if abs(float(rating)) >= _LEAST_RATING:
            label = "positive" if float(rating) > 0 else "negative"
            rows.append((number, sentence.strip(), label, rating))
    return rows


def in_dev(sentence: str) -> bool:
    """Whether a sentence is held out: by a hash of it, so that no text is on both sides."""
    digest = hashlib.sha256(sentence.encode()).digest()
    return int.from_bytes(digest[:8], "big") < _DEV_SHARE * 2**64


if __name__ == "__main__":
    run_program(main)
