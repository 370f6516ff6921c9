"""run_pretraining.py as a user runs it: learning, logs, phases, restarts, and what bad input gets."""

import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from training_runs import MODEL, TRAINING, Runs, one_line_error

import checkpointing
import pretraining_inputs
from configuration import PretrainingConfig
from workers import ALONE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(runs: Runs) -> str:
    """The name of a run of 12 updates that nothing disturbed."""
    runs.run("finished", "--restore_checkpoint=latest", eval_tfrecords=runs.shards(32) / "held_out")
    return "finished"


def _equal(one: dict, other: dict) -> bool:
    assert one.keys() == other.keys()
    return all(np.array_equal(one[name], other[name]) for name in one)


# ------------------------------------------------------------------------------------------------ learning


def test_a_tiny_model_learns_a_language_whose_neighbours_predict_each_other(runs: Runs):
    """From random weights, on held-out documents: far under the unigram cross-entropy, AUC over .7."""
    model = {"embedding_size": 64, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128}
    runs.run(
        "learns",
        eval_tfrecords=runs.shards(32) / "held_out",
        eval_every_steps=150,
        train_batch_size=32,
        gradient_accumulation_steps=1,
        learning_rate=3e-3,
        num_train_steps=250,
        num_warmup_steps=20,
        save_checkpoints_steps=1000,
        # Samples that are often of another topic, so that there is something to detect.
        temperature=3,
        compile_chains=True,
        **model,
    )
    values = runs.evaluated("learns")[250]
    assert values["eval_masked_lm_loss_masked_only"] < values["eval_unigram_cross_entropy"] - 0.8
    assert values["eval_disc_auc"] > 0.7
    assert values["eval_disc_accuracy"] > values["eval_disc_majority_accuracy"] + 2
    # ln 64, the cross-entropy of 64 words that are equally frequent.
    assert values["eval_unigram_cross_entropy"] == pytest.approx(np.log(64), abs=0.05)


# ---------------------------------------------------------------------------------------------------- logs


def test_logged_lines_have_nvidias_keys_and_ours(runs: Runs, finished):
    lines = runs.logged(finished)
    assert sorted(lines) == [4, 8, 12]
    for values in lines.values():
        nvidias = {
            "train_perf",
            "total_loss",
            "masked_lm_accuracy",
            "masked_lm_loss",
            "disc_loss",
            "disc_auc",
        }
        nvidias |= {"sampled_masked_lm_accuracy", "disc_accuracy", "disc_precision", "disc_recall"}
        assert nvidias <= values.keys()
        assert {"grad_norm", "learning_rate", "tokens_per_second", "data_wait", "epoch"} <= values.keys()
        assert "loss_scale" not in values
        total = values["masked_lm_loss"] + 50 * values["disc_loss"]
        assert values["total_loss"] == pytest.approx(total, rel=1e-6)


def test_utilization_is_the_share_of_the_ceiling_that_the_logged_rate_makes(runs: Runs, finished):
    """All lines have the same ceiling, so it stands to the rate as the operations of a sequence do to it."""
    lines = runs.logged(finished).values()
    assert all(0 < values["utilization"] < 1 for values in lines)
    # An update of 8 sequences of 32; widths of 32, 24 (embeddings), 16 (generator), 48 and 64 (feed-forward).
    encoder = 2 * 24 * 32 + 8 * 32**2 + 4 * 32 * 32 + 4 * 32 * 48
    generator = 2 * 24 * 16 + 8 * 16**2 + 4 * 32 * 16 + 4 * 16 * 64
    vocabulary = len((runs.language / "vocab.txt").read_text().split())
    heads = 32 * (2 * 32 * 32 + 2 * 32) + 4 * (2 * 16 * 24 + 2 * 24 * vocabulary)
    flops = 3 * (32 * (encoder + generator) + heads)
    ceilings = [values["train_perf"] * flops / values["utilization"] for values in lines]
    assert ceilings == pytest.approx([ceilings[0]] * len(ceilings), rel=1e-9)
    # Between a slow core and the quickest of machines.
    assert 1e8 < ceilings[0] < 1e15


def test_learning_rate_and_epoch_are_logged_as_they_were(runs: Runs, finished):
    """2 updates of warm-up to 2e-3, then square-root decay over 10; 8 sequences an update."""
    examples = json.loads((runs.shards(32) / "manifest.json").read_text())["examples"]
    for update, values in runs.logged(finished).items():
        done = (update - 1 - 2) / 10
        assert values["learning_rate"] == pytest.approx(2e-3 * np.sqrt(1 - done), rel=1e-6)
        assert values["epoch"] == pytest.approx(update * 8 / examples)


def test_what_the_run_works_on_is_logged(runs: Runs, finished):
    """4 sequences in 2 micro-batches; the entropy of the words by the counts beside the shards."""
    parameters = {}
    for event in runs.log(finished):
        if event["type"] == "LOG" and event["step"] == "PARAMETER":
            parameters |= event["data"]
    manifest = json.loads((runs.shards(32) / "manifest.json").read_text())
    assert (parameters["workers"], parameters["sequences_per_update"]) == (1, 8)
    assert parameters["training_examples"] == manifest["examples"]
    pieces = (runs.shards(32) / "vocab.txt").read_text().split()
    counts = np.load(runs.shards(32) / "token_counts.npy").astype(float) + 1
    counts[[pieces.index(special) for special in ("[PAD]", "[CLS]", "[SEP]", "[MASK]")]] = 0
    shares = counts[counts > 0] / counts.sum()
    assert parameters["unigram_entropy"] == pytest.approx(-(shares * np.log(shares)).sum())
    assert parameters["DEVICES"] and parameters["PYTHON_VERSION"] == platform.python_version()


def test_a_run_that_breaks_says_so_in_its_log(runs: Runs, run_program):
    """A learning rate that no weights survive."""
    error = one_line_error(runs.run("broken", expect=1, learning_rate=1e30, num_warmup_steps=0, log_freq=1))
    (failure,) = [
        event["data"]["failure"] for event in runs.log("broken") if "failure" in event.get("data", {})
    ]
    assert failure in error and failure.startswith("the ")
    done = run_program("run_report.py", runs.folder("broken"), "--check")
    assert done.returncode == 1 and failure in done.stdout


def test_summary_lines_end_the_run(runs: Runs, finished):
    events = [event for event in runs.log(finished) if event["type"] == "LOG" and event["step"] == []]
    final = events[-1]["data"]
    assert {"training_sequences_per_second", "final_loss", "e2e_train_time"} <= final.keys()
    assert final["final_loss"] == runs.logged(finished)[12]["total_loss"]
    # Tracing takes far longer than an update of this model, and ends before the first of them.
    assert 0 < final["import_seconds"] < final["first_update_seconds"]
    assert 0 < final["trace_seconds"] < final["first_update_seconds"]
    metadata = {e["metric"]: e["metadata"]["unit"] for e in runs.log(finished) if e["type"] == "METADATA"}
    assert metadata["training_sequences_per_second"] == "sequences/s" and metadata["e2e_train_time"] == "s"
    parameters = {}
    for event in runs.log(finished):
        if event.get("step") == "PARAMETER":
            parameters |= event["data"]
    assert parameters["train_batch_size"] == 4 and parameters["seed"] == 42
    assert "TENSORFLOW_VERSION" in parameters


def test_throughput_eta_and_totals_say_what_happened(runs: Runs):
    """Against the times at which the lines were written, by a clock that is not the run's own."""
    started = time.time()
    done = runs.run("timed", num_train_steps=400, log_freq=100, save_checkpoints_steps=1000)
    wall = time.time() - started
    events = [e for e in runs.log("timed") if e["type"] == "LOG" and isinstance(e["step"], list)]
    stamps = {e["step"][0]: float(e["timestamp"]) for e in events if e["step"]}
    for update in (200, 300, 400):
        measured = 100 * 8 / (stamps[update] - stamps[update - 100])
        assert runs.logged("timed")[update]["train_perf"] == pytest.approx(measured, rel=0.25)
    etas = [line.split("ETA: ")[1] for line in done.stdout.splitlines() if line.startswith("Step:   100")]
    seconds = sum(int(part) * 60**place for place, part in enumerate(reversed(etas[0].split(":"))))
    assert seconds == pytest.approx(stamps[400] - stamps[100], abs=max(2, 0.5 * (stamps[400] - stamps[100])))
    final = [e["data"] for e in events if e["step"] == []][-1]
    assert final["e2e_train_time"] < wall and final["first_update_seconds"] < wall
    assert final["training_sequences_per_second"] == pytest.approx(
        300 * 8 / (stamps[400] - stamps[100]), rel=0.25
    )
    assert final["training_sequences_per_second"] > 400 * 8 / wall


