"""Makes the labs from their sources, ``labN_name.md``: ``python book/labs/make_labs.py``.

A source is a MyST notebook that contains the lab, its solution, and its checks:

- Code between ``# BEGIN SOLUTION`` and ``# END SOLUTION`` is the solution. A student gets
  ``raise NotImplementedError`` instead, or the commented lines that follow a ``# STUB`` inside.
- A Markdown cell tagged ``answer`` is a model answer, worth the ``points`` of its metadata. A student gets an
  empty cell.
- A code cell tagged ``check`` defines checks (see ``checking.py``). They go to the file ``labN_checks.py``
  next to the notebook, which keeps a line that calls them.
- ``{{ name: a | b | c }}``, anywhere, is one of its choices: the first, unless a seed chooses another (``drawn``).
  ``{{ name }}`` repeats the first list of this name.

The output in ``_build/labs``: the folders ``student/`` and ``solution/``; ``fertools-labs.zip`` and
``fertools-labs-instructors.zip``, these folders with everything that they need, and the capstone; and ``otter/``, the
input of ``otter assign`` for each lab, with ``grade.py``. ``--execute`` adds the outputs to the solutions, and writes
a preview of each lab, a page of the book without solutions, to ``preview/`` next to this file. If the book has a public
repository, the labs for Colab and Binder are written there, too.
"""

from __future__ import annotations

import argparse
import ast
import base64
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import jupytext
import nbformat
import yaml
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell

sys.path.insert(0, str(Path(__file__).parents[1] / "_tools"))
from archive import pack
from execute import ONE_THREAD
from execute import execute as run_notebook
from notebooks import lab_setup

from fertools.inference.detection import available_cores

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MINUTES = 30  # for a cell of a lab; the longest takes one and a half
SHIPPED = ("fertools/**/*.py", "data/synthetic/*", "data/synthetic.*", "data/runs/cpu-fer2013/*")
CAPSTONE = (  # the records are those from which it computes how many trainings a test needs
    "book/capstone.ipynb",
    "book/capstone/*.md",
    "book/capstone/*.py",
    "book/capstone/claims/*.toml",
    "data/runs/fusion-seeds/*/record.json",
    "data/runs/fusion-seeds/*/predictions.npz",
    "data/runs/ckplus48-subject/groups.json",
    "data/runs/ckplus48-subject/*/record.json",
    "data/runs/ckplus48-subject/*/predictions.npz",
    "data/runs/synthetic-ablations/baseline_seed-*/record.json",
    "data/runs/synthetic-ablations/fusion-concatenate_seed-*/record.json",
)
BLANK = "raise NotImplementedError  # your code here"
EMPTY = "**Your answer** (up to {} points): ..."
HAND_IN = """
## Hand in

Save the notebook, and run its last cell. It writes a zip file next to the notebook, with your code and your written
answers: hand that file in.
"""
WITH_NOTEBOOK = """\
---
jupytext: {text_representation: {extension: .md, format_name: myst}}
kernelspec: {display_name: Python 3, language: python, name: python3}
mystnb: {execution_mode: "off"}
---

"""
PREVIEW = """\
:::{note}
This is a preview: the tasks, and the figures that you'll see once your code works.
{download}`Download the labs <../../../_build/labs/fertools-labs.zip>` to work on them.
:::"""
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


