"""A run's network on its test sets: when it has been trained, and again whenever somebody asks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
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
from fertools.models.weights import load_network
from fertools.recipes import TrainConfig
from fertools.records import Record, differences


def predict_test_sets(
    net: nn.Module, parts: Mapping[str, FaceSet], mean: float, std: float, device: torch.device | str
) -> dict[str, np.ndarray]:
    """A network's log-probabilities by ``"test set/TTA"``, and the labels by ``"test set/labels"``."""
    found: dict[str, np.ndarray] = {}
    for name, part in parts.items():
        for tta in get_args(TTA):
            found[f"{name}/{tta}"] = predict_log_proba(net, part.images, mean=mean, std=std, device=device, tta=tta)
        found[f"{name}/labels"] = part.labels
    return found


def measure(
    predictions: Mapping[str, np.ndarray], parts: Mapping[str, FaceSet], temperature: float | None = None
) -> dict[str, dict[str, Any]]:
    """Metrics (test set -> TTA -> plain dictionary) of what :func:`predict_test_sets` gave.

    With a temperature, ``"calibrated"`` is the single crop divided by it.
    """
    metrics: dict[str, dict[str, Any]] = {}
    for name, part in parts.items():
        found = {tta: predictions[f"{name}/{tta}"] for tta in get_args(TTA)}
        if temperature is not None:
            found["calibrated"] = apply_temperature(found["single-crop"], temperature)
        metrics[name] = {
            tta: dataclasses.asdict(evaluate(np.exp(p), part.labels, part.classes)) for tta, p in found.items()
        }
    return metrics


def evaluate_run(
    folder: Path, faces: FaceSet, names: Sequence[str], device: str | None = None
) -> dict[str, dict[str, Any]]:
    """Measures a finished run's network again, as its record did: test set -> TTA -> metrics.

    Raises:
        RunError: ``faces`` is not the data that the run was made with.
    """
    record = Record.load(folder)
    if differing := differences({"data": record.identity["data"]}, {"data": faces.identity}):
        raise RunError(
            f"{faces.source or faces.name} is not the data that {folder} was trained on: {', '.join(differing)}"
        )
    net, metadata = load_network(folder / "model.safetensors")
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    net.to(place).to(memory_format=torch.channels_last)
    config = TrainConfig.from_dict(record.identity["config"])
    test = make_splits(faces, config.protocol, config.folds, config.fold, record.identity["seed"]).test
    chosen = {name: test[name] for name in names}
    predictions = predict_test_sets(net, chosen, metadata.mean, metadata.std, device=place)
    return measure(predictions, chosen, record.temperature)
