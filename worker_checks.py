"""What is seen to before several workers start: that they agree, and that they share their folder.

A difference found here costs seconds; found after a week, it has cost the week.
"""

import contextlib
import dataclasses
import hashlib
import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import files
from command_line import UsageError
from workers import Workers, software

# Settings that fit a machine, and may differ from one to the next.
_OF_A_MACHINE = ("affinity",)


def check_alike(workers: Workers, config, data: Mapping[str, str]) -> None:
    """See that all workers run the same program, with the same settings, on the same data.

    Args:
        config: the program's settings, a dataclass.
        data: checksums of what was read, by the name of the flag.

    Raises:
        UsageError: names the worker and the item that differs.
    """
    if workers.size == 1:
        return
    settings = {
        f"--{name}": json.dumps(value)
        for name, value in dataclasses.asdict(config).items()
        if name not in _OF_A_MACHINE
    }
    read = {f"data of --{name}": value for name, value in data.items()}
    workers.check_same({"code": _code_version(), **software(), **settings, **read})


@contextlib.contextmanager
def hold_folder(workers: Workers, flag: str, folder: str, *inside: str) -> Iterator[None]:
    """Make a run's folder and hold it for this run, and see that all workers have the same one.

    What was made and is still empty is removed again where the run ends with an error: a refused start leaves
    nothing.

    Args:
        flag: the flag and value that name the folder.
        inside: further folders to make.

    Raises:
        UsageError: another run holds it, or a worker's machine does not see what worker 0 writes.
    """
    made: list[Path] = []
    with contextlib.ExitStack() as held:

        def hold() -> None:
            try:
                for path in map(Path, (folder, *inside)):
                    made.extend(above for above in (path, *path.parents) if not above.exists())
                    path.mkdir(parents=True, exist_ok=True)
                # Called when the lock is released.
                held.push(lambda kind, error, traceback: _remove_empty(made) if kind else None)
                held.enter_context(files.lock_folder(folder))
            except BlockingIOError as error:
                raise UsageError(f"{flag}: {folder} is {error}") from None
            except (FileExistsError, NotADirectoryError, FileNotFoundError, PermissionError) as error:
                raise UsageError(f"{flag}: {folder} cannot be made: {error.strerror}") from None

        workers.agree(hold if workers.is_main else lambda: None)
        if workers.size > 1:
            _see_shared(workers, Path(folder))
        yield


def _remove_empty(folders: Iterable[Path]) -> None:
    # The deepest first; one that holds something stays, with all above it.
    for path in sorted(folders, key=lambda path: len(path.parts), reverse=True):
        with contextlib.suppress(OSError):
            path.rmdir()


def _see_shared(workers: Workers, folder: Path) -> None:
    token = folder / ".shared_by_all_workers"
    if workers.is_main:
        files.write_text(token, platform.node())
    workers.barrier()

    def look() -> None:
        if not token.exists():
            raise UsageError(
                f"{folder}: {platform.node()} does not see what worker 0 writes there; the folder must be "
                "on a file system that all nodes share"
            )

    try:
        workers.agree(look)
    finally:
        if workers.is_main:
            token.unlink(missing_ok=True)


def _code_version() -> str:
    """SHA-256 of the modules beside this one."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode("utf-8") + path.read_bytes())
    return digest.hexdigest()[:16]
