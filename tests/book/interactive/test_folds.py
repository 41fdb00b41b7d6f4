"""Test frames and their nearest training frames, against distances that are computed anew."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest

from fertools.data import load
from fertools.data.faceset import FaceSet
from fertools.data.splits import kfold

if TYPE_CHECKING:
    from playwright.sync_api import Page

FIGURE = "#splits-neighbors"
Kind = Literal["image", "sequence", "subject"]


@pytest.fixture(scope="module")
def videos() -> FaceSet:
    return load("synthetic-sequences")


@pytest.fixture
def page(served: str, phone: Page) -> Page:
    phone.goto(served + "book/splits.html")
    phone.wait_for_selector(f"{FIGURE} .interactive")
    return phone


def choose(page: Page, kind: str, person: int, frame: int) -> str:
    page.click(f"{FIGURE} button[data-kind={kind}]")
    page.get_by_role("slider", name="Person").fill(str(person))
    page.get_by_role("slider", name="Frame").fill(str(frame))
    return page.inner_text(f"{FIGURE} .interactive-told")


@pytest.mark.parametrize(
    ("kind", "person", "frame"), [("image", 1, 2), ("sequence", 7, 1), ("subject", 7, 1), ("subject", 12, 3)]
)
def test_the_nearest_training_frame(page: Page, videos: FaceSet, kind: Kind, person: int, frame: int) -> None:
    told = choose(page, kind, person, frame)
    name = np.unique(videos.subjects)[person - 1]
    rows = [i for i in range(len(videos)) if videos.subjects[i] == name]  # type: ignore[index]
    row = sorted(rows, key=lambda i: videos.sequences[i])[frame - 1]  # type: ignore[index]
    right = np.empty(len(videos), bool)
    for train, test in kfold(videos, 10, by=kind, seed=0):
        for i in test:
            difference = videos.images[train].astype(float) - videos.images[i]
            distance = np.sqrt((difference**2).mean((1, 2)))
            found = train[distance.argmin()]
            right[i] = videos.labels[found] == videos.labels[i]
            if i == row:
                expected, nearest = distance.min(), found
    assert float(re.findall(r"([\d.]+) gray levels", told)[0]) == pytest.approx(expected, abs=0.06)
    assert float(re.findall(r"right on ([\d.]+)", told)[0]) == pytest.approx(100 * right.mean(), abs=0.06)
    assert f"its label is {videos.classes[videos.labels[nearest]]}," in told
    assert (", which is right" in told) == right[row]
    same = videos.sequences[nearest] == videos.sequences[row]  # type: ignore[index]
    assert ("of the same video" in told) == same
    assert ("of another person" in told) == (videos.subjects[nearest] != name)  # type: ignore[index]


def test_test_frames_stay_together_as_the_folds_say(page: Page) -> None:
    chosen = "[class~=interactive-test]"
    together = {
        kind: (choose(page, kind, 1, 1), page.locator(f"{FIGURE} {chosen}").count())[1] for kind in ("image", "subject")
    }
    of_first = page.get_by_role("slider", name="Frame").get_attribute("max")
    assert together["subject"] >= int(of_first or 0) > 1
    assert page.get_attribute(f"{FIGURE} button[data-kind=subject]", "aria-pressed") == "true"
    assert "With subject-independent folds" in (page.get_attribute(f"{FIGURE} svg", "aria-label") or "")


def test_a_click_and_the_keyboard_choose_a_frame(page: Page) -> None:
    page.locator(f"{FIGURE} svg rect").nth(5).click()
    before = (
        page.get_by_role("slider", name="Frame").input_value(),
        page.get_by_role("slider", name="Person").input_value(),
    )
    page.get_by_role("slider", name="Person").focus()
    page.keyboard.press("ArrowRight")
    after = page.get_by_role("slider", name="Person").input_value()
    assert int(after) == int(before[1]) + 1
    assert page.locator(f"{FIGURE} .interactive-chosen").count() == 1
