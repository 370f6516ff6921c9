"""WordPiece vocabularies and tokenizers, on the `tokenizers` library.

A vocabulary is a text file with one piece a line. Whether its text is lower-cased or stripped of accents
is recorded beside it, under Hugging Face's name and keys, so that every later program treats text alike.
"""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

import files
from command_line import UsageError

# In BERT's order, which a new vocabulary starts with.
SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_MAX_CHARACTERS_PER_WORD = 100
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Vocabulary:
    """WordPiece pieces (a piece's place is its id) and how text is normalised before it is split."""

    pieces: tuple[str, ...]
    do_lower_case: bool = True
    strip_accents: bool | None = None

    @property
    def size(self) -> int:
        return len(self.pieces)

    @functools.cached_property
    def ids(self) -> dict[str, int]:
        """Piece -> id."""
        return {piece: index for index, piece in enumerate(self.pieces)}

    @property
    def pad_id(self) -> int:
        return self.ids["[PAD]"]

    @property
    def cls_id(self) -> int:
        return self.ids["[CLS]"]

    @property
    def sep_id(self) -> int:
        return self.ids["[SEP]"]

    @property
    def mask_id(self) -> int:
        return self.ids["[MASK]"]

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the pieces alone: ids mean the same wherever it is equal."""
        return hashlib.sha256("\n".join(self.pieces).encode("utf-8")).hexdigest()

    def text(self, token_ids: Iterable[int]) -> str:
        """The pieces of these ids, joined to words."""
        return " ".join(self.pieces[token_id] for token_id in token_ids).replace(" ##", "")

    def tokenizer_config(self) -> dict:
        """Hugging Face's tokenizer_config.json."""
        return {
            "tokenizer_class": "ElectraTokenizer",
            "do_lower_case": self.do_lower_case,
            "strip_accents": self.strip_accents,
            "tokenize_chinese_chars": True,
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        }

    def files(self) -> dict[str, str]:
        """The contents of vocab.txt and tokenizer_config.json, by name."""
        return {
            "vocab.txt": "".join(f"{piece}\n" for piece in self.pieces),
            "tokenizer_config.json": json.dumps(self.tokenizer_config(), indent=2) + "\n",
        }

    def save(self, path: str | Path) -> None:
        """Write the pieces to `path` and the options beside it, before them.

        A vocabulary that is there without its options would be taken for one of lower-cased text.
        """
        contents = self.files()
        files.write_text(options_path(path), contents["tokenizer_config.json"])
        files.write_text(path, contents["vocab.txt"])


def encodable(text: str) -> str:
    """The text with a mark for each character that no encoding can hold, so that tokenizers take it."""
    return _LONE_SURROGATE.sub("\ufffd", text)


def normalizer(do_lower_case: bool, strip_accents: bool | None) -> BertNormalizer:
    """BERT's text normalisation; `strip_accents` None follows `do_lower_case`."""
    return BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=strip_accents, lowercase=do_lower_case
    )


def options_path(vocab_file: str | Path) -> Path:
    """Where a vocabulary's options are recorded: Hugging Face's name for the usual vocab.txt."""
    vocab_file = Path(vocab_file)
    name = "tokenizer_config.json"
    return vocab_file.with_name(name if vocab_file.name == "vocab.txt" else f"{vocab_file.stem}.{name}")


def load_vocabulary(
    vocab_file: str | Path, do_lower_case: bool | None = None, *, flag: str = "vocab_file"
) -> Vocabulary:
    """Read a vocabulary and the options recorded beside it.

    Args:
        vocab_file: one piece a line, UTF-8.
        do_lower_case: overrides the record; without either, text is lower-cased.
        flag: named where the file is at fault.

    Raises:
        UsageError: the file is missing, not UTF-8, lacks a special piece or holds a piece twice.
    """
    where = f"--{flag} {vocab_file}"
    try:
        text = Path(vocab_file).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{where}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{where}: not UTF-8") from None
    pieces = tuple(line.rstrip("\r") for line in text.removesuffix("\n").split("\n"))
    missing = [piece for piece in SPECIAL_PIECES if piece not in pieces]
    if missing:
        raise UsageError(f"{where}: the vocabulary lacks {', '.join(missing)}")
    vocabulary = Vocabulary(pieces)
    if len(vocabulary.ids) != len(pieces):
        seen: set[str] = set()
        twice = next(piece for piece in pieces if piece in seen or seen.add(piece))
        raise UsageError(f"{where}: the piece {twice!r} stands twice")
    options = _read_options(options_path(vocab_file), where)
    if do_lower_case is not None:
        options["do_lower_case"] = do_lower_case
    return dataclasses.replace(vocabulary, **options)


def build_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """A tokenizer that gives the pieces of one text, without [CLS], [SEP], truncation or padding."""
    model = WordPiece(
        vocabulary.ids,
        unk_token="[UNK]",
        max_input_chars_per_word=_MAX_CHARACTERS_PER_WORD,
        continuing_subword_prefix="##",
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizer(vocabulary.do_lower_case, vocabulary.strip_accents)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.decoder = WordPieceDecoder()
    return tokenizer


def _read_options(path: Path, where: str) -> dict:
    if not path.exists():
        return {}
    try:
        recorded = files.read_json(path)
    except OSError as error:
        raise UsageError(f"{where}: {path.name} beside it: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{where}: {path.name} beside it is not JSON ({error})") from None
    options = {}
    for name, allowed in (("do_lower_case", (True, False)), ("strip_accents", (True, False, None))):
        if isinstance(recorded, dict) and name in recorded:
            if recorded[name] not in allowed:
                raise UsageError(f"{where}: {path.name} beside it: {name} is no yes or no")
            options[name] = recorded[name]
    return options
