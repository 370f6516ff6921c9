"""Processes that end with the one that started them, and what they print."""

import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence

_PR_SET_PDEATHSIG = 1

_writing = threading.Lock()


def start(
    command: Sequence[str], environment: Mapping[str, str] | None = None, **streams
) -> subprocess.Popen:
    """Start a process in a group of its own; it gets SIGTERM when the thread that calls this ends.

    Args:
        environment: None is this process's.
        streams: stdin, stdout and stderr, as subprocess.Popen has them.
    """
    return subprocess.Popen(
        command,
        env=environment,
        preexec_fn=_end_with_parent,
        # Ctrl-C at a terminal goes to the program that is run there alone, which passes it on once.
        process_group=0,
        **streams,
    )


def copy_lines(stream, target: int, prefix: bytes = b"") -> threading.Thread:
    """Copy a stream's lines to a file descriptor until it ends, from the thread that is returned.

    What can no longer be written is lost, without the one that prints it noticing.
    """

    def copy() -> None:
        for line in stream:
            write(target, prefix + line)

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    return thread


def write(target: int, content: bytes) -> None:
    """Write to a file descriptor, unless nobody reads it any longer; one thread's content at a time."""
    with _writing:
        while content:
            try:
                content = content[os.write(target, content) :]
            except OSError:
                return


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
