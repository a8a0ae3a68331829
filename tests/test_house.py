"""The house keeps its order: stages import one way only, and nothing heavy is imported before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fastconv

PACKAGE = Path(fastconv.__file__).parent

# Left to right, as data flows; rooms of one rank do not import one another. All may import what is not listed.
RANKS = {
    "checkpoint": 0,
    "architecture": 1,
    "vocab": 1,
    "adapter": 2,
    "plan": 3,
    "engine": 4,
    "memory_bounds": 5,
    "layout": 5,
    "conversion": 6,
    "inspection": 6,
    "verification": 7,
    "cli": 8,
    "compat": 9,
}
# vocab stands beside architecture; layouts read the vocabulary.
COMMON = {"errors", "finding", "paths", "types", "control_group", "_native", "record", "request", "arrays"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "fastconv":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "fastconv"]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if "." in name}
    return rooms


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_stages_import_only_stages_to_their_left(path: Path) -> None:
    here = room(path)
    if here not in RANKS:
        return
    for other in imported_rooms(path) - {here}:
        assert other in COMMON or other in RANKS, f"{path.name} imports {other}, which has no place in the house"
        if other in RANKS:
            assert RANKS[other] < RANKS[here], f"{here} imports {other}"


def test_every_room_has_a_rank() -> None:
    rooms = {room(path) for path in modules()} - {"__init__", "__main__"} - COMMON
    assert rooms <= RANKS.keys()


def imported_by(code: str) -> set[str]:
    script = f"import sys; {code}; print(*{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_is_light() -> None:
    heavy = {"numpy", "torch", "gguf", "sentencepiece", "tokenizers", "tqdm", "transformers"}
    assert not heavy & imported_by("import fastconv")


def test_help_is_light() -> None:
    code = "import fastconv.cli, contextlib\nwith contextlib.suppress(SystemExit): fastconv.cli.main(['--help'])"
    script = (
        f"import sys, io\nout, sys.stdout = sys.stdout, io.StringIO()\n{code}\nsys.stdout = out\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"numpy", "torch", "gguf", "tqdm"} & set(done.stdout.split())
