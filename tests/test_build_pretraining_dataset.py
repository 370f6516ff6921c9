"""Shards are the same bytes however they were built, hold what the text says, and are complete or absent."""

import gzip
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zstandard
from google_examples import googles_examples, joined

import build_pretraining_dataset as program
from command_line import RunFailure, UsageError
from corpus import Source, inspect_source
from dataset_configuration import DatasetConfig
from example_builder import document_key
from tokenization import SPECIAL_PIECES, Vocabulary, load_vocabulary

ROOT = Path(__file__).parents[1]
PROGRAM = "build_pretraining_dataset.py"
FILES = 24
DOCUMENTS_PER_FILE = 10

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
STOP_WORDS = "the of and in to was is for on as by with he at from his that it an were are which"
WORDS = STOP_WORDS.split()
# Each line begins with the name of its document, so that an example tells where it comes from.
NAMES = [f"doc{number}" for number in range(FILES * DOCUMENTS_PER_FILE)]
PIECES = (*SPECIAL_PIECES, *LETTERS, *(f"##{letter}" for letter in LETTERS), ".", ",", *WORDS, *NAMES)
UNK = PIECES.index("[UNK]")


@pytest.fixture(scope="module")
def vocab_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    Vocabulary(PIECES, do_lower_case=False).save(path)
    return path


def document(draw: random.Random, name: str) -> list[str]:
    lines = []
    for _ in range(draw.randint(1, 30)):
        words = [draw.choice([*WORDS, "Wörter", "xyzzy", "Ab12"]) for _ in range(draw.randint(1, 40))]
        lines.append(f"{name} {' '.join(words)}.")
    return lines


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory) -> Path:
    """24 files, each a block of its own, of ten documents with blank lines between them."""
    folder = tmp_path_factory.mktemp("text")
    draw = random.Random(0)
    for number in range(FILES):
        names = NAMES[number * DOCUMENTS_PER_FILE : (number + 1) * DOCUMENTS_PER_FILE]
        text = "\n\n".join("\n".join(document(draw, name)) for name in names).encode()
        path = folder / f"{'abc'[number % 3]}" / f"{number:02d}.txt"
        path.parent.mkdir(exist_ok=True)
        if number % 5 == 1:
            Path(f"{path}.gz").write_bytes(gzip.compress(text, mtime=0))
        elif number % 5 == 2:
            Path(f"{path}.zst").write_bytes(zstandard.compress(text))
        else:
            path.write_bytes(text)
    return folder


