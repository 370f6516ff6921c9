"""Text files -> a WordPiece vocabulary.

    python build_vocabulary.py --corpus-dir text/ --vocab-size 8000 --output vocab.txt

Casing and accents are recorded beside the vocabulary and picked up by every later program.
"""

from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer
from tqdm import tqdm

import corpus
from command_line import UsageError, parse, run_program
from configuration import VocabularyConfig
from corpus import Source
from tokenization import SPECIAL_PIECES, Vocabulary, normalizer


def main() -> int:
    config = parse(VocabularyConfig, description=__doc__)
    output = Path(config.output)
    if not output.parent.is_dir():
        raise UsageError(f"--output {config.output}: no such folder {output.parent}")
    sources = _usable_sources(corpus.find_sources(config.corpus_dir), config)
    vocabulary = train_vocabulary(sources, config)
    vocabulary.save(output)
    note = ""
    if vocabulary.size < config.vocab_size:
        note = f", fewer than --vocab_size {config.vocab_size}: the text has no more frequent pairs"
    print(f"{output}: {vocabulary.size} pieces from {len(sources)} files{note}")
    return 0


def train_vocabulary(sources: list[Source], config: VocabularyConfig) -> Vocabulary:
    """Count words and merge their most frequent pairs into pieces, special pieces first.

    Raises:
        UsageError: the corpus has no text, or the vocabulary is too small for its characters.
    """
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizer(config.do_lower_case, config.strip_accents)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    trainer = WordPieceTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=list(SPECIAL_PIECES),
        # Each character stands twice, as a word's first piece and as a later one.
        limit_alphabet=max(1, (config.vocab_size - len(SPECIAL_PIECES)) // 4),
        continuing_subword_prefix="##",
        show_progress=False,
    )
    tokenizer.train_from_iterator(_lines(sources), trainer)
    ids = tokenizer.get_vocab()
    if len(ids) == len(SPECIAL_PIECES):
        raise UsageError(f"--corpus_dir {config.corpus_dir}: an empty corpus, no text to learn from")
    if len(ids) > config.vocab_size:
        raise UsageError(f"--vocab_size {config.vocab_size}: too small, the alphabet alone needs {len(ids)}")
    pieces = tuple(sorted(ids, key=ids.__getitem__))
    return Vocabulary(pieces, config.do_lower_case, config.strip_accents)


def _usable_sources(sources: list[Source], config: VocabularyConfig) -> list[Source]:
    usable = []
    for source in sources:
        fault = corpus.inspect_source(source).fault
        if fault is None:
            usable.append(source)
        elif config.strict:
            raise UsageError(f"--strict: {source.path}: {fault}")
        else:
            print(f"skipped {source.path}: {fault}")
    return usable


def _lines(sources: list[Source]) -> Iterator[str]:
    for source in tqdm(sources, desc="counting words", unit="file", disable=None):
        yield from corpus.read_lines(source.path)


if __name__ == "__main__":
    run_program(main)
