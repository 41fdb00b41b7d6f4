"""A Sphinx extension that keeps pages and site small.

Below the first screen, a page's images are loaded when the reader comes near them. And what no page loads isn't
published, such as MathJax's other forms, a quarter of the site.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

UNUSED = (
    "*.map",  # for those who debug the theme
    "mathjax/mml-*.js",
    "mathjax/tex-mml-*.js",
    "mathjax/tex-svg*.js",
    "mathjax/tex-chtml-full*.js",
)


def load_late(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    if app.builder.name == "html" and "body" in context:
        first, *others = context["body"].split("<img ")
        if others:
            context["body"] = "<img ".join([first, others[0], *(f'loading="lazy" {other}' for other in others[1:])])


def remove_unused(app: Sphinx, exception: Exception | None) -> None:
    if exception is None:
        for pattern in UNUSED:
            for path in (Path(app.outdir) / "_static").rglob(pattern):
                path.unlink()


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("html-page-context", load_late)
    app.connect("build-finished", remove_unused)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
