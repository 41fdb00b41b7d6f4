"""The paper's figures 1 to 4, drawn from a network's configuration, so that a drawing is never out of date.

One visual language: a rectangle is the stem or the head, a triangle resamples, a rounded box is a unit (BFEU),
a trapezoid is a module that halves its maps (FEM), and a circle fuses two branches (FFM). Each branch has
a color, ``plots.BRANCHES``. Coordinates are inches, so that text fits its shape.

Each function draws into ``ax``, or into a new figure where none is given, and returns the Axes. The shapes have
a ``gid`` that says what they are, such as ``"FEM bottom 48"``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyBboxPatch, Patch, Polygon, Rectangle

from fertools import IMAGE_SIZE
from fertools.evaluation.plots import BRANCHES, FAINT, INK, style
from fertools.network import END_SIZE, NetworkConfig, halvings

WIDTH = 5.5  # inches: the width of a page's figures
PALE = "#f2f2f2"


def branch_names(count: int) -> list[str]:
    """Names of the branches, top branch first, as in the paper; with other numbers of branches, numbered.

    >>> branch_names(3)
    ['top', 'middle', 'bottom']
    """
    known = {1: ["only"], 2: ["top", "bottom"], 3: ["top", "middle", "bottom"]}
    return known.get(count) or [f"branch {k + 1}" for k in range(count)]


def branch_color(index: int, count: int) -> str:
    """The color of a branch: those of the paper's three, from both ends."""
    order = {1: [1], 2: [0, 2], 3: [0, 1, 2]}.get(count)
    return list(BRANCHES.values())[order[index] if order else index % len(BRANCHES)]


@style()
def draw_network(config: NetworkConfig | None = None, ax: Axes | None = None) -> Axes:
    """The whole network, figure 1: a column for each branch, a row for each map size.

    >>> ax = draw_network(NetworkConfig(width=16))
    >>> sum((patch.get_gid() or "").startswith("FEM") for patch in ax.patches)
    9
    """
    config = config or NetworkConfig()
    count, sizes = len(config.scales), [*config.map_sizes, END_SIZE]
    names = branch_names(count)
    step, left = 1.02, 0.62
    column = [left + 0.85 + k * min(1.05, 2.5 / max(count - 1, 1)) for k in range(count)]
    right = column[-1] + 0.5
    row = {size: -k * step for k, size in enumerate(sizes)}
    ends = [row[END_SIZE] - (k + 1) * 0.62 for k in range(count - 1)]
    head = (ends[-1] if ends else row[END_SIZE]) - 0.72
    ax = _canvas(ax, (0, WIDTH), (head - 0.62, 0.72))

    for size in sizes:
        ax.add_patch(Rectangle((0, row[size] - 0.24), WIDTH, 0.48, color=PALE, lw=0, zorder=0))
        channels = config.widths.get(size, config.widths[sizes[-2]])
        label = f"{size}x{size} pixels\n{channels} channels"
        ax.text(right, row[size], label, ha="left", va="center", fontsize=9, color=FAINT)

    # The image and the stem, in the row of its size; from there a line to where each branch starts.
    start = row.get(IMAGE_SIZE, row[sizes[0]])
    trunk = left + 0.02
    _shape(ax, Rectangle((0.04, start - 0.2), 0.5, 0.4), "stem", "stem", PALE, INK)
    _arrow(ax, (0.29, start + 0.52), (0.29, start + 0.2))
    ax.text(0.29, start + 0.54, "image", ha="center", va="bottom", fontsize=9)
    _line(ax, [(0.54, start), (trunk, start)])
    ys = [row[scale] for scale in config.scales]
    _line(ax, [(trunk, max(*ys, start)), (trunk, min(*ys, start))])

    for k, (scale, name) in enumerate(zip(config.scales, names, strict=True)):
        color, x, y = branch_color(k, count), column[k], row[scale]
        _line(ax, [(trunk, y), (x - 0.18, y)])
        if scale != IMAGE_SIZE:
            _resampling(ax, (left + 0.32, y), up=scale > IMAGE_SIZE, gid=f"resample {name} {scale}")
        ax.text(x, max(ys) + 0.56 if count < 4 else y + 0.3, name, ha="center", color=color, weight="bold", va="center")
        above = halvings(config.scales[k - 1]) if k else []
        for size in [*halvings(scale), END_SIZE]:
            y = row[size]
            if size in above:
                _shape(ax, Circle((x, y), 0.21), "FFM", f"FFM {name} {size}", "white", color)
                fused = k > 1 and size in halvings(config.scales[k - 2])  # a circle is wider than a sheet
                _arrow(ax, (column[k - 1] + (0.21 if fused else 0.18), y), (x - 0.21, y), branch_color(k - 1, count))
            else:
                _maps(ax, (x, y), color, f"maps {name} {size}")
            if size == END_SIZE:
                break
            below = size // 2 in above
            _module(ax, (x, y - step / 2), f"FEM {name} {size}", color)
            _arrow(ax, (x, y - (0.21 if size in above else 0.13)), (x, y - step / 2 + 0.17), color)
            _arrow(ax, (x, y - step / 2 - 0.17), (x, y - step + (0.21 if below else 0.18)), color)

    # The ends: the last branch takes in the others, one after the other.
    x, color = column[-1], branch_color(count - 1, count)
    before = row[END_SIZE] - 0.13
    for k, y in enumerate(ends):
        other = branch_color(k, count)
        _line(ax, [(column[k], row[END_SIZE] - 0.13), (column[k], y), (x - 0.5, y)], other)
        _arrow(ax, (x - 0.52, y), (x - 0.21, y), other)
        _shape(ax, Circle((x, y), 0.21), "FFM", f"FFM end {k + 1}", "white", color)
        _arrow(ax, (x, before), (x, y + 0.21), color)
        before = y - 0.21
    text = f"FC {config.hidden}, ReLU, dropout, FC"
    _shape(ax, Rectangle((x - 1.3, head - 0.2), 2.1, 0.4), text, "head", PALE, INK)
    _arrow(ax, (x, before), (x, head + 0.2), color)
    _arrow(ax, (x - 0.25, head - 0.2), (x - 0.25, head - 0.42))
    ax.text(x - 0.25, head - 0.45, f"{config.classes} scores", ha="center", va="top", fontsize=9)
    return ax


