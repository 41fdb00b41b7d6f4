"""A chapter is text, ``.md``; the notebook of the same name is for Jupyter and has the same cells."""

from __future__ import annotations

from pathlib import Path

import jupytext
import pytest
from nbformat import NotebookNode

BOOK = Path(__file__).parents[2] / "book"
CHAPTERS = [page for page in sorted(BOOK.glob("*.md")) if page.read_text().startswith("---\njupytext:")]


def cells(notebook: NotebookNode) -> list[tuple[str, str, dict[str, object]]]:
    return [(cell.cell_type, cell.source, dict(cell.metadata)) for cell in notebook.cells]


def test_there_are_chapters() -> None:
    assert CHAPTERS


@pytest.mark.parametrize("page", CHAPTERS, ids=lambda page: page.stem)
def test_notebook_has_the_cells_of_its_page(page: Path) -> None:
    twin = page.with_suffix(".ipynb")
    assert twin.exists(), f"{twin.name} is missing: run `make notebooks`"
    text, notebook = jupytext.read(page), jupytext.read(twin)
    assert cells(notebook) == cells(text), f"{page.name} and {twin.name} differ: run `make notebooks`"


@pytest.mark.parametrize("twin", sorted(BOOK.glob("*.ipynb")), ids=lambda twin: twin.stem)
def test_notebook_is_generated_and_keeps_no_output(twin: Path) -> None:
    assert twin.with_suffix(".md") in CHAPTERS, f"{twin.name} has no page of that name"
    assert not any(cell.get("outputs") for cell in jupytext.read(twin).cells), f"{twin.name} has outputs"
