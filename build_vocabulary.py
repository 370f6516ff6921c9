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
from tokenization import SPECIAL_PIECES, Vocabulary, build_tokenizer, load_vocabulary, normalizer

# As many characters as BERT's multilingual trainers keep; rarer ones become [UNK].
_MAX_ALPHABET = 1000
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
    sources = _usable(corpus.find_sources(config.corpus_dir, left_out), config.corpus_dir, config)
    held_out_files = _usable(held_out_files, "", config)
    vocabulary = train_vocabulary(sources, config)
    vocabulary.save(output)
    note = ""
    if vocabulary.size < config.vocab_size:
        note = f", fewer than --vocab_size {config.vocab_size}: the text has no more frequent pairs"
    print(f"{output}: {vocabulary.size} pieces from {len(sources)} files{note}")
    if config.held_out_fraction or config.held_out_files:
        # Either some documents of the corpus, or all of those files.
        text = sources if config.held_out_fraction else held_out_files
        lines = _lines(text, "held-out text", config, held_out=config.held_out_fraction > 0)
        print(report(lines, {config.output: vocabulary} | compared))
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
    for line in _lines(sources, "counting characters", config):
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


def _alphabet(counts: Counter[str], most: int) -> list[str]:
    """The most frequent characters of the normalised text, in code point order."""
    for space in [character for character in counts if character.isspace()]:
        del counts[space]
    frequent = sorted(counts, key=lambda character: (-counts[character], character))
    return sorted(frequent[: min(most, _MAX_ALPHABET)])


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
