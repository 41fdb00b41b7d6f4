"""Writes each chapter's notebook, ``.ipynb``, from its page, ``.md``.

Jupyter, Colab, and GitHub know nothing of Sphinx. So what only Sphinx can read is resolved here:

- cross references, citations, and numbers of figures and equations become text and links,
- admonitions, quizzes, and cards become plain Markdown and ``<details>``,
- a figure's caption becomes a cell below the figure, and the works cited a cell at the end,
- included source code is included,
- cells that the page hides are folded,
- the first code cell gets what is missing.

Figures and equations are numbered within the notebook. A page's directive or role that isn't known here is
an error, so no notebook contains one unresolved::

    python book/_tools/notebooks.py [PAGE ...]
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import jupytext
import nbformat
import yaml
from nbformat import NotebookNode
from pybtex.database import BibliographyData, Entry, parse_file
from pybtex.plugin import find_plugin

sys.path.insert(0, str(Path(__file__).parent))
from questions import read_choices  # the same parser as for the page

BOOK = Path(__file__).parents[1]
ROOT = BOOK.parent
FENCE = re.compile(r"(?P<fence>`{3,}|:{3,})\{(?P<name>[\w:-]+)\} ?(?P<title>.*)")
ROLE = re.compile(r"\{(?P<name>[\w:]+)\}`(?:(?P<text>[^`<]+?) *<(?P<target>[^`>]+)>|(?P<plain>[^`]+))`")
DISPLAYED = re.compile(r"\$\$\s*\n(?P<tex>.*?)\n\$\$ \((?P<label>[\w-]+)\)", re.DOTALL)
FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}

# A chapter reads records and pictures of the checkout that it's in, and a lab the file of its checks. A notebook that's
# alone, as on Colab, gets them.
SETUP = """\
# Run this cell first. In the {of}'s folder, it does nothing; elsewhere it gets the book, and installs what is missing.
# On Colab, Runtime > Change runtime type > GPU makes the trainings faster.
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

address = "{address}"
if address and not Path("{neighbor}").exists():
    folder = Path("fertools-book").resolve()
    if not folder.exists():
        subprocess.run(["git", "clone", "--depth=1", {options}address, folder], check=True)
    with_extras = f"{{folder}}[{extras}]"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-e", with_extras], check=True)
    sys.path.insert(0, str(folder))  # this kernel started before the installation
    os.chdir(folder / "{place}")
elif importlib.util.find_spec("fertools") is None:
    raise ModuleNotFoundError(
        "fertools isn't installed in this kernel. Run `make env` in a "
        "checkout of fertools, then `.venv/bin/jupyter lab`."
    )"""
BRANCH = "notebooks"  # what Colab and Binder open: the workflow `book` adds the labs to the book there


def chapter_setup(address: str) -> str:
    """A chapter's first code cell."""
    extras = "explain,export,faces,plots"
    return SETUP.format(
        address=address, of="book", neighbor="../fertools/network.py", options="", extras=extras, place="book"
    )


def lab_setup(address: str, checks: str) -> str:
    """A lab's first code cell; ``checks`` is the file that has to be next to it."""
    options = f'"--branch={BRANCH}", '
    return SETUP.format(
        address=address, of="lab", neighbor=checks, options=options, extras="labs", place="book/labs/preview"
    )


class UnknownMarkup(ValueError):
    """Markup of a page that this module can't resolve. The message says where and what."""


# --- What the pages refer to ---------------------------------------------------------------------------------------


def chapters() -> list[Path]:
    """The pages with code cells, which get a notebook."""
    return [page for page in sorted(BOOK.glob("*.md")) if page.read_text().startswith("---\njupytext:")]


@cache
def title(page: Path) -> str:
    found = re.search(r"^# (.+)$", page.read_text(), re.MULTILINE)
    if not found:
        raise UnknownMarkup(f"{page.name}: no title, `# ...`")
    return found[1]


@cache
def labels() -> dict[str, tuple[Path, str, int]]:
    """Where each figure and each equation is: its page, its kind, and its number there."""
    found = {}
    for page in chapters():
        cells = jupytext.read(page).cells
        figures = [name for cell in cells if (name := cell.metadata.get("mystnb", {}).get("figure", {}).get("name"))]
        equations = [match["label"] for cell in cells for match in DISPLAYED.finditer(cell.source)]
        found |= {name: (page, "Figure", number) for number, name in enumerate(figures, 1)}
        found |= {name: (page, "equation", number) for number, name in enumerate(equations, 1)}
    return found


@cache
def bibliography() -> BibliographyData:
    return parse_file(str(BOOK / "references.bib"), bib_format="bibtex")


def short(entry: Entry) -> str:
    """``He et al., 2016``"""
    people = [" ".join(person.prelast_names + person.last_names).strip("{}") for person in entry.persons["author"]]
    names = people[0] if len(people) == 1 else " and ".join(people) if len(people) == 2 else f"{people[0]} et al."
    year = entry.fields.get("year")
    return f"{names}, {year}" if year else names


