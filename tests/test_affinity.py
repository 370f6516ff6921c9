"""Workers get the processors near their GPU, once each, and a run never fails for lack of knowledge of them.

    python -m pytest tests/test_affinity.py

The machines are pretended (machine_trees.py); the last tests are about real processes on this one.
"""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from machine_trees import DGX1, DGX2, DGX_A100, EMPTY, PLAIN, Tree, write_program
from training_runs import ROOT

import worker_checks
from affinity import Unplaced, as_list, cores, find_places, local_numbers, read_list, take_processors
from command_line import UsageError
from configuration import PretrainingConfig
from device import take_share
from workers import Workers


class Machine:
    """A pretended machine, and the only folder of programs that it sees."""

    def __init__(self, tree: Tree, folder: Path):
        self.root = tree.write(folder / "sys")
        self.programs = folder / "bin"
        if tree.gpus:
            tree.write_nvidia_smi(self.programs)

    def environment(self, **variables: str) -> dict[str, str]:
        return {"SYS_ROOT": str(self.root), "PATH": str(self.programs)} | variables

    def places(
        self, workers: int, allowed: str | None = None, *, apart=False, cluster="auto", **variables: str
    ):
        """Processors and nodes of each worker, in the kernel's short form."""
        open_to_us = None if allowed is None else read_list(allowed)
        environment = self.environment(**variables)
        found = find_places(workers, environment, open_to_us, apart=apart, cluster=cluster)
        return [(as_list(place.processors), as_list(place.nodes)) for place in found]


@pytest.fixture
def machine(tmp_path):
    numbers = itertools.count()
    return lambda tree: Machine(tree, tmp_path / f"machine_{next(numbers)}")


A100_NODES = [
    ("48-63,176-191", "3"),
    ("48-63,176-191", "3"),
    ("16-31,144-159", "1"),
    ("16-31,144-159", "1"),
    ("112-127,240-255", "7"),
    ("112-127,240-255", "7"),
    ("80-95,208-223", "5"),
    ("80-95,208-223", "5"),
]
DGX1_NODES = [("0-19,40-59", "0")] * 4 + [("20-39,60-79", "1")] * 4
DGX2_NODES = [("0-23,48-71", "0")] * 8 + [("24-47,72-95", "1")] * 8


@pytest.mark.parametrize(
    ("tree", "cluster", "expected"),
    [(DGX_A100, "dgxa100", A100_NODES), (DGX1, "dgx1", DGX1_NODES), (DGX2, "dgx2", DGX2_NODES)],
    ids=["A100", "DGX-1", "DGX-2"],
)
def test_a_worker_has_its_gpus_node_by_the_kernel_and_by_the_table(machine, tree, cluster, expected):
    assert machine(tree).places(len(expected)) == expected
    without_devices = machine(Tree(tree.nodes, tree.threads_apart))
    assert without_devices.places(len(expected), cluster=cluster) == expected


@pytest.mark.parametrize(
    ("tree", "first", "last", "cores_each"),
    [
        (DGX_A100, "48-55,176-183", "88-95,216-223", 8),
        (DGX1, "0-4,40-44", "35-39,75-79", 5),
        (DGX2, "0-2,48-50", "45-47,93-95", 3),
    ],
    ids=["A100", "DGX-1", "DGX-2"],
)
def test_parts_are_whole_cores_and_use_each_processor_of_the_nodes_once(
    machine, tree, first, last, cores_each
):
    pretended = machine(tree)
    parts = [read_list(processors) for processors, _ in pretended.places(len(tree.gpus), apart=True)]
    assert (as_list(parts[0]), as_list(parts[-1])) == (first, last)
    for part in parts:
        assert len(part) == 2 * cores_each and len(cores(part, pretended.root)) == cores_each
    used = [processor for part in parts for processor in part]
    assert sorted(used) == sorted(p for n in set(tree.gpus.values()) for p in read_list(tree.nodes[n]))


def test_cores_that_do_not_divide_are_all_given_out(machine):
    parts = machine(DGX1).places(3, apart=True)
    assert [processors for processors, _ in parts] == ["0-5,40-45", "6-12,46-52", "13-19,53-59"]


