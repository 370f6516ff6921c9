"""Whether what is about to be written fits on the disk: asked before the work, not found out at its end."""

import shutil
from pathlib import Path

from command_line import RunFailure


def require(folder: str | Path, needed: int, purpose: str) -> None:
    """Stop where a folder's file system has less room than needed.

    Args:
        folder: need not exist yet.
        needed: bytes.
        purpose: what needs them, for the message.

    Raises:
        RunFailure: it has.
    """
    folder = Path(folder).absolute()
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise RunFailure(f"{purpose}: {needed:,} bytes do not fit into {folder}, which has {free:,} free")
