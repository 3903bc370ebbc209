"""The house stands as it is drawn: imports point one way, and the README tells the truth."""

import ast
from pathlib import Path

import pytest

from rustygate.config import variables

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "rustygate"

# Who may import whom, nearest first: a room imports only rooms below its own.
STOREYS = [
    {"__main__"},
    {"cli"},
    {"app", "plan"},
    {"proxy"},
    {"vigil"},
    {"ledger"},
    {"metrics"},
    {"admission", "upstream", "pipe", "bridge", "listener"},
    {"pool", "reply"},
    {"access", "admin", "body", "browsers", "tracing"},
    {"config", "exchange"},
    {"connections", "log", "notify", "tls", "jumping", "traffic"},
    {"errors"},
    {"core"},
]
STOREY_OF = {room: number for number, rooms in enumerate(STOREYS) for room in rooms}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    """A module's room: its own name, or its folder's."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The modules that a file imports, in full."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "rustygate":
            found |= {f"rustygate.{name.name}" for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def rooms_imported(path: Path) -> set[str]:
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("rustygate.")}
    return ours - {room(path), "__version__"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    here = room(path)
    if here in {"__init__", "simulator"}:
        assert not rooms_imported(path)
    else:
        allowed = {other for other in STOREY_OF if STOREY_OF[other] > STOREY_OF[here]}
        if here == "cli":
            allowed.add("simulator")
        assert rooms_imported(path) <= allowed


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").glob("*.py")), ids=lambda p: p.name)
def test_core_is_pure(path: Path) -> None:
    impure = {"asyncio", "socket", "time", "os", "random", "threading", "aiohttp", "loguru"}
    assert not {name.split(".")[0] for name in imports(path)} & impure


def readme_table() -> list[tuple[str, str, str]]:
    """The rows of the README's table of settings: variable, default, meaning."""
    lines = (ROOT / "README.md").read_text().splitlines()
    rows = [line.strip().strip("|").split(" | ") for line in lines if line.startswith("| `")]
    cells = [[cell.strip() for cell in row] for row in rows]
    rows = [row for row in cells if row[0].isupper()]
    return [(row[0].strip("`"), row[1].strip("`"), row[2]) for row in rows]


def test_readme_tells_every_setting_with_its_default() -> None:
    assert readme_table() == [(v.name, v.default, v.meaning) for v in variables()]


def test_modules_say_what_lives_in_them() -> None:
    silent = [
        path.name for path in modules() if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []
