"""The folders of the package lie in layers, as docs/architecture.md lists; no two files import each other."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "neuron_specialization"


def imported(path: Path, modules: set[str]) -> set[str]:
    """The package's modules that a file imports, at its head or when needed; without the package's name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            module = str(node.module).removeprefix(PACKAGE).lstrip(".")
            for alias in node.names:
                inner = f"{module}.{alias.name}".lstrip(".")
                found.add(inner if inner in modules else module)
    return found - {""}


@pytest.fixture(scope="module")
def imports(repository: Path) -> dict[str, set[str]]:
    """Module → the modules it imports."""
    root = repository / "src" / PACKAGE
    paths = {".".join(path.relative_to(root).with_suffix("").parts): path for path in root.rglob("*.py")}
    # but for the package's own face, which everyone may ask for the version, and which hands out Translator
    modules = {name.removesuffix(".__init__"): path for name, path in paths.items() if name != "__init__"}
    return {name: imported(path, set(modules)) for name, path in modules.items()}


@pytest.fixture(scope="module")
def layers(repository: Path) -> list[str]:
    """The folders as the page lists them, from the top."""
    page = (repository / "docs/architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[a-z_]+/`(?:, `[a-z_]+/`)*) \|", page, re.MULTILINE)
    return [folder for row in rows for folder in re.findall(r"`([a-z_]+)/`", row)]


def test_every_folder_has_its_place(repository: Path, layers: list[str]) -> None:
    root = repository / "src" / PACKAGE
    folders = {path.parent.name for path in root.glob("*/__init__.py")}
    assert sorted(layers) == sorted(folders)


def test_a_folder_imports_those_below_it(imports: dict[str, set[str]], layers: list[str]) -> None:
    upward = [
        f"{module} → {other}"
        for module, others in imports.items()
        for other in others
        if (mine := module.split(".")[0]) in layers
        and (theirs := other.split(".")[0]) in layers
        and layers.index(theirs) < layers.index(mine)
    ]
    assert upward == []


def test_no_two_files_import_each_other(imports: dict[str, set[str]]) -> None:
    try:
        list(TopologicalSorter(imports).static_order())
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))
