"""The one check of probabilities and labels that every measure here begins with."""

from __future__ import annotations

import numpy as np

SUM_TOLERANCE = 1e-3  # probabilities stored in half precision add up to 1 within this


def check_probabilities(
    values: np.ndarray, labels: np.ndarray, are_probabilities: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """``values`` as float64 (N, classes) and ``labels`` as int64 (N,).

    Args:
        values: log-probabilities, logits, or probabilities, (N, classes).
        labels: integers, (N,), indices of classes.
        are_probabilities: whether each row must be from 0 to 1 and add up to 1.

    Raises:
        ValueError: what is wrong, with the first bad row.

    >>> check_probabilities(np.array([[0.2, 0.9]]), np.array([1]), are_probabilities=True)
    Traceback (most recent call last):
    ValueError: probabilities: row 0 does not add up to 1: [0.2 0.9]
    """
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
        p = p / total[:, None]  # removes the rounding of a lower precision
    return p, labels.astype(np.int64)
