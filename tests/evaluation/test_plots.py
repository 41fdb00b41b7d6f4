from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from fertools.data.synthetic import accuracy_by
from fertools.evaluation import plots
from fertools.evaluation.calibration import reliability, risk_coverage
from fertools.evaluation.metrics import wilson_interval
from fertools.models.registry import build
from fertools.network import FeatureFusionModule, MultiScaleFusionNet, NetworkConfig

CLASSES = ("anger", "happy", "sad")
COUNTS = np.array([[8, 1, 1], [50, 1000, 200], [0, 0, 0]])
ABLATION = pd.DataFrame(
    [
        ("better", 2.0, 1.0, 3.0),
        ("baseline", 0.0, 0.0, 0.0),
        ("worse", -2, -3, -1),
        ("even", 1, -1, 3),
        ("lost", -78, -80, -75),
    ],
    columns=["variant", "difference", "low", "high"],
)


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def texts(ax: Any) -> list[str]:
    return [t.get_text() for t in ax.texts]


def ticks(axis: mpl.axis.Axis) -> list[str]:
    return [t.get_text() for t in axis.get_ticklabels()]


def contrast(a: str | tuple, b: str | tuple) -> float:
    """WCAG 2.2 contrast ratio, written out channel by channel."""

    def luminance(color: str | tuple) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def every_figure() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    net = MultiScaleFusionNet(NetworkConfig(width=2, units=1, hidden=8))
    history = [{"epoch": 1, "loss": 1.0, "train_accuracy": 0.4, "validation_accuracy": 0.3, "learning_rate": 0.1}]
    return {
        "confusion_matrix": plots.confusion_matrix(COUNTS, CLASSES).figure,
        "learning_curves": plots.learning_curves(history, 1)[0].figure,
        "reliability_diagram": plots.reliability_diagram(
            reliability(rng.dirichlet(np.ones(3), 50), rng.integers(0, 3, 50))
        ).figure,
        "risk_coverage_curve": plots.risk_coverage_curve(
            risk_coverage(rng.dirichlet(np.ones(3), 50), rng.integers(0, 3, 50)), threshold=0.5
        ).figure,
        "class_recall": plots.class_recall(COUNTS, CLASSES).figure,
        "accuracy_by": plots.accuracy_by(accuracy_by(np.ones(6, bool), list("aabbcc")), "a letter", label="x").figure,
        "differences": plots.differences(ABLATION, {"a question": ["worse", "lost"]}).figure,
        "fusion_weights": plots.fusion_weights(net).figure,
    }


def test_every_figure_has_its_own_page_and_letters_that_a_phone_can_show() -> None:
    before = dict(mpl.rcParams)
    for name, figure in every_figure().items():
        figure.canvas.draw()
        assert figure.get_facecolor()[:3] == (1, 1, 1), name
        assert 5 <= figure.get_figwidth() <= 6, name
        shown = [t for t in figure.findobj(mpl.text.Text) if t.get_text() and t.get_visible()]
        assert min(t.get_fontsize() for t in shown) >= 9, name
        assert all(ax.get_xlabel() or ax is not figure.axes[-1] for ax in figure.axes), name
    assert dict(mpl.rcParams) == before  # the style ends with the function


def test_no_letter_leaves_the_figure() -> None:
    for name, figure in every_figure().items():
        figure.canvas.draw()
        page = figure.bbox
        for ax in figure.axes:
            box = ax.get_tightbbox()
            assert box.x0 >= page.x0, name
            assert box.x1 <= page.x1, name
            assert box.y0 >= page.y0, name
            assert box.y1 <= page.y1, name


# --- confusion matrix -------------------------------------------------------------------------


def test_confusion_matrix_shows_percent_and_count_of_each_cell() -> None:
    ax: Any = plots.confusion_matrix(COUNTS, CLASSES, title="PrivateTest")
    assert texts(ax) == (["80%", "8", "10%", "1", "10%", "1"] + ["4%", "50", "80%", "1,000", "16%", "200"] + ["–"] * 3)
    where = {t.get_text(): t.get_position() for t in ax.texts}
    assert where["16%"] == pytest.approx((2, 1), abs=0.1)  # true class down, predicted across
    np.testing.assert_allclose(ax.images[0].get_array()[:2], COUNTS[:2] / COUNTS[:2].sum(1, keepdims=True))
    assert ticks(ax.xaxis) == ticks(ax.yaxis) == list(CLASSES)
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("predicted", "true", "PrivateTest")


