"""The hosts of a job as start_workers.py sees them; host_workers.py is what runs there.

There is one ssh connection to each host, and the launcher needs no other. The hosts find each other at the
addresses that ssh reached them at; worker 0's host serves the meeting point.
"""

import json
import os
import queue
import re
import secrets
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import PIPE

import child_processes
from command_line import UsageError

# The code of a worker whose host is lost; no process ends with it.
LOST = 256

# For a host to be reached, to reach the others and to start its workers.
_SECONDS_TO_START = 50
_SECONDS_TO_END = 5
_HOST = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*):([1-9][0-9]*)")
# No questions; IPv4, as Horovod's server has it; a host that is cut off is noticed within 40 s; and nothing
# further that a user's configuration lets connections do.
_SSH_OPTIONS = (
    *("BatchMode=yes", "AddressFamily=inet", "RequestTTY=no"),
    *("ConnectTimeout=10", "ServerAliveInterval=10", "ServerAliveCountMax=3"),
    *("ControlPath=none", "ClearAllForwardings=yes", "ForwardX11=no", "ForwardAgent=no"),
)
# What a host has of its own.
_HOSTS_OWN = re.compile(
    r"_|BASH_FUNC_.*|DBUS_.*|DISPLAY|HOME|HOSTNAME|LOGNAME|MAIL|OLDPWD|PWD|SHELL|SHLVL|SSH_.*|TMPDIR|USER"
    r"|XAUTHORITY|XDG_RUNTIME_DIR|XDG_SESSION_.*"
)


def parse_hosts(text: str, workers: int) -> list[tuple[str, int]]:
    """Names of hosts and the number of workers on each, filled in their order.

    Args:
        text: HOST:SLOTS,...
        workers: how many there are in all; 0 takes every slot.

    Raises:
        UsageError: names the entry that is not of this form or there twice, or too large a number.
    """
    hosts = {}
    for entry in text.split(","):
        match = _HOST.fullmatch(entry)
        if not match:
            raise UsageError(f"--hosts {text}: {entry!r} is not HOST:SLOTS")
        if match[1] in hosts:
            raise UsageError(f"--hosts {text}: {match[1]} is there twice")
        hosts[match[1]] = int(match[2])
    left = workers or sum(hosts.values())
    if left > sum(hosts.values()):
        raise UsageError(f"--workers {workers}: --hosts {text} has {sum(hosts.values())} slots")
    filled = []
    for name, slots in hosts.items():
        filled.append((name, min(slots, left)))
        left -= filled[-1][1]
    return [(name, count) for name, count in filled if count]


class RemoteHosts:
    """The connected hosts of a job; a context that leaves nothing running there.

    Args:
        hosts: from parse_hosts.
        ssh_config: a configuration file for ssh; "" is the user's own.

    Raises:
        UsageError: names every host that cannot be reached, lacks something or does not reach another.
    """

    def __init__(self, hosts: Sequence[tuple[str, int]], ssh_config: str):
        self._deadline = time.monotonic() + _SECONDS_TO_START
        options = [word for option in _SSH_OPTIONS for word in ("-o", option)]
        ssh = ["ssh", *(["-F", ssh_config] if ssh_config else []), *options, "--"]
        self._hosts = [_Host(name, ssh) for name, _ in hosts]
        try:
            places = self._ask("meet", *({"hosts": hosts, "index": index} for index in range(len(hosts))))
            self._ask("reach", *({"places": places} for _ in hosts))
        except BaseException:
            self.close()
            raise
        self._counts, self._meeting = [count for _, count in hosts], places[0]

    def __enter__(self):
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def start(self, command: Sequence[str]) -> list["RemoteWorker"]:
        """Start a command as all workers, by rank, in the folder and environment of this process."""
        environment = {name: value for name, value in os.environ.items() if not _HOSTS_OWN.fullmatch(name)}
        workers = []
        for host, count in zip(self._hosts, self._counts, strict=True):
            host.workers = {
                rank: RemoteWorker(host, rank) for rank in range(len(workers), len(workers) + count)
            }
            workers += host.workers.values()
        request = {
            "command": command,
            "environment": environment,
            "folder": os.getcwd(),
            "meeting": self._meeting,
        }
        self._ask("start", *(request for _ in self._hosts))
        return workers

    def close(self) -> None:
        """End the connections; workers that are left get SIGTERM, save, and end."""
        end = time.monotonic() + _SECONDS_TO_END
        for host in self._hosts:
            host.requests.put(None)
        for host in self._hosts:
            host.end(max(0, end - time.monotonic()))

    def _ask(self, request: str, *arguments: dict) -> list[dict]:
        for host, own in zip(self._hosts, arguments, strict=True):
            host.ask(request, **own)
        answers = [host.answer(self._deadline) for host in self._hosts]
        failures = [
            f"host {host.name}: {answer['error']}"
            for host, answer in zip(self._hosts, answers, strict=True)
            if "error" in answer
        ]
        if failures:
            raise UsageError("; ".join(failures))
        return answers