@pytest.mark.parametrize(
    ("visible", "nodes"),
    [
        ("4,0", ["7", "3"]),
        (" 6, 7 ", ["5", "5"]),
        ("GPU-02,GPU-07aa-0b1c", ["1", "5"]),
        ("5,2,-1,0", ["7", "1"]),
    ],
)
def test_workers_follow_cuda_visible_devices(machine, visible, nodes):
    pretended = machine(DGX_A100)
    assert [node for _, node in pretended.places(2, CUDA_VISIBLE_DEVICES=visible)] == nodes
    if "GPU" not in visible:
        tabled = pretended.places(2, cluster="dgxa100", CUDA_VISIBLE_DEVICES=visible)
        assert [node for _, node in tabled] == nodes


def test_more_workers_than_visible_gpus_are_refused(machine):
    with pytest.raises(UsageError, match=r"^9 workers on this machine, and 8 visible GPUs$"):
        machine(DGX_A100).places(9)
    with pytest.raises(UsageError, match="2 workers on this machine, and 1 visible"):
        machine(DGX_A100).places(2, CUDA_VISIBLE_DEVICES="3")


def test_workers_that_see_their_own_gpus_alone_are_left_as_they_are(machine):
    """As Slurm has it with --gpus-per-task: where the others' GPUs are, none of them knows."""
    with pytest.raises(Unplaced, match="each worker sees its own GPU alone"):
        machine(DGX_A100).places(2, CUDA_VISIBLE_DEVICES="0", SLURM_GPUS_PER_TASK="1")


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        (1, ["0-7"]),
        (2, ["0-3", "4-7"]),
        (3, ["0-1", "2-3", "4-7"]),
        (6, ["0", "1", "2-3", "4", "5", "6-7"]),
        (8, list("01234567")),
    ],
)
def test_without_gpus_nodes_are_divided_and_then_shared(machine, workers, expected):
    """Four nodes with two processors each."""
    pretended = machine(Tree({node: f"{2 * node}-{2 * node + 1}" for node in range(4)}))
    assert [processors for processors, _ in pretended.places(workers, apart=True)] == expected
    assert len(set(pretended.places(workers))) == min(workers, 4)


def test_gpus_that_may_not_be_used_do_not_count(machine):
    assert machine(DGX1).places(2, CUDA_VISIBLE_DEVICES="") == [DGX1_NODES[0], DGX1_NODES[-1]]


def test_places_say_how_many_workers_have_them(machine):
    pretended = machine(DGX_A100)
    for apart, workers in ((False, [2, 2, 1]), (True, [1, 1, 1])):
        found = find_places(3, pretended.environment(), None, apart=apart)
        assert [place.workers for place in found] == workers


def test_only_processors_that_are_open_to_the_process_are_given_out(machine):
    pretended = machine(DGX_A100)
    assert pretended.places(2, "0-51", apart=True) == [("48-49", "3"), ("50-51", "3")]
    with pytest.raises(Unplaced, match="no processor of NUMA node 1 is open"):
        pretended.places(3, "48-63")
    # Where there are fewer cores than workers their threads are divided; and no further.
    assert pretended.places(2, "48,176", apart=True) == [("48", "3"), ("176", "3")]
    with pytest.raises(Unplaced, match=r"^2 workers share 1 processors$"):
        pretended.places(2, "48", apart=True)


def test_what_is_not_known_is_said(machine, tmp_path):
    with pytest.raises(Unplaced, match="names no NUMA node"):
        machine(EMPTY).places(1)
    silent = machine(Tree(DGX1.nodes, 40, dict.fromkeys(DGX1.gpus, -1)))
    with pytest.raises(Unplaced, match=r"does not say at which NUMA node GPU 0000:06:00.0 is"):
        silent.places(1)
    with pytest.raises(Unplaced, match="names MIG-7, and no such GPU"):
        silent.places(1, CUDA_VISIBLE_DEVICES="MIG-7")
    (silent.root / "module/nvidia").mkdir(parents=True)
    write_program(silent.programs / "nvidia-smi", "exit 9\n")
    with pytest.raises(Unplaced, match="nvidia-smi does not say"):
        silent.places(1)
    with pytest.raises(UsageError, match="--cluster dgx3: is none of auto, dgx1, dgx2"):
        silent.places(1, cluster="dgx3")


def test_a_silent_firmware_does_not_matter_on_one_node(machine):
    assert machine(Tree({0: "0-7"}, 4, {"03:00.0": -1})).places(1) == [("0-7", "0")]


