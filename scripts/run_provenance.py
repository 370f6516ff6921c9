"""Where a results folder comes from: provenance.json, written when its script starts and when it ends.

    python scripts/run_provenance.py FOLDER SEED UPDATES -- bash scripts/pretrain_small.sh
    python scripts/run_provenance.py FOLDER --finished

The words behind the folder are names in the environment that the results depend on; what stands behind --
is the command. Each start is an entry of its own, so that a run that was interrupted tells all its commits.
"""

import datetime
import hashlib
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path

# Run by its path, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import files
from command_line import UsageError, option, parse, require, run_program

ROOT = Path(__file__).resolve().parents[1]
FILE_NAME = "provenance.json"
# Records of earlier results do not change what the code computes.
_NOT_CODE = (":(exclude)docs/results", ":(exclude)docs/results.md")
_PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "numpy", "tokenizers", "torch", "transformers")


@dataclass
class ProvenanceConfig:
    """Settings of this program."""

    words: tuple[str, ...] = option(
        MISSING, "results folder, and names of settings in the environment", group="run", positional=True
    )
    finished: bool = option(False, "the script has come to its end", group="run")


def main() -> None:
    words = sys.argv[1:]
    place = words.index("--") if "--" in words else len(words)
    config = parse(ProvenanceConfig, words[:place], description=__doc__)
    folder, *names = config.words
    if config.finished:
        finish(Path(folder))
    else:
        note_start(Path(folder), settings_in(os.environ, names), words[place + 1 :])


def settings_in(environment: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """Those of the names that are set, and not to nothing."""
    return {name: environment[name] for name in names if environment.get(name)}


def note_start(folder: Path, settings: Mapping[str, str], command: Sequence[str]) -> None:
    """Add a start to the folder's provenance; a folder that is finished already stays as it is.

    Raises:
        UsageError: an earlier start had other settings.
    """
    require_settings(folder, settings)
    starts = read(folder)
    if is_finished(starts):
        return
    now = datetime.datetime.now(datetime.UTC)
    start = {
        "commit": commit(),
        "dirty": is_dirty(),
        "started": now.isoformat(timespec="seconds"),
        "command": shlex.join(command),
        "settings": dict(settings),
        "hardware": hardware(),
        "versions": versions(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / FILE_NAME, [*starts, start])


def require_settings(folder: Path, settings: Mapping[str, str]) -> None:
    """Stop unless a folder was begun with these settings, or nothing was started there yet.

    Raises:
        UsageError: it was begun with others.
    """
    starts = read(folder)
    if starts and starts[0]["settings"] != dict(settings):
        raise UsageError(
            f"{folder}: was begun with other settings ({_shown(starts[0]['settings'])}; now "
            f"{_shown(settings)}); give another folder"
        )


def finish(folder: Path) -> None:
    """Note that the newest start has come to its end, and after how many seconds.

    Raises:
        UsageError: nothing was started there.
    """
    starts = read(folder)
    require(bool(starts), "finished", folder, f"holds no {FILE_NAME}")
    if is_finished(starts):
        return
    began = datetime.datetime.fromisoformat(starts[-1]["started"])
    seconds = (datetime.datetime.now(datetime.UTC) - began).total_seconds()
    files.write_json(folder / FILE_NAME, [*starts[:-1], starts[-1] | {"seconds": round(seconds, 1)}])


def read(folder: Path) -> list[dict]:
    """All starts of a folder, the oldest first; none where there is no provenance.

    Raises:
        UsageError: the file is damaged.
    """
    path = folder / FILE_NAME
    try:
        starts = files.read_json(path)
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise UsageError(f"{path}: not JSON ({error})") from None
    if not isinstance(starts, list) or not all(isinstance(start, dict) for start in starts):
        raise UsageError(f"{path}: is no list of starts")
    return starts


def is_finished(starts: Sequence[Mapping]) -> bool:
    """Whether the newest start has come to its end."""
    return bool(starts) and "seconds" in starts[-1]


def commit() -> str:
    """The commit that is checked out; "" where there is none, or no git."""
    return _git("rev-parse", "--verify", "HEAD") or ""


def changes() -> str | None:
    """A checksum of what but records differs from that commit, new files included.

    Returns:
        "" where nothing does, None without git.
    """
    listings = [
        _git(*command, "-z", "--", ".", *_NOT_CODE)
        for command in (("diff", "--name-only", "HEAD"), ("ls-files", "--others", "--exclude-standard"))
    ]
    if None in listings:
        return None
    digest = hashlib.sha256()
    names = sorted(name for listing in listings for name in listing.split("\0") if name)
    for name in names:
        path = ROOT / name
        digest.update(f"{name}\0{files.sha256_of_file(path) if path.is_file() else 'gone'}\0".encode())
    return digest.hexdigest() if names else ""


def is_dirty() -> bool:
    """Whether anything but records differs from that commit, new files included; True without git."""
    return changes() != ""


def hardware() -> dict:
    """The machine, as far as it decides on speed and on rounding."""
    found = {
        "processor": _line_of("/proc/cpuinfo", "model name") or platform.machine(),
        "processors": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
    }
    gpus = _output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    return found | ({"gpus": gpus.splitlines()} if gpus else {})


def versions() -> dict[str, str]:
    """Python's version and those of the packages that compute."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _shown(settings: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items()) or "none"


def _git(*arguments: str) -> str | None:
    return _output(["git", "-C", str(ROOT), *arguments])


def _output(command: list[str]) -> str | None:
    """What a program prints; None where there is no such program, or it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _line_of(path: str, name: str) -> str:
    """The value of the first `name: value` of a file of the kernel's; "" where there is none."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


if __name__ == "__main__":
    run_program(main)
