"""A page is executed again exactly when something changed that it imports or reads: on a small book."""

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
execute: {execute_notebooks: cache, timeout: 120}
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
        "fertools/evaluation/__init__.py": "",
        "fertools/evaluation/plots.py": "def draw():\n    from fertools import network\n\n    return network.WIDTH\n",
        "data/table.csv": "a\n1\n",
        "data/other.csv": "a\n2\n",
        "book/uses.md": cell("from fertools.evaluation import plots\nprint('width', plots.draw())").replace(
            "{name}", "uses"
        ),
        "book/reads.md": cell("print(open('../data/table.csv').read())").replace("{name}", "reads"),
        "book/alone.md": cell("print('by itself')").replace("{name}", "alone"),
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def tool(name: str, book: Path, *options: str, ran: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "book" / "_tools" / name, book, *options]
    settings = {**os.environ, "RAN": str(ran)}
    return subprocess.run(command, capture_output=True, text=True, env=settings, check=False)


def build(book: Path) -> str:
    """What ``make book`` does; returns which pages were executed, in the order of their names."""
    ran = book / "ran"
    ran.unlink(missing_ok=True)
    for name in ("stale.py", "execute.py"):
        done = tool(name, book, ran=ran)
        assert done.returncode == 0, done.stdout + done.stderr
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


def test_a_page_that_fails_is_reported_and_the_others_run(book: Path) -> None:
    page = book / "book" / "reads.md"
    page.write_text(page.read_text() + "\n```{code-cell} ipython3\nundefined_name\n```\n")
    ran = book / "ran"
    done = tool("execute.py", book, "--jobs", "2", ran=ran)
    assert done.returncode == 1
    assert "reads.md, code cell 2:" in done.stdout
    assert "NameError" in done.stdout
    assert sorted(ran.read_text().split()) == ["alone", "reads", "uses"]
    assert "Pages to execute: 1 of 3, 2 at a time" in tool("execute.py", book, "--jobs", "2", ran=ran).stdout


def test_what_appears_or_disappears_counts(book: Path) -> None:
    page = book / "book" / "reads.md"
    page.write_text(page.read_text() + "\n```{code-cell} ipython3\n'../data/later.csv'\n```\n")
    sys.path.insert(0, str(ROOT / "book" / "_tools"))
    try:
        import stale  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    before = stale.page_digest(book, page, [])
    assert stale.page_digest(book, page, ["another==1.0"]) != before
    (book / "data" / "later.csv").write_text("a\n")
    with_file = stale.page_digest(book, page, [])
    (book / "data" / "later.csv").unlink()
    assert with_file != before == stale.page_digest(book, page, [])
