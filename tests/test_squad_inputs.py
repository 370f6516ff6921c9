"""A SQuAD run finds out before it begins that what it is to do cannot be done."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from squad_cases import VOCABULARY, write_encoder
from squad_questions import entry, write_squad

import checkpointing
from command_line import UsageError
from finetuning_inputs import check_output_dir
from pretrained_models import load_model, load_pretrained
from squad_configuration import SquadConfig
from squad_heads import Head
from squad_inputs import SquadInputs, find_start, open_inputs
from workers import ALONE

CONTEXT = "Ann met Bob, and Bob left."
SCORABLE = "--electra_model nowhere"


def unanswered(id: str, **more) -> dict:
    """A question without the list of its answers."""
    return {name: value for name, value in entry(id, **more).items() if name != "answers"}


def end_of(path: Path, **settings) -> str:
    """What opening the inputs of a run ends with, whose weights are nowhere, if nothing is found before."""
    config = SquadConfig(
        **{
            "electra_model": "nowhere",
            "data_dir": str(path.parent),
            "output_dir": str(path.parent / "out"),
            "predict_file": str(path),
            "do_train": True,
            "do_eval": True,
            **settings,
        }
    )
    with pytest.raises(UsageError) as caught:
        open_inputs(config)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("question", [entry("q"), unanswered("q")], ids=["empty", "absent"])
def test_answers_that_nothing_can_be_scored_by_are_refused_before_the_weights_are_read(question, tmp_path):
    path = write_squad(tmp_path / "dev.json", (CONTEXT, [question]))
    message = end_of(path)
    assert message.startswith(
        f"--predict_file {path}: --do_eval cannot score it: article 1 'Title', paragraph 1"
    )
    # For prediction such a file is made.
    assert SCORABLE in end_of(path, do_eval=False, do_predict=True)


def test_the_file_of_the_data_folder_is_named_as_such(tmp_path):
    path = write_squad(tmp_path / "dev-v1.1.json", (CONTEXT, [entry("q")]))
    assert end_of(path, predict_file="").startswith(f"--data_dir {path}: --do_eval cannot score it")


def test_an_impossible_question_of_version_2_needs_no_list_of_answers(tmp_path):
    first, marked = entry("1", ("Bob", 8), is_impossible=False), unanswered("2", is_impossible=True)
    path = write_squad(tmp_path / "dev.json", (CONTEXT, [first, marked]), version="v2.0")
    assert SCORABLE in end_of(path, version_2_with_negative=True)
    unmarked = unanswered("3", is_impossible=False)
    path = write_squad(tmp_path / "dev.json", (CONTEXT, [first, marked, unmarked]), version="v2.0")
    assert "question '3' has no list of answers" in end_of(path, version_2_with_negative=True)
    # What is not asked need not be scored.
    assert SCORABLE in end_of(path, version_2_with_negative=True, max_questions=2)


def test_a_file_of_the_other_version_is_still_called_that(tmp_path):
    path = write_squad(
        tmp_path / "dev.json", (CONTEXT, [entry("1", is_impossible=True), entry("2", ("Bob", 8))])
    )
    assert "needs --version_2_with_negative" in end_of(path)
    (tmp_path / "dev.json").write_text(json.dumps([1]))
    assert "not SQuAD format" in end_of(path)


def test_a_model_folder_that_could_not_be_replaced_is_found_before_the_training(tmp_path):
    path = write_squad(tmp_path / "dev.json", (CONTEXT, [entry("1", ("Bob", 8))]))
    model = tmp_path / "out" / "model"
    model.mkdir(parents=True)
    own = {"output_dir": str(model.parent), "data_dir": "d", "train_file": str(path)}
    config = SquadConfig(electra_model="e", **own, do_train=True)
    (model / "config.json").write_text("{}")
    check_output_dir(config)
    (model / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=f"--output_dir {model}: is not replaced"):
        check_output_dir(config)
    # Nothing is written there without training.
    check_output_dir(dataclasses.replace(config, do_train=False, do_predict=True, predict_file=str(path)))


def test_a_copy_of_the_vocabulary_alone_splits_text_as_the_weights_folder_says(tmp_path):
    """Without a record beside it, a copy says nothing of capitals; one with a record has its own word."""
    cased = dataclasses.replace(VOCABULARY, do_lower_case=False)
    write_encoder(tmp_path / "encoder", vocabulary=cased)
    for copied, lower in ((("vocab.txt",), False), (("vocab.txt", "tokenizer_config.json"), True)):
        (tmp_path / "copy").mkdir(exist_ok=True)
        for name in copied:
            text = (tmp_path / "encoder" / name).read_text()
            (tmp_path / "copy" / name).write_text(text.replace("false", "true"))
        given = load_model(str(tmp_path / "encoder"), vocab_file=str(tmp_path / "copy" / "vocab.txt"))
        assert given.vocabulary.do_lower_case is lower
        named = load_model(
            str(tmp_path / "encoder"), vocab_file=str(tmp_path / "copy" / "vocab.txt"), do_lower_case=True
        )
        assert named.vocabulary.do_lower_case


@pytest.mark.parametrize(("joint_head", "told"), [(False, None), (True, "joint_head False -> True")])
def test_a_checkpoint_answers_with_the_head_that_it_was_trained_with(tmp_path, joint_head, told):
    """Beside weights without a head the flag says which one it is."""
    write_encoder(tmp_path / "encoder")
    model = load_pretrained(str(tmp_path / "encoder"), "electra_model")
    recorded = dataclasses.asdict(model.config) | {"vocabulary_sha256": VOCABULARY.sha256}
    recorded |= {"joint_head": False, "joint_head_variant": "google", "max_seq_length": 384}
    weights = {"weight": np.zeros(1, np.float32)}
    path = checkpointing.save(
        tmp_path,
        "ckpt-",
        3,
        model=weights,
        optimizer=weights,
        state={"meaning": recorded},
        extra_files=VOCABULARY.files(),
        keep=0,
    )
    config = SquadConfig(
        electra_model="e",
        output_dir="o",
        data_dir="d",
        do_predict=True,
        max_seq_length=64,
        restore_checkpoint=str(path),
    )
    inputs = SquadInputs(model, Head(joint_head, "google"), VOCABULARY, None, None)
    if told is None:
        assert find_start(config, inputs, ALONE).step == 3
        return
    with pytest.raises(UsageError, match=f"^--restore_checkpoint {path}: made with other settings: {told} "):
        find_start(config, inputs, ALONE)


def test_the_program_ends_with_one_line_and_without_tensorflow(tmp_path):
    path = write_squad(tmp_path / "dev.json", (CONTEXT, [entry("q")]))
    code = "import atexit, sys, command_line, run_tf_squad\n"
    code += "atexit.register(lambda: print('tensorflow' in sys.modules))\n"
    code += "command_line.run_program(run_tf_squad.main)"
    flags = ["--electra_model=small", f"--data_dir={tmp_path}", f"--output_dir={tmp_path / 'out'}"]
    flags += [f"--predict_file={path}", "--do_train", "--do_eval"]
    done = subprocess.run(
        [sys.executable, "-c", code, *flags], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and done.stdout == "False\n", done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert f"--predict_file {path}: --do_eval cannot score it" in line