def test_confusion_matrix_of_counts() -> None:
    ax: Any = plots.confusion_matrix(COUNTS.tolist(), CLASSES, rates=False)
    assert texts(ax) == ["8", "1", "1", "50", "1,000", "200", "0", "0", "0"]
    np.testing.assert_array_equal(ax.images[0].get_array(), COUNTS)


def test_confusion_matrix_is_legible_and_falls_in_lightness() -> None:
    rates = np.linspace(0, 1, 101)
    ax: Any = plots.confusion_matrix(np.diag(np.full(3, 5)), CLASSES)
    colors = ax.images[0].to_rgba(rates)
    assert min(contrast(plots._ink_on(c), tuple(c[:3])) for c in colors) >= 4.5  # WCAG AA
    from_white = [contrast("white", tuple(c[:3])) for c in colors]
    assert (np.diff(from_white) > 0).all()
    for row in range(3):
        for column in range(3):
            ground = ax.images[0].to_rgba(float(row == column))
            at = [t for t in ax.texts if np.allclose(t.get_position(), (column, row), atol=0.1)]
            assert len(at) == 2
            assert min(contrast(t.get_color(), tuple(ground[:3])) for t in at) >= 4.5


@pytest.mark.parametrize("draw", [plots.confusion_matrix, plots.class_recall])
def test_counts_must_fit_the_classes(draw: Callable[..., Axes]) -> None:
    with pytest.raises(ValueError, match=r"2 classes need counts of shape \(2, 2\), not \(3, 3\)"):
        draw(COUNTS, CLASSES[:2])


# --- learning curves --------------------------------------------------------------------------

HISTORY: list[dict[str, Any]] = [
    {"epoch": 1, "loss": 1.5, "train_accuracy": 0.4, "validation_accuracy": 0.35, "learning_rate": 0.01},
    {"epoch": 2, "loss": 1.2, "train_accuracy": 0.5, "validation_accuracy": None, "learning_rate": 0.02},
    {"epoch": 3, "loss": 1.0, "train_accuracy": 0.6, "validation_accuracy": 0.55, "learning_rate": 0.01},
]


def curves(ax: Any) -> dict[str, list[tuple[float, float]]]:
    return {line.get_label(): list(map(tuple, line.get_xydata())) for line in ax.lines}


def test_learning_curves_draw_the_history_and_mark_the_epoch() -> None:
    axes: Any = plots.learning_curves(HISTORY, selected=3, title="a run")
    accuracy, loss, rate = axes
    drawn = curves(accuracy)
    assert drawn["training"] == [(1, 0.4), (2, 0.5), (3, 0.6)]
    assert drawn["validation"] == [(1, 0.35), (3, 0.55)]  # the epoch that was not validated is left out
    assert drawn["epoch 3: 55.0%"] == [(3, 0.55)]
    assert curves(loss)["training"] == [(1, 1.5), (2, 1.2), (3, 1.0)]
    assert curves(rate)["learning rate"] == [(1, 0.01), (2, 0.02), (3, 0.01)]
    assert accuracy.get_title() == "a run"
    for ax in axes:  # the line of the selected epoch
        assert any(line.get_linestyle() == ":" and list(line.get_xydata()[:, 0]) == [3, 3] for line in ax.lines)


def test_learning_curves_without_a_validation_set() -> None:
    history = [{**entry, "validation_accuracy": None} for entry in HISTORY]
    accuracy, *_ = plots.learning_curves(history)
    assert list(curves(accuracy)) == ["training"]


def test_learning_curves_into_given_axes() -> None:
    _, axes = plt.subplots(3)
    assert plots.learning_curves(HISTORY, axes=axes) == list(axes)


def test_learning_curves_refuse() -> None:
    with pytest.raises(ValueError, match="no epoch has ended"):
        plots.learning_curves([])
    with pytest.raises(ValueError, match="epoch 7 was selected, but the history runs from 1 to 3"):
        plots.learning_curves(HISTORY, selected=7)


# --- reliability, recall ----------------------------------------------------------------------


