"""A fine-tuned export has a card that the hub can read; it says what the run read, was set to and scored."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from glue_cases import write_csv
from run_logs import write_run
from squad_cases import CONFIG, write_encoder, write_questions
from training_runs import ROOT

import finetuned_card
from command_line import UsageError
from finetuned_card import FineTuned, ReadFile
from squad_configuration import SquadConfig
from telemetry import read_dll_log

huggingface_hub = pytest.importorskip("huggingface_hub")

FLAGS = ("--max_seq_length=64", "--num_train_epochs=1", "--train_batch_size=8", "--learning_rate=1e-2")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def facts(folder: Path, **changes) -> FineTuned:
    (folder / "train.csv").write_text("text,label\n")
    values = {
        "task": "a | *task*",
        "program": "run_tf_glue.py",
        "source": str(folder / "nowhere"),
        "config": CONFIG,
        "tensors": {"classifier/dense/kernel": np.zeros((3, 4), np.float32)},
        "read": [ReadFile("training", str(folder / "train.csv"), "7 examples")],
        "updates": 1234,
        "settings": {"learning_rate": 0.25, "max_questions": None},
        "metrics": {},
        "use": "To label texts.",
        "licence": "mit",
        "labels": ("a|b", "<i>"),
    }
    return FineTuned(**(values | changes))


def test_what_is_not_known_is_said_not_to_be_and_text_stays_text(tmp_path):
    card = finetuned_card.render(facts(tmp_path))
    for text in (
        "fine-tuned on a &#124; \\*task\\*",
        "1,234 updates",
        "| training | `train.csv` | 7 examples | `" + sha256(tmp_path / "train.csv") + "` |",
        "Where the data of its pre-training are described is not recorded.",
        "| `learning_rate` | `0.25` |",
        "## Metrics\n\nNot evaluated.",
        "12 parameters",
        "a&#124;b, `<i>`",
    ):
        assert text in card, text
    assert "max_questions" not in card
    (tmp_path / "train.csv").unlink()
    gone = finetuned_card.render(facts(tmp_path, read=[ReadFile("training", "gone.csv", "7 examples")]))
    assert "| `not there any more` |" in gone


@pytest.mark.parametrize(
    ("tensor", "tag", "architecture"),
    [
        ("qa_outputs/kernel", "question-answering", "ElectraForQuestionAnswering"),
        ("classifier/dense/kernel", "text-classification", "ElectraForSequenceClassification"),
        ("classifier/kernel", "token-classification", "ElectraForTokenClassification"),
        ("squad_head/start/kernel", None, "run_inference.py"),
    ],
)
def test_the_hub_reads_what_the_network_is_for(tensor, tag, architecture, tmp_path):
    tensors = {tensor: np.zeros((2, 2), np.float32)}
    card = huggingface_hub.ModelCard(finetuned_card.render(facts(tmp_path, tensors=tensors)))
    assert (card.data.license, card.data.library_name) == ("mit", "transformers")
    assert card.data.pipeline_tag == tag and "electra" in card.data.tags
    assert architecture in card.text


def test_the_data_card_of_the_pretraining_run_is_named_where_it_lies(tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "pretrain_data.tfrecord-0-of-1").write_bytes(b"")
    checkpoint = write_run(tmp_path / "run", {}) / "checkpoints" / "ckpt-5"
    checkpoint.mkdir(parents=True)
    state = {"config": {"pretrain_tfrecords": str(shards)}, "step": 5, "phase": 1}
    (checkpoint / "state.json").write_text(json.dumps(state))
    assert "is not recorded" in finetuned_card.render(facts(tmp_path, source=str(checkpoint)))
    (shards / "DATA_CARD.md").write_text("# Data")
    card = finetuned_card.render(facts(tmp_path, source=str(checkpoint)))
    assert f"described in `{shards / 'DATA_CARD.md'}`" in card


def test_a_licence_is_checked_as_in_the_export():
    settings = {"electra_model": "a", "data_dir": "b", "output_dir": "c", "do_train": True}
    with pytest.raises(UsageError, match="--license not one: is no identifier"):
        SquadConfig(**settings, license="not one")
    assert SquadConfig(**settings).license == "unknown"


def run(program: str, *flags) -> None:
    command = [sys.executable, str(ROOT / program), *FLAGS, *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_a_squad_run_writes_what_its_log_and_files_say(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    write_questions(tmp_path / "data", 40)
    write_encoder(tmp_path / "encoder")
    out = tmp_path / "out"
    flags = ["--electra_model", tmp_path / "encoder", "--data_dir", tmp_path / "data", "--output_dir", out]
    flags += ["--do_train", "--max_query_length=8", "--joint_head=False", "--license=cc-by-sa-4.0"]
    run("run_tf_squad.py", *flags, "--do_eval")
    text = (out / "model" / "README.md").read_text()
    card = huggingface_hub.ModelCard(text)
    assert (card.data.license, card.data.pipeline_tag) == ("cc-by-sa-4.0", "question-answering")
    scores = json.loads((out / "eval_results.json").read_text())
    for name, value in scores.items():
        assert f"| `{name}` | {value:.6g} |" in text
    logged = [line["data"] for line in read_dll_log(out / "logs" / "dllogger.log") if line["type"] == "LOG"]
    (exact,) = [data["exact_match"] for data in logged if "exact_match" in data]
    assert float(re.search(r"`exact_match` \| (\S+) \|", text)[1]) == pytest.approx(exact, rel=1e-5)
    for which in ("train", "dev"):
        assert sha256(tmp_path / "data" / f"{which}-v1.1.json") in text
    assert text.count("| 40 questions, ") == 2 and "`learning_rate` | `0.01` |" in text
    assert f"From `{tmp_path / 'encoder'}`" in text and "`windows_per_update` | `8` |" in text
    # Hugging Face goes on loading it.
    model, report = transformers.ElectraForQuestionAnswering.from_pretrained(
        out / "model", output_loading_info=True
    )
    assert not report["missing_keys"] and model.config.hidden_size == CONFIG.hidden_size


@pytest.mark.slow
def test_a_run_on_labels_writes_what_its_results_say(tmp_path):
    import glue_cases

    write_encoder(tmp_path / "encoder", glue_cases.CONFIG, glue_cases.VOCABULARY)
    for name, seed in (("train", 0), ("eval", 1)):
        write_csv(tmp_path / f"{name}.csv", glue_cases.texts(32, seed))
    out = tmp_path / "out"
    flags = ["--electra_model", tmp_path / "encoder", "--output_dir", out, "--task_type", "classification"]
    flags += [f"--{name}_file={tmp_path / f'{name}.csv'}" for name in ("train", "eval")]
    run("run_tf_glue.py", *flags, "--do_train")
    text = (out / "model" / "README.md").read_text()
    assert "Not evaluated." in text and "`bad`, `good`" in text
    run("run_tf_glue.py", *flags, "--do_train", "--do_eval", "--restore_checkpoint")
    text = (out / "model" / "README.md").read_text()
    for name, value in json.loads((out / "results.json").read_text())["mean"].items():
        assert f"| `{name}` | {value:.6g} |" in text
    assert sha256(tmp_path / "train.csv") in text and sha256(tmp_path / "eval.csv") in text
    assert text.count("| 32 examples |") == 2
    assert huggingface_hub.ModelCard(text).data.pipeline_tag == "text-classification"
