"""Run records: what a finished run leaves, and all that a figure or a table needs.

A run is a folder, ``data/runs/NAME/``:

- ``record.json``: recipe, every setting, seed, code, machine, library versions, data
  fingerprints, history per epoch, the epoch selected and by what, metrics. Written once.
- ``predictions.npz``: log-probabilities of every evaluated split, by view.
- ``model.safetensors``: the selected weights, with their configuration in the file's header.
- ``checkpoint.safetensors``: resumable state, only while the run is unfinished.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fertools.errors import RunError
from fertools.files import whole_file

RUNS = Path("data/runs")


@dataclass(frozen=True)
class Record:
    """One finished run. ``Record.load("NAME")`` reads it; nothing changes it afterwards."""

    name: str
    recipe: str  # the named recipe it started from
    overrides: list[str]  # "field=value", as given
    identity: dict[str, Any]  # every setting in force, seed, fingerprints of data and first weights
    data: dict[str, Any]  # the set's name, and images per part
    classes: list[str]
    pixels: dict[str, float]  # mean and standard deviation of the training images, in gray levels
    parameters: int
    history: list[dict[str, Any]]  # per epoch: loss, accuracies, learning rate, seconds
    selected: dict[str, Any]  # {"epoch": 38, "by": "accuracy on PublicTest"}
    metrics: dict[str, dict[str, Any]]  # split -> view -> evaluate.Metrics as a dictionary
    temperature: float | None  # fitted on PublicTest; the view "calibrated" is divided by it
    environment: dict[str, Any]  # code version, machine, libraries, precision
    seconds: float  # spent training, over all interruptions
    resumed: int  # how often the run was picked up from a checkpoint
    notes: list[str] = field(default_factory=list)  # what a reader must know, e.g. "stopped early"

    @classmethod
    def load(cls, run: str | Path, runs: Path = RUNS) -> Record:
        """Reads the record of a run, by its name under ``runs`` or by its folder.

        Raises:
            RunError: no such run, or one that has not finished.
        """
        folder = run_folder(run, runs)
        path = folder / "record.json"
        if not path.exists():
            if (folder / "checkpoint.safetensors").exists():
                raise RunError(f"{folder} has not finished: start the same training again to continue it")
            known = sorted(p.parent.name for p in runs.glob("*/record.json"))
            raise RunError(f"there is no run at {folder}; finished runs are: {', '.join(known) or 'none'}")
        return cls(**json.loads(path.read_text()))

    def summary(self, metrics: dict[str, dict[str, Any]] | None = None) -> str:
        """A table of accuracies with their 95 % intervals; of other ``metrics`` than the record's if given."""
        chosen = f"epoch {self.selected['epoch']} of {len(self.history)}, chosen by {self.selected['by']}"
        lines = [f"{self.name}: {self.recipe} on {self.data['name']}, {self.parameters:,} parameters, {chosen}"]
        for part, views in (metrics or self.metrics).items():
            for view, found in views.items():
                low, high = found["accuracy_interval"]
                lines.append(
                    f"  {part:<20} {view:<9} {found['accuracy']:7.2%}  [{low:.2%}, {high:.2%}]  "
                    f"balanced {found['balanced_accuracy']:.2%}  {found['n']:,} images"
                )
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])

    def save(self, folder: Path) -> None:
        """Writes ``record.json`` whole or not at all."""
        with whole_file(folder / "record.json") as part:
            part.write_text(json.dumps(asdict(self), indent=1, allow_nan=False) + "\n")


def percent(share: float, interval: Sequence[float], digits: int = 2) -> str:
    """A share and its interval as ``"66.37 (64.81 to 67.90)"``, in per cent."""
    value, low, high = (f"{100 * v:.{digits}f}" for v in (share, *interval))
    return f"{value} ({low} to {high})"


def results_table(runs: Path = RUNS) -> str:
    """The README's table: what every recorded FER2013 run reached on PrivateTest, in Markdown."""

    def cell(part: str, view: str) -> str:
        found = record.metrics[part][view]
        return percent(found["accuracy"], found["accuracy_interval"])

    lines = [
        "| run | parameters | seed | epoch | one view, % | ten crops, % | one view, unseen images, % |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in sorted(runs.glob("*/record.json")):
        record = Record.load(path.parent)
        if record.data["name"] == "fer2013" and "PrivateTest" in record.metrics:
            cells = [cell("PrivateTest", "one"), cell("PrivateTest", "ten-crop"), cell("PrivateTest, unseen", "one")]
            epoch = f"{record.selected['epoch']} of {len(record.history)}"
            facts = [f"`{record.name}`", f"{record.parameters:,}", str(record.identity["seed"]), epoch, *cells]
            lines.append(f"| {' | '.join(facts)} |")
    return "\n".join(lines)


def run_folder(run: str | Path, runs: Path = RUNS) -> Path:
    """The folder of a run that is named, or that is a path itself."""
    path = Path(run)
    return path if path.is_dir() or len(path.parts) > 1 else runs / path


def save_predictions(folder: Path, predictions: dict[str, np.ndarray]) -> None:
    """Writes ``predictions.npz``, whole or not at all; see :func:`load_predictions`."""
    with whole_file(folder / "predictions.npz") as part:
        np.savez_compressed(part, **predictions)  # type: ignore[arg-type]


def load_predictions(folder: Path) -> dict[str, np.ndarray]:
    """Log-probabilities (N, classes) by ``"split/view"``, and labels by ``"split/labels"``."""
    with np.load(folder / "predictions.npz", allow_pickle=False) as archive:
        return dict(archive)


def environment() -> dict[str, Any]:
    """Code version, machine and library versions, for a record."""
    import torch

    def git(*words: str) -> str | None:
        try:
            here = Path(__file__).parent
            return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    from importlib.metadata import PackageNotFoundError, version

    libraries = {}
    for name in ("fertools", "torch", "numpy"):
        try:
            libraries[name] = version(name)
        except PackageNotFoundError:
            libraries[name] = "not installed"
    return {
        "commit": git("rev-parse", "HEAD"),
        "changed": bool(git("status", "--porcelain", "--untracked-files=no", "--", ".")),
        "python": platform.python_version(),
        "libraries": libraries,
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu": _cpu_name(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