def test_reliability_diagram_has_a_bar_for_each_bin_with_images() -> None:
    p = np.array([[0.6, 0.4]] * 10 + [[0.05, 0.95]] * 10)
    labels = np.array([0] * 5 + [1] * 5 + [1] * 9 + [0])
    bins = reliability(p, labels, bins=10)
    ax: Any = plots.reliability_diagram(bins, title="before")
    assert [(b.get_x(), b.get_width(), b.get_height()) for b in ax.patches] == [
        pytest.approx((0.5, 0.1, 0.5)),
        pytest.approx((0.9, 0.1, 0.9)),
    ]
    (segments,) = (c.get_segments() for c in ax.collections)
    np.testing.assert_allclose(segments[1][:, 1], wilson_interval(9, 10), atol=1e-9)
    assert ax.get_legend().get_title().get_text() == "calibration error 7.5%"  # (0.1 + 0.05) / 2
    assert ax.get_title() == "before"


def test_class_recall_draws_bars_with_wilson_intervals() -> None:
    _, given = plt.subplots()
    ax: Any = plots.class_recall(COUNTS, CLASSES, ax=given)
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([0.8, 0.8])
    assert texts(ax) == ["80.0%", "80.0%"]
    assert ticks(ax.yaxis) == ["anger (10)", "happy (1,250)", "sad (0)"]
    assert ax.yaxis_inverted()
    (segments,) = (c.get_segments() for c in ax.collections)
    np.testing.assert_allclose(segments[0][:, 0], wilson_interval(8, 10), atol=1e-9)
    np.testing.assert_allclose(segments[1][:, 0], wilson_interval(1000, 1250), atol=1e-9)
    assert ax is given


def test_class_recall_of_all_and_none() -> None:
    ax: Any = plots.class_recall([[5, 0], [5, 0]], ("a", "b"))
    assert texts(ax) == ["100.0%", "0.0%"]
    assert texts(plots.class_recall([[0, 0], [0, 0]], ("a", "b"))) == []


def test_accuracy_by_draws_a_curve_over_numbers_with_wilson_intervals() -> None:
    right = np.array([True] * 9 + [False] + [True] * 3 + [False] * 7)
    ax: Any = plots.accuracy_by(accuracy_by(right, np.repeat([10.0, 30.0], 10), [0, 20, 40]), "turn, degrees")
    line, _, (bars,) = ax.containers[0]
    np.testing.assert_allclose(line.get_xydata(), [[10, 0.9], [30, 0.3]])
    assert line.get_linestyle() == "-"
    for segment, good in zip(bars.get_segments(), (9, 3), strict=True):
        np.testing.assert_allclose(segment[:, 1], wilson_interval(good, 10), atol=1e-9)
    assert ax.get_xlabel() == "turn, degrees"
    assert ax.get_legend() is None


def test_accuracy_by_lines_up_words_of_two_networks() -> None:
    words = np.array(["none"] * 4 + ["hand"] * 4)
    ax: Any = plots.accuracy_by(accuracy_by(np.ones(8, bool), words), "hidden by", label="a")
    part = words == "none"  # the second network was not tested on hands
    assert plots.accuracy_by(accuracy_by(np.zeros(4, bool), words[part]), "hidden by", ax, "both", "b") is ax
    (first, *_), (second, *_) = ax.containers
    assert ticks(ax.xaxis) == ["hand", "none"]
    np.testing.assert_allclose(first.get_xydata(), [[0, 1], [1, 1]])
    np.testing.assert_allclose(second.get_xydata(), [[1, 0]])
    assert first.get_linestyle() == "None"
    assert (first.get_color(), first.get_marker()) != (second.get_color(), second.get_marker())
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a", "b"]
    assert all(line.get_visible() for line in ax.get_ygridlines())
    assert ax.get_title() == "both"


# --- risk and coverage --------------------------------------------------------------------------


def test_risk_coverage_curve_marks_the_threshold() -> None:
    top = np.array([0.9, 0.8, 0.7, 0.6])  # right, wrong, right, wrong
    curve = risk_coverage(np.stack([top, 1 - top], 1), np.array([0, 1, 0, 1]))
    ax: Any = plots.risk_coverage_curve(curve, threshold=0.65, title="PublicTest")
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[0.25, 0], [0.5, 1 / 2], [0.75, 1 / 3], [1, 1 / 2]])
    np.testing.assert_allclose(ax.lines[1].get_xydata(), [[0.75, 1 / 3]])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["threshold 0.65: coverage 75.0%, accuracy 66.7%"]
    assert plots.risk_coverage_curve(curve).get_legend() is None
    with pytest.raises(ValueError, match="no image reaches the threshold 0.95; the highest is 0.9"):
        plots.risk_coverage_curve(curve, threshold=0.95)


