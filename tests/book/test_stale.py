"""A page is executed again exactly where something changed that it imports or reads: on a small book."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# Page

"""
CONFIG = """
title: Small
exclude_patterns: [_build]
execute: {execute_notebooks: cache}
sphinx: {config: {nb_execution_raise_on_error: true}}
"""


def cell(source: str) -> str:
    """A cell that also leaves a mark whenever it runs."""
    mark = "open(os.environ['RAN'], 'a').write('{name} ')"
    return HEADER + f"```{{code-cell}} ipython3\nimport os, sys\nsys.path.insert(0, '..')\n{mark}\n{source}\n```\n"


@pytest.fixture
def book(tmp_path: Path) -> Path:
    files = {
        "_config.yml": CONFIG,
        "_toc.yml": "format: jb-book\nroot: book/uses\nchapters: [{file: book/reads}, {file: book/alone}]\n",
        "fertools/__init__.py": "",
        "fertools/network.py": "WIDTH = 16\n",
        "fertools/evaluation/plots.py": "def draw():\n    from fertools import network\n\n    return network.WIDTH\n",
        "data/table.csv": "a\n1\n",
        "data/other.csv": "a\n2\n",
        "book/uses.md": cell("from fertools.evaluation import plots\nprint('width', plots.draw())").replace("{name}", "uses"),
        "book/reads.md": cell("print(open('../data/table.csv').read())").replace("{name}", "reads"),
        "book/alone.md": cell("print('by itself')").replace("{name}", "alone"),
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def stale(book: Path) -> str:
    command = [sys.executable, ROOT / "book" / "_tools" / "stale.py", book]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def build(book: Path) -> str:
    """What ``make book`` does; returns which pages were executed, in the order of their names."""
    stale(book)
    ran = book / "ran"
    ran.unlink(missing_ok=True)
    settings = {**os.environ, "RAN": str(ran)}
    command = [Path(sys.executable).with_name("jupyter-book"), "build", ".", "-W", "-n", "--keep-going", "-q"]
    done = subprocess.run(command, cwd=book, capture_output=True, text=True, env=settings, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join(sorted(ran.read_text().split())) if ran.exists() else ""


def test_a_page_runs_again_where_what_it_imports_or_reads_changed(book: Path) -> None:
    html = book / "_build" / "html" / "book"
    assert build(book) == "alone reads uses"
    assert "width 16" in (html / "uses.html").read_text()

    for file in [*book.glob("fertools/*.py"), *book.glob("data/*"), *book.glob("book/*.md")]:
        os.utime(file)  # later, but the same
    (book / "fertools/network.py").write_text("WIDTH = 32\n")  # imported by way of plots, inside a function
    assert build(book) == "uses"
    assert "width 32" in (html / "uses.html").read_text()

    (book / "data/other.csv").write_text("a\n3\n")  # nobody reads it
    (book / "data/table.csv").write_text("a\n4\n")
    assert build(book) == "reads"
    assert "by itself" in (html / "alone.html").read_text()


def test_what_appears_or_disappears_counts(book: Path) -> None:
    page = book / "book" / "reads.md"
    page.write_text(page.read_text() + "\n```{code-cell} ipython3\n'../data/later.csv'\n```\n")
    sys.path.insert(0, str(ROOT / "book" / "_tools"))
    try:
        import stale as tool  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    before = tool.page_digest(book, page, [])
    assert tool.page_digest(book, page, ["another==1.0"]) != before
    (book / "data" / "later.csv").write_text("a\n")
    with_file = tool.page_digest(book, page, [])
    (book / "data" / "later.csv").unlink()
    assert with_file != before == tool.page_digest(book, page, [])
