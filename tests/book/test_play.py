"""The page "A face to play with": its faces against the renderer, its answers against Python, and its use."""

from __future__ import annotations

import gzip
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from fertools import Predictor
from fertools.paths import find_data

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request

PLAY = Path(__file__).parents[2] / "book" / "_static" / "play"
SIDE = 48
CHOICES: dict[str, Any] = json.loads((PLAY / "faces.json").read_text())
FIRST: dict[str, Any] = {
    "strength": 1,
    "yaw": 0,
    "light": 30,
    "blur": 0,
    "noise": 0,
    "person": 1,
    "expression": "happy",
    "cover": "none",
}
STATES: list[dict[str, Any]] = [
    {"person": 2, "expression": "anger", "strength": 0.625, "yaw": -15, "light": -60},
    {"person": 4, "expression": "surprise", "strength": 0.375, "light": 0, "cover": "sunglasses"},
    {"person": 5, "expression": "sad", "yaw": 30, "blur": 1.25, "cover": "hand"},
    {"person": 3, "strength": 0, "yaw": 15},
]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("play_faces", PLAY.parents[1] / "_tools" / "play_faces.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sheet(name: str) -> np.ndarray:
    """The tiles of a sheet, (rows, columns, 48, 48)."""
    levels = np.asarray(Image.open(PLAY / f"{name}.webp").convert("RGB"))[..., 0].astype(np.float32)
    rows, columns = (n // SIDE for n in levels.shape)
    return levels.reshape(rows, SIDE, columns, SIDE).swapaxes(1, 2)


def wanted(**changes: Any) -> np.ndarray:
    """The face of a state, as the page should compose it: float32 (48, 48)."""
    state = FIRST | changes
    column = CHOICES["yaws"].index(state["yaw"]) * len(CHOICES["lights"]) + CHOICES["lights"].index(state["light"])
    strength = CHOICES["strengths"].index(state["strength"])
    row = CHOICES["expressions"].index(state["expression"]) * 8 + strength if strength else 0
    face = sheet(f"faces-{state['person']}")[row, column]
    if state["cover"] != "none":
        cover = 2 * (CHOICES["covers"].index(state["cover"]) - 1)
        gray, opacity = sheet(f"covers-{state['person']}")[cover : cover + 2, column]
        face = gray + (1 - opacity / 255) * face
    blurred: np.ndarray = gaussian_filter(face, state["blur"], mode="nearest", truncate=3) if state["blur"] else face
    return blurred


# --- The images that are made ------------------------------------------------------------------------


def test_every_choice_has_its_tile_and_the_sheets_are_small(tool: ModuleType) -> None:
    columns, rows = len(tool.YAWS) * len(tool.LIGHTS), 1 + len(tool.EXPRESSIONS) * len(tool.STRENGTHS)
    assert (
        json.loads(
            json.dumps(
                {
                    "people": len(tool.PEOPLE),
                    "expressions": tool.EXPRESSIONS,
                    "strengths": (0.0, *tool.STRENGTHS),
                    "yaws": tool.YAWS,
                    "lights": tool.LIGHTS,
                    "covers": ("none", *tool.COVERS),
                }
            )
        )
        == CHOICES
    )
    for person in range(1, len(tool.PEOPLE) + 1):
        assert sheet(f"faces-{person}").shape[:2] == (rows, columns)
        assert sheet(f"covers-{person}").shape[:2] == (2 * len(tool.COVERS), columns)
    assert max(path.stat().st_size for path in PLAY.iterdir()) < 1e6
    assert sum(path.stat().st_size for path in PLAY.iterdir()) < 4e6


@pytest.mark.parametrize("state", STATES[:2])
def test_tiles_are_what_the_renderer_draws(tool: ModuleType, state: dict[str, Any]) -> None:
    """Within what WebP loses, and within what a flat cover does wrong at its edges."""
    pytest.importorskip("pyvista")
    folder = find_data("facekit")
    if not (folder / "ict_facekit_basis.npz").exists():
        pytest.skip("the face model isn't there")
    from fertools.render.head import FaceModel
    from fertools.render.paint import draw_person

    model = FaceModel.load(folder)
    full = FIRST | state
    person = draw_person(np.random.default_rng((77, tool.PEOPLE[full["person"] - 1])))
    drawn = tool.Atlas(model, person).face(*(full[k] for k in ("expression", "strength", "yaw", "light", "cover")))
    error = np.abs(wanted(**state) - drawn)
    assert error.mean() < 4
    assert np.quantile(error, 0.95) < 15


# --- The page ------------------------------------------------------------------------------------------


def started(chromium: Browser, served: str, width: int = 1280, **state: Any) -> Page:
    page = chromium.new_page(viewport={"width": width, "height": 844})
    page.goto(f"{served}book/play.html#{urlencode(state)}")
    page.click("#play-start")
    settled(page)
    return page


def settled(page: Page) -> None:
    """Waits until the sentence, the trail, and the address are about the state, however slow the machine is."""
    page.wait_for_selector("#play-trail[aria-busy=false]")
    for _ in range(300):
        if page.url.endswith(page.get_attribute("#play-link", "href") or "#"):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"after 30 s the address is still {page.url}")


@pytest.fixture
def page(chromium: Browser, served: str) -> Iterator[Page]:
    page = started(chromium, served, 390)
    yield page
    page.close()


@pytest.mark.parametrize("state", STATES)
def test_the_page_shows_and_answers_what_python_does(served: str, chromium: Browser, state: dict[str, Any]) -> None:
    page = started(chromium, served, **state)
    pixels = page.evaluate("[...document.querySelector('#play-face').getContext('2d').getImageData(0, 0, 48, 48).data]")
    shown = np.array(pixels, np.uint8).reshape(SIDE, SIDE, 4)[..., 0]
    assert np.abs(shown - wanted(**state)).max() <= 2
    predictor = Predictor.from_pretrained()
    (found,) = 100 * predictor.classify(shown[None])
    bars = [row.inner_text().split() for row in page.query_selector_all("#play-bars tr")]
    assert [name for name, *_ in bars] == list(predictor.classes)
    assert [float(value) for _, value, _ in bars] == pytest.approx(list(found), abs=0.6)
    unsure = found.max() < 100 * predictor.threshold
    assert page.inner_text("#play-label") == ("unsure" if unsure else predictor.classes[found.argmax()])
    # The trail along the strength: its end is the answer at full strength.
    (full,) = 100 * predictor.classify(np.rint(wanted(**{**state, "strength": 1}))[None].astype(np.uint8))
    told = page.get_attribute("#play-trail", "aria-label") or ""
    label, value = re.findall(r"100\s%: (\w+) (\d+)", told)[0]
    assert [float(value), full[predictor.classes.index(label)]] == pytest.approx([full.max()] * 2, abs=3)
    page.close()


def test_a_link_shows_the_same_face_and_nonsense_the_first(served: str, chromium: Browser) -> None:
    page = started(chromium, served, **STATES[1])
    link, label = page.get_attribute("#play-link", "href") or "", page.inner_text("#play-told")
    assert all(f"{name}={value}" in link for name, value in STATES[1].items())
    page.goto("about:blank")
    page.goto(f"{served}book/play.html{link}")
    page.click("#play-start")
    settled(page)
    assert page.inner_text("#play-told") == label
    page.close()
    for nonsense in (
        {"person": "<b>", "strength": 7, "cover": "constructor", "expression": "x" * 100_000},
        {"person": "NaN", "strength": "Infinity", "yaw": "1e999", "expression": "__proto__", "__proto__": "1"},
    ):
        page = started(chromium, served, **nonsense)
        assert page.url.endswith(f"#{urlencode(FIRST)}")
        page.close()


def test_a_link_to_a_heading_keeps_the_face(page: Page) -> None:
    page.check("[name=play-expression] >> nth=3")
    settled(page)
    told = page.inner_text("#play-told")
    page.evaluate("location.hash = 'what-to-try'")
    page.wait_for_timeout(600)
    assert page.url.endswith("#what-to-try")
    assert page.inner_text("#play-told") == told


def test_many_changes_write_few_addresses(page: Page) -> None:
    """Safari throws an error after 100 changes of the address within 30 seconds."""
    page.evaluate("() => { window.written = 0; history.replaceState = () => { window.written++; }; }")
    page.evaluate(
        """() => {
            const slider = document.querySelector("[name=play-yaw]");
            for (let i = 0; i < 300; i++) {
                slider.value = i % 5;
                slider.dispatchEvent(new Event("input"));
            }
        }"""
    )
    page.wait_for_selector("#play-trail[aria-busy=false]")
    page.wait_for_timeout(1500)  # almost four times as long as the page waits for another change
    assert page.evaluate("window.written") == 1
    assert "yaw=30" in (page.get_attribute("#play-link", "href") or "")


def test_a_person_that_could_not_be_loaded_can_be_chosen_again(page: Page) -> None:
    page.route("**/faces-2.webp", lambda route: route.abort())
    second = page.locator("[name=play-person]").nth(1)
    for press in (second, page.locator("#play-fool")):
        press.click()
        page.wait_for_selector("#play-status:has-text('could not be shown')")
        page.wait_for_timeout(300)
        assert "could not be shown" in page.inner_text("#play-status")  # and not "It was not fooled"
    page.unroute("**/faces-2.webp")
    second.click()
    page.wait_for_selector("#play-status:empty", state="attached")
    assert page.is_enabled("#play-fool")


def test_on_a_phone_the_face_stays_in_view(page: Page) -> None:
    page.locator("#play-fool").scroll_into_view_if_needed()
    bar, face = (page.locator(where).bounding_box() for where in (".bd-header-article", "#play-face"))
    assert bar
    assert face
    assert face["y"] >= bar["y"] + bar["height"] - 1
    assert face["y"] + face["height"] <= 844


def test_keyboard_on_a_phone(page: Page) -> None:
    assert page.evaluate("document.activeElement.name") == "play-person"
    page.keyboard.press("ArrowRight")
    page.focus("[name=play-light]")
    page.keyboard.press("ArrowRight")
    settled(page)
    assert "person=2" in page.url
    assert "light=60" in page.url
    assert "Light from" in page.inner_text("#play-trail-title")
    assert page.get_attribute("[name=play-light]", "aria-valuetext") == "60° right"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everyone_can_use_it(page: Page, theme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python")
    page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
    page.evaluate("Promise.allSettled(document.getAnimations().map(a => a.finished))")  # colors fade over
    page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text())
    found = page.evaluate("axe.run('.play', {resultTypes: ['violations']}).then(found => found.violations)")
    assert not [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")]


def test_what_fools_it_is_a_confident_mistake(page: Page) -> None:
    page.click("#play-fool")
    page.wait_for_selector("#play-fool:not([disabled])", timeout=60_000)
    settled(page)
    told = page.inner_text("#play-told")
    meant, found, p = re.findall(r"Rendered: (\w+).*The network: (\w+), (\d+)", told)[0]
    assert meant != found
    assert int(p) >= 55
    assert f"expression={meant}" in page.url


def test_a_failed_load_can_be_repeated(served: str, chromium: Browser) -> None:
    page = chromium.new_page()
    page.route("**/faces-1.webp", lambda route: route.abort())
    page.goto(f"{served}book/play.html")
    page.click("#play-start")
    page.wait_for_selector("#play-status:has-text('could not be loaded')")
    page.unroute("**/faces-1.webp")
    page.click("#play-start")
    settled(page)
    page.close()


def test_little_is_loaded_before_the_button_and_nothing_from_elsewhere(served: str, chromium: Browser) -> None:
    page = chromium.new_page()
    sizes: dict[str, int] = {}

    def note(request: Request) -> None:
        response = request.response()
        sizes[request.url] = len(gzip.compress(response.body())) if response and response.ok else 0

    page.on("requestfinished", note)
    page.goto(f"{served}book/play.html", wait_until="networkidle")
    before = sum(sizes.values())
    assert 0 < before < 1.5e6
    page.click("#play-start")
    settled(page)
    assert sum(sizes.values()) - before < 8.5e6
    assert all(address.startswith(served) for address in sizes)
    page.close()
