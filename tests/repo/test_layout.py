"""The layout: imports point one way, the core is pure, and every module says what is in it."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from rustygate.config import variables

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "rustygate"
MODULES = sorted(PACKAGE.rglob("*.py"))

# What a pure function may not touch.
IMPURE = {"asyncio", "socket", "time", "os", "random", "threading", "aiohttp", "loguru"}


def name_of(path: Path) -> str:
    """A module's full name; a package's for its `__init__`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in MODULES}


def imports(path: Path) -> set[str]:
    """The modules that a file imports, in full, those inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {_imported(node.module, alias.name) for alias in node.names}
    return found


def _imported(module: str, name: str) -> str:
    """The module behind `from module import name`."""
    return f"{module}.{name}" if f"{module}.{name}" in NAMES else module


def package_of(module: str) -> str:
    """The package below `rustygate` that a module is in; a module at the top is its own."""
    return module.split(".")[1] if "." in module else ""


def ours(path: Path) -> set[str]:
    """The modules of ours that a file imports."""
    return {name for name in imports(path) if name in NAMES}


def assert_acyclic(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports go in a circle: {' -> '.join(reversed(error.args[1]))}")


def test_packages_import_one_another_in_one_direction() -> None:
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        package = package_of(name_of(path))
        imported = set(map(package_of, ours(path)))
        graph.setdefault(package, set()).update(imported - {package, ""})
    assert_acyclic(graph)


def test_modules_import_one_another_in_one_direction() -> None:
    assert_acyclic({name_of(path): ours(path) - {name_of(path)} for path in MODULES})


@pytest.mark.parametrize("package", ["core", "simulator"])
def test_package_stands_alone(package: str) -> None:
    imported = {
        package_of(name) for path in (PACKAGE / package).rglob("*.py") for name in ours(path)
    }
    assert imported <= {package, ""}


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").glob("*.py")), ids=lambda p: p.name)
def test_core_is_pure(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & IMPURE


def settings_table() -> list[tuple[str, str, str]]:
    """The rows of the documented table of settings: variable, default, meaning."""
    lines = (ROOT / "docs/settings.md").read_text().splitlines()
    rows = [line.strip().strip("|").split(" | ") for line in lines if line.startswith("| `")]
    cells = [[cell.strip() for cell in row] for row in rows]
    rows = [row for row in cells if row[0].isupper()]
    return [(row[0].strip("`"), row[1].strip("`"), row[2]) for row in rows]


def test_docs_list_every_setting_with_its_default() -> None:
    assert settings_table() == [(v.name, v.default, v.meaning) for v in variables()]


def test_every_module_has_a_docstring() -> None:
    silent = [path.name for path in MODULES if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []
