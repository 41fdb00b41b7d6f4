"""Every figure, each a function of an array or of part of a record.

Each function draws into ``ax``, or into a new figure where none is given, and returns the Axes.
All share one style, :func:`style`; use it yourself to make a figure that contains several of them::

    with plots.style():
        figure, axes = plt.subplots(1, 2)
        plots.confusion_matrix(counts, classes, ax=axes[0])
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fertools.evaluation.calibration import Reliability, RiskCoverage
from fertools.evaluation.metrics import row_rates, wilson_interval
from fertools.network import END_SIZE, FeatureFusionModule, MultiScaleFusionNet

if TYPE_CHECKING:
    import pandas as pd

    from fertools.inference.explanations import Explanation

# Colors that people with any color vision can tell apart (Okabe and Ito 2008), without the yellow,
# which is too light for a line on white.
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7"]
BLUE, VERMILLION, GREEN, _, SKY, _ = PALETTE
# In the book, blue is what we measured or the completed network, vermillion what the paper states or the network as
# printed, and faint gray everything else. The branches of the network have colors of their own.
BRANCHES = {"top": "#A6508A", "middle": "#00805F", "bottom": "#B87A00"}  # 4:1 or more on white
INK, FAINT = "#222222", "#6b6b6b"  # text, and lines that only guide; 16:1 and 5:1 on white

# A white page of its own, with a margin, reads the same on a light and on a dark theme, in
# Jupyter, Colab and print; a transparent figure would need one ink for both. 5.5 inches wide with
# letters of 9 points or more stays legible when a phone shrinks it.
STYLE: dict[Any, Any] = {
    "figure.figsize": (5.5, 4.0),
    "figure.dpi": 144,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.1,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.edgecolor": "white",
    "legend.framealpha": 0.9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "axes.prop_cycle": cycler(color=PALETTE),
}


@contextmanager
def style() -> Iterator[None]:
    """The figures' style, for the length of a ``with`` block or of a function that it decorates."""
    with mpl.rc_context(STYLE):
        yield
        interactive = mpl.is_interactive()
    # A notebook turns this on with its first figure. Matplotlib would set it back here, and the
    # notebook would show no figure after that one.
    mpl.interactive(interactive)


@style()
def confusion_matrix(
    counts: np.ndarray | list[list[int]],
    classes: Sequence[str],
    ax: Axes | None = None,
    rates: bool = True,
    title: str | None = None,
) -> Axes:
    """The confusion matrix, true classes down and predicted ones across.

    Args:
        counts: (classes, classes), images by true and predicted class.
        rates: each cell shows and is colored by its percentage of the true class, with the count
            below it; a class without images shows dashes. False: only the counts.
    """
    import seaborn as sns

    counts, k = _counts(counts, classes)
    values = row_rates(counts) if rates else counts.astype(float)
    if ax is None:
        side = max(5.5, 0.62 * k + 1.3)  # a cell contains two lines of 9 points
        ax = plt.figure(figsize=(side, side)).add_subplot()

    # Perceptually uniform and monotonic in lightness: it can be read in grayscale and with any color vision.
    colors = sns.color_palette("mako_r", as_cmap=True).with_extremes(bad="#eeeeee")
    top = 1.0 if rates else max(float(counts.max()), 1.0)
    image = ax.imshow(values, cmap=colors, vmin=0, vmax=top)
    for row in range(k):
        for column in range(k):
            value, count = values[row, column], f"{counts[row, column]:,}"
            text: dict[str, Any] = {"ha": "center", "color": _ink_on(image.to_rgba(value))}
            weight = "bold" if row == column else "normal"
            if np.isnan(value):
                ax.text(column, row, "–", va="center", **text)
            elif rates:
                ax.text(column, row - 0.02, f"{value:.0%}", va="bottom", fontsize=11, weight=weight, **text)
                ax.text(column, row + 0.08, count, va="top", fontsize=9, **text)
            else:
                ax.text(column, row, count, va="center", weight=weight, **text)
    ax.set_xticks(range(k), classes, rotation=40, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(k), classes)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set(xlabel="predicted", ylabel="true", title=title or "")
    return ax


