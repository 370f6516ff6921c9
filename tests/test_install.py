"""scripts/install.sh with pretended interpreters: what it refuses, what it repairs, when it does nothing.

    python -m pytest tests/test_install.py

Nothing is downloaded. The script runs for real in a temporary folder, and its PATH holds a shell script that
answers as Python would. The locks themselves are checked against the lists that they are made from.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
LOCKS = [f"requirements-{name}.lock" for name in ("cpu", "gpu", "tests", "serving", "horovod", "uv")]
SYSTEM_TOOLS = ["bash", "cp", "cut", "dirname", "flock", "grep", "mkdir"]
SYSTEM_TOOLS += ["env", "nproc", "rm", "tail", "sed", "sha256sum", "sleep", "touch", "tr", "uname"]

# Answers what install.sh asks an interpreter, and writes down what it was told to do. `broken` is
# a folder: a file in it makes the part of that name fail.
PRETENDED_PYTHON = """#!/bin/bash
case "$*" in
    *python_version*) echo "{version} {base}" ;;
    *ensurepip*) [[ ! -e {broken}/venv ]] ;;
    "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python && echo venv >>{log} ;;
    "-m pip --version") ;;
    *freeze*) echo "tensorflow-cpu==2.18.1" ;;
    *" wheel "*)
        echo "compile $HOROVOD_WITH_GLOO $HOROVOD_WITHOUT_MPI" >>{log}
        [[ ! -e {broken}/compile ]] || {{ echo "error: no header"; exit 1; }}
        touch "${{@: -1}}/horovod-0.28.1-cp311.whl" ;;
    *horovod-*.whl) echo "horovod" >>{log} ;;
    *torch*) echo torch >>{log}; [[ ! -e {broken}/torch ]] ;;
    *requirements-uv.lock*) [[ ! -e {broken}/uv ]] ;;
    "-m uv pip install"*)
        echo "uv $*" >>{log}
        [[ ! -e {broken}/slow ]] || {{ trap "exit 1" INT; sleep 60; }} ;;
    "-m pip "*install*)
        echo "pip $*" >>{log}
        [[ ! -e {broken}/pip ]] || {{ echo "ERROR: no space left on device" >&2; exit 1; }} ;;
    *tensorflow*) echo "TensorFlow 2.18.1 and Keras 3.15.1" ;;
    *) echo "not expected: $*" >&2; exit 99 ;;
esac
"""


class Machine:
    """A repository with nothing but install.sh and lists, and the only folder of programs that it sees."""

    def __init__(self, folder: Path):
        self.repository = folder / "repository"
        self.programs = folder / "bin"
        self.broken = folder / "broken"
        self.log = folder / "log"
        for path in (self.repository / "scripts", self.programs, self.broken):
            path.mkdir(parents=True)
        shutil.copy(ROOT / "scripts/install.sh", self.repository / "scripts")
        for name in [*LOCKS, "requirements-torch.txt", "requirements-horovod-source.txt"]:
            (self.repository / name).write_text(name)
        for name in SYSTEM_TOOLS:
            if (real := shutil.which(name)) is not None:
                (self.programs / name).symlink_to(real)
        self.user(1000)

    def program(self, name: str, script: str) -> Path:
        path = self.programs / name
        path.write_text(script)
        path.chmod(0o755)
        return path

    def python(self, name: str, version: str) -> Path:
        values = {"version": version, "base": self.programs / name, "broken": self.broken, "log": self.log}
        return self.program(name, PRETENDED_PYTHON.format(**values))

    def user(self, number: int) -> None:
        self.program("id", f"#!/bin/bash\necho {number}\n")

    def environment(self, **settings: str) -> dict[str, str]:
        return {"PATH": str(self.programs), "HOME": str(self.programs), "TENSORFLOW_BUILD": "cpu", **settings}

    def install(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess:
        command = [str(self.programs / "bash"), "scripts/install.sh", *arguments]
        environment = self.environment(**settings)
        return subprocess.run(
            command, cwd=self.repository, env=environment, capture_output=True, text=True, timeout=60
        )

    def done(self) -> list[str]:
        """What the interpreters did since the last look."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines

    @property
    def stamp(self) -> Path:
        return self.repository / ".venv/.installed"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def refused(result: subprocess.CompletedProcess) -> str:
    """The one line that a user's mistake is answered with."""
    assert result.returncode == 2, result.stdout + result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def test_unknown_option_is_refused(machine):
    assert "unknown option --test " in refused(machine.install("--test"))


