"""The same text gives the same vocabulary, in BERT's form, and every later program treats text as it says."""

import gzip
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

import build_vocabulary
from build_vocabulary import report
from tokenization import SPECIAL_PIECES, Vocabulary, build_tokenizer, load_vocabulary

ROOT = Path(__file__).parents[1]
PROGRAM = "build_vocabulary.py"


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory) -> Path:
    """Words made of syllables, so that many pairs are equally frequent; capitals, accents, digits, 中文."""
    folder = tmp_path_factory.mktemp("text")
    draw = random.Random(0)
    syllables = [consonant + vowel for consonant in "bcdfglmnprstvz" for vowel in "aeiouéü"]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(800)]
    words += [word.capitalize() for word in words[:200]] + ["1984", "3.14", "don't", "中文", "Ünder", "ﬁn"]
    for number in range(4):
        lines = [" ".join(draw.choices(words, k=12)) + "." for _ in range(600)]
        content = "\n".join(lines).encode()
        if number == 3:
            (folder / f"{number}.txt.gz").write_bytes(gzip.compress(content))
        else:
            (folder / f"{number}.txt").write_bytes(content)
    return folder


def lines_of(folder: Path) -> list[str]:
    contents = [path.read_bytes() for path in sorted(folder.iterdir())]
    contents = [gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content for content in contents]
    return [line for content in contents for line in content.decode().splitlines()]


@pytest.fixture(scope="module")
def built(text_folder, tmp_path_factory, run_program) -> Path:
    output = tmp_path_factory.mktemp("built") / "vocab.txt"
    result = run_program(PROGRAM, "--corpus-dir", text_folder, "--vocab-size", 400, "--output", output)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{output}: 400 pieces from 4 files\n"
    return output


def words_of(line: str, **options) -> list[str]:
    normal = BertNormalizer(**options).normalize_str(line)
    return [word for word, _ in BertPreTokenizer().pre_tokenize_str(normal)]


def test_same_text_gives_the_same_vocabulary_in_every_process(text_folder, built, tmp_path, run_program):
    """Hash tables are ordered otherwise in each process; many pairs of syllables are equally frequent."""
    for number in range(3):
        output = tmp_path / f"{number}" / "vocab.txt"
        output.parent.mkdir()
        words = ["--corpus-dir", text_folder, "--vocab-size", 400, "--output", output]
        assert run_program(PROGRAM, *words).returncode == 0
        assert output.read_bytes() == built.read_bytes()
        assert (output.parent / "tokenizer_config.json").read_bytes() == (
            built.parent / "tokenizer_config.json"
        ).read_bytes()


def test_special_pieces_come_first_in_berts_order(built):
    pieces = built.read_text().splitlines()
    assert tuple(pieces[:5]) == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") == SPECIAL_PIECES
    assert len(pieces) == len(set(pieces)) == 400


def test_hugging_face_reads_it_and_finds_the_same_pieces(text_folder, built):
    transformers = pytest.importorskip("transformers")
    reference = transformers.BertTokenizerFast.from_pretrained(built.parent)
    vocabulary = load_vocabulary(built)
    tokenizer = build_tokenizer(vocabulary)
    lines = lines_of(text_folder)
    ours = [tokenizer.encode(line, add_special_tokens=False).ids for line in lines]
    assert ours == [reference(line, add_special_tokens=False)["input_ids"] for line in lines]
    assert vocabulary.ids["[UNK]"] not in {piece for ids in ours for piece in ids}, "it is made of this text"
    assert sum(map(len, ours)) < 0.6 * sum(len(line.replace(" ", "")) for line in lines), (
        "pieces are syllables"
    )


def test_pieces_are_frequent_parts_of_words(text_folder, tmp_path, run_program):
    """A piece of several characters occurs in the words of the text at least --min-frequency times, at their
    beginnings without ## and after it with."""
    output = tmp_path / "vocab.txt"
    words = ["--corpus-dir", text_folder, "--output", output, "--min-frequency", 40]
    result = run_program(PROGRAM, *words)
    assert result.returncode == 0 and "fewer than --vocab_size 30522" in result.stdout
    counts = Counter(word for line in lines_of(text_folder) for word in words_of(line, lowercase=True))
    pieces = [piece for piece in output.read_text().splitlines()[5:] if len(piece.removeprefix("##")) > 1]
    assert len(pieces) > 100
    for piece in pieces:
        part = re.escape(piece.removeprefix("##"))
        pattern = re.compile(f"(?<=.){part}" if piece.startswith("##") else f"^{part}")
        assert sum(count * len(pattern.findall(word)) for word, count in counts.items()) >= 40, piece


