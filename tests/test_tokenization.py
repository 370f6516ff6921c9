"""Text becomes the ids that Hugging Face's BERT gives it, as the record beside the vocabulary says."""

import contextlib
import json
from pathlib import Path

import pytest
from text_cases import CASES, NASTY_TEXTS, PIECES, random_texts

import files
from command_line import UsageError
from tokenization import SPECIAL_PIECES, Vocabulary, build_tokenizer, load_vocabulary, options_path


def ours(vocabulary: Vocabulary, texts: list[str]) -> list[list[int]]:
    encodings = build_tokenizer(vocabulary).encode_batch(texts, add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def hugging_faces(folder: Path, texts: list[str]) -> list[list[int]]:
    """Ids by the tokenizer that transformers builds from a folder, its options included."""
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.BertTokenizerFast.from_pretrained(folder)
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def write_vocabulary(folder: Path, content: str | bytes, name: str = "vocab.txt") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(("do_lower_case", "strip_accents"), CASES)
def test_any_text_has_hugging_faces_ids(do_lower_case, strip_accents, tmp_path):
    vocabulary = Vocabulary(PIECES, do_lower_case, strip_accents)
    vocabulary.save(tmp_path / "vocab.txt")
    texts = NASTY_TEXTS + random_texts(200)
    expected = hugging_faces(tmp_path, texts)
    assert ours(vocabulary, texts) == expected
    assert len({piece for ids in expected for piece in ids}) > 80, "many pieces are compared, not [UNK]"


@pytest.mark.parametrize(("do_lower_case", "strip_accents"), CASES)
def test_real_text_has_the_ids_of_berts_python_tokenizer(do_lower_case, strip_accents, shared_data):
    """BERT's own code, in transformers' older module: nothing in common with the library that we use."""
    legacy = pytest.importorskip("transformers.models.bert.tokenization_bert_legacy")
    vocab_file = shared_data / "vocab" / "vocab.txt"
    reference = legacy.BertTokenizerLegacy(
        str(vocab_file), do_lower_case=do_lower_case, strip_accents=strip_accents
    )
    text = (shared_data / "wikipedia" / "wikitext-2-test.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip()][:250]
    vocabulary = Vocabulary(load_vocabulary(vocab_file).pieces, do_lower_case, strip_accents)
    expected = [reference(line, add_special_tokens=False)["input_ids"] for line in lines]
    assert sum(map(len, expected)) > 10_000
    assert ours(vocabulary, lines) == expected


def test_a_vocabulary_whose_saving_was_ended_is_not_there_without_its_options(tmp_path, monkeypatch):
    """Without them a cased one would be read as one of lower-cased text."""
    write = files.write_text
    path = tmp_path / "vocab.txt"
    for writes in range(3):
        left = iter(range(writes))

        def write_some(path, content, left=left):
            if next(left, None) is None:
                raise KeyboardInterrupt
            write(path, content)

        monkeypatch.setattr(files, "write_text", write_some)
        with contextlib.suppress(KeyboardInterrupt):
            Vocabulary(PIECES, do_lower_case=False).save(path)
        assert not path.exists() or not load_vocabulary(path).do_lower_case
    assert path.exists()


def test_text_cannot_name_a_special_token():
    """`[MASK]` in a document is a bracket and a word, as in Google's code, and not the token of that id."""
    vocabulary = Vocabulary(PIECES)
    (ids,) = ours(vocabulary, ["[MASK] [CLS] [SEP] [PAD] [UNK]"])
    assert not {vocabulary.mask_id, vocabulary.cls_id, vocabulary.sep_id, vocabulary.pad_id} & set(ids)


def test_decoder_joins_pieces_to_words():
    tokenizer = build_tokenizer(Vocabulary(PIECES))
    assert tokenizer.decode(tokenizer.encode("unaffable foxed").ids) == "unaffable foxed"


def test_special_ids_are_the_places_of_their_pieces():
    vocabulary = Vocabulary(("x", "[MASK]", "[SEP]", "[CLS]", "[UNK]", "[PAD]"))
    assert (vocabulary.pad_id, vocabulary.cls_id, vocabulary.sep_id, vocabulary.mask_id) == (5, 3, 2, 1)
    assert vocabulary.size == 6


# --------------------------------------------------------------------------- the record beside the vocabulary


@pytest.mark.parametrize(("do_lower_case", "strip_accents"), CASES)
def test_saved_options_are_found_again(do_lower_case, strip_accents, tmp_path):
    vocabulary = Vocabulary(PIECES, do_lower_case, strip_accents)
    for name in ("vocab.txt", "french.txt"):
        vocabulary.save(tmp_path / name)
        assert load_vocabulary(tmp_path / name) == vocabulary
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["do_lower_case"] is do_lower_case


def test_two_vocabularies_in_one_folder_keep_their_own_options(tmp_path):
    Vocabulary(PIECES, False).save(tmp_path / "cased.txt")
    Vocabulary(PIECES, True).save(tmp_path / "uncased.txt")
    assert options_path(tmp_path / "cased.txt") != options_path(tmp_path / "uncased.txt")
    assert load_vocabulary(tmp_path / "cased.txt").do_lower_case is False
    assert load_vocabulary(tmp_path / "uncased.txt").do_lower_case is True


def test_flag_wins_over_the_record_and_without_both_text_is_lower_cased(tmp_path):
    path = write_vocabulary(tmp_path, "\n".join(SPECIAL_PIECES))
    assert load_vocabulary(path).do_lower_case is True and load_vocabulary(path).strip_accents is None
    assert load_vocabulary(path, do_lower_case=False).do_lower_case is False
    Vocabulary(PIECES, False, True).save(path)
    assert load_vocabulary(path, do_lower_case=True) == Vocabulary(PIECES, True, True)


def test_options_of_a_hugging_face_folder_are_read(tmp_path):
    """tokenizer_config.json has many more keys there."""
    path = write_vocabulary(tmp_path, "\n".join(SPECIAL_PIECES))
    recorded = {"do_lower_case": False, "model_max_length": 512, "tokenizer_class": "BertTokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(recorded))
    assert load_vocabulary(path).do_lower_case is False


@pytest.mark.parametrize(
    "content", ["{broken", b"\xff\xfe", '{"do_lower_case": "no"}', '{"do_lower_case": null}']
)
def test_damaged_record_is_reported(content, tmp_path):
    path = write_vocabulary(tmp_path, "\n".join(SPECIAL_PIECES))
    write_vocabulary(tmp_path, content, "tokenizer_config.json")
    with pytest.raises(UsageError, match=r"--vocab_file .*vocab.txt: tokenizer_config.json beside it"):
        load_vocabulary(path)


# ------------------------------------------------------------------------------------------ vocabulary files


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends_are_no_part_of_a_piece(end, last, tmp_path):
    path = write_vocabulary(tmp_path, end.join(PIECES) + (end if last else ""))
    assert load_vocabulary(path).pieces == PIECES


def test_unusual_pieces_keep_their_ids(tmp_path):
    """Unicode's further line ends are characters like others here, as they are for BERT."""
    pieces = (*SPECIAL_PIECES, "\u2028", "\x85", "a\u00a0b", "\x1c", "end")
    vocabulary = load_vocabulary(write_vocabulary(tmp_path, "\n".join(pieces) + "\n"))
    assert vocabulary.pieces == pieces and vocabulary.ids["end"] == 9


@pytest.mark.parametrize("piece", SPECIAL_PIECES)
def test_missing_special_piece_is_named(piece, tmp_path):
    path = write_vocabulary(tmp_path, "\n".join(p for p in PIECES if p != piece))
    with pytest.raises(UsageError) as caught:
        load_vocabulary(path)
    assert str(caught.value) == f"--vocab_file {path}: the vocabulary lacks {piece}"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("\n".join([*PIECES, "fox"]), "the piece 'fox' stands twice"),
        ("\n".join(PIECES).encode() + b"\ncaf\xe9\n", "not UTF-8"),
        ("", "the vocabulary lacks [PAD], [UNK], [CLS], [SEP], [MASK]"),
        ("\n\n\n", "lacks"),
    ],
)
def test_unusable_vocabulary_is_named(content, told, tmp_path):
    path = write_vocabulary(tmp_path, content)
    with pytest.raises(UsageError) as caught:
        load_vocabulary(path)
    assert str(caught.value).startswith(f"--vocab_file {path}: ") and told in str(caught.value)


def test_missing_vocabulary_is_named(tmp_path):
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(UsageError, match=r"--vocab_file .*(No such file|directory)"):
            load_vocabulary(path)


def test_hash_tells_vocabularies_apart_and_not_their_files(tmp_path):
    """Ids mean the same wherever the hash is equal: it follows the pieces and their order alone."""
    one = load_vocabulary(write_vocabulary(tmp_path, "\n".join(PIECES)))
    two = load_vocabulary(write_vocabulary(tmp_path, "\r\n".join(PIECES) + "\r\n", "other.txt"))
    swapped = Vocabulary((*PIECES[:-2], PIECES[-1], PIECES[-2]))
    assert one.sha256 == two.sha256 == Vocabulary(PIECES, do_lower_case=False).sha256
    assert len({one.sha256, swapped.sha256, Vocabulary(PIECES[:-1]).sha256}) == 3
