"""The whole chain of data preparation on texts of several sizes: time, and the memory of its largest process.

Used by data_speed.py, for `--chain_megabytes`.
"""

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from command_line import RunFailure

_ROOT = Path(__file__).resolve().parents[1]
_LENGTHS = (128, 512)


def measure_chain(pieces: Iterable[str], vocab_file: str, n_processes: int, folder: Path) -> str:
    """Run all steps on a text file made of pieces; returns a row for `HEAD`.

    Raises:
        RunFailure: a step failed.
    """
    text, working = folder / "text.txt", folder / "working"
    with open(text, "w", encoding="utf-8") as stream:
        stream.writelines(pieces)
    megabytes = text.stat().st_size / 1e6
    steps = [["text_formatting", f"--input_files={text}"], ["sharding"]]
    steps += [
        ["create_tfrecord_files", f"--vocab_file={Path(vocab_file).resolve()}", f"--max_seq_length={length}"]
        for length in _LENGTHS
    ]
    seconds, cpu_seconds, memory = [], 0.0, 0
    for action, *flags in steps:
        started = time.monotonic()
        used = _run_step([f"--action={action}", f"--n_processes={n_processes}", *flags], working)
        seconds.append(time.monotonic() - started)
        cpu_seconds += used.ru_utime + used.ru_stime
        memory = max(memory, used.ru_maxrss)
    shutil.rmtree(working)
    text.unlink()
    rate = megabytes / sum(seconds)
    each = " ".join(f"{value:9.1f}" for value in seconds)
    return f"{megabytes:9,.1f} {each} {sum(seconds):9.1f} {rate:6.2f} {cpu_seconds:9.1f} {memory / 1e3:9.0f}"


HEAD = (
    f"{'MB':>9} {'format s':>9} {'shard s':>9} {'128 s':>9} {'512 s':>9} {'all s':>9} {'MB/s':>6} "
    f"{'CPU s':>9} {'peak MB':>9}"
)


def _run_step(flags: list[str], working: Path) -> resource.struct_rusage:
    """Run a step of data/dataPrep.py; returns what it and its workers used; memory is the largest one's."""
    process = subprocess.Popen(
        [sys.executable, str(_ROOT / "data" / "dataPrep.py"), "--dataset=text", *flags],
        env=os.environ | {"DATA_PREP_WORKING_DIR": str(working)},
        stdout=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RunFailure(f"data/dataPrep.py {' '.join(flags)}: ended with {process.returncode}")
    return used