def test_tensorboard_has_the_scalars(runs: Runs, finished):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folders = list((runs.folder(finished) / "logs").glob("*/train_0_of_1"))
    assert folders
    accumulator = reader.EventAccumulator(str(folders[0]), size_guidance={"tensors": 0})
    accumulator.Reload()
    tags = accumulator.Tags()["tensors"]
    assert {"total_loss", "disc_auc", "learning_rate", "eval_disc_auc"} <= set(tags)
    assert [event.step for event in accumulator.Tensors("total_loss")] == [4, 8, 12]


def test_json_summary_moves_the_log_and_appends(runs: Runs, tmp_path):
    log = tmp_path / "deep" / "summary.json"
    runs.run("moved", json_summary=log, num_train_steps=4)
    before = log.read_text()
    runs.run("moved", "--restore_checkpoint", json_summary=log, num_train_steps=8)
    assert log.read_text().startswith(before) and len(log.read_text()) > len(before)
    assert not (runs.folder("moved") / "logs" / "dllogger.log").exists()


def test_batch_arithmetic_is_printed(runs: Runs):
    done = runs.run("arithmetic", global_batch_size=16, gradient_accumulation_steps=1, num_train_steps=3)
    assert "4 per worker x 4 accumulated x 1 workers = 16 sequences, 512 tokens an update" in done.stdout
    assert "3 updates = 48 sequences" in done.stdout


def test_a_dry_run_prints_what_the_run_would_cost_and_writes_nothing(runs: Runs):
    done = runs.run("dry", "--dry_run", num_train_steps=100000, num_warmup_steps=90000, learning_rate=0.5)
    assert not runs.folder("dry").exists()
    out = done.stdout
    assert "4 per worker x 2 accumulated x 1 workers = 8 sequences, 256 tokens an update" in out
    assert "100,000 updates = 800,000 sequences" in out and "\ntokens: 25,600,000, " in out
    # By hand: tables and projection; a layer's products, biases and two LayerNorms; the heads.
    vocabulary = len((runs.language / "vocab.txt").read_text().split())

    def layer(width: int, inner: int) -> int:
        return 4 * (width**2 + width) + 2 * width * inner + inner + width + 4 * width

    electra = 24 * (vocabulary + 64 + 2 + 2) + 25 * 32 + layer(32, 48)
    generator = 25 * 16 + layer(16, 64)
    heads = (32 * 32 + 32 + 33) + (16 * 24 + 24 + 2 * 24 + vocabulary)
    parameters = electra + generator + heads
    assert f"\nparameters: {parameters:,}\n" in out
    mebibytes = 12 * parameters / 2**20
    assert f"checkpoints: {mebibytes:,.0f} MiB each, up to 6 at once" in out
    for words in (
        "operations:",
        "sequences/s, utilization",
        "memory of a worker:",
        "  accumulators:",
        "updates take",
    ):
        assert words in out
    warnings = [line for line in out.splitlines() if line.startswith("warning: ")]
    assert [line.split()[1] for line in warnings[:2]] == ["--num_warmup_steps", "--num_train_steps"]
    assert "--learning_rate 0.5" in warnings[-1]


# ------------------------------------------------------------------------------------------------ restarts


