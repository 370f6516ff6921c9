"""Containers: what build.sh and launch.sh ask of docker, what the images hold, the Dockerfile's steps.

    python -m pytest tests/test_containers.py
    DEBIAN_STEPS=1 bash scripts/run_tests.sh tests/test_containers.py -k debian  # as root, with debootstrap

No engine is needed: a stand-in for docker records its arguments, tests/dockerfile_steps.py executes steps.
"""

import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from training_runs import ROOT
from worker_jobs import need_horovod

# Answers as docker does and records the arguments of its last call, one a line.
DOCKER = """#!/bin/bash
case "$1" in
  info) [[ -z ${NO_DAEMON:-} ]] || { echo "[]"; echo "Cannot connect to the Docker daemon" >&2; exit 1; }
    echo "[name=seccomp,profile=builtin ${ROOTLESS:+name=rootless}]" ;;
  image) [[ $3 != "${NO_IMAGE:-}" ]] ;;
  *) printf '%s\\n' "$PWD" "${DOCKER_BUILDKIT:-}" "$@" >"$RECORD"; exit "${STATUS:-0}" ;;
esac
"""


class Docker:
    """A repository of the scripts alone, in a folder whose name has a blank, and programs that stand in."""

    def __init__(self, folder: Path):
        self.repository = folder / "the repository"
        shutil.copytree(ROOT / "scripts", self.repository / "scripts")
        self.programs = folder / "bin"
        self.programs.mkdir()
        self.record = folder / "record"
        self.elsewhere = folder / "else where"
        self.elsewhere.mkdir()
        for name in ("bash", "cat", "dirname", "id", "mkdir", "sed"):
            (self.programs / name).symlink_to(shutil.which(name))
        self.program("docker", DOCKER)

    def program(self, name: str, text: str) -> None:
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)

    def command(self, script: str, *arguments: str) -> list[str]:
        return ["bash", str(self.repository / "scripts/docker" / script), *arguments]

    def environment(self, **settings: str) -> dict[str, str]:
        return {"PATH": str(self.programs), "RECORD": str(self.record), **settings}

    def run(self, script: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess:
        self.record.unlink(missing_ok=True)
        return subprocess.run(
            self.command(script, *arguments),
            env=self.environment(**settings),
            cwd=self.elsewhere,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def called(self, script: str, *arguments: str, **settings: str) -> list[str]:
        """What docker was called with by a script that succeeds."""
        done = self.run(script, *arguments, **settings)
        assert done.returncode == 0, done.stderr
        folder, _, *words = self.record.read_text().splitlines()
        assert folder == str(self.repository)
        return words

    def refused(self, script: str, *arguments: str, **settings: str) -> str:
        """The one line that a mistake is answered with, before docker is asked to do anything."""
        done = self.run(script, *arguments, **settings)
        assert done.returncode == 2, done.stdout + done.stderr
        assert not self.record.exists() and done.stdout == ""
        (line,) = done.stderr.splitlines()
        return line


@pytest.fixture
def docker(tmp_path):
    return Docker(tmp_path)


def after(option: str, words: list[str]) -> str:
    """The value of an option that is given once."""
    assert words.count(option) == 1, words
    return words[words.index(option) + 1]


def test_build_makes_nvidias_image_by_default_and_others_by_name(docker):
    assert docker.called("build.sh") == ["build", "--target", "ngc", "--tag", "electra", "."]
    # With BuildKit: without it the stages of all targets would be built.
    assert docker.record.read_text().splitlines()[1] == "1"
    words = docker.called("build.sh", "--target=cpu", "--tag", "mine:1", "--", "--build-arg", "A=b c")
    assert words == ["build", "--target", "cpu", "--tag", "mine:1", "--build-arg", "A=b c", "."]


def test_build_refuses_what_it_does_not_know(docker):
    assert "--target 'tpu'" in docker.refused("build.sh", "--target", "tpu")
    assert "unknown option '--tags'" in docker.refused("build.sh", "--tags", "x")
    assert "--tag needs a value" in docker.refused("build.sh", "--tag")


def test_launch_without_arguments_is_nvidias(docker):
    docker.program("nvidia-smi", "#!/bin/bash\n")
    words = docker.called("launch.sh")
    assert words[:2] == ["run", "--rm"] and words[-2:] == ["electra", "/bin/bash"]
    assert after("--gpus", words) == "all" and after("--network", words) == "host"
    assert after("--shm-size", words) == "1g"
    limits = [words[position + 1] for position, word in enumerate(words) if word == "--ulimit"]
    assert limits == ["memlock=-1", "stack=67108864"]
    assert after("--mount", words) == f'type=bind,"source={docker.repository}",target=/workspace/electra'
    # What is written on the mount is the caller's, and no image of that name is fetched from a registry.
    assert after("--user", words) == f"{os.getuid()}:{os.getgid()}" and after("--pull", words) == "never"
    assert not {"-it", "--privileged", "--ipc"} & set(words)


def test_positionals_win_over_the_environment_and_the_rest_goes_to_docker(docker):
    docker.program("nvidia-smi", "#!/bin/bash\n")
    settings = {"GPUS": "none", "NETWORK": "none", "IMAGE": "mine", "IPC": "host", "CONTAINER_USER": "7:8"}
    words = docker.called(
        "launch.sh", "bash scripts/run_squad.sh  '*'", "0,1", "--", "-e", "A=b c", COMMAND="no", **settings
    )
    assert words[-6:] == ["-e", "A=b c", "mine", "bash", "scripts/run_squad.sh", "'*'"]
    assert after("--gpus", words) == '"device=0,1"' and after("--network", words) == "none"
    assert after("--ipc", words) == "host" and "--shm-size" not in words
    assert after("--user", words) == "7:8"
    words = docker.called("launch.sh", COMMAND="one two", SHM_SIZE="8g", IPC="private", GPUS="none")
    assert words[-2:] == ["one", "two"] and after("--shm-size", words) == "8g" and "--gpus" not in words
    assert after("--ipc", words) == "private"


def test_launch_without_a_driver_leaves_the_gpus_out_and_says_so(docker):
    docker.program("nvidia-smi", "#!/bin/bash\nexit 9\n")
    assert "--gpus" not in docker.called("launch.sh")
    assert "no NVIDIA driver" in docker.run("launch.sh").stderr
    assert docker.run("launch.sh", GPUS="none").stderr == ""


def test_folders_of_data_and_results_are_mounted_from_where_the_caller_stands(docker):
    (docker.elsewhere / 'a,b "c').mkdir()
    words = docker.called("launch.sh", DATA_DIR='a,b "c', RESULTS_DIR="new/re sults")
    mounts = [words[position + 1] for position, word in enumerate(words) if word == "--mount"]
    assert mounts[1:] == [
        f'type=bind,"source={docker.elsewhere}/a,b ""c",target=/workspace/data',
        f'type=bind,"source={docker.elsewhere}/new/re sults",target=/workspace/electra/results',
    ]
    assert after("--env", words) == "DATA_PREP_WORKING_DIR=/workspace/data"
    # Made by the caller; docker would make both ends as root.
    assert (docker.elsewhere / "new/re sults").is_dir() and (docker.repository / "results").is_dir()


def test_a_rootless_daemon_gets_the_user_that_is_the_caller_there(docker):
    assert after("--user", docker.called("launch.sh", ROOTLESS="1")) == "0:0"


def test_launch_is_interactive_at_a_terminal_only(docker):
    main, terminal = pty.openpty()
    command = docker.command("launch.sh")
    subprocess.run(command, env=docker.environment(), stdin=terminal, stdout=terminal, check=True, timeout=60)
    os.close(main)
    os.close(terminal)
    assert "-it" in docker.record.read_text().splitlines()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"DATA_DIR": "nowhere"}, "DATA_DIR 'nowhere'"),
        ({"RESULTS_DIR": "/proc/none"}, "RESULTS_DIR '/proc/none'"),
        ({"GPUS": "0;1"}, "GPUS '0;1'"),
        ({"NO_IMAGE": "electra"}, "no image 'electra' here: bash scripts/docker/build.sh"),
        ({"NO_DAEMON": "1"}, "Cannot connect to the Docker daemon"),
    ],
    ids=str,
)
def test_launch_stops_with_one_line(docker, settings, words):
    assert words in docker.refused("launch.sh", **settings)


