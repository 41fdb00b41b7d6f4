"""Where data sets and runs are found: one rule for all.

A place that is named explicitly is the only one searched. Otherwise, in this order:

1. the environment variable, ``FERTOOLS_DATA`` for data sets or ``FERTOOLS_RUNS`` for runs;
2. without it, the current project: ``data/`` in the working directory for data sets, ``data/runs/`` and
   ``runs/`` for runs;
3. the package: the synthetic faces, the shipped network, and the small tables that are installed with it.

New runs are written to the first folder of 1. or 2. that exists, or else to ``runs/``; never into the package.
"""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from fertools.errors import RunError

DATA = Path("data")
RUNS = (Path("data/runs"), Path("runs"))  # of the current project


def package_data() -> Path:
    """The data that is shipped with the library: in a wheel inside the package, in a checkout next to it."""
    package = Path(str(files("fertools")))
    installed = package / "shipped"
    return installed if installed.is_dir() else package.parent / "data"


def data_folders(root: str | Path | None = None) -> list[Path]:
    """The folders to search for data sets, first to last.

    Args:
        root: the only folder to search, if given.
    """
    if root is not None:
        return [Path(root)]
    if named := os.environ.get("FERTOOLS_DATA"):
        return [Path(named), package_data()]
    return [DATA, package_data()]


def find_data(place: str, root: str | Path | None = None) -> Path:
    """The first folder of :func:`data_folders` that has ``place``, with it appended.

    Where none has it, the path in the first folder comes back: that is where to put it.

    >>> find_data("synthetic").name
    'synthetic'
    """
    candidates = [folder / place for folder in data_folders(root)]
    return next((path for path in candidates if path.exists()), candidates[0])


def runs_folder(runs: str | Path | None = None) -> Path:
    """Where new runs go: ``runs``, ``$FERTOOLS_RUNS``, ``data/runs`` if it exists, or ``runs``."""
    if runs is not None:
        return Path(runs)
    if named := os.environ.get("FERTOOLS_RUNS"):
        return Path(named)
    return next((folder for folder in RUNS if folder.is_dir()), RUNS[-1])


def run_folders(runs: str | Path | None = None) -> list[Path]:
    """The folders to search for runs, first to last, each once."""
    if runs is not None:
        return [Path(runs)]
    named = os.environ.get("FERTOOLS_RUNS")
    by_place: dict[Path, Path] = {}
    for folder in (*([Path(named)] if named else RUNS), package_data() / "runs"):
        by_place.setdefault(folder.resolve(), folder)  # in a checkout, the first is also the last
    return list(by_place.values())


def run_path(run: str | Path, runs: str | Path | None = None) -> Path:
    """The folder of a new run: a path as it is, a plain name in :func:`runs_folder`."""
    path = Path(run)
    return path if len(path.parts) > 1 or path.is_absolute() else runs_folder(runs) / path


def find_run(run: str | Path, runs: str | Path | None = None) -> Path:
    """The folder of an existing run or sweep, named or given as a path.

    Raises:
        RunError: there is none; the message lists the runs there are.
    """
    path = Path(run)
    candidates = [folder / path for folder in run_folders(runs)]
    if len(path.parts) > 1 or path.is_absolute():
        candidates.insert(0, path)
    elif path.is_dir() and not any(candidate.is_dir() for candidate in candidates):
        return path  # a folder of the working directory
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    known = sorted({found.parent.name for folder in run_folders(runs) for found in folder.glob("*/record.json")})
    looked = ", ".join(str(candidate) for candidate in candidates)
    raise RunError(f"there is no run {run}: looked for {looked}; finished runs are: {', '.join(known) or 'none'}")