def test_help_shows_the_command(machine):
    result = machine.install("--help")
    assert result.returncode == 0
    assert "bash scripts/install.sh [--tests] [--horovod] [--python PATH]" in result.stdout
    assert "set -euo" not in result.stdout


@pytest.mark.parametrize("version", ["3.10.13", "3.14.0", "2.7.18"])
def test_chosen_python_of_another_version_is_refused(machine, version):
    line = refused(machine.install("--python", str(machine.python("some-python", version))))
    assert f"Python {version}" in line and "3.11, 3.12 or 3.13" in line


def test_chosen_path_without_python_is_refused(machine):
    assert "--python /nowhere/python" in refused(machine.install("--python", "/nowhere/python"))
    assert "--python needs a path" in refused(machine.install("--python"))


def test_no_fitting_python_on_the_path_is_refused(machine):
    assert "no python3" in refused(machine.install())
    machine.python("python3", "3.14.2")
    assert "python3 is Python 3.14.2" in refused(machine.install())


def test_other_names_are_tried_where_python3_does_not_fit(machine):
    machine.python("python3", "3.10.12")
    machine.python("python3.12", "3.12.3")
    result = machine.install()
    assert result.returncode == 0, result.stderr
    assert "Python 3.12.3" in result.stdout


def test_unknown_build_is_refused(machine):
    machine.python("python3", "3.11.2")
    assert "TENSORFLOW_BUILD=tpu" in refused(machine.install(TENSORFLOW_BUILD="tpu"))


def test_build_decides_on_the_lock(machine):
    machine.python("python3", "3.11.2")
    for build in ("cpu", "gpu"):
        assert machine.install(TENSORFLOW_BUILD=build).returncode == 0
        assert f"requirements-{build}.lock" in machine.done()[-1]


def test_python_without_venv_names_the_one_command_to_run(machine):
    machine.python("python3", "3.11.2")
    (machine.broken / "venv").touch()
    machine.program("apt-get", "#!/bin/bash\nexit 1\n")
    assert "run: sudo apt-get install -y python3.11-venv\n" in refused(machine.install())
    assert not (machine.repository / ".venv").exists()


def test_root_gets_the_missing_venv_from_the_distribution(machine):
    machine.python("python3", "3.12.3")
    (machine.broken / "venv").touch()
    calls = machine.broken / "apt"
    repair = f'echo "$*" >>{calls}\n[[ "$*" != *install* ]] || rm {machine.broken}/venv\n'
    machine.program("apt-get", f"#!/bin/bash\n{repair}")
    machine.user(0)
    result = machine.install()
    assert result.returncode == 0, result.stderr
    assert calls.read_text() == "update -qq\ninstall -y -qq --no-install-recommends python3.12-venv\n"
    assert machine.stamp.exists()


def test_second_run_does_nothing(machine):
    machine.python("python3", "3.11.2")
    assert machine.install().returncode == 0
    first = machine.done()
    assert first[0] == "venv" and "--require-hashes" in first[-1] and first[-1].startswith("uv ")
    second = machine.install()
    assert second.returncode == 0
    assert second.stdout.count("\n") == 1 and "up to date" in second.stdout and second.stderr == ""
    assert machine.done() == []


def test_tests_are_added_to_an_installation_and_kept(machine):
    machine.python("python3", "3.11.2")
    machine.install()
    machine.done()
    assert machine.install("--tests").returncode == 0
    added = machine.done()
    assert "venv" not in added and "requirements-tests.lock" in added[0] and "torch" in added
    for arguments in ([], ["--tests"]):
        assert "up to date" in machine.install(*arguments).stdout
    assert machine.done() == []


