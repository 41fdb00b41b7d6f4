"""The figures that a reader can move: what they show against Python, by mouse and keyboard, and without a script."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from fertools.evaluation.calibration import apply_temperature, reliability
from fertools.evaluation.interactive import PageData, pack_log_probabilities
from fertools.evaluation.metrics import wilson_interval
from fertools.network import MultiScaleFusionNet, NetworkConfig
from fertools.paths import find_run
from fertools.records import Record, load_predictions

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

RELIABILITY, LABELS = "#calibration-before-after", "#calibration-labels"


def test_data_cannot_close_its_element() -> None:
    shown = PageData("any", {"text": "</script><script>alert(1)"})._repr_html_()
    assert shown.count("<script") == shown.count("</script") == 1
    assert json.loads(re.sub("<.*?>", "", shown)) == {"text": "</script><script>alert(1)"}


def test_packed_numbers_are_within_half_a_thousandth() -> None:
    logs = np.log(np.random.default_rng(0).dirichlet(np.full(7, 0.3), 200))
    read = np.frombuffer(base64.b64decode(pack_log_probabilities(logs)), "<i2").reshape(200, 7) / 1000
    assert np.abs(read - np.maximum(logs, -32)).max() <= 0.0005 + 1e-9


@pytest.fixture(scope="module")
def expected() -> tuple[Record, np.ndarray, np.ndarray]:
    """The record, the log probabilities on PrivateTest, and the labels."""
    folder = find_run("cpu-fer2013")
    outputs = load_predictions(folder)
    return Record.load(folder), outputs["PrivateTest/single-crop"], outputs["PrivateTest/labels"]


@pytest.fixture
def page(served: str, chromium: Browser) -> Iterator[Page]:
    page = chromium.new_page(viewport={"width": 390, "height": 844})
    page.goto(served + "book/calibration.html")
    page.wait_for_selector(f"{LABELS} .interactive")
    yield page
    page.close()


def numbers(page: Page, figure: str) -> list[float]:
    """The numbers in the sentence below a figure."""
    return [float(n) for n in re.findall(r"\d+\.\d+", page.inner_text(f"{figure} .interactive-told"))]


@pytest.mark.parametrize("power", [-1.0, 0.0, 1.5])
def test_temperature(page: Page, expected: tuple[Record, np.ndarray, np.ndarray], power: float) -> None:
    _, logs, labels = expected
    page.fill(f"{RELIABILITY} input", str(power))
    scaled = apply_temperature(logs, 2**power)
    p = np.exp(scaled)
    bins = reliability(p, labels, 10)
    confidence, accuracy, error, likelihood = numbers(page, RELIABILITY)
    assert confidence == pytest.approx(100 * p.max(1).mean(), abs=0.06)
    assert accuracy == pytest.approx(100 * (p.argmax(1) == labels).mean(), abs=0.06)
    assert error == pytest.approx(100 * bins.error, abs=0.11)
    assert likelihood == pytest.approx(-scaled[np.arange(len(labels)), labels].mean(), abs=0.001)

    paths = [path.get_attribute("d") for path in page.query_selector_all(f"{RELIABILITY} .interactive-interval")]
    assert len(paths) == (bins.counts > 0).sum()
    fullest = int(np.argmax(bins.counts))
    _, low, high = map(float, re.findall(r"[\d.]+", paths[int((bins.counts[:fullest] > 0).sum())] or ""))
    assert [(268 - low) / 260, (268 - high) / 260] == pytest.approx(
        wilson_interval(int(bins.correct[fullest]), int(bins.counts[fullest])), abs=0.005
    )


@pytest.mark.parametrize("threshold", [0.3, 0.55, 0.9])
def test_threshold(page: Page, expected: tuple[Record, np.ndarray, np.ndarray], threshold: float) -> None:
    record, logs, labels = expected
    page.fill(f"{LABELS} input", str(threshold))
    p = np.exp(apply_temperature(logs, record.temperature or 1.0))
    kept = p.max(1) >= threshold
    coverage, right = numbers(page, LABELS)
    assert coverage == pytest.approx(100 * kept.mean(), abs=0.06)
    assert right == pytest.approx(100 * (p.argmax(1) == labels)[kept].mean(), abs=0.06)
    for row in page.query_selector_all(f"{LABELS} tr"):
        name, value = row.inner_text().split()[:2]
        of = labels == record.classes.index(name)
        assert float(value) == pytest.approx(100 * kept[of].mean(), abs=0.51)


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
def test_receptive_field(served: str, chromium: Browser, row: int, window: int, units: int, module: int) -> None:
    page = chromium.new_page(viewport={"width": 390, "height": 844})
    page.goto(served + "book/bfeu.html")
    page.wait_for_selector("#bfeu-face .interactive")
    for label, value in {"Row": row, "Widest window": window, "Units in a module": units, "Module": module}.items():
        page.get_by_label(label, exact=False).locator("visible=true").last.fill(str(value))
    told = dict(re.findall(r"(\w+): \d+x(\d+) pixels", page.inner_text("#bfeu-face .interactive-branches")))
    assert {name: int(size) for name, size in told.items()} == {
        name: measured_field(name, row, window, units, module) for name in SCALES
    }
    page.close()


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


def test_buttons_and_keyboard(page: Page, expected: tuple[Record, np.ndarray, np.ndarray]) -> None:
    record, *_ = expected
    value = f"{RELIABILITY} .interactive-value"
    assert page.inner_text(value) == "1.00"
    page.click(f"{RELIABILITY} button >> nth=1")
    assert page.inner_text(value) == f"{record.temperature:.2f}"
    page.click(f"{RELIABILITY} button >> nth=0")
    page.focus(f"{RELIABILITY} input")
    page.keyboard.press("ArrowRight")
    assert page.inner_text(value) == "1.01"
    assert "at temperature 1.01" in (page.get_attribute(f"{RELIABILITY} svg", "aria-label") or "")
    # The chosen threshold is where the figure starts; its sentence is the chapter's.
    assert numbers(page, LABELS) == [58.8, 81.4]


def test_on_paper_and_without_a_script_the_figure_is_still(page: Page, served: str, chromium: Browser) -> None:
    image = page.locator(f"{RELIABILITY} img")
    assert not image.is_visible()
    page.emulate_media(media="print")
    assert image.is_visible()
    assert not page.locator(f"{RELIABILITY} .interactive").is_visible()
    silent = chromium.new_page(java_script_enabled=False)
    silent.goto(served + "book/calibration.html")
    assert silent.locator(f"{RELIABILITY} img").is_visible()
    silent.close()


def test_it_runs_from_a_disk(built: Path, chromium: Browser) -> None:
    page = chromium.new_page()
    page.goto((built / "book" / "calibration.html").as_uri())
    page.wait_for_selector(f"{LABELS} .interactive")
    page.close()


def test_data_take_no_room_in_either_theme(page: Page) -> None:
    for theme in ("light", "dark"):
        page.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
        cells = page.locator(".cell:has(.page-data)").all()
        assert [cell.evaluate("cell => cell.offsetHeight") for cell in cells] == [0]