@pytest.fixture(scope="module")
def long_text_folder(tmp_path_factory) -> Path:
    """Five megabytes in 24 blocks, so that a build takes a few seconds in which it can be stopped."""
    folder = tmp_path_factory.mktemp("long text")
    draw = random.Random(1)
    for number in range(FILES):
        lines = [" ".join(draw.choices(WORDS, k=50)) for _ in range(1300)]
        (folder / f"{number:02d}.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def uninterrupted(long_text_folder, vocab_file, tmp_path_factory, run_program) -> dict[str, str]:
    """What a build of the long text leaves when nothing stops it."""
    output = tmp_path_factory.mktemp("uninterrupted") / "shards"
    result = run_program(PROGRAM, *long_arguments(long_text_folder, vocab_file, output))
    assert result.returncode == 0, result.stderr
    return contents(output)


def arguments(text: Path, vocab_file: Path, output: Path, *more) -> list[str]:
    settings = ["--corpus-dir", text, "--vocab-file", vocab_file, "--output-dir", output]
    lengths = ["--max-seq-length", 64, "--num-out-files", 5, "--held-out-fraction", 0.2]
    return [str(word) for word in [*settings, *lengths, *more]]


def long_arguments(text: Path, vocab_file: Path, output: Path) -> list[str]:
    return arguments(text, vocab_file, output, "--num-processes", 2, "--num-out-files", 50)


@pytest.fixture(scope="module")
def built(text_folder, vocab_file, tmp_path_factory, run_program) -> Path:
    """The shards of the text by one process, never interrupted."""
    output = tmp_path_factory.mktemp("built") / "shards"
    result = run_program(PROGRAM, *arguments(text_folder, vocab_file, output))
    assert result.returncode == 0, result.stderr
    return output


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with the hash of its bytes."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def sources_in_order(folder: Path) -> list[Path]:
    return sorted(
        (p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.relative_to(folder).as_posix()
    )


def documents_of(path: Path) -> list[list[str]]:
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    elif path.suffix == ".zst":
        content = zstandard.decompress(content, max_output_size=1 << 30)
    return [part.split("\n") for part in content.decode().strip().split("\n\n")]


def manifest_of(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def read_shards(folder: Path, length: int = 64) -> list[dict[str, np.ndarray]]:
    """The examples of each shard in the order of the manifest, by TensorFlow's own reader."""
    tf = pytest.importorskip("tensorflow")
    schema = {
        name: tf.io.FixedLenFeature([length], tf.int64) for name in ("input_ids", "input_mask", "segment_ids")
    }
    shards = []
    for shard in manifest_of(folder)["shards"]:
        records = list(tf.data.TFRecordDataset(str(folder / shard["name"])).as_numpy_iterator())
        parsed = tf.io.parse_example(tf.constant(records, tf.string), schema)
        shards.append({name: values.numpy() for name, values in parsed.items()})
    return shards


def names_in(shards: list[dict[str, np.ndarray]]) -> set[str]:
    ids = np.unique(np.concatenate([shard["input_ids"].ravel() for shard in shards]))
    return {PIECES[piece] for piece in ids} & set(NAMES)


# ---------------------------------------------------------------------------------------- what shards hold


def test_examples_are_those_of_the_text_in_its_order(text_folder, vocab_file, built):
    """Lines by Hugging Face's tokenizer, split by the segment rule, document after document."""
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.BertTokenizerFast.from_pretrained(vocab_file.parent)
    expected = []
    for path in sources_in_order(text_folder):
        for lines in documents_of(path):
            key = document_key(1314, lines)
            tokens = [tokenizer(line, add_special_tokens=False)["input_ids"] for line in lines]
            expected += [joined(*segments, 2, 3) for segments in googles_examples(tokens, 64, key)]
    held_out = names_in(read_shards(built / "held_out"))
    by_part = {
        part: [
            (ids, first) for ids, first in expected if (PIECES[ids[1]] in held_out) == (part == "held_out")
        ]
        for part in (".", "held_out")
    }
    for part, examples in by_part.items():
        shards = read_shards(built / part)
        arrays = {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}
        assert len(arrays["input_ids"]) == len(examples) > 100
        for row, (ids, first) in enumerate(examples):
            padding = [0] * (64 - len(ids))
            assert arrays["input_ids"][row].tolist() == ids + padding
            assert arrays["input_mask"][row].tolist() == [1] * len(ids) + padding
            assert arrays["segment_ids"][row].tolist() == [0] * first + [1] * (len(ids) - first) + padding


@pytest.mark.parametrize("part", [".", "held_out"])
def test_manifest_says_what_a_count_over_the_shards_finds(part, text_folder, built):
    manifest, shards = manifest_of(built / part), read_shards(built / part)
    ids = np.concatenate([shard["input_ids"] for shard in shards])
    mask = np.concatenate([shard["input_mask"] for shard in shards])
    tokens = int(mask.sum())
    assert manifest["examples"] == len(ids) and manifest["tokens"] == tokens
    assert manifest["documents"] == len(names_in(shards))
    lengths, occurrences = np.unique(mask.sum(axis=1), return_counts=True)
    assert manifest["length_histogram"] == dict(zip(map(str, lengths), occurrences.tolist(), strict=True))
    assert manifest["padding_share"] == round(float((mask == 0).mean()), 6)
    unknown = int(((ids == UNK) & (mask == 1)).sum())
    assert unknown > 100 and manifest["unknown_share"] == round(unknown / tokens, 6)
    counts = np.bincount(ids[mask == 1], minlength=len(PIECES))
    assert np.array_equal(np.load(built / part / "token_counts.npy"), counts)
    assert [shard["examples"] for shard in manifest["shards"]] == [
        len(shard["input_ids"]) for shard in shards
    ]
    for shard in manifest["shards"]:
        content = (built / part / shard["name"]).read_bytes()
        assert shard["bytes"] == len(content) and shard["sha256"] == hashlib.sha256(content).hexdigest()
    paths = sources_in_order(text_folder)
    assert manifest["sources"] == [
        {
            "name": path.relative_to(text_folder).as_posix(),
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in paths
    ]
    assert manifest["skipped_sources"] == [] and manifest["vocabulary_size"] == len(PIECES)


@pytest.mark.parametrize("part", [".", "held_out"])
def test_shards_bear_nvidias_names_and_are_equally_large(part, built):
    shards = manifest_of(built / part)["shards"]
    assert [shard["name"] for shard in shards] == [f"pretrain_data.tfrecord-{i}-of-5" for i in range(5)]
    sizes = [shard["examples"] for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    expected = {"manifest.json", "token_counts.npy", "vocab.txt", "tokenizer_config.json"}
    expected |= {"DATA_CARD.md", "length_histogram.png"}
    for shard in shards:
        expected |= {shard["name"], f"offsets.{shard['name']}.npy"}
    assert {path.name for path in (built / part).iterdir() if path.is_file()} == expected
    assert {path.name for path in (built / part).iterdir() if path.is_dir()} == (
        {"held_out"} if part == "." else set()
    )


def test_indices_are_those_of_a_scan(built):
    for path in built.glob("pretrain_data*"):
        content, offsets = path.read_bytes(), [0]
        while offsets[-1] < len(content):
            offsets.append(
                offsets[-1] + 16 + int.from_bytes(content[offsets[-1] : offsets[-1] + 8], "little")
            )
        assert np.load(path.with_name(f"offsets.{path.name}.npy")).tolist() == offsets


def test_held_out_documents_are_no_training_documents_and_the_same_for_every_length(
    text_folder, vocab_file, built, tmp_path, run_program
):
    training, held_out = names_in(read_shards(built)), names_in(read_shards(built / "held_out"))
    assert training | held_out == set(NAMES) and not training & held_out
    assert 20 <= len(held_out) <= 76, (
        "48 of 240 are expected, five standard deviations are 31; .2 was asked for"
    )
    longer = arguments(text_folder, vocab_file, tmp_path / "longer", "--max-seq-length", 256)
    assert run_program(PROGRAM, *longer).returncode == 0
    assert names_in(read_shards(tmp_path / "longer" / "held_out", 256)) == held_out
    assert names_in(read_shards(tmp_path / "longer", 256)) == training


def test_blank_lines_end_documents_unless_told_otherwise(text_folder, vocab_file, tmp_path, run_program):
    whole = arguments(text_folder, vocab_file, tmp_path, "--blanks-separate-docs", "False")
    assert run_program(PROGRAM, *whole, "--held-out-fraction", 0).returncode == 0
    assert manifest_of(tmp_path)["documents"] == FILES
    ids = np.concatenate([shard["input_ids"] for shard in read_shards(tmp_path)])
    crossing = sum(len({PIECES[piece] for piece in row} & set(NAMES)) > 1 for row in ids)
    assert crossing > 100, "examples go on over blank lines"


def test_no_example_holds_two_documents(built):
    ids = np.concatenate(
        [shard["input_ids"] for part in (".", "held_out") for shard in read_shards(built / part)]
    )
    assert all(len({PIECES[piece] for piece in row} & set(NAMES)) == 1 for row in ids)


def test_fewer_examples_than_shards_make_fewer_shards(tmp_path, vocab_file, run_program):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("the of and\n\nin to was\n")
    words = ["--corpus-dir", tmp_path / "text", "--vocab-file", vocab_file, "--output-dir", tmp_path / "out"]
    result = run_program(PROGRAM, *words)
    assert result.returncode == 0
    assert [shard["examples"] for shard in manifest_of(tmp_path / "out")["shards"]] == [1, 1]
    assert (
        "2 examples of 128 from 2 documents, 10 tokens, 96.1% padding, 0.00% unknown, "
        "0.0% of the text cut off, "
        "in 2 shards" in result.stdout
    )


# ------------------------------------------------------------------------------------- casing and vocabulary


def test_casing_recorded_beside_the_vocabulary_is_followed_and_recorded_again(built, vocab_file):
    """The fixture's vocabulary is cased: `Ab12` keeps its capital."""
    tokens = {PIECES[piece] for shard in read_shards(built) for piece in np.unique(shard["input_ids"])}
    assert "A" in tokens
    for part in (".", "held_out"):
        for name in ("vocab.txt", "tokenizer_config.json"):
            assert (built / part / name).read_bytes() == vocab_file.with_name(name).read_bytes()
    assert manifest_of(built)["settings"]["do_lower_case"] is False


def test_case_flag_wins_over_the_record(text_folder, vocab_file, tmp_path, run_program):
    assert (
        run_program(PROGRAM, *arguments(text_folder, vocab_file, tmp_path, "--do-lower-case")).returncode == 0
    )
    tokens = {PIECES[piece] for shard in read_shards(tmp_path) for piece in np.unique(shard["input_ids"])}
    assert "a" in tokens and "A" not in tokens
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["do_lower_case"] is True


# -------------------------------------------------------------------------- the same bytes, whatever happens


@pytest.mark.parametrize("processes", [2, 3])
def test_output_does_not_depend_on_the_number_of_processes(
    processes, text_folder, vocab_file, built, tmp_path, run_program
):
    words = arguments(text_folder, vocab_file, tmp_path, "--num-processes", processes)
    assert run_program(PROGRAM, *words).returncode == 0
    assert contents(tmp_path) == contents(built)


def test_rerun_of_a_finished_folder_does_nothing(text_folder, vocab_file, built, run_program):
    before = {path: path.stat().st_mtime_ns for path in built.rglob("*")}
    result = run_program(PROGRAM, *arguments(text_folder, vocab_file, built, "--num-processes", 2))
    assert result.returncode == 0 and result.stdout == f"{built}: complete already, nothing to do\n"
    assert {path: path.stat().st_mtime_ns for path in built.rglob("*")} == before


def start(words: list[str]) -> subprocess.Popen:
    """The program in a process group of its own, as a shell starts it."""
    command = [sys.executable, str(ROOT / PROGRAM), *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def processes_of_group(group: int) -> list[int]:
    """Living processes of a session (zombies left out)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == group and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def wait_for(condition, process: subprocess.Popen, seconds: float = 60) -> None:
    """Until the condition holds or the process has ended by itself."""
    deadline = time.monotonic() + seconds
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def wait_for_workers_to_end(parent: subprocess.Popen) -> None:
    deadline = time.monotonic() + 10
    while (left := processes_of_group(parent.pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "workers outlive their parent"


def blocks_done(output: Path) -> int:
    return len(list((output / ".work").glob("block-*.json")))


def holds(process: subprocess.Popen, output: Path) -> bool:
    """Whether this process, and not one before it, works in the folder."""
    try:
        return (output / ".lock").read_text().startswith(f"{process.pid} ")
    except OSError:
        return False


def moments(output: Path) -> dict:
    """Conditions at which a run is interrupted, in the order in which they come."""
    return {
        "at once": lambda: True,
        "ledger": lambda: (output / ".work" / "ledger.json").exists(),
        "first block": lambda: blocks_done(output) >= 1,
        "half of the blocks": lambda: blocks_done(output) >= FILES // 2,
        "first shard": lambda: any(output.glob("pretrain_data*")),
        "held-out shards": lambda: any((output / "held_out").glob("pretrain_data*")),
        "manifest": lambda: (output / "held_out" / "manifest.json").exists(),
    }


@pytest.mark.slow
def test_run_killed_at_any_moment_goes_on_to_the_same_bytes(
    long_text_folder, vocab_file, uninterrupted, tmp_path
):
    """SIGKILL to the parent alone at seven stages of one build; its workers end by themselves."""
    output = tmp_path / "shards"
    words = long_arguments(long_text_folder, vocab_file, output)
    killed = 0
    for condition in moments(output).values():
        process = start(words)
        wait_for(condition, process)
        process.kill()
        process.wait()
        killed += process.returncode == -signal.SIGKILL
        wait_for_workers_to_end(process)
        # As if the kill had fallen between the examples of a block and its statistics, which come last.
        for statistics in sorted((output / ".work").glob("block-*.json"))[:1]:
            statistics.unlink()
    assert killed >= 5, "the build is too fast to be killed; the test needs more text"
    process = start(words)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert contents(output) == uninterrupted
    assert "going on where an earlier run was stopped" in stdout or "nothing to do" in stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "told"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_interrupted_run_says_so_and_goes_on_to_the_same_bytes(
    number, code, told, long_text_folder, vocab_file, uninterrupted, tmp_path
):
    """A scheduler's SIGTERM to the parent, and Ctrl-C, which reaches the workers as well."""
    output = tmp_path / "shards"
    words = long_arguments(long_text_folder, vocab_file, output)
    interrupted = 0
    for name, condition in moments(output).items():
        if name in ("at once", "manifest"):
            continue
        process = start(words)
        wait_for(lambda process=process: holds(process, output), process)
        wait_for(condition, process)
        if process.poll() is None:
            (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        _, stderr = process.communicate(timeout=60)
        if process.returncode != 0:
            assert process.returncode == code
            assert stderr == f"{PROGRAM}: error: {told}\n"
            interrupted += 1
        wait_for_workers_to_end(process)
    assert interrupted >= 3, "the build is too fast to be interrupted; the test needs more text"
    process = start(words)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert contents(output) == uninterrupted


@pytest.mark.parametrize("delay", [0, 0.05, 0.1, 0.2])
def test_interrupt_while_the_workers_start_is_one_line_too(delay, long_text_folder, vocab_file, tmp_path):
    process = start(long_arguments(long_text_folder, vocab_file, tmp_path / "shards"))
    wait_for(lambda: len(processes_of_group(process.pid)) >= 3, process)
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, f"{PROGRAM}: error: interrupted\n")


def test_run_stopped_between_manifest_and_clean_up_is_finished(
    text_folder, vocab_file, built, tmp_path, run_program
):
    """Its folder of blocks is still there, or is half deleted under another name."""
    for leftover in (".work", "..work.999999.deleted"):
        output = tmp_path / leftover.strip(".")
        shutil.copytree(built, output)
        (output / ".lock").write_text("999999 on some machine")
        (output / leftover).mkdir()
        shutil.copy(built / "manifest.json", output / leftover / "ledger.json")
        result = run_program(PROGRAM, *arguments(text_folder, vocab_file, output))
        assert result.returncode == 0, result.stderr
        assert contents(output) == contents(built) and not list(output.glob(".*"))


@pytest.mark.slow
def test_dead_worker_ends_the_run_which_then_goes_on(
    long_text_folder, vocab_file, uninterrupted, tmp_path, run_program
):
    words = long_arguments(long_text_folder, vocab_file, tmp_path / "shards")
    process = start(words)
    wait_for(lambda: blocks_done(tmp_path / "shards") >= 1, process)
    workers = [
        pid
        for pid in processes_of_group(process.pid)
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    os.kill(workers[0], signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stderr.startswith(f"{PROGRAM}: error: a worker process died") and stderr.count("\n") == 1
    assert run_program(PROGRAM, *words).returncode == 0
    assert contents(tmp_path / "shards") == uninterrupted


def test_two_runs_in_one_folder_do_not_mix(text_folder, vocab_file, built, tmp_path, usage_error):
    words = arguments(text_folder, vocab_file, tmp_path / "shards")
    first = start(words)
    wait_for((tmp_path / "shards" / ".work").exists, first)
    # Held, or on a busy machine it would be through before the second one has come so far.
    first.send_signal(signal.SIGSTOP)
    try:
        line = usage_error(PROGRAM, *words)
    finally:
        first.send_signal(signal.SIGCONT)
    assert line.endswith(
        f"--output_dir {tmp_path}/shards: in use by process {first.pid} on {os.uname().nodename}"
    )
    assert first.wait(60) == 0
    assert contents(tmp_path / "shards") == contents(built)


# ------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--seed", "1315"], "seed was 1314, is now 1315"),
        (["--max-seq-length", "128"], "max_seq_length was 64, is now 128"),
        (["--num-out-files", "6"], "num_out_files was 5, is now 6"),
        (["--held-out-fraction", "0.3"], "held_out_fraction was 0.2, is now 0.3"),
        (["--blanks-separate-docs", "False"], "blanks_separate_docs was True, is now False"),
        (["--do-lower-case"], "do_lower_case was False, is now True"),
    ],
)
def test_folder_of_other_settings_is_refused(words, told, text_folder, vocab_file, built, usage_error):
    before = contents(built)
    line = usage_error(PROGRAM, *arguments(text_folder, vocab_file, built, *words))
    assert f"--output_dir {built}: holds data of other settings: {told}; give a new folder" in line
    assert contents(built) == before


def test_folder_of_another_vocabulary_is_refused(text_folder, built, tmp_path, usage_error):
    Vocabulary((*PIECES, "more"), do_lower_case=False).save(tmp_path / "vocab.txt")
    line = usage_error(PROGRAM, *arguments(text_folder, tmp_path / "vocab.txt", built))
    assert f"--output_dir {built}: holds data of another vocabulary; give a new folder" in line


@pytest.mark.parametrize("change", ["changed", "new", "gone"])
def test_folder_of_other_sources_is_refused(change, text_folder, vocab_file, built, tmp_path, usage_error):
    shutil.copytree(text_folder, tmp_path / "text")
    if change == "changed":
        with open(tmp_path / "text" / "a" / "00.txt", "a") as stream:
            stream.write("more")
    elif change == "new":
        (tmp_path / "text" / "a" / "00.txt.more.txt").write_text("more")
    else:
        (tmp_path / "text" / "a" / "00.txt").unlink()
    line = usage_error(PROGRAM, *arguments(tmp_path / "text", vocab_file, built))
    named = {
        "changed": "a/00.txt has changed",
        "new": "a/00.txt.more.txt is new",
        "gone": "a/00.txt is gone",
    }
    assert f"holds data of other sources: {named[change]}, 1 such files in all" in line


def test_stopped_run_is_not_mixed_with_other_settings(text_folder, vocab_file, tmp_path, usage_error):
    output = tmp_path / "shards"
    process = start(arguments(text_folder, vocab_file, output))
    wait_for(lambda: blocks_done(output) >= 1, process)
    process.kill()
    process.wait()
    line = usage_error(PROGRAM, *arguments(text_folder, vocab_file, output, "--seed", 1))
    assert "seed was 1314, is now 1" in line


@pytest.mark.parametrize(
    "name",
    ["pretrain_data.tfrecord-3-of-5", "held_out/pretrain_data.tfrecord-3-of-5", "held_out/manifest.json"],
)
def test_what_is_lost_or_cut_in_a_finished_folder_is_reported(
    name, text_folder, vocab_file, built, tmp_path, usage_error
):
    shutil.copytree(built, tmp_path / "shards")
    path = tmp_path / "shards" / name
    if name.endswith(".json"):
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    line = usage_error(PROGRAM, *arguments(text_folder, vocab_file, tmp_path / "shards"))
    assert line.endswith(f" {name} is gone or changed; give a new folder")


def test_shards_are_begun_only_where_all_of_them_fit(text_folder, vocab_file, tmp_path, monkeypatch):
    """Beside the blocks; those that an earlier run has written are room already."""
    output = tmp_path / "shards"
    monkeypatch.setattr(sys, "argv", [PROGRAM, *arguments(text_folder, vocab_file, output)])
    free = 0
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(0, 0, free))
    with pytest.raises(RunFailure, match="the shards: ") as refused:
        program.main()
    needed = int(re.search(r"([\d,]+) bytes", str(refused.value))[1].replace(",", ""))
    assert not list(output.glob("*tfrecord*"))
    free = needed
    assemble = program._assemble

    def stop_before_held_out(pool, part, *more):
        assemble(pool, part, *more) if part == "train" else 1 / 0

    monkeypatch.setattr(program, "_assemble", stop_before_held_out)
    with pytest.raises(ZeroDivisionError):
        program.main()
    monkeypatch.setattr(program, "_assemble", assemble)
    shards = [path.stat().st_size for path in output.glob("*tfrecord*")]
    free = needed - sum(shards) - 1
    with pytest.raises(RunFailure, match="the shards: "):
        program.main()
    free += 1
    assert program.main() == 0
    written = sum(path.stat().st_size for path in output.rglob("*tfrecord*"))
    # But for the head of each index, of which blocks have others than shards.
    assert written == pytest.approx(needed, abs=256 * FILES)


def test_a_mistake_in_a_file_is_told_while_one_before_it_is_still_read(monkeypatch):
    release, finished = threading.Event(), []

    def inspect(source: Source, text_column: str) -> None:
        if source.name == "mistake":
            raise UsageError("no JSON")
        release.wait(60)
        finished.append(source.name)

    monkeypatch.setattr(program.corpus, "inspect_source", inspect)
    with ThreadPoolExecutor(2) as pool:
        with pytest.raises(UsageError, match="no JSON"):
            sources = [Source("", "large"), Source("", "mistake")]
            program._inspect(pool, sources, DatasetConfig("text", "vocab.txt", "shards"))
        assert not finished
        release.set()


def rewritten(path: Path) -> None:
    path.write_bytes(gzip.compress(b"other words\n"))


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize("change", [rewritten, cut_off, Path.unlink])
def test_a_source_that_changes_after_its_check_stops_the_build(change, vocab_file, tmp_path):
    """The manifest would name the checksum of another text than the examples are from."""
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"the words\n"))
    source = Source(str(path), "a.txt.gz")
    checked = inspect_source(source)
    config = DatasetConfig("text", str(vocab_file), "shards")
    program._set_up_worker(load_vocabulary(vocab_file), config)
    with ThreadPoolExecutor(1) as pool:
        assert len(program._build_blocks(pool, [source], [checked], tmp_path, config)) == 1
        change(path)
        with pytest.raises(UsageError, match=r"--corpus_dir text: a\.txt\.gz has changed while it was read"):
            program._build_blocks(pool, [source], [checked], tmp_path, config)


def test_shards_of_somebody_else_are_left_alone(text_folder, vocab_file, tmp_path, usage_error):
    (tmp_path / "pretrain_data.tfrecord-0-of-1").write_bytes(b"somebody else's")
    line = usage_error(PROGRAM, *arguments(text_folder, vocab_file, tmp_path))
    assert f"--output_dir {tmp_path}: holds shards without a manifest" in line
    assert contents(tmp_path).keys() == {"pretrain_data.tfrecord-0-of-1"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "no such folder"),
        ({}, "holds no .txt, .jsonl, .parquet, .arrow, .tar or .zip file"),
        ({"a.md": "text"}, "holds no .txt"),
        ({"a.txt": ""}, "an empty corpus, no text to learn from"),
        ({"a.txt": "\n \n\t\n", "b.txt": "\x00\x07"}, "an empty corpus, no text to learn from"),
        ({"a.txt": b"\xe9\xe9"}, "an empty corpus, no text to learn from"),
    ],
)
def test_corpus_without_text_is_named_and_its_folder_can_be_used_again(
    text, told, vocab_file, tmp_path, usage_error, run_program
):
    folder = tmp_path / "text"
    if text is not None:
        folder.mkdir()
        for name, content in text.items():
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    words = ["--corpus-dir", folder, "--vocab-file", vocab_file, "--output-dir", tmp_path / "out"]
    line = usage_error(PROGRAM, *words)
    assert f"--corpus_dir {folder}: " in line and told in line
    folder.mkdir(exist_ok=True)
    (folder / "a.txt").write_text("the of and")
    assert run_program(PROGRAM, *words).returncode == 0


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_output_that_cannot_be_a_folder_is_named(place, text_folder, vocab_file, tmp_path, usage_error):
    (tmp_path / "file").write_text("x")
    line = usage_error(PROGRAM, *arguments(text_folder, vocab_file, tmp_path / place))
    assert f"--output_dir {tmp_path}/{place}: " in line


def test_unreadable_files_are_skipped_counted_named_and_recorded(
    text_folder, vocab_file, built, tmp_path, run_program, usage_error
):
    """The shards are those of the others; --strict stops instead. Names need not be UTF-8 either."""
    text = tmp_path / "text"
    shutil.copytree(text_folder, text)
    (text / "a" / "latin.txt").write_bytes("texte français\n".encode("latin-1"))
    (text / "b" / "cut.txt.zst").write_bytes(zstandard.compress(b"the of and in to was\n" * 1000)[:-5])
    with open(os.fsencode(text) + b"/caf\xe9.txt", "wb") as stream:
        stream.write(b"\xff")
    result = run_program(PROGRAM, *arguments(text, vocab_file, tmp_path / "shards"))
    assert result.returncode == 0 and result.stderr == ""
    assert f"skipped {text}/a/latin.txt: not UTF-8\n" in result.stdout
    assert f"skipped {text}/b/cut.txt.zst: damaged (compressed file ended" in result.stdout
    assert f"skipped {text}/caf\\xe9.txt: not UTF-8\n" in result.stdout
    assert f"skipped 3 of {FILES + 3} files\n" in result.stdout
    skipped = manifest_of(tmp_path / "shards")["skipped_sources"]
    assert [source["name"] for source in skipped] == ["a/latin.txt", "b/cut.txt.zst", "caf\\xe9.txt"]
    assert skipped[0]["reason"] == "not UTF-8" and skipped[1]["reason"].startswith("damaged")
    ours, expected = contents(tmp_path / "shards"), contents(built)
    assert {name for name in ours if ours[name] != expected.get(name)} == {
        "manifest.json",
        "DATA_CARD.md",
        "held_out/manifest.json",
        "held_out/DATA_CARD.md",
    }
    line = usage_error(PROGRAM, *arguments(text, vocab_file, tmp_path / "strict", "--strict"))
    assert line.endswith(f"--strict: {text}/a/latin.txt: not UTF-8")


def test_vocabulary_and_results_inside_the_corpus_are_no_text(
    text_folder, vocab_file, built, tmp_path, run_program
):
    text = tmp_path / "text"
    shutil.copytree(text_folder, text)
    for name in ("vocab.txt", "tokenizer_config.json"):
        shutil.copy(vocab_file.with_name(name), text / name)
    words = arguments(text, text / "vocab.txt", text / "shards")
    assert run_program(PROGRAM, *words).returncode == 0
    assert contents(text / "shards") == contents(built)
    assert "nothing to do" in run_program(PROGRAM, *words).stdout


def test_pretraining_notices_a_shard_cut_between_two_records(built, tmp_path, usage_error):
    """Its index is gone too, so that only the manifest knows better."""
    shutil.copytree(built, tmp_path / "shards")
    path = tmp_path / "shards" / "pretrain_data.tfrecord-0-of-5"
    offsets_file = path.with_name(f"offsets.{path.name}.npy")
    path.write_bytes(path.read_bytes()[: int(np.load(offsets_file)[-2])])
    offsets_file.unlink()
    words = ["--model_name", "cut", "--results_dir", tmp_path, "--max_seq_length", 64]
    line = usage_error("run_pretraining.py", *words, "--pretrain_tfrecords", tmp_path / "shards")
    assert str(path) in line and "manifest.json" in line


@pytest.mark.parametrize("content", ["{", '{"settings": {}}'])
def test_a_file_that_is_no_manifest_is_one_line(
    content, text_folder, vocab_file, built, tmp_path, usage_error
):
    shutil.copytree(built, tmp_path / "shards")
    (tmp_path / "shards/manifest.json").write_text(content)
    lines = [usage_error(PROGRAM, *arguments(text_folder, vocab_file, tmp_path / "shards"))]
    words = ["--model_name", "x", "--results_dir", tmp_path, "--pretrain_tfrecords", tmp_path / "shards"]
    lines.append(usage_error("run_pretraining.py", *words))
    assert all(f"{tmp_path / 'shards/manifest.json'}: not a manifest (" in line for line in lines)


# --------------------------------------------------------------------------------------------------- memory


def memory_of(process: subprocess.Popen) -> int:
    """Bytes that a process and its workers hold; a page that they share counts for each of them."""
    total = 0
    for pid in processes_of_group(process.pid):
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):
            continue
    return total