@style()
def draw_module(config: NetworkConfig | None = None, ax: Axes | None = None) -> Axes:
    """A feature extraction module (FEM), figure 2: units, the shortcut around them, and max-pooling.

    >>> ax = draw_module(NetworkConfig(units=2))
    >>> [patch.get_gid() for patch in ax.patches if (patch.get_gid() or "").startswith("unit")]
    ['unit 1', 'unit 2']
    """
    config = config or NetworkConfig()
    ax = _canvas(ax, (0, WIDTH), (-0.82, 0.78 if config.residual else 0.45))
    pool, out = WIDTH - 1.02, WIDTH - 0.28
    plus = pool - 0.72
    first, last = 0.78, plus - 0.38
    spacing = (last - first) / config.units
    box = min(0.86, spacing - 0.2)
    _maps(ax, (0.28, 0), INK, "input")
    x = 0.42
    for k in range(config.units):
        center = first + (k + 0.5) * spacing
        _arrow(ax, (x, 0), (center - box / 2, 0))
        patch = FancyBboxPatch((center - box / 2 + 0.06, -0.19), box - 0.12, 0.38, "round,pad=0.06")
        _shape(ax, patch, "BFEU" if box > 0.6 else f"$R_{k + 1}$", f"unit {k + 1}", "white", INK, at=(center, 0))
        if box > 0.6:
            ax.text(center, -0.42, f"$R_{k + 1}$", ha="center", va="center", color=FAINT)
        x = center + box / 2
    if config.residual:
        _arrow(ax, (x, 0), (plus - 0.17, 0))
        _shape(ax, Circle((plus, 0), 0.17), "+", "sum", "white", INK)
        _line(ax, [(0.55, 0), (0.55, 0.5), (plus, 0.5)], FAINT)
        _arrow(ax, (plus, 0.51), (plus, 0.17), FAINT)
        ax.text((0.55 + plus) / 2, 0.54, "shortcut", ha="center", va="bottom", color=FAINT, fontsize=9)
        x = plus + 0.17
    _arrow(ax, (x, 0), (pool - 0.2, 0))
    _shape(ax, Polygon([(pool - 0.2, 0.34), (pool + 0.2, 0.17), (pool + 0.2, -0.17), (pool - 0.2, -0.34)]),
           "", "pool", "white", INK)  # fmt: skip
    ax.text(pool, -0.42, "2x2\nmax-pooling", ha="center", va="top", fontsize=9, color=FAINT, linespacing=1.0)
    _arrow(ax, (pool + 0.2, 0), (out - 0.1, 0))
    _maps(ax, (out, 0), INK, "output", side=0.18)
    for place, text in ((0.28, "$F^{k-1}$"), (out, "$F^{k}$")):
        ax.text(place, -0.28, text, ha="center", va="top")
    return ax


