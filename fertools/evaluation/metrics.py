"""Accuracy and related metrics, with intervals, from probabilities and labels.

Wrong arguments raise :class:`ValueError` with what was passed and what is expected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fertools.evaluation.calibration import reliability
from fertools.evaluation.checks import check_probabilities


@dataclass(frozen=True)
class Metrics:
    """What :func:`evaluate` measured. Plain JSON types throughout: ``dataclasses.asdict`` writes it, and
    ``Metrics(**values)`` reads it back, equal.

    Attributes:
        classes: the label names.
        n: number of images.
        accuracy: the fraction of images whose most probable class is the label.
        accuracy_interval: its 95 % Wilson interval. It covers sampling error of independent images.
            Frames of one video and duplicates are not independent, and it is then too narrow. It does not
            cover the variance across random seeds.
        balanced_accuracy: the mean recall over the classes that have images.
        per_class: class name -> ``precision``, ``recall``, ``f1``, ``support`` (images). None
            where undefined: the recall of a class without images, the precision of a class that was
            never predicted, the F1 of a class for which both hold.
        confusion: counts, ``confusion[true][predicted]``.
        calibration_error: expected calibration error over 15 bins, see
            :func:`~fertools.evaluation.calibration.reliability`.
        negative_log_likelihood: mean, in nats; a probability of 0 counts as 2.2e-16.
        brier: squared error summed over the classes, mean over the images, 0 to 2 (Brier 1950).
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
        ValueError: shapes that do not fit, values outside 0 to 1, rows that do not add up to 1,
            labels out of range.

    >>> metrics = evaluate(np.array([[0.9, 0.1], [0.3, 0.7], [0.6, 0.4]]), np.array([0, 1, 1]), ("happy", "sad"))
    >>> metrics.confusion, round(metrics.brier, 2)
    ([[1, 0], [1, 1]], 0.31)
    """
    from sklearn.metrics import brier_score_loss, confusion_matrix, log_loss, precision_recall_fscore_support

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
        brier=float(brier_score_loss(labels, p, labels=every, scale_by_half=False)),
    )


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion, ``successes`` out of ``n`` > 0 (Wilson 1927).

    Unlike the usual mean +- 1.96 standard errors it stays within 0 and 1, and holds for few
    images and for proportions near 0 or 1 (Brown, Cai and DasGupta 2001).

    >>> "{:.2f} to {:.2f}".format(*wilson_interval(9, 10))
    '0.60 to 0.98'
    """
    from scipy.stats import binomtest

    low, high = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return float(low), float(high)


def row_rates(counts: np.ndarray | list[list[int]]) -> np.ndarray:
    """A confusion matrix's counts, each row divided by its sum; nan where a class has no images.

    >>> row_rates([[3, 1], [0, 2]])
    array([[0.75, 0.25],
           [0.  , 1.  ]])
    """
    counts = np.asarray(counts, float)
    total = counts.sum(1, keepdims=True)
    return np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
