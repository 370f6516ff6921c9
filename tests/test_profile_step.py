"""The profile of a step: times by part of a trace worked out by hand, and of a real step."""

import json
import os
import subprocess
import sys

import pytest
from training_runs import ROOT

sys.path.append(str(ROOT / "scripts"))

import step_profile
from profile_step import ProfileConfig
from step_profile import BETWEEN, INPUT, OTHER, STEP_NAME, Event, part_of, times_by_part

from command_line import RunFailure, UsageError, parse

SIZES = {
    "embedding_size": 32,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "generator_hidden_size": 0.5,
}
LAYER = "pretraining_1/electra_1/layer_1_1"


@pytest.mark.parametrize(
    ("name", "part"),
    [
        (f"{LAYER}/attention/self_1/Softmax:Softmax", "attention"),
        (f"gradients/gradient_tape/{LAYER}/attention_1/output_3/dense_1/MatMul/MatMul_1:MatMul", "attention"),
        (f"{LAYER}/feed_forward/dense_1/BiasAdd:_FusedMatMul", "feed-forward"),
        (f"{LAYER}/feed_forward/output_3/dropout_2/mul_1:Mul", "dropout"),
        (f"{LAYER}/attention/self_1/random:StatelessRandomUniformFullIntV2", "attention"),
        ("random:StatelessRandomUniformFullIntV2", "dropout"),
        (f"{LAYER}/attention/output_1/LayerNorm_1/moments/mean:Mean", "LayerNorm"),
        (f"{LAYER}/feed_forward/output_1/layer_norm/xla_cluster:_XlaRun", "LayerNorm"),
        ("pretraining_1/generator_1/layer_0_1/attention/self_1/dropout/mul:Mul", "generator"),
        ("pretraining_1/generator_1/embeddings_1/Gather:ResourceGather", "generator"),
        ("pretraining_1/electra_1/embeddings_project_1/BiasAdd:_FusedMatMul", "embeddings"),
        ("pretraining_1/generator_predictions_1/MatMul:MatMul", "masked-LM head"),
        ("pretraining_1/sampling/Cumsum:Cumsum", "sampling"),
        ("gradients/AddN_3:AddN", "gradients added up"),
        ("optimizer/cond/then/_0/optimizer/cond/ResourceApplyAdam_9:ResourceApplyAdam", "optimizer"),
        ("mul:Mul", OTHER),
        ("tf.constant", INPUT),
        ("ExecutorState::Process", None),
        ("EagerLocalExecute: __inference__finish_update_5274", None),
        ("ParallelFor", None),
    ],
)
def test_an_operation_belongs_to_the_part_that_its_name_tells(name, part):
    assert part_of(name) == part


def test_moments_are_shared_by_the_threads_that_compute_then():
    """Two steps of 100: the first by two threads with one operation in another, the second nearly idle."""
    attention, dropout = f"{LAYER}/attention/self_1/MatMul:MatMul", f"{LAYER}/attention/dropout/Mul:Mul"
    feed_forward = f"{LAYER}/feed_forward/dense_1/MatMul:MatMul"
    events = [
        Event(STEP_NAME, 0, 0, 100),
        Event("ExecutorState::Process", 1, 5, 95),
        Event(attention, 1, 10, 50),
        Event(dropout, 1, 20, 30),
        Event(feed_forward, 2, 40, 70),
        Event(STEP_NAME, 0, 200, 300),
        # Begins before its step, so that 10 of its 20 count.
        Event("pretraining_1/generator_1/add:AddV2", 2, 190, 210),
        Event("pretraining_1/sampling/add:AddV2", 1, 150, 160),
    ]
    times, steps = times_by_part(reversed(events))
    assert steps == [100, 100]
    # Attention 10 to 20 and 30 to 40 alone, 40 to 50 beside feed-forward, which goes on alone to 70.
    expected = {"attention": 25, "dropout": 10, "feed-forward": 25, "generator": 10, BETWEEN: 40 + 90}
    found = {part: time.picoseconds for part, time in times.items() if time.picoseconds}
    assert found == pytest.approx(expected) and sum(found.values()) == pytest.approx(200)
    assert times["attention"].operations == times["feed-forward"].operations == 1
    assert times["sampling"].operations == 0
    # Those of attention and feed-forward, 10 to 20 and 30 to 70.
    products = step_profile.times_of_products(events)
    assert products.picoseconds == pytest.approx(50) and products.operations == 2

    head, *rows, last = step_profile.table(times, steps).splitlines()
    assert head.split() == ["part", "ms", "share", "operations"]
    cells = {row[:22].strip(): row[22:].split() for row in rows}
    assert cells["attention"] == ["0.000", "12.5%", "0"] and cells[BETWEEN] == ["0.000", "65.0%", "-"]
    assert last.split() == ["step", "0.000", "100.0%", "2"]


