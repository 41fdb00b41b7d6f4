"""A run's network on its test sets: after training, and again to check its record."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import nn

from fertools.data import FaceSet
from fertools.data.splits import make_splits
from fertools.errors import RunError
from fertools.evaluation.calibration import apply_temperature
from fertools.evaluation.metrics import evaluate
from fertools.evaluation.prediction import TTA, predict_log_proba
from fertools.hardware import pick_device
from fertools.models.weights import load_network
from fertools.recipes import TrainConfig
from fertools.records import Record, differences, load_predictions

# What other hardware may change. In TF32, a GPU's default for convolutions, factors have 10 bits of mantissa.
# cpu-fer2013 with its convolutions' factors rounded so, on PrivateTest: 0.11 % of the predictions changed, all with
# less than 0.002 between the two most probable classes, and no probability changed by more than 0.002. In fp32 on a
# CPU: no prediction, and no probability by more than 0.000002.
CHANGED = 0.003  # fraction of the predictions of a test set; one may change in any
PROBABILITY = 0.01  # largest change of a probability
NEAR_TIE = 2 * PROBABILITY  # between the two most probable classes: one may lose what the other gains


def predict_test_sets(
    net: nn.Module, test_sets: Mapping[str, FaceSet], mean: float, std: float, device: torch.device | str
) -> dict[str, np.ndarray]:
    """A network's predictions for several test sets.

    Args:
        net: takes (N, 1, 48, 48), gives logits (N, classes).
        test_sets: by name.
        mean, std: of the training images, in gray levels.
        device: the network is moved there.

    Returns:
        Log-probabilities (N, classes) by ``"test set/TTA"``, and labels (N,) by ``"test set/labels"``.
    """
    found: dict[str, np.ndarray] = {}
    for name, faces in test_sets.items():
        for tta in get_args(TTA):
            found[f"{name}/{tta}"] = predict_log_proba(net, faces.images, mean=mean, std=std, device=device, tta=tta)
        found[f"{name}/labels"] = faces.labels
    return found


def measure(
    predictions: Mapping[str, np.ndarray], classes: Sequence[str], temperature: float | None = None
) -> dict[str, dict[str, dict[str, Any]]]:
    """The metrics of what :func:`predict_test_sets` gives.

    Args:
        predictions: log-probabilities by ``"test set/TTA"``, and labels by ``"test set/labels"``.
        classes: the label names.
        temperature: with one, ``"calibrated"`` is the single crop divided by it.

    Returns:
        Test set -> TTA -> :class:`~fertools.evaluation.metrics.Metrics` as a dictionary.
    """
    metrics: dict[str, dict[str, dict[str, Any]]] = {}
    for name in (key.removesuffix("/labels") for key in predictions if key.endswith("/labels")):
        found = {tta: predictions[f"{name}/{tta}"] for tta in get_args(TTA) if f"{name}/{tta}" in predictions}
        if temperature is not None and "single-crop" in found:
            found["calibrated"] = apply_temperature(found["single-crop"], temperature)
        labels = predictions[f"{name}/labels"]
        metrics[name] = {tta: dataclasses.asdict(evaluate(np.exp(p), labels, classes)) for tta, p in found.items()}
    return metrics


def predict_run(folder: Path, faces: FaceSet, names: Sequence[str], device: str | None = None) -> dict[str, np.ndarray]:
    """Predicts a finished run's test sets again, with the weights in its folder.

    Args:
        folder: of the run.
        faces: the data that it was trained on.
        names: the test sets.
        device: by default a GPU where there is one.

    Returns:
        As :func:`predict_test_sets` does.

    Raises:
        RunError: ``faces`` is not the data that the run was made with, or it has no such test set.
        WeightsError: there are no weights, or they cannot be read.
        ValueError: there is no such device.
    """
    record = Record.load(folder)
    if differing := differences({"data": record.identity["data"]}, {"data": faces.identity}):
        raise RunError(
            f"{faces.source or faces.name} is not the data that {folder} was trained on: {', '.join(differing)}"
        )
    net, metadata = load_network(folder / "model.safetensors")
    place = pick_device(device)
    net.to(place).to(memory_format=torch.channels_last)
    config = TrainConfig.from_dict(record.identity["config"])
    test = make_splits(faces, config.protocol, config.folds, config.fold, record.identity["seed"]).test
    if unknown := [name for name in names if name not in test]:
        raise RunError(f"{faces.name} has no test set {', '.join(unknown)}; it has: {', '.join(test)}")
    return predict_test_sets(net, {name: test[name] for name in names}, metadata.mean, metadata.std, device=place)


def evaluate_run(
    folder: Path, faces: FaceSet, names: Sequence[str], device: str | None = None
) -> dict[str, dict[str, dict[str, Any]]]:
    """Measures a finished run's network again, as its record did; arguments and errors as of :func:`predict_run`."""
    record = Record.load(folder)
    return measure(predict_run(folder, faces, names, device), record.classes, record.temperature)


