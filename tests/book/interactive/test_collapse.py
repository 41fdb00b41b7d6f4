"""The first steps of two trainings, against the same trainings run here."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fertools.data import load
from fertools.network import MultiScaleFusionNet, NetworkConfig

if TYPE_CHECKING:
    from playwright.sync_api import Page

FIGURE = "#ffm-collapse"
STEPS = (0, 30, 60)
Trained = tuple[dict[int, Tensor], np.ndarray, np.ndarray]  # outputs of the last fusion by step, gradients, losses


def train(activation: str) -> Trained:
    """The chapter's training with momentum and weight decay written out, up to the last of :data:`STEPS`."""
    people = load("synthetic").of_split("Training")
    rows = [np.flatnonzero(people.labels == people.classes.index(name))[:150] for name in ("happy", "surprise")]
    x = torch.from_numpy(people.images[np.concatenate(rows)]).float()[:, None]
    x, y = (x - x.mean()) / x.std(), torch.tensor([0] * 150 + [1] * 150)
    torch.manual_seed(0)
    config = NetworkConfig(classes=2, width=8, units=1, scales=(12, 24, 48), fusion_activation=activation)  # type: ignore[arg-type]
    net = MultiScaleFusionNet(config)
    parameters = list(net.parameters())
    velocities = [torch.zeros_like(p) for p in parameters]
    outputs: dict[int, Tensor] = {}
    net.fuse_ends[-1].register_forward_hook(lambda m, i, out: outputs.__setitem__(-1, out))
    order = torch.Generator().manual_seed(0)
    gradients, losses = [], []
    for step in range(STEPS[-1] + 1):
        if step in STEPS:
            with torch.no_grad():
                net.eval()(x[::3])
            net.train()
            outputs[step] = outputs[-1].flatten(1)
        batch = torch.randperm(300, generator=order)[:16]
        loss = F.cross_entropy(net(x[batch]), y[batch])
        slopes = torch.autograd.grad(loss, parameters)
        gradients.append(slopes[0].square().sum().sqrt().item())  # the first layer's weights come first
        losses.append(loss.item())
        with torch.no_grad():
            for p, v, slope in zip(parameters, velocities, slopes, strict=True):
                v.mul_(0.9).add_(slope + 5e-4 * p)
                p.sub_(1e-4 * v)
    return outputs, np.array(gradients), np.array(losses)


@pytest.fixture(scope="module")
def expected() -> tuple[Trained, Trained]:
    return train("sigmoid"), train("identity")


@pytest.fixture
def page(served: str, phone: Page) -> Page:
    phone.goto(served + "book/ffm.html")
    phone.wait_for_selector(f"{FIGURE} .interactive")
    return phone


def step(page: Page) -> int:
    return int(page.inner_text(f"{FIGURE} .interactive-value"))


@pytest.mark.parametrize("at", STEPS)
def test_steps(
    page: Page, told: Callable[[Page, str], list[float]], expected: tuple[Trained, Trained], at: int
) -> None:
    page.fill(f"{FIGURE} input", str(at))
    numbers = np.reshape(told(page, FIGURE), (2, 3))
    areas = [path.get_attribute("d") or "" for path in page.query_selector_all(f"{FIGURE} .interactive-area")]
    for (outputs, gradients, losses), shown, area in zip(expected, numbers, areas, strict=True):
        means = [values[max(0, at - 29) : at + 1].mean() for values in (gradients, losses)]
        assert shown == pytest.approx([outputs[at].std(0).mean().item(), *means], rel=0.02, abs=0.001)
        density = np.histogram(outputs[at].numpy(), np.linspace(-3, 6, 91), density=True)[0]
        heights = [(152 - float(y)) / 132 * 4 for y in re.findall(r"V([\d.]+)H", area)]
        assert heights == pytest.approx(np.minimum(4, density), abs=0.15)


def test_keyboard_moves_and_plays(page: Page) -> None:
    page.focus(f"{FIGURE} input")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert step(page) == 12
    page.focus(f"{FIGURE} button")
    page.keyboard.press("Enter")
    assert page.inner_text(f"{FIGURE} button") == "Pause"
    for _ in range(100):
        if step(page) > 12:
            break
        page.wait_for_timeout(50)
    page.keyboard.press("Enter")
    stopped = step(page)
    page.wait_for_timeout(300)
    assert 12 < step(page) == stopped < 234
    assert page.inner_text(f"{FIGURE} button") == "Play"


def test_with_reduced_motion_play_jumps(page: Page) -> None:
    page.emulate_media(reduced_motion="reduce")
    page.click(f"{FIGURE} button")
    assert step(page) == 234
    page.click(f"{FIGURE} button")
    assert step(page) == 0
