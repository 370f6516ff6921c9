"""data/dataPrep.py with so small parts that a small corpus has many: run as that program."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from command_line import run_program
from data import dataPrep, sharding, text_sources, wikipedia_dump

# Only the process that plans looks at these.
text_sources._PART_BYTES = 8_000
wikipedia_dump.PART_BYTES = 8_000
sharding._SMALLEST_SHARD_BYTES = 1_000

if __name__ == "__main__":
    run_program(dataPrep.main)