def test_too_many_positionals_are_refused(docker):
    assert "more than 3 positionals" in docker.refused("launch.sh", *"abcd")


@pytest.mark.parametrize("script", ["build.sh", "launch.sh"])
def test_docker_that_is_missing_or_fails_is_told_by_the_exit_code(docker, script):
    assert docker.run(script, STATUS="125").returncode == 125
    assert "Cannot connect to the Docker daemon" in docker.refused(script, NO_DAEMON="1")
    (docker.programs / "docker").unlink()
    assert "docker is not on the PATH" in docker.refused(script)


@pytest.mark.parametrize("script", ["build.sh", "launch.sh"])
def test_help_shows_the_command(docker, script):
    done = docker.run(script, "--help")
    assert done.returncode == 0 and f"bash scripts/docker/{script}" in done.stdout
    assert "set -euo" not in done.stdout


def test_the_dockerfile_has_no_lint():
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.exists():
        pytest.skip("hadolint is not installed: bash scripts/install.sh --tests")
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    # It would have seen a fault.
    text = (ROOT / "Dockerfile").read_text().replace(" --no-install-recommends", "")
    done = subprocess.run([linter, "-"], input=text, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "DL3015" in done.stdout


def test_the_three_images_start_as_another_than_root_where_nvidias_did():
    """The last stage, which docker builds by default, is NVIDIA's image."""
    from dockerfile_steps import read_stages

    stages = read_stages(ROOT / "Dockerfile")
    assert {"cpu", "cuda", "ngc"} < set(stages) and list(stages)[-1] == "ngc"
    for target in ("cpu", "cuda", "ngc"):
        steps = stages[target].steps
        assert ("ARG", "USER_ID=1000") in steps and ("WORKDIR", "/workspace/electra") in steps
        # The code comes after everything that is installed.
        assert [step for step in steps if step[0] in ("RUN", "COPY", "USER")][-2:] == [
            ("COPY", "--chown=$USER_ID:$USER_ID . ."),
            ("USER", "$USER_ID:$USER_ID"),
        ]
        (settings,) = [value for name, value in steps if name == "ENV" and "PATH=/opt" in value]
        assert "DATA_PREP_WORKING_DIR=/workspace/electra/data" in settings


def test_the_image_holds_the_code_and_nothing_else(tmp_path):
    """Docker's own Python library says what .dockerignore lets through, in a checkout that was worked in."""
    from docker.utils.build import exclude_paths

    code = ["run_pretraining.py", "configs/small_phase1.json", "data/corpus_step.py", "scripts/install.sh"]
    code += ["scripts/docker/launch.sh", "scripts/configs/squad_config.sh", "requirements-cpu.lock"]
    other = [
        ".git/config",
        ".venv/bin/python",
        ".env",
        "results/models/a/ckpt-1/model",
        "data/download/x.bz2",
    ]
    other += ["data/tfrecord_lower_case_1/a", "quickstart/text/a.txt", "text/a.txt", "exports/model.h5"]
    other += [
        "tests/test_a.py",
        "__pycache__/a.pyc",
        "scripts/__pycache__/b.pyc",
        "data/__pycache__/c.pyc",
        "id_rsa",
    ]
    for name in [*code, *other]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {name for name in exclude_paths(str(tmp_path), patterns) if (tmp_path / name).is_file()}
    assert sent == set(code)


def test_beside_another_tensorflow_only_what_is_missing_is_installed(tmp_path):
    """missing_packages.py, with this interpreter as the image's: nothing that it has but what is named."""
    lock = tmp_path / "some.lock"
    hashes = " \\\n    --hash=sha256:0a"
    names = [
        "keras==9.9",
        "numpy==9.9",
        "Not_There==1.0",
        "tensorflow-cpu==9.9",
        'other==2 ; python_version < "3"',
    ]
    lock.write_text("# by a tool\n" + "".join(f"{name}{hashes}\n    # via x\n" for name in names))
    program = ROOT / "scripts/docker/missing_packages.py"
    command = [sys.executable, program, "--anyway", "Keras", lock]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    expected = [names[0], names[2], names[4]]
    assert printed.splitlines() == [line for name in expected for line in f"{name}{hashes}".splitlines()]


CHECKS = """set -eu
test "$(id -u)" = 1234 && test "$PWD" = /workspace/electra && test "$HOME" = "$(cd && pwd)"
touch .may_write "$HOME/.may_write"
test "$DATA_PREP_WORKING_DIR" = /workspace/electra/data && test -f sentences.py
test -z "$(ls -A /var/lib/apt/lists)" && test ! -e tests && test ! -e .git
export TF_CPP_MIN_LOG_LEVEL=2
python start_workers.py --workers 2 -- python -c 'import keras, tensorflow, horovod.tensorflow as horovod
horovod.init()
print("worker of", horovod.size(), "with", tensorflow.__version__, keras.__version__, flush=True)'
bash scripts/run_pretraining.sh --help
MODEL_SIZE=small PRETRAIN_TFRECORDS_P1=nowhere bash scripts/run_pretraining.sh || echo "ended with $?"
"""


def execute_steps(*options: str, compiles: bool) -> str:
    """What the steps of cpu and CHECKS print; skips where Horovod would have to be compiled."""
    if os.getuid() != 0 or subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("only root can mount the trees of files that the steps run in")
    # NVIDIA's dllogger comes from GitHub, which the tests do not depend on.
    command = [sys.executable, str(ROOT / "tests/dockerfile_steps.py"), "cpu", "--argument", "DLLOGGER="]
    command += ["--argument", "USER_ID=1234", "--then", CHECKS, *options]
    printed = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            printed += line
            if "compiling Horovod" in line and not compiles:
                process.terminate()
                pytest.skip("no wheel of Horovod is kept, and compiling it takes minutes")
    assert process.returncode == 0, printed
    return printed


def check_image(printed: str) -> None:
    """All steps were executed; in the image two workers find each other, with the locks' versions."""
    steps = re.findall(r"^cpu(?:-packages)?: (?:RUN|COPY) ", printed, re.MULTILINE)
    stages = (ROOT / "Dockerfile").read_text().split("\n# ---- cuda")[0]
    assert len(steps) == len(re.findall(r"^(?:RUN|COPY) ", stages, re.MULTILINE)) > 8
    lock = (ROOT / "requirements-cpu.lock").read_text()
    (keras,) = re.findall(r"^keras==(\S+)", lock, re.MULTILINE)
    tensorflow = re.findall(r"^tensorflow-cpu==(\S+)", lock, re.MULTILINE)[0]
    assert printed.count(f"worker of 2 with {tensorflow} {keras}") == 2
    assert "ended with 2" in printed


@pytest.mark.slow
def test_the_steps_of_the_cpu_image_run_over_this_machine():
    """Over a copy-on-write view of this machine's tree, with its caches: nothing is compiled."""
    need_horovod()
    check_image(execute_steps(compiles=False))


@pytest.mark.slow
def test_the_steps_of_the_cpu_image_run_over_debian():
    """Over a tree such as the image's base; no compiler may be in the image. Takes minutes."""
    if not os.environ.get("DEBIAN_STEPS") or shutil.which("debootstrap") is None:
        pytest.skip("only with debootstrap and DEBIAN_STEPS=1 in the environment")
    absent = 'for name in c++ gcc make cmake; do if command -v "$name"; then exit 1; fi; done\n'
    check_image(execute_steps("--debootstrap", "--then", CHECKS + absent, compiles=True))
