"""The decks: their figures and numbers are the chapters', nothing leaves a slide, and they can be printed."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from bs4 import BeautifulSoup

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BOOK = Path(__file__).parents[2] / "book"
DECKS = sorted((BOOK / "slides").glob("*.md"))
VENDOR = BOOK / "_static" / "slides" / "vendor"


@pytest.fixture(scope="module")
def slides() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BOOK / "_tools"))  # it imports its neighbor
    spec = importlib.util.spec_from_file_location("slides", BOOK / "_tools" / "slides.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["slides"] = module
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(BOOK / "_tools"))


def test_vendored_files_are_the_named_ones() -> None:
    sums = dict(line.split()[::-1] for line in (VENDOR / "SHA256SUMS").read_text().splitlines())
    assert sums == {name: hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() for name in sums}
    assert {path.name for path in VENDOR.iterdir()} == set(sums) | {"README.md", "SHA256SUMS", "LICENSE-MIT.txt"}


@pytest.mark.parametrize("deck", DECKS, ids=lambda deck: deck.stem)
def test_a_decks_figures_and_numbers_are_those_of_the_chapters(slides: ModuleType, deck: Path) -> None:
    title, found = slides.read(deck)
    assert title
    assert len(found) >= 15
    row = f'slides/{deck.stem}.html">{title}</a> | {1 + len(found)} |'  # with the title's own slide
    assert row in (BOOK / "labs" / "instructors.md").read_text()
    assert 4 <= sum(bool(slide.quiz) for slide in found) <= 2 / 3 * len(found)
    assert len(found) == len({(slide.page, slide.figure, slide.quiz, slide.headline) for slide in found})
    for slide in found:
        if slide.quiz:
            continue
        assert len(slide.headline.split()) <= 12, slide.headline
        assert len(slide.words.split()) <= 12, slide.words
        assert slide.notes.count(".") >= 1
        if not slide.figure:
            continue
        chapter = (BOOK / f"{slide.page}.md").read_text()
        assert f"name: {slide.figure}\n" in chapter, f"{slide.page}.md has no figure {slide.figure}"
        for number in re.findall(r"\d+\.\d+", f"{slide.headline} {slide.words} {slide.notes}"):
            assert number in chapter, f"{slide.page}.md doesn't have the {number} of {slide.headline!r}"


def test_what_is_missing_is_named(slides: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "a.html").write_text('<h1>A#</h1><div id="there"><img src="../_images/x.png" alt="<x>"></div>')
    deck = tmp_path / "deck.md"
    deck.write_text("# T\n\n---\nfigure: a#there\n## One *word*\nfew\n\nNotes: Say this.\n")
    (page,) = slides.make(tmp_path, tmp_path)
    text = page.read_text()
    assert '<img data-src="../_images/x.png" alt="&lt;x&gt;">' in text
    assert "<h2>One <em>word</em></h2>" in text
    deck.write_text("# T\n\n---\nfigure: a#elsewhere\n## One\n\nNotes: Say this.\n")
    with pytest.raises(ValueError, match=r"a.html has no figure elsewhere"):
        slides.make(tmp_path, tmp_path)
    deck.write_text("# T\n\n---\nquiz: a#1\n")
    with pytest.raises(ValueError, match=r"a.html has 0 questions, and no number 1"):
        slides.make(tmp_path, tmp_path)
    deck.write_text("# T\n\n---\n## One\n")
    with pytest.raises(ValueError, match=r"deck.md: expected figure, headline"):
        slides.make(tmp_path, tmp_path)


def opened(chromium: Browser, address: str) -> Page:
    page = chromium.new_page(viewport={"width": 1280, "height": 720})
    page.goto(address)
    page.wait_for_selector(".reveal.ready")
    return page


@pytest.mark.parametrize("deck", DECKS, ids=lambda deck: deck.stem)
def test_questions_and_their_right_choices_are_the_chapters(slides: ModuleType, built: Path, deck: Path) -> None:
    for slide in slides.read(deck)[1]:
        if not slide.quiz:
            continue
        drawn = BeautifulSoup(slides.draw(slide, built), "html.parser")
        source = (BOOK / f"{slide.page}.md").read_text().split("```{quiz} ")[slide.quiz]
        (right,) = re.findall(r"^- \[x\] (.*?) —", source.split("```")[0], re.MULTILINE | re.DOTALL)

        def words(text: str) -> str:
            return " ".join(re.sub(r"[*`$]", "", text).translate(str.maketrans("’“”", '\'""')).split())

        assert "\\(" not in drawn.get_text(), f"{slide.page}#{slide.quiz} has an equation, which a deck can't show"
        assert words(drawn.select_one("h2").get_text()) == words(source.splitlines()[0])
        assert words(drawn.select_one("ol:not(.notes ol) .right").get_text()) == words(right)
        assert len(drawn.select(".notes li")) == len(drawn.select(".fragment.right, section > ol > li"))


@pytest.mark.parametrize("deck", DECKS, ids=lambda deck: deck.stem)
def test_nothing_leaves_a_slide_and_every_picture_is_large(
    slides: ModuleType, built: Path, chromium: Browser, deck: Path
) -> None:
    page = opened(chromium, (built / "slides" / f"{deck.stem}.html").as_uri())  # from a disk
    _, found = slides.read(deck)
    for slide in found:
        page.keyboard.press("ArrowRight")
        page.evaluate("""Promise.all([...document.querySelectorAll("section.present img")].map(i => i.decode()))""")
        if slide.quiz:
            right = page.locator("section.present .right")
            assert right.count() == 1
            assert not re.search("visible", right.get_attribute("class") or "")
            page.keyboard.press("ArrowRight")
            assert re.search("visible", right.get_attribute("class") or "")
        else:
            assert page.inner_text("section.present h2") == re.sub(r"[*`]", "", slide.headline)
        outside = page.evaluate(
            """() => [...document.querySelectorAll("section.present *")].filter(e => !e.closest(".notes"))
                .filter(e => { const b = e.getBoundingClientRect();
                  return b.left < 0 || b.top < 0 || b.right > 1280.5 || b.bottom > 720.5; }).length"""
        )
        assert outside == 0, slide.headline
        if slide.figure:
            image = page.locator("section.present img")
            assert image.evaluate("i => i.naturalWidth") > 300
            assert (image.bounding_box() or {})["height"] > 380
    page.close()


def test_a_deck_can_be_printed(slides: ModuleType, built: Path, chromium: Browser) -> None:
    deck = DECKS[0]
    page = opened(chromium, (built / "slides" / f"{deck.stem}.html").as_uri() + "?print-pdf")
    page.wait_for_selector(".pdf-page")
    assert page.locator(".pdf-page").count() == 1 + len(slides.read(deck)[1])
    page.close()
