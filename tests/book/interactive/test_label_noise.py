"""Votes and probabilities for two labels, against the table that the page was made from."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from fertools.paths import find_data

if TYPE_CHECKING:
    from playwright.sync_api import Page

FIGURE = "#label-pairs"


@pytest.fixture
def page(served: str, phone: Page) -> Page:
    phone.goto(served + "book/expressions.html")
    phone.wait_for_selector(f"{FIGURE} .interactive")
    return phone


@pytest.mark.parametrize(("first", "second"), [("fear", "surprise"), ("neutral", "sad"), ("happy", "surprise")])
def test_a_pair(page: Page, first: str, second: str) -> None:
    page.get_by_label("First label").select_option(first)
    page.get_by_label("Second label").select_option(second)
    table = pd.read_csv(find_data("ferplus_pairs.csv"))
    rows = table[(table["first"] == first) & (table["second"] == second)]
    if rows.empty:  # the table has the other order
        rows = table[(table["first"] == second) & (table["second"] == first)]
        rows = rows.assign(votes=10 - rows["votes"], share=rows["images"] - rows["share"])
    told = page.inner_text(f"{FIGURE} .interactive-told")
    assert f"For {rows['images'].sum():,} test images" in told
    expected = []
    for votes in (10, 5, 0):
        of = rows[rows["votes"] == votes]
        expected += [100 * of["share"].sum() / of["images"].sum(), of["images"].sum()]
    found = [
        float(number.replace(",", ""))
        for pair in re.findall(r"([\d.]+)\s% on average \(([\d,]+) images\)", told)
        for number in pair
    ]
    assert found == pytest.approx(expected, abs=0.06)
    assert page.locator(f"{FIGURE} rect").count() == len(rows)


def test_keyboard_and_one_label_twice(page: Page) -> None:
    page.get_by_label("Second label").focus()
    page.keyboard.press("ArrowUp")
    assert page.get_by_label("Second label").input_value() == "surprise"
    page.get_by_label("First label").select_option("surprise")
    assert page.get_by_label("Second label").input_value() == "neutral"
