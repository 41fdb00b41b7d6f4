"""From a trained network to honest numbers: predictions, metrics with intervals, calibration.

The way through: :func:`predict` gives log-probabilities, ``np.exp`` makes them probabilities,
:func:`evaluate` turns those and the labels into :class:`Metrics`. For calibration,
:func:`fit_temperature` on one split and :func:`apply_temperature` on another.

Wrong arguments raise :class:`ValueError` with what was passed and what is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fertools.network import IMAGE_SIZE

PAD = 4  # section 3.2: training pads the image by 4 zero pixels and crops 48x48 again
SUM_TOLERANCE = 1e-3  # probabilities kept in half precision add up to 1 within this

Views = Literal["one", "flip", "ten-crop"]


# --- Predictions ------------------------------------------------------------------------------


def predict(
    net: nn.Module,
    images: np.ndarray | Tensor,
    *,
    mean: float,
    std: float,
    device: str | torch.device | None = None,
    views: Views = "one",
    batch: int = 256,
    dtype: torch.dtype | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Log-probabilities of every image, float32, (N, classes).

    The network gets ``(image - mean) / std`` and runs in evaluation mode; afterwards each of its
    modules is in the mode it was in before. With several views of an image their probabilities
    are averaged; the log-probabilities of one view serve as logits, from which they differ by
    a constant per image.

    Args:
        net: takes (N, 1, 48, 48), gives logits (N, classes).
        images: uint8, (N, 48, 48), 0 black to 255 white.
        mean, std: of the training images, in gray levels (0 to 255).
        device: the network is moved there and stays there; None leaves it where it is.
        views: ``"one"`` the image; ``"flip"`` also its mirror image; ``"ten-crop"`` what training
            draws from: pad by 4 black pixels, take the four corner crops and the centre crop of
            48x48 pixels, and the mirror image of each (Krizhevsky et al. 2012, section 4.1).
        batch: images per forward pass; less memory where it is smaller, the same result.
        dtype: run under autocast, e.g. ``torch.bfloat16``; None runs in the network's own precision.
        progress: show a progress bar.
    """
    if images.ndim != 3 or images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE) or not len(images):
        raise ValueError(f"images must have shape (N, {IMAGE_SIZE}, {IMAGE_SIZE}), N > 0, not {tuple(images.shape)}")
    if images.dtype not in (np.uint8, torch.uint8):
        raise ValueError(f"images must be uint8, 0 black to 255 white, not {images.dtype}")
    if not (np.isfinite(mean) and np.isfinite(std) and std > 0):
        raise ValueError(f"mean and std must be finite, and std above 0; got mean={mean}, std={std}")
    if views not in get_args(Views):
        raise ValueError(f"views must be one of {', '.join(get_args(Views))}, not {views!r}")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")

    from tqdm import tqdm

    if isinstance(images, np.ndarray):
        images = torch.from_numpy(images.copy())  # a copy: a memory-mapped array is read-only
    if device is not None:
        net.to(device)
    where = next(net.parameters()).device
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    rows = []
    try:
        with torch.inference_mode(), torch.autocast(where.type, dtype, enabled=dtype is not None):
            for some in tqdm(images.split(batch), desc="predict", unit="batch", disable=not progress):
                log_p = [
                    net(((view.float() - mean) / std)[:, None]).float().log_softmax(1)
                    for view in _views(some.to(where), views)
                ]
                rows.append(torch.stack(log_p).logsumexp(0) - np.log(len(log_p)))  # log of the mean
    finally:
        for module, training in modes:
            module.training = training
    return torch.cat(rows).float().cpu().numpy()


def _views(images: Tensor, views: Views) -> list[Tensor]:
    """uint8 (N, 48, 48) -> the views to average over, each of that shape."""
    crops = [images]
    if views == "ten-crop":
        padded = F.pad(images, (PAD,) * 4)  # of the raw pixels: 0 is black, as in training
        end = 2 * PAD
        corners = [(0, 0), (0, end), (end, 0), (end, end), (PAD, PAD)]
        crops = [padded[:, y : y + IMAGE_SIZE, x : x + IMAGE_SIZE] for y, x in corners]
    return crops if views == "one" else crops + [crop.flip(-1) for crop in crops]


# --- Metrics ----------------------------------------------------------------------------------


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

    p, labels = _check(probabilities, labels, are_probabilities=True)
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


