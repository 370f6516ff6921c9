"""The processors of a worker: those of its GPU's NUMA node, all of them or a part of its own.

The kernel's files under /sys say which processors a NUMA node has, which of them are threads of one core, and
at which node a GPU is; nvidia-smi says which GPUs there are. `--affinity` binds a running program
(`take_processors`); scripts/bind.sh asks `main` and binds a command before it starts, its memory too. Nothing
here loads TensorFlow.
"""

import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from command_line import UsageError, run_program
from slurm_workers import tasks_per_node

# The NUMA node of each GPU, for where the kernel does not say it. Names of NVIDIA's own clusters count too.
_DGX1 = (0, 0, 0, 0, 1, 1, 1, 1)
_DGX2 = (0,) * 8 + (1,) * 8
_DGX_A100 = (3, 3, 1, 1, 7, 7, 5, 5)
_CLUSTERS = {"dgx1": _DGX1, "dgx2": _DGX2, "circe": _DGX2, "dgxa100": _DGX_A100, "selene": _DGX_A100}

# How launchers tell a process its number among the workers of its machine, and how many these are.
_NUMBERS = (
    ("HOROVOD_LOCAL_RANK", ("HOROVOD_LOCAL_SIZE",)),
    ("OMPI_COMM_WORLD_LOCAL_RANK", ("OMPI_COMM_WORLD_LOCAL_SIZE",)),
    ("MV2_COMM_WORLD_LOCAL_RANK", ("MV2_COMM_WORLD_LOCAL_SIZE",)),
    ("MPI_LOCALRANKID", ("MPI_LOCALNRANKS",)),
    ("PMI_LOCAL_RANK", ("PMI_LOCAL_SIZE",)),
    ("PMIX_LOCAL_RANK", ("PMIX_LOCAL_SIZE",)),
    ("SLURM_LOCALID", ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE")),
)
# Set by scripts/bind.sh. 1/4: one of the four workers here has these processors, 4/4: all four have.
_BOUND = "BOUND_WORKERS"
_NVIDIA_SMI = ("nvidia-smi", "--query-gpu=uuid,pci.bus_id", "--format=csv,noheader")


class Unplaced(Exception):
    """What a worker's place follows from is not known: one line that says why."""


# The last two: files of the kernel or words of nvidia-smi that are not as expected.
_UNKNOWN = (Unplaced, UsageError, OSError, ValueError)


@dataclass(frozen=True)
class Place:
    """Processors and NUMA nodes of a worker, and how many workers have the same processors."""

    processors: frozenset[int]
    nodes: tuple[int, ...]
    workers: int


def take_processors(mode: str, local_rank: int, local_size: int) -> int:
    """Bind this process as --affinity says, or leave it as it is and say why.

    To be called before threads are started; those that there are come along.

    Args:
        mode: none, socket, or socket_unique.

    Returns:
        How many workers share the processors that this one may use.
    """
    workers, _, bound_among = os.environ.get(_BOUND, "").partition("/")
    is_bound = bound_among == str(local_size)
    workers_here = int(workers) if is_bound else local_size
    if mode == "none":
        return workers_here
    try:
        if is_bound:
            raise Unplaced("scripts/bind.sh has bound the workers already")
        open_to_us = os.sched_getaffinity(0)
        place = find_places(local_size, os.environ, open_to_us, apart=mode == "socket_unique")[local_rank]
        _bind_threads(place.processors, open_to_us)
    except _UNKNOWN as error:
        if local_rank == 0:
            print(f"--affinity {mode}: {error}; processors are left as they are", file=sys.stderr)
        return workers_here
    print(f"--affinity {mode}: processors {as_list(place.processors)}")
    return place.workers


def find_places(
    local_size: int,
    environment: Mapping[str, str],
    open_to_us: Collection[int] | None,
    *,
    apart: bool,
    cluster: str = "auto",
) -> list[Place]:
    """The places of this machine's workers, by local rank: the i-th has the i-th visible GPU.

    Without GPUs the NUMA nodes are divided among the workers. All workers have a place or none has: one that
    roamed over the others' own processors would be worse than no binding.

    Args:
        open_to_us: the processors to choose from; None for all.
        apart: no two workers share a processor: cores are divided, or, where they are fewer, their threads.
        cluster: the machine's type, a name in the table above; auto asks the kernel.

    Raises:
        Unplaced: the kernel or nvidia-smi does not say enough, or there are too few processors.
        UsageError: an unknown type, or more workers than GPUs.
    """
    root = _root(environment)
    nodes = numa_nodes(root, open_to_us)
    gpu_nodes = _gpu_nodes(environment, root, nodes, cluster)
    if gpu_nodes is None:
        homes = _divide(sorted(nodes), local_size)
    elif local_size > len(gpu_nodes) and "SLURM_GPUS_PER_TASK" in environment:
        raise Unplaced("each worker sees its own GPU alone; with --gpus-per-node all see all")
    elif local_size > len(gpu_nodes):
        raise UsageError(f"{local_size} workers on this machine, and {len(gpu_nodes)} visible GPUs")
    else:
        homes = [(node,) for node in gpu_nodes[:local_size]]
    for node in sorted({node for home in homes for node in home} - nodes.keys()):
        raise Unplaced(f"no processor of NUMA node {node} is open to this process")
    mates, placed, places = Counter(homes), Counter(), []
    for home in homes:
        processors = frozenset().union(*(nodes[node] for node in home))
        if apart:
            processors = _part(processors, root, placed[home], mates[home])
        placed[home] += 1
        places.append(Place(processors, home, 1 if apart else mates[home]))
    return places


def numa_nodes(root: Path, open_to_us: Collection[int] | None) -> dict[int, frozenset[int]]:
    """The processors of each NUMA node that has any open to us.

    Raises:
        Unplaced: there is none.
    """
    nodes = {}
    for path in root.glob("devices/system/node/node[0-9]*/cpulist"):
        processors = frozenset(read_list(path.read_text()))
        if open_to_us is not None:
            processors &= frozenset(open_to_us)
        if processors:
            nodes[int(path.parent.name[len("node") :])] = processors
    if not nodes:
        raise Unplaced(f"the kernel names no NUMA node under {root}")
    return nodes


def cores(processors: Collection[int], root: Path) -> list[tuple[int, ...]]:
    """Those of the processors that are threads of one core, core by core, the lowest first."""
    threads: dict[int, list[int]] = {}
    for processor in sorted(processors):
        path = root / f"devices/system/cpu/cpu{processor}/topology/thread_siblings_list"
        first = min(read_list(path.read_text())) if path.exists() else processor
        threads.setdefault(first, []).append(processor)
    return [tuple(group) for _, group in sorted(threads.items())]


def visible_gpus(environment: Mapping[str, str], root: Path) -> list[str] | None:
    """Addresses on the PCI bus, as under /sys, in the order that CUDA numbers GPUs; None without any.

    Raises:
        Unplaced: there are GPUs, but nvidia-smi cannot tell about them.
    """
    try:
        asked = subprocess.run(
            _NVIDIA_SMI, capture_output=True, text=True, check=True, timeout=60, env=environment
        )
    except (OSError, subprocess.SubprocessError):
        if (root / "module/nvidia").exists() and environment.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
            raise Unplaced("nvidia-smi does not say which GPUs there are") from None
        return None
    lines = [line.split(",") for line in asked.stdout.splitlines() if "," in line]
    gpus = [(uuid.strip(), _kernels_address(address.strip())) for uuid, address in lines]
    return _choose_visible(gpus, environment) or None


def local_numbers(environment: Mapping[str, str]) -> tuple[int, int]:
    """Number of this process among the workers of its machine, and how many they are, as its launcher says.

    Raises:
        UsageError: names the variable that is missing or makes no sense.
    """
    for rank_name, size_names in _NUMBERS:
        if rank_name not in environment:
            continue
        size_name = next((name for name in size_names if name in environment), None)
        if size_name is None:
            raise UsageError(f"{rank_name} is set, and {' or '.join(size_names)} is not")
        rank_text, size_text = environment[rank_name], environment[size_name]
        try:
            rank = int(rank_text)
            size = _size_of_node(size_text, int(environment.get("SLURM_NODEID", 0)))
        except (ValueError, IndexError):
            raise UsageError(f"{rank_name} {rank_text}, {size_name} {size_text}: make no sense") from None
        if not 0 <= rank < size:
            raise UsageError(f"{rank_name} {rank}: out of range, {size_name} is {size_text}")
        return rank, size
    return 0, 1


def read_list(text: str) -> list[int]:
    """The numbers of the kernel's short form: "0-2,8" is 0, 1, 2 and 8."""
    numbers = []
    for piece in filter(None, text.strip().split(",")):
        first, _, last = piece.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def as_list(numbers: Collection[int]) -> str:
    """The kernel's short form of numbers."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def main() -> int:
    """Answer scripts/bind.sh, which gives its --cpu and --cluster, in one line of words.

    These are the local rank, the value of BOUND_WORKERS, the processors, and the NUMA nodes, left out where
    the machine has one; where no place is known the local rank alone.
    """
    how, cluster = sys.argv[1:]
    rank, size = local_numbers(os.environ)
    # Of a pretended machine this one's limits say nothing.
    open_to_us = None if "SYS_ROOT" in os.environ else os.sched_getaffinity(0)
    try:
        place = find_places(size, os.environ, open_to_us, apart=how.startswith("exclusive"), cluster=cluster)[
            rank
        ]
    except Unplaced as error:
        if rank == 0:
            print(f"bind.sh: {error}: nothing is bound", file=sys.stderr)
        print(rank)
        return 0
    processors = place.processors
    root = _root(os.environ)
    if how.endswith("nosmt"):
        processors = {threads[0] for threads in cores(processors, root)}
    nodes = as_list(place.nodes) if len(numa_nodes(root, None)) > 1 else ""
    print(rank, f"{place.workers}/{size}", as_list(processors), nodes)
    return 0


def _root(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("SYS_ROOT", "/sys"))


def _gpu_nodes(
    environment: Mapping[str, str], root: Path, nodes: Collection[int], cluster: str
) -> list[int] | None:
    """The NUMA node of each visible GPU; None on a machine without GPUs."""
    if cluster != "auto":
        if cluster not in _CLUSTERS:
            raise UsageError(f"--cluster {cluster}: is none of auto, {', '.join(_CLUSTERS)}")
        return _choose_visible([("", node) for node in _CLUSTERS[cluster]], environment)
    addresses = visible_gpus(environment, root)
    if addresses is None:
        return None
    return [_node_of_device(address, root, nodes) for address in addresses]


def _node_of_device(address: str, root: Path, nodes: Collection[int]) -> int:
    path = root / "bus/pci/devices" / address / "numa_node"
    node = int(path.read_text()) if path.exists() else -1
    if node >= 0:
        return node
    # The kernel says -1 where the firmware is silent; with one node there is no other.
    if len(nodes) == 1:
        return min(nodes)
    raise Unplaced(f"the kernel does not say at which NUMA node GPU {address} is")


def _kernels_address(address: str) -> str:
    """nvidia-smi's 00000000:0F:00.0 is 0000:0f:00.0 under /sys."""
    domain, _, rest = address.lower().partition(":")
    return f"{int(domain, 16):04x}:{rest}"


def _choose_visible(gpus: list[tuple[str, object]], environment: Mapping[str, str]) -> list:
    """What belongs to the GPUs that CUDA_VISIBLE_DEVICES names, by number or by the beginning of the UUID."""
    if "CUDA_VISIBLE_DEVICES" not in environment:
        return [item for _, item in gpus]
    chosen = []
    for word in environment["CUDA_VISIBLE_DEVICES"].replace(" ", "").split(","):
        # As CUDA has it, what follows these is not visible.
        if word in ("", "-1"):
            break
        found = [
            item for number, (uuid, item) in enumerate(gpus) if word == str(number) or uuid.startswith(word)
        ]
        if not found:
            raise Unplaced(f"CUDA_VISIBLE_DEVICES names {word}, and no such GPU is known")
        chosen.append(found[0])
    return chosen


def _divide(nodes: list[int], workers: int) -> list[tuple[int, ...]]:
    """Nodes for each worker, neighbours together; fewer nodes than workers are shared by neighbours."""
    bounds = [k * len(nodes) // workers for k in range(workers + 1)]
    return [tuple(nodes[bounds[k] : max(bounds[k + 1], bounds[k] + 1)]) for k in range(workers)]


def _part(processors: frozenset[int], root: Path, number: int, parts: int) -> frozenset[int]:
    units = cores(processors, root)
    if len(units) < parts:
        units = [(processor,) for processor in sorted(processors)]
    if len(units) < parts:
        raise Unplaced(f"{parts} workers share {len(units)} processors")
    own = units[number * len(units) // parts : (number + 1) * len(units) // parts]
    return frozenset(processor for unit in own for processor in unit)


def _bind_threads(processors: Collection[int], before: set[int]) -> None:
    """Bind the threads that may run wherever the process may: Horovod's and NumPy's are there already."""
    for thread in map(int, os.listdir("/proc/self/task")):
        with contextlib.suppress(ProcessLookupError):
            if os.sched_getaffinity(thread) == before:
                os.sched_setaffinity(thread, processors)


def _size_of_node(text: str, node: int) -> int:
    """Slurm says how many tasks each node has, or how many all have."""
    return int(text) if text.isdecimal() else tasks_per_node(text)[node]


if __name__ == "__main__":
    # The user has called the script.
    sys.argv[0] = "bind.sh"
    run_program(main)