def references(keys: list[str]) -> str:
    """A section with the works cited, in the style of the book's own list."""
    known = bibliography()
    style = find_plugin("pybtex.style.formatting", "plain")()
    backend = find_plugin("pybtex.backends", "markdown")()
    entries = style.format_entries([known.entries[key] for key in sorted(set(keys))], known)
    return "## References\n\n" + "\n".join(f"- {entry.text.render(backend)}".replace("\n", " ") for entry in entries)


# --- One page ------------------------------------------------------------------------------------------------------


@dataclass
class Converter:
    """Resolves the Markdown of one page, and remembers which works it cites."""

    page: Path
    cited: list[str] = field(default_factory=list)

    def markdown(self, source: str) -> str:
        """A cell, or the body of a directive, without directives and roles."""
        source = re.sub(r"^\([\w-]+\)=\n", "", source, flags=re.MULTILINE)  # anchors
        source = DISPLAYED.sub(self.equation, source)
        parts = []
        for kind, text in split(source):
            parts.append(self.directive(text) if kind == "directive" else text if kind == "code" else self.roles(text))
        return re.sub(r"\n{3,}", "\n\n", "\n".join(part for part in parts if part is not None)).strip("\n")

    def equation(self, match: re.Match[str]) -> str:
        number = labels()[match["label"]][2]
        return f"$$\n{match['tex']} \\tag{{{number}}}\n$$"

    # Roles

    def roles(self, text: str) -> str:
        text = ROLE.sub(self.role, text)
        if left := re.search(r"\{[\w:]+\}`", text):
            raise UnknownMarkup(f"{self.page.name}: {left[0]} isn't closed on its line or the next")
        return text

    def role(self, match: re.Match[str]) -> str:
        target, text = match["target"] or match["plain"], match["text"]
        if match["name"] == "doc":
            return self.link(target, text)
        if match["name"] == "cite":
            keys = [key.strip() for key in target.split(",")]
            if missing := [key for key in keys if key not in bibliography().entries]:
                raise UnknownMarkup(f"{self.page.name}: references.bib has no entry {missing[0]!r}")
            self.cited += keys
            return "[" + "; ".join(short(bibliography().entries[key]) for key in keys) + "]"
        if match["name"] in ("numref", "eq"):
            if target not in labels():
                raise UnknownMarkup(f"{self.page.name}: no figure or equation is named {target!r}")
            page, kind, number = labels()[target]
            here = f"{kind} {number}" if match["name"] == "numref" else f"({number})"
            return here if page == self.page else f"{here} of {self.link(page.stem)}"
        raise UnknownMarkup(f"{self.page.name}: the role {match[0]}")

    def link(self, target: str, text: str | None = None) -> str:
        page = (BOOK / target).with_suffix(".md")
        if not page.exists():
            raise UnknownMarkup(f"{self.page.name}: links to {target}, which doesn't exist")
        file = page.with_suffix(".ipynb") if page in chapters() else page
        return f"[{text or title(page)}]({file.relative_to(BOOK)})"

    # Directives

    def directive(self, block: str) -> str | None:
        first, *lines = block.split("\n")
        match = FENCE.fullmatch(first)
        assert match
        options: dict[str, str] = {}
        while lines and (option := re.fullmatch(r":([\w-]+): ?(.*)", lines[0])):
            options[option[1]] = option[2]
            lines.pop(0)
        body = "\n".join(lines[:-1]).strip("\n")
        method = getattr(self, "on_" + re.sub(r"\W", "_", match["name"]), None)
        if method is None:
            raise UnknownMarkup(f"{self.page.name}: the directive {first}")
        result: str | None = method(self.roles(match["title"].strip()), options, body)
        return result

    def on_admonition(self, heading: str, options: dict[str, str], body: str) -> str:
        body = self.markdown(body)
        if "dropdown" in options.get("class", ""):
            return details(heading, body)
        return quote(f"**{heading}**\n\n{body}")

    def on_quiz(self, question: str, options: dict[str, str], body: str) -> str:
        choices = [
            details(self.roles(choice.text), ("✓ " if choice.right else "✗ ") + self.roles(choice.reply))
            for choice in read_choices(body.split("\n"))
        ]
        return "\n\n".join([f"**{question}**", *choices])

    def on_predict(self, question: str, options: dict[str, str], body: str) -> str:
        choices = "\n".join(f"- {self.roles(choice.text)}" for choice in read_choices(body.split("\n")))
        return quote(f"**What do you expect?** {question}\n\n{choices}")

    def on_literalinclude(self, path: str, options: dict[str, str], body: str) -> str:
        source = (self.page.parent / path).read_text()
        text = definition(source, options["pyobject"]) if "pyobject" in options else source.strip("\n")
        return f"```{options['language']}\n{text}\n```"

    def on_grid(self, columns: str, options: dict[str, str], body: str) -> str:
        return self.markdown(body)

    def on_grid_item_card(self, heading: str, options: dict[str, str], body: str) -> str:
        return f"**{self.link(options['link'], heading)}**\n\n{self.markdown(body)}\n"

    def on_button_ref(self, target: str, options: dict[str, str], body: str) -> str:
        return self.link(target, body)

    def on_glue_figure(self, name: str, options: dict[str, str], body: str) -> None:
        """The pictures of the cards exist only on the page."""

    def on_eval_rst(self, _: str, options: dict[str, str], body: str) -> str:
        names = re.findall(r"\.\. auto\w+:: ([\w.]+)", body)
        return "\n".join(f"- `help({name})`" for name in names)

    def on_tableofcontents(self, _: str, options: dict[str, str], body: str) -> str:
        return "\n".join(f"- {self.link(page.stem)}" for page in sorted(BOOK.glob(f"{self.page.stem}_*.md")))