def test_hand_worked_merges(tmp_path, run_program):
    """ab 10 times, ac 5, cb once: of a, b, c and their forms within words first `ab` is made, then `ac`."""
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("ab " * 10 + "ac " * 5 + "cb")
    characters = ["a", "b", "c", "##a", "##b", "##c"]
    for size, merged in ((11, []), (12, ["ab"]), (13, ["ab", "ac"]), (100, ["ab", "ac"])):
        words = ["--corpus-dir", tmp_path / "text", "--output", tmp_path / "v.txt", "--vocab-size", size]
        result = run_program(PROGRAM, *words)
        assert (tmp_path / "v.txt").read_text().splitlines() == [*SPECIAL_PIECES, *characters, *merged]
        assert ("fewer than --vocab_size 100" in result.stdout) == (size == 100)


def test_rare_characters_give_way_to_the_size(tmp_path, run_program):
    """The alphabet takes at most half of the pieces, the most frequent characters first."""
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("a" * 9 + " " + "b" * 8 + " " + "中" * 7 + " " + "z")
    for size, characters in ((7, "a"), (8, "a"), (9, "ab"), (11, "ab中"), (13, "abz中")):
        words = ["--corpus-dir", tmp_path / "text", "--output", tmp_path / "v.txt", "--vocab-size", size]
        assert run_program(PROGRAM, *words).returncode == 0
        pieces = (tmp_path / "v.txt").read_text().splitlines()
        assert len(pieces) <= size
        assert pieces[5 : 5 + 2 * len(characters)] == [*characters, *(f"##{c}" for c in characters)]


def test_every_sign_of_a_script_of_thousands_has_a_piece(tmp_path, run_program):
    """4,000 ideographs, as Chinese has: with room for all of them none of the text is unknown."""
    (tmp_path / "text").mkdir()
    signs = [chr(0x4E00 + number) for number in range(4000)]
    (tmp_path / "text" / "a.txt").write_text("".join(signs), encoding="utf-8")
    (tmp_path / "held_out.txt").write_text("".join(signs[::7]), encoding="utf-8")
    words = ["--corpus-dir", tmp_path / "text", "--output", tmp_path / "v.txt"]
    result = run_program(PROGRAM, *words, "--held-out-files", tmp_path / "held_out.txt")
    assert result.returncode == 0, result.stderr
    assert set(signs) <= set((tmp_path / "v.txt").read_text(encoding="utf-8").splitlines())
    made, _, row = result.stdout.splitlines()
    assert made.endswith(
        "8005 pieces from 1 files, fewer than --vocab_size 30522: no other pair of pieces occurs "
        "--min_frequency 2 times"
    )
    assert row.split()[-1] == "0.000%"


def test_characters_are_kept_until_they_cover_the_text():
    """2,000 frequent characters and 150 that stand there once: 100 of 2,000,150 may miss, so 50 stay."""
    counts = Counter({chr(0x4E00 + number): 1000 if number < 2000 else 1 for number in range(2150)})
    characters = sorted(counts)
    assert build_vocabulary.choose_alphabet(counts, 30522) == characters[:2050]
    assert build_vocabulary.choose_alphabet(counts, 105) == characters[:50], "half of the pieces at most"
    few = Counter({"a": 10**9, "b": 1}) | Counter(characters[:998])
    assert build_vocabulary.choose_alphabet(few, 30522) == ["a", "b", *characters[:998]]
    assert len(build_vocabulary.choose_alphabet(few | Counter("cd"), 30522)) == 1000


def test_characters_without_a_piece_are_told(tmp_path, run_program):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("a" * 6 + " b c")
    words = ["--corpus-dir", tmp_path / "text", "--output", tmp_path / "v.txt", "--vocab-size", 7]
    _, told = run_program(PROGRAM, *words).stdout.splitlines()
    assert told == "2 of 3 characters, the rarest, have no piece: 25.0000% of the text"


