"""How far to trust a probability: reliability, temperature scaling, and selective prediction.

Fit on one split with :func:`fit_temperature`, and apply to another with :func:`apply_temperature`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fertools.evaluation.checks import check_probabilities


@dataclass(frozen=True, eq=False)
class Reliability:
    """How often the network is right, by its confidence: one entry per bin, (bins,).

    Attributes:
        edges: (bins + 1,), 0 to 1; a bin includes its upper edge.
        counts: images in the bin.
        correct: those that were classified correctly.
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

    Args:
        probabilities: (N, classes).
        labels: (N,).
        bins: how many.

    Raises:
        ValueError: as :func:`~fertools.evaluation.metrics.evaluate` does, or ``bins`` is below 1.

    >>> found = reliability(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1]), bins=2)
    >>> found.counts, round(found.error, 2)  # half are right, at a confidence of 0.85
    (array([0, 2]), 0.35)
    """
    p, labels = check_probabilities(probabilities, labels, are_probabilities=True)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    edges, top = np.linspace(0, 1, bins + 1), p.max(1)
    which = np.digitize(top, edges[1:-1], right=True)
    counts = np.bincount(which, minlength=bins)
    correct = np.bincount(which, weights=p.argmax(1) == labels, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the nan of an empty bin
        confidence = np.bincount(which, weights=top, minlength=bins) / counts
        accuracy = correct / counts
    return Reliability(edges, counts, correct.astype(int), confidence, accuracy)


def fit_temperature(log_probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T that minimizes the negative log likelihood of softmax(logits / T).

    Guo et al. 2017, section 4.2. Fit it on images that neither trained the network nor are
    reported on (FER2013: fit on PublicTest, apply to PrivateTest).

    Args:
        log_probabilities: (N, classes), of the single crop; logits work as well.
        labels: (N,).

    Returns:
        T between 0.05 and 20: above 1 the network was overconfident, below 1 underconfident. Where
        every image is right, there is no best T, and the result is low enough for a loss of 0.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    logits, labels = check_probabilities(log_probabilities, labels)
    rows = np.arange(len(labels))

    def loss(log_t: float) -> float:
        return -log_softmax(logits / np.exp(log_t), axis=1)[rows, labels].mean()

    # The loss is convex in 1/T, so it has one minimum in log T too, and the bounded search finds it.
    best = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(best.x))


def apply_temperature(log_probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """log softmax(logits / T), float32 (N, classes). No image's most probable class changes.

    >>> np.exp(apply_temperature(np.log([[0.9, 0.1]]), 2.0)).round(2)  # overconfident: 0.9 becomes 0.75
    array([[0.75, 0.25]], dtype=float32)
    """
    from scipy.special import log_softmax

    if not (np.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be finite and above 0, not {temperature}")
    return log_softmax(np.asarray(log_probabilities, float) / temperature, axis=1).astype(np.float32)


# --- Selective prediction ---------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """What a classifier gains from a reject option: one entry per threshold, in descending order.

    Attributes:
        thresholds: every top probability that occurs; below it the classifier abstains.
        coverage: the fraction of all images that it predicts, above 0, up to 1.
        risk: the error rate on those.
    """

    thresholds: np.ndarray
    coverage: np.ndarray
    risk: np.ndarray


def risk_coverage(probabilities: np.ndarray, labels: np.ndarray) -> RiskCoverage:
    """The risk-coverage curve of the top probability (El-Yaniv and Wiener 2010; Geifman and El-Yaniv 2017).

    Images of equal top probability are kept or rejected together, so that their order does not matter.

    Args:
        probabilities: (N, classes).
        labels: (N,).

    Raises:
        ValueError: as :func:`~fertools.evaluation.metrics.evaluate` does.
    """
    p, labels = check_probabilities(probabilities, labels, are_probabilities=True)
    thresholds, which = np.unique(-p.max(1), return_inverse=True)  # falling
    kept = np.bincount(which).cumsum()
    wrong = np.bincount(which, weights=p.argmax(1) != labels).cumsum()
    return RiskCoverage(-thresholds, kept / len(p), wrong / kept)


def abstention_threshold(curve: RiskCoverage, accuracy: float) -> float:
    """The lowest threshold, so the largest coverage, at which the accuracy on the images that it keeps
    is at least ``accuracy`` (0 to 1).

    Infinity if no threshold reaches it: such a classifier has to abstain from every image. Choose the
    threshold on images that are not reported on; on others the accuracy may fall short of the target.

    >>> curve = risk_coverage(np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]]), np.array([0, 0, 1]))
    >>> abstention_threshold(curve, 1.0)
    0.8
    """
    enough = np.flatnonzero(1 - curve.risk >= accuracy)
    return float(curve.thresholds[enough[-1]]) if len(enough) else float("inf")


TARGET_ACCURACY = 0.8  # on the images that are kept, of those that choose the threshold


def choose_threshold(log_probabilities: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """The confidence below which to abstain, so that accuracy on the rest is :data:`TARGET_ACCURACY`.

    Args:
        log_probabilities: (N, classes), of the single crop, on images that are not reported on.
        labels: (N,).
        temperature: the one that :func:`fit_temperature` gives for the same images.

    Returns:
        A probability; 1 if no threshold reaches the target.
    """
    p = np.exp(apply_temperature(log_probabilities, temperature))
    return min(abstention_threshold(risk_coverage(p, labels), TARGET_ACCURACY), 1.0)
