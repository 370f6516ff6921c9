"""Text -> a WordPiece vocabulary.

    python build_vocabulary.py --corpus-dir text/ --vocab-size 8000 --output vocab.txt

Casing and accents are recorded beside the vocabulary and picked up by every later program.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer
from tqdm import tqdm

import corpus
from command_line import UsageError, parse, run_program
from corpus import Source
from dataset_configuration import VocabularyConfig
from tokenization import SPECIAL_PIECES, Vocabulary, normalizer

# As many characters as BERT's multilingual trainers keep; rarer ones become [UNK].
_MAX_ALPHABET = 1000


def main() -> int:
    config = parse(VocabularyConfig, description=__doc__)
    output = Path(config.output)
    if not output.parent.is_dir():
        raise UsageError(f"--output {config.output}: no such folder {output.parent}")
    if not os.access(output.parent, os.W_OK):
        raise UsageError(f"--output {config.output}: the folder {output.parent} is not writable")
    if output.exists() and not output.is_file():
        raise UsageError(f"--output {config.output}: not a file")
    sources = corpus.find_sources(config.corpus_dir, leave_out=(output,))
    inspections = [corpus.inspect_source(source, config.text_column) for source in sources]
    sources = corpus.usable_sources(sources, inspections, config.corpus_dir, config.strict)
    vocabulary = train_vocabulary(sources, config)
    vocabulary.save(output)
    note = ""
    if vocabulary.size < config.vocab_size:
        note = f", fewer than --vocab_size {config.vocab_size}: the text has no more frequent pairs"
    print(f"{output}: {vocabulary.size} pieces from {len(sources)} files{note}")
    return 0


def train_vocabulary(sources: list[Source], config: VocabularyConfig) -> Vocabulary:
    """Count words and merge their most frequent pairs into pieces, special pieces first.

    The same text gives the same vocabulary: the trainer would number the pieces of one character in the
    order of a hash table, and break ties by those numbers, so they are handed to it in a fixed order.

    Raises:
        UsageError: the corpus has no text.
    """
    text_normalizer = normalizer(config.do_lower_case, config.strip_accents)
    counts: Counter[str] = Counter()
    for line in _lines(sources, "counting characters", config.text_column):
        counts.update(text_normalizer.normalize_str(line))
    alphabet = _alphabet(counts, (config.vocab_size - len(SPECIAL_PIECES)) // 2)
    if not alphabet:
        raise UsageError(f"--corpus_dir {config.corpus_dir}: an empty corpus, no text to learn from")
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = text_normalizer
    tokenizer.pre_tokenizer = BertPreTokenizer()
    trainer = WordPieceTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=[*SPECIAL_PIECES, *alphabet, *(f"##{character}" for character in alphabet)],
        limit_alphabet=len(alphabet),
        initial_alphabet=alphabet,
        continuing_subword_prefix="##",
        show_progress=False,
    )
    tokenizer.train_from_iterator(_lines(sources, "counting words", config.text_column), trainer)
    ids = tokenizer.get_vocab()
    pieces = tuple(sorted(ids, key=ids.__getitem__))
    return Vocabulary(pieces, config.do_lower_case, config.strip_accents)


def _alphabet(counts: Counter[str], most: int) -> list[str]:
    """The most frequent characters of the normalised text, in code point order."""
    for space in [character for character in counts if character.isspace()]:
        del counts[space]
    frequent = sorted(counts, key=lambda character: (-counts[character], character))
    return sorted(frequent[: min(most, _MAX_ALPHABET)])


def _lines(sources: list[Source], purpose: str, text_column: str) -> Iterator[str]:
    for source in tqdm(sources, desc=purpose, unit="file", disable=None):
        yield from corpus.read_lines(source.path, text_column, source.left_out)


if __name__ == "__main__":
    run_program(main)
