"""NVIDIA's flags keep their defaults, and a setting that cannot work is refused before anything is done."""

import dataclasses
import json
from dataclasses import MISSING
from pathlib import Path

import pytest

from command_line import UsageError, from_dictionary, parse
from configuration import PretrainingConfig, max_predictions
from dataset_configuration import DatasetConfig, VocabularyConfig
from squad_configuration import InferenceConfig, SquadConfig

# NVIDIA/DeepLearningExamples, ELECTRA, run_pretraining.py: every flag with its default.
NVIDIA_DEFAULTS = {
    "model_name": MISSING,
    "model_size": "base",
    "pretrain_tfrecords": "data/pretrain_tfrecords/pretrain_data.tfrecord*",
    "phase2": False,
    "fp16_compression": False,
    "amp": False,
    "xla": False,
    "seed": 42,
    "num_train_steps": 1_000_000,
    "num_warmup_steps": 10_000,
    "learning_rate": 5e-4,
    "train_batch_size": 128,
    "max_seq_length": 128,
    "mask_prob": 0.15,
    "disc_weight": 50.0,
    "generator_hidden_size": 0.25,
    "log_freq": 10,
    "save_checkpoints_steps": 1000,
    "keep_checkpoint_max": 5,
    "restore_checkpoint": "",
    "load_weights": False,
    "weights_dir": "",
    "optimizer": "adam",
    "skip_adaptive": False,
    "gradient_accumulation_steps": 1,
    "lr_decay_power": 0.5,
    "opt_beta_1": 0.878,
    "opt_beta_2": 0.974,
    "end_lr": 0.0,
    "log_dir": "",
    "results_dir": "results",
    "skip_checkpoint": False,
    "steps_this_run": -1,
    "json_summary": "",
    # Constants there, flags here.
    "gen_weight": 1.0,
    "weight_decay_rate": 0.01,
}

NVIDIA_COMMAND = """
    --model_size=base --train_batch_size=176 --max_seq_length=128 --disc_weight=50.0
    --generator_hidden_size=0.3333333 --learning_rate=6e-3 --num_warmup_steps=2000 --num_train_steps=10000
    --save_checkpoints_steps=500 --amp --xla --optimizer=lamb --skip_adaptive --opt_beta_1=0.878
    --opt_beta_2=0.974 --lr_decay_power=0.5 --seed=12439 --gradient_accumulation_steps 48 --log_freq 10
    --steps_this_run -1.0 --restore_checkpoint --json-summary results/dllogger.json
"""


def pretraining(**settings) -> PretrainingConfig:
    return PretrainingConfig(**({"model_name": "test"} | settings))


def from_flags(*words: str) -> PretrainingConfig:
    return parse(PretrainingConfig, ["--model_name", "test", *words], description="test")


def test_nvidias_flags_have_nvidias_defaults():
    ours = {field.name: field.default for field in dataclasses.fields(PretrainingConfig)}
    assert {name: ours.get(name, "no such flag") for name in NVIDIA_DEFAULTS} == NVIDIA_DEFAULTS


def test_nvidias_dataset_flags_have_nvidias_defaults():
    """The case follows the vocabulary's own record instead of being cased."""
    words = ["--corpus-dir", "c", "--vocab-file", "v", "--output-dir", "o"]
    config = parse(DatasetConfig, words, description="test")
    assert (config.max_seq_length, config.num_processes, config.num_out_files) == (128, 1, 1000)
    assert (config.blanks_separate_docs, config.seed, config.do_lower_case) == (True, 1314, None)
    for flag, value in (("--do-lower-case", True), ("--no-lower-case", False)):
        assert parse(DatasetConfig, [*words, flag], description="test").do_lower_case is value


def test_command_of_nvidias_launcher_parses():
    """The words of scripts/run_pretraining.sh, with its hyphens, bare flags and whole numbers as floats."""
    config = from_flags(*NVIDIA_COMMAND.split())
    assert (config.precision, config.restore_checkpoint, config.steps_this_run) == ("amp", "latest", -1)
    assert config.json_summary == "results/dllogger.json" and config.skip_adaptive and config.xla
    generator = config.generator(30522)
    assert (generator.hidden_size, generator.num_attention_heads) == (256, 4)