def test_killed_at_any_instant_and_restarted_ends_with_the_same_weights(runs: Runs, finished):
    """SIGKILL again and again, at moments that a seed draws; bit for bit, optimizer included."""
    random = np.random.RandomState(3)
    kills = 0
    for _ in range(12):
        process = runs.start("killed", "--restore_checkpoint=latest")
        # A random moment after it is ready to train, so that it gets on however slow the machine is.
        while (line := process.stdout.readline()) and not line.startswith("batch:"):
            pass
        try:
            # The first two while it compiles, which takes longer than a second anywhere.
            process.wait(timeout=random.uniform(0.0, 5.0 if kills >= 2 else 1.0))
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    else:
        runs.run("killed", "--restore_checkpoint=latest")
    assert kills >= 2
    assert _equal(runs.weights("killed", "ckpt-12"), runs.weights(finished, "ckpt-12"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_restart_ends_with_the_same_weights(runs: Runs, number, code):
    long = {"num_train_steps": 300, "save_checkpoints_steps": 1000, "log_freq": 5}
    name = f"signal-{code}"
    process = runs.start(name, **long)
    for line in process.stdout:
        if line.startswith("Step:    10"):
            process.send_signal(number)
            break
    output = process.stdout.read()
    assert process.wait(timeout=60) == code
    (saved,) = runs.checkpoints(name)
    assert f"saved {runs.folder(name)}/checkpoints/{saved}" in output
    assert 10 <= int(saved.removeprefix("ckpt-")) < 300
    runs.run(name, "--restore_checkpoint", **long)
    reference = runs.folder("reference-300")
    if not reference.exists():
        runs.run("reference-300", **long)
    assert _equal(runs.weights(name, "ckpt-300"), runs.weights("reference-300", "ckpt-300"))


def test_steps_of_this_run_and_a_second_start_equal_one_run(runs: Runs, finished):
    runs.run("two-parts", steps_this_run=5)
    assert runs.checkpoints("two-parts") == ["ckpt-4", "ckpt-5"]
    runs.run("two-parts", "--restore_checkpoint=latest")
    assert _equal(runs.weights("two-parts", "ckpt-12"), runs.weights(finished, "ckpt-12"))


def test_a_finished_run_has_nothing_to_do(runs: Runs, finished):
    before = (runs.folder(finished) / "checkpoints" / "ckpt-12" / "state.json").stat().st_mtime_ns
    done = runs.run(finished, "--restore_checkpoint")
    assert "all 12 updates are done already" in done.stdout
    assert (runs.folder(finished) / "checkpoints" / "ckpt-12" / "state.json").stat().st_mtime_ns == before


def test_a_corrupt_newest_checkpoint_is_named_and_the_one_before_is_used(runs: Runs, finished):
    shutil.copytree(runs.folder(finished), runs.folder("corrupt"))
    weights = runs.folder("corrupt") / "checkpoints" / "ckpt-12" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 16
    weights.write_bytes(content)
    done = runs.run("corrupt", "--restore_checkpoint=latest")
    assert "ckpt-12: model.safetensors does not have its checksum" in done.stdout
    assert "going on from" in done.stdout and "ckpt-8, update 8" in done.stdout
    assert _equal(runs.weights("corrupt", "ckpt-12"), runs.weights(finished, "ckpt-12"))


def test_a_full_disk_ends_the_run_and_leaves_the_older_checkpoint(runs: Runs):
    """A bound on the size of files stands for the full disk; the first checkpoint comes before it."""
    wide = {"hidden_size": 128, "embedding_size": 128}
    runs.run("full", num_train_steps=4, **wide)

    def bound():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))

    done = subprocess.run(
        runs.command("full", "--restore_checkpoint", num_train_steps=8, **wide),
        capture_output=True,
        text=True,
        preexec_fn=bound,
        timeout=120,
    )
    assert done.returncode == 1
    assert "checkpoint" in one_line_error(done)
    assert runs.checkpoints("full") == ["ckpt-4"]
    assert not list((runs.folder("full") / "checkpoints").glob(".ckpt*"))
    assert checkpointing.load(runs.folder("full") / "checkpoints" / "ckpt-4").step == 4


def test_rotation_keeps_what_is_asked_for(runs: Runs):
    runs.run("rotated", save_checkpoints_steps=2, keep_checkpoint_max=2)
    assert runs.checkpoints("rotated") == ["ckpt-10", "ckpt-12"]