def _counts(counts: np.ndarray | list[list[int]], classes: Sequence[str]) -> tuple[np.ndarray, int]:
    """The confusion matrix as an array, and the number of classes that it must fit."""
    counts, k = np.asarray(counts), len(classes)
    if counts.shape != (k, k):
        raise ValueError(f"{k} classes need counts of shape ({k}, {k}), not {counts.shape}")
    return counts, k


def _luminance(rgb: Sequence[float] | np.ndarray) -> float:
    """Relative luminance of an sRGB color, 0 black to 1 white (WCAG 2.2)."""
    c = np.asarray(rgb[:3])
    return float(np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])


def _ink_on(rgb: Sequence[float] | np.ndarray) -> str:
    """Black or white letters, whichever has the higher contrast ratio; one always has 4.5 (WCAG AA)."""
    ground = _luminance(rgb) + 0.05
    return "black" if ground / 0.05 > 1.05 / ground else "white"


@style()
def learning_curves(
    history: Sequence[Mapping[str, Any]],
    selected: int | None = None,
    axes: Sequence[Axes] | None = None,
    title: str | None = None,
) -> list[Axes]:
    """Accuracy, loss and learning rate by epoch: three Axes, one below the other.

    Args:
        history: one entry per epoch with ``epoch``, ``loss``, ``train_accuracy``,
            ``validation_accuracy`` and ``learning_rate``; accuracies from 0 to 1. A value that is missing or
            None is left out, and a curve without values too.
        selected: the epoch whose weights were kept; it gets a line, and its accuracy is written in the legend.
        axes: three Axes to draw into.
    """
    epochs = [entry["epoch"] for entry in history]
    if not epochs:
        raise ValueError("the history is empty: no epoch has ended yet")
    if selected is not None and selected not in epochs:
        raise ValueError(f"epoch {selected} was selected, but the history runs from {epochs[0]} to {epochs[-1]}")
    if axes is None:
        figure = plt.figure(figsize=(5.5, 5.5))
        axes = list(figure.subplots(3, sharex=True, height_ratios=(3, 2, 1)))
    accuracy, loss, rate = axes

    for ax, key, label, color in (
        (accuracy, "train_accuracy", "training", BLUE),
        (accuracy, "validation_accuracy", "validation", VERMILLION),
        (loss, "loss", "training", BLUE),
        (rate, "learning_rate", "learning rate", FAINT),
    ):
        points = [(e["epoch"], e[key]) for e in history if e.get(key) is not None]
        if points:
            marker = "o" if len(points) == 1 else None
            ax.plot(*zip(*points, strict=True), color=color, label=label, marker=marker)
    if selected is not None:
        for ax in axes:
            ax.axvline(selected, color=FAINT, linestyle=":", linewidth=1.2)
        best = history[epochs.index(selected)].get("validation_accuracy")
        if best is not None:
            accuracy.plot(selected, best, "o", color=VERMILLION, label=f"epoch {selected}: {best:.1%}")
    for ax in axes:
        ax.grid(axis="y")
    accuracy.legend(loc="lower right")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    accuracy.set(ylabel="accuracy", title=title or "")
    loss.set(ylabel="training loss")
    rate.set(ylabel="learning\nrate", xlabel="epoch", ylim=(0, None))
    rate.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return [accuracy, loss, rate]


