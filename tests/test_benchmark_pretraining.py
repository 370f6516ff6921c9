"""The benchmark of pre-training: settings as NVIDIA's, rows with all keys, turns, nothing left behind."""

import json
import math
import os
import subprocess
import sys

import pytest
from training_runs import ROOT

sys.path.append(str(ROOT / "scripts"))

import pretraining_speed
from pretraining_speed import SpeedConfig
from timed_steps import Contender, StepConfig, synthetic_batch

from command_line import RunFailure, UsageError, parse

KEYS = [
    "engine",
    "model_size",
    "max_seq_length",
    "batch_size",
    "precision",
    "sequences_per_second",
    "tokens_per_second",
    "tflops",
    "ceiling_tflops",
    "utilization",
    "peak_memory_mb",
    "time_to_first_step_s",
]
TINY = {
    "model_size": "small",
    "max_seq_length": "32",
    "batch_size_p1": "4",
    "vocab_size": 300,
    "embedding_size": 32,
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "generator_hidden_size": 0.5,
}

# Stands in for the process of an engine: a step takes as long as its flag says and the peak is 1000 bytes.
STEPPER = """
import json, sys, time
flags = dict(word.split("=", 1) for word in sys.argv[1:])
print("a line of a library")
for _ in range(2):
    print(json.dumps({"finished": 1}), flush=True)
for line in open(flags["--turns"]):
    if line == "0\\n":
        open(flags["--ended"], "w").close()
        break
    if "--fails" in flags:
        sys.exit(5)
    with open(flags["--record"], "a") as record:
        record.write(flags["--name"])
    print(json.dumps({"seconds": int(line) * float(flags["--step"]), "peak_bytes": 1000}), flush=True)
"""


def wanted(*arguments, **environment) -> tuple[subprocess.CompletedProcess, SpeedConfig | None]:
    """What scripts/benchmark_pretraining.sh would run, as that program reads it."""
    command = ["bash", str(ROOT / "scripts" / "benchmark_pretraining.sh"), *map(str, arguments)]
    given = {name: str(value) for name, value in environment.items()}
    # `echo` in Python's place prints the command.
    base = {"PATH": os.environ["PATH"], "PYTHON": "echo"}
    done = subprocess.run(command, capture_output=True, text=True, env=base | given, timeout=60)
    if done.returncode or not done.stdout.startswith("scripts/pretraining_speed.py"):
        return done, None
    # Flags with spaces in their values are joined by echo; the tests use commas for those.
    return done, parse(SpeedConfig, done.stdout.split()[1:], description="x")


def test_the_launcher_takes_nvidias_positionals():
    done, config = wanted(176, "amp", "xla", 8, "true", 48, 24, 144, "base")
    assert done.returncode == 0, done.stderr
    assert (config.batch_size_p1, config.batch_size_p2) == ("176", "24")
    assert (config.gradient_accumulation_steps_p1, config.gradient_accumulation_steps_p2) == (48, 144)
    assert (config.precision, config.xla, config.gpus, config.model_size) == ("amp", True, 8, "base")
    _, config = wanted(176, "amp", "no_xla", 1, "false", 48, 24, 144)
    assert (config.gradient_accumulation_steps_p1, config.gradient_accumulation_steps_p2) == (1, 1)
    assert not config.xla and config.gpus == 1