@style()
def draw_unit(config: NetworkConfig | None = None, ax: Axes | None = None) -> Axes:
    """A basic feature extraction unit (BFEU), figure 3: convolutions of several sizes side by side, merged by a 1x1.

    >>> ax = draw_unit(NetworkConfig(kernels=(5, 3)))
    >>> [patch.get_gid() for patch in ax.patches if (patch.get_gid() or "").startswith("kernel")]
    ['kernel 5', 'kernel 3']
    """
    config = config or NetworkConfig()
    lanes = len(config.kernels)
    heights = [0.42 * (lanes - 1) - 0.84 * k for k in range(lanes)]
    ax = _canvas(ax, (0, WIDTH), (min(heights) - 0.5, max(heights) + 0.5))
    layers = {"before": "BN, ReLU", "after": "ReLU, BN", "none": "ReLU"}[config.norm]
    _maps(ax, (0.28, 0), INK, "input")
    join, proj, out = 3.65, 4.42, 5.22
    for kernel, y in zip(config.kernels, heights, strict=True):
        _line(ax, [(0.44, 0), (0.72, 0), (0.72, y)])
        _arrow(ax, (0.72, y), (1.02, y))
        _box(ax, (1.02, y), 0.98, f"{kernel}x{kernel} conv", f"kernel {kernel}")
        _arrow(ax, (2.0, y), (2.2, y))
        _box(ax, (2.2, y), 0.9, layers, f"activation {kernel}")
        ax.text(3.2, y + (0.09 if lanes > 1 else 0.12), f"$Q_{kernel}$", ha="left", va="bottom")
        _line(ax, [(3.1, y), (join, y), (join, 0)])
    _arrow(ax, (join, 0), (proj - 0.32, 0))
    if lanes > 1:
        ax.text(join + 0.06, -0.3, "concatenate", ha="left", va="top", fontsize=9, color=FAINT)
    _box(ax, (proj - 0.32, 0), 0.64, "1x1", "proj")
    _arrow(ax, (proj + 0.32, 0), (out - 0.14, 0))
    _maps(ax, (out, 0), INK, "output")
    for place, text in ((0.28, "$M_{n-1}$"), (out, "$M_n$")):
        ax.text(place, -0.28, text, ha="center", va="top")
    return ax


@style()
def draw_fusion(config: NetworkConfig | None = None, ax: Axes | None = None) -> Axes:
    """A feature fusion module (FFM), figure 4: both inputs and their mixture, each times its weight, added up.

    The sigmoid of equation 5 is drawn if the configuration has it.

    >>> ax = draw_fusion(NetworkConfig(fusion_activation="sigmoid"))
    >>> any(patch.get_gid() == "activation" for patch in ax.patches)
    True
    """
    config = config or NetworkConfig()
    ax = _canvas(ax, (0, WIDTH), (-1.12, 1.12))
    heights = {1: 0.72, 3: 0.0, 2: -0.72}
    weight, plus, out = 2.95, 3.72, 5.2
    for k, y in ((1, heights[1]), (2, heights[2])):
        color = branch_color(k % 2, 2)
        _maps(ax, (0.3, y), color, f"F{k}")
        ax.text(0.3, y - 0.22 if k == 2 else y + 0.22, f"$F_{k}$", ha="center", va="top" if k == 2 else "bottom")
        _arrow(ax, (0.46, y), (weight - 0.2, y), color)
        _line(ax, [(0.85, y), (0.85, 0.08 if k == 1 else -0.08)], color)
        _arrow(ax, (0.85, 0.08 if k == 1 else -0.08), (1.28, 0.08 if k == 1 else -0.08), color)
    _box(ax, (1.28, 0), 0.9, "1x1 conv", "proj")
    _arrow(ax, (2.18, 0), (weight - 0.2, 0))
    ax.text(2.42, 0.06, "$F_m$", ha="center", va="bottom")
    for k, y in heights.items():
        _shape(ax, Circle((weight, y), 0.2), f"$w_{k}$", f"weight {k}", "white", INK)
        if y:
            _line(ax, [(weight + 0.2, y), (plus, y)])
            _arrow(ax, (plus, y), (plus, 0.17 if y > 0 else -0.17))
        else:
            _arrow(ax, (weight + 0.2, 0), (plus - 0.17, 0))
    _shape(ax, Circle((plus, 0), 0.17), "+", "sum", "white", INK)
    parts = (["sigmoid"] if config.fusion_activation == "sigmoid" else []) + (
        ["BN"] if config.fusion_norm != "none" else []
    )
    x = plus + 0.17
    if parts:
        words = ", ".join(reversed(parts) if config.fusion_norm == "before" else parts)
        _arrow(ax, (x, 0), (4.1, 0))
        _box(ax, (4.1, 0), 0.78, words, "activation", fontsize=9)
        x = 4.88
    _arrow(ax, (x, 0), (out - 0.14, 0))
    _maps(ax, (out, 0), INK, "output")
    ax.text(out, -0.22, "$F_{out}$", ha="center", va="top")
    return ax