@pytest.mark.parametrize(
    ("variables", "numbers"),
    [
        ({}, (0, 1)),
        ({"HOROVOD_LOCAL_RANK": "3", "HOROVOD_LOCAL_SIZE": "4", "SLURM_LOCALID": "0"}, (3, 4)),
        ({"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, (1, 2)),
        ({"MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}, (1, 2)),
        ({"PMI_LOCAL_RANK": "1", "PMI_LOCAL_SIZE": "2"}, (1, 2)),
        ({"PMIX_LOCAL_RANK": "1", "PMIX_LOCAL_SIZE": "2"}, (1, 2)),
        ({"SLURM_LOCALID": "7", "SLURM_NTASKS_PER_NODE": "8"}, (7, 8)),
        ({"SLURM_LOCALID": "2", "SLURM_TASKS_PER_NODE": "4(x2),3", "SLURM_NODEID": "2"}, (2, 3)),
        ({"SLURM_LOCALID": "3", "SLURM_TASKS_PER_NODE": "4(x2),3", "SLURM_NODEID": "1"}, (3, 4)),
        (
            {"SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_TASKS_PER_NODE": "8"},
            (1, 2),
        ),
    ],
)
def test_every_launchers_numbers_are_read(variables, numbers):
    assert local_numbers(variables) == numbers


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        (
            {"HOROVOD_LOCAL_RANK": "4", "HOROVOD_LOCAL_SIZE": "4"},
            "LOCAL_RANK 4: out of range, HOROVOD_LOCAL_SIZE is 4$",
        ),
        ({"PMI_LOCAL_RANK": "-1", "PMI_LOCAL_SIZE": "4"}, "PMI_LOCAL_RANK -1: out of range"),
        ({"HOROVOD_LOCAL_RANK": "0"}, "HOROVOD_LOCAL_RANK is set, and HOROVOD_LOCAL_SIZE is not"),
        (
            {"HOROVOD_LOCAL_RANK": "x", "HOROVOD_LOCAL_SIZE": "4"},
            "HOROVOD_LOCAL_RANK x, HOROVOD_LOCAL_SIZE 4: make no sense",
        ),
        ({"SLURM_LOCALID": "0", "SLURM_TASKS_PER_NODE": "many(x2)"}, r"SLURM_TASKS_PER_NODE many\(x2\)"),
    ],
)
def test_numbers_that_make_no_sense_are_named(variables, told):
    with pytest.raises(UsageError, match=told):
        local_numbers(variables)


@pytest.mark.parametrize("text", ["", "5", "0-3", "0-15,128-143", "1,3,5-6"])
def test_the_kernels_lists_come_back(text):
    assert as_list(read_list(f"{text}\n")) == text


def test_workers_of_one_job_may_be_placed_differently(monkeypatch):
    """The flag fits a machine; the others of its group must still be the same everywhere."""
    seen = {}

    class Pair:
        size = 2

        def check_same(self, items):
            seen.update(items)

    monkeypatch.setattr(worker_checks, "_code_version", lambda: "code")
    worker_checks.check_alike(Pair(), PretrainingConfig(model_name="a", affinity="socket"), {})
    assert "--stall_timeout" in seen and "--affinity" not in seen


def test_a_plain_machine_has_one_place_for_all(machine):
    assert machine(PLAIN).places(2) == [("0-1", "0")] * 2
    assert machine(PLAIN).places(2, apart=True) == [("0", "0"), ("1", "0")]


# ------------------------------------------------------------------------------------- on this machine


@pytest.fixture
def here(monkeypatch) -> list[int]:
    """The processors of this process, which it must keep; no GPU of this machine is in sight."""
    found = sorted(os.sched_getaffinity(0))
    if len(found) < 2:
        pytest.skip("this process may use one processor alone")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    yield found
    assert sorted(os.sched_getaffinity(0)) == found


@pytest.mark.parametrize(("bound", "sharing"), [(None, 4), ("1/4", 1), ("2/4", 2), ("1/1", 4)])
def test_threads_are_divided_among_those_who_share_the_processors(here, monkeypatch, bound, sharing):
    """bind.sh says how many; inside a launcher that is bound itself its word is not about the workers."""
    if bound is not None:
        monkeypatch.setenv("BOUND_WORKERS", bound)
    threads = {}
    exec(PRETENDED_TENSORFLOW, {"threads": threads, "replace": monkeypatch.setitem})
    take_share(Workers(1, 4, 1, 4), "none")
    assert threads["intra"] == max(1, len(here) // sharing)


def test_without_knowledge_processors_are_left_alone_and_one_worker_says_so(
    here, machine, monkeypatch, capsys
):
    root = machine(EMPTY).root
    monkeypatch.setenv("SYS_ROOT", str(root))
    assert [take_processors("socket_unique", rank, 2) for rank in (0, 1)] == [2, 2]
    assert capsys.readouterr() == (
        "",
        f"--affinity socket_unique: the kernel names no NUMA node under {root}; "
        "processors are left as they are\n",
    )


def test_a_machine_that_makes_no_sense_ends_no_run(here, machine, monkeypatch, capsys):
    pretended = machine(DGX1)
    monkeypatch.setenv("SYS_ROOT", str(pretended.root))
    monkeypatch.setenv("PATH", str(pretended.programs))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    # Node 1 has no processor here; more workers than GPUs; words in place of an address; of a number.
    assert take_processors("socket", 0, 8) == 8
    assert take_processors("socket", 0, 9) == 9
    write_program(pretended.programs / "nvidia-smi", "echo GPU-1, '[N/A]'\n")
    assert take_processors("socket", 0, 1) == 1
    (pretended.root / "devices/system/node/node0/cpulist").write_text("all")
    assert take_processors("socket", 0, 1) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("processors are left as they are\n") == 4


def test_a_worker_that_bind_sh_has_bound_is_not_bound_again(here, monkeypatch, capsys):
    monkeypatch.setenv("BOUND_WORKERS", "1/2")
    assert [take_processors("socket_unique", rank, 2) for rank in (0, 1)] == [1, 1]
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "bind.sh has bound the workers already" in said


# TensorFlow is replaced by what notes down the numbers of threads.
PRETENDED_TENSORFLOW = """
import sys
from types import SimpleNamespace
threading_settings = SimpleNamespace(
    set_intra_op_parallelism_threads=lambda count: threads.update(intra=count),
    set_inter_op_parallelism_threads=lambda count: threads.update(inter=count),
)
config = SimpleNamespace(list_physical_devices=lambda kind: [], threading=threading_settings)
replace(sys.modules, "tensorflow", SimpleNamespace(config=config))
"""

# A worker that binds itself as run_pretraining.py does, and says what came of it. One thread is there before,
# and another has a place of its own.
WORKER = """
import json, os, threading
from affinity import local_numbers
from device import take_share
from workers import Workers

threads, replace = {}, dict.__setitem__
exec(os.environ["PRETENDED_TENSORFLOW"])
started, end, last = threading.Barrier(3), threading.Event(), max(os.sched_getaffinity(0))

def settled():
    os.sched_setaffinity(0, {last})
    started.wait()
    end.wait()

for body in (lambda: (started.wait(), end.wait()), settled):
    threading.Thread(target=body, daemon=True).start()
started.wait()
rank, size = local_numbers(os.environ)
take_share(Workers(rank, size, rank, size), "socket_unique")
masks = [sorted(os.sched_getaffinity(int(thread))) for thread in os.listdir("/proc/self/task")]
print(json.dumps({"own": sorted(os.sched_getaffinity(0)), "masks": masks, **threads}))
"""


def test_two_real_workers_share_no_processor_and_divide_their_threads_once(here, tmp_path):
    """All their threads come along, but the one that has a place of its own."""
    variables = {"PATH": str(tmp_path), "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    variables |= {"HOROVOD_LOCAL_SIZE": "2", "PRETENDED_TENSORFLOW": PRETENDED_TENSORFLOW}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env=variables | {"HOROVOD_LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [worker.communicate(timeout=60)[0].splitlines() for worker in started]
    first, second = (json.loads(lines[-1]) for lines in outputs)
    assert first["own"] and second["own"] and not set(first["own"]) & set(second["own"])
    assert set(first["own"] + second["own"]) <= set(here)
    if len(here) == os.cpu_count():
        assert sorted(first["own"] + second["own"]) == here
    for worker, lines in zip((first, second), outputs, strict=True):
        assert worker["intra"] == len(worker["own"])
        assert lines[0] == f"--affinity socket_unique: processors {as_list(worker['own'])}"
    assert here[-1] not in first["own"] and first["masks"].count([here[-1]]) == 1
    assert first["masks"].count(first["own"]) == len(first["masks"]) - 1 >= 2