def test_changed_lock_is_installed_into_the_same_environment(machine):
    machine.python("python3", "3.11.2")
    machine.install()
    machine.done()
    (machine.repository / "requirements-cpu.lock").write_text("another")
    assert machine.install().returncode == 0
    assert [line.split()[0] for line in machine.done()] == ["uv"]


def test_another_interpreter_makes_the_environment_anew_and_stays(machine):
    machine.python("python3", "3.11.2")
    machine.install()
    machine.done()
    assert machine.install("--python", str(machine.python("other", "3.12.3"))).returncode == 0
    assert machine.done()[0] == "venv"
    assert "Python 3.12.3" in machine.install().stdout
    assert machine.done() == []


def test_moved_repository_makes_the_environment_anew(machine):
    """The programs in .venv/bin name their interpreter by its full path."""
    machine.python("python3", "3.11.2")
    machine.install()
    machine.done()
    machine.repository = machine.repository.rename(machine.repository.with_name("moved"))
    assert machine.install().returncode == 0
    assert machine.done()[0] == "venv"


@pytest.fixture
def compiler(machine: Machine) -> Machine:
    for name in ("cmake", "g++", "make"):
        machine.program(name, "#!/bin/bash\n")
    return machine


def test_horovod_is_compiled_once_and_kept_for_the_next_environment(compiler):
    compiler.python("python3", "3.11.2")
    assert compiler.install().returncode == 0
    compiler.done()
    first = compiler.install("--horovod")
    assert first.returncode == 0, first.stderr
    assert compiler.done()[1:] == ["compile 1 1", "horovod"] and "compiling" in first.stdout
    assert "up to date" in compiler.install("--horovod").stdout
    assert "up to date" in compiler.install().stdout
    shutil.rmtree(compiler.repository / ".venv")
    assert compiler.install("--tests", "--horovod").returncode == 0
    again = compiler.done()
    assert "horovod" in again and not [line for line in again if line.startswith("compile")]
    # The one part stays on record when another is added.
    assert "up to date" in compiler.install("--tests", "--horovod").stdout
    assert "up to date" in compiler.install("--tests").stdout


def test_horovod_without_a_compiler_is_refused_and_left_out_of_the_tests(machine):
    machine.python("python3", "3.11.2")
    assert "run: sudo apt-get install -y cmake g++ make" in refused(machine.install("--horovod"))
    result = machine.install("--tests", "--horovod")
    assert result.returncode == 0 and "horovod" not in machine.done()
    assert "no cmake or C++ compiler" in machine.install("--tests", "--horovod").stdout
    machine.python("other", "3.13.0")
    line = refused(machine.install("--horovod", "--python", str(machine.programs / "other")))
    assert "3.11 or 3.12" in line


def test_horovod_that_does_not_compile_is_told_and_tried_again(compiler):
    compiler.python("python3", "3.11.2")
    (compiler.broken / "compile").touch()
    result = compiler.install("--horovod")
    assert result.returncode == 1 and "error: no header" in result.stderr
    assert not compiler.stamp.exists()
    tests = compiler.install("--tests", "--horovod")
    assert tests.returncode == 0 and "WARNING: Horovod does not compile" in tests.stdout
    assert "up to date" in compiler.install("--tests").stdout
    (compiler.broken / "compile").unlink()
    assert compiler.install("--horovod").returncode == 0
    assert compiler.done()[-1] == "horovod"


def test_python_3_13_says_that_horovod_is_out(machine):
    machine.python("python3", "3.13.0")
    for _ in range(2):
        assert "no Horovod" in machine.install().stdout


def test_pip_takes_over_where_uv_fails(machine):
    machine.python("python3", "3.11.2")
    (machine.broken / "uv").touch()
    assert machine.install().returncode == 0
    last = machine.done()[-1]
    assert last.startswith("pip ") and "--require-hashes" in last and "requirements-cpu.lock" in last


def test_missing_torch_only_warns(machine):
    machine.python("python3", "3.11.2")
    (machine.broken / "torch").touch()
    result = machine.install("--tests")
    assert result.returncode == 0, result.stderr
    assert "WARNING: no torch" in result.stdout