@pytest.mark.parametrize(
    ("flags", "found", "absent", "recorded"),
    [
        ([], "eu", "éüBÜ", (True, None)),
        (["--no-lower-case"], "eéüBÜ", "", (False, None)),
        (["--do-lower-case", "False", "--strip-accents"], "euBU", "éüÜ", (False, True)),
        (["--strip-accents", "False"], "eéü", "BÜ", (True, False)),
    ],
)
def test_casing_and_accents_are_recorded_and_followed(
    flags, found, absent, recorded, text_folder, tmp_path, run_program
):
    """By the pieces, by the record beside them and by build_pretraining_dataset.py, which is told nothing."""
    vocab_file, shards = tmp_path / "vocab.txt", tmp_path / "shards"
    words = ["--corpus-dir", text_folder, "--vocab-size", 300, "--output", vocab_file, *flags]
    assert run_program(PROGRAM, *words).returncode == 0
    characters = {piece for piece in vocab_file.read_text().splitlines() if len(piece) == 1}
    assert set(found) <= characters and not set(absent) & characters
    options = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert (options["do_lower_case"], options["strip_accents"]) == recorded
    words = ["--corpus-dir", text_folder, "--vocab-file", vocab_file, "--output-dir", shards]
    assert run_program("build_pretraining_dataset.py", *words, "--num-out-files", 1).returncode == 0
    manifest = json.loads((shards / "manifest.json").read_text())
    assert (manifest["settings"]["do_lower_case"], manifest["settings"]["strip_accents"]) == recorded
    assert manifest["unknown_share"] == 0, "text treated in another way would have pieces that are not there"


def test_vocabulary_within_the_corpus_is_no_text_of_it(text_folder, built, tmp_path, run_program):
    """So that a second run, which finds the first one's result there, makes the same."""
    for path in text_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for _ in range(2):
        words = ["--corpus-dir", ".", "--vocab-size", 400, "--output", "vocab.txt"]
        assert run_program(PROGRAM, *words, cwd=tmp_path).returncode == 0
        assert (tmp_path / "vocab.txt").read_bytes() == built.read_bytes()


def test_unreadable_files_are_named_and_left_out(text_folder, built, tmp_path, run_program, usage_error):
    for path in text_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "latin.txt").write_bytes("garçon\n".encode("latin-1") * 100)
    words = ["--corpus-dir", tmp_path, "--vocab-size", 400, "--output", tmp_path / "vocab.txt"]
    result = run_program(PROGRAM, *words)
    assert result.returncode == 0 and f"skipped {tmp_path}/latin.txt: not UTF-8\n" in result.stdout
    assert (tmp_path / "vocab.txt").read_bytes() == built.read_bytes()
    assert usage_error(PROGRAM, *words, "--strict").endswith(f"--strict: {tmp_path}/latin.txt: not UTF-8")


# ------------------------------------------------------------------------------------------- held-out text


def test_hand_worked_tokens_per_word_and_unknown_share():
    """the cat ##s sat . the [UNK] sat: 8 tokens for 6 words. With case kept `The` is unknown as well; with
    fewer pieces cats is one [UNK]."""
    pieces = (*SPECIAL_PIECES, "the", "cat", "##s", "sat", ".")
    vocabularies = {
        "ours": Vocabulary(pieces),
        "of case": Vocabulary(pieces, do_lower_case=False),
        "of less": Vocabulary((*SPECIAL_PIECES, "the", "sat", ".")),
    }
    lines = ["The cats sat.", "", "the dog  sat"]
    assert report(lines, vocabularies).splitlines() == [
        "held-out text of 6 words     pieces  tokens/word    unknown",
        "ours                             10        1.333    12.500%",
        "of case                          10        1.333    25.000%",
        "of less                           8        1.167    28.571%",
    ]


def test_report_goes_on_past_a_batch_of_lines(monkeypatch):
    monkeypatch.setattr(build_vocabulary, "_LINES_PER_TOKENIZER_CALL", 3)
    vocabulary = Vocabulary((*SPECIAL_PIECES, "a"))
    _, row = report(
        (line for line in ["a", "a b", "", "a a", "b a a", "a", "a"]), {"v": vocabulary}
    ).splitlines()
    assert row.split() == ["v", "6", "1.000", "20.000%"]