@pytest.mark.slow
def test_memory_of_all_processes_is_bounded(vocab_file, tmp_path):
    """Fifteen blocks, of many documents and of one, are three times what two workers may have under way, so
    that more text takes no more memory. Its seven million tokens alone are 230 MB as Python's integers."""
    text, paragraph = tmp_path / "text", " ".join(WORDS * 50) + ".\n"
    text.mkdir()
    for name, end in (("one.txt", ""), ("many.txt", "\n")):
        with open(text / name, "w") as stream:
            for number in range(15_000_000 // len(paragraph)):
                stream.write(f"{number} {paragraph}{end}")
    process = start(arguments(text, vocab_file, tmp_path / "shards", "--num-processes", 2))
    peak = 0
    while process.poll() is None:
        peak = max(peak, memory_of(process))
        time.sleep(0.05)
    assert process.returncode == 0, process.stderr.read()
    assert peak < 450_000_000


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_few_blocks_are_under_way_at_once(processes, tmp_path, monkeypatch):
    """Two for each process and one that waits: the text is not read faster than it is worked on."""
    under_way, most, lock = set(), [0], threading.Lock()

    def work(block: list, path: str) -> None:
        time.sleep(0.001)
        with lock:
            under_way.remove(path)

    class CountingPool(ThreadPoolExecutor):
        def submit(self, function, block, path):
            with lock:
                under_way.add(path)
                most[0] = max(most[0], len(under_way))
            return super().submit(function, block, path)

    (tmp_path / "a.txt").write_text("x")
    monkeypatch.setattr(program, "_build_block", work)
    monkeypatch.setattr(program.corpus, "read_blocks", lambda *_: iter([[["line"]]] * 100))
    config = DatasetConfig("c", "v", "o", num_processes=processes)
    source = Source(str(tmp_path / "a.txt"), "a.txt")
    with CountingPool(processes) as pool:
        paths = program._build_blocks(pool, [source], [inspect_source(source)], tmp_path, config)
    assert len(paths) == len(set(paths)) == 100 and not under_way
    assert processes < most[0] <= 2 * processes + 1
