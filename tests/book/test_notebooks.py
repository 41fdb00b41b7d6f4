"""A chapter is text, ``.md``; the notebook of the same name is generated from it and reads well without Sphinx."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest
import yaml

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "book"
CHAPTERS = [page for page in sorted(BOOK.glob("*.md")) if page.read_text().startswith("---\njupytext:")]
HEADER = "\n".join(CHAPTERS[0].read_text().split("\n")[:11]) + "\n# A page\n\n" if CHAPTERS else ""
# What only Sphinx understands: a role, a directive, an anchor, a labeled equation.
RAW = re.compile(r"\{[\w:-]+\}`|^[`:]{3,}\{|^\([\w-]+\)=$|^\$\$ \(", re.MULTILINE)


@pytest.fixture(scope="module")
def notebooks() -> Any:
    spec = importlib.util.spec_from_file_location("book_notebooks", BOOK / "_tools" / "notebooks.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # for its dataclass
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def page(notebooks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that converts a page of this text, in a small book of its own."""
    (tmp_path / "references.bib").write_text((BOOK / "references.bib").read_text())
    monkeypatch.setattr(notebooks, "BOOK", tmp_path)
    for known in (notebooks.title, notebooks.labels, notebooks.bibliography):
        known.cache_clear()

    def convert(text: str, **others: str) -> list[str]:
        (tmp_path / "page.md").write_text(HEADER + text)
        for name, other in others.items():
            (tmp_path / f"{name}.md").write_text(other)
        return [cell.source for cell in notebooks.convert(tmp_path / "page.md").cells]

    yield convert
    for known in (notebooks.title, notebooks.labels, notebooks.bibliography):
        known.cache_clear()


def test_there_are_chapters() -> None:
    assert CHAPTERS


@pytest.mark.parametrize("page", CHAPTERS, ids=lambda page: page.stem)
def test_notebook_is_the_converted_page(notebooks: Any, page: Path) -> None:
    address = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    twin = page.with_suffix(".ipynb")
    assert twin.exists(), f"{twin.name} is missing: run `make notebooks`"
    expected = nbformat.writes(notebooks.convert(page, address)) + "\n"
    assert twin.read_text() == expected, f"{page.name} and {twin.name} differ: run `make notebooks`"