class RemoteWorker:
    """A worker on a host, with what is used here of subprocess.Popen."""

    def __init__(self, host: "_Host", rank: int):
        self._host, self._rank = host, rank
        self.returncode: int | None = None

    @property
    def host(self) -> str:
        return self._host.name

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        self._host.ask("send", rank=self._rank, number=number)


class _Host:
    """The connection to one host."""

    def __init__(self, name: str, ssh: Sequence[str]):
        self.name = name
        self.workers: dict[int, RemoteWorker] = {}
        # A queue may be put to from within a signal handler; a pipe that is being written to may not.
        self.requests: queue.SimpleQueue[dict | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[dict] = queue.SimpleQueue()
        self._mark = f"\x1e{secrets.token_hex(8)}"
        program = Path(__file__).absolute().with_name("host_workers.py")
        try:
            self.process = child_processes.start(
                [*ssh, name, shlex.join([sys.executable, str(program)])], stdin=PIPE, stdout=PIPE, stderr=PIPE
            )
        except FileNotFoundError:
            raise UsageError("--hosts: ssh is not installed here") from None
        self._copy = child_processes.copy_lines(self.process.stdout, 1)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        threading.Thread(target=self._write, daemon=True).start()

    def ask(self, request: str, **arguments) -> None:
        if request == "meet":
            arguments["mark"] = self._mark
        self.requests.put({"request": request, **arguments})

    def answer(self, deadline: float) -> dict:
        try:
            return self._answers.get(timeout=max(0, deadline - time.monotonic()))
        except queue.Empty:
            return {"error": f"no answer within {_SECONDS_TO_START} s"}

    def end(self, seconds: float) -> None:
        """Wait for the end of the connection and of what it brings, or end it."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
        # Not for ever: what ssh started to get there may hold the pipes.
        self._reader.join(_SECONDS_TO_END)

    def _write(self) -> None:
        try:
            while (request := self.requests.get()) is not None:
                self.process.stdin.write(json.dumps(request).encode() + b"\n")
                self.process.stdin.flush()
            self.process.stdin.close()
        except OSError:
            pass  # the connection is lost, which _read notices

    def _read(self) -> None:
        met, said = False, ""
        mark = self._mark.encode()
        for line in self.process.stderr:
            text, is_answer, answer = line.partition(mark)
            if met:
                child_processes.write(2, text)
            elif text.strip():
                said = text.decode(errors="replace").strip()
            if is_answer:
                met, said = True, ""
                self._take(json.loads(answer))
        code = self.process.wait()
        self._answers.put({"error": said or f"the connection ended with status {code}"})
        self._copy.join()
        for worker in self.workers.values():
            if worker.returncode is None:
                worker.returncode = LOST

    def _take(self, answer: dict) -> None:
        if "rank" in answer:
            self.workers[answer["rank"]].returncode = answer["code"]
        else:
            self._answers.put(answer)
