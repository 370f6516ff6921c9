"""The README is true: its tables are the code's, its commands run, its paths exist."""

import os
import re
import shlex
import subprocess
import sys

import pytest
from training_runs import MODEL, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_tables_of_flags_are_the_dataclasses():
    sys.path.insert(0, str(ROOT / "scripts"))
    from update_readme import DOCUMENTS, with_current_tables

    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        assert with_current_tables(text) == text, "run: python scripts/update_readme.py"
    assert "| `--train_batch_size` | `128` |" in README


def test_links_and_named_files_exist():
    targets = re.findall(r"\]\(([^)#]+)\)", README) + re.findall(
        r"(?:bash|python) ([\w/]+\.(?:sh|py))", README
    )
    assert len(targets) > 8
    for target in targets:
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_architecture_names_every_module():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for module in [*ROOT.glob("*.py"), *(path for path in (ROOT / "data").glob("[a-z]*.py"))]:
        assert module.stem in text, f"{module.name} is not in docs/architecture.md"


@pytest.mark.slow
def test_the_five_lines_train_a_users_own_text(language, tmp_path):
    """As they stand, but for sizes: a corpus, a vocabulary, shards, a run and an export."""
    block = re.search(r"in five lines.*?```bash\n(.*?)```", README, re.DOTALL).group(1)
    lines = [shlex.split(line) for line in block.strip().splitlines()]
    assert [line[0] for line in lines] == ["bash", "python", "python", "python", "python"]
    (tmp_path / "text").symlink_to(language / "text")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    small = {
        "--vocab-size": "90",
        "--num-processes": "2",
        "--num_train_steps": "5",
        "--num_warmup_steps": "1",
        "--eval_every_steps": "5",
    }
    further = {
        "build_vocabulary.py": [],
        "build_pretraining_dataset.py": ["--held-out-fraction=0.1", "--max-seq-length=128"],
        "run_pretraining.py": [
            "--train_batch_size=4",
            "--max_position_embeddings=128",
            *(f"--{name}={value}" for name, value in MODEL.items() if name != "max_position_embeddings"),
        ],
        "postprocess_pretrained_ckpt.py": [],
    }
    for program, *arguments in (line[1:] for line in lines[1:]):
        for position, word in enumerate(arguments):
            if word in small:
                arguments[position + 1] = small[word]
        command = [sys.executable, str(ROOT / program), *arguments, *further[program]]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "exports" / "discriminator" / "model.safetensors").exists()
    assert (tmp_path / "exports" / "generator" / "vocab.txt").exists()


@pytest.mark.slow
def test_the_quickstart_runs_to_its_table_and_does_not_repeat_itself(tmp_path):
    """From random weights, which is the fallback too: text from the package index to exports and curves."""
    if not (ROOT / ".venv" / ".installed").exists():
        pytest.skip("the quickstart installs into .venv, which only scripts/install.sh makes")
    command = ["bash", str(ROOT / "scripts" / "quickstart.sh"), "--from_scratch"]
    environment = os.environ | {"QUICKSTART_DIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    if "cannot be had" in done.stderr or "cannot be had" in done.stdout:
        pytest.skip("the package index is out of reach")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (tmp_path / "training_curves.png").stat().st_size > 10_000
    rows = {line[:36].strip(): line[36:].split() for line in done.stdout.splitlines()}
    before, after = map(float, rows["masked-LM loss at [MASK] (nats)"])
    assert after < before
    run = tmp_path / "results" / "models" / "from_scratch"
    assert (run / "exports" / "discriminator" / "model.safetensors").exists()
    checkpoint = run / "checkpoints" / "ckpt-p2-50" / "state.json"
    written = checkpoint.stat().st_mtime_ns
    again = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert again.returncode == 0 and again.stdout.count("are done already") == 2
    assert checkpoint.stat().st_mtime_ns == written
