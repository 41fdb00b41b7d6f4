"""Finished runs and sweeps, made without training."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fertools.evaluation.metrics import evaluate
from fertools.recipes import TrainConfig
from fertools.records import Record, save_predictions

CLASSES = ("happy", "sad", "surprise")


def _make_run(
    folder: Path,
    labels: np.ndarray,
    correct: np.ndarray,
    part: str = "PrivateTest",
    data: str = "fer2013",
    **config: Any,
) -> None:
    """A finished run whose network is right where ``correct`` says, and predicts the next class elsewhere."""
    predicted = np.where(correct, labels, (labels + 1) % len(CLASSES))
    p = np.full((len(labels), len(CLASSES)), 0.1) + 0.7 * np.eye(len(CLASSES))[predicted]
    found = vars(evaluate(p, labels, CLASSES))
    folder.mkdir(parents=True)
    save_predictions(
        folder, {f"{part}/labels": labels, f"{part}/single-crop": np.log(p), f"{part}/ten-crop": np.log(p)}
    )
    seed = config.pop("seed", 0)
    Record(
        name=folder.name,
        recipe="paper-fer2013",
        overrides=[],
        identity={
            "config": TrainConfig(epochs=1).to_dict() | config,
            "seed": seed,
            "data": {"content": f"sha256:{data}"},
            "init": None,
        },
        data={"name": data},
        classes=list(CLASSES),
        normalization={"mean": 0.0, "std": 1.0},
        parameters=100 + len(folder.name),
        history=[{"epoch": 1}],
        selected={"epoch": 1, "by": "last epoch"},
        metrics={part: {"single-crop": found, "ten-crop": found}},
        temperature=None,
        threshold=None,
        environment={},
        seconds=1.0,
        resumed=0,
    ).save(folder)


def _make_folds(
    folder: Path, right: Sequence[np.ndarray], people: Sequence[np.ndarray] | None, prefix: str = "", **config: Any
) -> None:
    """A sweep over ``len(right)`` of four subject-independent folds."""
    path = folder / "groups.json"
    groups = json.loads(path.read_text()) if path.exists() else {}
    for fold, correct in enumerate(right):
        labels = np.arange(len(correct)) % 3
        settings = {"protocol": "subject", "folds": 4} | config
        _make_run(folder / f"{prefix}fold-{fold}", labels, correct, "fold", "ckplus48", fold=fold, **settings)
        if people is not None:
            groups[f"{prefix}fold-{fold}"] = people[fold].tolist()
    if groups:
        path.write_text(json.dumps(groups))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def make_run() -> Callable[..., None]:
    return _make_run


@pytest.fixture
def make_folds() -> Callable[..., None]:
    return _make_folds
