"""A Sphinx extension: the notebook behind a page, to download, and buttons that open it on Colab and Binder.

The theme offers notebooks for download only together with launch buttons, and those need the address of
the public repository. Here every page with cells has its download; the launch buttons appear if
``repository: url`` in ``_config.yml`` is set, since without it they would lead nowhere.

The scripts of Thebe, which no page uses, are left out: they were on each page twice, which is an error in
the browser.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config


def notebook(app: Sphinx, page: str) -> Path | None:
    """The ``.ipynb`` next to a page's source, without outputs; None for a page of prose."""
    twin = Path(app.srcdir, page).with_suffix(".ipynb")
    return twin if "kernelspec" in app.env.metadata.get(page, {}) and twin.exists() else None


def no_launch_without_repository(app: Sphinx, config: Config) -> None:
    options = config.html_theme_options
    if not options.get("repository_url"):
        options["launch_buttons"] = {}


def name_notebook(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Tells the theme's download button about the notebook."""
    if notebook(app, page):
        context["ipynb_source"] = f"{page}.ipynb"


def drop_thebe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    scripts = context["script_files"]
    context["script_files"] = [s for s in scripts if "thebe" not in f"{s.filename} {s.attributes.get('body')}".lower()]


def copy_notebooks(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html":
        for page in app.env.found_docs:
            if twin := notebook(app, page):
                target = Path(app.outdir, "_sources", f"{page}.ipynb")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(twin, target)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", no_launch_without_repository)
    app.connect("html-page-context", name_notebook)  # before the theme, whose buttons have priority 501
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("build-finished", copy_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
