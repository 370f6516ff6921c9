"""docs/domain-pretraining.md is true: all its commands run, in its order, and what it promises is there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from training_runs import ROOT

from run_log import read_run
from tokenization import SPECIAL_PIECES, Vocabulary

GUIDE = ROOT / "docs" / "domain-pretraining.md"
SHAPE = {
    "embedding_size": 24,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
}
STEPS = 60
WORDS = [f"t{topic}w{word}" for topic in range(16) for word in range(4)]
FREQUENCIES = 1 / np.arange(1, 65)
FREQUENCIES /= FREQUENCIES.sum()


def blocks() -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def settings() -> list[str]:
    """The names that the guide's first block lets the environment set."""
    return re.findall(r"^(\w+)=\$\{\1:-", blocks()[0], re.MULTILINE)


def write_released_weights(folder: Path, vocabulary: Vocabulary) -> None:
    """Random weights as Hugging Face releases them: a discriminator and a generator as wide as it."""
    torch = pytest.importorskip("torch", reason="PyTorch makes the released weights")
    transformers = pytest.importorskip("transformers", reason="Hugging Face makes the released weights")
    torch.manual_seed(0)
    config = transformers.ElectraConfig(vocab_size=vocabulary.size, **SHAPE)
    discriminator = transformers.ElectraForPreTraining(config)
    generator = transformers.ElectraForMaskedLM(config)
    generator.electra.embeddings.load_state_dict(discriminator.electra.embeddings.state_dict())
    for name, model in (("discriminator", discriminator), ("generator", generator)):
        model.save_pretrained(folder / name)
        vocabulary.save(folder / name / "vocab.txt")


def write_texts(folder: Path) -> None:
    """Documents of words, the r-th of which is r times rarer than the first: soon learned."""
    random = np.random.RandomState(0)
    lines = []
    for _ in range(240):
        lines += [sentence(random, 6 + random.randint(8)) for _ in range(4)] + [""]
    folder.mkdir()
    (folder / "texts.txt").write_text("\n".join(lines))


def sentence(random: np.random.RandomState, words: int) -> str:
    return " ".join(random.choice(WORDS, size=words, p=FREQUENCIES))


