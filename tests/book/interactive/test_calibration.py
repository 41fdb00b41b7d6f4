"""The figures of the chapter on calibration, and what all interactive figures do on paper and without a script."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fertools.evaluation.calibration import apply_temperature, reliability
from fertools.evaluation.metrics import wilson_interval
from fertools.paths import find_run
from fertools.records import Record, load_predictions

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Told = Callable[["Page", str], list[float]]
RELIABILITY, LABELS = "#calibration-before-after", "#calibration-labels"


@pytest.fixture(scope="module")
def expected() -> tuple[Record, np.ndarray, np.ndarray]:
    """The record, the log probabilities on PrivateTest, and the labels."""
    folder = find_run("cpu-fer2013")
    outputs = load_predictions(folder)
    return Record.load(folder), outputs["PrivateTest/single-crop"], outputs["PrivateTest/labels"]


@pytest.fixture
def page(served: str, phone: Page) -> Page:
    phone.goto(served + "book/calibration.html")
    phone.wait_for_selector(f"{LABELS} .interactive")
    return phone


@pytest.mark.parametrize("power", [-1.0, 0.0, 1.5])
def test_temperature(page: Page, told: Told, expected: tuple[Record, np.ndarray, np.ndarray], power: float) -> None:
    _, logs, labels = expected
    page.fill(f"{RELIABILITY} input", str(power))
    scaled = apply_temperature(logs, 2**power)
    p = np.exp(scaled)
    bins = reliability(p, labels, 10)
    confidence, accuracy, error, likelihood = told(page, RELIABILITY)
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
def test_threshold(page: Page, told: Told, expected: tuple[Record, np.ndarray, np.ndarray], threshold: float) -> None:
    record, logs, labels = expected
    page.fill(f"{LABELS} input", str(threshold))
    p = np.exp(apply_temperature(logs, record.temperature or 1.0))
    kept = p.max(1) >= threshold
    coverage, right = told(page, LABELS)
    assert coverage == pytest.approx(100 * kept.mean(), abs=0.06)
    assert right == pytest.approx(100 * (p.argmax(1) == labels)[kept].mean(), abs=0.06)
    for row in page.query_selector_all(f"{LABELS} tr"):
        name, value = row.inner_text().split()[:2]
        of = labels == record.classes.index(name)
        assert float(value) == pytest.approx(100 * kept[of].mean(), abs=0.51)


def test_buttons_and_keyboard(page: Page, told: Told, expected: tuple[Record, np.ndarray, np.ndarray]) -> None:
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
    assert told(page, LABELS) == [58.8, 81.4]


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
