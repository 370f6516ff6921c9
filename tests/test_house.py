"""The house is as docs/architecture.md draws it: every module has a floor, and imports point downwards."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {path.stem: path for path in ROOT.glob("*.py")}
DATA_MODULES = sorted((ROOT / "data").glob("*.py"))


def _floors() -> list[set[str]]:
    """The modules of each floor, the highest first: of the first picture, without the names of rooms."""
    picture = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("```")[1]
    floors: list[set[str]] = []
    for line in picture.split("\n"):
        if re.match(r"\w", line):
            line = line.split(maxsplit=1)[1]
            floors.append(set())
        found = [word for word in re.findall(r"\w+\b(?!:)", line) if word in MODULES]
        assert not any(word in floor for word in found for floor in floors), f"twice in the picture: {found}"
        if found:
            floors[-1].update(found)
    return floors


FLOORS = _floors()
FLOOR_OF = {name: number for number, floor in enumerate(FLOORS) for name in floor}


def _imports(path: Path) -> Iterator[str]:
    """Modules that a file imports anywhere, in functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_every_module_is_in_the_picture():
    assert len(FLOORS) == 7 and MODULES.keys() == FLOOR_OF.keys()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_downwards(name):
    """And the data preparation, which stands beside the house, is for programs alone."""
    for imported in _imports(MODULES[name]):
        assert FLOOR_OF.get(imported, len(FLOORS)) >= FLOOR_OF[name], f"{name} imports {imported} from above"
        assert FLOOR_OF[name] == 0 or imported.split(".")[0] != "data", f"{name} imports {imported}"


@pytest.mark.parametrize("path", DATA_MODULES, ids=lambda path: path.stem)
def test_the_data_preparation_builds_on_parts_and_ground(path):
    for imported in _imports(path):
        assert FLOOR_OF.get(imported, len(FLOORS)) >= len(FLOORS) - 2, f"{path.name} imports {imported}"