# --- fusion weights ---------------------------------------------------------------------------


def test_fusion_weights_shows_three_points_for_every_module() -> None:
    net = MultiScaleFusionNet(NetworkConfig(width=2, units=1, hidden=8))
    modules = [m for m in net.modules() if isinstance(m, FeatureFusionModule)]
    for i, module in enumerate(modules):
        module.w.data = torch.tensor([i, i + 0.25, -i])
    ax: Any = plots.fusion_weights(net, title="after 60 epochs")
    points = [line for line in ax.lines if line.get_label().startswith("w")]
    for column, line in enumerate(points):
        np.testing.assert_allclose(line.get_xdata(), [m.w[column].item() for m in modules])
    assert [t.get_text()[:2] for t in ax.get_legend().get_texts()] == ["w1", "w2", "w3"]
    assert ticks(ax.yaxis) == [
        "branch 48, maps 24",
        "branch 48, maps 12",
        "branch 96, maps 48",
        "branch 96, maps 24",
        "branch 96, maps 12",
        "end, with branch 24",
        "end, with branch 48",
    ]
    assert ax.get_title() == "after 60 epochs"


@pytest.mark.parametrize("config", [{"fusion": "add"}, {"scales": (48,)}])
def test_fusion_weights_needs_some(config: dict[str, Any]) -> None:
    net = build(NetworkConfig(width=2, units=1, hidden=8, **config))
    with pytest.raises(ValueError, match="no fusion weights to draw"):
        plots.fusion_weights(net)


def test_a_notebook_keeps_showing_figures_after_the_first() -> None:
    """In a kernel of its own, as Jupyter runs a page: every cell that draws shows its figure."""
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell, new_notebook

    draw = "from fertools.evaluation import plots; plots.class_recall([[3, 1], [1, 3]], ('happy', 'sad'));"
    notebook = new_notebook(cells=[new_code_cell(draw), new_code_cell(draw)])
    NotebookClient(notebook, kernel_name="python3").execute()
    for cell in notebook.cells:
        assert any("image/png" in output.get("data", {}) for output in cell.outputs)


# --- differences ------------------------------------------------------------------------------


def test_differences_fill_what_excludes_zero_and_write_what_leaves_the_axis() -> None:
    ax = plots.differences(ABLATION)
    assert ticks(ax.yaxis) == ["better", "worse", "even", "lost"]
    marks = {
        round(float(x)): line for line in ax.lines for x in np.ravel(line.get_xdata())[:1] if line.get_marker() == "o"
    }
    assert marks[1].get_markerfacecolor() == "white"
    for place in (2, -2):
        assert marks[place].get_markerfacecolor() == marks[place].get_color() != marks[1].get_color()
    assert texts(ax) == ["\N{MINUS SIGN}78.0"]
    assert ax.get_xlim()[0] > -11


def test_differences_are_grouped_under_headings() -> None:
    groups = {"first": ["even", "not run"], "nothing yet": ["not run"], "second": ["worse"]}
    ax = plots.differences(ABLATION, groups)
    assert ticks(ax.yaxis) == ["first", "even", "second", "worse"]
    assert [t.get_fontweight() for t in ax.get_yticklabels()] == ["bold", "normal", "bold", "normal"]


def test_labeled_faces_show_the_most_probable_labels_first() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(5), size=3)
    names = list("abcde")
    figure = plots.labeled_faces(rng.integers(0, 256, (3, 48, 48), np.uint8), p, names, threshold=p.max(1)[1], top=4)
    faces, bars = figure.axes[:3], figure.axes[3:]
    expected = [names[row.argmax()] if row.max() >= p.max(1)[1] else "unsure" for row in p]
    assert [ax.get_title() for ax in faces] == expected
    for ax, row in zip(bars, p, strict=True):
        lengths = [bar.get_width() for bar in ax.patches]  # type: ignore[attr-defined]
        assert lengths == sorted(row.tolist(), reverse=True)[:4]
        shown = [text.get_text().split()[0] for text in ax.texts]
        assert shown == sorted(names, key=lambda name: -row[names.index(name)])[:4]
