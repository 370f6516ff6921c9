"""One host's workers: what start_workers.py --hosts starts there over ssh, not to be run by hand.

Requests come on stdin, a JSON object a line: `meet`, `reach`, `start` and `send`, below. An answer goes to
stderr, a JSON object behind a mark that the first request brings, amid the lines that workers print. When
stdin ends, the job is over or its launcher is lost: workers that are left get SIGTERM, save, and end.
"""

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from subprocess import DEVNULL, PIPE, STDOUT, Popen

import child_processes
import rendezvous
from command_line import UsageError, run_program

_SECONDS_TO_REACH = 5
# For what is left in a pipe when its worker has ended; something that the worker started may hold it open.
_SECONDS_TO_COPY = 5


def main() -> int:
    host = Host()
    signal.signal(signal.SIGTERM, lambda number, frame: host.send_all(number))
    for line in sys.stdin.buffer:
        host.do(**json.loads(line))
    host.send_all(signal.SIGTERM)
    host.wait()
    return 0


class Host:
    """This host's part of a job."""

    def __init__(self):
        self._mark = ""
        self._workers: dict[int, Popen] = {}
        self._followers: list[threading.Thread] = []

    def do(self, request: str, **arguments) -> None:
        """Do what is asked for, and answer."""
        requests = {"meet": self.meet, "reach": self.reach, "start": self.start, "send": self.send}
        try:
            answer = requests[request](**arguments)
        except UsageError as error:
            answer = {"error": str(error)}
        except OSError as error:
            answer = {"error": f"{error.filename}: {error.strerror}" if error.filename else str(error)}
        if answer is not None:
            self._tell(answer)

    def meet(self, mark: str, hosts: Sequence[tuple[str, int]], index: int) -> dict:
        """Learn which of the hosts this is, and answer with a place where the others can find it.

        On the first host, that of worker 0, it is where the workers meet.
        """
        self._mark = mark
        name, _ = hosts[index]
        slots = rendezvous.number_slots(hosts)
        self._slots = [slot for slot in slots if slot.hostname == name]
        # The addresses and ports of the ssh connection: the client's, and this host's.
        _, _, address, _ = os.environ["SSH_CONNECTION"].split()
        if address.startswith("127.") and len(hosts) > 1:
            raise UsageError(f"ssh reaches it at {address}, where no other host finds it")
        self._interface = rendezvous.interface_towards(address)
        if index == 0:
            port = rendezvous.serve(slots, address)
        else:
            self._listener = socket.create_server((address, 0), backlog=len(hosts))
            port = self._listener.getsockname()[1]
        return {"name": name, "address": address, "port": port}

    def reach(self, places: Sequence[Mapping]) -> dict:
        """See that this host finds all at the places that they answered with."""
        for place in places:
            where = place["address"], place["port"]
            try:
                socket.create_connection(where, timeout=_SECONDS_TO_REACH).close()
            except OSError as error:
                raise UsageError(f"does not reach {place['name']} at {where[0]}: {error}") from None
        return {}

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], folder: str, meeting: Mapping
    ) -> dict:
        """Start the workers in a folder; the end of each is told as its rank and code."""
        os.chdir(folder)
        environment = {**os.environ, **environment, "HOROVOD_GLOO_IFACE": self._interface}
        for slot in self._slots:
            is_first = slot.rank == 0
            worker = child_processes.start(
                command,
                environment | rendezvous.variables(slot, meeting["address"], meeting["port"]),
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=PIPE if is_first else STDOUT,
            )
            self._workers[slot.rank] = worker
            if is_first:
                copies = [
                    child_processes.copy_lines(stream, target)
                    for target, stream in ((1, worker.stdout), (2, worker.stderr))
                ]
            else:
                copies = [child_processes.copy_lines(worker.stdout, 2, b"[%d] " % slot.rank)]
            follower = threading.Thread(target=self._follow, args=(slot.rank, copies), daemon=True)
            follower.start()
            self._followers.append(follower)
        return {}

    def send(self, rank: int, number: int) -> None:
        """Send a signal to a worker; none to one that has ended."""
        self._workers[rank].send_signal(number)

    def send_all(self, number: int) -> None:
        for rank in self._workers:
            self.send(rank, number)

    def wait(self) -> None:
        """Return when all workers have ended."""
        for follower in self._followers:
            follower.join()

    def _follow(self, rank: int, copies: Sequence[threading.Thread]) -> None:
        code = self._workers[rank].wait()
        for copy in copies:
            copy.join(_SECONDS_TO_COPY)
        self._tell({"rank": rank, "code": code})

    def _tell(self, answer: Mapping) -> None:
        child_processes.write(2, f"{self._mark}{json.dumps(answer)}\n".encode())


if __name__ == "__main__":
    run_program(main)