def test_skip_checkpoint_saves_nothing(runs: Runs):
    runs.run("unsaved", "--skip_checkpoint", num_train_steps=4)
    assert runs.checkpoints("unsaved") == []


def test_settings_that_change_the_meaning_are_refused_by_name(runs: Runs, finished):
    done = runs.run(
        finished, "--restore_checkpoint", expect=2, seed=7, train_batch_size=8, num_train_steps=20
    )
    error = one_line_error(done)
    assert "seed 42 -> 7" in error and "global_batch_size 8 -> 16" in error and "learning_rate" not in error
    shutil.copytree(runs.folder(finished), runs.folder("changed"))
    done = runs.run("changed", "--restore_checkpoint", "--allow_config_change", seed=7, num_train_steps=13)
    assert "note: settings differ from the checkpoint's: seed 42 -> 7" in done.stdout
    assert "ckpt-13" in runs.checkpoints("changed")


def test_the_same_global_batch_in_other_micro_batches_may_go_on(runs: Runs, finished):
    shutil.copytree(runs.folder(finished), runs.folder("regrouped"))
    settings = {"train_batch_size": 8, "gradient_accumulation_steps": 1, "num_train_steps": 14}
    runs.run("regrouped", "--restore_checkpoint", **settings)
    assert "ckpt-14" in runs.checkpoints("regrouped")


def test_one_folder_takes_one_run_at_a_time(runs: Runs):
    process = runs.start("shared", num_train_steps=100_000, save_checkpoints_steps=100_000, log_freq=1)
    for line in process.stdout:
        if line.startswith("Step:"):
            break
    error = one_line_error(runs.run("shared", expect=2))
    assert f"in use by process {process.pid}" in error
    process.terminate()
    process.communicate(timeout=60)


# -------------------------------------------------------------------------------------------------- phases


def test_phase_two_starts_from_phase_ones_weights_with_a_fresh_optimizer(runs: Runs, finished):
    shutil.copytree(runs.folder(finished), runs.folder("phases"))
    second = {"max_seq_length": 64, "num_train_steps": 3, "num_warmup_steps": 1, "save_checkpoints_steps": 1}
    # With a learning rate of 0 the weights of the second phase stay those of the first.
    done = runs.run("phases", "--phase2", "--restore_checkpoint", learning_rate=0, **second)
    assert "phase 2 starts from the weights of" in done.stdout and "ckpt-12" in done.stdout
    assert runs.checkpoints("phases") == [
        "ckpt-12",
        "ckpt-4",
        "ckpt-8",
        "ckpt-p2-1",
        "ckpt-p2-2",
        "ckpt-p2-3",
    ]
    first, later = runs.weights("phases", "ckpt-12"), runs.weights("phases", "ckpt-p2-3")
    model = [name for name in first if not name.startswith("optimizer")]
    assert all(np.array_equal(first[name], later[name]) for name in model)
    assert first["optimizer iterations"] == 12 and later["optimizer iterations"] == 3
    assert _equal(runs.weights("phases", "ckpt-12"), runs.weights(finished, "ckpt-12"))
    # A restart goes on with the second phase, not from the first again.
    done = runs.run("phases", "--phase2", "--restore_checkpoint", learning_rate=0, **second)
    assert "all 3 updates are done already" in done.stdout


def test_phase_two_keeps_the_moments_when_asked(runs: Runs, finished):
    """m = beta_1 m + (1 - beta_1) g: kept and fresh moments differ by beta_1 times phase 1's last m."""
    settings = {"max_seq_length": 64, "num_train_steps": 1, "num_warmup_steps": 0}
    for name, flags in (("kept", ["--phase2_keep_moments"]), ("fresh", [])):
        shutil.copytree(runs.folder(finished), runs.folder(name))
        runs.run(name, "--phase2", "--restore_checkpoint", *flags, **settings)
    first, kept, fresh = (
        runs.weights(*place)
        for place in ((finished, "ckpt-12"), ("kept", "ckpt-p2-1"), ("fresh", "ckpt-p2-1"))
    )
    name = "optimizer m/electra/encoder/layer_0/intermediate/dense/kernel"
    np.testing.assert_allclose(kept[name] - fresh[name], 0.878 * first[name], atol=1e-7)
    assert np.abs(first[name]).max() > 1e-4
    assert kept["optimizer iterations"] == fresh["optimizer iterations"] == 1


