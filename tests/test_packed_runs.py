"""run_pretraining.py --pack_sequences as a user runs it: restarts, logs, what it shows, what it refuses."""

import json
import re
import shutil

import numpy as np
import pytest
from training_runs import Runs, one_line_error

import checkpointing
import files
import tfrecords

pytestmark = pytest.mark.slow

# Of the made-up language's documents most are shorter than 64 tokens.
LENGTH = 64


@pytest.fixture(scope="module")
def packed(runs: Runs):
    """Start a run with packing: packed(name, *flags, expect=0, **settings)."""

    def run(name: str, *flags: str, **settings):
        return runs.run(name, "--pack_sequences", *flags, max_seq_length=LENGTH, **settings)

    return run


@pytest.fixture(scope="module")
def finished(packed) -> str:
    """The name of a packed run of 12 updates that nothing disturbed."""
    packed("finished")
    return "finished"


def _same_weights(runs: Runs, one: str, other: str) -> bool:
    first, second = runs.weights(one, "ckpt-12"), runs.weights(other, "ckpt-12")
    assert first.keys() == second.keys()
    return all(np.array_equal(first[name], second[name]) for name in first)


def test_stopped_killed_and_restarted_ends_with_the_same_weights(runs: Runs, packed, finished):
    """Stopped after 5 updates, then killed by SIGKILL once it trains again; bit for bit."""
    packed("restarted", steps_this_run=5)
    restore = ("--pack_sequences", "--restore_checkpoint=latest")
    process = runs.start("restarted", *restore, max_seq_length=LENGTH, log_freq=1)
    for line in process.stdout:
        if line.startswith("Step:"):
            break
    process.kill()
    process.wait()
    process.stdout.close()
    process.stderr.close()
    packed("restarted", "--restore_checkpoint=latest")
    assert _same_weights(runs, "restarted", finished)


def test_the_log_counts_examples_rows_and_real_tokens(runs: Runs, finished):
    """8 rows an update: by the rates over 85 in 100 full, and more epochs than there would be unpacked."""
    manifest = json.loads((runs.shards(LENGTH) / "manifest.json").read_text())
    per_row = manifest["examples"] * LENGTH / manifest["tokens"]
    lines = runs.logged(finished)
    for update, values in lines.items():
        assert values["tokens_per_second"] / values["train_perf"] > 0.85 * LENGTH
        # Rows of 8, 16 and 24 updates are few, so that their examples are only about as many as on average.
        assert values["epoch"] == pytest.approx(update * 8 * per_row / manifest["examples"], rel=0.2)
    assert manifest["padding_share"] > 0.3


def test_show_update_prints_every_example_of_a_row(runs: Runs, packed):
    done = packed("shown", show_update=2)
    lines = done.stdout.splitlines()
    places = [re.findall(r"\S*tfrecord\S* record \d+", line) for line in lines[0::2]]
    assert len(places) == 8 and max(map(len, places)) > 1
    assert len({place for row in places for place in row}) == sum(map(len, places))
    for row, line, text in zip(places, lines[0::2], lines[1::2], strict=True):
        assert text.count("[CLS]") == len(row)
        assert int(re.search(r"(\d+) tokens", line)[1]) <= LENGTH
    assert not runs.folder("shown").exists()


def test_skipped_updates_leave_their_rows_out(runs: Runs, packed, finished):
    plain = packed("any", show_update=11).stdout
    shutil.copytree(runs.folder(finished), runs.folder("skipping"))
    restore = f"--restore_checkpoint={runs.folder('skipping')}/checkpoints/ckpt-8"
    shown = packed("skipping", restore, skip_updates="9-10", show_update=9).stdout
    assert shown.endswith(plain)


def test_a_dry_run_knows_packing(runs: Runs, packed):
    """What is said against the manifest: of the padding little is left, and an epoch has fewer sequences."""
    manifest = json.loads((runs.shards(LENGTH) / "manifest.json").read_text())
    unpacked = runs.run("dry", "--dry_run", max_seq_length=LENGTH).stdout
    out = packed("dry", "--dry_run").stdout
    padding = [float(re.search(r", ([\d.]+)% of them padding", text)[1]) for text in (unpacked, out)]
    assert padding[0] > 30 and padding[1] < 15
    assert "(--pack_sequences fills them)" in unpacked and "--pack_sequences" not in out
    sequences, per_row, epochs = re.search(
        r"= (\d+) sequences of about ([\d.]+) examples = ([\d.]+) epochs of", out
    ).groups()
    assert int(sequences) == 12 * 8
    assert float(per_row) == pytest.approx(manifest["examples"] * LENGTH / manifest["tokens"], rel=0.1)
    assert float(epochs) == pytest.approx(96 * float(per_row) / manifest["examples"], abs=0.006)
    assert not runs.folder("dry").exists()


def test_restarts_with_another_packing_are_refused(runs: Runs, packed, finished):
    """Also of checkpoints from before there was packing, which go on unpacked as they did."""
    error = one_line_error(runs.run(finished, "--restore_checkpoint", expect=2, max_seq_length=LENGTH))
    assert "pack_sequences True -> False" in error
    runs.run("old", steps_this_run=4, max_seq_length=LENGTH)
    path = runs.folder("old") / "checkpoints" / "ckpt-4" / checkpointing.STATE_NAME
    state = files.read_json(path)
    del state["state_sha256"], state["meaning"]["pack_sequences"], state["config"]["pack_sequences"]
    files.write_json(path, state | {"state_sha256": checkpointing._hash(state)})
    error = one_line_error(packed("old", "--restore_checkpoint", expect=2))
    assert "pack_sequences False -> True" in error
    runs.run("old", "--restore_checkpoint", max_seq_length=LENGTH)
    assert "ckpt-12" in runs.checkpoints("old")


def test_phase_two_may_pack_what_phase_one_did_not(runs: Runs, packed):
    runs.run("phases", num_train_steps=4)
    done = packed("phases", "--phase2", "--restore_checkpoint", num_train_steps=4)
    assert "phase 2 starts from the weights" in done.stdout and "ckpt-p2-4" in runs.checkpoints("phases")


def test_a_damaged_record_stops_the_run_before_its_first_update(runs: Runs, packed, tmp_path):
    """All records are read once, for their lengths."""
    folder = tmp_path / "shards"
    shutil.copytree(runs.shards(LENGTH), folder)
    for kept in folder.glob("lengths.*"):
        kept.unlink()
    shard = folder / "pretrain_data.tfrecord-1-of-3"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 4
    shard.write_bytes(content)
    error = one_line_error(packed("damaged", expect=2, pretrain_tfrecords=folder))
    assert "tfrecord-1-of-3" in error and "record" in error and "damaged" in error
    assert not tfrecords.lengths_path(shard).exists() and not runs.checkpoints("damaged")
