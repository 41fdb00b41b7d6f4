"""The labs as an autograder gets them: assigned, handed in solved and empty, and graded. `make check` runs it."""

from __future__ import annotations

import csv
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
LABS = sorted(source.stem.split("_")[0] for source in (ROOT / "book" / "labs").glob("lab[0-9]_*.md"))


@pytest.mark.parametrize("lab", LABS)
def test_a_solved_lab_gets_all_points_and_an_empty_one_none(lab: str, built: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("otter") is None:
        pytest.skip("otter-grader is not installed")
    otter = built.parent / "labs" / "otter"
    shutil.copytree(otter / lab, tmp_path / lab)
    command = [sys.executable, "-m", "otter", "assign", f"{lab}.ipynb", "dist", "--no-run-tests"]
    subprocess.run(command, cwd=tmp_path / lab, check=True, capture_output=True)
    student, grader = tmp_path / lab / "dist" / "student", tmp_path / lab / "dist" / "autograder"
    handed_out = nbformat.read(student / f"{lab}.ipynb", as_version=4)
    cells = [cell.source for cell in handed_out.cells]
    assert "grader.check_all()" in cells
    assert "grader.export(" in "\n".join(cells)
    packages = (student / "requirements.txt").read_text()
    assert re.search(r"^otter-grader==\d", packages, re.MULTILINE)
    assert "Hand in" in (student / "README.md").read_text()

    submissions, results = tmp_path / "submissions", tmp_path / "results"
    submissions.mkdir()
    shutil.copy(student / f"{lab}.ipynb", submissions / "empty.ipynb")
    shutil.copy(grader / f"{lab}.ipynb", submissions / "solved.ipynb")
    (zipped,) = grader.glob("*.zip")
    subprocess.run([sys.executable, otter / "grade.py", zipped, submissions, results], check=True, capture_output=True)
    with open(results / "points.csv", newline="") as table:
        empty, solved = csv.DictReader(table)
    names = re.findall(r'grader\.check\("(\w+)"\)', "\n".join(cells))
    assert {name: float(value) for name, value in solved.items() if name != "file"} == {
        "total": len(names),
        **dict.fromkeys(names, 1),
    }
    assert float(empty["total"]) == 0
    questions = (results / "answers.md").read_text()
    written = sum("otter_answer_cell" in cell.metadata.get("tags", []) for cell in handed_out.cells)
    assert questions.count("# Question ") == written > 0