@style()
def reliability_diagram(bins: Reliability, ax: Axes | None = None, title: str | None = None) -> Axes:
    """How often the network is right, by its confidence (Guo et al. 2017, figure 1).

    A bar below the diagonal means overconfidence; a bin without images has no bar. The lines are 95 %
    Wilson intervals: a long one means few images.

    Args:
        bins: from :func:`fertools.evaluation.calibration.reliability`.
    """
    ax = ax or plt.figure(figsize=(5.5, 4.6)).add_subplot()
    full = bins.counts > 0
    center = (bins.edges[:-1] + bins.edges[1:]) / 2
    width = np.diff(bins.edges)
    x, y, error = center[full], bins.accuracy[full], _bars(bins.correct[full], bins.counts[full])
    ax.bar(x, y, width[full], color=SKY, edgecolor="white", label="accuracy")
    ax.errorbar(x, y, error, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
    ax.plot([0, 1], [0, 1], color=FAINT, linestyle="--", linewidth=1, label="perfectly calibrated")
    percent = PercentFormatter(1, decimals=0)
    ax.xaxis.set_major_formatter(percent)
    ax.yaxis.set_major_formatter(percent)
    ax.set(xlabel="confidence: top probability", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title=title or "")
    ax.legend(loc="upper left", title=f"calibration error {bins.error:.1%}", alignment="left")
    return ax


@style()
def risk_coverage_curve(
    curve: RiskCoverage,
    threshold: float | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """The error rate, by the fraction of images that the classifier does not abstain from (El-Yaniv and Wiener 2010).

    The right end predicts every image; to the left are fewer and more confident predictions. The error rate
    of a few images is mostly chance, so the curve begins at 1 % coverage.

    Args:
        curve: from :func:`fertools.evaluation.calibration.risk_coverage`.
        threshold: the top probability below which the classifier abstains; it gets a dot.
    """
    ax = ax or plt.figure(figsize=(5.5, 3.6)).add_subplot()
    shown = curve.coverage >= 0.01
    ax.plot(curve.coverage[shown], curve.risk[shown], color=BLUE)
    if threshold is not None:
        kept = np.flatnonzero(curve.thresholds >= threshold)
        if not len(kept):
            raise ValueError(f"no image reaches the threshold {threshold}; the highest is {curve.thresholds[0]:.3f}")
        coverage, risk = curve.coverage[kept[-1]], curve.risk[kept[-1]]
        label = f"threshold {threshold:.2f}: coverage {coverage:.1%}, accuracy {1 - risk:.1%}"
        ax.plot(coverage, risk, "o", color=VERMILLION, label=label)
        ax.legend(loc="upper left")
    percent = PercentFormatter(1, decimals=0)
    ax.xaxis.set_major_formatter(percent)
    ax.yaxis.set_major_formatter(percent)
    ax.set(xlabel="coverage (fraction of images)", ylabel="risk (error rate)", xlim=(0, 1.01), title=title or "")
    ax.set_ylim(0, max(0.05, 1.25 * curve.risk.max()))
    ax.grid(axis="y")
    return ax


@style()
def class_recall(
    counts: np.ndarray | list[list[int]],
    classes: Sequence[str],
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """The recall of each class, with 95 % Wilson intervals. A class without images has no bar.

    Args:
        counts: the confusion matrix, (classes, classes), images by true and predicted class.
    """
    counts, k = _counts(counts, classes)
    ax = ax or plt.figure(figsize=(5.5, 0.42 * k + 1.1)).add_subplot()
    correct, total = counts.diagonal(), counts.sum(1)
    full = np.flatnonzero(total)
    recall = correct[full] / total[full]
    error = _bars(correct[full], total[full])
    ax.barh(full, recall, color=SKY)
    ax.errorbar(recall, full, xerr=error, fmt="none", ecolor=INK, elinewidth=1, capsize=3)
    for row, value, above in zip(full.tolist(), recall, error[1], strict=True):
        ax.text(value + above + 0.015, row, f"{value:.1%}", va="center", fontsize=9)
    ax.set_yticks(range(k), [f"{name} ({n:,})" for name, n in zip(classes, total, strict=True)])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(k - 0.5, -0.5)  # the first class on top, as in the confusion matrix
    ax.set_xticks(np.linspace(0, 1, 6))
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.spines["bottom"].set_bounds(0, 1)
    ax.set(xlim=(0, 1.15), xlabel="recall", title=title or "")
    ax.grid(axis="x")
    return ax


@style()
def accuracy_by(
    groups: pd.DataFrame, what: str, ax: Axes | None = None, title: str | None = None, label: str | None = None
) -> Axes:
    """Accuracy by a known property of each image, with 95 % intervals.

    Groups of numbers become a curve over their means, groups of words separate points. Drawn into the same
    Axes, a second network gets its own color and marker.

    Args:
        groups: from :func:`fertools.data.synthetic.accuracy_by`.
        what: the property, with its unit, e.g. ``"turn of the head, degrees"``.
        label: the network's name, for a legend.
    """
    ax = ax or plt.figure(figsize=(5.5, 3.4)).add_subplot()
    words = bool(groups["center"].isna().all())
    x = groups["group"].astype(str) if words else groups["center"]
    reach = [groups["accuracy"] - groups["low"], groups["high"] - groups["accuracy"]]
    mark = "osD^"[len(ax.containers) % 4]
    ax.errorbar(
        x,
        groups["accuracy"],
        reach,
        marker=mark,
        linestyle="none" if words else "-",
        capsize=3,
        elinewidth=1,
        label=label,
    )
    if words:
        ax.margins(x=0.5 / len(groups))
        ax.tick_params(axis="x", rotation=40)
        for tick in ax.get_xticklabels():
            tick.set(ha="right", rotation_mode="anchor")
    if label:
        ax.legend(loc="lower left")
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set(xlabel=what, ylabel="accuracy", ylim=(0, 1.02), title=title or "")
    ax.grid(True, axis="y")  # without True a second call would turn it off again
    return ax


@style()
def differences(
    table: pd.DataFrame, groups: Mapping[str, Sequence[str]] | None = None, limit: float = 10.0, ax: Axes | None = None
) -> Axes:
    """How each variant of an ablation differs from the baseline, in points, with 95 % intervals.

    A filled marker means that the interval excludes 0.

    Args:
        table: what :func:`fertools.evaluation.comparisons.ablation` gives; the baseline itself is left out.
        groups: variants under a heading, in order; those that are not in the table are skipped, and so are
            headings without any.
        limit: a larger loss, in points, is written as a number at the edge.
    """
    found = table.set_index("variant").query("low != 0 or high != 0 or difference != 0")
    groups = groups or {"": list(found.index)}
    lines: list[tuple[str, bool]] = []
    for heading, names in groups.items():
        here = [name for name in names if name in found.index]
        if here:
            lines += [(heading, True)] * bool(heading) + [(name, False) for name in here]
    ax = ax or plt.figure(figsize=(5.5, 0.27 * len(lines) + 1.0)).add_subplot()
    ax.axvline(0, color=FAINT, lw=1)
    for y, (name, is_heading) in enumerate(lines):
        if is_heading:
            continue
        value, low, high = found.loc[[name], ["difference", "low", "high"]].to_numpy(float)[0]
        if value < -limit:
            ax.plot(-limit, y, "<", color=VERMILLION)
            ax.text(-limit + 0.04 * limit, y, f"{value:.1f}".replace("-", "\N{MINUS SIGN}"), va="center", fontsize=9)
            continue
        color = VERMILLION if high < 0 else GREEN if low > 0 else BLUE
        face = "white" if low <= 0 <= high else color
        ax.errorbar(value, y, xerr=[[value - low], [high - value]], fmt="o", color=color, mfc=face, capsize=3)
    ax.set_yticks(range(len(lines)), [name for name, _ in lines])
    for tick, (_, is_heading) in zip(ax.get_yticklabels(), lines, strict=True):
        tick.set_fontweight("bold" if is_heading else "normal")
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(lines) - 0.4, -0.6)
    ax.set_xlim(-1.05 * limit, None)
    ax.set_xlabel("accuracy relative to the baseline, points")
    ax.grid(axis="x")
    return ax


def _bars(successes: np.ndarray, n: np.ndarray) -> np.ndarray:
    """(2, bars): how far the Wilson interval reaches below and above each proportion, for errorbar."""
    rates = successes / n
    intervals = [wilson_interval(int(s), int(m)) for s, m in zip(successes, n, strict=True)]
    low, high = np.reshape(intervals, (-1, 2)).T
    return np.maximum([rates - low, high - rates], 0)  # rounding may put an end past a rate of 0 or 1


@style()
def fusion_weights(net: MultiScaleFusionNet, ax: Axes | None = None, title: str | None = None) -> Axes:
    """The learned weights w1, w2 and w3 of every feature fusion module (eq. 5); they start at 1.

    A module is named by its branch (the map size that it starts on) and the size of the maps that
    it fuses; those that fuse the ends of the branches, by the branch that joins the last one.

    Raises:
        ValueError: the network has no such weights (``fusion`` is not ``"weighted"``).
    """
    by_module: dict[str, list[float]] = {}
    for name, module in net.named_modules():
        if type(module) is FeatureFusionModule:
            _, branch, *size = name.split(".")  # "fuse.1.24" or "fuse_ends.0"
            scale = net.config.scales[int(branch)]
            where = f"branch {scale}, maps {size[0]}" if size else f"end, with branch {scale}"
            by_module[where] = module.w.tolist()
    if not by_module:
        raise ValueError(
            f"no fusion weights to draw: the network has fusion={net.config.fusion!r} "
            f"and scales={net.config.scales}; weights need 'weighted' and two scales or more"
        )
    ax = ax or plt.figure(figsize=(5.5, 0.42 * len(by_module) + 1.6)).add_subplot()
    ax.axvline(1, color=FAINT, linewidth=1, linestyle="--")
    ax.set(xlabel="weight (dashed: initial value)")
    ax.set_title(title or "", pad=26)  # leaves room for the legend
    _three_marks(ax, by_module)
    return ax


def _three_marks(ax: Axes, by_module: Mapping[str, Sequence[float]]) -> None:
    """A row for each fusion module, with a marker for each of the three terms of eq. 5."""
    values, rows = np.array(list(by_module.values())), np.arange(len(by_module))  # (modules, 3)
    ax.axvline(0, color=FAINT, linewidth=1)
    for column, (label, marker, color) in enumerate(
        (
            ("w1 (this branch)", "o", BLUE),
            ("w2 (the other)", "s", VERMILLION),
            ("w3 (both, by 1x1)", "^", GREEN),
        )
    ):
        # At different heights, since before training all three have the same value.
        ax.plot(values[:, column], rows + 0.2 * (column - 1), marker, color=color, label=label)
    ax.set_yticks(rows, list(by_module))
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.grid(axis="x")
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, columnspacing=1, handletextpad=0.2)


@style()
def labeled_faces(
    images: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], threshold: float = 0.0, top: int = 3
) -> Figure:
    """Faces in a row, each with its label and bars of its most probable labels.

    Args:
        images: grayscale, uint8 (N, H, W).
        probabilities: (N, classes).
        classes: names of the labels.
        threshold: where no label is as probable as this, the face is called unsure.
        top: number of bars.

    >>> faces = np.zeros((2, 48, 48), np.uint8)
    >>> drawn = labeled_faces(faces, np.array([[0.9, 0.1], [0.5, 0.5]]), ["happy", "sad"], threshold=0.6, top=2)
    >>> [ax.get_title() for ax in drawn.axes[:2]]
    ['happy', 'unsure']
    """
    size = (5.5, 1.35 + 0.31 * top)
    figure, axes = plt.subplots(
        2, len(images), figsize=size, height_ratios=(1.35, 0.31 * top), layout="none", squeeze=False
    )
    figure.subplots_adjust(left=0.01, right=0.99, top=0.9, bottom=0.01, wspace=0.06, hspace=0.06)
    for (face, bars), image, p in zip(axes.T, images, probabilities, strict=True):
        unsure = p.max() < threshold
        face.imshow(image, cmap="gray", vmin=0, vmax=255)
        face.set_title("unsure" if unsure else classes[p.argmax()], fontweight="bold")
        best = np.argsort(-p, kind="stable")[:top]
        bars.barh(range(top), p[best], height=0.7, color=[FAINT if unsure else BLUE] + ["#bbbbbb"] * (top - 1))
        for row, label in enumerate(best):
            bars.text(p[label] + 0.05, row, f"{classes[label]} {100 * p[label]:.0f} %", va="center")
        bars.set(xlim=(-0.12, 3.3), ylim=(top - 0.4, -0.6))
    for ax in axes.flat:
        ax.axis("off")
    return figure


