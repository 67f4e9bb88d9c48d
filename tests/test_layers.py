"""The rooms and who may import whom. A room imports rooms of lower rank only: the arrows point one way."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "steadygrad"
MAX_LINES = 350
RANKS = {
    "errors": 0,
    "readings": 1,
    "decision": 1,
    "schema": 1,
    "checks": 2,
    "policy": 2,
    "store": 2,
    "program": 2,
    "place": 2,
    "deferred": 2,
    "apply": 3,
    "decide": 3,
    "measure": 3,
    "names": 3,
    "parameters": 3,
    "loss": 3,
    "record": 3,
    "runs": 3,
    "snapshot": 3,
    "arrays": 4,
    "constrain": 4,
    "transforms": 4,
    "diagnose": 4,
    "functional": 4,
    "guard": 4,
    "importing": 4,
    "policies": 4,
    "prevent": 4,
    "report": 5,
    "watching": 5,
    "integrations": 6,
    "launch": 6,
    "cli": 7,
    "__main__": 8,
    "__init__": 9,
}
# Rooms that read, or speak, and never import torch.
TORCHLESS = {
    "errors",
    "readings",
    "decision",
    "schema",
    "policy",
    "store",
    "program",
    "place",
    "deferred",
    "decide",
    "record",
    "runs",
} | {
    "arrays",
    "diagnose",
    "importing",
    "policies",
    "report",
    "launch",
    "cli",
    "__main__",
    "__init__",
}
FILES = sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports_of(path: Path):
    """Pairs of (imported module, whether the import stands inside a function)."""
    tree = ast.parse(path.read_text())
    inside = {id(node) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef) for node in ast.walk(f)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in inside
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module, id(node) in inside


def test_every_room_has_a_rank():
    assert {room_of(path) for path in FILES} == set(RANKS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_arrows_point_one_way(path):
    room = room_of(path)
    for module, inside in imports_of(path):
        if module.split(".")[0] != "steadygrad" or module == "steadygrad":
            continue
        other = module.split(".")[1]
        assert not inside, f"{path.name} imports {module} inside a function"
        assert other == room or RANKS[other] < RANKS[room], f"{room} (rank {RANKS[room]}) imports {other} (rank {RANKS[other]})"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_reading_rooms_do_not_import_torch(path):
    torchless = room_of(path) in TORCHLESS or path.relative_to(SOURCE).as_posix() in (
        "measure/__init__.py",
        "measure/reference.py",
        "transforms/__init__.py",
        "transforms/value.py",
    )
    if torchless:
        assert not [m for m, _ in imports_of(path) if m.split(".")[0] == "torch"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_file_is_one_idea(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


def test_one_boundary_swallows():
    """`except Exception` and wider stand in watching.py alone."""
    broad = [
        path.name
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException"))
    ]
    assert set(broad) <= {"watching.py"}, broad
