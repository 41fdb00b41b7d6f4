"""What an output pixel sees, against the gradient of a random network."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import torch

from fertools.network import MultiScaleFusionNet, NetworkConfig

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SCALES = {"top": 24, "middle": 48, "bottom": 96}


def measured_field(name: str, row: int, kernel: int, units: int, module: int) -> int:
    """How many image rows an output pixel depends on: where its gradient in a random network isn't zero."""
    torch.manual_seed(0)
    kernels = (kernel, 3) if kernel > 3 else (3,)
    net = MultiScaleFusionNet(NetworkConfig(width=8, units=units, kernels=kernels)).eval()
    scale = SCALES[name]
    image = torch.randn(8, 1, 48, 48, requires_grad=True)
    maps = net.resample[str(scale)](net.stem(image))
    for earlier in range(module):
        if earlier:
            maps = torch.nn.functional.max_pool2d(maps, 2)
        for unit in net.extract[str(scale >> earlier)][0].units:
            maps = unit(maps)
    height = maps.shape[2]
    maps[:, :, row * height // 48, height // 2].sum().backward()
    assert image.grad is not None
    return int((image.grad.abs().sum((0, 1, 3)) > 0).sum())


@pytest.mark.parametrize(("row", "window", "units", "module"), [(25, 5, 3, 1), (24, 3, 2, 2), (2, 7, 1, 1)])
def test_receptive_field(served: str, phone: Page, row: int, window: int, units: int, module: int) -> None:
    phone.goto(served + "book/bfeu.html")
    phone.wait_for_selector("#bfeu-face .interactive")
    for label, value in {"Row": row, "Widest window": window, "Units in a module": units, "Module": module}.items():
        phone.get_by_label(label, exact=False).locator("visible=true").last.fill(str(value))
    told = dict(re.findall(r"(\w+): \d+x(\d+) pixels", phone.inner_text("#bfeu-face .interactive-branches")))
    assert {name: int(size) for name, size in told.items()} == {
        name: measured_field(name, row, window, units, module) for name in SCALES
    }


def test_pointing_at_the_face(served: str, chromium: Browser) -> None:
    page = chromium.new_page(viewport={"width": 1280, "height": 844})
    page.goto(served + "book/bfeu.html")
    face = page.locator("#bfeu-face svg")
    face.scroll_into_view_if_needed()
    box = face.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 10.5 / 48, box["y"] + box["height"] * 40.5 / 48)
    values = [page.input_value(f"#bfeu-face input >> nth={i}") for i in (0, 1)]
    assert values == ["10", "40"]
    page.close()
