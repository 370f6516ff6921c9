"""Write the tables of flags in README.md anew from the dataclasses in configuration.py.

python scripts/update_readme.py
"""

import re
import sys
from pathlib import Path

# Run by its path, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import configuration
import files
from command_line import flag_table

README = Path(__file__).resolve().parents[1] / "README.md"
_TABLE = re.compile(r"(<!-- flags: (\w+) -->\n).*?(<!-- /flags -->)", re.DOTALL)


def with_current_tables(text: str) -> str:
    """The README's text with each table between its two markers replaced."""
    return _TABLE.sub(lambda m: f"{m[1]}{flag_table(getattr(configuration, m[2]))}\n{m[3]}", text)


if __name__ == "__main__":
    files.write_text(README, with_current_tables(README.read_text(encoding="utf-8")))
