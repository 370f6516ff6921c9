"""Hosts without machines: network namespaces on a bridge, each with its own name, processes and ssh server.

All that runs on a host hangs on one process and ends with it. The file system is the machine's own, but for
what a test mounts on one host alone.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

_PORT = 2222
_ADDRESS = "10.77.0."
_TOOLS = ("unshare", "nsenter", "ip", "mount", "hostname", "ssh", "ssh-keygen", "sshd")
_PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"
_NEW = ("unshare", "--fork", "--kill-child", "--pid", "--mount-proc", "--net", "--uts", "--", "sh", "-euc")
_PR_SET_PDEATHSIG = 1


def need_hosts() -> None:
    """Skip where no such hosts can be made, with the reason."""
    if os.geteuid() != 0:
        pytest.skip("only root can make network namespaces")
    for tool in _TOOLS:
        if shutil.which(tool, path=_PATH) is None:
            pytest.skip(f"no {tool} here (apt-get install openssh-server openssh-client iproute2 util-linux)")
    script = (
        "hostname one; mount -t tmpfs none /run; ip link add name eth0 type bridge; ip link add type veth"
    )
    done = subprocess.run([*_NEW, script], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"this machine makes no network namespaces: {done.stderr.strip()}")


class Host:
    """A running host.

    Args:
        prepare: a shell script.
        command: runs behind it, for as long as the host does.
    """

    def __init__(self, name: str, prepare: str, *command: str):
        script = (
            f'hostname {name}; ip link set lo up; mount -t tmpfs none /run; {prepare}; : > /run/up; exec "$@"'
        )
        self._process = subprocess.Popen(
            [*_NEW, script, name, *command],
            env=os.environ | {"PATH": _PATH},
            preexec_fn=lambda: ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
        )
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        self._wait_for(lambda: children.read_text())
        self.pid = int(children.read_text())
        self._wait_for(Path(f"/proc/{self.pid}/root", "run/up").exists)

    def inside(self, *command: str) -> list[str]:
        """The command that runs another one on this host."""
        enter = [
            "nsenter",
            f"--target={self.pid}",
            "--mount",
            "--uts",
            "--net",
            "--pid",
            f"--wd={os.getcwd()}",
        ]
        return [*enter, "--", *command]

    def run(self, *command: str) -> None:
        subprocess.run(self.inside(*command), check=True)

    @contextlib.contextmanager
    def mounted(self, *arguments: str) -> Iterator[None]:
        """Mount something that this host alone sees; the last argument is the folder."""
        self.run("mount", *arguments)
        try:
            yield
        finally:
            self.run("umount", "--lazy", arguments[-1])

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _wait_for(self, happened) -> None:
        end = time.monotonic() + 10
        while not happened():
            assert self._process.poll() is None and time.monotonic() < end
            time.sleep(0.01)


class Network:
    """A launcher's host, and hosts that it reaches over ssh.

    Args:
        folder: for keys and configuration.
        interfaces: the name that each host has for its network interface.
    """

    def __init__(self, folder: Path, interfaces: dict[str, str]):
        self.ssh_config = folder / "ssh_config"
        self._write(folder, interfaces)
        names = f"mount --bind {folder}/hosts /etc/hosts"
        # horovodrun looks for an interface whose name all have, the launcher's host included.
        bridge = (
            f"ip link add name eth0 type bridge; ip address add {_ADDRESS}1/24 dev eth0; ip link set eth0 up"
        )
        self.launcher = Host("launcher", f"{names}; {bridge}", "sleep", "infinity")
        self.hosts: dict[str, Host] = {}
        server = [
            shutil.which("sshd", path=_PATH),
            "-D",
            "-E",
            f"{folder}/sshd.log",
            "-f",
            f"{folder}/sshd_config",
        ]
        for number, (name, interface) in enumerate(interfaces.items(), start=11):
            self.hosts[name] = Host(name, f"{names}; mkdir /run/sshd", *server)
            # From this process's point of view, since pids are those that the host does not see.
            plug = f"ip link add name {name} type veth peer name {interface} netns {self.hosts[name].pid}"
            self._in_network_of(self.launcher, f"{plug}; ip link set {name} master eth0 up")
            address = f"ip address add {_ADDRESS}{number}/24 dev {interface}"
            self._in_network_of(self.hosts[name], f"{address}; ip link set {interface} up")

    def close(self) -> None:
        for host in [self.launcher, *self.hosts.values()]:
            host.close()

    def _write(self, folder: Path, interfaces: Sequence[str]) -> None:
        folder.chmod(0o700)
        addresses = {name: f"{_ADDRESS}{number}" for number, name in enumerate(interfaces, start=11)}
        addresses["nobody"] = f"{_ADDRESS}99"
        lines = [f"{address} {name}\n" for name, address in addresses.items()]
        (folder / "hosts").write_text("127.0.0.1 localhost\n" + "".join(lines))
        for key in ("user", "host"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True
            )
        key = (folder / "host.pub").read_text()
        (folder / "known").write_text("".join(f"[{name}]:{_PORT} {key}" for name in addresses))
        self.ssh_config.write_text(
            f"Port {_PORT}\nIdentityFile {folder}/user\nIdentitiesOnly yes\n"
            f"UserKnownHostsFile {folder}/known\nGlobalKnownHostsFile none\nCheckHostIP no\n"
        )
        (folder / "sshd_config").write_text(
            f"Port {_PORT}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\nStrictModes no\n"
            "UsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nPidFile none\n"
        )

    def _in_network_of(self, host: Host, script: str) -> None:
        command = ["nsenter", f"--target={host.pid}", "--net", "--", "sh", "-euc", script]
        subprocess.run(command, check=True, env=os.environ | {"PATH": _PATH})