# --- Against the record -----------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """How new predictions for a test set differ from the recorded ones.

    Attributes:
        test_set, tta: which predictions.
        images: how many there are.
        changed: how many have another most probable class.
        clear: how many of these were no near-ties: in the record, the two most probable classes are
            more than :data:`NEAR_TIE` apart.
        largest: the largest change of a probability, 0 to 1.
    """

    test_set: str
    tta: str
    images: int
    changed: int
    clear: int
    largest: float

    @property
    def tolerated(self) -> bool:
        """Whether another machine's arithmetic may have made the difference."""
        few = self.changed <= max(1, CHANGED * self.images)
        return few and not self.clear and self.largest <= PROBABILITY

    def __str__(self) -> str:
        if not self.changed:
            found = f"the recorded predictions for all {self.images:,} images"
        else:
            ties = f"{self.clear:,} of them no near-ties" if self.clear else "all of them near-ties"
            found = (
                f"{self.changed:,} of {self.images:,} predictions changed ({self.changed / self.images:.2%}), {ties}"
            )
        return f"{self.test_set}, {self.tta}: {found}; largest change of a probability {self.largest:.2g}"


@dataclass(frozen=True)
class RunCheck:
    """What :func:`check_run` found. ``str()`` is a report for people.

    Attributes:
        record: of the run.
        metrics: measured again: test set -> TTA -> metrics.
        changes: of the predictions, one for each test set and TTA.
        contradictions: where the record contradicts its own predictions, in words; empty in a sound record.
    """

    record: Record
    metrics: dict[str, dict[str, dict[str, Any]]]
    changes: tuple[Change, ...]
    contradictions: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether record, predictions and weights agree, within what another machine may change."""
        return not self.contradictions and all(change.tolerated for change in self.changes)

    def __str__(self) -> str:
        lines = [self.record.summary(self.metrics)]
        lines += [f"  {change}" for change in self.changes]
        lines += [f"  {contradiction}" for contradiction in self.contradictions]
        if self.contradictions:
            lines.append("The record contradicts its own predictions: it was edited, or is damaged.")
        if not all(change.tolerated for change in self.changes):
            lines.append("The weights do not give the recorded predictions: they are probably those of another run.")
        if self.ok:
            changed = any(change.changed for change in self.changes)
            lines.append(f"The weights give what the record says{', up to near-ties' if changed else ''}.")
        return "\n".join(lines)


def check_run(folder: Path, faces: FaceSet, names: Sequence[str], device: str | None = None) -> RunCheck:
    """Checks a finished run: its metrics against its predictions, and these against its weights.

    Every metric in the record must follow from ``predictions.npz``. The weights must give the same
    predictions, up to a few near-ties that another machine rounds to the other side.

    Args and errors are those of :func:`predict_run`; further:

    Raises:
        RunError: the predictions are missing or damaged.
    """
    record, recorded = Record.load(folder), load_predictions(folder)
    fresh = predict_run(folder, faces, names, device)
    contradictions = find_contradictions(record, recorded)
    changes = []
    for name in names:
        if not np.array_equal(recorded.get(f"{name}/labels", ()), fresh[f"{name}/labels"]):
            contradictions.append(f"{name}: the recorded labels are not those of the data")
            continue
        for tta in get_args(TTA):
            if f"{name}/{tta}" in recorded:  # if not, the record has no metrics of it, or contradicts itself
                changes.append(_compare(name, tta, recorded[f"{name}/{tta}"], fresh[f"{name}/{tta}"]))
    metrics = measure(fresh, record.classes, record.temperature)
    return RunCheck(record, metrics, tuple(changes), tuple(contradictions))


def _compare(test_set: str, tta: str, recorded: np.ndarray, fresh: np.ndarray) -> Change:
    """Two predictions of the same images, log-probabilities (N, classes)."""
    before, after = np.exp(recorded), np.exp(fresh)
    changed = before.argmax(1) != after.argmax(1)
    second, first = np.sort(before, axis=1)[:, -2:].T
    clear = changed & (first - second > NEAR_TIE)
    return Change(test_set, tta, len(before), int(changed.sum()), int(clear.sum()), float(np.abs(before - after).max()))


def find_contradictions(record: Record, predictions: Mapping[str, np.ndarray]) -> list[str]:
    """Which metrics of a record do not follow from its predictions, each in words; empty in a sound record."""
    computed = measure(predictions, record.classes, record.temperature)
    found = []
    for name, by_tta in record.metrics.items():
        for tta, metrics in by_tta.items():
            again = computed.get(name, {}).get(tta)
            if again is None:
                found.append(f"{name}, {tta}: the record has metrics, but predictions.npz has no predictions")
                continue
            for field in sorted(metrics.keys() | again.keys()):
                a, b = metrics.get(field), again.get(field)
                if not _equal(a, b, _tolerance(field, again["n"])):
                    values = f": {a} in the record, {b} from its predictions" if isinstance(b, int | float) else ""
                    found.append(
                        f"{name}, {tta}: {field.replace('_', ' ')} does not follow from the predictions{values}"
                    )
    return found


def _tolerance(field: str, n: int) -> float:
    """How far a metric may be from the record's because of rounding alone; counts and their ratios not at all."""
    if field == "calibration_error":
        return 2 / n  # an image on the edge of a bin may move to the next
    # exp of a log-probability in float32 differs in the last bit between processors.
    return 1e-6 if field in ("negative_log_likelihood", "brier") else 1e-9


def _equal(a: Any, b: Any, tolerance: float) -> bool:
    """Whether two JSON values are equal, with their floats as near as ``tolerance``."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key], tolerance) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_equal(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=0, abs_tol=tolerance)
    return bool(a == b)