# --- Calibration ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Reliability:
    """How often the network is right, by how sure it was: one entry per bin, (bins,).

    Attributes:
        edges: (bins + 1,), 0 to 1; a bin holds its upper edge.
        counts: images in the bin.
        correct: those that were right.
        confidence: mean of their top probability; nan in an empty bin.
        accuracy: ``correct / counts``; nan in an empty bin.
    """

    edges: np.ndarray
    counts: np.ndarray
    correct: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: the mean over the images of their bin's gap
        ``|accuracy - confidence|`` (Guo, Pleiss, Sun and Weinberger 2017, eq. 3)."""
        full = self.counts > 0
        return float(np.average(np.abs(self.accuracy - self.confidence)[full], weights=self.counts[full]))


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> Reliability:
    """Sorts images into bins of equal width by their top probability (Guo et al. 2017, section 2).

    Takes probabilities (N, classes) and labels (N,), and raises like :func:`evaluate`.
    """
    p, labels = _check(probabilities, labels, are_probabilities=True)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    edges = np.linspace(0, 1, bins + 1)
    top = p.max(1)
    which = np.digitize(top, edges[1:-1], right=True)
    counts = np.bincount(which, minlength=bins)
    correct = np.bincount(which, weights=p.argmax(1) == labels, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the nan of an empty bin
        confidence = np.bincount(which, weights=top, minlength=bins) / counts
        accuracy = correct / counts
    return Reliability(edges, counts, correct.astype(int), confidence, accuracy)


def fit_temperature(log_probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T that minimises the negative log likelihood of softmax(logits / T).

    Guo et al. 2017, section 4.2. Fit it on images that neither trained the network nor are
    reported on (FER2013: fit on PublicTest, apply to PrivateTest).

    Args:
        log_probabilities: (N, classes), of one view; logits do as well.
        labels: (N,).

    Returns:
        T between 0.05 and 20: above 1 the network was too sure, below 1 not sure enough. Where
        every image is right, none is best, and one comes back that is low enough for a loss of 0.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    logits, labels = _check(log_probabilities, labels)
    rows = np.arange(len(labels))

    def loss(log_t: float) -> float:
        return -log_softmax(logits / np.exp(log_t), axis=1)[rows, labels].mean()

    # The loss is convex in 1/T, so it has one minimum in log T too, and the bounded search finds it.
    best = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(best.x))


def apply_temperature(log_probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """log softmax(logits / T), float32 (N, classes). No image's most probable class changes."""
    from scipy.special import log_softmax

    if not (np.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be finite and above 0, not {temperature}")
    return log_softmax(np.asarray(log_probabilities, float) / temperature, axis=1).astype(np.float32)


# --- Abstention -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """What a classifier gains by answering only where it is sure: one entry per threshold, falling.

    Attributes:
        thresholds: every top probability that occurs; an image is answered where its own is as high.
        coverage: the share of all images that are answered, above 0, up to 1.
        risk: the share of wrong ones among those.
    """

    thresholds: np.ndarray
    coverage: np.ndarray
    risk: np.ndarray


def risk_coverage(probabilities: np.ndarray, labels: np.ndarray) -> RiskCoverage:
    """The risk-coverage curve of the top probability (El-Yaniv and Wiener 2010; Geifman and El-Yaniv 2017).

    Images of equal top probability are answered together, so that their order does not matter.
    Takes probabilities (N, classes) and labels (N,), and raises like :func:`evaluate`.
    """
    p, labels = _check(probabilities, labels, are_probabilities=True)
    thresholds, which = np.unique(-p.max(1), return_inverse=True)  # falling
    answered = np.bincount(which).cumsum()
    wrong = np.bincount(which, weights=p.argmax(1) != labels).cumsum()
    return RiskCoverage(-thresholds, answered / len(p), wrong / answered)


def abstention_threshold(curve: RiskCoverage, accuracy: float) -> float:
    """The lowest threshold, so the largest coverage, at which ``accuracy`` (0 to 1) of the answers are right.

    Infinity where none is: such a classifier has to abstain from every image. Choose it on images
    that are not reported on; on others the accuracy may fall short of the target.
    """
    enough = np.flatnonzero(1 - curve.risk >= accuracy)
    return float(curve.thresholds[enough[-1]]) if len(enough) else float("inf")


def _check(values: np.ndarray, labels: np.ndarray, are_probabilities: bool = False) -> tuple[np.ndarray, np.ndarray]:
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
