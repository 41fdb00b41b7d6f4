"""The drawings show the network that the configuration describes: shapes are counted against calls of real modules."""

from __future__ import annotations

from collections import Counter

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.axes import Axes

from fertools.evaluation import diagrams
from fertools.models.registry import build
from fertools.network import (
    BasicFeatureExtractionUnit,
    FeatureExtractionModule,
    FeatureFusionModule,
    NetworkConfig,
)
from fertools.recipes import RECIPES

CONFIGS = [
    NetworkConfig(width=4),
    NetworkConfig(width=(2, 3, 4), scales=(12, 24, 48), units=1),
    NetworkConfig(width=4, scales=(24, 48)),
    NetworkConfig(width=4, scales=(48,)),
    NetworkConfig(width=4, scales=(12, 24, 48, 96), kernels=(3,), residual=False),
]


def shapes(ax: Axes, kind: str) -> list[str]:
    return [gid for patch in ax.patches if (gid := patch.get_gid() or "").split()[:1] == [kind]]


def words(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def calls(config: NetworkConfig) -> Counter[tuple[type, int]]:
    """How often each kind of module runs on maps of each size, in a forward pass."""
    seen: Counter[tuple[type, int]] = Counter()
    net = build(config).eval()
    for kind in (FeatureExtractionModule, FeatureFusionModule):
        for module in net.modules():
            if isinstance(module, kind):
                module.register_forward_hook(
                    lambda m, inputs, out, kind=kind: seen.update([(kind, inputs[0].shape[-1])])
                )
    with torch.no_grad():
        net(torch.zeros(1, 1, 48, 48))
    return seen


@pytest.fixture(autouse=True)
def _close() -> object:
    yield
    plt.close("all")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: "-".join(map(str, c.scales)))
def test_every_call_of_a_module_is_drawn(config: NetworkConfig) -> None:
    ax = diagrams.draw_network(config)
    drawn: Counter[tuple[type, int]] = Counter(
        (FeatureExtractionModule, int(gid.split()[-1])) for gid in shapes(ax, "FEM")
    )
    fusions = [gid.split() for gid in shapes(ax, "FFM")]
    drawn.update((FeatureFusionModule, 6 if gid[-2] == "end" else int(gid[-1])) for gid in fusions)
    assert drawn == calls(config)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: "-".join(map(str, c.scales)))
def test_every_branch_that_is_not_48_pixels_is_resampled(config: NetworkConfig) -> None:
    starts = [int(gid.split()[-1]) for gid in shapes(diagrams.draw_network(config), "resample")]
    assert starts == [scale for scale in config.scales if scale != 48]


@pytest.mark.parametrize("recipe", ["paper-fer2013", "cpu-fer2013", "wide-fer2013"])
def test_map_sizes_and_widths_are_written_on_the_drawing(recipe: str) -> None:
    config = RECIPES[recipe].network
    assert isinstance(config, NetworkConfig)
    shown = words(diagrams.draw_network(config))
    for size, channels in config.widths.items():
        assert f"{size}x{size} pixels\n{channels} channels" in shown
    assert f"{config.classes} scores" in shown


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: "-".join(map(str, c.scales)))
def test_no_text_of_the_network_is_cut_off(config: NetworkConfig) -> None:
    ax = diagrams.draw_network(config)
    figure = ax.figure
    figure.canvas.draw()
    page = figure.bbox  # type: ignore[union-attr]
    for text in ax.texts:
        if text.get_text():
            box = text.get_window_extent()
            inside = page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
            assert inside, text.get_text()


@pytest.mark.parametrize("units", [1, 3, 6])
def test_module_has_its_units_and_its_shortcut(units: int) -> None:
    config = NetworkConfig(width=4, units=units)
    module = FeatureExtractionModule(4, config)
    drawn = shapes(diagrams.draw_module(config), "unit")
    assert len(drawn) == sum(isinstance(m, BasicFeatureExtractionUnit) for m in module.modules())
    assert "shortcut" in words(diagrams.draw_module(config))
    assert "shortcut" not in words(diagrams.draw_module(NetworkConfig(width=4, residual=False)))


@pytest.mark.parametrize("kernels", [(5, 3), (3,), (7, 5, 3)])
def test_unit_has_a_lane_for_each_kernel(kernels: tuple[int, ...]) -> None:
    config = NetworkConfig(width=4, kernels=kernels)
    unit = BasicFeatureExtractionUnit(4, config)
    drawn = [int(gid.split()[-1]) for gid in shapes(diagrams.draw_unit(config), "kernel")]
    assert drawn == [conv.kernel_size[0] for conv in unit.convs]  # type: ignore[union-attr,index,misc]


@pytest.mark.parametrize("activation", ["identity", "sigmoid"])
def test_fusion_has_the_sigmoid_only_where_the_network_has_it(activation: str) -> None:
    config = NetworkConfig(width=4, fusion_activation=activation)  # type: ignore[arg-type]
    module = FeatureFusionModule(4, config)
    has = any(isinstance(m, torch.nn.Sigmoid) for m in module.modules())
    ax = diagrams.draw_fusion(config)
    assert ("sigmoid" in words(ax)) == has
    assert len(shapes(ax, "weight")) == len(module.w)
