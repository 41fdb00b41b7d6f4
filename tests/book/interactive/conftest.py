from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="session")
def told() -> Callable[[Page, str], list[float]]:
    """A function of a page and a figure: the numbers with decimals in the sentence below the figure."""
    return lambda page, figure: [
        float(number) for number in re.findall(r"-?\d+\.\d+", page.inner_text(f"{figure} .interactive-told"))
    ]


@pytest.fixture
def phone(chromium: Browser) -> Iterator[Page]:
    """A page as wide as a phone; whatever a test does there, nothing may become wider."""
    page = chromium.new_page(viewport={"width": 390, "height": 844})
    yield page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
