"""The code keeps to one style: formatting, lint, shell scripts, sizes, and nothing left over in the tree.

    python -m pytest tests/test_style.py

The tools are those beside the running interpreter, so that their versions are the locked ones.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(sys.executable).parent
LONGEST_MODULE = 500
LARGEST_FILE = 1_000_000
SOURCE_SUFFIXES = {".py", ".sh", ".sub", ".md", ".toml", ".yaml", ".yml"}

# The brackets keep this file from finding itself.
UNFINISHED = re.compile(r"\b(TO[D]O|FIX[M]E)\b")
MACHINE_PATHS = re.compile(
    r"[/]work/(main|shared|\.library)\b|[/]root/|[/]tmp/(dev|install_work)\b|[/]opt/(wheels|pypi)|[.]pyenv/"
)


def project_files() -> list[Path]:
    """Every file that is tracked or about to be; without git, every file outside hidden folders but .ci."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
        names = listing.decode().split("\0")
    except (OSError, subprocess.CalledProcessError):
        names = []
        for folder, subfolders, files in os.walk(ROOT):
            subfolders[:] = [name for name in subfolders if name == ".ci" or name[0] not in "._"]
            names += [os.path.relpath(os.path.join(folder, name), ROOT) for name in files]
    return [ROOT / name for name in sorted(names) if name and (ROOT / name).is_file()]


FILES = project_files()
PYTHON_FILES = [path for path in FILES if path.suffix == ".py"]
SHELL_SCRIPTS = [path for path in FILES if path.suffix in (".sh", ".sub")]
SHELL_SCRIPTS += [path for path in FILES if path == ROOT / ".ci/run"]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def run(command: list[str | Path]) -> None:
    """Fail with the tool's own words where it is not content."""
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def lines_with(pattern: re.Pattern, files: list[Path]) -> list[str]:
    """`file:line: text` of each line of the text files that `pattern` is found in."""
    found = []
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if pattern.search(line):
                found.append(f"{relative(path)}:{number}: {line.strip()}")
    return found


def tool(name: str) -> Path:
    path = TOOLS / name
    if not path.exists():
        pytest.skip(f"{name} is not installed beside {sys.executable}: bash scripts/install.sh --tests")
    return path


def test_files_are_found():
    """The checks below look at something: an empty list would pass them all."""
    assert ROOT / "configuration.py" in PYTHON_FILES
    expected = {"scripts/install.sh", "run.sub", "data/run_dask_slurm.sub", ".ci/run"}
    assert expected <= {relative(path) for path in SHELL_SCRIPTS}


def test_python_is_formatted():
    run([tool("ruff"), "format", "--check", "--diff", *PYTHON_FILES])


def test_python_has_no_lint():
    run([tool("ruff"), "check", *PYTHON_FILES])


def test_shell_scripts_have_no_lint():
    run([tool("shellcheck"), "--external-sources", "--source-path=SCRIPTDIR", *SHELL_SCRIPTS])


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=relative)
def test_shell_script_parses_and_stops_at_errors(script):
    """`bash -n` takes it, and a failed command ends it (settings under configs/ are read by others)."""
    run(["bash", "-n", script])
    if "configs" not in script.parts:
        assert re.search(r"^set -\w*euo pipefail", script.read_text(), re.MULTILINE), "no `set -euo pipefail`"


def test_modules_are_short():
    modules = [path for path in PYTHON_FILES if ROOT / "tests" not in path.parents]
    lengths = {relative(path): len(path.read_text().splitlines()) for path in modules}
    assert not {name: length for name, length in lengths.items() if length > LONGEST_MODULE}


def test_files_are_small():
    sizes = {relative(path): path.stat().st_size for path in FILES}
    assert not {name: size for name, size in sizes.items() if size > LARGEST_FILE}


def test_nothing_is_left_unfinished():
    sources = [path for path in FILES if path.suffix in SOURCE_SUFFIXES or path in SHELL_SCRIPTS]
    assert not lines_with(UNFINISHED, sources)


def test_no_path_of_one_machine():
    """A Dockerfile may name root's home: it is the one of its own image."""
    assert not lines_with(MACHINE_PATHS, [path for path in FILES if not path.name.startswith("Dockerfile")])