def split(source: str) -> Iterator[tuple[str, str]]:
    """The parts of a Markdown text, in order: ``text``, ``code`` in plain fences, and each ``directive``."""
    lines, text = source.split("\n"), list[str]()
    while lines:
        opened = re.match(r"(`{3,}|:{3,})", lines[0])
        if not opened:
            text.append(lines.pop(0))
            continue
        if text:
            yield "text", "\n".join(text)
            text = []
        first, fence = lines.pop(0), opened[1]
        end = next((k for k, line in enumerate(lines) if line.rstrip() == fence), len(lines))
        yield "directive" if FENCE.fullmatch(first) else "code", "\n".join([first, *lines[: end + 1]])
        lines = lines[end + 1 :]
    if text:
        yield "text", "\n".join(text)


def quote(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))


def details(summary: str, body: str) -> str:
    # The empty lines make Jupyter and GitHub read the body as Markdown; a summary is HTML.
    plain = re.sub(r"`([^`]+)`", r"<code>\1</code>", summary)
    return f"<details>\n<summary>{plain}</summary>\n\n{body}\n\n</details>"


def definition(source: str, path: str) -> str:
    """The source of a function or class, ``Trainer.step`` say, with its decorators."""
    node: ast.AST = ast.parse(source)
    for name in path.split("."):
        node = next(n for n in ast.iter_child_nodes(node) if getattr(n, "name", None) == name)
    assert isinstance(node, ast.FunctionDef | ast.ClassDef)
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    lines = source.split("\n")[first - 1 : node.end_lineno]
    indent = len(lines[0]) - len(lines[0].lstrip())
    return "\n".join(line[indent:] for line in lines)


def convert(page: Path, address: str = "") -> NotebookNode:
    """A page as a notebook that needs nothing of Sphinx.

    Args:
        page: a page of the book with code cells, ``.md``.
        address: of the public repository, from which the first cell installs; empty if there is none.

    Raises:
        UnknownMarkup: a role, a directive, or a target that can't be resolved.
    """
    converter, cells = Converter(page), list[NotebookNode]()

    def add(make: str, source: str, **metadata: object) -> None:
        cell = getattr(nbformat.v4, f"new_{make}_cell")(source, metadata=metadata)
        cell.id = f"{make}-{len(cells)}"  # the same in every run
        cells.append(cell)

    for cell in jupytext.read(page).cells:
        if cell.cell_type == "markdown":
            add("markdown", converter.markdown(cell.source))
            continue
        if not any(cell.cell_type == "code" for cell in cells):
            add("code", chapter_setup(address), jupyter={"source_hidden": True})
        tags = set(cell.metadata.get("tags", []))
        if heading := cell.metadata.get("mystnb", {}).get("code_prompt_show"):
            add("markdown", f"**{heading}** is in the folded cell:")
        metadata: dict[str, object] = {"tags": sorted(tags)} if tags else {}
        if tags & FOLDED:
            metadata["jupyter"] = {"source_hidden": True}
        add("code", cell.source, **metadata)
        if figure := cell.metadata.get("mystnb", {}).get("figure"):
            caption = converter.roles(" ".join(figure["caption"].split()))
            add("markdown", f"**Figure {labels()[figure['name']][2]}.** {caption}")
    if converter.cited:
        add("markdown", references(converter.cited))
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL})
    nbformat.validate(notebook)
    return notebook


def main(names: list[str]) -> None:
    from fertools.files import atomic_write

    address = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    for page in chapters():
        if not names or page.stem in names:
            text = nbformat.writes(convert(page, address)) + "\n"
            twin = page.with_suffix(".ipynb")
            if not twin.exists() or twin.read_text() != text:
                with atomic_write(twin) as part:
                    part.write_text(text)
    for twin in BOOK.glob("*.ipynb"):
        if twin.with_suffix(".md") not in chapters():
            twin.unlink()  # its page was renamed or has no cells any more


if __name__ == "__main__":
    main(sys.argv[1:])