def test_text_without_a_word_has_no_report():
    assert report(["", ""], {"v": Vocabulary(SPECIAL_PIECES)}).startswith("no text was held out")


@pytest.fixture(scope="module")
def signs(tmp_path_factory) -> Path:
    """Documents of one sign each, which no other has, so that a vocabulary tells what it is made of."""
    folder = tmp_path_factory.mktemp("signs")
    (folder / "text").mkdir()
    documents = [" ".join([chr(0x4E00 + number)] * 3) for number in range(200)]
    for part in range(2):
        (folder / "text" / f"{part}.txt").write_text("\n\n".join(documents[part::2]) + "\n")
    (folder / "files").mkdir()
    for number in range(0, 200, 2):
        (folder / "files" / f"{number}.txt").write_text("\n\n".join(documents[number : number + 2]) + "\n")
    characters = [chr(0x4E00 + number) for number in range(200)]
    (folder / "all.txt").write_text("\n".join([*SPECIAL_PIECES, *characters]) + "\n")
    return folder


@pytest.mark.parametrize("blanks", [True, False])
def test_held_out_documents_are_not_learnt_and_are_those_of_the_shards(blanks, signs, tmp_path, run_program):
    output, shards = tmp_path / "vocab.txt", tmp_path / "shards"
    text = signs / "text" if blanks else signs / "files"
    flags = ["--corpus-dir", text, "--held-out-fraction", 0.2, "--seed", 5]
    flags += ["--blanks-separate-docs", blanks]
    result = run_program(PROGRAM, *flags, "--output", output, "--compare-vocab", signs / "all.txt")
    assert result.returncode == 0, result.stderr
    learnt = {piece for piece in output.read_text().splitlines()[5:] if len(piece) == 1}
    words = ["--vocab-file", signs / "all.txt", "--output-dir", shards, "--num-out-files", 1]
    assert run_program("build_pretraining_dataset.py", *flags, *words).returncode == 0
    pieces = (signs / "all.txt").read_text().splitlines()
    counts = np.load(shards / "held_out" / "token_counts.npy")
    held_out = {piece for piece, count in zip(pieces, counts, strict=True) if count and len(piece) == 1}
    assert 20 < len(held_out) < 60
    assert learnt == set(pieces[5:]) - held_out
    _, title, ours, theirs = result.stdout.splitlines()
    assert title.startswith(f"held-out text of {3 * len(held_out)} words ")
    assert ours.split() == [str(output), str(5 + 2 * len(learnt)), "1.000", "100.000%"]
    assert theirs.split() == [str(signs / "all.txt"), "205", "1.000", "0.000%"]


def test_held_out_files_are_left_out_of_the_corpus(signs, tmp_path, run_program):
    """The vocabulary knows nothing of the second file; the other vocabulary is no text of the corpus."""
    for path in (signs / "text").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "all.txt").write_bytes((signs / "all.txt").read_bytes())
    output = tmp_path / "vocab.txt"
    words = ["--corpus-dir", tmp_path, "--output", output, "--held-out-files", tmp_path / "1.tx?"]
    result = run_program(PROGRAM, *words, "--compare-vocab", tmp_path / "all.txt")
    assert result.returncode == 0, result.stderr
    learnt = {piece for piece in output.read_text().splitlines()[5:] if len(piece) == 1}
    assert learnt == set((signs / "text" / "0.txt").read_text().split())
    made, title, ours, theirs = result.stdout.splitlines()
    assert made.startswith(f"{output}: 205 pieces from 1 files, fewer than --vocab_size 30522")
    assert title.startswith("held-out text of 300 words ")
    assert (ours.split()[-1], theirs.split()[-1]) == ("100.000%", "0.000%")


