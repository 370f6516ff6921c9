"""Save, rotate, verify and restore training state: a checkpoint is complete, or it is not there.

A checkpoint is a folder `<prefix><step>` with model.safetensors, optimizer.safetensors, state.json (which
holds the SHA-256 of every file) and copies of the vocabulary's files. It is written in a hidden
folder, flushed, and renamed. No pickle is ever read.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

import files
from command_line import RunFailure, UsageError

MODEL_NAME = "model.safetensors"
OPTIMIZER_NAME = "optimizer.safetensors"
STATE_NAME = "state.json"
PHASE_PREFIXES = {1: "ckpt-", 2: "ckpt-p2-"}
ASIDE_PREFIX = "aside-"

Tensors = dict[str, np.ndarray]


class CorruptCheckpoint(Exception):
    """A checkpoint that is incomplete, or a file of which does not have the recorded checksum."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint, read into memory."""

    path: Path
    model: Tensors
    optimizer: Tensors
    state: dict

    @property
    def step(self) -> int:
        return self.state["step"]

    def forget_tensors(self) -> None:
        """Give their memory back; the state stays."""
        self.model.clear()
        self.optimizer.clear()


def save(
    folder: str | Path,
    prefix: str,
    step: int,
    *,
    model: Mapping[str, np.ndarray],
    optimizer: Mapping[str, np.ndarray],
    state: dict,
    extra_files: Mapping[str, str],
    keep: int,
) -> Path:
    """Write a checkpoint, then delete the oldest ones of the same prefix beyond `keep` (0 keeps all).

    Args:
        extra_files: text files to put in, by name.

    Raises:
        OSError: the disk is full, say; older checkpoints are untouched then.
    """
    folder = Path(folder)
    path = folder / f"{prefix}{step}"
    temporary = files.temporary_path(path)
    files.remove_leftovers(folder)
    try:
        temporary.mkdir()
        _save_tensors(temporary / MODEL_NAME, model)
        _save_tensors(temporary / OPTIMIZER_NAME, optimizer)
        for name, content in extra_files.items():
            (temporary / name).write_text(content, encoding="utf-8")
        checksums = {entry.name: files.sha256_of_file(entry) for entry in sorted(temporary.iterdir())}
        content = json.loads(json.dumps(state | {"step": step, "sha256": checksums}))
        files.write_json(temporary / STATE_NAME, content | {"state_sha256": _hash(content)})
        files.replace_folder(temporary, path)
    finally:
        files.remove_folder(temporary)
    if keep:
        for _, old in list_checkpoints(folder, prefix)[:-keep]:
            files.remove_folder(old)
    return path


def list_checkpoints(folder: str | Path, prefix: str) -> list[tuple[int, Path]]:
    """(step, path) of the checkpoints of one phase, oldest first."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)")
    found = []
    for entry in Path(folder).glob(f"{prefix}*"):
        match = pattern.fullmatch(entry.name)
        if match and entry.is_dir():
            found.append((int(match.group(1)), entry))
    return sorted(found)


def set_aside_newer(folder: str | Path, prefix: str, step: int) -> None:
    """Rename the checkpoints of one phase that are newer than `step`, and say so.

    Training goes on from there: by its number one of theirs would be taken for the newest, and what is saved
    next for the oldest.
    """
    newer = [path for number, path in list_checkpoints(folder, prefix) if number > step]
    for path in newer:
        aside = path.with_name(f"{ASIDE_PREFIX}{path.name}")
        files.remove_folder(aside)
        path.rename(aside)
    if newer:
        names = ", ".join(path.name for path in newer)
        print(f"note: {names}: newer than update {step}, set aside as {ASIDE_PREFIX}… in {folder}")


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint and verify every checksum.

    Raises:
        CorruptCheckpoint: says what is wrong with it.
    """
    path = Path(path)
    try:
        state = files.read_json(path / STATE_NAME)
        if state.pop("state_sha256") != _hash(state):
            raise CorruptCheckpoint(f"{path}: {STATE_NAME} does not have its checksum")
        for name, expected in state["sha256"].items():
            if files.sha256_of_file(path / name) != expected:
                raise CorruptCheckpoint(f"{path}: {name} does not have its checksum")
        return Checkpoint(path, load_file(path / MODEL_NAME), load_file(path / OPTIMIZER_NAME), state)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CorruptCheckpoint(f"{path}: incomplete or damaged ({error})") from None


