"""Run records: what a finished run leaves, with everything that a figure or a table needs.

A run is a folder, e.g. ``data/runs/NAME/``:

- ``record.json``: recipe, every setting, seed, code, machine, library versions, digests of the
  data, history per epoch, the selected epoch and the criterion, metrics. Written once.
- ``predictions.npz``: log-probabilities for every test set, by TTA.
- ``model.safetensors``: the selected weights, with everything that a prediction needs in the file's header.
- ``checkpoint.safetensors``: resumable state, only while the run is unfinished.

A sweep is a folder of runs; next to them, ``groups.json`` says which test images show the same person.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, field, fields
from html import escape
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from fertools import __version__
from fertools.errors import RunError
from fertools.files import atomic_write
from fertools.paths import find_run, run_folders

FORMAT = 1  # of record.json; higher when a reader has to know of a change


@dataclass(frozen=True, repr=False)
class Record:
    """One finished run. ``Record.load("NAME")`` reads it; nothing changes it afterwards.

    Attributes:
        name: of the run's folder.
        recipe: the named recipe that it started from, see :mod:`fertools.recipes`.
        overrides: changes to the recipe, ``"field=value"`` each, as they were given.
        identity: what decides the result: ``config`` with every setting, ``seed``, ``data`` (digests of
            images, labels, splits...), and ``init`` (digest of the weights it was fine-tuned from, or None).
        data: ``name`` of the data set, number of ``training`` images, and of ``test`` images by test set.
        classes: the label names.
        normalization: ``mean`` and ``std`` of the training images, in gray levels (0 to 255).
        parameters: how many the network has.
        history: per epoch, from 1: ``epoch``, ``loss``, ``train_accuracy``, ``learning_rate``, ``seconds``,
            and ``validation_accuracy`` if there is a validation set.
        selected: the ``epoch`` whose weights were kept, and ``by`` what, e.g. ``"accuracy on PublicTest"``.
        metrics: test set -> TTA -> :class:`fertools.evaluation.metrics.Metrics` as a dictionary.
        temperature: fitted on PublicTest; ``"calibrated"`` in the metrics is the single crop divided by
            it. None without a validation set.
        threshold: the confidence below which to abstain, chosen on PublicTest. None without a validation set.
        environment: see :func:`environment`; further ``device``, ``bf16``, and ``processes``.
        seconds: spent on training, without interruptions.
        resumed: how often the run continued from a checkpoint.
        notes: what a reader must know, e.g. ``"stopped early"``.
        format: of the file, :data:`FORMAT`.
    """

    name: str
    recipe: str
    overrides: list[str]
    identity: dict[str, Any]
    data: dict[str, Any]
    classes: list[str]
    normalization: dict[str, float]
    parameters: int
    history: list[dict[str, Any]]
    selected: dict[str, Any]
    metrics: dict[str, dict[str, Any]]
    temperature: float | None
    threshold: float | None
    environment: dict[str, Any]
    seconds: float
    resumed: int
    notes: list[str] = field(default_factory=list)
    format: int = FORMAT

    @classmethod
    def load(cls, run: str | Path, runs: str | Path | None = None) -> Record:
        """Reads the record of a run, by its name (see :mod:`fertools.paths`) or by its folder.

        Raises:
            RunError: there is no such run, it has not finished, or its record is damaged or of a newer
                version of fertools.

        >>> Record.load("wide-fer2013")
        Record('wide-fer2013': cpu-fer2013 on fer2013, PrivateTest 68.04 %)
        """
        folder = find_run(run, runs)
        path = folder / "record.json"
        if not path.exists():
            if (folder / "checkpoint.safetensors").exists():
                raise RunError(f"{folder} has not finished: start the same training again to continue it")
            raise RunError(f"{folder} has no record.json: it is not a finished run")
        try:
            values = json.loads(path.read_text())
        except ValueError as error:  # not JSON, or not text
            raise RunError(f"{path} is damaged ({error}). {_WAY_OUT}") from None
        return cls(**_checked(values, path))

    def __repr__(self) -> str:
        found = next(iter(self.metrics.items()), None)
        for test_set in ("PrivateTest", "fold"):
            if test_set in self.metrics:
                found = test_set, self.metrics[test_set]
        accuracy = ""
        if found and "single-crop" in found[1]:
            accuracy = f", {found[0]} {100 * found[1]['single-crop']['accuracy']:.2f} %"
        return f"Record({self.name!r}: {self.recipe} on {self.data['name']}{accuracy})"

    def _repr_html_(self) -> str:
        """For notebooks: the run in one line, and a table of its accuracies."""
        by_tta = {tta: None for metrics in self.metrics.values() for tta in metrics if tta != "calibrated"}
        heading = "".join(f"<th>{escape(text)}</th>" for text in ("accuracy, %", *by_tta, "images"))
        lines = []
        for test_set, metrics in self.metrics.items():
            cells = [
                percent(metrics[tta]["accuracy"], metrics[tta]["accuracy_interval"]) if tta in metrics else ""
                for tta in by_tta
            ]
            cells.append(f"{next(iter(metrics.values()))['n']:,}")
            texts = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            lines.append(f'<tr><th scope="row">{escape(test_set)}</th>{texts}</tr>')
        notes = "".join(f"<p>Note: {escape(note)}</p>" for note in self.notes)
        return f"<p>{escape(self._title())}</p><table><tr>{heading}</tr>{''.join(lines)}</table>{notes}"

    def _title(self) -> str:
        chosen = f"epoch {self.selected['epoch']} of {len(self.history)}, chosen by {self.selected['by']}"
        return f"{self.name}: {self.recipe} on {self.data['name']}, {self.parameters:,} parameters, {chosen}"

    def summary(self, metrics: dict[str, dict[str, Any]] | None = None) -> str:
        """A table of accuracies with their 95 % intervals, for a terminal.

        Args:
            metrics: others than the record's, e.g. measured again.
        """
        lines = [self._title()]
        for test, by_tta in (metrics or self.metrics).items():
            for tta, found in by_tta.items():
                low, high = found["accuracy_interval"]
                lines.append(
                    f"  {test:<26} {tta:<11} {found['accuracy']:7.2%}  [{low:.2%}, {high:.2%}]  "
                    f"balanced {found['balanced_accuracy']:.2%}  {found['n']:,} images"
                )
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])

    def save(self, folder: Path) -> None:
        """Writes ``record.json``, completely or not at all."""
        with atomic_write(folder / "record.json") as part:
            part.write_text(json.dumps(asdict(self), indent=1, allow_nan=False) + "\n")


_WAY_OUT = "Restore the file, or move the folder away and train again."


def _checked(values: Any, path: Path) -> dict[str, Any]:
    """The fields of a record, from JSON; raises RunError for what is not one."""
    if not isinstance(values, dict):
        raise RunError(f"{path} is not a record: it contains {type(values).__name__}, not an object. {_WAY_OUT}")
    found = values.get("format", 1)
    if not isinstance(found, int) or found > FORMAT:
        raise RunError(
            f"{path} has format {found!r}, and fertools {__version__} reads up to {FORMAT}: a newer version wrote it. "
            "Upgrade with `pip install --upgrade fertools`."
        )
    known = {f.name for f in fields(Record)}
    required = {f.name for f in fields(Record) if f.default is MISSING and f.default_factory is MISSING}
    wrong = [f"{name} is missing" for name in sorted(required - values.keys())]
    wrong += [f"{name} is unknown" for name in sorted(values.keys() - known)]
    wrong = wrong or _misfits(values)
    if wrong:
        raise RunError(f"{path} is not a record of fertools {__version__}: {', '.join(wrong)}. {_WAY_OUT}")
    return values


_NUMBER = (int, float)
_CONTENT: dict[str, Any] = {  # of a record, as far as something is computed from it
    "name": str,
    "recipe": str,
    "identity": {"config": dict, "seed": int, "data": dict},
    "data": {"name": str},
    "classes": list,
    "normalization": {"mean": _NUMBER, "std": _NUMBER},
    "parameters": int,
    "history": list,
    "selected": {"epoch": int, "by": str},
    "metrics": dict,
    "temperature": (*_NUMBER, NoneType),
    "threshold": (*_NUMBER, NoneType),
    "environment": dict,
}
_MEASURED = {"n": int, "accuracy": _NUMBER, "accuracy_interval": list, "confusion": list}  # by test set and TTA


def _misfits(values: dict[str, Any]) -> list[str]:
    """What is missing or has another type than it should, in words."""
    from fertools.recipes import TrainConfig

    wrong = _differs(values, _CONTENT, "")
    if not wrong:
        for test_set, by_tta in values["metrics"].items():
            where = f"metrics.{test_set}."
            wrong += _differs(by_tta, dict, where) or [
                text for tta, found in by_tta.items() for text in _differs(found, _MEASURED, f"{where}{tta}.")
            ]
        try:
            TrainConfig.from_dict(values["identity"]["config"])
        except (TypeError, ValueError) as error:
            wrong.append(f"identity.config: {error}")
    return wrong


def _differs(values: Any, content: Any, where: str) -> list[str]:
    if not isinstance(content, dict):
        return [] if isinstance(values, content) else [f"{where.rstrip('.')} is {values!r:.40}"]
    if not isinstance(values, dict):
        return [f"{where.rstrip('.')} is {values!r:.40}"]
    missing = [f"{where}{name} is missing" for name in content if name not in values]
    return missing or [text for name in content for text in _differs(values[name], content[name], f"{where}{name}.")]


def percent(proportion: float, interval: Sequence[float], digits: int = 2) -> str:
    """A proportion and its interval, in percent.

    >>> percent(0.6637, (0.6481, 0.6790))
    '66.37 (64.81 to 67.90)'
    """
    value, low, high = (f"{100 * v:.{digits}f}" for v in (proportion, *interval))
    return f"{value} ({low} to {high})"


def finished_runs(runs: str | Path | None = None) -> list[Record]:
    """The records of all finished runs by name; not those of sweeps."""
    paths = {
        path.parent.name: path.parent for folder in reversed(run_folders(runs)) for path in folder.glob("*/record.json")
    }
    return [Record.load(path) for _, path in sorted(paths.items())]


def save_predictions(folder: Path, predictions: dict[str, np.ndarray]) -> None:
    """Writes ``predictions.npz``, completely or not at all; see :func:`load_predictions`."""
    with atomic_write(folder / "predictions.npz") as part:
        np.savez_compressed(part, **predictions)  # type: ignore[arg-type]


def load_predictions(folder: Path) -> dict[str, np.ndarray]:
    """Log-probabilities (N, classes) by ``"test set/TTA"``, and labels (N,) by ``"test set/labels"``.

    Raises:
        RunError: the file is missing or damaged.
    """
    path = folder / "predictions.npz"
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except FileNotFoundError:
        raise RunError(f"there is no {path}: the run has not finished, or the file was not copied with it") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RunError(f"{path} is damaged ({error}). {_WAY_OUT}") from None


def load_groups(sweep: Path) -> dict[str, np.ndarray]:
    """Which test images of a sweep's runs show the same person: run -> numbers of people, (test images,).

    Args:
        sweep: its folder. Without ``groups.json`` the result is empty.
    """
    path = sweep / "groups.json"
    if not path.exists():
        return {}
    return {name: np.array(numbers) for name, numbers in json.loads(path.read_text()).items()}


def environment() -> dict[str, Any]:
    """The code's version, the machine, and the libraries' versions, for a record.

    Returns:
        ``version`` of fertools; ``commit`` of its repository, and whether tracked files of the package
        were ``changed`` since, both None where it does not run from its repository (an installed package
        may be inside an unrelated one); ``python``; ``libraries``; ``system``; ``cores``; ``threads`` of
        PyTorch; ``cpu`` and ``gpu`` by name, None where there is none.
    """
    from importlib.metadata import version

    import torch

    commit, changed = _code_version(Path(__file__).parent)
    return {
        "version": __version__,
        "commit": commit,
        "changed": changed,
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in ("torch", "numpy")},
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu": _cpu_name(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _code_version(package: Path) -> tuple[str | None, bool | None]:
    """HEAD of the repository that ``package`` is the source of, and whether it was changed; None for both without one.

    A virtual environment is often inside a repository that has nothing to do with the package in
    it, so the repository must track the package, as the folder of its name at the top.
    """

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=package, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if git("rev-parse", "--show-prefix") != f"{package.name}/":
            return None, None
        git("ls-files", "--error-unmatch", "--", "__init__.py")
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no", "--", "."))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def differences(mine: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """The differences between two identities, each as ``"config.epochs is 40 there and 60 here"``.

    A field that the configuration did not have when an identity was written has its default there.

    Args:
        mine: what is "here" in the texts.
        theirs: what is "there".

    >>> differences({"seed": 0, "data": {"split": "a"}}, {"seed": 1, "data": {"split": "a"}})
    ['seed is 1 there and 0 here']
    """
    mine, theirs = _flat(_completed(mine)), _flat(_completed(theirs))
    return [
        f"{name} is {theirs.get(name)!r} there and {mine.get(name)!r} here"
        for name in (*mine, *(theirs.keys() - mine.keys()))
        if mine.get(name) != theirs.get(name)
    ]


def _completed(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity with every field that a configuration has in this version."""
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