@dataclass(frozen=True)
class Lab:
    """A lab's source as a list of cells.

    Attributes:
        name: ``"lab1"``.
        cells: (kind, text) in order; kind is ``markdown``, ``answer``, ``code`` or ``check``.
        points: what each answer is worth, in order.
    """

    name: str
    cells: list[tuple[str, str]]
    points: list[int]

    @classmethod
    def read(cls, source: Path, seed: int = 0) -> Lab:
        """Reads ``labN_name.md``, with the choices of a seed."""

        def kind(cell: NotebookNode) -> str:
            tags = {"answer", "check"} & set(cell.metadata.get("tags", []))
            return tags.pop() if tags else str(cell.cell_type)

        try:
            cells = jupytext.reads(drawn(source.read_text(), seed), "md:myst").cells
        except ValueError as error:
            raise ValueError(f"{source.name}: {error}") from error
        points = [cell.metadata["points"] for cell in cells if kind(cell) == "answer"]
        return cls(source.stem.split("_")[0], [(kind(cell), cell.source) for cell in cells], points)

    @property
    def files(self) -> list[str]:
        """What has to be next to the notebook."""
        reads = any("fertools.data" in text or "data/" in text for _, text in self.cells)
        return ["checking.py", f"{self.name}_checks.py", "fertools", *(["data"] if reads else [])]

    @property
    def checks(self) -> str:
        """The text of ``labN_checks.py``."""
        return "\n\n".join(text for kind, text in self.cells if kind == "check") + "\n"

    def notebook(self, *, solved: bool) -> NotebookNode:
        """The student's notebook, or the one with the solution."""
        cells, points = [], iter(self.points)
        for kind, text in self.cells:
            if kind == "markdown":
                cells.append(new_markdown_cell(text))
            elif kind == "answer":
                empty = EMPTY.format(next(points))
                cells.append(new_markdown_cell(text if solved else empty))
            elif kind == "code":
                cells.append(new_code_cell(solution(text) if solved else stub(text)))
            elif calls := [f"check.{name}({', '.join(answers)})" for name, answers in checks_of(text)]:
                fixed = {"editable": False, "deletable": False}
                cells.append(new_code_cell("\n".join(calls), metadata=fixed))
        return numbered(cells)

    def otter(self) -> NotebookNode:
        """The input notebook of ``otter assign``; its tests call the same checks."""
        config = f"# ASSIGNMENT CONFIG\nname: {self.name}\nsolutions_pdf: false\nexport_cell: {{pdf: false}}\n"
        config += "generate: {pdf: false}\ntests: {ok_format: false}\nstrip_solutions_from_all_cells: true\n"
        config += f"requirements: requirements.txt\nfiles: [README.md, requirements.txt, {', '.join(self.files)}]"
        cells = [new_raw_cell(config)]
        answers = 0
        for kind, text in self.cells:
            if kind == "markdown":
                cells.append(new_markdown_cell(text))
            elif kind == "code":  # Otter counts its own checks
                text = text.replace("check.report()", "grader.check_all()")
                cells.append(new_code_cell(otter_cell(text)))
            elif kind == "answer":
                answers += 1
                cells += otter_question(f"written{answers}", self.points[answers - 1], answer=new_markdown_cell(text))
            else:
                for name, parameters in checks_of(text):
                    test = f"def test_{name}({', '.join(parameters)}):\n    from checking import examine\n"
                    test += f"    import {self.name}_checks\n\n"
                    test += f"    problem = examine({self.name}_checks.{name}, {', '.join(parameters)})\n"
                    test += "    assert not problem, problem"
                    cells += otter_question(name, 1, test=new_code_cell(test))
        return numbered(cells)


def numbered(cells: list[NotebookNode]) -> NotebookNode:
    """A notebook whose cells have reproducible ids."""
    for i, cell in enumerate(cells):
        cell["id"] = f"cell-{i}"
    return new_notebook(cells=cells, metadata=KERNEL)


# --- One lab for each term ---------------------------------------------------------------------


def drawn(text: str, seed: int) -> str:
    """A lab's source with one of the choices of each ``{{ name: a | b | c }}``.

    Seed 0 takes the first. Other seeds take the others in turn, so that a seed and the next one agree in none.
    All lists of a name are read together: what the statement says is what the checks examine.

    Raises:
        ValueError: a list is too short to change from term to term, or doesn't fit another one of its name.
    """
    lists: dict[str, list[str]] = {}

    def choice(match: re.Match[str]) -> str:
        here = [one.strip() for one in match[2].split("|")] if match[2] else lists.get(match[1], [])
        first = lists.setdefault(match[1], here)
        if len(here) < 3 or len(here) != len(first):
            raise ValueError(f"{match[0]!r} needs three choices or more, as many as the first list of its name has")
        return here[1 + seed % (len(here) - 1) if seed else 0]

    return re.sub(r"\{\{ (\w+)(?:: (.*?))? \}\}", choice, text, flags=re.DOTALL)


# --- Solutions and stubs ----------------------------------------------------------------------


def parts(text: str) -> Iterator[tuple[str, str]]:
    """The lines of a cell as ("given" | "solution" | "stub", line), without the markers.

    Raises:
        ValueError: a marker does not fit the one before it.
    """
    now = "given"
    follows = {"# BEGIN SOLUTION": ("given", "solution"), "# STUB": ("solution", "stub")}
    for line in text.splitlines():
        mark = line.strip()
        if mark == "# END SOLUTION" and now in ("solution", "stub"):
            if now == "solution":
                yield "stub", f"{line[: len(line) - len(mark)]}# {BLANK}"
            now = "given"
        elif mark in follows and follows[mark][0] == now:
            now = follows[mark][1]
        elif mark in (*follows, "# END SOLUTION"):
            raise ValueError(f"{mark!r} is not expected here, in:\n{text}")
        else:
            yield now, line
    if now != "given":
        raise ValueError(f"'# END SOLUTION' is missing in:\n{text}")


def solution(text: str) -> str:
    """A cell with its solution."""
    return "\n".join(line for kind, line in parts(text) if kind != "stub")


