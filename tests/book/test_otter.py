"""The labs as an autograder gets them: assigned, handed in, and graded. `make check` runs it."""

from __future__ import annotations

import csv
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
LABS = sorted(source.stem.split("_")[0] for source in (ROOT / "book" / "labs").glob("lab[0-9]_*.md"))
WRONG = tomllib.loads(Path(__file__).with_name("wrong_answers.toml").read_text())


def assigned(lab: str, built: Path, folder: Path) -> tuple[Path, Path]:
    """The student's folder, and the autograder's, as ``otter assign`` makes them in ``folder``."""
    if importlib.util.find_spec("otter") is None:
        pytest.skip("otter-grader is not installed")
    shutil.copytree(built.parent / "labs" / "otter" / lab, folder / lab)
    command = [sys.executable, "-m", "otter", "assign", f"{lab}.ipynb", "dist", "--no-run-tests"]
    subprocess.run(command, cwd=folder / lab, check=True, capture_output=True)
    return folder / lab / "dist" / "student", folder / lab / "dist" / "autograder"


def graded(grader: Path, built: Path, folder: Path) -> list[dict[str, str]]:
    """The rows of ``folder/results/points.csv``, for what is in ``folder/submissions``."""
    (zipped,) = grader.glob("*.zip")
    arguments = [built.parent / "labs" / "otter" / "grade.py", zipped, folder / "submissions", folder / "results"]
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    with open(folder / "results" / "points.csv", newline="") as table:
        return list(csv.DictReader(table))


@pytest.mark.parametrize("lab", LABS)
def test_a_solved_lab_gets_all_points_and_an_empty_one_none(lab: str, built: Path, tmp_path: Path) -> None:
    student, grader = assigned(lab, built, tmp_path)
    handed_out = nbformat.read(student / f"{lab}.ipynb", as_version=4)
    cells = [cell.source for cell in handed_out.cells]
    assert "grader.check_all()" in cells
    assert "grader.export(" in "\n".join(cells)
    packages = (student / "requirements.txt").read_text()
    assert re.search(r"^otter-grader==\d", packages, re.MULTILINE)
    assert "Hand in" in (student / "README.md").read_text()

    submissions = tmp_path / "submissions"
    submissions.mkdir()
    shutil.copy(student / f"{lab}.ipynb", submissions / "empty.ipynb")
    shutil.copy(grader / f"{lab}.ipynb", submissions / "solved.ipynb")
    empty, solved = graded(grader, built, tmp_path)
    names = re.findall(r'grader\.check\("(\w+)"\)', "\n".join(cells))
    assert {name: float(value) for name, value in solved.items() if name != "file"} == {
        "total": len(names),
        **dict.fromkeys(names, 1),
    }
    assert float(empty["total"]) == 0
    questions = (tmp_path / "results" / "answers.md").read_text()
    written = sum("otter_answer_cell" in cell.metadata.get("tags", []) for cell in handed_out.cells)
    assert questions.count("# Question ") == written > 0


def test_a_class(built: Path, tmp_path: Path) -> None:
    """Each student fails another check of lab 1, but for one, and writes another answer; one notebook can't be read."""
    _, grader = assigned("lab1", built, tmp_path)
    solution = nbformat.read(grader / "lab1.ipynb", as_version=4)
    mistakes = [(check, wrongs[0]["change"]) for check, wrongs in WRONG["lab1"].items()]
    good, unread = len(mistakes), len(mistakes) + 1
    submissions = tmp_path / "submissions"
    submissions.mkdir()
    for k, (_, changes) in enumerate([*mistakes, ("nothing", [])]):
        notebook = nbformat.from_dict(solution)
        for cell in notebook.cells:
            if "otter_answer_cell" in cell.metadata.get("tags", []):
                cell.source = f"What student {k} thinks."
            elif cell.cell_type == "code":
                for old, new in changes:
                    cell.source = cell.source.replace(old, new)
        nbformat.write(notebook, submissions / f"{k:02}.ipynb")
    (submissions / f"{unread:02}.ipynb").write_text("{")

    rows = graded(grader, built, tmp_path)
    assert [row["file"] for row in rows] == [f"{k:02}.ipynb" for k in range(unread + 1)]
    for (check, changes), row in zip(mistakes, rows, strict=False):
        assert float(row[check]) == 0, (row, changes)
    assert float(rows[good]["total"]) == len(WRONG["lab1"]) > max(float(row["total"]) for row in rows[:good]) > 0
    assert rows[unread]["problem"]
    assert float(rows[unread]["total"]) == 0
    answers = (tmp_path / "results" / "answers.md").read_text()
    assert all(f"## {k:02}.ipynb\n\nWhat student {k} thinks." in answers for k in range(unread))
    assert f"## {unread:02}.ipynb\n\n(missing)" in answers
    assert graded(grader, built, tmp_path) == rows  # nothing that's graded already runs again