def test_phase_two_from_an_unfinished_phase_one_is_told(runs: Runs, finished, capsys):
    second = MODEL | TRAINING | {"model_name": "early", "results_dir": str(runs.results), "phase2": True}
    second |= {"pretrain_tfrecords": str(runs.shards(32))}
    for name, told in (("ckpt-8", "8 of 12 updates of phase 1"), ("ckpt-12", "")):
        checkpoint = str(runs.folder(finished) / "checkpoints" / name)
        config = PretrainingConfig(**second, restore_checkpoint=checkpoint)
        inputs = pretraining_inputs.open_inputs(config, ALONE)
        assert pretraining_inputs.find_start(config, inputs, ALONE).new_phase
        output = capsys.readouterr().out
        assert told in output and ("warning" in output) == bool(told)


def test_phase_two_with_nothing_to_restore_is_an_error(runs: Runs):
    error = one_line_error(runs.run("nothing", "--phase2", "--restore_checkpoint=latest", expect=2))
    assert "--phase2" in error and "nothing to restore" in error
    assert "--restore_checkpoint" in one_line_error(runs.run("nothing", "--phase2", expect=2))
    assert not runs.folder("nothing").exists()


# ------------------------------------------------------------------------------------------- data, options


def test_show_update_prints_what_the_update_trains_on(runs: Runs, finished):
    done = runs.run("shown", show_update=2)
    lines = done.stdout.splitlines()
    places = [line.split(" tokens,")[0].rsplit(",", 1)[0].split(" ", 1)[1] for line in lines[0::2]]
    assert len(places) == 8 and len(set(places)) == 8
    assert all("[CLS]" in line and "[MASK t" in line for line in lines[1::2])
    assert not runs.folder("shown").exists()
    assert runs.run("shown", show_update=2).stdout == done.stdout
    assert runs.run("shown", show_update=3).stdout != done.stdout


def test_skipped_updates_leave_their_batches_out_and_are_remembered(runs: Runs, finished):
    """Updates 9 and 10 left out: update 9 trains on what was update 11's data; later restarts know."""
    plain = runs.run("any", show_update=11).stdout
    shutil.copytree(runs.folder(finished), runs.folder("skipping"))
    restore = f"--restore_checkpoint={runs.folder('skipping')}/checkpoints/ckpt-8"
    runs.run("skipping", restore, skip_updates="9-10", num_train_steps=12)
    assert runs.run("skipping", "--restore_checkpoint=latest", show_update=9).stdout.endswith(plain)
    state = checkpointing.load(runs.folder("skipping") / "checkpoints" / "ckpt-12").state
    assert state["skip_updates"] == [[9, 10]]
    assert not _equal(runs.weights("skipping", "ckpt-12"), runs.weights(finished, "ckpt-12"))
    error = one_line_error(runs.run("skipping", "--restore_checkpoint", expect=2, skip_updates="3-4"))
    assert "--skip_updates 3-4" in error and "restore an earlier checkpoint" in error


def test_the_newest_after_going_back_is_that_of_the_new_branch(runs: Runs, finished):
    """From update 8 of 12 to 10, then on: the old update 12 is not taken up again."""
    shutil.copytree(runs.folder(finished), runs.folder("branch"))
    back = f"--restore_checkpoint={runs.folder('branch')}/checkpoints/ckpt-8"
    done = runs.run("branch", back, learning_rate=1e-3, steps_this_run=2)
    assert "note: ckpt-12: newer than update 8, set aside" in done.stdout
    assert "ckpt-10" in runs.checkpoints("branch") and "ckpt-12" not in runs.checkpoints("branch")
    done = runs.run("branch", "--restore_checkpoint", learning_rate=1e-3)
    assert "ckpt-10, update 10" in done.stdout
    assert not _equal(runs.weights("branch", "ckpt-12"), runs.weights(finished, "ckpt-12"))
    aside = runs.folder("branch") / "checkpoints" / "aside-ckpt-12"
    assert checkpointing.load(aside).step == 12


