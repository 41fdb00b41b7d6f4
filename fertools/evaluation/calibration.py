"""How far to trust a probability: reliability, temperature scaling, and selective prediction.

Fit on one split with :func:`fit_temperature`, and apply to another with :func:`apply_temperature`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fertools.evaluation.metrics import check_probabilities


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
    p, labels = check_probabilities(probabilities, labels, are_probabilities=True)
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

    logits, labels = check_probabilities(log_probabilities, labels)
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


# --- Selective prediction ---------------------------------------------------------------------


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
    p, labels = check_probabilities(probabilities, labels, are_probabilities=True)
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


TARGET_ACCURACY = 0.8  # of the predictions that are not abstained from, on the images that choose the threshold


def choose_threshold(log_probabilities: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """The confidence below which to abstain, so that :data:`TARGET_ACCURACY` of the rest is right.

    Args:
        log_probabilities: (N, classes), of the single crop, on images that are not reported on.
        labels: (N,).
        temperature: what :func:`fit_temperature` found on the same images.

    Returns:
        A probability; 1 where no threshold reaches the target.
    """
    p = np.exp(apply_temperature(log_probabilities, temperature))
    return min(abstention_threshold(risk_coverage(p, labels), TARGET_ACCURACY), 1.0)