def stub(text: str) -> str:
    """A cell as a student gets it, with ``# x`` of a stub turned into ``x``."""
    found = (
        re.sub(r"^(\s*)# ?", r"\1", line) if kind == "stub" else line
        for kind, line in parts(text)
        if kind != "solution"
    )
    return "\n".join(found)


def solution_lines(text: str) -> list[str]:
    """The lines of a cell that students must not see."""
    return [line.strip() for kind, line in parts(text) if kind == "solution"]


def checks_of(text: str) -> list[tuple[str, list[str]]]:
    """Name and parameters of each check that a cell defines, in order."""
    return [
        (node.name, [argument.arg for argument in node.args.args])
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(mark, ast.Name) and mark.id == "check" for mark in node.decorator_list)
    ]


# --- Otter ------------------------------------------------------------------------------------


def otter_cell(text: str) -> str:
    """A cell in Otter's format: the solution, and the stub as its prompt."""
    if "# BEGIN SOLUTION" not in text:
        return text
    lines = ["# BEGIN SOLUTION NO PROMPT", solution(text), "# END SOLUTION"]
    return "\n".join([*lines, '""" # BEGIN PROMPT', stub(text).replace('"""', "'''"), '""" # END PROMPT'])


def otter_question(
    name: str, points: int, *, answer: NotebookNode | None = None, test: NotebookNode | None = None
) -> list[NotebookNode]:
    """The raw cells that define a question for Otter, with a model answer or a test."""
    manual = "\nmanual: true" if answer else ""
    cells = [new_raw_cell(f"# BEGIN QUESTION\nname: {name}\npoints: {points}{manual}")]
    if answer:
        cells += [new_raw_cell("# BEGIN SOLUTION"), answer, new_raw_cell("# END SOLUTION")]
    if test:
        cells += [new_raw_cell("# BEGIN TESTS"), test, new_raw_cell("# END TESTS")]
    return [*cells, new_raw_cell("# END QUESTION")]


# --- Writing ----------------------------------------------------------------------------------


def labs(folder: Path = HERE, seed: int = 0) -> list[Lab]:
    """All labs, in order."""
    return [Lab.read(source, seed) for source in sorted(folder.glob("lab[0-9]*_*.md"))]


def requirements(root: Path = ROOT, *more: str) -> str:
    """The packages that the labs need, and ``more``, in the versions that the project is tested with.

    They are the library's dependencies, its extras for export, faces, and plots, and what only the notebooks import or
    run in.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    ours = [*project["dependencies"], *extras["export"], *extras["faces"], *extras["plots"]]
    wanted = [*ours, "scikit-image", "jupyterlab", *more]
    names = [re.split("[<>=~ ]", package)[0].lower() for package in wanted]
    pinned = {line.split("==")[0].lower(): line for line in (root / "constraints.txt").read_text().splitlines()}
    return "".join(pinned[name] + "\n" for name in names)


def shipped(root: Path = ROOT, patterns: tuple[str, ...] = SHIPPED) -> dict[str, Path]:
    """The library and the data that the labs use, or other files, by their names in the student's folder."""
    found = (path for pattern in patterns for path in root.glob(pattern) if path.is_file())
    return {path.relative_to(root).as_posix().removeprefix("book/"): path for path in found}


def executed(path: Path, needed: dict[str, Path], *, fork: bool) -> NotebookNode:
    """The notebook with its outputs, executed in a folder with the files that it needs, by name."""
    notebook = nbformat.read(path, as_version=4)
    with TemporaryDirectory() as folder:
        for name, file in needed.items():
            Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, Path(folder, name))
        seconds = run_notebook(Path(folder, path.name), notebook, 60 * MINUTES, fork=fork)
        print(f"{path.name}: {seconds:.0f} s", flush=True)
    return notebook


def add_outputs(solved: Path, library: dict[str, Path], before: dict[str, NotebookNode], *, execute: bool) -> None:
    """Adds the outputs to the solved notebooks: those from ``before`` if nothing changed, or else by executing them."""

    def add(path: Path) -> None:
        needed = {path.name: path, "checking.py": solved / "checking.py"} | library
        needed[f"{path.stem}_checks.py"] = solved / f"{path.stem}_checks.py"
        digest = sha256(b"".join(file.read_bytes() for _, file in sorted(needed.items()))).hexdigest()
        notebook = before.get(path.name)
        if notebook is None or notebook.metadata.get("digest") != digest:
            if not execute:
                return
            notebook = executed(path, needed, fork=len(longest_first) > available_cores())
            notebook.metadata["digest"] = digest
        nbformat.write(notebook, path)

    # Lab 5, which trains eight networks, takes longest. It starts first, so that no core waits for it at the end.
    longest_first = sorted(solved.glob("*.ipynb"), key=lambda path: (path.stem != "lab5", path.name))
    with ThreadPoolExecutor(available_cores()) as pool:
        list(pool.map(add, longest_first))