# --- Shapes -----------------------------------------------------------------------------------


def _canvas(ax: Axes | None, x: tuple[float, float], y: tuple[float, float]) -> Axes:
    if ax is None:
        figure = plt.figure(figsize=(x[1] - x[0], y[1] - y[0]), layout="none")
        ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=x, ylim=y, aspect="equal")
    ax.axis("off")
    return ax


def _shape(
    ax: Axes,
    patch: Patch,
    text: str,
    gid: str,
    face: str,
    edge: str,
    at: tuple[float, float] | None = None,
    **font: Any,
) -> None:
    patch.set(facecolor=face, edgecolor=edge, linewidth=1.6, gid=gid, zorder=3)
    ax.add_patch(patch)
    if at is None:
        box = patch.get_path().transformed(patch.get_patch_transform()).get_extents()
        at = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    if text:
        ax.text(*at, text, ha="center", va="center", zorder=4, **{"fontsize": 10, **font})


def _box(ax: Axes, middle_left: tuple[float, float], width: float, text: str, gid: str, **font: Any) -> None:
    x, y = middle_left
    _shape(ax, Rectangle((x, y - 0.2), width, 0.4), text, gid, "white", INK, **font)


def _maps(ax: Axes, center: tuple[float, float], color: str, gid: str, side: float = 0.26) -> None:
    """Feature maps: two sheets behind each other."""
    x, y = center
    for shift in (0.05, 0.0):
        patch = Rectangle((x - side / 2 + shift, y - side / 2 + shift), side, side, facecolor="white", zorder=2)
        patch.set(edgecolor=color, linewidth=1.6, gid=gid if not shift else None)
        ax.add_patch(patch)


def _module(ax: Axes, center: tuple[float, float], gid: str, color: str) -> None:
    x, y = center
    corners = [(x - 0.34, y + 0.17), (x + 0.34, y + 0.17), (x + 0.2, y - 0.17), (x - 0.2, y - 0.17)]
    _shape(ax, Polygon(corners), "FEM", gid, color, color, color="white", weight="bold", fontsize=9)


def _resampling(ax: Axes, center: tuple[float, float], up: bool, gid: str) -> None:
    x, y = center
    tip = 0.16 if up else -0.16
    _shape(ax, Polygon([(x - 0.15, y - tip / 1.4), (x + 0.15, y - tip / 1.4), (x, y + tip)]), "", gid, "white", INK)


def _arrow(ax: Axes, tail: tuple[float, float], tip: tuple[float, float], color: str = INK) -> None:
    ax.annotate("", tip, tail, arrowprops={"arrowstyle": "-|>", "color": color, "lw": 1.4, "shrinkA": 0, "shrinkB": 0})


def _line(ax: Axes, points: Sequence[tuple[float, float]], color: str = INK) -> None:
    ax.plot(*zip(*points, strict=True), color=color, lw=1.4, solid_joinstyle="round", zorder=1)