def load_newest(folder: str | Path, prefix: str) -> Checkpoint | None:
    """The newest checkpoint that is whole; those that are not are named on the way. None if there is none.

    Raises:
        RunFailure: there are checkpoints, and none of them is whole.
    """
    found = list_checkpoints(folder, prefix)
    for _, path in reversed(found):
        try:
            return load(path)
        except CorruptCheckpoint as error:
            print(f"warning: {error}; using the one before it", flush=True)
    if found:
        raise RunFailure(f"{folder}: none of the {len(found)} checkpoints {prefix}* is whole")
    return None


def load_given(path: str) -> Checkpoint:
    """The checkpoint that --restore_checkpoint names by its path.

    Raises:
        UsageError: it is not there, or not whole.
    """
    if not Path(path).is_dir():
        raise UsageError(f"--restore_checkpoint {path}: no such checkpoint folder")
    try:
        return load(path)
    except CorruptCheckpoint as error:
        raise UsageError(f"--restore_checkpoint {error}") from None


def kept_batch(checkpoint: Checkpoint, workers: int, given: int, of_flags: int) -> int:
    """The global batch of a checkpoint that a run must keep, whatever its flags make of it; 0 if none.

    That is where the number of workers is another one, and where it has been since an earlier restart with
    the same flags.

    Args:
        workers: their number now.
        given: --global_batch_size, which the user has chosen if it is not 0.
        of_flags: the global batch by the flags of a micro-batch and of accumulation.
    """
    layout = checkpoint.state["workers"]
    if given or (layout["workers"] == workers and layout.get("of_flags") != of_flags):
        return 0
    kept = layout["sequences"] * layout["accumulation_steps"] * layout["workers"]
    return 0 if kept == of_flags else kept


def check_meaning(
    checkpoint: Checkpoint, now: dict, *, allow_change: bool, before_recorded: Mapping = MappingProxyType({})
) -> None:
    """See that a checkpoint's training is the one to go on with: settings that mean something, by name.

    Args:
        before_recorded: values of settings that `meaning` does not record: those that they had before it did,
            or what stands elsewhere in the checkpoint.

    Raises:
        UsageError: names those that differ, unless a change is allowed, which is then said.
    """
    before = {**before_recorded, **checkpoint.state["meaning"]}
    differing = [name for name, value in now.items() if name in before and before[name] != value]
    if not differing:
        return
    listed = ", ".join(f"{name} {_short(before[name])} -> {_short(now[name])}" for name in differing)
    if not allow_change:
        raise UsageError(
            f"--restore_checkpoint {checkpoint.path}: made with other settings: {listed} "
            "(--allow_config_change goes on all the same)"
        )
    print(f"note: settings differ from the checkpoint's: {listed}")


def newest_path(folder: str | Path) -> Path:
    """The newest checkpoint of a run, of its second phase where there is one.

    Raises:
        UsageError: the folder is neither a checkpoint nor holds one.
    """
    folder = Path(folder)
    if (folder / STATE_NAME).is_file():
        return folder
    for phase in sorted(PHASE_PREFIXES, reverse=True):
        for candidate in (folder, folder / "checkpoints"):
            found = list_checkpoints(candidate, PHASE_PREFIXES[phase])
            if found:
                return found[-1][1]
    raise UsageError(f"{folder}: neither a checkpoint nor a folder of checkpoints")


def assign(variables: Mapping, tensors: Tensors, what: str) -> None:
    """Give variables the values of a checkpoint; each must be there in its shape, and none left over.

    Raises:
        UsageError: names the first variables that are missing, unexpected or of another shape.
    """
    missing = sorted(variables.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - variables.keys())
    reshaped = [
        f"{name} {tuple(tensors[name].shape)} for {tuple(variable.shape)}"
        for name, variable in variables.items()
        if name in tensors and tuple(tensors[name].shape) != tuple(variable.shape)
    ]
    problems = [
        f"{len(names)} {problem}, first {names[0]}"
        for problem, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", reshaped),
        )
        if names
    ]
    if problems:
        raise UsageError(f"{what}: {'; '.join(problems)}")
    for name, variable in variables.items():
        variable.assign(tensors[name])


def _short(value: object) -> object:
    """A hash by its first digits, anything else as it is."""
    return f"{value[:8]}…" if isinstance(value, str) and len(value) == 64 else value


def _hash(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8")).hexdigest()


def _save_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    # The library reports a full disk as an error of its own; the caller wants the system's.
    try:
        save_file({name: np.asarray(tensor) for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        match = re.search(r"os error (\d+)", str(error))
        if match is None:
            raise
        raise OSError(int(match.group(1)), str(error), str(path)) from None