def test_every_part_has_a_row():
    parts = {part for part, _ in step_profile.PARTS} | {INPUT, OTHER, BETWEEN}
    assert sorted(parts) == sorted(step_profile.ROWS)


def test_a_chain_is_charged_to_the_place_that_calls_it(tmp_path):
    """The profiler names the executor's call, and says beside it which operation that was."""
    space = step_profile._trace_class()()
    plane = space.planes.add(name="/host:CPU")
    plane.event_metadata[1].name = "ExecutorState::ProcessAsync::Start"
    for number, name in enumerate(["name", "kernel_type", "PartitionedCall"], 1):
        plane.stat_metadata[number].name = name
    event = plane.lines.add(id=7, timestamp_ns=1).events.add(metadata_id=1, offset_ps=5, duration_ps=10)
    event.stats.add(metadata_id=1, str_value=f"{LAYER}/attention/self_1/dropout/PartitionedCall")
    event.stats.add(metadata_id=2, ref_value=3)
    (tmp_path / "trace.xplane.pb").write_bytes(space.SerializeToString())
    (event,) = step_profile.read_events(tmp_path)
    assert part_of(event.name) == "dropout" and (event.start, event.end) == (1005, 1015)


def test_a_folder_without_a_trace_is_named(tmp_path):
    with pytest.raises(RunFailure, match="wrote no trace"):
        step_profile.read_events(tmp_path)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--steps", "0"], "--steps 0: must be at least 1"),
        (["--sizes", "{"], "--sizes {: no JSON"),
        (["--sizes", '{"hidden": 3}'], "--sizes"),
        (["--max_seq_length", "513"], "max_seq_length 513"),
    ],
)
def test_impossible_settings_are_named(flags, told):
    with pytest.raises(UsageError, match=told):
        parse(ProfileConfig, flags, description="")


@pytest.mark.slow
def test_the_parts_of_a_real_step_add_up_to_it(tmp_path):
    command = ["bash", str(ROOT / "scripts" / "profile_step.sh"), "2"]
    flags = {"vocab_size": 300, "sizes": json.dumps(SIZES), "output_dir": tmp_path / "trace", "steps": 2}
    environment = os.environ | {
        "PYTHON": sys.executable,
        "MAX_SEQ_LENGTH": "32",
        "GRADIENT_ACCUMULATION_STEPS_P1": "2",
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    for run in (1, 2):
        words = [f"--{name}={value}" for name, value in flags.items()]
        done = subprocess.run(
            [*command, *words], capture_output=True, text=True, env=environment, timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert len(list((tmp_path / "trace").rglob("*.xplane.pb"))) == run
    lines = done.stdout.splitlines()
    assert lines[0].startswith("small, 2 x 32 tokens x 2 micro-batches, fp32: average of 2 steps")
    rows = {line[:22].strip(): line[22:].split() for line in lines[2 : 3 + len(step_profile.ROWS)]}
    milliseconds = {part: float(cells[0]) for part, cells in rows.items()}
    step = milliseconds.pop("step")
    assert list(milliseconds) == list(step_profile.ROWS)
    # Each is rounded to a thousandth.
    assert sum(milliseconds.values()) == pytest.approx(step, abs=0.01) and step > 0
    assert rows["step"][1] == "100.0%"
    for part in step_profile.ROWS:
        if part not in (OTHER, BETWEEN):
            assert milliseconds[part] > 0 and int(rows[part][2]) > 0, part
    operations = {part: int(cells[2]) for part, cells in rows.items() if part not in (BETWEEN, "step")}
    # Nearly every operation has a name that tells its part.
    assert operations[OTHER] < 0.05 * sum(operations.values())
    (products,) = [line.split() for line in lines if line.startswith("matrix products take ")]
    assert 0 < float(products[3]) < step
    assert any(line.startswith("without the profiler a step takes ") for line in lines)
