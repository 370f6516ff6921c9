"""Machines that tests pretend to be on: the kernel's files under /sys, and a stand-in for nvidia-smi.

The three DGX are as `nvidia-smi topo -m` shows them: processors of each NUMA node, and the node of each GPU.
"""

from dataclasses import dataclass, field
from pathlib import Path

from affinity import read_list


@dataclass(frozen=True)
class Tree:
    """Processors of each NUMA node, how far apart the numbers of a core's threads are, node of each GPU."""

    nodes: dict[int, str]
    threads_apart: int = 0
    gpus: dict[str, int] = field(default_factory=dict)

    def write(self, root: Path) -> Path:
        """Make the files under `root`, and return it."""
        for node, processors in self.nodes.items():
            _write(root / f"devices/system/node/node{node}/cpulist", processors)
            for processor in read_list(processors):
                first = processor % self.threads_apart if self.threads_apart else processor
                siblings = f"{first},{first + self.threads_apart}" if self.threads_apart else f"{processor}"
                folder = root / f"devices/system/cpu/cpu{processor}"
                _write(folder / "topology/thread_siblings_list", siblings)
        for address, node in self.gpus.items():
            _write(root / "bus/pci/devices" / f"0000:{address}" / "numa_node", f"{node}")
        root.mkdir(parents=True, exist_ok=True)
        return root

    def write_nvidia_smi(self, folder: Path) -> None:
        """Make the program, which spells addresses in its own way."""
        lines = [f"GPU-{k:02}aa-0b1c, 00000000:{address.upper()}" for k, address in enumerate(self.gpus)]
        asked = "--query-gpu=uuid,pci.bus_id --format=csv,noheader"
        text = "\n".join(lines)
        write_program(folder / "nvidia-smi", f'[[ "$*" == "{asked}" ]] || exit 6\necho "{text}"\n')


def _gpus(buses: str, nodes: list[int]) -> dict[str, int]:
    return {f"{bus}:00.0": node for bus, node in zip(buses.split(), nodes, strict=True)}


DGX1 = Tree({0: "0-19,40-59", 1: "20-39,60-79"}, 40, _gpus("06 07 0a 0b 85 86 89 8a", [0] * 4 + [1] * 4))
DGX2 = Tree(
    {0: "0-23,48-71", 1: "24-47,72-95"},
    48,
    _gpus("34 36 39 3b 57 59 5c 5e b7 b9 bc be e0 e2 e5 e7", [0] * 8 + [1] * 8),
)
DGX_A100 = Tree(
    {node: f"{16 * node}-{16 * node + 15},{128 + 16 * node}-{143 + 16 * node}" for node in range(8)},
    128,
    _gpus("07 0f 47 4e 87 90 b7 bd", [3, 3, 1, 1, 7, 7, 5, 5]),
)
PLAIN = Tree({0: "0-1"})
EMPTY = Tree({})


def write_program(path: Path, script: str) -> None:
    """Make a Bash script that can be run by its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{script}")
    path.chmod(0o755)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")
