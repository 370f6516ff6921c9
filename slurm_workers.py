"""How the tasks of an `srun` become the workers of a job without MPI: from the variables that Slurm sets.

The first task serves the meeting point (rendezvous.py) at an address and port that each task works out for
itself, so that nothing but `srun python run_pretraining.py …` is needed.
"""

import re
import socket
import time
from collections.abc import Mapping

import rendezvous
from command_line import RunFailure

_PORTS = range(20_000, 30_000)
# Tasks of one step start within seconds of each other, but their containers may have to be unpacked first.
_SECONDS_TO_MEET = 300
_PAUSE_SECONDS = 0.2


def number_of_tasks(environment: Mapping[str, str]) -> int:
    """How many tasks `srun` started this process among; 1 where it did not, as in a batch script."""
    return int(environment.get("SLURM_STEP_NUM_TASKS", 1)) if "SLURM_PROCID" in environment else 1


def meet(environment: Mapping[str, str], seconds: float = _SECONDS_TO_MEET) -> dict[str, str]:
    """The variables that tell Horovod this task's place; returns when the meeting point answers.

    Raises:
        RunFailure: the first task does not answer in time, or its port is taken.
    """
    tasks = tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"])
    node, local_rank = int(environment["SLURM_NODEID"]), int(environment["SLURM_LOCALID"])
    # Counted by node whatever srun's --distribution, as Horovod's numbering of ranks is.
    rank = sum(tasks[:node]) + local_rank
    slots = rendezvous.number_slots([(f"node{number}", count) for number, count in enumerate(tasks)])
    address, port = head_address(environment), _port(environment)
    if rank == 0:
        try:
            rendezvous.serve(slots, address, port)
        except OSError as error:
            raise RunFailure(f"{address}:{port}, where workers are to meet: {error.strerror}") from None
    _wait_for(address, port, seconds)
    found = rendezvous.variables(slots[rank], address, port)
    return found | {"HOROVOD_GLOO_IFACE": rendezvous.interface_towards(address)}


def tasks_per_node(text: str) -> list[int]:
    """Slurm's short form of the tasks on each node: "2(x3),1" is [2, 2, 2, 1].

    Raises:
        ValueError: another form.
    """
    counts = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            raise ValueError(f"{text!r} is no list of tasks per node")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def first_host(node_list: str) -> str:
    """The first name of Slurm's short form: "gpu[07-09,12],big1" begins with "gpu07"."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", node_list)[0]
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first)


def head_address(environment: Mapping[str, str]) -> str:
    """The IPv4 address of the step's first node.

    Its name is asked for; where names are not known, or mean the machine that asks, it is the node that srun
    runs on: in a batch job, the first one.
    """
    if int(environment.get("SLURM_STEP_NUM_NODES", 1)) == 1:
        return "127.0.0.1"
    found = []
    try:
        name = first_host(environment["SLURM_STEP_NODELIST"])
        found += [entry[4][0] for entry in socket.getaddrinfo(name, None, socket.AF_INET)]
    except OSError:
        pass
    found.append(environment["SLURM_LAUNCH_NODE_IPADDR"])
    return next((address for address in found if not address.startswith("127.")), found[-1])


def _port(environment: Mapping[str, str]) -> int:
    """One that other steps on the same node are unlikely to have; all tasks come to the same."""
    job, step = int(environment["SLURM_JOB_ID"]), int(environment["SLURM_STEP_ID"])
    return _PORTS[(job * 31 + step) % len(_PORTS)]


def _wait_for(address: str, port: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((address, port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise RunFailure(
                    f"worker 0 does not answer at {address}:{port} within {seconds:.0f} s: "
                    f"{error.strerror or error}"
                ) from None
        time.sleep(_PAUSE_SECONDS)
