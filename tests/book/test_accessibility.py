"""The built pages in a browser, from a plain static server, without other hosts: `make check`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request, ViewportSize

HTML = Path(__file__).parents[2] / "_build" / "html"
PAGES = [str(page.relative_to(HTML)) for page in sorted(HTML.rglob("*.html")) if "_static" not in page.parts]
PAGES = [page for page in PAGES if page != "index.html"]  # redirects to the first chapter
COLORS = ["color-contrast", "link-in-text-block"]  # the other rules check what the themes share
# What has to be scrolled sideways to be read.
SCROLLS = """() => [...document.querySelectorAll("article *")].filter(e =>
  e.scrollWidth > e.clientWidth + 1 && ["auto", "scroll"].includes(getComputedStyle(e).overflowX)
  && !e.closest("mjx-assistive-mml")).map(e => e.textContent.trim().slice(0, 100))"""
PHONE: ViewportSize = {"width": 390, "height": 844}  # CSS pixels of a common phone


def opened(chromium: Browser, address: str) -> tuple[Page, list[str], list[str]]:
    """The page in the light theme, once its formulas are set; its requests to other hosts, and its script errors."""
    page = chromium.new_page(viewport={"width": 1280, "height": 844}, color_scheme="light")
    host = "/".join(address.split("/")[:3]) + "/"
    foreign: list[str] = []
    errors: list[str] = []

    def note(request: Request) -> None:
        if request.url.startswith(("http", "ws")) and not request.url.startswith(host):
            foreign.append(request.url)

    page.on("request", note)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address, wait_until="load")
    page.wait_for_function("!window.MathJax || MathJax.startup?.promise")
    page.evaluate("window.MathJax && MathJax.startup.promise")
    return page, foreign, errors


def serious(page: Page, rules: list[str]) -> list[dict[str, object]]:
    """What axe-core finds that is serious or worse, by these rules, or by all that it runs by itself."""
    options = {"resultTypes": ["violations"], **({"runOnly": rules} if rules else {})}
    violations = page.evaluate("options => axe.run(options).then(found => found.violations)", options)
    return [
        {"rule": v["id"], "help": v["help"], "where": [node["html"][:200] for node in v["nodes"][:5]]}
        for v in violations
        if v["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("name", PAGES)
def test_page_is_accessible_in_both_themes_offline_and_on_a_phone(served: str, chromium: Browser, name: str) -> None:
    axe = pytest.importorskip("axe_playwright_python")
    page, foreign, errors = opened(chromium, served + name)
    try:
        page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text())
        found = {"light": serious(page, [])}
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
        page.evaluate("Promise.allSettled(document.getAnimations().map(a => a.finished))")  # colors fade over
        found["dark"] = serious(page, COLORS)
        scrolls = page.evaluate(SCROLLS)
        page.set_viewport_size(PHONE)
        wide = page.evaluate("document.documentElement.scrollWidth")
    finally:
        page.close()
    assert not scrolls, f"{name}: wider than its column on a laptop"
    assert not any(found.values()), json.dumps(found, indent=1)
    assert wide <= PHONE["width"], f"{name} is {wide} pixels wide: what does not fit must scroll by itself"
    assert not foreign, "requested from other hosts"
    assert not errors, "errors in the page's scripts"


# An image from another host, a script from one, and `eval`: what the page's policy says to each.
FORBIDDEN = """async () => {
  const told = [];
  document.addEventListener("securitypolicyviolation", (event) => told.push(event.effectiveDirective));
  for (const tag of ["img", "script"]) {
    document.body.appendChild(Object.assign(document.createElement(tag), { src: "https://example.org/x" }));
  }
  setTimeout(() => { try { eval("1"); } catch { /* told as an event, too */ } }); // the driver's own code may use it
  await fetch("https://example.org/x").catch(() => {});
  await new Promise((done) => setTimeout(done, 200));
  return told.sort();
}"""


def test_the_browser_stops_what_comes_from_elsewhere(served: str, chromium: Browser) -> None:
    page, *_ = opened(chromium, served + "book/index.html")
    try:
        told = page.evaluate(FORBIDDEN)
    finally:
        page.close()
    assert told == ["connect-src", "img-src", "script-src", "script-src-elem"]


def test_search_finds_a_word_of_a_chapter(served: str, chromium: Browser) -> None:
    page, *_ = opened(chromium, served + "search.html?q=sigmoid")
    try:
        page.wait_for_selector("#search-results ul.search li a", timeout=20_000)
        assert page.locator("#search-results ul.search li a").count() > 0
    finally:
        page.close()
