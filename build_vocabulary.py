"""Text -> a WordPiece vocabulary, and how well it fits text that it was not made from.

    python build_vocabulary.py --corpus-dir text/ --vocab-size 8000 --output vocab.txt
    python build_vocabulary.py --corpus-dir text/ --held-out-fraction 0.01 --compare-vocab bert/vocab.txt

Casing and accents are recorded beside the vocabulary and picked up by every later program. The text is
streamed: once for its characters, once for its words, and once for the report on its held-out documents.
"""

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer
from tqdm import tqdm

import corpus
import example_builder
from command_line import UsageError, parse, run_program
from corpus import Document, Source
from dataset_configuration import VocabularyConfig
from tokenization import (
    SPECIAL_PIECES,
    Vocabulary,
    build_tokenizer,
    load_vocabulary,
    normalizer,
    options_path,
)

# Of the text's characters all but one in 20,000 are kept, or this many different ones where that is more.
_COVERAGE = 0.99995
_LEAST_ALPHABET = 1000
_LINES_PER_TOKENIZER_CALL = 1024


def main() -> int:
    config = parse(VocabularyConfig, description=__doc__)
    output = Path(config.output)
    _check_output(output, config)
    compared = {}
    if config.compare_vocab:
        compared[config.compare_vocab] = load_vocabulary(config.compare_vocab, flag="compare_vocab")
    held_out_files = corpus.find_files(config.held_out_files, "held_out_files")
    left_out = [output, *compared, *(source.path for source in held_out_files)]
    left_out += map(options_path, (output, *compared))
    others: Counter[str] = Counter()
    sources = corpus.find_sources(config.corpus_dir, left_out, others=others)
    corpus.tell_others(others)
    sources = _usable(sources, config.corpus_dir, config)
    held_out_files = _usable(held_out_files, "", config)
    counts = count_characters(sources, config)
    alphabet = choose_alphabet(counts, config.vocab_size)
    vocabulary = train_vocabulary(sources, alphabet, config)
    vocabulary.save(output)
    note = ""
    if vocabulary.size < config.vocab_size:
        note = (
            f", fewer than --vocab_size {config.vocab_size}: no other pair of pieces occurs "
            f"--min_frequency {config.min_frequency} times"
        )
    print(f"{output}: {vocabulary.size} pieces from {len(sources)} files{note}")
    if len(alphabet) < len(counts):
        unknown = counts.total() - sum(counts[character] for character in alphabet)
        print(
            f"{len(counts) - len(alphabet):,} of {len(counts):,} characters, the rarest, have no piece: "
            f"{unknown / counts.total():.4%} of the text"
        )
    if config.held_out_fraction or config.held_out_files:
        # Either some documents of the corpus, or all of those files.
        text = sources if config.held_out_fraction else held_out_files
        lines = _lines(text, "held-out text", config, held_out=config.held_out_fraction > 0)
        print(report(lines, {config.output: vocabulary} | compared))
    return 0


def count_characters(sources: list[Source], config: VocabularyConfig) -> Counter[str]:
    """How often each character stands in the normalised text, white space left out.

    Raises:
        UsageError: the corpus has no text.
    """
    text_normalizer = normalizer(config.do_lower_case, config.strip_accents)
    counts: Counter[str] = Counter()
    for line in _lines(sources, "counting characters", config):
        counts.update(text_normalizer.normalize_str(line))
    for space in [character for character in counts if character.isspace()]:
        del counts[space]
    if not counts:
        raise UsageError(f"--corpus_dir {config.corpus_dir}: an empty corpus, no text to learn from")
    return counts


def choose_alphabet(counts: Counter[str], vocab_size: int) -> list[str]:
    """The most frequent characters, in code point order; rarer ones become [UNK].

    As many as cover the text, and at least _LEAST_ALPHABET. Each takes two pieces, one of them for its place
    inside a word; together at most as many as there are beside the special ones.
    """
    frequent = sorted(counts, key=lambda character: (-counts[character], character))
    covered = itertools.accumulate(counts[character] for character in frequent)
    wanted = _COVERAGE * counts.total()
    covering = 1 + sum(characters < wanted for characters in covered)
    most = (vocab_size - len(SPECIAL_PIECES)) // 2
    return sorted(frequent[: min(most, max(covering, _LEAST_ALPHABET))])


