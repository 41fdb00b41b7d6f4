"""Grades the notebooks that were handed in for one lab: a table of points, and the written answers to read.

    python grade.py lab1/dist/autograder/*.zip submissions/ results/

``submissions/`` contains a notebook or a zip file from each student, named as you like; the first argument is what
``otter assign`` made. ``results/points.csv`` gets a row for each of them, and ``results/answers.md`` the written
answers, question by question. A notebook that was graded already isn't run again; delete its folder in ``results/``
to repeat it.

This runs the students' code as you, with your files within reach. For strangers' code, use ``otter grade``, which
does the same in containers and needs Docker.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat

THREADS = {"OMP_NUM_THREADS": "1"}  # one notebook, one core
MINUTES = 15  # for one notebook; lab 5 takes one and a half


def notebook(submission: Path) -> dict[str, Any]:
    """The notebook that was handed in, alone or in Otter's zip file."""
    if submission.suffix == ".ipynb":
        return dict(nbformat.read(submission, as_version=4))
    with zipfile.ZipFile(submission) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".ipynb"))
        return dict(nbformat.reads(archive.read(name).decode(), as_version=4))


def answers(submission: Path) -> list[str]:
    """The texts of the cells for written answers, in order; none, if the notebook can't be read."""
    try:
        cells = notebook(submission)["cells"]
    except Exception:  # whatever was handed in, the others' answers are written; points.csv says what went wrong
        return []
    return [cell["source"] for cell in cells if "otter_answer_cell" in cell["metadata"].get("tags", [])]


def points(autograder: Path, submission: Path, folder: Path) -> dict[str, Any]:
    """The points for each check, or what went wrong."""
    found = folder / "results.json"
    if not found.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "otter",
            "run",
            "-a",
            autograder,
            "-o",
            folder,
            "--no-logo",
            submission,
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=60 * MINUTES, env=os.environ | THREADS
            )
        except subprocess.TimeoutExpired:
            return {"problem": f"stopped after {MINUTES} minutes"}
        if not found.exists():
            last = (done.stderr + done.stdout).strip().splitlines()[-1:]
            return {"problem": f"Otter wrote no result; its last words: {''.join(last)}"}
    tests = json.loads(found.read_text())["tests"]
    return {test["name"]: test["score"] for test in tests if "score" in test}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("autograder", type=Path, help="the zip file that otter assign wrote")
    parser.add_argument("submissions", type=Path, help="a folder of notebooks, or of zip files")
    parser.add_argument("results", type=Path, help="where to write")
    parser.add_argument("--jobs", type=int, default=2, help="notebooks at a time (default: 2)")
    chosen = parser.parse_args()
    files = sorted(f for f in chosen.submissions.iterdir() if f.suffix in (".ipynb", ".zip"))
    if not files:
        sys.exit(f"{chosen.submissions} contains no notebook and no zip file")
    with ThreadPoolExecutor(chosen.jobs) as pool:
        graded = [pool.submit(points, chosen.autograder, f, chosen.results / f.name) for f in files]
        rows = []
        for k, (file, result) in enumerate(zip(files, graded, strict=True), 1):
            found = result.result()
            rows.append({"file": file.name, "total": sum(v for v in found.values() if not isinstance(v, str)), **found})
            print(f"{k} of {len(files)}  {file.name}: {found.get('problem') or rows[-1]['total']}", flush=True)
    columns = ["file", "total", *sorted({name for row in rows for name in row} - {"file", "total"})]
    with open(chosen.results / "points.csv", "w", newline="") as table:
        writer = csv.DictWriter(table, columns)
        writer.writeheader()
        writer.writerows(rows)
    texts = {file.name: answers(file) for file in files}
    with open(chosen.results / "answers.md", "w") as page:
        for k in range(max(map(len, texts.values()))):
            page.write(f"# Question {k + 1}\n\n")
            for name, written in texts.items():
                page.write(f"## {name}\n\n{written[k] if k < len(written) else '(missing)'}\n\n")
    print(f"Written: {chosen.results / 'points.csv'} and {chosen.results / 'answers.md'}")


if __name__ == "__main__":
    main()