def test_a_checkpoint_of_another_program_is_refused(runs: Runs, finished, tmp_path):
    folder = tmp_path / "ckpt-8"
    checkpointing.save(
        tmp_path, "ckpt-", 8, model={}, optimizer={}, state={"meaning": {}}, extra_files={}, keep=0
    )
    error = one_line_error(runs.run("other", f"--restore_checkpoint={folder}", expect=2))
    assert "is no checkpoint of pre-training" in error and "--init_weights" in error


def test_a_glob_named_twice_is_read_twice_an_epoch(runs: Runs):
    shards = runs.shards(32)
    examples = json.loads((shards / "manifest.json").read_text())["examples"]
    done = runs.run("twice", pretrain_tfrecords=f"{shards},{shards}/pretrain_data*", num_train_steps=3)
    assert f"epochs of {2 * examples:,} examples" in done.stdout


def test_evaluation_alone_equals_the_runs_own_and_any_masking(runs: Runs, finished):
    """Held-out evaluation masks 15 % with a fixed seed, whatever the training's seed and mask share are."""
    own = runs.evaluated(finished)[12]
    checkpoint = runs.folder(finished) / "checkpoints" / "ckpt-12"
    settings = {"eval_tfrecords": runs.shards(32) / "held_out", "seed": 99, "mask_prob": 0.3}
    flags = ("--do_eval_only", f"--restore_checkpoint={checkpoint}", "--allow_config_change")
    done = runs.run("evaluation", *flags, **settings)
    again = runs.evaluated("evaluation")[12]
    assert again == pytest.approx(own, rel=1e-5)
    assert "eval_disc_auc" in done.stdout
    manifest = json.loads((runs.shards(32) / "held_out" / "manifest.json").read_text())
    assert own["eval_tokens"] == manifest["tokens"] and own["eval_sequences"] == manifest["examples"]


