"""The meeting point at which Horovod's workers find each other without MPI: an HTTP server and variables.

Horovod's own server and its numbering are used; start_workers.py starts the workers. Nothing here loads
TensorFlow.
"""

import socket
import threading
from collections.abc import Sequence

from command_line import UsageError

MISSING = "Horovod is not installed: bash scripts/install.sh --horovod"


def number_slots(hosts: Sequence[tuple[str, int]]) -> list:
    """Horovod's description of each worker, by rank: its host and its numbers.

    Args:
        hosts: name and number of workers of each machine.
    """
    _, host_info, assign = _horovod_runner()
    workers = sum(count for _, count in hosts)
    return assign([host_info(name, count) for name, count in hosts], workers, workers)


def serve(slots: list, address: str, port: int = 0) -> int:
    """Serve the meeting point from a thread of this process, for as long as it lives.

    Args:
        address: to listen at; "" is all of this machine's.
        port: 0 takes a free one.

    Returns:
        The port.

    Raises:
        OSError: the port is taken.
    """
    make_server, _, _ = _horovod_runner()
    server = make_server((address, port))
    server.init(slots)
    threading.Thread(target=server.serve_forever, name="rendezvous", daemon=True).start()
    return server.server_address[1]


def variables(slot, address: str, port: int) -> dict[str, str]:
    """The environment that makes a process the worker of a slot."""
    return {
        "HOROVOD_HOSTNAME": slot.hostname,
        "HOROVOD_RANK": str(slot.rank),
        "HOROVOD_SIZE": str(slot.size),
        "HOROVOD_LOCAL_RANK": str(slot.local_rank),
        "HOROVOD_LOCAL_SIZE": str(slot.local_size),
        "HOROVOD_CROSS_RANK": str(slot.cross_rank),
        "HOROVOD_CROSS_SIZE": str(slot.cross_size),
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": address,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
    }


def interface_towards(address: str) -> str:
    """The name of this machine's network interface from which an IPv4 address is reached."""
    import psutil

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Sends nothing: the system only looks up the way.
        probe.connect((address, 9))
        own = probe.getsockname()[0]
    names = (
        name for name, found in psutil.net_if_addrs().items() if own in (entry.address for entry in found)
    )
    return next(names, "lo")


def _horovod_runner():
    try:
        from horovod.runner.common.util.hosts import HostInfo, get_host_assignments
        from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer
    except ImportError:
        raise UsageError(MISSING) from None

    def make_server(place):
        return RendezvousHTTPServer(place, RendezvousHandler, False)

    return make_server, HostInfo, get_host_assignments