def test_none_in_nvidias_commands_is_no_path():
    """Its run_squad.sh always gives --init_checkpoint, and `None` where there is none."""
    words = "--electra_model=google/electra-base-discriminator --init_checkpoint=None"
    answering = parse(InferenceConfig, words.split(), description="test")
    words += " --data_dir=squad --output_dir=results --do_train --vocab_file=None --cache_dir=None"
    squad = parse(SquadConfig, words.split(), description="test")
    assert (squad.init_checkpoint, squad.vocab_file, squad.cache_dir) == ("", "", "")
    assert answering.init_checkpoint == ""


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"hidden_size": 100, "num_attention_heads": 3}, "--hidden_size 100: must be divisible"),
        ({"num_attention_heads": 5}, "--hidden_size 768: must be divisible by --num_attention_heads 5"),
        (
            {"num_train_steps": 100, "num_warmup_steps": 100},
            "--num_warmup_steps 100: must be less than .* 100",
        ),
        ({"num_train_steps": 100, "num_warmup_steps": 101}, "--num_warmup_steps 101: must be less than"),
        ({"num_warmup_steps": -1}, "--num_warmup_steps -1: must not be negative"),
        ({"max_seq_length": 513}, "--max_seq_length 513: is longer than the position table .* 512"),
        ({"max_seq_length": 128, "max_position_embeddings": 64}, "--max_seq_length 128: is longer"),
        ({"max_seq_length": 7}, "--max_seq_length 7: must be at least 8"),
        ({"train_batch_size": 0}, "--train_batch_size 0: must be at least 1"),
        ({"train_batch_size": -4}, "--train_batch_size -4: must be at least 1"),
        ({"eval_batch_size": 0}, "--eval_batch_size 0: must be at least 1"),
        ({"gradient_accumulation_steps": 0}, "--gradient_accumulation_steps 0: must be at least 1"),
        ({"num_train_steps": 0, "num_warmup_steps": 0}, "--num_train_steps 0: must be at least 1"),
        ({"log_freq": 0}, "--log_freq 0"),
        ({"save_checkpoints_steps": 0}, "--save_checkpoints_steps 0"),
        ({"keep_checkpoint_max": -1}, "--keep_checkpoint_max -1"),
        ({"shuffle_block_size": 0}, "--shuffle_block_size 0"),
        ({"mask_prob": 0.0}, "--mask_prob 0.0: must be between 0 and 1"),
        ({"mask_prob": 1.0}, "--mask_prob 1.0"),
        ({"mask_prob": 0.01, "max_seq_length": 8}, "--mask_prob 0.01: leaves no token to pick"),
        ({"mask_prob": float("nan")}, "--mask_prob nan"),
        ({"learning_rate": -1e-4}, "--learning_rate -0.0001: must be finite and not negative"),
        ({"learning_rate": float("inf")}, "--learning_rate inf"),
        ({"opt_beta_1": 1.0}, "--opt_beta_1 1.0"),
        ({"temperature": 0.0}, "--temperature 0.0: must be positive"),
        ({"generator_hidden_size": 0.0}, "--generator_hidden_size 0.0: must be positive"),
        ({"disc_weight": -1.0}, "--disc_weight -1.0"),
        ({"hidden_dropout_prob": 1.0}, "--hidden_dropout_prob 1.0"),
        ({"model_name": ""}, "--model_name : must be a plain folder name"),
        ({"model_name": "a/b"}, "--model_name a/b"),
        ({"model_name": ".."}, r"--model_name \.\."),
    ],
)
def test_setting_that_cannot_work_is_named_with_its_value(settings, told):
    with pytest.raises(UsageError, match=told):
        pretraining(**settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"amp": True, "precision": "bf16"}, "--precision bf16: contradicts --amp"),
        ({"amp": True, "precision": "fp32"}, "--precision fp32: contradicts --amp"),
        ({"load_weights": True, "init_weights": "elsewhere"}, "--load_weights .* --init_weights elsewhere"),
        ({"phase2": True}, "--phase2 True: needs --restore_checkpoint"),
        (
            {"phase2": True, "restore_checkpoint": "latest", "init_weights": "folder"},
            "--phase2 True: contradicts --init_weights folder",
        ),
        (
            {"phase2": True, "restore_checkpoint": "latest", "load_weights": True},
            "--phase2 True: contradicts",
        ),
        ({"do_eval_only": True}, "--do_eval_only True: needs --eval_tfrecords"),
        ({"uniform_generator": True, "electra_objective": False}, "--uniform_generator .* contradicts"),
        (
            {"untied_generator_embeddings": True, "untied_generator": False},
            "--untied_generator_embeddings True: contradicts --untied_generator False",
        ),
    ],
)
def test_flags_that_contradict_each_other_are_both_named(settings, told):
    with pytest.raises(UsageError, match=told):
        pretraining(**settings)


def test_short_flags_stand_for_the_long_ones():
    assert pretraining(amp=True).precision == "amp"
    assert pretraining(load_weights=True).init_weights == "results/models/test/weights"
    assert pretraining(load_weights=True, weights_dir="w").init_weights == "w"


def test_recorded_configuration_starts_the_same_run_again():
    """pretrain_config.json holds what the flags became; given as --config it means the same."""
    for settings in ({}, {"amp": True}, {"load_weights": True}, {"load_weights": True, "weights_dir": "w"}):
        config = pretraining(hidden_size=256, num_attention_heads=4, mask_prob=0.25, **settings)
        recorded = json.loads(json.dumps(dataclasses.asdict(config)))
        assert from_dictionary(PretrainingConfig, recorded, "record") == config


