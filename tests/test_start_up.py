"""Seconds to the first update are those of the clock, and graphs are made once: nothing is traced later."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from squad_cases import CONFIG, FILLERS, write_encoder, write_questions
from training_runs import MODEL, ROOT, TRAINING

import fused_operations
import pretraining_inputs
import squad_inputs
import training
from configuration import PretrainingConfig
from device import optimize_graphs
from squad_configuration import SquadConfig
from start_up import StartUp
from workers import ALONE


def test_the_age_of_a_process_is_the_clocks(tmp_path):
    """Between what it slept and what passed outside; its name has what the system's file puts around it."""
    program = tmp_path / "a) 1 (b"
    program.write_text(
        f"#!{sys.executable}\nimport sys, time\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from start_up import seconds_since_process_start\n"
        "time.sleep(0.5)\nprint(seconds_since_process_start())\n"
    )
    program.chmod(0o755)
    started = time.monotonic()
    age = float(subprocess.run([program], check=True, capture_output=True, text=True, timeout=60).stdout)
    # The system counts in hundredths.
    assert 0.5 - 0.02 <= age <= time.monotonic() - started + 0.02


def test_only_the_first_run_of_a_process_counts_from_its_start():
    StartUp()
    later = StartUp()
    assert later.seconds() == {"import_seconds": 0.0}
    before = time.monotonic()
    later.update_done()
    first = later.seconds()["first_update_seconds"]
    later.update_done()
    assert first >= 0 and later.seconds()["first_update_seconds"] == first
    time.sleep(0.05)
    another = StartUp()
    another.update_done()
    assert another.seconds()["first_update_seconds"] <= time.monotonic() - before


# By micro-batches in an update: graphs of a micro-batch, of the rest of the update, of both in one.
GRAPHS = {1: [0, 0, 1], 2: [1, 1, 0]}


@pytest.fixture
def traces(monkeypatch):
    """Graphs made so far and the micro-batches' shapes, after each update of whatever engine runs."""
    seen = []
    update = training.Engine.update

    def counted(engine, data, *arguments):
        result = update(engine, data, *arguments)
        functions = (engine._accumulate, engine._apply_sums, engine._finish)
        graphs = [function.experimental_get_tracing_count() for function in functions]
        seen.append((graphs, [batch["input_ids"].shape for batch in data.micro_batches]))
        return result

    monkeypatch.setattr(training.Engine, "update", counted)
    handlers = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    }
    yield seen
    for number, handler in handlers.items():
        signal.signal(number, handler)
    # What the run has set for its whole process.
    fused_operations.compile_chains(False)
    optimize_graphs(True)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_pretraining_traces_once(accumulation, language, tmp_path, traces):
    import pretraining_run

    shards = language / "shards_32"
    settings = TRAINING | {
        "model_name": "traced",
        "results_dir": str(tmp_path),
        "pretrain_tfrecords": str(shards),
        "eval_tfrecords": str(shards / "held_out"),
        "eval_every_steps": 2,
        "gradient_accumulation_steps": accumulation,
        "num_train_steps": 6,
    }
    config = PretrainingConfig(**(MODEL | settings))
    inputs = pretraining_inputs.open_inputs(config, ALONE)
    start = pretraining_inputs.find_start(config, inputs, ALONE)
    Path(config.checkpoints_folder).mkdir(parents=True)
    assert pretraining_run.train(config, inputs, start, ALONE) == 0
    assert [graphs for graphs, _ in traces] == [GRAPHS[accumulation]] * 6


@pytest.mark.parametrize("accumulation", [1, 2])
def test_fine_tuning_on_varying_lengths_traces_once(accumulation, tmp_path, traces):
    import squad_run

    write_encoder(tmp_path / "encoder", dataclasses.replace(CONFIG, max_position_embeddings=128))
    write_questions(tmp_path / "questions", 60)
    _lengthen_every_second_context(tmp_path / "questions" / "train-v1.1.json")
    config = SquadConfig(
        electra_model=str(tmp_path / "encoder"),
        data_dir=str(tmp_path / "questions"),
        output_dir=str(tmp_path / "fine_tuned"),
        cache_dir=str(tmp_path / "cache"),
        max_seq_length=128,
        max_query_length=16,
        train_batch_size=4,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=3,
        do_train=True,
    )
    inputs = squad_inputs.open_inputs(config)
    start = squad_inputs.find_start(config, inputs, ALONE)
    assert squad_run.run(config, inputs, start, ALONE) == 0
    assert [graphs for graphs, _ in traces] == [GRAPHS[accumulation]] * len(traces)
    lengths = [{shape[1] for shape in shapes} for _, shapes in traces]
    assert len(set.union(*lengths)) > 1 and len(traces) > 5


def _lengthen_every_second_context(path: Path) -> None:
    content = json.loads(path.read_text())
    for paragraph in content["data"][0]["paragraphs"][::2]:
        paragraph["context"] += " " + " ".join(FILLERS * 4)
    path.write_text(json.dumps(content))