def write_labelled_texts(folder: Path) -> None:
    """Whether a text begins with the most frequent word."""
    folder.mkdir()
    for name, count, seed in (("train", 64, 1), ("dev", 32, 2)):
        random = np.random.RandomState(seed)
        rows = [(sentence(random, 8), label) for label in ("no", "yes") for _ in range(count // 2)]
        lines = [f"{WORDS[0] if label == 'yes' else WORDS[1]} {text},{label}" for text, label in rows]
        (folder / f"{name}.csv").write_text("\n".join(["text,label", *lines]) + "\n")


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """The folder in which the guide was followed, and what its commands printed."""
    folder = tmp_path_factory.mktemp("guide")
    write_texts(folder / "text")
    write_released_weights(folder / "weights", Vocabulary((*SPECIAL_PIECES, *WORDS)))
    write_labelled_texts(folder / "labelled")
    small = {
        "TEXT": folder / "text",
        "CLEAN": "unicode,control",
        "HELD_OUT": "0.1",
        "DOMAIN": folder / "domain",
        "WEIGHTS": folder / "weights",
        "SHAPE": "--generator_hidden_size 1 "
        + " ".join(f"--{name} {value}" for name, value in SHAPE.items()),
        "VOCAB_SIZE": 90,
        "LENGTH": 32,
        "BATCH": 8,
        "GLOBAL_BATCH": 16,
        "STEPS": STEPS,
        "TRIAL_STEPS": 10,
        "RATES": "1e-3",
        "RATE": "5e-3",
        "LABELLED": folder / "labelled",
        "SEEDS": "1,",
    }
    assert sorted(small) == sorted(settings())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {name: str(value) for name, value in small.items()} | {"PATH": path}
    parts = [f"echo '==== block {number}'\n{block}" for number, block in enumerate(blocks(), start=1)]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(parts)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "domain", done.stdout


def test_every_block_of_the_guide_is_one_that_this_file_runs():
    text = GUIDE.read_text(encoding="utf-8")
    assert text.count("```") == 2 * len(blocks()) > 20
    programs = re.findall(r"^\s*(?:if ! )?python (\S+)", "\n".join(blocks()), re.MULTILINE)
    for program in programs:
        assert (ROOT / program).is_file(), program
    expected = {"build_vocabulary.py", "build_pretraining_dataset.py", "run_pretraining.py", "run_report.py"}
    assert expected | {"postprocess_pretrained_ckpt.py", "run_tf_glue.py"} <= set(programs)


def test_links_of_the_guide_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", GUIDE.read_text(encoding="utf-8")):
        assert (GUIDE.parent / target).exists(), target


@pytest.mark.slow
def test_the_vocabularies_are_compared_on_held_out_text(followed):
    folder, output = followed
    rows = [line for line in output.splitlines() if line.split(" ")[0].endswith("vocab.txt") and "%" in line]
    own, released = (line.split() for line in rows)
    assert own[0] == str(folder / "vocabulary" / "vocab.txt")
    # The released vocabulary has every word of the language as one piece.
    assert released[2:] == ["1.000", "0.000%"] and float(own[2]) > 1
    assert int(own[1]) <= 90


@pytest.mark.slow
def test_held_out_figures_stand_before_and_after_and_are_better_after(followed):
    folder, output = followed
    (phase,) = read_run(str(folder / "results/models/continued")).phases
    assert sorted(phase.held_out) == [0, STEPS // 4, STEPS // 2, 3 * STEPS // 4, STEPS]
    before, after = phase.held_out[0], phase.held_out[STEPS]
    assert before["eval_tokens"] == after["eval_tokens"] > 0
    # 69 pieces, all as likely at first: ln 69 = 4.23. By their frequencies, which are soon learned: 3.64.
    assert 4.1 < before["eval_masked_lm_loss_masked_only"] < 4.4
    assert after["eval_masked_lm_loss_masked_only"] < 3.8
    rows = {line[:36].strip(): line[36:].split() for line in output.splitlines()}
    shown = rows["masked-LM loss at [MASK] (nats)"]
    assert shown == [f"{values['eval_masked_lm_loss_masked_only']:.3f}" for values in (before, after)]
    assert "missing, random: electra" not in output and "missing, random: generator" not in output
    assert (folder / "continued.html").stat().st_size > 10_000


@pytest.mark.slow
def test_checkpoints_are_kept_and_evaluated_and_the_report_judges(followed):
    folder, output = followed
    kept = sorted(path.name for path in (folder / "results/models/continued/checkpoints").glob("ckpt-*"))
    assert kept == [f"ckpt-{STEPS * quarter // 4}" for quarter in (2, 3, 4)]
    (phase,) = read_run(str(folder / "results/models/continued")).phases
    # The first such table is the training's own, the second that of --do_eval_only.
    table = re.findall(rf"at update {STEPS}: .*\n.*\n((?:  \w+ +[\d.-]+ .*\n)+)", output)[1]
    shown = {f"eval_{line.split()[0]}": line.split()[1] for line in table.splitlines()}
    assert shown and "eval_disc_auc" in shown
    logged = phase.held_out[STEPS]
    assert {name: f"{logged[name]:.4f}" for name in shown} == shown
    assert f"after {STEPS} updates" in output and "finite numbers" in output


@pytest.mark.slow
def test_a_learning_rate_was_tried_and_a_run_from_random_weights_made(followed):
    folder, output = followed
    for name, updates in (("trial_1e-3", 10), ("from_scratch", STEPS)):
        (phase,) = read_run(str(folder / "results/models" / name)).phases
        assert phase.held_out[updates]["eval_tokens"] > 0
    assert "starting from random weights" in output
    settings = read_run(str(folder / "results/models/from_scratch")).settings
    assert settings["generator_hidden_size"] == 0.25


@pytest.mark.slow
def test_the_export_is_the_last_checkpoint_and_loads_in_transformers(followed):
    folder, _ = followed
    transformers = pytest.importorskip("transformers")
    from safetensors.numpy import load_file

    kernel = "electra/embeddings/word_embeddings"
    checkpoint = folder / f"results/models/continued/checkpoints/ckpt-{STEPS}/model.safetensors"
    expected = load_file(checkpoint)[kernel]
    for name, kind in (("discriminator", "ElectraForPreTraining"), ("generator", "ElectraForMaskedLM")):
        model, found = getattr(transformers, kind).from_pretrained(
            folder / "exports" / name, output_loading_info=True
        )
        assert not found["missing_keys"] and not found["unexpected_keys"]
        table = model.get_input_embeddings().weight.detach().numpy()
        np.testing.assert_array_equal(table, expected[: len(table)])


@pytest.mark.slow
def test_both_starts_are_fine_tuned_and_predict(followed):
    folder, _ = followed
    for name in ("released", "continued"):
        results = json.loads((folder / "fine_tuned" / name / "results.json").read_text())
        assert list(results["seeds"]) == ["1"] and results["mean"]["eval_accuracy"] >= 0
        lines = (folder / f"fine_tuned/{name}/seed_1/predictions.tsv").read_text().splitlines()
        assert len(lines) == 33 and {line.split("\t")[1] for line in lines[1:]} <= {"no", "yes"}
