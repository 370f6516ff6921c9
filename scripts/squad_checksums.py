"""Checksums of the questions in SQuAD 1.1's two files: a line for each that is there, as sha256sum has them.

    python scripts/squad_checksums.py SQUAD_DIR

They follow from what is asked and what is right, not from how the files are written (squad_data.py).
"""

import sys
from dataclasses import MISSING, dataclass
from pathlib import Path

# Run by its path, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from command_line import option, parse, run_program
from squad_data import content_sha256

FILES = ("train-v1.1.json", "dev-v1.1.json")


@dataclass
class ChecksumsConfig:
    """Settings of this program."""

    data_dir: str = option(
        MISSING, "folder of train-v1.1.json and dev-v1.1.json", group="data", positional=True
    )


def main() -> int:
    config = parse(ChecksumsConfig, description=__doc__)
    for name, checksum in checksums(Path(config.data_dir)).items():
        print(f"{checksum}  {name}")
    return 0


def checksums(folder: Path) -> dict[str, str]:
    """The checksum of the questions of each file that is there, by its name.

    Raises:
        UsageError: a file cannot be read as SQuAD 1.1; names it as --data_dir's.
    """
    return {name: content_sha256(folder / name, "data_dir") for name in FILES if (folder / name).is_file()}


if __name__ == "__main__":
    run_program(main)