def test_accumulation_follows_from_the_global_batch():
    config = pretraining(train_batch_size=32, global_batch_size=1024)
    assert [config.accumulation_steps(workers) for workers in (1, 2, 8, 32)] == [32, 16, 4, 1]
    assert pretraining(gradient_accumulation_steps=48).accumulation_steps(8) == 48
    agreeing = pretraining(train_batch_size=32, global_batch_size=1024, gradient_accumulation_steps=16)
    assert agreeing.accumulation_steps(2) == 16


def test_global_batch_that_does_not_divide_is_refused():
    with pytest.raises(UsageError, match=r"--global_batch_size 1000: .*--train_batch_size 32 x 2 workers"):
        pretraining(train_batch_size=32, global_batch_size=1000).accumulation_steps(2)
    with pytest.raises(UsageError, match="--global_batch_size 16"):
        pretraining(train_batch_size=32, global_batch_size=16).accumulation_steps(1)
    with pytest.raises(UsageError, match=r"--gradient_accumulation_steps 4: contradicts .* needs 16"):
        pretraining(
            train_batch_size=32, global_batch_size=1024, gradient_accumulation_steps=4
        ).accumulation_steps(2)
    with pytest.raises(UsageError, match="--global_batch_size -1"):
        pretraining(global_batch_size=-1)


@pytest.mark.parametrize(
    ("mask_prob", "length", "picks"), [(0.15, 128, 19), (0.15, 512, 79), (0.25, 512, 130), (0.25, 128, 32)]
)
def test_sequences_have_room_for_googles_number_of_picks(mask_prob, length, picks):
    assert max_predictions(mask_prob, length) == picks
    assert pretraining(mask_prob=mask_prob, max_seq_length=length).max_predictions() == picks


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("", []),
        ("5-6", [(5, 6)]),
        ("5-5", [(5, 5)]),
        ("100-200,900-1000", [(100, 200), (900, 1000)]),
        (" 3 - 4 , 7-8,", [(3, 4), (7, 8)]),
        ("9-9,5-6", [(9, 9), (5, 6)]),
    ],
)
def test_ranges_of_skipped_updates_are_read(text, ranges):
    assert pretraining(skip_updates=text).skipped_ranges() == ranges


@pytest.mark.parametrize("text", ["5", "6-5", "0-3", "a-b", "5-", "-5", "1-2-3", "1.0-2", "²-³"])
def test_range_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match=r"--skip_updates .* is not a range A-B"):
        pretraining(skip_updates=text)


def test_sizes_that_are_given_replace_those_of_the_preset():
    config = pretraining(model_size="small", hidden_size=128, num_attention_heads=2).discriminator(1000)
    assert (config.hidden_size, config.num_attention_heads) == (128, 2)
    assert (config.embedding_size, config.num_hidden_layers, config.intermediate_size) == (128, 12, 1024)
    assert config.vocab_size == 1000


def test_folders_of_a_run_are_nvidias():
    config = pretraining(model_name="first", results_dir="out")
    assert config.checkpoints_folder == "out/models/first/checkpoints"
    assert config.logs_folder == "out/models/first/logs"
    assert pretraining(log_dir="elsewhere").logs_folder == "elsewhere"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"num_out_files": 0}, "--num_out_files 0"),
        ({"num_processes": 0}, "--num_processes 0"),
        ({"max_seq_length": 7}, "--max_seq_length 7"),
        ({"held_out_fraction": 1.0}, "--held_out_fraction 1.0"),
        ({"held_out_fraction": -0.1}, "--held_out_fraction -0.1"),
        ({"held_out_fraction": float("nan")}, "--held_out_fraction nan"),
    ],
)
def test_dataset_that_cannot_be_is_refused(settings, told):
    with pytest.raises(UsageError, match=told):
        DatasetConfig("corpus", "vocab.txt", "shards", **settings)


@pytest.mark.parametrize(
    ("settings", "told"), [({"vocab_size": 6}, "--vocab_size 6"), ({"min_frequency": 0}, "--min_frequency 0")]
)
def test_vocabulary_that_cannot_be_is_refused(settings, told):
    with pytest.raises(UsageError, match=told):
        VocabularyConfig("corpus", **settings)


@pytest.mark.parametrize("size", ["small", "base", "large"])
@pytest.mark.parametrize("phase", [1, 2])
def test_a_recipe_by_itself_is_of_the_size_that_it_is_named_after(size, phase):
    """Without it, --config configs/small_phase1.json trained the default size, base."""
    recipe = Path(__file__).parents[1] / "configs" / f"{size}_phase{phase}.json"
    assert json.loads(recipe.read_text(encoding="utf-8"))["model_size"] == size
