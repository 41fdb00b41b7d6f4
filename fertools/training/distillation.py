"""Distillation: what finished networks say about the training images, as targets for another one.

A label is one class; a teacher's probabilities also say which other classes an image resembles (Hinton, Vinyals, and
Dean 2015). Where labels are doubtful, as in FER2013, that is most of what there is to learn.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fertools.data import FaceSet
from fertools.errors import TrainingError, WeightsError
from fertools.evaluation.prediction import predict_log_proba
from fertools.hardware import computes_bf16
from fertools.models.weights import load_network
from fertools.records import Record, differences

_SPLIT = ("protocol", "folds", "fold")  # the fields of a configuration that say which images train


def teacher_probabilities(
    teachers: Sequence[Path], training: FaceSet, identity: dict[str, Any], device: torch.device
) -> np.ndarray:
    """The mean of the teachers' class probabilities for every training image, without augmentation.

    Args:
        teachers: the folders of finished runs, each with its weights.
        training: the images that the student is trained on.
        identity: the student's. A teacher must have been trained on the same images and tested on the others:
            with other folds, it would tell the student about the images that the student is tested on.
        device: where the teachers run.

    Returns:
        float32, (N, classes); each row adds up to 1.

    Raises:
        TrainingError: a teacher was trained on other data or other folds.
        WeightsError: a teacher has other classes, or its weights cannot be read.
    """
    total = np.zeros((len(training), len(training.classes)), dtype=np.float64)
    for folder in teachers:
        theirs = Record.load(folder).identity
        if differing := differences(_images(identity), _images(theirs)):
            raise TrainingError(
                f"{folder.name} cannot teach this run, since it was trained on other images: {'; '.join(differing)}"
            )
        net, metadata = load_network(folder / "model.safetensors")
        if metadata.classes != tuple(training.classes):
            raise WeightsError(f"{folder} has the classes {', '.join(metadata.classes)}, not those of this run")
        net.to(device).to(memory_format=torch.channels_last)
        dtype = torch.bfloat16 if computes_bf16(device) else None
        log_p = predict_log_proba(
            net,
            training.images,
            mean=metadata.mean,
            std=metadata.std,
            device=device,
            dtype=dtype,
            progress=sys.stderr.isatty(),
        )
        total += np.exp(log_p)
    total /= total.sum(1, keepdims=True)
    return total.astype(np.float32)


def _images(identity: dict[str, Any]) -> dict[str, Any]:
    """What decides which images a run is trained on. Only folds depend on the seed."""
    config = identity["config"]
    if config["protocol"] == "splits":
        return {"data": identity["data"], "protocol": "splits"}
    return {"data": identity["data"], "seed": identity["seed"]} | {name: config[name] for name in _SPLIT}
