"""Makes the labs from their sources, ``labN_name.md``: ``python book/labs/make_labs.py``.

A source is a MyST notebook that contains the lab, its solution, and its checks:

- Code between ``# BEGIN SOLUTION`` and ``# END SOLUTION`` is the solution. A student gets
  ``raise NotImplementedError`` instead, or the commented lines that follow a ``# STUB`` inside.
- A Markdown cell tagged ``answer`` is a model answer, worth the ``points`` of its metadata. A student gets an
  empty cell.
- A code cell tagged ``check`` defines checks (see ``checking.py``). They go to the file ``labN_checks.py``
  next to the notebook, which keeps a line that calls them.

The output in ``_build/labs``: the folders ``student/`` and ``solution/``; ``fertools-labs.zip``, the student's
folder with everything it needs, and the capstone; and ``otter/``, the input of ``otter assign`` for each lab,
with ``grade.py``.
"""

from __future__ import annotations

import argparse
import ast
import re
import shutil
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
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
    def read(cls, source: Path) -> Lab:
        """Reads ``labN_name.md``."""

        def kind(cell: NotebookNode) -> str:
            tags = {"answer", "check"} & set(cell.metadata.get("tags", []))
            return tags.pop() if tags else str(cell.cell_type)

        cells = jupytext.read(source).cells
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


def labs(folder: Path = HERE) -> list[Lab]:
    """All labs, in order."""
    return [Lab.read(source) for source in sorted(folder.glob("lab[0-9]*_*.md"))]


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


def make(out: Path, root: Path = ROOT) -> None:
    """Writes everything into ``out``, and deletes its old contents."""
    shutil.rmtree(out, ignore_errors=True)
    student, solved = out / "student", out / "solution"
    library = shipped(root)
    for lab in labs():
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
    shutil.copy(HERE / "handout.md", student / "README.md")
    files = {path.name: path for path in student.iterdir()} | library | shipped(root, CAPSTONE)
    with zipfile.ZipFile(out / "fertools-labs.zip", "w") as archive:
        for name, path in sorted(files.items()):
            entry = zipfile.ZipInfo(f"fertools-labs/{name}")  # its date is fixed: the same labs give the same file
            entry.external_attr = 0o100644 << 16  # a file that everybody may read, where several people share a folder
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "labs", help="default: _build/labs")
    chosen = parser.parse_args().out
    make(chosen)
    print(f"The labs are ready: {chosen / 'fertools-labs.zip'}, and the folders next to it")
