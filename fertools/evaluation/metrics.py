"""Accuracy and its relatives, with intervals, from probabilities and labels.

Wrong arguments raise :class:`ValueError` with what was passed and what is expected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SUM_TOLERANCE = 1e-3  # probabilities kept in half precision add up to 1 within this


@dataclass(frozen=True)
class Metrics:
    """What :func:`evaluate` found. Plain JSON types throughout: ``dataclasses.asdict`` writes it,
    ``Metrics(**it)`` reads it back, equal.

    Attributes:
        classes: the label names.
        n: images.
        accuracy: the share of images whose most probable class is the label.
        accuracy_interval: its 95 % Wilson interval. It takes the images as independent, which
            frames of one film or duplicates are not: it is then too narrow. It says nothing of
            the spread over seeds.
        balanced_accuracy: the mean recall over the classes that have images.
        per_class: class name -> ``precision``, ``recall``, ``f1``, ``support`` (images). None
            where undefined: the recall of a class without images, the precision of one that was
            never predicted, the F1 of one that is both.
        confusion: counts, ``confusion[true][predicted]``.
        calibration_error: expected calibration error over 15 bins, see :func:`reliability`.
        negative_log_likelihood: mean, in nats; a probability of 0 counts as 2.2e-16.
        brier: mean over the images of the squared error summed over the classes, 0 to 2
            (Brier 1950).
    """

    classes: list[str]
    n: int
    accuracy: float
    accuracy_interval: list[float]
    balanced_accuracy: float
    per_class: dict[str, dict[str, float | None]]
    confusion: list[list[int]]
    calibration_error: float
    negative_log_likelihood: float
    brier: float

    @property
    def confusion_rates(self) -> np.ndarray:
        """``confusion`` with each row divided by its sum, (classes, classes); see :func:`row_rates`."""
        return row_rates(self.confusion)


def evaluate(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Metrics:
    """Metrics of the probabilities (N, classes) against the labels (N,), indices into ``classes``.

    Raises:
        ValueError: shapes that do not fit, a probability that is not one, rows that do not add
            up to 1, labels out of range.
    """
    from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

    p, labels = check_probabilities(probabilities, labels, are_probabilities=True)
    n, k = p.shape
    if k != len(classes):
        raise ValueError(f"probabilities have {k} columns, but there are {len(classes)} classes: {list(classes)}")
    predicted = p.argmax(1)
    every = np.arange(k)
    correct = int((predicted == labels).sum())
    scores = precision_recall_fscore_support(labels, predicted, labels=every, zero_division=np.nan)
    names = ("precision", "recall", "f1", "support")
    return Metrics(
        classes=list(classes),
        n=n,
        accuracy=correct / n,
        accuracy_interval=list(wilson_interval(correct, n)),
        balanced_accuracy=float(np.nanmean(scores[1])),
        per_class={
            name: {score: None if np.isnan(v) else v for score, v in zip(names, row, strict=True)}
            for name, row in zip(classes, zip(*(s.tolist() for s in scores), strict=True), strict=True)
        },
        confusion=confusion_matrix(labels, predicted, labels=every).tolist(),
        calibration_error=reliability(p, labels).error,
        negative_log_likelihood=float(log_loss(labels, p, labels=every)),
        brier=float(((p - np.eye(k)[labels]) ** 2).sum(1).mean()),
    )


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a share, ``successes`` out of ``n`` > 0 (Wilson 1927).

    Unlike the usual mean +- 1.96 standard errors it stays within 0 and 1, and holds for few
    images and for shares near 0 or 1 (Brown, Cai and DasGupta 2001).
    """
    from scipy.stats import binomtest

    low, high = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return float(low), float(high)


def row_rates(counts: np.ndarray | list[list[int]]) -> np.ndarray:
    """A confusion matrix's counts, each row divided by its sum; nan where a class has no images."""
    counts = np.asarray(counts, float)
    total = counts.sum(1, keepdims=True)
    return np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)


def check_probabilities(
    values: np.ndarray, labels: np.ndarray, are_probabilities: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """``values`` as float64 and ``labels`` as int64, or a ValueError that names the first bad row."""
    p, labels = np.asarray(values, float), np.asarray(labels)
    what = "probabilities" if are_probabilities else "log_probabilities"

    def refuse(rows: np.ndarray, why: str) -> None:
        if rows.any():
            raise ValueError(f"{what}: row {rows.argmax()} {why}: {p[rows.argmax()]}")

    if p.ndim != 2 or p.shape[1] < 2 or not len(p):
        raise ValueError(f"{what} must have shape (N, classes), N > 0 and classes > 1, not {p.shape}")
    if labels.shape != (len(p),):
        raise ValueError(f"{what} of shape {p.shape} need labels of shape ({len(p)},), not {labels.shape}")
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be whole numbers (class indices), not {labels.dtype}")
    bad = (labels < 0) | (labels >= p.shape[1])
    if bad.any():
        row = bad.argmax()
        raise ValueError(f"labels: row {row} is {labels[row]}; labels run from 0 to {p.shape[1] - 1}")
    refuse(~np.isfinite(p).all(1), "is not finite (did the training diverge?)")
    if are_probabilities:
        hint = " (log-probabilities? pass np.exp of them)" if (p <= 0).all() else ""
        low, high = p.min(1), p.max(1)
        refuse((low < 0) | (high > 1 + SUM_TOLERANCE), f"has values outside 0 to 1{hint}")
        total: np.ndarray = p.sum(1)
        refuse(np.abs(total - 1) > SUM_TOLERANCE, "does not add up to 1")
        p = p / total[:, None]  # takes away the rounding of a lower precision
    return p, labels.astype(np.int64)
