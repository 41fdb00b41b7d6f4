from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture(scope="session")
def told() -> Callable[[Page, str], list[float]]:
    """A function of a page and a figure: the numbers with decimals in the sentence below the figure."""
    return lambda page, figure: [
        float(number) for number in re.findall(r"-?\d+\.\d+", page.inner_text(f"{figure} .interactive-told"))
    ]
