"""A fusion whose weights the reader moves, against equation 5 written out for one channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from fertools.data import load
from fertools.models.weights import load_network
from fertools.paths import find_run

if TYPE_CHECKING:
    from playwright.sync_api import Page

FIGURE, CHANNEL, LIMIT = "#ffm-maps", 8, 3
LEARNED, START, OTHER = (0.80, 0.65, 1.05), (1.0, 1.0, 1.0), (3.0, -1.0, 2.5)
# The gray levels of the output map.
LEVELS = f"""() => {{
  const canvas = [...document.querySelectorAll("{FIGURE} canvas")].at(-1);
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return [...pixels].filter((_, i) => i % 4 === 0);
}}"""


@pytest.fixture(scope="module")
def maps() -> np.ndarray:
    """F1, F2, and Fm of the channel: (3, 48, 48)."""
    net, metadata = load_network(find_run("synthetic") / "model.safetensors")
    faces = load("synthetic").of_split("PublicTest")
    face = faces.images[np.flatnonzero(faces.labels == faces.classes.index("happy"))[8]]
    fusion = dict(net.eval().named_modules())["fuse.2.48"]
    kept: list[np.ndarray] = []
    fusion.register_forward_pre_hook(lambda module, inputs: kept.extend(maps[0].numpy() for maps in inputs))
    with torch.inference_mode():
        net(torch.from_numpy((face.astype(np.float32) - metadata.mean) / metadata.std)[None, None])
    weight = fusion.proj.weight.detach().numpy()[CHANNEL, :, 0, 0]  # type: ignore[union-attr]
    mixed = np.tensordot(weight, np.concatenate(kept), 1) + fusion.proj.bias[CHANNEL].item()  # type: ignore[union-attr,index]
    return np.stack([kept[0][CHANNEL], kept[1][CHANNEL], mixed])


@pytest.fixture
def page(served: str, phone: Page) -> Page:
    phone.goto(served + "book/ffm.html")
    phone.wait_for_selector(f"{FIGURE} .interactive")
    return phone


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("weights", [LEARNED, START, OTHER])
def test_weights(
    page: Page, told: Callable[[Page, str], list[float]], maps: np.ndarray, weights: tuple[float, ...], sigmoid: bool
) -> None:
    for slider, weight in zip(page.query_selector_all(f"{FIGURE} input[type=range]"), weights, strict=True):
        slider.fill(str(weight))
    page.set_checked(f"{FIGURE} input[type=checkbox]", sigmoid)
    output = np.tensordot(weights, maps, 1)
    slope = 1.0
    if sigmoid:
        output = 1 / (1 + np.exp(-output))
        slope = (output * (1 - output)).mean()
    mean, deviation, shown = told(page, FIGURE)
    assert [mean, deviation, shown] == pytest.approx([abs(output.mean()), output.std(), slope], abs=0.002)
    levels = np.clip(255 * (output + LIMIT) / (2 * LIMIT), 0, 255).flatten()
    assert np.abs(page.evaluate(LEVELS) - levels).max() <= 1


def test_buttons_and_keyboard(page: Page) -> None:
    def shown() -> list[str]:
        return page.locator(f"{FIGURE} .interactive-value").all_inner_texts()

    assert shown() == ["0.80", "0.65", "1.03"]  # as learned, and between two steps
    page.focus(f"{FIGURE} input >> nth=1")
    page.keyboard.press("ArrowLeft")
    assert shown()[1] == "0.60"
    page.focus(f"{FIGURE} button >> nth=1")
    page.keyboard.press("Enter")
    assert shown() == ["1.00"] * 3
    assert "slope of the activation is 1.000" in page.inner_text(f"{FIGURE} .interactive-told")
    page.focus(f"{FIGURE} input[type=checkbox]")
    page.keyboard.press("Space")
    assert "slope of the activation is 0." in page.inner_text(f"{FIGURE} .interactive-told")
