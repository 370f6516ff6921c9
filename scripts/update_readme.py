"""Write the tables of README.md and docs/ anew: flags from the dataclasses, results from their records.

python scripts/update_readme.py
"""

import re
import sys
from pathlib import Path

# Run by its path, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import result_records
from named_results import RESULTS

import configuration
import conversion_configuration
import dataset_configuration
import files
import glue_configuration
import preparation_configuration
import report_configuration
import squad_configuration
from command_line import flag_table

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("data", "glue", "squad")))
_TABLE = re.compile(r"(<!-- flags: (\w+) -->\n).*?(<!-- /flags -->)", re.DOTALL)
_MODULES = (
    configuration,
    dataset_configuration,
    preparation_configuration,
    squad_configuration,
    glue_configuration,
    conversion_configuration,
    report_configuration,
)
_SETTINGS = {name: value for module in _MODULES for name, value in vars(module).items()}


def with_current_tables(text: str) -> str:
    """A document's text with each table between its two markers replaced."""
    return _TABLE.sub(lambda m: f"{m[1]}{flag_table(_SETTINGS[m[2]])}\n{m[3]}", text)


def with_current_records(text: str, records: Path = result_records.RECORDS) -> str:
    """A document's text with the record of each named result between its two markers."""
    figures = {name: result.figures for name, result in RESULTS.items()}
    return result_records.with_current_tables(text, figures, records)


if __name__ == "__main__":
    for document in DOCUMENTS:
        files.write_text(document, with_current_tables(document.read_text(encoding="utf-8")))
    results = result_records.DOCUMENT
    files.write_text(results, with_current_records(results.read_text(encoding="utf-8")))