@pytest.mark.parametrize("page", CHAPTERS, ids=lambda page: page.stem)
def test_notebook_has_the_code_of_its_page_and_no_raw_markup(page: Path) -> None:
    cells = nbformat.read(page.with_suffix(".ipynb"), as_version=4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    assert code[1:] == [cell.source for cell in jupytext.read(page).cells if cell.cell_type == "code"]
    left = [found[0] for cell in cells if cell.cell_type == "markdown" and (found := RAW.search(cell.source))]
    assert not left, f"{page.stem}.ipynb: {left[0]}"


@pytest.mark.parametrize("page", CHAPTERS, ids=lambda page: page.stem)
def test_links_of_a_notebook_lead_to_files(page: Path) -> None:
    for cell in nbformat.read(page.with_suffix(".ipynb"), as_version=4).cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\((?!https?:|#)([^)\s]+\.(?:ipynb|md))\)", cell.source):
                assert (BOOK / target).exists(), f"{page.stem}.ipynb links to {target}"


def test_every_notebook_has_a_page_and_no_output() -> None:
    for twin in BOOK.glob("*.ipynb"):
        assert twin.with_suffix(".md") in CHAPTERS, f"{twin.name} has no page of that name: run `make notebooks`"
        assert not any(cell.get("outputs") for cell in nbformat.read(twin, as_version=4).cells), twin.name


def test_roles_become_text_and_links(page: Any) -> None:
    text = """See {doc}`other`, {doc}`that page <other>`, and {eq}`second` {cite}`he2016`.

$$
a = b
$$ (first)

$$
c = d
$$ (second)
"""
    (cell, works) = page(text, other=HEADER.replace("A page", "Another page"))
    assert "[Another page](other.ipynb), [that page](other.ipynb), and (2) [He et al., 2016]" in cell
    assert "$$\na = b \\tag{1}\n$$" in cell
    assert "$$\nc = d \\tag{2}\n$$" in cell
    assert works.startswith("## References\n\n- ")
    assert "Deep residual learning" in works.replace("Residual Learning", "residual learning")


def test_figure_gets_its_number_and_caption_below(page: Any) -> None:
    text = """As {numref}`shape` shows:

```{code-cell} ipython3
---
mystnb:
  figure:
    name: shape
    caption: >-
      A caption {cite}`he2016`
      in two lines.
tags: [hide-input]
---
1 + 1
```
"""
    intro, setup, code, caption, _ = page(text)
    assert "As Figure 1 shows:" in intro
    assert "fertools" in setup
    assert code == "1 + 1"
    assert caption == "**Figure 1.** A caption [He et al., 2016] in two lines."


def test_admonitions_and_questions_need_no_sphinx(page: Any) -> None:
    text = """```{admonition} In this chapter
:class: about
**You need** nothing.
```

````{admonition} Solution 1
:class: dropdown

```{math}
```
````
"""
    with pytest.raises(ValueError, match=r"page\.md: the directive ```\{math\}"):
        page(text)
    (cell,) = page(text.replace("```{math}", "```python"))
    assert "> **In this chapter**\n>\n> **You need** nothing." in cell
    assert "<details>\n<summary>Solution 1</summary>\n\n```python\n```\n\n</details>" in cell

    (cell,) = page("```{quiz} Why?\n- [ ] No `x`. — Wrong,\n  twice.\n- [x] Yes. — Right.\n```\n")
    assert "**Why?**" in cell
    assert "<summary>No <code>x</code>.</summary>\n\n✗ Wrong, twice.\n" in cell
    assert "<summary>Yes.</summary>\n\n✓ Right.\n" in cell


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{term}`face`", "the role {term}`face`"),
        ("{doc}`nowhere`", "links to nowhere, which doesn't exist"),
        ("{numref}`nothing`", "no figure or equation is named 'nothing'"),
        ("{cite}`nobody1900`", "references.bib has no entry 'nobody1900'"),
    ],
)
def test_unknown_markup_is_an_error_that_names_the_page(page: Any, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"page.md: {message}")):
        page(text)


def test_source_code_is_included(notebooks: Any) -> None:
    source = "class A:\n    @property\n    def b(self):\n        return 1\n\n    c = 2\n"
    assert notebooks.definition(source, "A.b") == "@property\ndef b(self):\n    return 1"
    assert ast.unparse(ast.parse(notebooks.definition(source, "A"))) == ast.unparse(ast.parse(source))


def test_first_cell_says_what_to_do_where_nothing_can_be_installed(
    notebooks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(notebooks.chapter_setup(""), {})  # fertools is installed, which is enough for some chapters
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="Run `make env`"):
        exec(notebooks.chapter_setup(""), {})


def test_first_cell_gets_the_book_where_a_notebook_is_alone(
    notebooks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess
    import sys

    ran: list[list[Any]] = []

    def run(command: list[Any], check: bool) -> None:
        ran.append(command)
        if "clone" in command:
            for name in ("book", "fertools"):
                (command[-1] / name).mkdir(parents=True)
            (command[-1] / "fertools" / "network.py").touch()

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # the second time, the notebook is in the book's folder
        exec(notebooks.chapter_setup("https://example.org/fertools"), {})
        assert Path.cwd() == tmp_path / "fertools-book" / "book"
    clone, install = ran
    assert clone == ["git", "clone", "--depth=1", "https://example.org/fertools", tmp_path / "fertools-book"]
    extras = yaml.safe_load(re.search(r"\[(\w+(?:,\w+)*)\]", str(install[-1]))[0])  # type: ignore[index]
    declared = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = ", declared, re.MULTILINE) for extra in extras)
    assert sys.path[0] == str(tmp_path / "fertools-book")
