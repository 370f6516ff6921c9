"""scripts/bind.sh around a command: what it hands to numactl and taskset, refuses, and passes through.

    python -m pytest tests/test_bind.py

The machines are pretended (machine_trees.py); stand-ins for numactl and taskset note down their arguments and
run the command. Where the places come from is tested in test_affinity.py.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from machine_trees import DGX1, DGX2, DGX_A100, EMPTY, PLAIN, Tree, write_program
from training_runs import ROOT

SYSTEM_TOOLS = ["bash", "cat", "dirname", "sed", "sleep", "true"]
# Takes off its options as the real ones do: --name=value for numactl, --cpu-list value for taskset.
RECORDER = """echo "${0##*/} $*" >> "$RECORD"
[[ ! -e "$0.broken" ]] || exit 1
if [[ $1 == --cpu-list ]]; then shift 2; fi
while [[ $1 == -* ]]; do shift; done
exec "$@"
"""
# As NVIDIA's run.sub calls its script.
NVIDIAS_OPTIONS = ["--cpu=exclusive", "--ib=single", "--cluster=selene"]


class Machine:
    """A pretended machine and its folder of programs: the only ones that the script sees."""

    def __init__(self, folder: Path):
        self.root, self.programs, self.record = folder / "sys", folder / "bin", folder / "record"
        self.programs.mkdir()
        for name in SYSTEM_TOOLS:
            (self.programs / name).symlink_to(shutil.which(name))
        for name in ("numactl", "taskset"):
            write_program(self.programs / name, RECORDER)

    def pretend(self, tree: Tree) -> "Machine":
        tree.write(self.root)
        if tree.gpus:
            tree.write_nvidia_smi(self.programs)
        return self

    def without(self, *programs: str) -> "Machine":
        for name in programs:
            (self.programs / name).unlink()
        return self

    def command(self, *words: str) -> list[str]:
        return [str(self.programs / "bash"), str(ROOT / "scripts/bind.sh"), *words]

    def environment(self, rank: int = 0, size: int = 1, **variables: str) -> dict[str, str]:
        base = {"PATH": str(self.programs), "PYTHON": sys.executable, "SYS_ROOT": str(self.root)}
        base |= {"HOROVOD_LOCAL_RANK": str(rank), "HOROVOD_LOCAL_SIZE": str(size), "RECORD": str(self.record)}
        return base | variables

    def bind(self, *words: str, **environment) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.command(*words),
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=60,
        )

    def called(self, *options: str, **environment) -> list[str]:
        """What was started around a command that then ran: numactl's trial is left out."""
        self.record.unlink(missing_ok=True)
        done = self.bind(*options, "--", "bash", "-c", "echo ran", **environment)
        assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [line.removesuffix(" bash -c echo ran") for line in lines if not line.endswith(" true")]


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize(
    ("tree", "options", "rank", "called"),
    [
        (DGX_A100, [], 0, "--physcpubind=48-63,176-191 --membind=3"),
        (DGX_A100, NVIDIAS_OPTIONS, 7, "--physcpubind=88-95,216-223 --membind=5"),
        (DGX_A100, ["--cpu=exclusive,nosmt"], 3, "--physcpubind=24-31 --membind=1"),
        (DGX1, ["--cpu=node", "--mem=off"], 4, "--physcpubind=20-39,60-79"),
        (DGX1, ["--cpu=off"], 7, "--membind=1"),
        (DGX1, ["--cpu=none", "--cluster", "dgx1"], 3, "--membind=0"),
        (DGX2, ["--cpu=exclusive", "--mem=node"], 15, "--physcpubind=45-47,93-95 --membind=1"),
    ],
)
def test_numactl_binds_processors_and_memory(machine, tree, options, rank, called):
    machine.pretend(tree)
    assert machine.called(*options, rank=rank, size=len(tree.gpus)) == [f"numactl {called}"]


def test_several_nodes_without_gpus_are_divided(machine):
    machine.pretend(Tree({0: "0-3", 1: "4-7", 2: "8-11", 3: "12-15"}))
    assert machine.called(rank=1, size=2) == ["numactl --physcpubind=8-15 --membind=2-3"]


def test_the_type_of_machine_may_stand_in_the_environment(machine):
    """And needs neither nvidia-smi nor the kernel's word about GPUs; the flag wins."""
    machine.pretend(Tree(DGX_A100.nodes, 128))
    assert machine.called(rank=2, size=8, CLUSTER="dgxa100")[0].endswith("--membind=1")
    assert machine.called("--cluster=auto", rank=2, size=8, CLUSTER="dgxa100")[0].endswith("--membind=2")


def test_one_node_leaves_memory_alone_and_one_worker_says_so(machine):
    machine.pretend(PLAIN)
    assert machine.called("--cpu=exclusive", rank=1, size=2) == ["taskset --cpu-list 1"]
    told = {rank: machine.bind("--", "true", rank=rank, size=2).stderr for rank in (0, 1)}
    assert told == {0: "bind.sh: one NUMA node: memory is not bound\n", 1: ""}
    assert machine.bind("--mem=off", "--", "true", rank=0, size=2).stderr == ""