def test_pretrain_config_repeats_the_run(runs: Runs, finished):
    config = runs.folder(finished) / "checkpoints" / "pretrain_config.json"
    settings = json.loads(config.read_text())
    assert settings["hidden_size"] == MODEL["hidden_size"]
    assert settings["learning_rate"] == TRAINING["learning_rate"]
    command = [*runs.command("unused")[:2], "--config", str(config), "--model_name", "repeated"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert _equal(runs.weights("repeated", "ckpt-12"), runs.weights(finished, "ckpt-12"))


@pytest.mark.parametrize("precision", ["amp", "bf16"])
def test_mixed_precision_trains_and_resumes(runs: Runs, precision):
    settings = {"precision": precision, "num_train_steps": 8, "compile_chains": True}
    runs.run(f"{precision}-whole", **settings)
    runs.run(f"{precision}-parts", steps_this_run=4, **settings)
    runs.run(f"{precision}-parts", "--restore_checkpoint", **settings)
    whole, parts = (runs.weights(f"{precision}-{name}", "ckpt-8") for name in ("whole", "parts"))
    assert _equal(whole, parts)
    values = runs.logged(f"{precision}-whole")[8]
    assert np.isfinite(values["total_loss"])
    assert ("loss_scale" in values) == ("skipped_updates" in values) == (precision == "amp")
    # The health of the scale is judged by share: of two micro-batches here.
    recorded = [event["data"] for event in runs.log(f"{precision}-whole") if event["type"] == "LOG"]
    shares = [data["loss_scale_shares"] for data in recorded if "loss_scale_shares" in data]
    assert shares == ([2.0] if precision == "amp" else [])
    assert all(value.dtype == np.float32 for name, value in whole.items() if "iterations" not in name)


def test_lamb_and_deterministic_run(runs: Runs):
    runs.run("lamb", "--optimizer=lamb", "--skip_adaptive", "--deterministic", num_train_steps=4)
    assert np.isfinite(runs.logged("lamb")[4]["total_loss"])


def test_a_loss_that_is_not_finite_names_its_data_and_keeps_the_last_good_checkpoint(runs: Runs):
    settings = {"learning_rate": 1e18, "num_warmup_steps": 1, "save_checkpoints_steps": 1}
    done = runs.run("diverged", expect=1, **settings)
    error = one_line_error(done)
    assert "update 3" in error and "pretrain_data.tfrecord-" in error and "records" in error
    assert runs.checkpoints("diverged") == ["ckpt-1", "ckpt-2"]


# ----------------------------------------------------------------------------------------------- bad input


def _expect_error(runs: Runs, *flags: str, words: tuple[str, ...], **settings) -> None:
    name = "wrong"
    error = one_line_error(runs.run(name, *flags, expect=2, **settings))
    for word in words:
        assert word in error, error
    assert not runs.folder(name).exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pretrain_tfrecords": "nowhere/*"}, ("--pretrain_tfrecords nowhere/*",)),
        ({"eval_tfrecords": "nowhere/*"}, ("--eval_tfrecords nowhere/*",)),
        ({"max_seq_length": 64, "pretrain_tfrecords": "32"}, ("--max_seq_length 64", "32 tokens")),
        ({"hidden_size": 33}, ("--hidden_size 33", "--num_attention_heads 2")),
        ({"num_warmup_steps": 12}, ("--num_warmup_steps 12", "--num_train_steps 12")),
        ({"max_seq_length": 65}, ("--max_seq_length 65", "position table")),
        ({"train_batch_size": 0}, ("--train_batch_size 0",)),
        ({"global_batch_size": 9}, ("--global_batch_size 9",)),
        ({"init_weights": "nowhere"}, ("--init_weights nowhere",)),
        ({"restore_checkpoint": "nowhere"}, ("--restore_checkpoint nowhere",)),
        ({"vocab_file": "nowhere.txt"}, ("--vocab_file nowhere.txt",)),
        ({"model_name": "a/b"}, ("--model_name a/b",)),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_flag_stops_with_one_line_and_writes_nothing(runs: Runs, settings, words):
    if settings.get("pretrain_tfrecords") == "32":
        settings = settings | {"pretrain_tfrecords": runs.shards(32)}
    _expect_error(runs, words=words, **settings)


def test_a_vocabulary_of_other_pieces_stops(runs: Runs, language, tmp_path):
    other = tmp_path / "vocab.txt"
    other.write_text((language / "vocab.txt").read_text().replace("t3w1", "other"))
    _expect_error(runs, vocab_file=other, words=(f"--vocab_file {other}", "another vocabulary"))
    other.write_text((language / "vocab.txt").read_text().replace("[MASK]", "mask"))
    _expect_error(runs, vocab_file=other, words=("[MASK]",))


@pytest.mark.parametrize("with_manifest", [True, False])
def test_a_truncated_shard_stops(runs: Runs, tmp_path, with_manifest):
    """Also one of another tool, which has neither manifest nor index."""
    folder = tmp_path / "shards"
    shutil.copytree(runs.shards(32), folder)
    if not with_manifest:
        (folder / "manifest.json").unlink()
        for index in folder.glob("offsets.*"):
            index.unlink()
    shard = folder / "pretrain_data.tfrecord-1-of-3"
    os.truncate(shard, shard.stat().st_size - 100)
    _expect_error(runs, pretrain_tfrecords=folder, words=("tfrecord-1-of-3", "cut off"))


def test_a_flipped_bit_in_a_shard_stops_before_the_update_that_reads_it(runs: Runs, tmp_path):
    folder = tmp_path / "shards"
    shutil.copytree(runs.shards(32), folder)
    shard = folder / "pretrain_data.tfrecord-1-of-3"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 4
    shard.write_bytes(content)
    done = runs.run("flipped", expect=2, pretrain_tfrecords=folder, num_train_steps=200)
    error = one_line_error(done)
    assert "tfrecord-1-of-3" in error and "record" in error and "damaged" in error
    told = [event["data"]["failure"] for event in runs.log("flipped") if "failure" in event.get("data", {})]
    assert len(told) == 1 and told[0] in error


def test_a_folder_that_holds_another_run_is_not_written_to(runs: Runs, finished):
    error = one_line_error(runs.run(finished, expect=2))
    assert "holds a run already" in error and "--restore_checkpoint" in error