@style()
def explanation(found: Explanation) -> Figure:
    """A face and why it got its label, in one figure: what :func:`fertools.inference.explanations.explain` found.

    From the top: the face, and how each pixel and each region changes the score of the label; the
    probabilities, and what each branch did; what each fusion was made of, for this face; the nearest
    examples. Vermillion is evidence for the label, blue against it.
    """
    k, near = len(found.probabilities), found.nearest
    heights = [2.4, 0.24 * k + 0.8]
    heights += [0.42 * len(found.fusions) + 1.0] if found.fusions else []
    heights += [1.9] if near is not None else []
    figure = plt.figure(figsize=(5.5, sum(heights)))
    subfigures = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)
    parts = iter(subfigures[:, 0])

    part = next(parts)
    part.suptitle(f"{found.label}: log odds {found.score:+.2f}, of plain gray {found.baseline:+.2f}", fontsize=11)
    face, pixels, regions = part.subplots(1, 3)
    face.imshow(found.face, cmap="gray", vmin=0, vmax=255)
    face.set_title("the face", fontsize=10)
    # A hundredth of the pixels may be off the scale: a single one would leave all others pale.
    _for_and_against(pixels, found.attributions, float(np.quantile(np.abs(found.attributions), 0.99)), "pixels")
    _for_and_against(regions, found.occlusion, float(np.abs(found.occlusion).max()), "regions covered")
    for ax in (face, pixels, regions):
        ax.set_axis_off()

    probabilities, branches = next(parts).subplots(1, 2)
    colors = [VERMILLION if name == found.label else SKY for name in found.probabilities]
    probabilities.barh(list(found.probabilities), list(found.probabilities.values()), color=colors)
    probabilities.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    probabilities.set(xlim=(0, 1), xlabel="probability")
    amounts = list(found.branches.values())
    names = [f"branch {scale}" for scale in found.branches]
    branches.barh(names, amounts, 0.5, color=[VERMILLION if amount > 0 else BLUE for amount in amounts])
    branches.axvline(0, color=FAINT, linewidth=1)
    branches.set(xlabel="contribution to the log odds", ylim=(-0.75, len(names) - 0.25))
    for ax in (probabilities, branches):
        ax.invert_yaxis()
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x")

    if found.fusions:
        ax = next(parts).subplots()
        _three_marks(
            ax,
            {
                f"branch {f.scale} with {f.other}, " + ("ends" if f.size == END_SIZE else f"maps {f.size}"): f.fractions
                for f in found.fusions
            },
        )
        ax.set(xlabel="fraction of the fusion's sum")

    if near is not None and found.similarities is not None:
        part = next(parts)
        part.suptitle("nearest examples, and the cosine of their features", fontsize=10)
        row = part.subplots(1, len(near), squeeze=False)[0]
        for ax, image, label, cosine in zip(row, near.images, near.labels, found.similarities, strict=True):
            ax.imshow(image, cmap="gray", vmin=0, vmax=255)
            ax.set_axis_off()
            ax.set_title(f"{near.classes[label]}\n{cosine:.2f}", fontsize=9)
    return figure


def _for_and_against(ax: Axes, values: np.ndarray, limit: float, title: str) -> None:
    """A map of signed values, (H, W), white at 0."""
    colors = LinearSegmentedColormap.from_list("for and against", [BLUE, "white", VERMILLION])
    limit = limit or 1.0
    image = ax.imshow(values, cmap=colors, vmin=-limit, vmax=limit)
    ax.set_title(title, fontsize=10)
    bar = ax.figure.colorbar(image, ax=ax, orientation="horizontal", shrink=0.9, pad=0.04, extend="neither")
    bar.ax.xaxis.set_major_locator(MaxNLocator(3, symmetric=True))
    bar.outline.set_visible(False)
