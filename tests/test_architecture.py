"""Imports point down the drawing in CONTRIBUTING.md, also those inside functions, and never in a circle."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fertools"


def module_name(file: Path) -> str:
    """``fertools.data`` for ``fertools/data/__init__.py``."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def running(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under ``if TYPE_CHECKING:``, which no program runs."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        yield from running(child)


def imports_of(source: str) -> set[str]:
    """The modules of fertools that a source imports, anywhere in it."""
    found = set()
    for node in running(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "write imports out: from fertools.x import y"
            for name in node.names:
                full = f"{node.module}.{name.name}"
                found.add(full if full in MODULES else str(node.module))
    return {name for name in found if name.split(".")[0] == "fertools"}


IMPORTS = {name: imports_of(file.read_text()) - {name} for name, file in MODULES.items()}


def drawing() -> list[list[set[str]]]:
    """The rows of the drawing, from the top; each row's boxes; the modules that each box names."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    block = page.split("<!-- modules -->")[1].split("<!-- /modules -->")[0]
    rows = re.findall(r"^\|(.+)\|$", block, re.MULTILINE)
    return [[set(box.strip().split(", ")) for box in row.split("|")] for row in rows]


def top(name: str) -> str:
    """``data`` for ``fertools.data.splits``."""
    return name.split(".")[1] if "." in name else name


BOXES = {module: (i, j) for i, row in enumerate(drawing()) for j, box in enumerate(row) for module in box}


def test_the_drawing_has_every_module_once() -> None:
    drawn = [module for row in drawing() for box in row for module in box]
    assert sorted(drawn) == sorted({top(name) for name in MODULES} - {"fertools", "__main__"})


def test_imports_point_down_the_drawing() -> None:
    up = []
    for name, imported in IMPORTS.items():
        if name in ("fertools", "fertools.__main__"):
            continue
        for other in imported - {"fertools"}:
            (row, box), (other_row, other_box) = BOXES[top(name)], BOXES[top(other)]
            if other_row < row or (other_row == row and other_box != box):
                up.append(f"{name} imports {other}")
    assert not up


def test_the_package_itself_imports_nothing_until_it_is_asked() -> None:
    assert IMPORTS["fertools"] == set()


def test_no_imports_in_a_circle() -> None:
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("fertools.inference", "fertools.training"),
        ("fertools.inference", "fertools.data.fer2013"),
        ("fertools.inference", "fertools.data.ferplus"),
        ("fertools.inference", "fertools.data.ckplus"),
        ("fertools.training.trainer", "fertools.network"),  # it builds any network by its configuration
        ("fertools.network", "fertools.models.fusions"),  # the paper's network, and nothing beyond it
        ("fertools.network", "fertools.models.baselines"),
    ],
)
def test_what_must_not_know_what(module: str, forbidden: str) -> None:
    inside = [name for name in MODULES if name == module or name.startswith(f"{module}.")]
    assert inside
    assert forbidden in {*MODULES}
    for name in inside:
        assert not [other for other in IMPORTS[name] if other == forbidden or other.startswith(f"{forbidden}.")], name


def test_data_sets_can_be_read_without_torch() -> None:
    names = [name for name in MODULES if name.startswith("fertools.data")]
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    for name in names:
        assert not re.search(r"^\s*(import|from) torch\b", MODULES[name].read_text(), re.MULTILINE), name


def test_the_checks_see_imports_in_functions_and_skip_those_for_types() -> None:
    source = (
        "from typing import TYPE_CHECKING\n"
        "import numpy\n"
        "if TYPE_CHECKING:\n"
        "    from fertools.cli import app\n"
        "def f():\n"
        "    from fertools.data import load, splits\n"
    )
    assert imports_of(source) == {"fertools.data", "fertools.data.splits"}
