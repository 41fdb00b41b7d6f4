"""Run records: what a finished run leaves, and all that a figure or a table needs.

A run is a folder, ``data/runs/NAME/``:

- ``record.json``: recipe, every setting, seed, code, machine, library versions, data
  fingerprints, history per epoch, the epoch selected and by what, metrics. Written once.
- ``predictions.npz``: log-probabilities of every evaluated split, by TTA.
- ``model.safetensors``: the selected weights, with their configuration in the file's header.
- ``checkpoint.safetensors``: resumable state, only while the run is unfinished.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fertools.errors import RunError
from fertools.files import atomic_write
from fertools.paths import find_run, run_folders


@dataclass(frozen=True)
class Record:
    """One finished run. ``Record.load("NAME")`` reads it; nothing changes it afterwards."""

    name: str
    recipe: str  # the named recipe it started from
    overrides: list[str]  # "field=value", as given
    identity: dict[str, Any]  # every setting in force, seed, fingerprints of data and first weights
    data: dict[str, Any]  # the set's name, and images per part
    classes: list[str]
    normalization: dict[str, float]  # mean and std of the training images, in gray levels
    parameters: int
    history: list[dict[str, Any]]  # per epoch: loss, accuracies, learning rate, seconds
    selected: dict[str, Any]  # {"epoch": 38, "by": "accuracy on PublicTest"}
    metrics: dict[str, dict[str, Any]]  # test set -> TTA -> evaluation.metrics.Metrics as a dictionary
    temperature: float | None  # fitted on PublicTest; "calibrated" is the single crop divided by it
    threshold: float | None  # the confidence below which to abstain, chosen on PublicTest
    environment: dict[str, Any]  # code version, machine, libraries, precision
    seconds: float  # spent training, over all interruptions
    resumed: int  # how often the run was picked up from a checkpoint
    notes: list[str] = field(default_factory=list)  # what a reader must know, e.g. "stopped early"

    @classmethod
    def load(cls, run: str | Path, runs: str | Path | None = None) -> Record:
        """Reads the record of a run, by its name (see :mod:`fertools.paths`) or by its folder.

        Raises:
            RunError: no such run, or one that has not finished.
        """
        folder = find_run(run, runs)
        path = folder / "record.json"
        if not path.exists():
            if (folder / "checkpoint.safetensors").exists():
                raise RunError(f"{folder} has not finished: start the same training again to continue it")
            raise RunError(f"{folder} has no record.json: it is not a finished run")
        return cls(**json.loads(path.read_text()))

    def summary(self, metrics: dict[str, dict[str, Any]] | None = None) -> str:
        """A table of accuracies with their 95 % intervals; of other ``metrics`` than the record's if given."""
        chosen = f"epoch {self.selected['epoch']} of {len(self.history)}, chosen by {self.selected['by']}"
        lines = [f"{self.name}: {self.recipe} on {self.data['name']}, {self.parameters:,} parameters, {chosen}"]
        for test, by_tta in (metrics or self.metrics).items():
            for tta, found in by_tta.items():
                low, high = found["accuracy_interval"]
                lines.append(
                    f"  {test:<26} {tta:<11} {found['accuracy']:7.2%}  [{low:.2%}, {high:.2%}]  "
                    f"balanced {found['balanced_accuracy']:.2%}  {found['n']:,} images"
                )
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])

    def save(self, folder: Path) -> None:
        """Writes ``record.json`` whole or not at all."""
        with atomic_write(folder / "record.json") as part:
            part.write_text(json.dumps(asdict(self), indent=1, allow_nan=False) + "\n")


def percent(share: float, interval: Sequence[float], digits: int = 2) -> str:
    """A share and its interval as ``"66.37 (64.81 to 67.90)"``, in per cent."""
    value, low, high = (f"{100 * v:.{digits}f}" for v in (share, *interval))
    return f"{value} ({low} to {high})"


def finished(runs: str | Path | None = None) -> list[Record]:
    """The records of all finished runs that stand alone, by name; not those of sweeps."""
    paths = {
        path.parent.name: path.parent for folder in reversed(run_folders(runs)) for path in folder.glob("*/record.json")
    }
    return [Record.load(path) for _, path in sorted(paths.items())]


def results_table(runs: str | Path | None = None) -> str:
    """The README's table: what every recorded FER2013 run reached on PrivateTest, in Markdown."""

    def cell(test: str, tta: str) -> str:
        found = record.metrics[test][tta]
        return percent(found["accuracy"], found["accuracy_interval"])

    lines = [
        "| run | parameters | seed | epoch | single crop, % | ten-crop, % | single crop, deduplicated, % |",
        "|---|---|---|---|---|---|---|",
    ]
    for record in finished(runs):
        if record.data["name"] == "fer2013" and "PrivateTest" in record.metrics:
            cells = [
                cell("PrivateTest", "single-crop"),
                cell("PrivateTest", "ten-crop"),
                cell("PrivateTest, deduplicated", "single-crop"),
            ]
            epoch = f"{record.selected['epoch']} of {len(record.history)}"
            facts = [f"`{record.name}`", f"{record.parameters:,}", str(record.identity["seed"]), epoch, *cells]
            lines.append(f"| {' | '.join(facts)} |")
    return "\n".join(lines)


def save_predictions(folder: Path, predictions: dict[str, np.ndarray]) -> None:
    """Writes ``predictions.npz``, whole or not at all; see :func:`load_predictions`."""
    with atomic_write(folder / "predictions.npz") as part:
        np.savez_compressed(part, **predictions)  # type: ignore[arg-type]


def load_predictions(folder: Path) -> dict[str, np.ndarray]:
    """Log-probabilities (N, classes) by ``"test set/TTA"``, and labels by ``"test set/labels"``."""
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


def differences(mine: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Where two identities differ, each as ``"config.epochs is 40 there and 60 here"``.

    A field that the configuration did not have when an identity was written has its default there.
    """
    mine, theirs = _flat(_completed(mine)), _flat(_completed(theirs))
    return [
        f"{name} is {theirs.get(name)!r} there and {mine.get(name)!r} here"
        for name in (*mine, *(theirs.keys() - mine.keys()))
        if mine.get(name) != theirs.get(name)
    ]


def _completed(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity with every field that a configuration has today."""
    from fertools.recipes import TrainConfig

    with suppress(KeyError, ValueError):  # a field that is gone, which is then a difference
        return identity | {"config": TrainConfig.from_dict(identity["config"]).to_dict()}
    return identity


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}; lists and tuples as lists."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