def test_vocabulary_of_its_own_text_beats_another_languages(text_folder, tmp_path, shared_data, run_program):
    """BERT's pieces know nothing of the made-up syllables: more tokens a word."""
    words = ["--corpus-dir", text_folder, "--vocab-size", 3000, "--held-out-files", text_folder / "3*"]
    words += ["--output", tmp_path / "v.txt", "--compare-vocab", shared_data / "vocab" / "vocab.txt"]
    result = run_program(PROGRAM, *words)
    ours, berts = (line.split() for line in result.stdout.splitlines()[-2:])
    assert berts[1] == "30,522"
    assert float(ours[2]) < 0.6 * float(berts[2])


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--compare-vocab", "{0}/v.txt"], "needs held-out text: --held_out_fraction or --held_out_files"),
        (["--held-out-fraction", "1"], "--held_out_fraction 1.0: must be in [0, 1)"),
        (
            ["--held-out-fraction", ".1", "--held-out-files", "x"],
            "_files x: either this or --held_out_",
        ),
        (["--held-out-files", "{0}/none"], "--held_out_files {0}/none: no such file"),
        (
            ["--held-out-fraction", ".1", "--compare-vocab", "{0}/none"],
            "--compare_vocab {0}/none: No such file",
        ),
        (
            ["--held-out-fraction", ".1", "--compare-vocab", "{0}/v.txt"],
            "--compare_vocab {0}/v.txt: the vocab",
        ),
        (["--held-out-fraction", ".1", "--compare-vocab", "{0}/new.txt"], "would replace the vocabulary of"),
    ],
)
def test_held_out_text_that_cannot_be_had_is_named(flags, told, text_folder, tmp_path, usage_error):
    (tmp_path / "v.txt").write_text("a\n")
    words = ["--corpus-dir", text_folder, "--output", tmp_path / "new.txt"]
    line = usage_error(PROGRAM, *words, *(flag.format(tmp_path) for flag in flags))
    assert told.format(tmp_path) in line
    assert not (tmp_path / "new.txt").exists()


# ------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize("text", ["", " \n\n\t", "\x00\x07\ufffd"])
def test_corpus_without_text_is_named(text, tmp_path, usage_error):
    (tmp_path / "a.txt").write_text(text)
    line = usage_error(PROGRAM, "--corpus-dir", tmp_path, "--output", tmp_path / "v.txt")
    assert f"--corpus_dir {tmp_path}: an empty corpus, no text to learn from" in line
    assert not (tmp_path / "v.txt").exists()


def test_output_that_cannot_be_written_is_named_before_anything_is_read(text_folder, tmp_path, usage_error):
    line = usage_error(PROGRAM, "--corpus-dir", text_folder, "--output", tmp_path / "none" / "v.txt")
    assert f"--output {tmp_path}/none/v.txt: no such folder {tmp_path}/none" in line
    line = usage_error(PROGRAM, "--corpus-dir", text_folder, "--output", tmp_path)
    assert f"--output {tmp_path}: not a file" in line
    line = usage_error(PROGRAM, "--corpus-dir", text_folder, "--vocab-size", 6)
    assert "--vocab_size 6: must be at least 7" in line


def test_device_is_no_output(text_folder, tmp_path, usage_error):
    """Renaming a finished file over a device would replace it, which root may do."""
    os.mkfifo(tmp_path / "pipe")
    line = usage_error(PROGRAM, "--corpus-dir", text_folder, "--output", tmp_path / "pipe")
    assert "pipe: not a file" in line


def has_open(pid: int, path: Path) -> bool:
    """Whether a process reads a file at this moment."""
    try:
        return any(os.readlink(entry) == str(path) for entry in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def test_interrupted_run_leaves_no_vocabulary(tmp_path):
    (tmp_path / "text").mkdir()
    draw = random.Random(0)
    line = " ".join(f"{draw.getrandbits(120):030x}" for _ in range(2000))
    (tmp_path / "text" / "a.txt").write_text("\n".join([line] * 200))
    command = [sys.executable, str(ROOT / PROGRAM), "--corpus-dir", str(tmp_path / "text")]
    for number, code, told in ((signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")):
        process = subprocess.Popen(
            [*command, "--output", str(tmp_path / "v.txt")], stderr=subprocess.PIPE, text=True
        )
        while not has_open(process.pid, tmp_path / "text" / "a.txt"):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
        assert (process.returncode, stderr) == (code, f"{PROGRAM}: error: {told}\n")
        assert [entry.name for entry in tmp_path.iterdir()] == ["text"]
