"""The part of locks that this interpreter's packages do not cover, for an image with a TensorFlow of its own.

    python3 scripts/docker/missing_packages.py --anyway keras requirements-cpu.lock requirements-horovod.lock

Prints the requirements, with their hashes, of packages that are not installed in any version, and of those
that are named by --anyway. TensorFlow is never among them.
"""

import argparse
import re
from importlib.metadata import distributions
from pathlib import Path

NEVER = {"tensorflow", "tensorflow-cpu"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def missing(lock: str, installed: set[str]) -> dict[str, str]:
    """Requirement line -> it and its hashes, for each requirement of a lock that is not installed."""
    blocks = re.split(r"\n(?=[A-Za-z0-9])", lock)
    named = {block.splitlines()[0]: block for block in blocks if re.match(r"[A-Za-z0-9._-]+==", block)}
    return {
        line: "\n".join(part for part in block.splitlines() if not part.lstrip().startswith("#"))
        for line, block in named.items()
        if normal(line.split("==")[0]) not in installed
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("locks", nargs="+", type=Path)
    parser.add_argument(
        "--anyway", nargs=1, action="extend", default=[], help="a package to print in any case"
    )
    arguments = parser.parse_args()
    installed = {normal(package.metadata["Name"]) for package in distributions()}
    installed = (installed - {normal(name) for name in arguments.anyway}) | NEVER
    found: dict[str, str] = {}
    for lock in arguments.locks:
        found = missing(lock.read_text(), installed) | found
    print("\n".join(found.values()))


if __name__ == "__main__":
    main()