@pytest.mark.parametrize("lacks", ["absent", "broken"])
def test_without_numactl_taskset_binds_processors(machine, lacks):
    """Broken is numactl in Docker, which by default may not bind memory."""
    machine.pretend(DGX1)
    if lacks == "absent":
        machine.without("numactl")
    else:
        (machine.programs / "numactl.broken").touch()
    assert machine.called(rank=5, size=8) == ["taskset --cpu-list 20-39,60-79"]
    told = machine.bind("--", "true", rank=0, size=8).stderr
    assert told.count("\n") == 1 and told.endswith("memory is not bound\n") and "numactl" in told
    assert machine.called("--cpu=off", rank=5, size=8) == []


def test_without_either_the_command_runs_unbound(machine):
    machine.pretend(DGX1).without("numactl", "taskset")
    done = machine.bind("--mem=off", "--", "bash", "-c", "echo ${BOUND_WORKERS:-unbound}", rank=0, size=8)
    assert (done.returncode, done.stdout) == (0, "unbound\n")
    assert done.stderr == "bind.sh: no taskset either: nothing is bound\n"


def test_an_unknown_place_leaves_the_command_unbound_and_one_worker_says_so(machine):
    machine.pretend(EMPTY)
    assert machine.called(rank=1, size=2) == []
    told = [machine.bind("--", "true", rank=rank, size=2).stderr for rank in (0, 1)]
    assert told == [f"bind.sh: the kernel names no NUMA node under {machine.root}: nothing is bound\n", ""]


def test_off_asks_nothing(machine):
    """Not even for a worker's number."""
    assert machine.called("--cpu=off", "--mem=off", rank=9, size=2) == []


@pytest.mark.parametrize(
    ("options", "word"), [(["--cpu=exclusive"], "1/8"), (["--cpu=node"], "4/8"), (["--cpu=off"], "")]
)
def test_the_program_learns_who_shares_its_processors(machine, options, word):
    machine.pretend(DGX1)
    done = machine.bind(*options, "--", "bash", "-c", "echo $BOUND_WORKERS", rank=1, size=8)
    assert done.stdout == f"{word}\n"


@pytest.mark.parametrize(
    ("words", "environment", "told"),
    [
        ([], {}, "no command: give it after --"),
        (["--cpu=node", "--"], {}, "no command: give it after --"),
        (["python", "x.py"], {}, "no -- before the command python"),
        (["--cpu=all", "--", "true"], {}, "unknown option --cpu=all (see --help)"),
        (["--cluster"], {}, "--cluster needs a name"),
        (["--cluster=dgx9", "--", "true"], {}, "--cluster dgx9: is none of auto, dgx1, dgx2,"),
        (["--", "true"], {"rank": 8, "size": 8}, "HOROVOD_LOCAL_RANK 8: out of range"),
        (["--", "true"], {"rank": 8, "size": 9}, "9 workers on this machine, and 8 visible GPUs"),
        (["--", "true"], {"HOROVOD_LOCAL_RANK": "one"}, "HOROVOD_LOCAL_RANK one"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(machine, words, environment, told):
    done = machine.pretend(DGX1).bind(*words, **environment)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("bind.sh: error: ") and told in done.stderr


def test_help_shows_the_command(machine):
    done = machine.bind("--help")
    assert done.returncode == 0 and "--cpu=exclusive,nosmt" in done.stdout and "set -euo" not in done.stdout


def test_the_exit_code_and_the_arguments_pass_through(machine):
    machine.pretend(DGX1)
    done = machine.bind("--", "bash", "-c", 'printf "<%s>" "$@"; exit 7', "-", "a b", "", "--", "*")
    assert (done.returncode, done.stdout, done.stderr) == (7, "<a b><><--><*>", "")


def test_the_command_takes_the_scripts_place_and_gets_its_signals(machine):
    machine.pretend(DGX1)
    body = "trap 'echo saved; exit 143' TERM; echo $$; while true; do sleep 0.05; done"
    started = subprocess.Popen(
        machine.command("--", "bash", "-c", body),
        env=machine.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert int(started.stdout.readline()) == started.pid
    started.send_signal(signal.SIGTERM)
    assert started.communicate(timeout=30)[0] == "saved\n" and started.returncode == 143


def test_real_workers_get_processors_of_their_own_and_none_beyond_the_launchers(machine):
    """On this machine, with its own taskset."""
    here, taskset = sorted(os.sched_getaffinity(0)), shutil.which("taskset")
    if len(here) < 2 or taskset is None:
        pytest.skip("needs two processors and taskset")
    machine.without("numactl", "taskset")
    (machine.programs / "taskset").symlink_to(taskset)
    say = "import os; print(*sorted(os.sched_getaffinity(0)))"

    def own(option: str, rank: int, allowed: list[int]) -> list[int]:
        environment = machine.environment(rank, 2, CUDA_VISIBLE_DEVICES="")
        del environment["SYS_ROOT"]
        done = subprocess.run(
            machine.command(option, "--mem=off", "--", sys.executable, "-c", say),
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            preexec_fn=lambda: os.sched_setaffinity(0, allowed),
        )
        assert (done.returncode, done.stderr) == (0, "")
        return list(map(int, done.stdout.split()))

    first, second = own("--cpu=exclusive", 0, here), own("--cpu=exclusive", 1, here)
    assert first and second and not set(first) & set(second) and set(first + second) <= set(here)
    if len(here) == os.cpu_count():
        assert sorted(first + second) == here
    assert own("--cpu=node", 0, here[-1:]) == here[-1:]