def test_the_launcher_takes_names_and_flags_and_the_flags_win():
    names = {
        "MODEL_SIZE": "small,base",
        "PRECISION": "fp32,bf16",
        "TRAIN_BATCH_SIZE_P1": "8,16",
        "REPEATS": 7,
    }
    _, config = wanted("--output_json", "speed.json", "--steps=2", "--model_size=large", **names)
    assert config.model_size == "large" and config.precision == "fp32,bf16"
    assert (config.batch_size_p1, config.repeats, config.steps) == ("8,16", 7, 2)
    assert config.output_json == "speed.json"
    _, config = wanted(4, "--", "--max_seq_length", "64")
    assert (config.batch_size_p1, config.max_seq_length) == ("4", "64")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([4, "fp8"], "PRECISION 'fp8'"),
        ([4, "fp32", "maybe"], "XLA 'maybe'"),
        ([4, "fp32", "xla", 0], "NUM_GPUS '0'"),
        (range(10), "more than 9 positionals"),
    ],
    ids=str,
)
def test_a_wrong_setting_of_the_launcher_is_one_line(arguments, words):
    done, _ = wanted(*arguments)
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_launchers_help_names_every_setting():
    done, _ = wanted("--help")
    assert done.returncode == 0 and "GRADIENT_ACCUMULATION_STEPS_P2" in done.stdout


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model_size": "tiny"}, "--model_size tiny"),
        ({"precision": "fp32 fp8"}, "--precision fp8"),
        ({"batch_size_p1": "0"}, "--batch_size_p1 0"),
        ({"max_seq_length": ""}, "--max_seq_length"),
        ({"repeats": 0}, "--repeats 0"),
        ({"hidden_size": 65, "num_attention_heads": 2}, "--hidden_size 65"),
        ({"against": "huggingface", "gpus": 2}, "--against huggingface"),
    ],
    ids=str,
)
def test_a_wrong_flag_is_named_before_anything_is_measured(settings, words):
    with pytest.raises(UsageError, match=words):
        SpeedConfig(**settings)


