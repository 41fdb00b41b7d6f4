"""The page's augmentation against the library's own, with the same random numbers in place of its generator's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fertools.data import load
from fertools.recipes import RECIPES, AugmentConfig
from fertools.training.augmentation import augment

if TYPE_CHECKING:
    from playwright.sync_api import Page

FIGURE = "#augment-strong"
CONFIGS = {
    "paper": AugmentConfig(),
    "tuned": RECIPES["tuned-fer2013"].augment,
    "odd": AugmentConfig(flip=0.3, pad=9, rotate=75, zoom=0.85, contrast=0.9, erase=0.6),
}
# The gray levels of the twelve draws, one after the other.
DRAWS = f"""() => {{
  const context = document.querySelector("{FIGURE} .interactive-draws div:last-child canvas").getContext("2d");
  return Array.from({{ length: 12 }}, (_, k) => {{
    const pixels = context.getImageData(50 * (k % 4), 50 * Math.floor(k / 4), 48, 48).data;
    return [...pixels].filter((_, i) => i % 4 === 0);
  }});
}}"""


@pytest.fixture
def page(served: str, phone: Page) -> Page:
    phone.goto(served + "book/augmentation.html")
    phone.wait_for_selector(f"{FIGURE} .interactive")
    return phone


@pytest.fixture
def numbers(page: Page, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The page's random numbers, (12, 11); from here on, PyTorch draws them, too."""
    text = page.eval_on_selector(".page-data[data-kind=augmentation] script", "script => script.textContent")
    numbers = torch.tensor(json.loads(text)["numbers"])
    columns = iter(numbers.T)

    def rand(*shape: int, **_: Any) -> Tensor:
        return torch.stack([next(columns) for _ in range(shape[1] if len(shape) > 1 else 1)], 1).reshape(shape)

    def randint(low: int, high: int, shape: tuple[int, ...], **_: Any) -> Tensor:
        return (low + rand(*shape) * (high - low)).long()

    monkeypatch.setattr(torch, "rand", rand)
    monkeypatch.setattr(torch, "randint", randint)
    return numbers


@pytest.mark.parametrize("name", list(CONFIGS))
def test_draws(page: Page, told: Callable[[Page, str], list[float]], numbers: Tensor, name: str) -> None:
    config = CONFIGS[name]
    strengths = [config.flip, config.pad, config.rotate, config.zoom, config.contrast, config.erase]
    for slider, strength in zip(page.query_selector_all(f"{FIGURE} input"), strengths, strict=True):
        slider.fill(str(strength))
    faces = load("synthetic").of_split("Training")
    face = faces.images[np.flatnonzero(faces.labels == faces.classes.index("happy"))[0]]
    expected = augment(torch.from_numpy(face).expand(12, -1, -1), config, torch.Generator()).numpy()
    shown = np.reshape(page.evaluate(DRAWS), (12, 48, 48))
    assert np.abs(shown - expected).max() <= 2
    sentence = page.inner_text(f"{FIGURE} .interactive-told")
    counts = [int(n) for n in re.findall(r": (\d+)", sentence)]
    assert counts == [int((numbers[:, k] < p).sum()) for k, p in ((2, config.flip), (10, config.erase))]
    assert told(page, FIGURE) == pytest.approx([np.abs(expected - face).mean()], abs=0.11)


def test_buttons_and_keyboard(page: Page) -> None:
    def shown() -> list[str]:
        return page.locator(f"{FIGURE} .interactive-value").all_inner_texts()

    before = page.evaluate(DRAWS)
    page.focus(f"{FIGURE} button >> nth=0")
    page.keyboard.press("Enter")
    assert page.evaluate(DRAWS) != before
    page.focus(f"{FIGURE} button >> nth=2")  # the paper's
    page.keyboard.press("Enter")
    assert shown() == ["50\u00a0%", "±4 px", "±0°", "±0\u00a0%", "±0\u00a0%", "0\u00a0%"]
    page.focus(f"{FIGURE} input >> nth=2")
    page.keyboard.press("ArrowRight")
    assert shown()[2] == "±1°"