def train_vocabulary(sources: list[Source], alphabet: list[str], config: VocabularyConfig) -> Vocabulary:
    """Count words and merge their most frequent pairs into pieces, special pieces first.

    The same text gives the same vocabulary: the trainer would number the pieces of one character in the
    order of a hash table, and break ties by those numbers, so they are handed to it in a fixed order.
    """
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizer(config.do_lower_case, config.strip_accents)
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
    tokenizer.train_from_iterator(_lines(sources, "counting words", config), trainer)
    ids = tokenizer.get_vocab()
    pieces = tuple(sorted(ids, key=ids.__getitem__))
    return Vocabulary(pieces, config.do_lower_case, config.strip_accents)


def report(lines: Iterable[str], vocabularies: dict[str, Vocabulary]) -> str:
    """A table of tokens per word and unknown share of each vocabulary on the same text.

    A word is what stands between spaces, so that it does not depend on the vocabulary. The unknown share is
    that of [UNK] among the tokens, [CLS] and [SEP] not counted; one [UNK] stands for a word or a part of one
    between punctuation, however long.

    Args:
        vocabularies: by the names that stand in the table.
    """
    tokenizers = {name: build_tokenizer(vocabulary) for name, vocabulary in vocabularies.items()}
    words, tokens, unknown = 0, Counter(), Counter()
    lines = iter(lines)
    while batch := list(itertools.islice(lines, _LINES_PER_TOKENIZER_CALL)):
        words += sum(len(line.split()) for line in batch)
        for name, tokenizer in tokenizers.items():
            unk_id = vocabularies[name].ids["[UNK]"]
            for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
                tokens[name] += len(encoding.ids)
                unknown[name] += encoding.ids.count(unk_id)
    if not words:
        return "no text was held out, so that there is nothing to report"
    title = f"held-out text of {words:,} words"
    width = max(map(len, (title, *vocabularies)))
    rows = [f"{title:{width}} {'pieces':>10} {'tokens/word':>12} {'unknown':>10}"]
    for name, vocabulary in vocabularies.items():
        per_word, share = tokens[name] / words, unknown[name] / max(1, tokens[name])
        rows.append(f"{name:{width}} {vocabulary.size:>10,} {per_word:>12.3f} {share:>10.3%}")
    return "\n".join(rows)


def _check_output(output: Path, config: VocabularyConfig) -> None:
    if not output.parent.is_dir():
        raise UsageError(f"--output {config.output}: no such folder {output.parent}")
    if not os.access(output.parent, os.W_OK):
        raise UsageError(f"--output {config.output}: the folder {output.parent} is not writable")
    if output.exists() and not output.is_file():
        raise UsageError(f"--output {config.output}: not a file")
    if config.compare_vocab and output.resolve() == Path(config.compare_vocab).resolve():
        raise UsageError(f"--output {config.output}: would replace the vocabulary of --compare_vocab")


def _usable(sources: list[Source], folder: str, config: VocabularyConfig) -> list[Source]:
    inspections = [corpus.inspect_source(source, config.text_column) for source in sources]
    return corpus.usable_sources(sources, inspections, folder, config.strict)


def _lines(
    sources: list[Source], purpose: str, config: VocabularyConfig, *, held_out: bool = False
) -> Iterator[str]:
    """The lines of the documents that --held_out_fraction takes, or of all others."""
    for source in tqdm(sources, desc=purpose, unit="file", disable=None):
        for block in corpus.read_blocks(
            source.path, config.blanks_separate_docs, config.text_column, source.left_out
        ):
            for document in block:
                if _is_held_out(document, config) == held_out:
                    yield from document


def _is_held_out(document: Document, config: VocabularyConfig) -> bool:
    if not config.held_out_fraction:
        return False
    key = example_builder.document_key(config.seed, document)
    return example_builder.is_held_out(key, config.held_out_fraction)


if __name__ == "__main__":
    run_program(main)