def test_a_gpu_that_only_tensorflow_sees_is_not_measured_against_a_cpu(monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(pretraining_speed, "_ceilings", lambda *_: ({"fp32": 1e12}, True))
    monkeypatch.setattr(pretraining_speed, "_measure", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr(sys, "argv", ["pretraining_speed.py", "--against=huggingface", "--precision=fp32"])
    with pytest.raises(UsageError, match="--against huggingface: TensorFlow has a GPU here, and torch"):
        pretraining_speed.main()


def test_every_combination_is_measured_with_the_batch_of_its_phase():
    config = SpeedConfig(batch_size_p1="8 16", batch_size_p2="2", model_size="small", precision="fp32 bf16")
    found = [
        (step["max_seq_length"], step["precision"], step["batch_size"])
        for step in config.steps_to_time(has_gpu=False)
    ]
    assert found == [
        (128, "fp32", 8),
        (128, "fp32", 16),
        (128, "bf16", 8),
        (128, "bf16", 16),
        (512, "fp32", 2),
        (512, "bf16", 2),
    ]
    defaults = [step["batch_size"] for step in SpeedConfig(precision="amp").steps_to_time(has_gpu=True)]
    assert defaults == 2 * [176, 24]


def test_a_synthetic_batch_is_full_and_picks_as_many_as_a_run():
    step = StepConfig(turns="", max_seq_length=128, batch_size=5)
    batch = synthetic_batch(step.pretraining(), step.vocab_size, 0)
    assert batch["input_mask"].all() and batch["input_ids"].shape == (5, 128)
    # 15 % of 128 tokens.
    assert (batch["masked_lm_weights"].sum(axis=1) == 19).all()
    assert len(set(map(tuple, batch["input_ids"]))) == 5


@pytest.fixture
def contender(tmp_path):
    """Start a stand-in by its name and the seconds of its step; all are closed at the end."""
    program = tmp_path / "stepper.py"
    program.write_text(STEPPER)
    started = []

    def start(name: str, step: float, **flags) -> Contender:
        flags |= {"name": name[0], "step": step, "record": tmp_path / "record", "ended": tmp_path / name}
        started.append(Contender(name, [sys.executable, str(program)], flags))
        return started[-1]

    start.started = started
    yield start
    for one in started:
        if os.path.exists(one._folder):
            one.close()


def test_rows_are_medians_of_turns_and_the_operations_are_those_of_the_batch(
    contender, monkeypatch, tmp_path
):
    """Steps of 2 and 4 seconds with 4 sequences of 32 tokens, two micro-batches: 4 and 2 a second."""
    config = SpeedConfig(**TINY, gradient_accumulation_steps_p1=2, repeats=3, steps=5, precision="fp32")
    monkeypatch.setattr(pretraining_speed, "_start_ours", lambda *_: contender("tensorflow", 2.0))
    monkeypatch.setattr(pretraining_speed, "_start_others", lambda *_: [contender("pytorch_eager", 4.0)])
    config.against = "huggingface"
    (settings,) = config.steps_to_time(has_gpu=False)
    ours, theirs = pretraining_speed._measure(config, settings, 1e9)
    assert list(ours) == KEYS and list(ours["sequences_per_second"]) == ["median", "min", "max"]
    assert ours["sequences_per_second"] == {"median": 4.0, "min": 4.0, "max": 4.0}
    assert ours["tokens_per_second"] == 4.0 * 32 and theirs["tokens_per_second"] == 2.0 * 32
    # By hand, a token of the encoder: projection, four projections, two products, two of the feed-forward.
    encoder = 2 * 32 * 64 + 8 * 64 * 64 + 4 * 32 * 64 + 4 * 64 * 128
    generator = 8 * 32 * 32 + 4 * 32 * 32 + 4 * 32 * 128
    picks = math.floor(0.155 * 32)
    heads = 32 * (2 * 64 * 64 + 2 * 64) + picks * (2 * 32 * 32 + 2 * 32 * 300)
    a_second = 4.0 * 3 * (32 * (encoder + generator) + heads)
    assert ours["tflops"] == pytest.approx(a_second / 1e12)
    assert ours["utilization"] == pytest.approx(a_second / 1e9)
    assert (ours["peak_memory_mb"], ours["ceiling_tflops"]) == (0.001, 0.001)
    assert (tmp_path / "record").read_text() == "tptptp"
    assert not any(os.path.exists(one._folder) for one in contender.started)
    assert (tmp_path / "tensorflow").exists() and (tmp_path / "pytorch_eager").exists()


def test_an_engine_that_ends_is_named_with_its_status(contender):
    one = contender("tensorflow", 1.0, fails=1)
    with pytest.raises(RunFailure, match="the step of tensorflow ended with status 5"):
        one.seconds(1)


def test_an_engine_that_does_not_start_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(RunFailure, match="pytorch_compile ended with status 3"):
        Contender("pytorch_compile", [sys.executable, "-c", "raise SystemExit(3)"], {})
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_real_benchmark_measures_and_writes_nothing_but_its_rows(tmp_path):
    (tmp_path / "results" / "models" / "mine").mkdir(parents=True)
    rows = tmp_path / "rows.json"
    flags = [f"--{name}={value}" for name, value in TINY.items()]
    flags += [
        "--repeats=2",
        "--steps=2",
        "--ceiling_seconds=0.2",
        "--precision=fp32",
        f"--output_json={rows}",
    ]
    before = sorted(ROOT.glob("results/**"))
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "benchmark_pretraining.sh"), *flags],
        cwd=tmp_path,
        env=os.environ | {"PYTHON": sys.executable, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(rows.read_text())
    assert list(row) == KEYS
    assert 0 < row["utilization"] < 1.5 and row["peak_memory_mb"] > 100 and row["time_to_first_step_s"] > 0
    rates = row["sequences_per_second"]
    assert 0 < rates["min"] <= rates["median"] <= rates["max"]
    assert "ceiling of this machine, fp32" in done.stdout and "of ceiling" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results", "rows.json"]
    assert sorted(ROOT.glob("results/**")) == before and not any((tmp_path / "results/models/mine").iterdir())


@pytest.mark.slow
def test_hugging_faces_step_takes_turns_too(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    (settings,) = SpeedConfig(**TINY, precision="bf16").steps_to_time(has_gpu=False)
    program = str(ROOT / "scripts" / "huggingface_pretraining_step.py")
    # On one processor, so that its threads do not wait for each other where others compute too.
    command = ["taskset", "-c", str(min(os.sched_getaffinity(0))), sys.executable, program]
    one = Contender("pytorch_eager", command, settings)
    try:
        assert one.seconds(2) > 0 and one.peak_bytes > 100e6
    finally:
        one.close()
