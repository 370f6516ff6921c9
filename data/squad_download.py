"""SQuAD from its own site: the training and the development file of a version, each checked.

    python data/squad_download.py --output_dir data/download/squad/v1.1
    python data/squad_download.py --squad_version 2.0 --output_dir data/download/squad/v2.0 --url http://mirror/squad

A file gets its name only with the right size and SHA-256; one that is there with them stays, and a download
that broke off goes on from there (data/downloads.py). The data set is that of Rajpurkar et al. 2016 and 2018
(CC BY-SA 4.0).
"""

import sys
from dataclasses import MISSING, dataclass
from pathlib import Path

# Run by its path, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from command_line import option, parse, run_program
from data import downloads


@dataclass(frozen=True)
class DataFile:
    """A file of the data set: its name, its size in bytes and its SHA-256."""

    name: str
    size: int
    sha256: str


SITE = "https://rajpurkar.github.io/SQuAD-explorer/dataset"
DATA_FILES = {
    "1.1": (
        DataFile(
            "train-v1.1.json", 30_288_272, "3527663986b8295af4f7fcdff1ba1ff3f72d07d61a20f487cb238a6ef92fd955"
        ),
        DataFile(
            "dev-v1.1.json", 4_854_279, "95aa6a52d5d6a735563366753ca50492a658031da74f301ac5238b03966972c9"
        ),
    ),
    "2.0": (
        DataFile(
            "train-v2.0.json", 42_123_633, "68dcfbb971bd3e96d5b46c7177b16c1a4e7d4bdef19fb204502738552dede002"
        ),
        DataFile(
            "dev-v2.0.json", 4_370_528, "80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8"
        ),
    ),
}


@dataclass
class SquadDownloadConfig:
    """Settings of data/squad_download.py."""

    output_dir: str = option(MISSING, "folder that receives the two files", group="download")
    squad_version: str = option("1.1", "which SQuAD", group="download", choices=tuple(DATA_FILES))
    url: str = option(SITE, "where the files lie; a mirror for one", group="download")

    def __post_init__(self):
        downloads.require_web_address(self.url, "url")


def main() -> int:
    config = parse(SquadDownloadConfig, description=__doc__)
    for file in DATA_FILES[config.squad_version]:
        obtained = obtain(file, config.output_dir, config.url)
        print(f"{config.output_dir}/{file.name}: {'downloaded' if obtained else 'there already'}", flush=True)
    return 0


def obtain(file: DataFile, folder: str | Path, url: str) -> bool:
    """Have a file in a folder; returns whether it had to be downloaded.

    Raises:
        RunFailure: it cannot be had, or has another content than it should.
    """
    content = downloads.Content(file.size, file.sha256)
    return downloads.download(downloads.address_below(url, file.name), Path(folder) / file.name, content)


if __name__ == "__main__":
    run_program(main)