def launchable(lab: Lab, folder: Path, address: str) -> None:
    """Writes the student's notebook for Colab and Binder, which gets what it needs from the repository ``address``."""
    notebook = lab.notebook(solved=False)
    first = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    setup = new_code_cell(lab_setup(address, f"{lab.name}_checks.py"), metadata={"jupyter": {"source_hidden": True}})
    folder.mkdir(exist_ok=True)
    nbformat.write(numbered([*notebook.cells[:first], setup, *notebook.cells[first:]]), folder / f"{lab.name}.ipynb")
    (folder / f"{lab.name}_checks.py").write_text(lab.checks)
    shutil.copy(HERE / "checking.py", folder)


def preview(lab: Lab, executed: NotebookNode, folder: Path) -> None:
    """Writes a page of the book: what a student gets, with the figures of the solved lab but not its numbers."""
    folder.mkdir(exist_ok=True)
    parts, figures, heading = list[str](), 0, ""
    for given, solved in zip(lab.notebook(solved=False).cells, executed.cells, strict=True):
        if given.cell_type == "markdown":
            parts.append(given.source)
            heading = [heading, *re.findall(r"^#+ (.+)", given.source, re.MULTILINE)][-1]
            continue
        parts.append(f"```python\n{given.source}\n```")
        for image in (output.get("data", {}).get("image/png") for output in solved.outputs):
            if image:
                figures += 1
                name = f"{lab.name}-{figures}.png"
                (folder / name).write_bytes(base64.b64decode(image))
                parts.append(f"![The figure that the solved lab draws here, in {heading}]({name})")
    parts[0] = parts[0].replace("\n", f"\n\n{PREVIEW}\n", 1)
    launches = (folder / f"{lab.name}.ipynb").exists()
    (folder / f"{lab.name}.md").write_text(WITH_NOTEBOOK * launches + "\n\n".join(parts) + "\n")


def make(out: Path, root: Path = ROOT, seed: int = 0, *, execute: bool = False) -> None:
    """Writes everything into ``out``, and deletes its old contents, except the outputs of unchanged solutions."""
    student, solved = out / "student", out / "solution"
    before = {path.name: nbformat.read(path, as_version=4) for path in solved.glob("*.ipynb")}
    shutil.rmtree(out, ignore_errors=True)
    library = shipped(root)
    for lab in labs(seed=seed):
        otter = out / "otter" / lab.name
        for folder, notebook in [
            (student, lab.notebook(solved=False)),
            (solved, lab.notebook(solved=True)),
            (otter, lab.otter()),
        ]:
            folder.mkdir(parents=True, exist_ok=True)
            nbformat.validate(notebook)
            nbformat.write(notebook, folder / f"{lab.name}.ipynb")
            (folder / f"{lab.name}_checks.py").write_text(lab.checks)
            shutil.copy(HERE / "checking.py", folder)
            (folder / "requirements.txt").write_text(requirements(root, *(["otter-grader"] if folder == otter else [])))
        for name, path in library.items():
            if name.split("/")[0] not in lab.files:
                continue
            (otter / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, otter / name)
        (otter / "README.md").write_text((HERE / "handout.md").read_text() + HAND_IN)
    shutil.copy(HERE / "grade.py", out / "otter")
    for folder in (student, solved):
        shutil.copy(HERE / "handout.md", folder / "README.md")
    add_outputs(solved, library, before, execute=execute)
    for folder, archive in [(student, "fertools-labs.zip"), (solved, "fertools-labs-instructors.zip")]:
        files = {path.name: path for path in folder.iterdir()} | library | shipped(root, CAPSTONE)
        place = archive.removesuffix(".zip")
        (out / archive).write_bytes(
            pack({f"{place}/{name}": path.read_bytes() for name, path in sorted(files.items())})
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "labs", help="default: _build/labs")
    parser.add_argument("--seed", type=int, default=0, help="of this term's labs, e.g. 2027 (default: the book's)")
    parser.add_argument("--execute", action="store_true", help="add outputs to the solutions, which takes minutes")
    chosen = parser.parse_args()
    os.environ.update(ONE_THREAD)
    make(chosen.out, seed=chosen.seed, execute=chosen.execute)
    address = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    if address or chosen.execute:
        shutil.rmtree(HERE / "preview", ignore_errors=True)
    for lab in labs(seed=chosen.seed):
        if address:
            launchable(lab, HERE / "preview", address)
        if chosen.execute:
            preview(lab, nbformat.read(chosen.out / "solution" / f"{lab.name}.ipynb", as_version=4), HERE / "preview")
    print(f"The labs are ready: {chosen.out / 'fertools-labs.zip'}, and what is next to it")