def test_failed_installation_is_told_and_repaired(machine):
    machine.python("python3", "3.11.2")
    for part in ("uv", "pip"):
        (machine.broken / part).touch()
    result = machine.install()
    assert result.returncode != 0
    assert result.stderr.endswith("ERROR: no space left on device\n")
    assert not machine.stamp.exists()
    machine.done()
    for part in ("uv", "pip"):
        (machine.broken / part).unlink()
    assert machine.install().returncode == 0
    assert machine.done()[0] == "venv"


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name
)
def test_stopped_installation_leaves_no_stamp_and_is_repaired(machine, number):
    """Also where uv answers Ctrl-C with an ordinary failure, which must not start pip."""
    machine.python("python3", "3.11.2")
    (machine.broken / "slow").touch()
    process = subprocess.Popen(
        [str(machine.programs / "bash"), "scripts/install.sh"],
        cwd=machine.repository,
        env=machine.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # Where the tests run in the background, SIGINT is ignored, and children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 30
    while not (machine.log.exists() and "uv " in machine.log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, number)
    assert process.wait(timeout=30) != 0
    assert not machine.stamp.exists()
    assert not [line for line in machine.done() if line.startswith("pip ")]
    (machine.broken / "slow").unlink()
    assert machine.install().returncode == 0
    assert machine.done()[0] == "venv"


def test_rubbish_in_place_of_the_environment_is_replaced(machine):
    machine.python("python3", "3.11.2")
    (machine.repository / ".venv/bin").mkdir(parents=True)
    (machine.repository / ".venv/bin/python").symlink_to("/nowhere/python")
    assert machine.install().returncode == 0
    assert machine.done()[0] == "venv"


def test_this_environment_is_up_to_date_at_once():
    """The real script in the real repository."""
    if Path(sys.prefix) != ROOT / ".venv" or not (ROOT / ".venv/.installed").exists():
        pytest.skip("the tests do not run in the .venv that install.sh made")
    start = time.monotonic()
    command = ["bash", ROOT / "scripts/install.sh", "--tests"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n") == 1 and "up to date" in result.stdout
    assert time.monotonic() - start < 5, "should take a fraction of a second"


def requirements(name: str) -> list[Requirement]:
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    return [Requirement(line) for line in lines if line]


def locked_versions(name: str) -> dict[str, list[str]]:
    """Package -> its versions in a lock, one for each group of Python versions."""
    versions: dict[str, list[str]] = {}
    for package, version in re.findall(r"^([a-z0-9.-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE):
        versions.setdefault(package, []).append(version)
    return versions


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_holds_what_the_list_asks_for(lock):
    """A requirement added without `bash scripts/lock_requirements.sh` is seen here."""
    if lock == "requirements-uv.lock":
        asked = [Requirement("uv")]
    else:
        lists = {"requirements-cpu.lock": "requirements.txt", "requirements-gpu.lock": "requirements.txt"}
        asked = requirements(lists.get(lock, lock.replace(".lock", ".txt")))
    versions = locked_versions(lock)
    for requirement in asked:
        name = requirement.name
        if name == "tensorflow" and lock == "requirements-cpu.lock":
            name = "tensorflow-cpu"
        assert any(requirement.specifier.contains(version) for version in versions.get(name, [])), requirement


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_hashes_and_no_address(lock):
    text = (ROOT / lock).read_text()
    blocks = re.split(r"\n(?=[a-z0-9.-]+==)", text)[1:]
    assert blocks and all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text and "torch" not in locked_versions(lock)


@pytest.mark.parametrize("build", ["cpu", "gpu"])
def test_locks_that_are_installed_together_name_the_same_versions(build):
    together = [locked_versions(f"requirements-{name}.lock") for name in (build, "tests", "horovod")]
    for package in set().union(*together):
        versions = {tuple(sorted(lock[package])) for lock in together if package in lock}
        longest = max(versions, key=len)
        assert all(set(found) <= set(longest) for found in versions), (package, versions)
