"""Prints a built page to a PDF with the system's Chromium: the whole book on one page, or the summary to cite.

python book/_tools/pdf.py PAGE.html OUT.pdf
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def browser() -> str | None:
    """Where Chromium or Chrome is, if it is installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def print_page(page: Path, out: Path, executable: str) -> None:
    """Waits for the formulas, opens what is folded away, and prints on A4 with bookmarks and page numbers."""
    number = '<div style="width: 100%; text-align: center; font-size: 8pt"><span class="pageNumber"></span></div>'
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        tab = chromium.new_page(color_scheme="light")
        tab.goto(page.resolve().as_uri(), wait_until="load", timeout=300_000)
        tab.wait_for_function("!window.MathJax || MathJax.startup?.promise")  # it loads on its own time
        tab.evaluate("window.MathJax && MathJax.startup.promise")
        tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        tab.evaluate("document.querySelectorAll('img').forEach(i => { i.loading = 'eager' })")
        tab.evaluate("Promise.all([...document.images].map(i => i.decode().catch(() => {})))")
        # A short page needs no contents.
        tab.evaluate("document.querySelectorAll('#jb-print-toc').forEach(t => t.querySelector('ul ul') || t.remove())")
        tab.pdf(
            path=out,
            format="A4",
            scale=0.7,  # the theme's text is large on paper
            margin={"top": "12mm", "bottom": "14mm", "left": "16mm", "right": "16mm"},
            print_background=True,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=number,
            outline=True,
            tagged=True,
        )
        chromium.close()


if __name__ == "__main__":
    executable = browser()
    if executable is None:
        sys.exit(f"make pdf needs Chromium or Chrome: none of {', '.join(NAMES)} is on the PATH.")
    print_page(Path(sys.argv[1]), Path(sys.argv[2]), executable)
    print(f"Printed: {sys.argv[2]}")
